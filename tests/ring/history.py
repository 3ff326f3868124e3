"""What clients did and saw, and whether that can have been with what the ring promises.

An event is one operation: when it began and ended, by a clock that all processes share, and what
came of it. Values are unique. A write is *sure* when it was acknowledged with two copies; or with
one, while a holder of its key stood still for longer than the fence, as that holder counts as dead:
what was queued for it is neither executed nor answered from what it held.

- No read returns a value that was never written.
- No read returns what is older than a sure write that had ended before the read began: the value of
  a write (or the absence that a deletion left) which had ended before the sure one began.
- No read misses when a sure write had ended before it began, and no deletion can have come after.
- A deleted key does not come back: the second rule with a sure deletion.

`lost` says when two nodes had lost what they held at the same time: what was written before such a
moment is bound to nothing.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Event:
    """
    :param what: "set", "delete" or "get"
    :param value: that was written or read; None: a deletion, or a miss
    :param copies: that the write was acknowledged with; 0: its outcome is unknown
    """

    what: str
    key: str
    value: str | None
    began: float
    ended: float
    copies: int = 0
    degraded: bool = False
    who: str = ""

    @property
    def is_sure(self) -> bool:
        return self.copies >= 2 and not self.degraded


@dataclass(frozen=True, slots=True)
class Stand:
    """A node stood still for longer than its fence.

    :param keys: that it was a holder of
    """

    began: float
    ended: float
    keys: frozenset[str]

    def makes_sure(self, write: Event) -> bool:
        """Whether the other holder alone was to take it."""
        return bool(
            write.copies
            and write.key in self.keys
            and self.began <= write.began
            and write.ended <= self.ended
        )


def load(paths: Iterable[Path]) -> Iterator[Event]:
    """Events as `line` wrote them. A write was written down twice, before it and after it: of two
    lines of the same `who` the later one counts. The last line of a killed writer may be half."""
    for path in paths:
        events = {}
        for text in path.read_text().splitlines():
            try:
                event = Event(*json.loads(text))
            except (ValueError, TypeError):
                continue
            events[event.who] = event
        yield from events.values()


def line(event: Event) -> str:
    """An event as a line of a file."""
    return json.dumps([getattr(event, name) for name in Event.__dataclass_fields__]) + "\n"


def wrongs(
    events: Iterable[Event], lost: Sequence[float] = (), stands: Sequence[Stand] = ()
) -> list[str]:
    """What cannot have been, in sentences."""
    by_key: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_key[event.key].append(event)
    found = []
    for key in sorted(by_key):
        writes = [each for each in by_key[key] if each.what != "get"]
        judge = _Judge(writes, sorted(lost), [each for each in stands if key in each.keys])
        reads = [each for each in by_key[key] if each.what == "get"]
        found += [text for read in reads if (text := judge.wrong(read))]
    return found


class _Judge:
    """The writes of one key, in orders that make each question quick."""

    def __init__(
        self, writes: Sequence[Event], lost: Sequence[float], stands: Sequence[Stand]
    ) -> None:
        self._lost = lost
        self._values = {each.value: each for each in writes if each.value is not None}
        sure = sorted(
            (w for w in writes if w.is_sure or any(stand.makes_sure(w) for stand in stands)),
            key=lambda each: each.ended,
        )
        self._sure_ended = [each.ended for each in sure]
        # Of those that had ended by then, the one that began last.
        self._newest: list[Event] = list(accumulate(sure, _later))
        deleted = sorted((w for w in writes if w.value is None), key=lambda each: each.began)
        self._deleted_began = [each.began for each in deleted]
        ends = (each.ended if each.copies else math.inf for each in deleted)
        self._deleted_ended = list(accumulate(ends, max))

    def wrong(self, read: Event) -> str:
        """Why the read cannot have been; empty: it can."""
        origin = None if read.value is None else self._values.get(read.value)
        if read.value is not None and (origin is None or origin.began >= read.ended):
            return f"{read.key}: {read.value} was read and never written: {read}"
        place = bisect_left(self._sure_ended, read.began)
        if not place:
            return ""
        over = self._newest[place - 1]
        after = bisect_left(self._lost, read.ended)
        if after and over.began <= self._lost[after - 1]:
            return ""
        # An origin that ended before the sure write began is older than it.
        if origin is not None:
            if not origin.copies or origin.ended >= over.began:
                return ""
        else:
            deletions = bisect_left(self._deleted_began, read.ended)
            if deletions and self._deleted_ended[deletions - 1] >= over.began:
                return ""
        what = "a miss" if read.value is None else read.value
        return f"{read.key}: {what} was read by {read.who} at {read.began:.3f}, after {over}"


def _later(one: Event, other: Event) -> Event:
    return other if other.began > one.began else one
