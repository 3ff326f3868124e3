"""What the loader writes into the file's history of rounds, so that its status has a past.

A load, a verification and a failure are a record each, at once. What may happen many times a second
(commits of a followed stream, polls that change nothing, the same failure again) is added up, and
is a record for each minute in which there was some: a few hundred records reach back for hours.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import mmapcache

SUM = 60.0  # seconds that one record adds up


@dataclass(slots=True)
class _Entry:
    """Rounds of one kind: `began` and `until` by time.monotonic."""

    reason: str
    error: str
    began: float
    until: float
    rounds: int = 0
    put: int = 0
    deleted: int = 0
    bytes: int = 0


class Diary:
    """Collects and writes; every method may be called without a writer, which loses the record."""

    def __init__(self) -> None:
        self._writer: mmapcache.Writer | None = None
        self._sum: _Entry | None = None
        self._failure = ("", "")  # the reason and text that were written last

    def of(self, writer: mmapcache.Writer) -> None:
        """From now on into this writer's file."""
        self._writer = writer

    def loaded(
        self, reason: str, seconds: float, *, put: int, deleted: int, bytes_read: int, error: str
    ) -> None:
        """A load or a verification, which took so many seconds until now."""
        self.flush()
        self._failure = ("", "")
        now = time.monotonic()
        entry = _Entry(reason, error, now - seconds, now, 1, put, deleted, bytes_read)
        self._write(entry)

    def unchanged(self, reason: str, seconds: float, *, bytes_read: int) -> None:
        """A load of many that changed nothing."""
        self._failure = ("", "")
        self._add(reason, "", time.monotonic() - seconds, bytes_read=bytes_read)

    def followed(self, put: int, deleted: int, bytes_read: int) -> None:
        """A burst of changes, published just now."""
        self._failure = ("", "")
        self._add("follow", "", time.monotonic(), put=put, deleted=deleted, bytes_read=bytes_read)

    def failed(self, reason: str, error: str, seconds: float = 0.0) -> None:
        """A round that published nothing; the first of a kind is written at once."""
        if self._failure == (reason, error):
            self._add(reason, error, time.monotonic() - seconds)
            return
        self.loaded(reason, seconds, put=0, deleted=0, bytes_read=0, error=error)
        self._failure = (reason, error)

    def tick(self) -> None:
        """Writes what was added up, when its minute is over."""
        if self._sum is not None and time.monotonic() - self._sum.began >= SUM:
            self.flush()

    def flush(self) -> None:
        """Writes what was added up so far."""
        entry, self._sum = self._sum, None
        if entry is not None:
            self._write(entry)

    def _add(
        self,
        reason: str,
        error: str,
        began: float,
        *,
        put: int = 0,
        deleted: int = 0,
        bytes_read: int = 0,
    ) -> None:
        entry = self._sum
        if entry is not None and (
            (entry.reason, entry.error) != (reason, error) or began - entry.began >= SUM
        ):
            self.flush()
            entry = None
        if entry is None:
            entry = self._sum = _Entry(reason, error, began, began)
        entry.until = time.monotonic()
        entry.rounds += 1
        entry.put += put
        entry.deleted += deleted
        entry.bytes += bytes_read

    def _write(self, entry: _Entry) -> None:
        """The history is for people: a file that takes none of it is no reason to stop."""
        if self._writer is None:
            return
        with contextlib.suppress(mmapcache.MmapCacheError, OSError):
            self._writer.record(
                entry.reason,
                started=max(0.0, time.time() - (time.monotonic() - entry.began)),
                seconds=max(0.0, entry.until - entry.began),
                put=entry.put,
                deleted=entry.deleted,
                bytes=entry.bytes,
                rounds=entry.rounds,
                error=entry.error,
            )
