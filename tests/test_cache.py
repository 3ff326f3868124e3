"""Cache, Collection and Snapshot as a reader uses them."""

from __future__ import annotations

import collections.abc
import datetime
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from support.caches import fill

import mmapcache

bson = pytest.importorskip("bson")


# ---- opening ----


def test_open_of_a_missing_file_is_not_ready(cache_path: Path) -> None:
    with pytest.raises(mmapcache.NotReadyError, match=str(cache_path)):
        mmapcache.open(cache_path)


def test_open_without_a_generation_is_not_ready(writer: mmapcache.Writer, cache_path: Path) -> None:
    with pytest.raises(mmapcache.NotReadyError):
        mmapcache.open(cache_path, 0.05)
    with writer.reader() as cache:
        assert cache.generation == 0
        assert len(cache) == 0
        assert list(cache) == []
        assert cache.state == b""


def test_open_waits_for_the_first_generation(cache_path: Path) -> None:
    def load() -> None:
        time.sleep(0.2)
        with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
            time.sleep(0.1)
            fill(writer, "sites", {"_id": 1})
            time.sleep(0.2)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        with mmapcache.open(cache_path, timeout=20) as cache:
            assert cache["sites"][1] == {"_id": 1}
    finally:
        thread.join()


@pytest.mark.parametrize("kind", [str, Path, bytes])
def test_open_takes_every_kind_of_path(
    writer: mmapcache.Writer, cache_path: Path, kind: type
) -> None:
    fill(writer, "sites", {"_id": 1})
    path = str(cache_path).encode() if kind is bytes else kind(cache_path)
    with mmapcache.open(path) as cache:
        assert cache.path == str(cache_path)


def test_open_keeps_a_relative_path_across_chdir(
    writer: mmapcache.Writer, cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(writer, "sites", {"_id": 1})
    monkeypatch.chdir(cache_path.parent)
    with mmapcache.open(cache_path.name) as cache:
        monkeypatch.chdir("/")
        assert cache.path == cache_path.name
        assert cache.status()["loader"] == "alive"
        assert fill(writer, "sites", {"_id": 2}) == cache.generation


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"timeout": "soon"}, TypeError),
        ({"timeout": float("nan")}, ValueError),
        ({"front_bytes": "lots"}, ValueError),
        ({"front_bytes": -1}, ValueError),
        ({"front_entries": 1 << 40}, ValueError),
        ({"codec_options": 5}, TypeError),
        ({"nonsense": 1}, TypeError),
    ],
)
def test_open_refuses_wrong_arguments(
    writer: mmapcache.Writer, cache_path: Path, arguments: dict[str, Any], error: type[Exception]
) -> None:
    fill(writer, "sites", {"_id": 1})
    with pytest.raises(error):
        mmapcache.open(cache_path, **arguments)


def test_open_populates_on_request(writer: mmapcache.Writer, cache_path: Path) -> None:
    fill(writer, "sites", {"_id": 1})
    with mmapcache.open(cache_path, populate=True) as cache:
        assert cache["sites"][1] == {"_id": 1}


def test_twice_in_one_process(writer: mmapcache.Writer, cache_path: Path) -> None:
    fill(writer, "sites", {"_id": 1, "n": 1})
    one, two = mmapcache.open(cache_path), mmapcache.open(cache_path)
    one.close()
    assert two["sites"][1] == {"_id": 1, "n": 1}
    two.close()


# ---- the cache as a mapping ----


def test_cache_is_a_mapping_of_collections(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": 1})
    fill(writer, "flags", {"_id": 1}, {"_id": 2})
    assert isinstance(cache, collections.abc.Mapping)
    assert sorted(cache) == sorted(cache.keys()) == ["flags", "sites"]
    assert len(cache) == 2
    assert "flags" in cache
    assert "nothing" not in cache
    assert 5 not in cache  # type: ignore[comparison-overlap]
    assert {name: len(value) for name, value in cache.items()} == {"sites": 1, "flags": 2}
    assert sorted(len(value) for value in cache.values()) == [1, 2]
    assert cache["sites"] is cache["sites"] is cache.get("sites") is cache.collection("sites")
    assert cache.get("nothing") is None
    assert cache.get("nothing", default=7) == 7
    for missing in ("nothing", "", "\0", "\ud800", "n" * 1000, 5):
        with pytest.raises(KeyError):
            cache[missing]  # type: ignore[index]
    assert repr(cache) == f"<mmapcache.Cache {cache.path!r}>"


def test_a_handle_before_its_collection_exists(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites = cache.collection("sites")
    assert sites.name == "sites"
    assert len(sites) == 0
    assert list(sites) == []
    assert sites.get(1) is None
    fill(writer, "sites", {"_id": 1})
    assert sites[1] == {"_id": 1}


def test_a_dropped_collection_acts_as_empty_and_comes_back(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": 1})
    sites = cache["sites"]
    with writer.batch() as batch:
        assert batch.drop("sites")
    assert len(sites) == 0
    assert sites.get(1) is None
    assert 1 not in sites
    assert sites.get_many([1]) == {}
    assert "sites" not in cache
    with pytest.raises(KeyError):
        cache["sites"]
    fill(writer, "sites", {"_id": 1, "back": True})
    assert sites[1] == {"_id": 1, "back": True}


def test_an_emptied_collection_stays(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": 1})
    with writer.batch() as batch:
        assert batch.delete("sites", 1)
    assert "sites" in cache
    assert len(cache["sites"]) == 0


# ---- the collection as a mapping ----


def test_collection_is_a_mapping_of_documents(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    documents = {key: {"_id": key, "n": n} for n, key in enumerate(["a", "b", "ü", 4, b"five"])}
    fill(writer, "sites", *documents.values())
    sites = cache["sites"]
    assert isinstance(sites, collections.abc.Mapping)
    assert len(sites) == 5
    assert dict(sites) == documents
    assert set(sites) == set(documents)
    assert {document["n"] for document in sites.values()} == set(range(5))
    assert dict(sites.items()) == documents
    assert sites["ü"]["n"] == 2
    assert "a" in sites
    assert "z" not in sites
    assert sites.get("z", 5) == 5
    assert sites.get(key="a") == documents["a"]
    assert sites.get("z", default=6) == 6
    assert repr(sites) == "<mmapcache.Collection 'sites'>"
    with pytest.raises(KeyError) as error:
        sites["z"]
    assert error.value.args == ("z",)
    assert not hasattr(sites, "__setitem__")
    match sites:
        case {"a": {"n": n}}:
            assert n == 0
        case _:
            pytest.fail("not a mapping to match")


def test_views_are_views(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": "a"}, {"_id": "b"})
    sites = cache["sites"]
    keys: Any = sites.keys()
    values: Any = sites.values()
    items: Any = sites.items()
    abstract = collections.abc
    kinds = [abstract.KeysView, abstract.ValuesView, abstract.ItemsView]
    assert all(
        isinstance(view, kind) for view, kind in zip((keys, values, items), kinds, strict=True)
    )
    assert keys & {"a", "z"} == {"a"}
    assert {"a", "z"} - keys == {"z"}
    assert keys | ["c"] == {"a", "b", "c"}
    assert keys ^ {"a", "c"} == {"b", "c"}
    assert keys == {"a", "b"}
    assert keys == dict.fromkeys("ab").keys()
    assert keys <= {"a", "b", "c"}
    assert keys != {"a"}
    assert keys != 5
    assert keys.isdisjoint({"z"})
    assert ("a", {"_id": "a"}) in items
    assert ("a", {"_id": "b"}) not in items
    assert ("z", {}) not in items
    assert 5 not in items
    assert {"_id": "a"} in values
    assert values.mapping is sites
    fill(writer, "sites", {"_id": "c"})
    assert len(keys) == len(values) == len(items) == 3
    assert "c" in keys
    assert "sites" in repr(keys)


@pytest.mark.parametrize("key", [[1], (1,), {1}, object(), slice(1)])
def test_wrong_key_types_are_type_errors(writer: mmapcache.Writer, key: object) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": 1})
    sites = cache["sites"]
    for call in (sites.get, sites.__getitem__, sites.__contains__, sites.get_raw):
        with pytest.raises(TypeError):
            call(key)
    with pytest.raises(TypeError):
        sites.get_many([key])
    with pytest.raises(TypeError):
        sites.pluck(key, "a")


def test_calls_with_wrong_arguments_are_type_errors(writer: mmapcache.Writer) -> None:
    cache: Any = writer.reader()
    fill(writer, "sites", {"_id": 1})
    sites: Any = cache["sites"]
    types: Any = mmapcache
    for call in (
        sites.get,
        lambda: sites.get(1, 2, 3),
        lambda: sites.get(1, fallback=2),
        lambda: sites.get(1, key=1),
        lambda: sites.get(default=1),
        lambda: sites.pluck(1),
        lambda: sites.pluck(1, 2),
        lambda: sites.get_many("ab"),
        lambda: sites.get_many(5),
        lambda: types.Collection(),
        lambda: types.Cache("x"),
        lambda: cache.collection(5),
    ):
        with pytest.raises(TypeError):
            call()


# ---- keys ----

NUMBERS = [1, 1.0, bson.Int64(1), bson.Decimal128("1"), bson.Decimal128("1.0")]


@pytest.mark.parametrize("stored", NUMBERS, ids=repr)
def test_numbers_of_equal_value_are_one_key(writer: mmapcache.Writer, stored: object) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": stored, "n": 7})
    for key in NUMBERS:
        assert cache["sites"][key]["n"] == 7
    for other in ("1", True, b"\x01", 2, 1.5):
        assert other not in cache["sites"]


def test_keys_that_python_confuses_are_three(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": 1}, {"_id": "1"}, {"_id": True})
    sites = cache["sites"]
    assert len(sites) == 3
    assert type(sites[1]["_id"]) is int
    assert sites["1"]["_id"] == "1"
    assert sites[True]["_id"] is True
    assert False not in sites


def test_large_integers_are_exact(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": 2**53 + 1, "n": "int"}, {"_id": 2.0**53, "n": "float"})
    sites = cache["sites"]
    assert sites[2**53 + 1]["n"] == "int"
    assert sites[2**53]["n"] == "float"
    assert sites[2.0**53]["n"] == "float"
    assert 10**40 not in sites
    assert sites.get(-(10**40)) is None


def test_nan_is_a_key(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": float("nan"), "n": 1})
    assert cache["sites"][float("nan")]["n"] == 1


def test_natural_keys_come_back(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    keys = [
        "text",
        7,
        2**40,
        1.5,
        b"bytes",
        None,
        True,
        bson.ObjectId(),
        uuid.uuid4(),
        datetime.datetime(2024, 5, 6, 7, 8, 9),
    ]
    fill(writer, "sites", *({"_id": key} for key in keys))
    sites = cache["sites"]
    assert len(sites) == len(keys)
    found = list(sites)
    for key in keys:
        assert sites[key]["_id"] == key
        assert any(type(other) is type(key) and other == key for other in found), key
    assert set(sites.get_many(keys)) == set(keys)


def test_subdocument_keys(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": {"a": 1, "b": "x"}, "n": 1})
    sites = cache["sites"]
    assert sites[{"a": 1.0, "b": "x"}]["n"] == 1
    assert {"b": "x", "a": 1} not in sites
    (key,) = sites
    assert isinstance(key, mmapcache.Document)
    assert sites[key]["n"] == 1
    assert sites.get_many([key]) == {key: {"_id": {"a": 1, "b": "x"}, "n": 1}}


def test_unhashable_keys_are_found_but_not_by_get_many(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    key = bson.Decimal128("1.23")
    fill(writer, "sites", {"_id": key})
    sites = cache["sites"]
    assert sites[key]["_id"] == key
    assert list(sites) == [key]
    with pytest.raises(TypeError, match="unhashable"):
        sites.get_many([key])


def test_keys_that_cannot_be_are_absent(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": 1})
    sites = cache["sites"]
    for key in ("\ud800", "k" * 2000, b"k" * 2000, 10**40):
        assert sites.get(key) is None
        assert key not in sites
        assert sites.get_raw(key) is None
        assert sites.get_many([key]) == {}
        assert sites.pluck(key, "a", 5) == 5
        with pytest.raises(KeyError):
            sites[key]


# ---- get_raw, get_many, pluck ----


def test_get_raw_is_what_was_put(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    raw = bson.encode({"_id": 1, "n": [1, {"a": None}]})
    with writer.batch() as batch:
        assert batch.put_raw("sites", raw) == 1
    assert cache["sites"].get_raw(1) == raw
    assert cache["sites"].get_raw(2) is None


@pytest.mark.parametrize("front", [0, 16384])
@pytest.mark.parametrize("kind", [str, int])
def test_get_many(cache_path: Path, front: int, kind: type) -> None:
    with mmapcache.Writer(cache_path, max_size="32MiB") as writer:
        fill(writer, "sites", *({"_id": kind(n), "n": n} for n in range(1000)))
        with writer.reader(front_entries=front) as cache:
            sites = cache["sites"]
            wanted = [kind(n) for n in range(-50, 300)]
            for _ in range(3):
                found = sites.get_many(wanted)
                assert list(found) == [key for key in wanted if int(key) >= 0]
                assert all(found[key] == {"_id": key, "n": int(key)} for key in found)
            assert sites.get_many([]) == {}
            assert sites.get_many(iter([kind(5), kind(5)])) == {kind(5): sites[kind(5)]}
            mixed = [kind(1), None, 1.5, bson.ObjectId(), b"x" * 300, kind(2)]
            assert list(sites.get_many(mixed)) == [kind(1), kind(2)]


def test_get_many_survives_keys_that_misbehave(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": 1}, {"_id": 2})

    class Hostile(int):
        def __hash__(self) -> int:
            cache.close()
            return 1

    with pytest.raises((mmapcache.ClosedError, TypeError)):
        cache["sites"].get_many([1, Hostile(2), 3])
        cache["sites"]


def test_pluck(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    document = {
        "_id": "a",
        "limits": {"qps": 50, "hosts": [{"name": "x"}, {"name": "y"}]},
        "a.b": 1,
        "text": "t" * 5000,
        "none": None,
    }
    fill(writer, "sites", document)
    for front in (0, 100):
        sites = writer.reader(front_entries=front)["sites"]
        for _ in range(3):
            assert sites.pluck("a", "limits.qps") == 50
            assert sites.pluck("a", "limits.hosts.1.name") == "y"
            assert sites.pluck("a", "limits.hosts.0") == {"name": "x"}
            assert sites.pluck("a", "limits.hosts") == [{"name": "x"}, {"name": "y"}]
            assert sites.pluck("a", "limits.hosts.name") is None
            assert sites.pluck("a", "limits") == document["limits"]
            assert sites.pluck("a", "text") == "t" * 5000
            assert sites.pluck("a", "none", 5) is None
            assert sites.pluck("a", "limits.nothing", default=5) == 5
            assert sites.pluck("z", "limits.qps", 6) == 6
            assert sites.pluck(key="a", path="limits.qps") == 50
            if front:
                sites.get("a")
    del cache


# ---- generations ----


def test_generations_go_on_and_wait_notices(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    assert cache.generation == 0
    assert fill(writer, "sites", {"_id": 1}) == cache.generation == 1
    assert cache.wait(0, 0) is True
    assert cache.wait(1, 0) is False
    start = time.monotonic()
    assert cache.wait(1, 0.2) is False
    assert time.monotonic() - start > 0.15
    thread = threading.Timer(0.2, fill, (writer, "sites", {"_id": 2}))
    thread.start()
    assert cache.wait(1, timeout=30) is True
    thread.join()
    assert cache.wait(generation=1) is True
    with pytest.raises(TypeError):
        cache.wait("1", 0)  # type: ignore[arg-type]


def test_state_is_published_with_the_data(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    with writer.batch() as batch:
        batch.state = b"position 7"
        batch.put("sites", 1, {"_id": 1})
    assert cache.state == writer.state == b"position 7"
    with writer.batch() as batch:
        batch.state = b""
    assert cache.state == b""


def test_a_snapshot_is_one_generation(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": 1, "n": 1})
    fill(writer, "flags", {"_id": 1, "n": 1})
    with cache.snapshot() as snap:
        generation = snap.generation
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1, "n": 2})
            batch.put("sites", 2, {"_id": 2})
            batch.put("more", 1, {"_id": 1})
            batch.drop("flags")
        assert cache["sites"][1]["n"] == 2
        assert snap.generation == generation == cache.generation - 1
        assert isinstance(snap, collections.abc.Mapping)
        assert sorted(snap) == sorted(snap.keys()) == ["flags", "sites"]
        assert len(snap) == 2
        assert "flags" in snap
        assert "more" not in snap
        assert 5 not in snap  # type: ignore[comparison-overlap]
        assert snap["sites"][1]["n"] == 1
        assert 2 not in snap["sites"]
        assert len(snap["sites"]) == 1
        assert list(snap["sites"]) == [1]
        assert snap["sites"].get_many([1, 2]) == {1: {"_id": 1, "n": 1}}
        assert snap["sites"].pluck(1, "n") == 1
        assert snap["flags"][1]["n"] == 1
        assert snap.get("more") is None
        assert len(snap.collection("more")) == 0
        assert {name: len(value) for name, value in snap.items()} == {"flags": 1, "sites": 1}
        with pytest.raises(KeyError):
            snap["more"]
        with pytest.raises(KeyError):
            snap[5]  # type: ignore[index]
        held = snap["sites"]
    assert snap.closed
    for call in (lambda: snap["sites"], lambda: held[1], lambda: snap.generation, snap.__enter__):
        with pytest.raises(mmapcache.ClosedError):
            call()
    assert "closed" in repr(snap)
    snap.close()


def test_a_snapshot_shares_documents_that_did_not_change(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", {"_id": 1}, {"_id": 2})
    document = cache["sites"][1]
    with cache.snapshot() as snap:
        assert snap["sites"][1] is document
        fill(writer, "sites", {"_id": 2, "n": 2})
        assert cache["sites"][1] is document
        assert snap["sites"][1] is document
        assert snap["sites"][2] == {"_id": 2}
        assert cache["sites"][2] == {"_id": 2, "n": 2}


def test_a_reclaimed_snapshot_expires(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="2MiB", retention=0) as writer:
        cache = writer.reader()
        fill(writer, "sites", *({"_id": n, "v": b"0" * 500} for n in range(300)))
        snap = cache.snapshot()
        sites = snap["sites"]
        walk = iter(cache["sites"])
        next(walk)
        for turn in range(40):
            fill(writer, "sites", *({"_id": n, "v": str(turn) * 300} for n in range(300)))
        for call in (
            lambda: sites[1],
            lambda: sites.get(999),
            lambda: 5 in sites,
            lambda: sites.get_raw(5),
            lambda: sites.get_many([1, 2]),
            lambda: sites.pluck(1, "v"),
            lambda: list(sites),
            lambda: list(snap),
            lambda: "sites" in snap,
            lambda: list(walk),
        ):
            with pytest.raises(mmapcache.SnapshotExpired):
                call()
        assert cache["sites"][1]["v"] == "39" * 300
        assert cache.generation == 41
        with cache.snapshot() as fresh:
            assert fresh["sites"][1]["v"] == "39" * 300


def test_iteration_answers_from_one_generation(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", *({"_id": n, "n": 0} for n in range(500)))
    walk = iter(cache["sites"].items())
    seen = dict([next(walk)])
    with writer.batch() as batch, batch.replace("sites") as full:
        for n in range(500, 900):
            full.put(n, {"_id": n, "n": 1})
    seen.update(walk)
    assert set(seen) == set(range(500))
    assert all(document["n"] == 0 for document in seen.values())
    assert set(cache["sites"]) == set(range(500, 900))


# ---- files that are replaced ----


def test_readers_move_to_the_successor(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        fill(writer, "sites", {"_id": 1, "n": 1})
        cache = mmapcache.open(cache_path)
        sites = cache["sites"]
        assert sites[1]["n"] == 1
        file_id = cache.status()["file_id"]
        generation = cache.generation
        snap = cache.snapshot()
    with mmapcache.Writer(cache_path, max_size="8MiB") as writer:
        assert writer.generation >= generation
        fill(writer, "sites", {"_id": 1, "n": 2}, {"_id": 2})
        deadline = time.monotonic() + 5
        while sites[1]["n"] != 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert sites[1]["n"] == 2
        assert cache.generation > generation
        assert cache.status()["file_id"] != file_id
        assert cache.stats()["max_size"] == 8 << 20
        assert snap["sites"][1]["n"] == 1
        assert snap.generation == generation
        assert 2 not in snap["sites"]
    snap.close()
    cache.close()


@pytest.mark.parametrize("how", ["read", "wait", "status"])
def test_readers_notice_a_file_replaced_by_hand(cache_path: Path, how: str) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        for n in range(5):
            fill(writer, "sites", {"_id": 1, "n": n})
    cache = mmapcache.open(cache_path)
    sites = cache["sites"]
    generation = cache.generation
    old = sites[1]
    cache_path.unlink()
    assert sites[1] is old
    assert cache.status()["generation"] == generation
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        assert sites[1] is old  # nothing there yet
        cache.status()
        assert sites[1] is old
        fill(writer, "sites", {"_id": 1, "n": "new"})
        deadline = time.monotonic() + 10
        if how == "wait":
            assert cache.wait(generation, 10)
        elif how == "status":
            assert cache.status()["generation"] > generation
        else:
            while sites[1]["n"] != "new" and time.monotonic() < deadline:
                time.sleep(0.001)
        assert sites[1]["n"] == "new"
        assert cache.generation > generation
        before = cache.generation
        fill(writer, "sites", {"_id": 1, "n": "newer"})
        assert cache.generation > before
        assert sites[1]["n"] == "newer"
    cache.close()


def test_a_busy_reader_notices_a_replaced_file(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        fill(writer, "sites", {"_id": 1, "n": 1})
    cache = mmapcache.open(cache_path)
    sites = cache["sites"]
    cache_path.unlink()
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        fill(writer, "sites", {"_id": 1, "n": 2})
        deadline = time.monotonic() + 60
        while sites[1]["n"] != 2 and time.monotonic() < deadline:
            pass
        assert sites[1]["n"] == 2


# ---- reports ----


def test_status(writer: mmapcache.Writer, cache_path: Path) -> None:
    cache = writer.reader()
    empty = cache.status()
    assert empty["generation"] == 0
    assert empty["published_at"] is None
    assert empty["age"] is None
    now = time.time()
    fill(writer, "sites", {"_id": 1})
    writer.report(state="polling", error="no server", source="mongodb://host", confirmed=True)
    status = cache.status()
    assert set(status) == {
        "path", "file_id", "generation", "published_at", "confirmed_at", "age", "loader", "state",
        "error", "source", "lag", "position_at", "events", "disconnects", "loads", "errors",
    }  # fmt: skip
    assert status["path"] == str(cache_path)
    assert str(uuid.UUID(status["file_id"])) == status["file_id"]
    assert status["generation"] == 1
    assert status["published_at"] is not None
    assert now - 1 < status["published_at"] < time.time() + 1
    assert status["confirmed_at"] is not None
    assert status["confirmed_at"] >= status["published_at"]
    assert status["age"] is not None
    assert 0 <= status["age"] < 60
    assert status["loader"] == "alive"
    assert (status["state"], status["error"], status["source"]) == (
        "polling",
        "no server",
        "mongodb://host",
    )
    writer.report(error="", confirmed=now - 100)
    assert cache.status()["error"] is None
    assert cache.status()["state"] == "polling"
    age = cache.status()["age"]
    assert age is not None
    assert 90 < age < 200
    assert writer.status()["generation"] == 1
    writer.close()
    assert cache.status()["loader"] == "none"


def test_stats(writer: mmapcache.Writer) -> None:
    cache = writer.reader(front_entries=10)
    fill(writer, "sites", {"_id": 1}, {"_id": 2})
    fill(writer, "flags", {"_id": 1})
    assert cache["sites"].get(1) is cache["sites"].get(1)
    stats = cache.stats()
    assert set(stats) == {
        "collections", "documents", "bytes_used", "bytes_free", "largest_free", "file_size",
        "max_size", "huge_bytes", "front_cache",
    }  # fmt: skip
    assert stats["collections"] == 2
    assert stats["documents"] == 3
    assert stats["max_size"] == 32 << 20
    assert stats["bytes_used"] + stats["bytes_free"] <= stats["file_size"] <= stats["max_size"]
    assert 0 < stats["largest_free"] <= stats["bytes_free"]
    front = stats["front_cache"]
    assert set(front) == {"entries", "bytes", "hits", "misses", "revalidations", "evictions"}
    assert (front["entries"], front["hits"], front["misses"]) == (1, 1, 1)
    assert writer.stats()["documents"] == 3


def test_check(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    fill(writer, "sites", *({"_id": n} for n in range(100)))
    fill(writer, "flags", {"_id": 1})
    report = cache.check()
    assert report["generation"] == 2
    assert {name: item["documents"] for name, item in report["collections"].items()} == {
        "sites": 100,
        "flags": 1,
    }
    assert report["entries"] >= 101
    assert report["largest_free"] > 0
    assert sum(size * count for size, count in report["free_blocks"].items()) > 0


def test_check_finds_a_flipped_byte(writer: mmapcache.Writer, cache_path: Path) -> None:
    fill(writer, "sites", {"_id": 1, "marker": "here it is"})
    with cache_path.open("r+b") as file:
        content = file.read()
        place = content.rindex(b"here it is")
        file.seek(place)
        file.write(b"H")
    with mmapcache.open(cache_path) as cache, pytest.raises(mmapcache.CorruptError):
        cache.check()


# ---- codec options ----


def test_codec_options_of_cache_and_collection(writer: mmapcache.Writer, cache_path: Path) -> None:
    from bson.codec_options import CodecOptions

    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc)
    fill(writer, "sites", {"_id": 1, "at": moment})
    aware: Any = CodecOptions(tz_aware=True)
    with mmapcache.open(cache_path) as cache:
        assert cache["sites"][1]["at"] == moment.replace(tzinfo=None)
        special = cache.collection("sites", codec_options=aware)
        assert special is cache.collection("sites", aware)
        assert special[1]["at"] == moment
        assert cache["sites"][1]["at"] == moment.replace(tzinfo=None)
        with cache.snapshot() as snap:
            assert snap.collection("sites", aware)[1]["at"] == moment
    with mmapcache.open(cache_path, codec_options=aware) as cache:
        assert cache["sites"][1]["at"] == moment
        assert next(iter(cache["sites"].values()))["at"] == moment
        assert cache["sites"].pluck(1, "at") == moment
    refused: Any = CodecOptions(document_class=collections.OrderedDict)
    with pytest.raises((TypeError, ValueError), match="document_class"):
        mmapcache.open(cache_path, codec_options=refused)
