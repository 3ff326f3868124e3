"""How long to wait: before trying a failing source again, and between two refreshes."""

from __future__ import annotations

import random

JITTER = 0.1  # of an interval


class Backoff:
    """Exponential, with jitter: the n-th delay is drawn from [d/2, d], d = first * 2**n up to last.

    The jitter keeps the loaders of a whole fleet from knocking at the same instant on a database
    that has just come back.

    :param first: seconds, upper end of the first delay
    :param last: seconds, upper end of every later delay
    :param dice: another source of the jitter, for tests
    """

    def __init__(
        self, first: float = 0.5, last: float = 30.0, dice: random.Random | None = None
    ) -> None:
        self._first = first
        self._last = last
        self._dice = dice or random.Random()
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        ceiling = min(self._last, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._dice.uniform(ceiling / 2, ceiling)

    def reset(self) -> None:
        """The source answered: the next failure is a first one again."""
        self._failures = 0

    def interval(self, seconds: float) -> float:
        """Seconds to wait after a success: up to a tenth less than asked for.

        Loaders of many hosts that were started by the same deployment drift apart that way.
        """
        return seconds * (1 - JITTER * self._dice.random())
