"""Documents: the first touch of a large one, `pluck`, `to_dict`, the front cache's memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument

import mmapcache
from benchmarks import data, peers
from benchmarks.harness import Context, Row, compare, interleave, pss, row_of, timed


class Large:
    """Documents of 24 KB in a cache whose front cache is off, and as bytes."""

    def __init__(self, context: Context) -> None:
        """Fill the cache."""
        count = context.size(2_000, 700)
        self.raw = [data.large_document(index) for index in range(count)]
        self.keys = [f"large{index:08d}" for index in range(count)]
        path = peers.fill_cache(context.path("large"), self.raw)
        self.cache = mmapcache.open(path, front_bytes=0, front_entries=0)
        self.collection = self.cache["settings"]


def _large(context: Context) -> Large:
    return context.shared("large", lambda: Large(context))


def first_leaf(context: Context) -> Iterator[Row]:
    """The first nested leaf of a 24 KB document of 400 fields, fetched from the map."""
    large = _large(context)
    field = data.LARGE_FIELD
    figures = interleave(
        {
            "ours": timed(
                f"store[key][{field!r}]['limit']", lambda: large.keys, store=large.collection
            ),
            "bson.decode": timed("decode(key)", lambda: large.raw, decode=bson.decode),
            "RawBSONDocument": timed(
                f"raw(key)[{field!r}]['limit']", lambda: large.raw, raw=RawBSONDocument
            ),
        }
    )
    for peer, target in (("bson.decode", 1 / 50), ("RawBSONDocument", 1 / 5)):
        yield row_of(
            figures,
            f"first_leaf_{peer}",
            f"first nested leaf of a 24 KB document, from the map / {peer}",
            unit="ns",
            peer=peer,
            peer_name=peer,
            target=target,
        )


def pluck(context: Context) -> Iterator[Row]:
    """One leaf read in the map against `get_raw` of the document, front cache off."""
    large = _large(context)
    path = f"{data.LARGE_FIELD}.limit"
    yield compare(
        "pluck",
        "pluck of one leaf of a 24 KB document, not in the front cache / get_raw",
        timed(f"pluck(key, {path!r})", lambda: large.keys, pluck=large.collection.pluck),
        timed("get_raw(key)", lambda: large.keys, get_raw=large.collection.get_raw),
        unit="ns",
        peer_name="get_raw",
        target=0.3,
    )


def first_touch(context: Context) -> Iterator[Row]:
    """The first field of a Document that was just copied from the map, against the copy alone."""
    large = _large(context)
    field = data.LARGE_FIELD
    yield compare(
        "first_touch",
        "get and first touch of a field of a 24 KB document, not in the front cache / get_raw",
        timed(f"get(key)[{field!r}]", lambda: large.keys, get=large.collection.get),
        timed("get_raw(key)", lambda: large.keys, get_raw=large.collection.get_raw),
        unit="ns",
        peer_name="get_raw",
        target=1.1,
    )


def to_dict(context: Context) -> Iterator[Row]:
    """`to_dict()` of 300-byte documents against `bson.decode` of their bytes."""
    raw = data.documents(2_000)
    fields: list[Any] = [mmapcache.Document(each) for each in raw]

    def untouched() -> list[Any]:
        return [mmapcache.Document(each) for each in raw]

    assert fields[0].to_dict() == bson.decode(raw[0])
    yield compare(
        "to_dict",
        "to_dict() of a 300-byte document / bson.decode",
        timed("key.to_dict()", untouched),
        timed("decode(key)", lambda: raw, decode=bson.decode),
        unit="ns",
        peer_name="bson.decode",
        target=1.0,
        repeats=15,
    )


def _front_memory(path: str, count: int, pipe: Any) -> None:
    """In a worker: what 10,000 documents in the front cache add to its memory, in bytes."""
    cache = mmapcache.open(path, front_bytes=64 << 20, front_entries=1 << 16)
    settings = cache["settings"]
    keys = data.hashed(data.keys(count))
    for key in keys:
        settings.get_raw(key)
    kept = cache.stats()["front_cache"]["entries"]
    before = pss()
    for _ in range(8):  # it takes most of them at their second visit, the last some visits later
        for key in keys:
            settings.get(key)
    after = pss()
    if cache.stats()["front_cache"]["entries"] < kept + count:
        raise AssertionError("the front cache has not kept every document")
    pipe.send((after - before, cache.stats()["front_cache"]))
    pipe.close()


def front_memory(context: Context) -> Iterator[Row]:
    """Memory that a worker adds for 10,000 documents in its front cache."""
    count = 10_000
    raw = data.documents(count)
    path = peers.fill_cache(context.path("front"), raw)
    own = float(sum(map(len, raw)))
    spawn = multiprocessing.get_context("fork")
    samples = []
    front: dict[str, int] = {}
    for _ in range(7):
        receive, send = spawn.Pipe(duplex=False)
        worker = spawn.Process(target=_front_memory, args=(path, count, send))
        worker.start()
        send.close()
        added, front = receive.recv()
        worker.join()
        samples.append(float(added))
    samples.sort()
    middle = samples[len(samples) // 2]
    yield Row(
        name="front_memory",
        measure="memory added per worker by 10,000 front-cached documents / their bytes",
        ours=middle,
        unit="B",
        peer=own,
        peer_name="documents",
        ratio=middle / own,
        target=2.0,
        samples={"ours": samples},
        details={"front_cache": front},
    )


BENCHES = (first_leaf, pluck, first_touch, to_dict, front_memory)
