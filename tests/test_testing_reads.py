"""The read API's own tests, on the cache of a TestCache instead of a file.

All tests of FILES that a `writer` is enough for: here it is a TestCache that answers as a Writer.
Then every public name of what is read, of a file and of a TestCache: both give the same, but for
what LACKING names, as docs/testing.md does.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import test_cache
import test_changes_api
import test_collection_map
import test_fork
import test_front_cache
import test_mapping_in_full
import test_prometheus
from support.caches import fill

import mmapcache
from mmapcache import testing

FILES = (
    *(test_cache, test_changes_api, test_collection_map, test_fork, test_front_cache),
    *(test_mapping_in_full, test_prometheus),
)
ELSEWHERE = {"cache_path", "loader", "tmp_path"}  # fixtures of a file, or of another process
# What a test of FILES needs of a bell, which a cache in memory has not.
NO_BELL = {"test_a_burst_wakes_once", "test_nothing_is_left_behind"}


class AsWriter:
    """What the tests ask a writer for, from a TestCache: its `.cache` first, then more."""

    def __init__(self, test: testing.TestCache) -> None:
        self._test = test
        self._given = False

    def reader(self, **options: Any) -> mmapcache.Cache:
        given, self._given = self._given, True
        return self._test.open(**options) if options or given else self._test.cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._test.writer, name)


@pytest.fixture
def writer() -> Iterator[AsWriter]:
    with testing.cache(max_size="32MiB") as test:
        yield AsWriter(test)


def reads(module: ModuleType) -> dict[str, Any]:
    """The tests of a file by name."""
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.startswith("test_") and name not in NO_BELL and inspect.isfunction(value):
            wanted = inspect.signature(value).parameters.keys()
            if "writer" in wanted and not wanted & ELSEWHERE:
                found[name] = staticmethod(value)
    return found


def filled(own: Callable[[AsWriter], AsWriter]) -> Any:
    """A file's own `writer`, which is the one here with something in it."""

    @pytest.fixture
    def writer(self: object, writer: AsWriter) -> AsWriter:
        return own(writer)

    return writer


for each in FILES:
    members = reads(each)
    own = inspect.unwrap(vars(each).get("writer", lambda: None))
    if "writer" in inspect.signature(own).parameters:
        members["writer"] = filled(own)
    title = "TestOf" + each.__name__.removeprefix("test").title().replace("_", "")
    globals()[title] = type(title, (), members)


def test_there_are_many() -> None:
    counts = {each.__name__: len(reads(each)) for each in FILES}
    assert min(counts.values()) >= 4, counts
    assert sum(counts.values()) > 80, counts


# --- beside a file --------------------------------------------------------------------------------

SITES: dict[str, dict[str, Any]] = {
    "a": {"_id": "a", "domain": "a.org", "limits": {"qps": 1}, "tags": ["x", {"y": 2.5}]},
    "b": {"_id": "b", "domain": "b.org", "tags": []},
}
LACKING = {"Cache.path", "status.path", "status.source", "Cache.history"}


async def heard(cache: mmapcache.Cache, writer: mmapcache.Writer) -> list[Any]:
    """The change that a subscriber and an asynchronous iterator are told of."""
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    news, subscription = cache.changes(), cache.subscribe(told.set_result)
    fill(writer, "sites", {"_id": "a", "domain": "c.org"})
    both = [await asyncio.wait_for(each, test_changes_api.PATIENCE) for each in (told, anext(news))]
    subscription.close()
    return both


def of_mapping(mapping: Any, key: Any) -> dict[str, Any]:
    """A collection as a dict: it is compared when its cache is closed."""

    def plain(value: Any) -> Any:
        return dict(value) if isinstance(value, mmapcache.Collection) else value

    return {
        "get": [plain(mapping.get(key)), mapping.get("none", 5)],
        "items": {name: plain(value) for name, value in mapping.items()},
        "keys": set(mapping.keys()),
        "values": [plain(value) for value in mapping.values()],
    }


def everything(cache: mmapcache.Cache, writer: mmapcache.Writer) -> dict[str, Any]:
    """What each public name gives; what is of the moment is left out of it."""
    sites, snap = cache["sites"], cache.snapshot()
    models, by, document = sites.map(len), sites.by("domain"), sites["a"]
    array, limits = document["tags"], document["limits"]
    status: dict[str, Any] = {**cache.status()}
    stats: dict[str, Any] = {**cache.stats(), **cache.check()}
    found: dict[str, dict[str, Any]] = {
        "status": {
            **{name: status[name] for name in ("path", "source", "loader", "state", "error")},
            "generation": status["generation"],
            "names": set(status),
        },
        "Collection": {
            **of_mapping(sites, "a"),
            "name": sites.name,
            "indexes": sites.indexes,
            "get_raw": sites.get_raw("a"),
            "get_many": sites.get_many(["a", "z"]),
            "pluck": sites.pluck("a", "limits.qps"),
            "map": dict(models),
            "by": dict(by),
        },
        "CollectionMap": of_mapping(models, "a"),
        "Index": {**of_mapping(by, "a.org"), "unique": by.unique},
        "Document": {
            **of_mapping(document, "domain"),
            "raw": document.raw,
            "copy": document.copy(),
            "to_dict": document.to_dict(),
            "pluck": document.pluck("tags.1.y"),
        },
        "Array": {
            "raw": array.raw,
            "copy": array.copy(),
            "to_list": array.to_list(),
            "index": array.index("x"),
            "count": array.count("x"),
        },
        "Snapshot": {
            **of_mapping(snap, "sites"),
            "generation": snap.generation,
            "collection": dict(snap.collection("none")),
            "closed": snap.closed,
        },
        "Cache": {
            **of_mapping(cache, "sites"),
            "path": cache.path,
            "generation": cache.generation,
            "state": cache.state,
            "collection": dict(cache.collection("none")),
            "snapshot": cache.snapshot() == cache,
            "wait": [cache.wait(0, 0), cache.wait(cache.generation, 0)],
            "status": 0,
            "stats": {name: stats[name] for name in ("documents", "file_size", "max_size")},
            "check": {name: stats[name] for name in ("entries", "pages", "nodes", "generation")},
            "catalogue": {**cache.catalogue()["sites"], "changed_at": 0},
            "history": [record["reason"] for record in cache.history()],
            "changes": asyncio.run(heard(cache, writer)),
        },
    }
    snap.close()
    found["Snapshot"]["close"] = snap.closed
    cache.close()
    found["Cache"] |= {"subscribe": found["Cache"]["changes"], "close": cache.closed, "closed": 1}
    for kind in (type(limits), *map(type, (cache, snap, sites, models, by, array))):
        public = {name for name in dir(kind) if not name.startswith("_")}
        assert not public - found[kind.__name__].keys(), kind
    return {f"{kind}.{name}": value for kind, of in found.items() for name, value in of.items()}


def publish(writer: mmapcache.Writer) -> None:
    fill(writer, "sites", *SITES.values())
    with writer.batch() as batch:
        batch.index("sites", "domain")
    writer.report(state="streaming", following=True, confirmed=True)


def test_it_reads_as_a_file_does_but_for_what_it_lacks(cache_path: Path) -> None:
    found = []
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        publish(writer)
        writer.report(source="file:/etc/sites.json")
        writer.record("load")
        with mmapcache.open(cache_path) as cache:
            found.append(everything(cache, writer))
    with testing.cache(max_size="4MiB") as test:
        publish(test.writer)
        found.append(everything(test.cache, test.writer))
    real, double = found
    assert real.keys() == double.keys()
    assert {name for name in real if real[name] != double[name]} == LACKING


def test_what_it_lacks() -> None:
    """And how far a test comes instead."""
    with testing.cache({"sites": SITES}, max_size="2MiB") as test:
        assert (test.cache.path, test.cache.status()["source"]) == ("", "")
        assert test.cache.history() == []
        test.writer.record("load", put=2)
        assert [record["put"] for record in test.cache.history()] == [2]
        test.writer.report(source="mongodb://db/shop")
        assert test.cache.status()["source"] == "mongodb://db/shop"
        with test.open() as other:
            assert other["sites"] == SITES
        with pytest.raises(mmapcache.FullError, match="Raise max_size"):
            test.load({"more": {number: {"text": "x" * 1000} for number in range(3000)}})
        assert test.cache == {"sites": SITES}
        loop = asyncio.new_event_loop()
        before = test_changes_api.descriptors()
        told: list[Any] = []
        subscription = test.cache.subscribe(told.append, loop)
        assert test_changes_api.descriptors() == before, "there is no bell"
        test.advance()
        loop.run_until_complete(test_changes_api.soon(lambda: told))
        subscription.close()
        loop.close()
