"""Objects that are closed, forgotten, in the wrong order, or alive when the interpreter ends."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path
from typing import Any

import pytest
from support.caches import fill, make_cache
from support.processes import run_script

import mmapcache

bson = pytest.importorskip("bson")


def load(path: Path) -> mmapcache.Writer:
    writer = mmapcache.Writer(path, max_size="4MiB")
    fill(writer, "sites", {"_id": 1, "limits": {"qps": 5}})
    return writer


def test_a_closed_cache_says_so(cache_path: Path) -> None:
    writer = load(cache_path)
    cache = writer.reader()
    sites = cache["sites"]
    sites.get(1)
    walk = iter(sites)
    with cache:
        pass
    assert cache.closed
    calls: list[Any] = [
        lambda: cache["sites"],
        lambda: cache[5],  # type: ignore[index]
        lambda: "sites" in cache,
        lambda: 5 in cache,  # type: ignore[comparison-overlap]
        lambda: len(cache),
        lambda: list(cache),
        lambda: cache.generation,
        lambda: cache.state,
        lambda: cache.get("sites"),
        lambda: cache.get(5),  # type: ignore[call-overload]
        lambda: cache.wait(1, 0),
        cache.snapshot,
        cache.status,
        cache.stats,
        cache.check,
        cache.keys,
        cache.values,
        cache.items,
        cache.__enter__,
        lambda: sites[1],
        lambda: sites.get(1),
        lambda: sites.get("k" * 9999),
        lambda: sites.get_raw(1),
        lambda: sites.get_many([1]),
        lambda: sites.pluck(1, "a"),
        lambda: 1 in sites,
        lambda: len(sites),
        lambda: list(sites),
        lambda: list(sites.items()),
    ]
    for call in calls:
        with pytest.raises(mmapcache.ClosedError):
            call()
    assert list(walk) == [1]
    assert issubclass(mmapcache.ClosedError, ValueError)
    assert "closed" in repr(cache)
    assert cache.path == str(cache_path)
    cache.close()
    writer.close()
    writer.close()


def test_what_was_read_outlives_the_cache(cache_path: Path) -> None:
    with load(cache_path) as writer:
        cache = writer.reader()
        document = cache["sites"][1]
        inner = document["limits"]
        snap = cache.snapshot()
        cache.close()
        assert snap["sites"].get(1) == document
        del cache
        assert snap["sites"][1]["limits"] == inner
        snap.close()
    cache_path.unlink()
    assert inner["qps"] == 5
    assert document == {"_id": 1, "limits": {"qps": 5}}


def test_handles_keep_the_cache_open(cache_path: Path) -> None:
    load(cache_path).close()
    sites = mmapcache.open(cache_path)["sites"]
    gc.collect()
    assert sites[1]["limits"]["qps"] == 5
    with mmapcache.open(cache_path).snapshot() as snap:
        gc.collect()
        assert snap["sites"][1]["limits"]["qps"] == 5
    walk = iter(mmapcache.open(cache_path)["sites"].items())
    assert next(walk)[0] == 1


def test_a_writer_that_is_forgotten_gives_its_lock_back(cache_path: Path) -> None:
    load(cache_path)
    gc.collect()
    with mmapcache.Writer(cache_path) as writer:
        assert writer.generation == 1
        assert writer.status()["loader"] == "alive"


def test_the_file_is_closed_and_unmapped(cache_path: Path) -> None:
    def uses() -> int:
        maps = Path("/proc/self/maps").read_text()
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        names = [str(link.readlink()) for link in links]
        return maps.count(str(cache_path)) + sum(str(cache_path) in name for name in names)

    writer = load(cache_path)
    cache = writer.reader()
    assert cache["sites"][1]
    assert uses() > 0
    snap = cache.snapshot()
    cache.close()
    writer.close()
    assert uses() > 0
    snap.close()
    assert uses() == 0


def test_a_name_may_close_the_snapshot_that_looks_for_it(cache_path: Path) -> None:
    snap: mmapcache.Snapshot

    class Name(str):
        def __hash__(self) -> int:
            fill(writer, "sites", {"_id": 1, "n": cache.generation})
            assert cache["sites"][1]["n"] == cache.generation - 1
            snap.close()  # with which the last user of its generation goes
            return hash(str(self))

    with load(cache_path) as writer, writer.reader() as cache:
        for look in ("__getitem__", "get", "collection"):
            snap = cache.snapshot()
            with pytest.raises(mmapcache.ClosedError, match="snapshot"):
                getattr(snap, look)(Name("sites"))


def test_a_number_may_close_the_cache_that_waits_for_it(cache_path: Path) -> None:
    load(cache_path).close()
    script = """
import sys
import mmapcache
class Number(int):
    def __eq__(self, other):
        cache.close()
        return int(self) == other
    __hash__ = int.__hash__
cache = mmapcache.open(sys.argv[1])
try:
    cache.wait(Number(cache.generation), 60)
except mmapcache.ClosedError:
    print("closed")
"""
    assert run_script(script, str(cache_path)) == "closed\n"


def test_nothing_is_picklable_or_subclassable_but_documents(cache_path: Path) -> None:
    with load(cache_path) as writer, writer.reader() as cache, cache.snapshot() as snap:
        for thing in (writer, cache, cache["sites"], snap, writer.batch(), cache["sites"].keys()):
            with pytest.raises(TypeError):
                pickle.dumps(thing)
            with pytest.raises(TypeError):
                type("Sub", (type(thing),), {})
            with pytest.raises((TypeError, AttributeError)):
                thing.attribute = 1  # type: ignore[union-attr]
        document = cache["sites"][1]
        assert pickle.loads(pickle.dumps(document)) == document
        assert copy.copy(document) is document


def test_exceptions_have_their_standard_bases() -> None:
    error = mmapcache.MmapCacheError
    expected: dict[type[Exception], type[Exception] | None] = {
        mmapcache.CorruptError: None,
        mmapcache.FormatError: None,
        mmapcache.VersionError: mmapcache.FormatError,
        mmapcache.FullError: None,
        mmapcache.NotReadyError: None,
        mmapcache.SnapshotExpired: None,
        mmapcache.LockTimeout: TimeoutError,
        mmapcache.ClosedError: ValueError,
        mmapcache.InvalidDocument: ValueError,
        mmapcache.LimitError: ValueError,
    }
    for kind, standard in expected.items():
        assert issubclass(kind, error)
        assert standard is None or issubclass(kind, standard)
        assert kind.__module__ == "mmapcache"
        assert kind.__doc__
        again = pickle.loads(pickle.dumps(kind("text")))
        assert type(again) is kind
        assert str(again) == "text"
    full = mmapcache.FullError("text")
    assert (full.needed, full.free, full.largest, full.limit) == (0, 0, 0, 0)


@pytest.mark.parametrize("order", ["cache first", "writer first", "nothing closed"])
def test_the_interpreter_ends_with_open_objects(cache_path: Path, order: str) -> None:
    script = """
import sys
import mmapcache

class Keeper:
    def __del__(self):
        for thing in reversed(self.things):
            try:
                repr(thing)
                len(thing)
            except Exception:
                pass

writer = mmapcache.Writer(sys.argv[1], max_size="4MiB")
with writer.batch() as batch:
    for n in range(100):
        batch.put("sites", n, {"_id": n, "inner": {"a": [1, 2]}})
cache = writer.reader()
snap = cache.snapshot()
walk = iter(cache["sites"].items())
keeper = Keeper()
keeper.things = [writer, cache, snap, walk, next(walk), cache["sites"].keys(), cache["sites"][5]]
keeper.me = keeper
open_batch = writer.batch()
open_batch.__enter__()
full = open_batch.replace("sites")
full.__enter__()
full.put(1, {"_id": 1})
sys.stored = keeper.things, open_batch, full
if sys.argv[2] == "cache first":
    cache.close()
elif sys.argv[2] == "writer first":
    writer.close()
print("ready")
"""
    assert run_script(script, str(cache_path), order) == "ready\n"
    with mmapcache.Writer(cache_path) as writer, writer.reader() as cache:
        assert len(cache["sites"]) == 100


def test_a_thread_waits_when_the_interpreter_ends(cache_path: Path) -> None:
    load(cache_path).close()
    script = """
import sys, threading, time
import mmapcache
cache = mmapcache.open(sys.argv[1])
def read():
    while True:
        cache["sites"].get(1)
for work in (lambda: cache.wait(1, 60), cache.check, read):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print("ready")
"""
    assert run_script(script, str(cache_path), timeout=20) == "ready\n"


def test_a_collection_of_garbage_may_close_whatever_is_read(cache_path: Path) -> None:
    """Up to CPython 3.11 it may begin wherever a list, a dict or a tuple is made."""
    with load(cache_path) as writer:
        fill(writer, "flags", *({"_id": n} for n in range(50)))
    script = """
import gc, itertools, sys
import mmapcache
looks = [
    list,
    lambda mapping: dict(mapping.items()),
    lambda mapping: mapping["absent"],
    lambda mapping: mapping.get("sites"),
    lambda mapping: mapping.collection("sites").get_many([1, 2]),
    lambda mapping: list(mapping["flags"].items()),
    lambda mapping: mapping["sites"].map(len)[1],
]
for look, snapshot, after in itertools.product(looks, (False, True), range(1, 15)):
    cache = mmapcache.open(sys.argv[1])
    mapping = cache.snapshot() if snapshot else cache
    if snapshot:
        cache.close()
    callback = lambda phase, info: mapping.close()
    gc.collect()
    gc.callbacks.append(callback)
    gc.set_threshold(after)
    try:
        look(mapping)
    except (KeyError, mmapcache.ClosedError):
        pass
    gc.callbacks.remove(callback)
    gc.set_threshold(700)
print("ready")
"""
    assert run_script(script, str(cache_path)) == "ready\n"


def test_readers_do_not_need_pymongo(cache_path: Path) -> None:
    make_cache(cache_path, {"_id": "a", "limits": {"qps": 5}, "list": [1.5, True, None]})
    script = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("bson", "pymongo"):
            raise AssertionError(name)

sys.meta_path.insert(0, Refuse())
import mmapcache
cache = mmapcache.open(sys.argv[1])
sites = cache["sites"]
assert sites["a"]["limits"]["qps"] == 5
assert sites["a"].to_dict()["list"] == [1.5, True, None]
assert sites.get_many(["a", 1, b"x", None, True, 1.5]) == {"a": sites["a"]}
assert dict(sites.items()) == {"a": sites["a"]}
assert sites.pluck("a", "list.0") == 1.5
assert repr(sites["a"])
cache.status(), cache.stats(), cache.check()
assert "bson" not in sys.modules
with mmapcache.Writer(sys.argv[1]) as writer:
    with writer.batch() as batch:
        batch.put("sites", "b", sites.get_raw("a"))
        batch.put("sites", "c", sites["a"])
        batch.put("sites", "d", {"_id": "d"})
assert len(sites) == 4
assert "bson" not in sys.modules
"""
    assert run_script(script, str(cache_path)) == ""
