"""What makes two values one `_id`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import mmapcache


def identity(value: Any) -> Any:
    """Something hashable that is equal for what MongoDB takes for one `_id`.

    Numbers compare by value, whatever their type; bools are no numbers, unlike in Python. PyMongo
    and `mmapcache.Document` may have decoded a UUID or a date with different options.
    """
    kind = type(value)
    if kind is str or kind is int:
        return value
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if value == value else ("number", "NaN")
    if isinstance(value, Mapping):
        return ("document", tuple((name, identity(item)) for name, item in value.items()))
    if isinstance(value, (list, tuple)) or kind is mmapcache.Array:
        return ("array", tuple(identity(item) for item in value))
    if kind.__name__ == "Decimal128":
        number = value.to_decimal()
        return ("number", "NaN") if number.is_nan() else number
    if isinstance(value, bytes):
        subtype = getattr(value, "subtype", 0)
        if subtype == 4 and len(value) == 16:
            return ("UUID", uuid.UUID(bytes=bytes(value)))
        return ("bytes", subtype, bytes(value))
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(timezone.utc).replace(tzinfo=None)
    try:
        hash(value)
    except TypeError:
        return (kind.__name__, repr(value))
    return (kind.__name__, value)


def mark(value: Any) -> int:
    """A number for each `_id`, the same for what is one, which takes less room than it."""
    one = identity(value)
    return -1 if one == -1 else hash(one)  # Python gives -1 the hash of -2, and nothing -1
