"""The record of the ring, as clients, agents and commands read it: whatever bytes there are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapcache.ring.record import (
    Change,
    Member,
    Record,
    RecordError,
    check_address,
    new_ring,
    parse_member,
    parse_members,
    parse_record,
)

junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
ids = st.text("AZaz09._-", min_size=1, max_size=64).filter(lambda text: text not in (".", ".."))
rings = st.builds(
    Record,
    st.integers(1, 2**53 - 1),
    st.lists(ids, min_size=1, max_size=8, unique=True).map(tuple),
)


def test_as_it_stands_in_zookeeper() -> None:
    text = b'{"version": 1, "epoch": 7, "nodes": ["a", "b"], "change": null}'
    assert parse_record(text) == Record(7, ("a", "b"))
    assert Record(7, ("a", "b")).text() == text


@pytest.mark.parametrize(
    ("kind", "node", "after", "other"),
    [("add", "c", ("a", "b", "c"), ("a", "b")), ("drain", "b", ("a",), ("a", "b"))],
)
def test_the_steps_of_a_change(kind: Any, node: str, after: Any, other: Any) -> None:
    record = Record(7, ("a", "b"))
    filling = record.begin(kind, node, 5)
    assert (filling.step, filling.epoch, filling.nodes) == ("filling", 8, ("a", "b"))
    assert set(filling.other or ()) == set(after)
    switched = filling.advance()
    assert (switched.step, switched.epoch, switched.nodes) == ("switched", 9, after)
    assert set(switched.other or ()) == set(other)
    cleaning = switched.advance()
    assert (cleaning.step, cleaning.epoch, cleaning.nodes) == ("cleaning", 10, after)
    assert cleaning.other is None
    complete = cleaning.advance()
    assert (complete.step, complete.epoch, complete.nodes) == ("complete", 10, after)
    for step in (filling, switched, cleaning, complete):
        assert parse_record(step.text()) == step
    with pytest.raises(RecordError, match="one node is changed at a time"):
        switched.begin("add", "x", 6)


@pytest.mark.parametrize(("kind", "node"), [("add", "c"), ("drain", "b")])
def test_a_change_is_given_up_until_the_new_ring_is_read(kind: Any, node: str) -> None:
    filling = Record(7, ("a", "b")).begin(kind, node, 5)
    given_up = filling.give_up(kind, node)
    assert (given_up.epoch, given_up.nodes, given_up.other) == (8, ("a", "b"), filling.other)
    assert given_up.give_up(kind, node) == given_up
    cleaning = given_up.advance()
    assert (cleaning.step, cleaning.epoch, cleaning.nodes) == ("cleaning", 9, ("a", "b"))
    assert cleaning.advance() == Record(9, ("a", "b"))
    for step in (given_up, cleaning):
        assert parse_record(step.text()) == step
    with pytest.raises(RecordError, match="switched: the new ring is read"):
        filling.advance().give_up(kind, node)
    with pytest.raises(RecordError, match="is not under way"):
        filling.give_up(kind, "x")


def test_changes_that_cannot_begin() -> None:
    record = new_ring(["a"])
    for kind, node, why in [
        ("add", "a", "already"),
        ("drain", "b", "not in the ring"),
        ("drain", "a", "the only node"),
        ("add", "a b", "cannot be the id"),
        ("add", "..", "cannot be the id"),
    ]:
        with pytest.raises(RecordError, match=why):
            record.begin(kind, node, 1)  # type: ignore[arg-type]
    full = new_ring([f"n{i}" for i in range(128)])
    with pytest.raises(RecordError, match="128"):
        full.begin("add", "more", 1)


@given(rings)
def test_what_is_written_is_read(record: Record) -> None:
    assert parse_record(record.text()) == record


@given(st.binary(max_size=200) | junk.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(data: bytes) -> None:
    for parse in (parse_record, lambda bytes_: parse_member("a", bytes_)):
        with pytest.raises(RecordError):
            parse(data)


@given(rings, st.sampled_from(["version", "epoch", "nodes", "change"]), junk)
def test_any_value_in_its_place(record: Record, name: str, value: Any) -> None:
    plain = {**record.plain(), name: value}
    try:
        read = parse_record(json.dumps(plain).encode())
    except RecordError:
        return
    assert parse_record(read.text()) == read
    assert 1 <= len(read.everybody) <= 128
    assert read.other is None or len(read.other) >= 1


def test_hostile_lists() -> None:
    for nodes in (
        [],
        ["a", "a"],
        ["a" * 65],
        [""],
        ["a/b"],
        ["\u202ea"],
        [5],
        {"a": 1},
        [f"n{i}" for i in range(129)],
    ):
        with pytest.raises(RecordError):
            parse_record(json.dumps({"version": 1, "epoch": 1, "nodes": nodes}).encode())
    with pytest.raises(RecordError, match="too long"):
        parse_record(b" " * 70_000)
    with pytest.raises(RecordError, match="JSON"):
        parse_record(b"[" * 60_000)
    drained = {"version": 1, "epoch": 1, "nodes": ["a"], "change": {"drain": "a", "since": 1}}
    with pytest.raises(RecordError, match="only node"):
        parse_record(json.dumps(drained).encode())


def test_members() -> None:
    assert parse_members("a=h:1, b=[::1]:6379") == (Member("a", "h:1"), Member("b", "[::1]:6379"))
    assert check_address("[::1]:6379") == ("::1", 6379)
    for text in ("a", "a=h", "a=h:0", "a=h:65536", "a=h:1,a=h:2", "a=h h:1", "=h:1", "a=h:1\n2"):
        with pytest.raises(RecordError):
            parse_members(text)
    said = {"address": "h:1", "run_id": "abc", "state": "ready", "since": 5}
    assert parse_member("a", json.dumps(said).encode()) == Member("a", "h:1", "abc", "ready", 5)
    for name, value in [
        ("address", "h:1\r\n"),
        ("run_id", "\x1b[31m"),
        ("state", 5),
        ("since", -1),
        ("since", True),
    ]:
        with pytest.raises(RecordError):
            parse_member("a", json.dumps({**said, name: value}).encode())


def test_the_change_says_what_it_is() -> None:
    assert Change("add", "c", 5).plain() == {"add": "c", "since": 5}
    assert Change("drain", "c", 5, clean=True).plain() == {"drain": "c", "since": 5, "clean": True}
