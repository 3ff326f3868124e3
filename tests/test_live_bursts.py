"""Bursts of changes, hot keys and unusual _ids, through the change stream of a real server."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from support.live import in_state, well
from support.loader import wait_for
from support.mongodb_server import Server
from support.replica_set import (
    FEW,
    FEW_AT_ONCE,
    cached,
    database_of,
    equal,
    following,
    patched,
    settled,
    stored,
)

import mmapcache

pytestmark = pytest.mark.usefixtures("warm_loaders")

pymongo = pytest.importorskip("pymongo")


@pytest.fixture
def database(replica_set: Server, cache_path: Path) -> Iterator[Any]:
    with database_of(replica_set, cache_path) as database:
        database["sites"].insert_many([{"_id": i, "n": 0} for i in range(100)])
        yield database


def ns(collection: Any) -> str:
    return f"--collection={collection.full_name}"


def generations(cache: mmapcache.Cache, until: threading.Event) -> list[int]:
    """Each generation that a reader saw."""
    seen = [cache.generation]
    while not until.is_set():
        if cache.wait(seen[-1], 0.05):
            seen.append(cache.generation)
    return seen


# --- settling -------------------------------------------------------------------------------------


def test_a_burst_is_few_commits(replica_set: Server, database: Any, cache_path: Path) -> None:
    sites = database["sites"]
    with following(cache_path, replica_set, ns(sites), "--settle=500:3000") as (_, cache):
        before = settled(cache)
        for n in range(1, 4):
            sites.update_many({}, {"$set": {"n": n}})
        equal(cache, sites)
        # The first event may go on alone; a server that stalls may part the rest once or twice.
        assert 1 <= settled(cache) - before <= 6
        assert cache.status()["loads"] == {"initial": 1}
        wait_for(lambda: cache.status()["events"] == 300)


def test_a_lone_event_after_quiet_goes_on_at_once(
    replica_set: Server, database: Any, cache_path: Path
) -> None:
    sites = database["sites"]
    with following(cache_path, replica_set, ns(sites), "--settle=2000:2500") as (_, cache):

        def visible(n: int) -> float:
            sites.update_one({"_id": 0}, {"$set": {"n": n}})
            began = time.monotonic()
            wait_for(lambda: cache["sites"][0]["n"] == n)
            return time.monotonic() - began

        time.sleep(3)
        assert visible(1) < 2.0, "it waited for company"
        assert visible(2) > 1.5, "it did not wait for company"


@pytest.mark.parametrize("settle", ["0:0", "200:1000"])
def test_any_settle_time_ends_with_equality(
    replica_set: Server, database: Any, cache_path: Path, settle: str
) -> None:
    sites = database["sites"]
    with following(cache_path, replica_set, ns(sites), f"--settle={settle}") as (_, cache):
        for n in range(1, 101):
            sites.update_one({"_id": n % 7}, {"$set": {"n": n}})
            if n % 10 == 0:
                sites.delete_one({"_id": n - 1})
                sites.insert_one({"_id": n + 1000, "n": n})
        equal(cache, sites)
        assert cache.status()["loads"] == {"initial": 1}


# --- bursts of their own kind ---------------------------------------------------------------------


def test_a_refill_in_place(replica_set: Server, database: Any, cache_path: Path) -> None:
    """Readers see some of it gone, as the database had it, but nothing old after something new."""
    sites = database["sites"]
    over = threading.Event()
    wrong: list[str] = []

    def watch() -> None:
        newest: dict[int, int] = {}
        with mmapcache.open(cache_path, timeout=30) as cache:
            while not over.is_set():
                with cache.snapshot() as snapshot:
                    now = snapshot.generation
                    content = {key: d["n"] for key, d in snapshot["sites"].items()}
                wrong.extend(f"{k}: {n}" for k, n in content.items() if n < newest.get(k, 0))
                newest |= content
                cache.wait(now, 0.05)

    with following(cache_path, replica_set, ns(sites)) as (_, cache):
        reader = threading.Thread(target=watch)
        reader.start()
        for n in range(1, 4):
            sites.delete_many({})
            sites.insert_many([{"_id": i, "n": n} for i in range(100)])
        equal(cache, sites)
        over.set()
        reader.join()
        assert not wrong, wrong
        assert cache.status()["loads"] == {"initial": 1}


@pytest.mark.parametrize("settle", ["0:0", "5:100"])
def test_a_hot_key_never_goes_back(
    replica_set: Server, database: Any, cache_path: Path, settle: str
) -> None:
    """Update, delete, insert, update of one key: it may be absent, but never older than before."""
    sites = database["sites"]
    over = threading.Event()
    back: list[tuple[int, int]] = []
    seen: list[int] = []

    def watch() -> None:
        newest = 0
        with mmapcache.open(cache_path, timeout=30) as cache:
            generation = 0
            while not over.is_set():
                cache.wait(generation, 0.05)
                with cache.snapshot() as snapshot:
                    generation = snapshot.generation
                    document = snapshot["sites"].get(0)
                if document is not None:
                    if document["n"] < newest:
                        back.append((newest, document["n"]))
                    newest = document["n"]
                    seen.append(newest)

    with following(cache_path, replica_set, ns(sites), f"--settle={settle}") as (_, cache):
        reader = threading.Thread(target=watch)
        reader.start()
        last = 0
        while last < 800 or len(set(seen)) <= 5:  # what is gathered is seen once
            assert last < 200_000, f"of all that only {sorted(set(seen))} was seen"
            sites.update_one({"_id": 0}, {"$set": {"n": last + 1}})
            sites.delete_one({"_id": 0})
            sites.insert_one({"_id": 0, "n": last + 3})
            last += 4
            sites.update_one({"_id": 0}, {"$set": {"n": last}})
        equal(cache, sites)
        wait_for(lambda: seen and seen[-1] == last)
        over.set()
        reader.join()
        assert not back, back


def test_more_changes_than_a_load_weighs_are_a_load(
    replica_set: Server, database: Any, cache_path: Path
) -> None:
    sites = database["sites"]
    environment = patched(cache_path.with_name("patched"), FEW)
    with following(cache_path, replica_set, ns(sites), environment=environment) as (loader, cache):
        loader.signal(signal.SIGSTOP)
        sites.insert_many([{"_id": i, "n": 1} for i in range(1000, 1900)])
        sites.delete_many({"_id": {"$lt": 50}})
        loader.signal(signal.SIGCONT)
        equal(cache, sites)
        loader.expect("more than 50 documents changed: a load is quicker")
        wait_for(lambda: cache.status()["loads"].get("behind", 0) >= 1)
        in_state(cache, "streaming")
        sites.update_one({"_id": 99}, {"$set": {"n": 7}})
        equal(cache, sites)


def test_a_stream_that_falls_behind_is_a_load(
    replica_set: Server, database: Any, cache_path: Path
) -> None:
    """Few documents, but so often that what they were is of no interest any more."""
    sites = database["sites"]
    environment = patched(cache_path.with_name("patched"), FEW_AT_ONCE)
    flags = [ns(sites), "--settle=0:0"]
    with following(cache_path, replica_set, *flags, environment=environment) as (loader, cache):
        loader.signal(signal.SIGSTOP)
        for number in range(120):
            sites.update_one({"_id": number % 5}, {"$inc": {"n": 1}})
        time.sleep(3.5)  # late is what is more than two seconds old
        sites.update_one({"_id": 0}, {"$inc": {"n": 1}})
        loader.signal(signal.SIGCONT)
        loader.expect(r"\d+ changes, and still \d s behind")
        wait_for(lambda: cache.status()["loads"].get("behind") == 1)
        equal(cache, sites)


# --- keys -----------------------------------------------------------------------------------------


def every_id() -> list[Any]:
    from bson import (
        Binary,
        Code,
        Decimal128,
        Int64,
        MaxKey,
        MinKey,
        ObjectId,
        Timestamp,
    )

    return [
        None,
        True,
        False,
        7,
        Int64(8),
        9.0,
        2**40,
        0.5,
        -0.0,
        float("inf"),
        Decimal128("10"),
        Decimal128("0.1"),
        "",
        "text",
        "a\0b",
        "é" * 300,
        b"",
        b"bytes",
        Binary(b"own", 128),
        Binary.from_uuid(uuid.UUID(int=5)),
        ObjectId("0123456789abcdef01234567"),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        datetime(1, 1, 1, tzinfo=timezone.utc),
        datetime(9999, 12, 31, tzinfo=timezone.utc),
        {},
        {"a": 1, "b": {"c": "d"}},
        {"b": 1, "a": None},
        Timestamp(1, 2),
        Code("f()"),
        MinKey(),
        MaxKey(),
    ]


def test_ids_of_every_type(replica_set: Server, database: Any, cache_path: Path) -> None:
    keys = database["keys"]
    keys.insert_one({"_id": "first"})
    with following(cache_path, replica_set, ns(keys)) as (loader, cache):
        for number, one in enumerate(every_id()):
            keys.insert_one({"_id": one, "n": number})
        assert len(stored(keys)) == len(every_id()) + 1
        equal(cache, keys)
        for number, one in enumerate(every_id()):
            updated = keys.update_one({"_id": one}, {"$set": {"n": -number, "more": "x"}})
            assert updated.matched_count, one
        equal(cache, keys)
        loader.signal(signal.SIGHUP)
        loader.expect(f"verified: {len(every_id()) + 1} documents compared, 0 differed")
        for one in every_id():
            assert keys.delete_one({"_id": one}).deleted_count, one
        equal(cache, keys)
        assert len(cached(cache, "keys")) == 1
        wait_for(lambda: cache.status()["loads"] == {"initial": 1, "verify": 1})


def test_one_number_in_another_type(replica_set: Server, database: Any, cache_path: Path) -> None:
    """int32, int64, double and Decimal128 of one value are one _id."""
    from bson import Decimal128, Int64

    keys = database["keys"]
    keys.insert_one({"_id": 5, "n": 0})
    with following(cache_path, replica_set, ns(keys)) as (_, cache):
        for n, one in enumerate([Int64(5), 5.0, Decimal128("5"), 5, Decimal128("5.0"), 5.0, 5]):
            keys.delete_one({"_id": 5})
            keys.insert_one({"_id": one, "n": n})
            if n % 2:
                equal(cache, keys)
                assert len(cached(cache, "keys")) == 1
        equal(cache, keys)
        keys.delete_one({"_id": 5.0})
        equal(cache, keys)
        assert cache.status()["loads"] == {"initial": 1}


def test_a_key_that_no_cache_can_hold(replica_set: Server, database: Any, cache_path: Path) -> None:
    """Its collection keeps its content, the others go on; when it is gone, all is well."""
    sites, others = database["sites"], database["others"]
    others.insert_one({"_id": 1, "n": 0})
    flags = [ns(sites), ns(others), "--interval=0.2"]
    with following(cache_path, replica_set, *flags) as (_, cache):
        before = cached(cache, "sites")
        sites.insert_one({"_id": "x" * 1100})
        sites.update_one({"_id": 1}, {"$set": {"n": 1}})
        in_state(cache, "degraded")
        wait_for(lambda: "1024 bytes" in (cache.status()["error"] or ""))
        for n in range(1, 5):
            others.update_one({"_id": 1}, {"$set": {"n": n}})
            equal(cache, others)
        assert cached(cache, "sites") == before
        assert cache.status()["state"] == "degraded"
        wait_for(lambda: cache.status()["loads"]["refused"] >= 1)
        sites.delete_one({"_id": "x" * 1100})
        equal(cache, sites)
        well(cache)
        sites.update_one({"_id": 1}, {"$set": {"n": 2}})
        equal(cache, sites)


# --- what is followed -----------------------------------------------------------------------------


def test_two_names_for_one_collection(replica_set: Server, database: Any, cache_path: Path) -> None:
    sites = database["sites"]
    config = cache_path.with_name("config.toml")
    tables = [
        f'[[collection]]\nfrom = "{sites.full_name}"\nname = "{name}"\nfilter = \'{text}\'\n'
        for name, text in (("low", '{"n": {"$lt": 5}}'), ("high", '{"n": {"$gte": 5}}'))
    ]
    config.write_text("".join(tables))
    low, high = {"n": {"$lt": 5}}, {"n": {"$gte": 5}}
    sites.update_many({"_id": {"$gte": 50}}, {"$set": {"n": 9}})
    with following(cache_path, replica_set, f"--config={config}") as (_, cache):
        equal(cache, sites, low, name="low")
        equal(cache, sites, high, name="high")
        sites.update_one({"_id": 1}, {"$set": {"n": 6}})  # leaves one, enters the other
        sites.update_one({"_id": 60}, {"$set": {"n": 1}})
        sites.update_one({"_id": 61}, {"$unset": {"n": 1}})  # in neither
        sites.delete_one({"_id": 62})
        sites.insert_one({"_id": 1000, "n": 5})
        equal(cache, sites, low, name="low")
        equal(cache, sites, high, name="high")
        assert len(cache["low"]) + len(cache["high"]) == 99
        assert cache.status()["loads"] == {"initial": 1}


def test_several_databases(replica_set: Server, database: Any, cache_path: Path) -> None:
    """One stream for each; a restart goes on from the position of each."""
    client = database.client
    others = [client[f"{database.name}_{n}"] for n in range(3)]
    try:
        for n, other in enumerate(others):
            other["rates"].insert_many([{"_id": i, "n": n} for i in range(3)])
        flags = [ns(database["sites"])]
        flags += [f"{ns(other['rates'])}=rates{n}" for n, other in enumerate(others)]

        def change(value: int) -> None:
            for other in others:
                other["rates"].update_one({"_id": 1}, {"$set": {"n": value}})
            database["sites"].delete_one({"_id": value})

        def same(cache: mmapcache.Cache) -> None:
            equal(cache, database["sites"])
            for n, other in enumerate(others):
                equal(cache, other["rates"], name=f"rates{n}")

        with following(cache_path, replica_set, *flags) as (loader, cache):
            change(10)
            same(cache)
            loader.signal(signal.SIGKILL)
            loader.wait()
        change(11)
        others[2]["rates"].delete_one({"_id": 0})
        with following(cache_path, replica_set, *flags) as (loader, cache):
            loader.expect("going on from the position")
            same(cache)
            change(12)
            same(cache)
            assert cache.status()["loads"] == {"initial": 1}
    finally:
        for other in others:
            client.drop_database(other.name)
