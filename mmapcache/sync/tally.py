"""What the loader counts over the life of its file, beyond its own: in the file's report."""

from __future__ import annotations

from collections import Counter
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

    def resume(self, writer: mmapcache.Writer) -> None:
        """Goes on from what the file says, plus what was counted while no file was open."""
        status = writer.status()
        self.loads.update(status["loads"])
        self.errors.update(status["errors"])
        self.events += status["events"]
        self.disconnects += status["disconnects"]

    def values(self) -> dict[str, Any]:
        """Keyword arguments for `Writer.report`."""
        return {
            "loads": dict(self.loads),
            "errors": dict(self.errors),
            "events": self.events,
            "disconnects": self.disconnects,
            "position_at": self.position_at,
        }
