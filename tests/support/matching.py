"""The little of MongoDB's query language that the tests' servers need; the rest is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MISSING = object()


class UnsupportedError(Exception):
    """An operator or a stage that nobody has needed so far."""


def same(one: Any, other: Any) -> bool:
    """Equality as MongoDB means it: 1 is 1.0, but not true; null is also what is missing."""
    if one is MISSING or other is MISSING:
        return one in (MISSING, None) and other in (MISSING, None)
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def at(document: Any, path: str) -> Any:
    """The value at a dotted path, or MISSING; arrays are not looked into."""
    for part in path.split("."):
        if not isinstance(document, Mapping) or part not in document:
            return MISSING
        document = document[part]
    return document


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": same,
    "$ne": lambda value, wanted: not same(value, wanted),
    "$in": lambda value, wanted: any(_is_or_like(value, item) for item in wanted),
    "$nin": lambda value, wanted: not any(_is_or_like(value, item) for item in wanted),
    "$exists": lambda value, wanted: (value is not MISSING) is bool(wanted),
    "$not": lambda value, wanted: not _passes(value, wanted),
    "$gt": lambda value, wanted: _comparable(value, wanted) and value > wanted,
    "$gte": lambda value, wanted: _comparable(value, wanted) and value >= wanted,
    "$lt": lambda value, wanted: _comparable(value, wanted) and value < wanted,
    "$lte": lambda value, wanted: _comparable(value, wanted) and value <= wanted,
}


def _comparable(value: Any, wanted: Any) -> bool:
    numbers = (int, float)
    both = isinstance(value, numbers) and isinstance(wanted, numbers)
    return both or (value is not MISSING and type(value) is type(wanted))


def _is_or_like(value: Any, wanted: Any) -> bool:
    pattern = wanted.try_compile() if hasattr(wanted, "try_compile") else wanted
    if isinstance(pattern, re.Pattern):
        return isinstance(value, str) and pattern.search(value) is not None
    return same(value, wanted)


def _passes(value: Any, condition: Any) -> bool:
    if not (isinstance(condition, Mapping) and any(key.startswith("$") for key in condition)):
        return _is_or_like(value, condition)
    if "$regex" in condition:
        flags = re.IGNORECASE if "i" in condition.get("$options", "") else 0
        pattern = condition["$regex"]
        if not isinstance(pattern, str):
            pattern = pattern.pattern
        if not (isinstance(value, str) and re.search(pattern, value, flags)):
            return False
    for operator, wanted in condition.items():
        if operator in ("$regex", "$options"):
            continue
        if operator not in _TESTS:
            raise UnsupportedError(f"the operator {operator}")
        if not _TESTS[operator](value, wanted):
            return False
    return True


def matches(document: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Whether a document passes a query."""
    for key, condition in query.items():
        if key == "$and":
            passes = all(matches(document, part) for part in condition)
        elif key == "$or":
            passes = any(matches(document, part) for part in condition)
        elif key == "$nor":
            passes = not any(matches(document, part) for part in condition)
        elif key == "$comment":
            passes = True
        elif key.startswith("$"):
            raise UnsupportedError(f"the operator {key}")
        else:
            passes = _passes(at(document, key), condition)
        if not passes:
            return False
    return True


def project(document: Mapping[str, Any], projection: Mapping[str, Any]) -> dict[str, Any]:
    """What a projection of whole top-level fields leaves of a document."""
    fields = {key: value for key, value in projection.items() if key != "_id"}
    if any("." in key or value not in (0, 1) for key, value in fields.items()):
        raise UnsupportedError(f"the projection {dict(projection)}")
    keeps_id = bool(projection.get("_id", True))
    if any(fields.values()) or (not fields and projection.get("_id")):
        kept = {key: value for key, value in document.items() if fields.get(key)}
        identity = {"_id": document["_id"]} if keeps_id and "_id" in document else {}
        return identity | kept
    dropped = set(fields) | (set() if keeps_id else {"_id"})
    return {key: value for key, value in document.items() if key not in dropped}


def run_stages(
    documents: Sequence[dict[str, Any]], stages: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What a pipeline of $match, $project and $unset makes of documents."""
    found = list(documents)
    for stage in stages:
        (name, given), *_ = stage.items()
        if name == "$match":
            found = [document for document in found if matches(document, given)]
        elif name == "$project":
            found = [project(document, given) for document in found]
        elif name == "$unset":
            fields = {given: 0} if isinstance(given, str) else dict.fromkeys(given, 0)
            found = [project(document, fields) for document in found]
        else:
            raise UnsupportedError(f"the stage {name}")
    return found
