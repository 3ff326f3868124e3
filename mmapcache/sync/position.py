"""Where a change stream goes on: in the loader's state, in one commit with the data it belongs to.

    {"of": "3b1f…", "at": 1764400000.0, "tokens": {"shop": "hQAAAAJfZGF0YQ…"}, "stale": {}}

of: what was loaded (which collections, filters, …): with other options the position says nothing;
at: the server's time of the position; tokens: one resume token for each database, base64 of BSON;
stale: collections whose content is not the source's, and what a load for one is called.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mmapcache

_LATEST = 253402300800.0  # the year 10000, which no clock shows
_MARK = mmapcache.MAX_POSITION_BYTES  # that a mark may have
_LONGEST = 1 << 20  # bytes that it may come to


@dataclass(frozen=True, slots=True)
class Position:
    """A position of the change streams; `tokens` are BSON documents by database."""

    of: str
    at: float
    tokens: Mapping[str, bytes]
    stale: Mapping[str, str] = field(default_factory=dict)

    def packed(self) -> dict[str, Any]:
        """The same as a value of JSON."""
        tokens = {name: base64.b64encode(token).decode() for name, token in self.tokens.items()}
        return {"of": self.of, "at": self.at, "tokens": tokens, "stale": dict(self.stale)}

    def mark(self) -> bytes:
        """The same as bytes, for `Writer.mark`; a long one in less of them, as tokens are alike."""
        plain = json.dumps(self.packed(), separators=(",", ":")).encode()
        return plain if len(plain) <= _MARK else zlib.compress(plain)


def unpack(value: object) -> Position | None:
    """What `packed` made; None for anything else, as a file may hold anything."""
    if not isinstance(value, dict):
        return None
    try:
        tokens = {str(k): base64.b64decode(v, validate=True) for k, v in value["tokens"].items()}
        stale = {str(k): str(v) for k, v in value["stale"].items()}
        position = Position(str(value["of"]), float(value["at"]), tokens, stale)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, binascii.Error):
        return None
    return position if 0.0 <= position.at < _LATEST else None


def unmark(data: bytes) -> Position | None:
    """What `mark` made; None for anything else."""
    try:
        if data and not data.startswith(b"{"):
            data = zlib.decompressobj().decompress(data, _LONGEST)
        return unpack(json.loads(data)) if data else None
    except (ValueError, RecursionError, zlib.error):
        return None
