"""Operations as steps, and several of them whose commands travel together."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from mmapcache.ring.view import Peer

_T = TypeVar("_T")
Ask = tuple[Peer, bytes, int]  # whom, the bytes, and how many replies; more than one are a list
# What an operation yields and returns: see core.py.
Steps = Generator[tuple[Ask, ...] | float, Any, _T]

_AT_ONCE = 512  # operations that are under way at once


def together(operations: Iterable[Steps[_T]]) -> Steps[list[_T]]:
    """The results of independent operations whose commands travel together.

    An operation that fails raises here once all have ended: the first such error.
    """
    results: list[Any] = []
    failure: Exception | None = None
    pending = list(operations)
    for begin in range(0, len(pending), _AT_ONCE):
        some = pending[begin : begin + _AT_ONCE]
        ends = yield from _abreast(some)
        for end in ends:
            if isinstance(end, _Failed):
                failure = failure or end.error
            results.append(end)
    if failure is not None:
        raise failure
    return results


class _Failed:
    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def _abreast(operations: Sequence[Steps[Any]]) -> Steps[list[Any]]:
    ends: list[Any] = [None] * len(operations)
    answers: dict[int, list[Any] | None] = dict.fromkeys(range(len(operations)))
    while answers:
        asking: dict[int, tuple[Ask, ...]] = {}
        waiting: dict[int, float] = {}
        for index, answer in answers.items():
            try:
                step = operations[index].send(answer)
            except StopIteration as end:
                ends[index] = end.value
            except Exception as error:  # such as of bytes that are no UTF-8
                ends[index] = _Failed(error)
            else:
                if isinstance(step, tuple):
                    asking[index] = step
                else:
                    waiting[index] = step
        answers = dict.fromkeys(waiting)
        if asking:
            answers |= yield from _exchange(asking)
        elif waiting:
            yield min(waiting.values())
    return ends


def _exchange(asking: Mapping[int, tuple[Ask, ...]]) -> Steps[dict[int, list[Any] | None]]:
    """Sends what all of them ask as one packet to each node, and gives each its replies."""
    packets: dict[Peer, list[tuple[int, int, bytes, int]]] = {}
    for index, asks in asking.items():
        for place, (peer, data, count) in enumerate(asks):
            packets.setdefault(peer, []).append((index, place, data, count))
    joined = tuple(
        (peer, b"".join([part[2] for part in parts]), sum(part[3] for part in parts))
        for peer, parts in packets.items()
    )
    answers: dict[int, list[Any] | None] = {i: [None] * len(asks) for i, asks in asking.items()}
    for (parts, (_, _, total)), reply in zip(
        zip(packets.values(), joined, strict=True), (yield joined), strict=True
    ):
        position = 0
        for index, place, _, count in parts:
            mine = answers[index]
            assert mine is not None
            if isinstance(reply, Exception) or total == 1:
                mine[place] = reply
            else:
                mine[place] = reply[position] if count == 1 else reply[position : position + count]
            position += count
    return answers
