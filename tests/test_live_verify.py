"""SIGHUP and --verify-every: everything is compared, and what differs is found and put right."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hold import Hold
from support.live import in_state
from support.loader import Loader, load_once, wait_for
from support.mongodb_server import Server
from support.replica_set import (
    cached,
    database_of,
    equal,
    following,
    patched,
    repeatedly,
    settled,
    stored,
)

import mmapcache

pymongo = pytest.importorskip("pymongo")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

# A loader that does not hear of what happens to documents whose _id begins with "lost", or is -1.
DEAF = """
import dataclasses
from mmapcache.sync.mongo.follower import MongoFollower

add = MongoFollower._add

def is_heard(change):
    return b"lost" not in change[1] and change[1] != b"\\x10" + b"\\xff" * 4

def hear(self, more):
    heard = [change for change in more.changes if is_heard(change)]
    if heard:
        add(self, dataclasses.replace(more, changes=heard))

MongoFollower._add = hear
"""


@pytest.fixture
def sites(replica_set: Server, cache_path: Path) -> Iterator[Any]:
    """A collection of 103 documents."""
    with database_of(replica_set, cache_path) as database:
        database["sites"].insert_many([{"_id": i, "n": 0} for i in range(100)])
        names = ("lost-update", "lost-delete", "lost-nothing")
        database["sites"].insert_many([{"_id": name, "n": 0} for name in names])
        yield database["sites"]


@pytest.fixture
def deaf(cache_path: Path) -> dict[str, str]:
    return patched(cache_path.with_name("deaf"), DEAF)


def ns(collection: Any) -> str:
    return f"--collection={collection.full_name}"


def verify(loader: Loader, cache: mmapcache.Cache) -> tuple[int, int]:
    """One verification by SIGHUP: how many documents it compared, and how many differed."""
    before = len(verified(loader))
    loader.signal(signal.SIGHUP)
    wait_for(lambda: len(verified(loader)) > before)
    return verified(loader)[before]


def verified(loader: Loader) -> list[tuple[int, int]]:
    found = re.findall(r"verified: ([0-9,]+) documents compared, ([0-9,]+) differed", loader.output)
    return [(int(a.replace(",", "")), int(b.replace(",", ""))) for a, b in found]


def lose(sites: Any) -> None:
    """What a deaf loader misses: three documents."""
    sites.update_one({"_id": "lost-update"}, {"$set": {"n": 1}})
    sites.delete_one({"_id": "lost-delete"})
    sites.insert_one({"_id": "lost-insert", "n": 1})


def differed(cache: mmapcache.Cache) -> int:
    return cache.status()["errors"].get("differed", 0)


def test_nothing_differs_while_writers_write(
    replica_set: Server, sites: Any, cache_path: Path
) -> None:
    def hot(n: int) -> None:
        sites.update_one({"_id": n % 3}, {"$set": {"n": n}})

    def wide(n: int) -> None:
        sites.update_one({"_id": n % 90}, {"$set": {"m": n}})
        sites.delete_one({"_id": 90 + n % 10})
        sites.insert_one({"_id": 90 + n % 10, "n": n})

    with following(cache_path, replica_set, ns(sites)) as (loader, cache):
        with repeatedly(hot), repeatedly(wide):
            for _ in range(8):
                compared, wrong = verify(loader, cache)
                assert compared > 90
                assert wrong == 0, loader.output
        equal(cache, sites)
        wait_for(lambda: cache.status()["loads"] == {"initial": 1, "verify": 8})
        assert differed(cache) == 0


def test_what_the_stream_did_not_bring_is_put_right(
    replica_set: Server, sites: Any, cache_path: Path, deaf: dict[str, str]
) -> None:
    with following(cache_path, replica_set, ns(sites), environment=deaf) as (loader, cache):
        lose(sites)
        sites.update_one({"_id": 1}, {"$set": {"n": 5}})
        wait_for(lambda: cache["sites"][1]["n"] == 5)
        before = settled(cache)
        assert cached(cache, "sites") != stored(sites)
        assert verify(loader, cache) == (103, 3)
        equal(cache, sites)
        assert cache.generation == before + 1, "all three in one commit"
        wait_for(lambda: differed(cache) == 3)
        assert verify(loader, cache) == (103, 0)
        wait_for(lambda: cache.status()["loads"] == {"initial": 1, "verify": 2})
        assert differed(cache) == 3
        assert cache.generation == before + 1
        sites.update_one({"_id": 1}, {"$set": {"n": 6}})
        equal(cache, sites)


def test_keys_of_one_hash_are_told_apart(
    replica_set: Server, sites: Any, cache_path: Path, deaf: dict[str, str]
) -> None:
    """To Python -1 and -2 have the same."""
    sites.insert_many([{"_id": -1}, {"_id": -2}])
    with following(cache_path, replica_set, ns(sites), environment=deaf) as (loader, cache):
        sites.delete_one({"_id": -1})
        assert verify(loader, cache) == (104, 1)
        equal(cache, sites)


def test_differences_are_told_from_changes_under_way(
    replica_set: Server, sites: Any, cache_path: Path, deaf: dict[str, str]
) -> None:
    with following(cache_path, replica_set, ns(sites), environment=deaf) as (loader, cache):
        lose(sites)
        with repeatedly(lambda n: sites.update_one({"_id": n % 50}, {"$inc": {"n": 1}})):
            assert verify(loader, cache) == (103, 3)
            assert verify(loader, cache) == (103, 0)
        equal(cache, sites)
        wait_for(lambda: differed(cache) == 3)


def test_only_what_the_filter_lets_through_is_compared(
    replica_set: Server, sites: Any, cache_path: Path, deaf: dict[str, str]
) -> None:
    flags = [ns(sites), '--filter=sites={"n": 0}', '--projection=sites={"n": 1}']
    sites.update_many({"_id": {"$lt": 50}}, {"$set": {"n": 3, "m": 1}})
    with following(cache_path, replica_set, *flags, environment=deaf) as (loader, cache):
        assert verify(loader, cache) == (53, 0)
        lose(sites)  # all but the insert leave the filter; the insert never was in it
        assert verify(loader, cache) == (51, 2)
        equal(cache, sites, {"n": 0})


def test_a_restart_keeps_the_count(
    replica_set: Server, sites: Any, cache_path: Path, deaf: dict[str, str]
) -> None:
    with following(cache_path, replica_set, ns(sites), environment=deaf) as (loader, cache):
        lose(sites)
        assert verify(loader, cache) == (103, 3)
        wait_for(lambda: differed(cache) == 3)
        loader.signal(signal.SIGKILL)
        loader.wait()
    with following(cache_path, replica_set, ns(sites)) as (loader, cache):
        loader.expect("going on from the position")
        assert verify(loader, cache) == (103, 0)
        wait_for(lambda: cache.status()["loads"] == {"initial": 1, "verify": 2})
        assert differed(cache) == 3


def test_verify_every_verifies_again_and_again(
    replica_set: Server, sites: Any, cache_path: Path, deaf: dict[str, str]
) -> None:
    flags = [ns(sites), "--verify-every=0.001"]
    with following(cache_path, replica_set, *flags, environment=deaf) as (loader, cache):
        lose(sites)
        equal(cache, sites)
        wait_for(lambda: cache.status()["loads"]["verify"] >= 3)
        wait_for(lambda: differed(cache) == 3)
        wait_for(lambda: len(verified(loader)) >= 2)
        assert cache.status()["loads"]["initial"] == 1


@pytest.mark.parametrize(
    "place",
    [
        "mmapcache.sync.verification:Verification.compare",
        "mmapcache.sync.verification:Verification._compare",
        "mmapcache.sync.verification:Verification.finish",
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_sighup_during_a_verification_is_another_one(
    replica_set: Server, sites: Any, cache_path: Path, place: str, when: str
) -> None:
    hold = Hold(cache_path.with_name("hold"), place, when)
    with following(cache_path, replica_set, ns(sites), environment=hold.environment) as (
        loader,
        cache,
    ):
        loader.signal(signal.SIGHUP)
        wait_for(hold.arrived)
        sites.update_one({"_id": 1}, {"$set": {"n": 1}})
        loader.signal(signal.SIGHUP)
        hold.go()
        wait_for(lambda: len(verified(loader)) == 2)
        assert [wrong for _, wrong in verified(loader)] == [0, 0]
        equal(cache, sites)
        wait_for(lambda: cache.status()["loads"] == {"initial": 1, "verify": 2})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_loader_that_ends_while_it_verifies(
    replica_set: Server, sites: Any, cache_path: Path, number: signal.Signals
) -> None:
    hold = Hold(cache_path.with_name("hold"), "mmapcache.sync.verification:Verification._compare")
    with Loader(
        cache_path, ["--uri", replica_set.uri, ns(sites), "--reload-spread=0"], hold.environment
    ) as loader:
        loader.expect("generation 1:")
        loader.signal(signal.SIGHUP)
        wait_for(hold.arrived)
        sites.update_one({"_id": 1}, {"$set": {"n": 1}})
        loader.signal(number)
        if number == signal.SIGTERM:
            hold.go()
        assert loader.wait() == (0 if number == signal.SIGTERM else -number)
    with following(cache_path, replica_set, ns(sites)) as (loader, cache):
        loader.expect("going on from the position")
        equal(cache, sites)
        assert cache.status()["loads"]["initial"] == 1


def test_sighup_while_polling_refreshes_at_once(
    replica_set: Server, sites: Any, cache_path: Path
) -> None:
    flags = [ns(sites), "--follow=poll", "--interval=3600"]
    with following(cache_path, replica_set, *flags, state="polling") as (loader, cache):
        for n in range(1, 4):
            sites.update_one({"_id": 1}, {"$set": {"n": n}})
            loader.signal(signal.SIGHUP)
            equal(cache, sites)
        wait_for(lambda: cache.status()["loads"] == {"initial": 1, "poll": 3})


def test_sighup_while_a_standalone_server_is_polled(
    mongodb_uri: str, database: Any, cache_path: Path
) -> None:
    database["sites"].insert_one({"_id": 1, "n": 0})
    flags = ["--uri", mongodb_uri, ns(database["sites"]), "--interval=3600"]
    with Loader(cache_path, flags) as loader, mmapcache.open(cache_path, timeout=30) as cache:
        in_state(cache, "polling")
        database["sites"].update_one({"_id": 1}, {"$set": {"n": 1}})
        loader.signal(signal.SIGHUP)
        equal(cache, database["sites"])


def test_what_is_transformed_is_compared_with_what_becomes_of_it(
    replica_set: Server, sites: Any, cache_path: Path, deaf: dict[str, str]
) -> None:
    """Transformed, and with keys of their own."""
    Path(deaf["PYTHONPATH"].split(os.pathsep)[0], "live_shape.py").write_text(
        "def shape(document):\n"
        "    if document['n'] < 9:\n"
        "        return {**document, 'name': f'key-{document[\"_id\"]}'}\n"
    )
    flags = [ns(sites), "--transform=live_shape:shape", "--key=sites=name"]

    def shaped() -> dict[str, int]:
        return {f"key-{d['_id']}": d["n"] for d in sites.find() if d["n"] < 9}

    def found(cache: mmapcache.Cache) -> dict[str, int]:
        with cache.snapshot() as snapshot:
            return {key: d["n"] for key, d in snapshot["sites"].items()}

    sites.update_one({"_id": 1}, {"$set": {"n": 9}})
    with following(cache_path, replica_set, *flags, environment=deaf) as (loader, cache):
        assert verify(loader, cache) == (103, 0)
        lose(sites)
        sites.update_one({"_id": "lost-nothing"}, {"$set": {"n": 10}})  # the transform drops it
        assert verify(loader, cache) == (103, 4)
        wait_for(lambda: found(cache) == shaped())
        assert verify(loader, cache) == (103, 0)
        assert len(found(cache)) == 101


def test_a_collection_that_keeps_its_last_content_keeps_it(
    replica_set: Server, sites: Any, cache_path: Path
) -> None:
    """It came back empty, which --allow-empty does not allow: no verification allows it either."""
    other = sites.database["other"]
    other.insert_one({"_id": 1, "n": 1})
    flags = ["--uri", replica_set.uri, ns(sites), ns(other)]
    assert load_once(cache_path, flags)[0] == 0
    sites.delete_many({})
    kept = [ns(sites), ns(other), '--projection=sites={"n": 1}', "--interval=0.2"]
    with following(cache_path, replica_set, *kept, state="degraded") as (loader, cache):
        assert "sites" in (cache.status()["error"] or "")
        loader.signal(signal.SIGHUP)
        wait_for(lambda: cache.status()["loads"].get("verify"))
        other.update_one({"_id": 1}, {"$set": {"n": 2}})
        equal(cache, other)
        assert len(cached(cache, "sites")) == 103
        assert differed(cache) == 0
        assert cache.status()["state"] == "degraded"
        sites.insert_one({"_id": 5, "n": 5})
        equal(cache, sites)
        in_state(cache, "streaming")


def test_a_connection_that_breaks_while_it_verifies(
    replica_set: Server, sites: Any, cache_path: Path, deaf: dict[str, str]
) -> None:
    admin = sites.database.client.admin
    with following(cache_path, replica_set, ns(sites), environment=deaf) as (loader, cache):
        lose(sites)
        for command in ("find", "getMore"):
            admin.command(
                {
                    "configureFailPoint": "failCommand",
                    "mode": {"times": 1},
                    "data": {"failCommands": [command], "closeConnection": True},
                }
            )
            loader.signal(signal.SIGHUP)
            loader.expect("reading everything to verify it")
        assert verify(loader, cache)[0] == 103
        equal(cache, sites)
        wait_for(lambda: differed(cache) == 3)
        in_state(cache, "streaming")


def test_sighup_while_the_server_is_away_verifies_when_it_is_back(
    tmp_path: Path, cache_path: Path
) -> None:
    with Server(tmp_path / "mongodb", replica_set=True) as replica_set:
        client: Any = pymongo.MongoClient(replica_set.uri)
        client["shop"]["sites"].insert_one({"_id": 1})
        client.close()
        with following(cache_path, replica_set, "--collection=shop.sites") as (loader, cache):
            replica_set.stop()
            loader.expect("next try in")
            loader.signal(signal.SIGHUP)
            replica_set.start()
            wait_for(lambda: verified(loader))
            wait_for(lambda: cache.status()["loads"] == {"initial": 1, "verify": 1})


def test_ids_that_are_no_simple_values(replica_set: Server, sites: Any, cache_path: Path) -> None:
    for number, one in enumerate(itertools.chain([None, {"a": 1}, {"a": [1, {"b": 2}]}, b"", ""])):
        sites.insert_one({"_id": one, "n": number})
    with following(cache_path, replica_set, ns(sites)) as (loader, cache):
        assert verify(loader, cache) == (108, 0)
