"""A strict comparison of what a Document gives with what bson gives."""

from __future__ import annotations

import math
from typing import Any

import mmapcache


def same(ours: object, theirs: object) -> bool:
    """Equal in value and in type, all the way down.

    A Document stands for a dict, an Array for a list, int for bson's Int64; a NaN equals a NaN.
    """
    if isinstance(theirs, dict):
        return (
            type(ours) in (dict, mmapcache.Document)
            and isinstance(ours, (dict, mmapcache.Document))
            and list(ours) == list(theirs)
            and all(same(ours[name], theirs[name]) for name in theirs)
        )
    if isinstance(theirs, list):
        return (
            isinstance(ours, (list, mmapcache.Array))
            and len(ours) == len(theirs)
            and all(same(a, b) for a, b in zip(ours, theirs, strict=True))
        )
    if isinstance(theirs, int) and type(theirs).__name__ == "Int64":
        return type(ours) is int and ours == theirs
    if isinstance(theirs, float) and isinstance(ours, float) and math.isnan(theirs):
        return math.isnan(ours)
    return type(ours) is type(theirs) and (ours == theirs or _both_nan(ours, theirs))


def _both_nan(ours: Any, theirs: Any) -> bool:
    return type(ours).__name__ == "Decimal128" and ours.bid == theirs.bid
