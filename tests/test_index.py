"""Lookup by another field: Batch.index and Collection.by, through a Writer."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmapcache
from mmapcache.testing import TestCache

bson = pytest.importorskip("bson")


@pytest.fixture
def test() -> Iterator[TestCache]:
    with TestCache() as made:
        yield made


def fill(test: TestCache, documents: Mapping[Any, Mapping[str, Any]], **kinds: bool) -> None:
    """Puts documents into `sites`, with the indexes given: field=unique."""
    with test.writer.batch() as batch:
        for field, unique in kinds.items():
            batch.index("sites", field, unique=unique)
        for key, document in documents.items():
            batch.put("sites", key, {"_id": key, **document})


def ids(documents: tuple[mmapcache.Document, ...]) -> list[Any]:
    return [document["_id"] for document in documents]


def test_a_unique_index_leads_to_the_document(test: TestCache) -> None:
    fill(test, {1: {"domain": "a.org"}, 2: {"domain": "b.org"}, 3: {}}, domain=True)
    sites = test.cache["sites"]
    by = sites.by("domain")
    assert by["a.org"] is sites[1], "the front cache serves both"
    assert by.get("b.org") == sites[2]
    assert by.get("c.org") is None
    assert by.get("c.org", default=5) == 5
    assert "a.org" in by
    assert "c.org" not in by
    assert len(by) == 2
    assert [*by] == ["a.org", "b.org"]
    assert [*by.values()] == [sites[1], sites[2]]
    assert dict(by.items()) == by == {"a.org": sites[1], "b.org": sites[2]}
    assert isinstance(by, Mapping)
    assert repr(by) == "<mmapcache.Index of 'sites' by 'domain'>"
    assert by.unique
    assert by.get("x" * 2000, "none") == "none"
    with pytest.raises(KeyError, match=r"^'c\.org'$"):
        by["c.org"]
    with pytest.raises(TypeError):
        by[["a.org"]]
    with pytest.raises(TypeError):
        hash(by)


def test_several_documents_come_in_the_order_of_their_ids(test: TestCache) -> None:
    keys = ["b", 10, 2.5, "a", -1, bson.ObjectId(), None, True]
    fill(test, {key: {"plan": "free"} for key in keys}, plan=False)
    fill(test, {"one": {"plan": "gold"}})
    by = test.cache["sites"].by("plan")
    assert not by.unique
    expected = [None, -1, 2.5, 10, "a", "b", keys[5], True]
    assert ids(by["free"]) == expected
    assert ids(by["gold"]) == ["one"]
    test.writer.put("sites", bson.Decimal128("3.1"), {"_id": "decimal", "plan": "free"})
    assert ids(by["free"])[2:5] == [2.5, "decimal", 10]
    test.delete("sites", bson.Decimal128("3.1"))
    assert len(by) == 2
    test.delete("sites", 10)
    assert len(by["free"]) == len(keys) - 1
    for key in keys:
        test.writer.delete("sites", key)
    assert by.get("free") is None


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("n", 1, ["int", "double", "decimal", "nested"]),
        ("n", True, ["bool"]),
        ("n", None, ["null"]),
        ("n", "x", ["array"]),
        ("n", 7, ["array"]),
        ("n.a", 1, ["document"]),
        ("n.a", 5, ["documents"]),
        ("n.1", 7, ["array"]),
        ("n.1.a", 6, ["documents"]),
    ],
)
def test_values(test: TestCache, field: str, value: Any, found: list[str]) -> None:
    documents = {
        "int": 1, "double": 1.0, "decimal": bson.Decimal128("1.00"), "bool": True, "null": None,
        "array": ["x", 7, "x", [1]], "nested": [1], "document": {"a": 1},
        "documents": [{"a": 5}, {"a": 6}, 3], "empty": [], "long": "x" * 2000,
    }  # fmt: skip
    fill(test, {key: {"n": n} for key, n in documents.items()} | {"missing": {}})
    with test.writer.batch() as batch:
        batch.index("sites", field, unique=False)
    by = test.cache["sites"].by(field)
    assert sorted(ids(by[value])) == sorted(found)
    test.cache.check()


def test_a_document_is_a_value(test: TestCache) -> None:
    fill(test, {1: {"at": {"x": 1, "y": 2}}}, at=True)
    by = test.cache["sites"].by("at")
    assert by[{"x": 1.0, "y": 2}]["_id"] == 1
    assert [*by] == [{"x": 1, "y": 2}]


def test_two_documents_of_one_value_are_refused_as_a_whole(test: TestCache) -> None:
    fill(test, {1: {"d": "a"}, 2: {"d": "b"}}, d=True)
    before = test.cache.generation
    with pytest.raises(
        mmapcache.LimitError,
        match=r'^collection sites: the documents with _id 1 and 3 both have d = "a", and the index',
    ):
        fill(test, {3: {"d": "a"}, 4: {"d": "c"}})
    assert test.cache.generation == before
    assert 4 not in test.cache["sites"]
    fill(test, {1: {"d": "b"}, 2: {"d": "a"}})  # an exchange is none
    by = test.cache["sites"].by("d")
    assert (by["a"]["_id"], by["b"]["_id"]) == (2, 1)
    with pytest.raises(mmapcache.LimitError, match="both have d"):
        test.writer.put("sites", 5, {"d": "a"})
    test.writer.put("sites", 5, {"d": "e"})
    assert by["e"] == {"d": "e"}


def test_a_snapshot_keeps_its_own(test: TestCache) -> None:
    fill(test, {1: {"d": "a"}}, d=True)
    live = test.cache["sites"].by("d")
    with test.cache.snapshot() as snapshot:
        kept = snapshot["sites"].by("d")
        fill(test, {1: {"d": "b"}})
        assert kept["a"] == {"_id": 1, "d": "a"}
        assert "b" not in kept
        assert "a" not in live
        assert live["b"]["_id"] == 1
    with pytest.raises(mmapcache.ClosedError):
        kept["a"]


def test_which_indexes_there_are(test: TestCache) -> None:
    fill(test, {1: {"d": "a", "t": [1, 2]}}, d=True, t=False)
    sites = test.cache["sites"]
    assert sites.indexes == {"d": "unique", "t": "multi"}
    assert test.writer.indexes == {"sites": sites.indexes}
    assert test.cache.collection("other").indexes == {}
    assert [*test.cache] == ["sites"]
    for name in ("typo", "\ud800", "a\0b"):
        with pytest.raises(LookupError, match=r"of collection 'sites': there are \['d', 't'\]$"):
            sites.by(name)
    with pytest.raises(LookupError, match=r"^\"?no index 'd' of collection 'other': it has none"):
        test.cache.collection("other").by("d")
    with pytest.raises(TypeError, match="the path of a field, a str, not int"):
        sites.by(1)  # type: ignore[arg-type]
    by = sites.by("t")
    with test.writer.batch() as batch:
        assert batch.drop_index("sites", "t")
        assert not batch.drop_index("sites", "t")
        assert not batch.index("sites", "d")
    with pytest.raises(LookupError, match="no index 't'") as caught:
        by[1]
    assert not isinstance(caught.value, KeyError)
    with pytest.raises(LookupError, match="no index 't'"):
        len(by)
    with test.writer.batch() as batch:
        assert batch.index("sites", "t", unique=True)
    assert by[2]["_id"] == 1, "it is another one now"
    assert by.unique


def test_an_index_outlasts_its_collection_and_its_writer(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        with writer.batch() as batch:
            batch.index("sites", "d")
            batch.put("sites", 1, {"_id": 1, "d": "a"})
        with writer.batch() as batch:
            batch.drop("sites")
    for size in ("4MiB", "8MiB"):
        with mmapcache.Writer(cache_path, max_size=size) as writer, writer.reader() as cache:
            assert writer.indexes == {"sites": {"d": "unique"}}
            assert len(cache.collection("sites").by("d")) == (size == "8MiB")
            with writer.batch() as batch, batch.replace("sites") as full:
                full.put_raw(bson.encode({"_id": 2, "d": "b"}))
            assert [*cache["sites"].by("d")] == ["b"]
            cache.check()


@pytest.mark.parametrize("unique", [True, False])
def test_an_index_that_contradicts_the_documents_is_damage(cache_path: Path, unique: bool) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        with writer.batch() as batch:
            batch.index("sites", "d", unique=unique)
            batch.put("sites", "needle", {"_id": 1, "d": "a"})
        content = cache_path.read_bytes()
        at = content.index(b"a\x02needle") + 2
        with cache_path.open("r+b") as file:
            file.seek(at)
            file.write(b"N")
        with writer.reader() as cache:
            by = cache["sites"].by("d")
            assert len(by) == 1
            with pytest.raises(mmapcache.CorruptError, match="contradicts itself"):
                by["a"]
            with pytest.raises(mmapcache.CorruptError):
                cache.check()


def test_names_and_fields_that_cannot_be(test: TestCache) -> None:
    with test.writer.batch() as batch:
        for field in ("", "f" * 256, "a\0b"):
            with pytest.raises(mmapcache.LimitError, match="of a field with 1 to 255 bytes"):
                batch.index("sites", field)
        with pytest.raises(UnicodeEncodeError):
            batch.drop_index("sites", "\ud800")
        with pytest.raises(TypeError, match="whose path is a str, not int"):
            batch.index("sites", 1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="must not be empty"):
            batch.index("", "f")
    with pytest.raises(mmapcache.ClosedError):
        batch.index("sites", "f")
    with pytest.raises(mmapcache.ClosedError):
        batch.drop_index("sites", "f")


def test_nothing_is_left_behind(test: TestCache) -> None:
    fill(test, {i: {"d": i, "t": [i % 3]} for i in range(50)}, d=True, t=False)
    gc.collect()
    for _ in range(3):
        sites = test.cache["sites"]
        assert len([*sites.by("d").items()]) == 50
        assert sum(len(found) for found in sites.by("t").values()) == 50


# --- against a dict -------------------------------------------------------------------------------

KEYS = st.integers(0, 6)
VALUES = st.one_of(
    st.none(), st.integers(0, 4), st.sampled_from(["x", "y", 1.0, 2.5]),
    st.lists(st.integers(0, 4), max_size=3),
)  # fmt: skip
DOCUMENTS = st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, DOCUMENTS),
        st.tuples(st.just("delete"), KEYS, st.none()),
        st.tuples(st.just("drop"), st.none(), st.none()),
        st.tuples(st.just("replace"), st.none(), st.dictionaries(KEYS, DOCUMENTS, max_size=4)),
    ),
    max_size=5,
)


def applied(model: dict[int, Any], step: tuple[str, Any, Any]) -> dict[int, Any]:
    """The documents by their key after a step."""
    kind, key, value = step
    if kind == "put":
        return {**model, key: value}
    if kind == "delete":
        return {k: v for k, v in model.items() if k != key}
    return {} if kind == "drop" else dict(value)


def wanted(model: Mapping[int, Mapping[str, Any]], field: str) -> dict[Any, list[int]]:
    """The keys that each value of the field leads to."""
    found: dict[Any, set[int]] = {}
    for key, document in model.items():
        if field in document:
            value = document[field]
            for one in value if isinstance(value, list) else [value]:
                found.setdefault(one, set()).add(key)
    return {value: sorted(keys) for value, keys in found.items()}


@pytest.fixture(scope="module")
def shared() -> Iterator[TestCache]:
    with TestCache() as made:
        yield made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(batches=st.lists(STEPS, max_size=4))
def test_as_a_dict_would_have_it(shared: TestCache, batches: list[Any]) -> None:
    model: dict[int, Any] = {}
    with shared.writer.batch() as batch:
        batch.drop("sites")
        batch.index("sites", "a", unique=True)
        batch.index("sites", "b", unique=False)
    for steps in batches:
        after = model
        try:
            with shared.writer.batch() as batch:
                for step in steps:
                    kind, key, value = step
                    after = applied(after, step)
                    if kind == "put":
                        batch.put("sites", key, value)
                    elif kind == "delete":
                        batch.delete("sites", key)
                    elif kind == "drop":
                        batch.drop("sites")
                    else:
                        with batch.replace("sites") as full:
                            for k, document in value.items():
                                full.put(k, document)
            model = after
        except mmapcache.LimitError:
            assert any(len(keys) > 1 for keys in wanted(after, "a").values())
        assert all(len(keys) == 1 for keys in wanted(model, "a").values())
        sites = shared.cache.collection("sites")
        assert sites.by("a") == {v: sites[k[0]] for v, k in wanted(model, "a").items()}
        by = {v: tuple(sites[k] for k in keys) for v, keys in wanted(model, "b").items()}
        assert dict(sites.by("b")) == by
    shared.cache.check()
