"""What a write returns: how many copies were taken, and whether that is fewer than it should be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a write; true when at least one copy was taken.

    :param copies: holders that have it now
    :param degraded: a holder has not: it could not be reached, or it is full. What it missed is
        recorded beside the copy, for the agents
    """

    copies: int
    degraded: bool

    def __bool__(self) -> bool:
        return self.copies > 0


@dataclass(frozen=True, slots=True)
class Changed(Written):
    """What `delete` and `expire` return. False when there was no key to expire.

    :param existed: there was a value
    """

    existed: bool

    def __bool__(self) -> bool:
        return self.copies > 0


class Number(int):
    """What `incr`, `incrby` and `decr` return: the new number, with `copies` and `degraded`."""

    copies: int
    degraded: bool

    def __new__(cls, value: int, copies: int, degraded: bool) -> Number:
        made = super().__new__(cls, value)
        made.copies = copies
        made.degraded = degraded
        return made

    def __getnewargs__(self) -> tuple[int, int, bool]:  # type: ignore[override]
        return int(self), self.copies, self.degraded
