"""MongoDB's times (seconds, and a count within one) as numbers that grow with them."""

from __future__ import annotations

from typing import Any


def number(timestamp: Any) -> int:
    """A bson Timestamp as a number.

    :raises AttributeError: it is something else
    """
    return int(timestamp.time << 32 | timestamp.inc)


def if_known(timestamp: Any) -> int:
    """The same; 0 for None."""
    return 0 if timestamp is None else number(timestamp)


def seconds(number: int) -> float:
    """The seconds of such a number."""
    return float(number >> 32)


def timestamp(number: int) -> Any:
    """The Timestamp of such a number."""
    from bson.timestamp import Timestamp

    return Timestamp(number >> 32, number & 0xFFFFFFFF)
