"""Every limit: at it all works, one past it is a LimitError, or simply absent for readers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw_bson import nested

import mmapcache

bson = pytest.importorskip("bson")


@pytest.fixture
def writer(cache_path: Path) -> Iterator[mmapcache.Writer]:
    with mmapcache.Writer(cache_path, max_size="256MiB") as writer:
        yield writer


def test_the_constants() -> None:
    assert mmapcache.MAX_KEY_BYTES == 1024
    assert mmapcache.MAX_DOCUMENT_BYTES == (16 << 20) + (16 << 10)
    assert mmapcache.MAX_NAME_BYTES == 255
    assert mmapcache.MAX_COLLECTIONS == 10_000
    assert mmapcache.MAX_STATE_BYTES == 64 << 10
    assert mmapcache.MAX_DEPTH == 200
    assert mmapcache.MIN_SIZE == 2 << 20
    assert mmapcache.MAX_SIZE == 1 << 40


@pytest.mark.parametrize("text", ["k", "é"])
def test_key_length(writer: mmapcache.Writer, text: str) -> None:
    longest = text * (mmapcache.MAX_KEY_BYTES // len(text.encode()))
    too_long = longest + text
    cache = writer.reader()
    with writer.batch() as batch:
        batch.put("sites", longest, {"_id": longest})
        with pytest.raises(mmapcache.LimitError, match="1024"):
            batch.put("sites", too_long, {"_id": too_long})
        with pytest.raises((mmapcache.LimitError, mmapcache.InvalidDocument)):
            batch.put_raw("sites", bson.encode({"_id": too_long}))
    sites = cache["sites"]
    for _ in range(2):
        assert sites[longest] == {"_id": longest}
        assert too_long not in sites
        assert sites.get_many([longest, too_long]).keys() == {longest}
    assert list(sites) == [longest]


def document_of(size: int) -> bytes:
    """A valid document of exactly that many bytes."""
    empty = len(bson.encode({"_id": 1, "v": b""}))
    return bytes(bson.encode({"_id": 1, "v": b"x" * (size - empty)}))


def test_document_size(writer: mmapcache.Writer) -> None:
    largest = document_of(mmapcache.MAX_DOCUMENT_BYTES)
    assert len(largest) == mmapcache.MAX_DOCUMENT_BYTES
    too_large = document_of(mmapcache.MAX_DOCUMENT_BYTES + 1)
    with writer.batch() as batch:
        with pytest.raises(mmapcache.LimitError):
            batch.put("sites", 1, too_large)
        with pytest.raises((mmapcache.LimitError, mmapcache.InvalidDocument)):
            batch.put_raw("sites", too_large)
        batch.put("sites", 1, largest)
        batch.put_raw("more", largest)
    with writer.reader() as cache:
        assert cache["sites"].get_raw(1) == largest
        assert cache["sites"][1].raw == largest
        assert cache["more"].pluck(1, "_id") == 1


def test_the_empty_document(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        batch.put("sites", 1, {})
    with writer.reader() as cache:
        assert cache["sites"][1] == {}


@pytest.mark.parametrize("text", ["n", "é"])
def test_name_length(writer: mmapcache.Writer, text: str) -> None:
    longest = text * (mmapcache.MAX_NAME_BYTES // len(text.encode()))
    too_long = longest + text
    with writer.batch() as batch:
        batch.put(longest, 1, {"_id": 1})
        for call in (batch.drop, batch.replace):
            with pytest.raises(mmapcache.LimitError, match="255"):
                call(too_long)
    with writer.reader() as cache:
        assert list(cache) == [longest]
        assert cache[longest][1] == {"_id": 1}
        assert too_long not in cache
        assert len(cache.collection(too_long)) == 0
        assert cache.collection(too_long).get(1) is None


@pytest.mark.slow
def test_number_of_collections(writer: mmapcache.Writer) -> None:
    document = bson.encode({"_id": 1})
    with writer.batch() as batch:
        for n in range(mmapcache.MAX_COLLECTIONS):
            batch.put(f"c{n}", 1, document)
        with pytest.raises(mmapcache.LimitError, match=r"10,?000"):
            batch.put("one too many", 1, document)
    with writer.batch() as batch:
        assert batch.drop("c77")
        batch.put("instead", 1, document)
        with pytest.raises(mmapcache.LimitError):
            batch.put("one too many", 1, document)
    with writer.reader() as cache:
        assert len(cache) == len(list(cache)) == mmapcache.MAX_COLLECTIONS
        assert cache["instead"][1] == {"_id": 1}
        assert all(len(collection) == 1 for collection in cache.values())
        assert len(cache.check()["collections"]) == mmapcache.MAX_COLLECTIONS


def test_state_size(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        batch.state = b"s" * mmapcache.MAX_STATE_BYTES
        with pytest.raises(mmapcache.LimitError):
            batch.state = b"s" * (mmapcache.MAX_STATE_BYTES + 1)
    assert writer.state == b"s" * mmapcache.MAX_STATE_BYTES


def test_nesting(writer: mmapcache.Writer) -> None:
    deepest = nested(mmapcache.MAX_DEPTH)
    with writer.batch() as batch:
        batch.put("sites", 1, deepest)
        for depth in (mmapcache.MAX_DEPTH + 1, 10_000):
            with pytest.raises(mmapcache.InvalidDocument):
                batch.put("sites", 2, nested(depth))
    with writer.reader() as cache:
        assert cache["sites"].get_raw(1) == deepest
        value = cache["sites"][1]
        for _ in range(mmapcache.MAX_DEPTH - 1):
            value = value["a"]
        assert value == {}


def test_size_of_the_map(cache_path: Path) -> None:
    for size in (mmapcache.MIN_SIZE - 1, mmapcache.MAX_SIZE + 1):
        with pytest.raises(mmapcache.LimitError, match="max_size"):
            mmapcache.Writer(cache_path, max_size=size)
    for size in (mmapcache.MIN_SIZE, mmapcache.MAX_SIZE):
        with mmapcache.Writer(cache_path, max_size=size, recreate=True) as writer:
            with writer.batch() as batch:
                batch.put("sites", 1, {"_id": 1})
            with writer.reader() as cache:
                assert cache.stats()["max_size"] == size
                assert cache["sites"][1] == {"_id": 1}
