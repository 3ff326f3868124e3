"""The lines of an oplog, and the tokens that say where in it a stream is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bson.timestamp import Timestamp

Key = tuple[int, int, int, int]  # seconds, increment, which of a transaction, and one of:
MARK, EVENT, SECOND, INVALIDATE = 0, 1, 2, 3  # nothing yet, the event, its other half, the end


@dataclass
class Entry:
    """One line of the oplog.

    :param event: what a stream says of it, or None for a no-op
    :param oversized: no reply can hold the event whole
    """

    seconds: int
    increment: int
    index: int = 0
    event: dict[str, Any] | None = None
    oversized: bool = False

    @property
    def time(self) -> Timestamp:
        return Timestamp(self.seconds, self.increment)

    def key(self, kind: int) -> Key:
        return (self.seconds, self.increment, self.index, kind)


def token(key: Key) -> dict[str, str]:
    """A resume token; those that came later are greater."""
    return {"_data": "82{:08X}{:08X}{:08X}{:02X}".format(*key)}


def key_of(resume: Any) -> Key | None:
    """What a token means, or None: this server never gave it."""
    try:
        data = resume["_data"]
        numbers = [int(data[a:b], 16) for a, b in ((2, 10), (10, 18), (18, 26), (26, 28))]
        key: Key = (numbers[0], numbers[1], numbers[2], numbers[3])
    except (KeyError, TypeError, ValueError):
        return None
    return key if token(key) == dict(resume) else None
