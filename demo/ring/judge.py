"""What a reader may see, for keys that one client alone writes.

The values of a key are the numbers of its writes. While faults happen a read has to show the last
write that was acknowledged with all copies, or a later one; afterwards, at rest, the last write
that was acknowledged at all, or a later one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

COPIES: Final = {"ring": 2, "naive": 2, "nutcracker": 1}  # that each store keeps of a value


class Verdict(enum.Enum):
    """Of one read."""

    RIGHT = "right"
    LOST = "lost"
    WRONG = "wrong"  # older, or never written


class Judge:
    """
    :param keys: all of them, each written with number 0 to all holders
    :param copies: that the store keeps
    """

    def __init__(self, keys: Iterable[str], copies: int) -> None:
        self._copies = copies
        self._begun = dict.fromkeys(keys, 0)
        self._acknowledged = dict(self._begun)
        self._sure = dict(self._begun)

    def begin(self, key: str) -> int:
        """The number to write next."""
        self._begun[key] += 1
        return self._begun[key]

    def acknowledged(self, key: str, number: int, copies: int) -> bool:
        """The write was taken; whether by all holders."""
        self._acknowledged[key] = number
        if copies < self._copies:
            return False
        self._sure[key] = number
        return True

    def verdict(self, key: str, number: int | None, *, at_rest: bool = False) -> Verdict:
        """Of what a read has shown; None: the store had no value."""
        if number is None:
            return Verdict.LOST
        least = self._acknowledged if at_rest else self._sure
        right = least[key] <= number <= self._begun[key]
        return Verdict.RIGHT if right else Verdict.WRONG
