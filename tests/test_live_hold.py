"""--hold-while: nothing is published while a marker is there, then all of it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hold import Hold
from support.live import following as scripted
from support.live import in_state
from support.loader import Loader, load_once, wait_for
from support.mongodb_server import Server
from support.replica_set import (
    FEW,
    database_of,
    equal,
    following,
    patched,
    settled,
)
from support.scripted_oplog import Delay, ReplicaSet

import mmapcache

pymongo = pytest.importorskip("pymongo")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

HELD = "publication is held while a document of "


@pytest.fixture
def shop(replica_set: Server, cache_path: Path) -> Iterator[Any]:
    """A database of two collections."""
    with database_of(replica_set, cache_path) as database:
        for name in ("sites", "rates"):
            database[name].insert_many([{"_id": i, "n": 0} for i in range(20)])
        yield database


def flags(shop: Any, marker: Any = None) -> list[str]:
    marker = shop["migrations"] if marker is None else marker
    return [
        f"--collection={shop.name}.sites",
        f"--collection={shop.name}.rates",
        f'--hold-while={marker.full_name}:{{"running": true}}',
        "--interval=0.2",
    ]


def mark(marker: Any) -> None:
    marker.insert_one({"_id": "m", "running": True})


def unmark(marker: Any) -> None:
    marker.update_one({"_id": "m"}, {"$set": {"running": False}})


def migrate(shop: Any, n: int) -> None:
    """Every document, some here, some there."""
    for i in range(10):
        shop["sites"].update_one({"_id": i}, {"$set": {"n": n}})
        shop["rates"].update_one({"_id": i}, {"$set": {"n": n}})
    shop["sites"].delete_one({"_id": 19})
    shop["rates"].insert_one({"_id": 100 + n, "n": n})
    shop["sites"].update_many({}, {"$set": {"n": n}})
    shop["rates"].update_many({}, {"$set": {"n": n}})


def held(cache: mmapcache.Cache) -> bool:
    return HELD in (cache.status()["error"] or "")


def content(cache: mmapcache.Cache) -> set[int]:
    """The values of `n` in one generation."""
    with cache.snapshot() as snapshot:
        return {d["n"] for name in ("sites", "rates") for d in snapshot[name].values()}


def same(cache: mmapcache.Cache, shop: Any) -> None:
    equal(cache, shop["sites"])
    equal(cache, shop["rates"])


def test_what_changes_while_held_is_one_generation(
    replica_set: Server, shop: Any, cache_path: Path
) -> None:
    marker = shop["migrations"]
    with following(cache_path, replica_set, *flags(shop)) as (loader, cache):
        before = settled(cache)
        for n in (1, 2):
            mark(marker)
            migrate(shop, n)
            wait_for(lambda: held(cache))
            lag = cache.status()["lag"] or 0.0
            assert settled(cache, 1.5) == before
            assert content(cache) == {n - 1}
            assert cache.status()["state"] == "streaming"
            assert (cache.status()["lag"] or 0.0) > lag + 1, "it grows"
            unmark(marker)
            same(cache, shop)
            before += 1
            assert settled(cache) == before
            wait_for(lambda: not cache.status()["error"])
            marker.delete_one({"_id": "m"})
        assert cache.status()["loads"] == {"initial": 1}
        loader.expect("recovered")


def test_other_documents_of_the_markers_collection_hold_nothing(
    replica_set: Server, shop: Any, cache_path: Path
) -> None:
    with following(cache_path, replica_set, *flags(shop)) as (_, cache):
        shop["migrations"].insert_one({"_id": "done", "running": False})
        migrate(shop, 1)
        same(cache, shop)
        assert not cache.status()["error"]


def test_a_marker_in_another_database(replica_set: Server, shop: Any, cache_path: Path) -> None:
    other = shop.client[f"{shop.name}_other"]
    marker = other["of.migrations"]
    try:
        with following(cache_path, replica_set, *flags(shop, marker)) as (_, cache):
            before = settled(cache)
            mark(marker)
            migrate(shop, 1)
            wait_for(lambda: held(cache))
            assert settled(cache) == before
            marker.delete_one({"_id": "m"})
            same(cache, shop)
            assert settled(cache) == before + 1
    finally:
        shop.client.drop_database(other.name)


def test_the_markers_collection_may_be_among_those_loaded(
    replica_set: Server, shop: Any, cache_path: Path
) -> None:
    hold = f'--hold-while={shop.name}.sites:{{"_id": "marker"}}'
    with following(cache_path, replica_set, f"--database={shop.name}", hold) as (_, cache):
        before = settled(cache)
        shop["sites"].insert_one({"_id": "marker"})
        shop["sites"].update_many({}, {"$set": {"n": 1}})
        wait_for(lambda: held(cache))
        assert settled(cache) == before
        shop["sites"].delete_one({"_id": "marker"})
        equal(cache, shop["sites"])
        assert settled(cache) == before + 1


@pytest.mark.parametrize("follow", ["stream", "poll"])
def test_the_first_load_waits_for_the_marker_to_go(
    replica_set: Server, shop: Any, cache_path: Path, follow: str
) -> None:
    mark(shop["migrations"])
    arguments = ["--uri", replica_set.uri, f"--follow={follow}", *flags(shop)]
    with Loader(cache_path, arguments) as loader:
        loader.expect(f"{HELD}{shop.name}.migrations is")
        migrate(shop, 1)
        with pytest.raises(mmapcache.NotReadyError):
            mmapcache.open(cache_path, timeout=1)
        shop["migrations"].delete_one({"_id": "m"})
        with mmapcache.open(cache_path, timeout=30) as cache:
            assert cache.generation == 1
            same(cache, shop)
            in_state(cache, "polling" if follow == "poll" else "streaming")
            assert not cache.status()["error"]
            assert cache.status()["errors"] == {}, "to wait for a marker is none"


def test_once_waits_until_its_time_is_over(
    replica_set: Server, shop: Any, cache_path: Path
) -> None:
    mark(shop["migrations"])
    status, output = load_once(
        cache_path, ["--uri", replica_set.uri, "--timeout=1.5", *flags(shop)]
    )
    assert status == 1
    assert output.splitlines()[-1].count(HELD) == 1
    with pytest.raises(mmapcache.NotReadyError):
        mmapcache.open(cache_path)


def test_once_loads_when_the_marker_goes_in_time(
    replica_set: Server, shop: Any, cache_path: Path
) -> None:
    mark(shop["migrations"])
    arguments = ["--uri", replica_set.uri, "--timeout=30", "--once", *flags(shop)]
    with Loader(cache_path, arguments) as loader:
        loader.expect(HELD)
        unmark(shop["migrations"])
        assert loader.wait() == 0
    with mmapcache.open(cache_path) as cache:
        same(cache, shop)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_loader_that_ends_while_it_holds(
    replica_set: Server, shop: Any, cache_path: Path, number: signal.Signals
) -> None:
    with following(cache_path, replica_set, *flags(shop)) as (loader, cache):
        before = settled(cache)
        mark(shop["migrations"])
        migrate(shop, 1)
        wait_for(lambda: held(cache))
        loader.signal(number)
        loader.wait()
    with (
        Loader(cache_path, ["--uri", replica_set.uri, *flags(shop)]) as loader,
        mmapcache.open(cache_path, timeout=30) as cache,
    ):
        loader.expect("going on from the position")
        loader.expect(HELD)
        wait_for(lambda: held(cache))
        assert settled(cache) == before
        assert content(cache) == {0}
        unmark(shop["migrations"])
        same(cache, shop)
        assert settled(cache) == before + 1
        assert cache.status()["loads"] == {"initial": 1}


@pytest.mark.parametrize("follow", ["stream", "poll"])
def test_a_marker_that_comes_during_a_load(
    replica_set: Server, shop: Any, cache_path: Path, follow: str
) -> None:
    """What was read by then may be half of it: nothing is published."""
    hold = Hold(cache_path.with_name("hold"), "mmapcache.sync.round:Round._load")
    arguments = ["--uri", replica_set.uri, f"--follow={follow}", *flags(shop), "--batch-size=1"]
    with Loader(cache_path, arguments, hold.environment) as loader:
        wait_for(hold.arrived)
        mark(shop["migrations"])
        migrate(shop, 1)
        hold.go()
        loader.expect(HELD)
        with pytest.raises(mmapcache.NotReadyError):
            mmapcache.open(cache_path, timeout=1)
        unmark(shop["migrations"])
        with mmapcache.open(cache_path, timeout=30) as cache:
            assert content(cache) == {1}
            same(cache, shop)


@pytest.mark.parametrize("place", ["Lookup.held", "Lookup._find"])
def test_a_marker_that_comes_while_a_burst_is_read(
    replica_set: Server, shop: Any, cache_path: Path, place: str
) -> None:
    hold = Hold(cache_path.with_name("hold"), f"mmapcache.sync.mongo.lookup:{place}", "after")
    with following(cache_path, replica_set, *flags(shop), environment=hold.environment) as (
        _,
        cache,
    ):
        shop["sites"].update_one({"_id": 0}, {"$set": {"n": 0, "more": 1}})
        wait_for(hold.arrived)
        mark(shop["migrations"])
        migrate(shop, 1)
        hold.go()
        wait_for(lambda: held(cache))
        assert content(cache) == {0}
        unmark(shop["migrations"])
        same(cache, shop)
        assert content(cache) == {1}


def test_servers_that_are_polled(mongodb_uri: str, database: Any, cache_path: Path) -> None:
    for name in ("sites", "rates"):
        database[name].insert_many([{"_id": i, "n": 0} for i in range(20)])
    with (
        Loader(cache_path, ["--uri", mongodb_uri, *flags(database)]) as loader,
        mmapcache.open(cache_path, timeout=30) as cache,
    ):
        in_state(cache, "polling")
        before = settled(cache)
        mark(database["migrations"])
        migrate(database, 1)
        wait_for(lambda: held(cache))
        assert settled(cache, 1.0) == before
        unmark(database["migrations"])
        same(cache, database)
        assert settled(cache) == before + 1
        wait_for(lambda: cache.status()["state"] == "polling" and not cache.status()["error"])
        loader.expect("recovered")


def test_more_than_the_limit_changes_while_held(
    replica_set: Server, shop: Any, cache_path: Path
) -> None:
    """A load is quicker then: it waits for the marker, too."""
    environment = patched(cache_path.with_name("patched"), FEW)
    with following(cache_path, replica_set, *flags(shop), environment=environment) as (
        loader,
        cache,
    ):
        before = settled(cache)
        mark(shop["migrations"])
        shop["sites"].insert_many([{"_id": i, "n": 1} for i in range(1000, 1200)])
        migrate(shop, 1)
        loader.expect("more than 50 documents changed: a load is quicker")
        wait_for(lambda: held(cache))
        assert settled(cache, 1.0) == before
        assert content(cache) == {0}
        unmark(shop["migrations"])
        same(cache, shop)
        assert settled(cache) == before + 1
        in_state(cache, "streaming")
        loads = cache.status()["loads"]
        assert (loads["initial"], loads["behind"]) == (1, 1)
        shop["sites"].delete_one({"_id": 1000})
        same(cache, shop)


def test_sighup_while_held_verifies_when_the_marker_has_gone(
    replica_set: Server, shop: Any, cache_path: Path
) -> None:
    with following(cache_path, replica_set, *flags(shop)) as (loader, cache):
        before = settled(cache)
        mark(shop["migrations"])
        migrate(shop, 1)
        wait_for(lambda: held(cache))
        loader.signal(signal.SIGHUP)
        assert settled(cache, 1.5) == before
        assert content(cache) == {0}
        assert "reading everything" not in loader.output
        unmark(shop["migrations"])
        loader.expect("verified: 40 documents compared, 0 differed")
        same(cache, shop)
        assert content(cache) == {1}


def test_a_marker_that_comes_when_a_verification_begins(
    replica_set: Server, shop: Any, cache_path: Path
) -> None:
    place = "mmapcache.sync.verification:Verification.compare"
    hold = Hold(cache_path.with_name("hold"), place)
    with following(cache_path, replica_set, *flags(shop), environment=hold.environment) as (
        loader,
        cache,
    ):
        loader.signal(signal.SIGHUP)
        wait_for(hold.arrived)
        mark(shop["migrations"])
        migrate(shop, 1)
        hold.go()
        wait_for(lambda: held(cache))
        assert content(cache) == {0}
        unmark(shop["migrations"])
        loader.expect("verified: 40 documents compared, 0 differed")
        same(cache, shop)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("shop.migrations", "DB.COLL:FILTER"),
        ("migrations:{}", "DB.COLL:FILTER"),
        ("shop.:{}", "DB.COLL:FILTER"),
        (".migrations:{}", "DB.COLL:FILTER"),
        ('shop.migrations:{"running": tru}', "DB.COLL:FILTER"),
        ("shop.migrations:[]", "DB.COLL:FILTER"),
        ('sh$op.migrations:{"a": 1}', "cannot be the name of a MongoDB database"),
        ('shop.a$b:{"a": 1}', "cannot be the name of a MongoDB collection"),
        ('shop.m:{"_id": {"$oid": "xyz"}}', "hold-while"),
        ('shop.m:{"_id": {"$numberInt": "no"}}', "hold-while"),
        ('shop.m:{"_id": 123456789012345678901234567890}', "hold-while"),
    ],
)
def test_a_wrong_marker_is_wrong_usage(cache_path: Path, value: str, says: str) -> None:
    arguments = ["--uri=mongodb://127.0.0.1:9/", "--collection=shop.sites"]
    with Loader(cache_path, [*arguments, f"--hold-while={value}"]) as loader:
        assert loader.wait() == 2
        assert says in loader.output
        assert "Traceback" not in loader.output
        assert loader.output.count("\n") <= 3
    assert not cache_path.exists()


def test_a_filter_that_the_server_refuses(replica_set: Server, shop: Any, cache_path: Path) -> None:
    arguments = ["--uri", replica_set.uri, f"--collection={shop.name}.sites"]
    wrong = f'--hold-while={shop.name}.m:{{"$nonsense": 1}}'
    with Loader(cache_path, [*arguments, wrong]) as loader:
        assert loader.wait() == 1
        assert "nonsense" in loader.output
        assert "Traceback" not in loader.output


def test_what_changed_before_the_marker_went_may_come_after_it(cache_path: Path) -> None:
    """The marker is read at once, and the stream is late: half of it would be there already."""
    data = {"shop.sites": [{"_id": 0, "n": 0}], "shop.rates": [{"_id": 0, "n": 0}], "other.m": []}
    arguments = ["--collection=shop.sites", "--collection=shop.rates"]
    arguments.append('--hold-while=other.m:{"running": true}')
    with ReplicaSet(data) as server, scripted(cache_path, server, *arguments) as (_, cache):
        server.insert("other.m", {"_id": 0, "running": True})
        server.update("shop.sites", 0, {"n": 1})
        wait_for(lambda: held(cache))
        server.always("await", Delay(3.0))
        server.update("shop.rates", 0, {"n": 1})
        server.delete("other.m", 0)

        def whole() -> bool:
            values = content(cache)
            assert len(values) == 1, "published in two"
            return values == {1}

        wait_for(whole)
        server.always("await", None)
        wait_for(lambda: not cache.status()["error"])
