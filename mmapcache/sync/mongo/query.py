"""find's filter and projection: Extended JSON or what TOML made of a table, in BSON's types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmapcache.sync.errors import UsageError
from mmapcache.sync.options import CollectionOptions


def make_query(options: CollectionOptions) -> dict[str, Any]:
    """find's filter and projection, in BSON's types."""
    query: dict[str, Any] = {}
    for key in ("filter", "projection"):
        value = getattr(options, key)
        if value is not None:
            query[key] = checked(value, f"{key} of {options.name}")
    if "_id" in query.get("projection", {}) and not query["projection"]["_id"]:
        raise UsageError(f"projection of {options.name}: _id is the key and cannot be left out")
    return query


def checked(value: Mapping[str, Any] | str, what: str) -> dict[str, Any]:
    """In BSON's types.

    :param what: to be named in the message
    :raises UsageError: it is no Extended JSON, or has no BSON: told now, not at each load
    """
    import bson
    from bson.errors import BSONError

    try:
        document = _from_extended_json(value)
        bson.encode(document)
    except (BSONError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise UsageError(f"{what}: {error}") from None
    return document


def _from_extended_json(value: Mapping[str, Any] | str) -> dict[str, Any]:
    from bson import json_util

    if isinstance(value, str):
        parsed: dict[str, Any] = json_util.loads(value)
        return parsed

    def convert(item: Any) -> Any:
        if isinstance(item, list):
            return [convert(element) for element in item]
        if isinstance(item, Mapping):
            return json_util.object_hook({k: convert(v) for k, v in item.items()})
        return item  # TOML's own dates and numbers are BSON's too

    return {key: convert(item) for key, item in value.items()}
