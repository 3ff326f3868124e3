"""A verification's suspects: one _id that is written in several ways is one."""

from __future__ import annotations

import bson
import pytest
from bson.int64 import Int64

from mmapcache.sync.mongo import element
from mmapcache.sync.mongo.follower import _one_by_one
from mmapcache.sync.source import Found


def mark(key: object) -> int:
    return element.mark_of(element.of_value(key))


@pytest.mark.parametrize("key", [7, Int64(7), 7.0])
def test_a_number_is_one_suspect_however_it_is_written(key: object) -> None:
    assert mark(key) == mark(7)
    assert mark(key) != mark(8)


def test_what_is_missing_as_it_was_written_before_is_there() -> None:
    now = bson.encode({"_id": Int64(7), "n": 2})
    parts = [Found("hot", (7.0, 8), b""), Found("hot", (), now)]
    assert [(one.missing, one.buffer, one.suspect) for one in _one_by_one(parts)] == [
        ((8,), b"", mark(8)),
        ((), now, mark(7)),
    ]
