"""What the loader counts over the life of its file, beyond its own: in the file's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import mmapcache

# Why everything was read: the first load, no change streams, an operator's check, and what ends a
# stream's position.
REASONS = (
    "initial",
    "poll",
    "verify",
    "history_lost",
    "invalidated",
    "dropped",
    "renamed",
    "bad_token",
    "oversized",
    "refused",
    "behind",
)


class Tally:
    """Counts, begun where the file's last loader ended; `values` are arguments of a report."""

    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.events = 0
        self.disconnects = 0
        self.position_at = 0.0
        self._fresh = True

    def resume(self, writer: mmapcache.Writer) -> None:
        """Goes on from what the file says; for the first file, plus what happened before it."""
        if not self._fresh:
            self.loads, self.errors = Counter(), Counter()
            self.events = self.disconnects = 0
        self._fresh = False
        status = writer.status()
        self.loads.update(status["loads"])
        self.errors.update(status["errors"])
        self.events += status["events"]
        self.disconnects += status["disconnects"]

    def error(self, code: str | None) -> None:
        """Counts what went wrong, if it has a name."""
        if code is not None:
            self.errors[code] += 1

    def broken(self, codes: Iterable[str]) -> None:
        """Counts streams that broke, by what broke them."""
        for code in codes:
            self.disconnects += 1
            self.errors[code] += 1

    def values(self) -> dict[str, Any]:
        """Keyword arguments for `Writer.report`."""
        return {
            "loads": dict(self.loads),
            "errors": dict(self.errors),
            "events": self.events,
            "disconnects": self.disconnects,
            "position_at": self.position_at,
        }
