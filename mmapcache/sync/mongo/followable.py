"""What no change stream tells: such a collection is right only as long as it is read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOVING = frozenset({"$$NOW", "$$CLUSTER_TIME", "$rand", "$sampleRate"})  # another value each time


def obstacle(query: Mapping[str, Any], entry: Mapping[str, Any] | None) -> str:
    """Why a collection cannot be followed; empty when it can.

    :param query: its filter and projection
    :param entry: what `listCollections` says of it; None when nobody may ask
    """
    entry = entry or {}
    kind = entry.get("type", "collection")
    if kind != "collection":
        return f"its changes are not told, as it is a {kind}"
    if (entry.get("options") or {}).get("capped"):
        return "what falls out of it is not told, as it is capped"
    moving = sorted(_MOVING.intersection(_words([query])))
    if moving:
        return f"{', '.join(moving)} makes another answer without any change"
    projection = query.get("projection", {})
    whole = isinstance(projection.get("_id", 1), (bool, int, float))
    if not whole or any(field.startswith("_id.") for field in projection):
        return "its projection makes another _id than the one that changes are told of"
    return ""


def _words(value: Any) -> set[str]:
    """All keys and texts in a value."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        return set(value).union(*map(_words, value.values()))
    return set().union(*map(_words, value)) if isinstance(value, (list, tuple)) else set()
