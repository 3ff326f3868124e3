"""When two nodes had lost what they held at the same time, by what the servers have logged.

A node loses what it holds when it is killed, and when it begins another life for a reason that
the promises name; it has it again when it says that it is filled. One that stood still counts from
then on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime

_LINE = re.compile(r"\d+:M (\d+ \w{3} \d{4} [\d:.]+) . <ring> (.*)")
_STOOD = re.compile(r"the server stood still for (\d+) ms")
_LIFE = re.compile(r"(.*): life \d+ of node \S+ begins")
_FILLED = re.compile(r"life \d+ of node \S+ is filled")
# Why a node may throw away what it holds; a kill is told apart. Any other reason excuses nothing.
_LOSSES = (
    "others may have gone on without it",
    "a step of a change was taken without the node",
    "the data was flushed",
)


def _timed(log: str) -> Iterable[tuple[float, str]]:
    for line in log.splitlines():
        if match := _LINE.fullmatch(line):
            yield datetime.strptime(match[1], "%d %b %Y %H:%M:%S.%f").timestamp(), match[2]


def spans(
    log: str, kills: Iterable[float], whole: Iterable[float], ahead: float = 0
) -> list[tuple[float, float]]:
    """From when to when a node was without what it held; seconds since 1970.

    :param log: of its server
    :param kills: when it was killed
    :param whole: when all nodes of the ring were seen to be ready, this one or not one of them
    :param ahead: seconds that the log's clock is ahead of the others
    """
    begins, ends = list(kills), list(whole)
    still = 0.0
    for logged_at, text in _timed(log):
        at = logged_at - ahead
        if match := _STOOD.match(text):
            still = int(match[1]) / 1000
        elif match := _LIFE.match(text):
            if match[1] in _LOSSES:
                begins.append(at - still)
            still = 0.0
        elif _FILLED.match(text):
            ends.append(at)
    return [
        (begin, min((end for end in ends if end > begin), default=math.inf))
        for begin in sorted(begins)
    ]


def both(nodes: Mapping[str, Iterable[tuple[float, float]]]) -> list[float]:
    """The moments at which a node lost what it held while another one was without it."""
    every = [(begin, end, name) for name, found in nodes.items() for begin, end in found]
    return sorted(
        begin
        for begin, _, name in every
        if any(other != name and since <= begin < end for since, end, other in every)
    )
