"""--transform, --key, --standby and --dry-run of a loader that follows MongoDB's change streams."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.loader import Loader, wait_for
from support.mongodb_server import Server

import mmapcache

pytestmark = pytest.mark.usefixtures("warm_loaders")

pymongo = pytest.importorskip("pymongo")

FUNCTIONS = """
def active(document):
    if not document.get("active", True):
        return None
    return {**document, "twice": document["n"] * 2}
"""


@pytest.fixture
def sites(replica_set: Server, cache_path: Path) -> Iterator[Any]:
    """A collection of three documents, in a database of its own."""
    cache_path.with_name("live_shapes.py").write_text(FUNCTIONS)
    with pymongo.MongoClient(replica_set.uri) as client:
        database = client[cache_path.parent.name.replace("-", "_")]
        database["sites"].insert_many(
            [{"_id": i, "name": f"s{i}", "n": i, "tags": [i]} for i in range(3)]
        )
        yield database["sites"]
        client.drop_database(database.name)


def loader(replica_set: Server, sites: Any, cache_path: Path, *flags: str) -> Loader:
    arguments = ["--uri", replica_set.uri, f"--collection={sites.full_name}", *flags]
    return Loader(cache_path, arguments, {"PYTHONPATH": str(cache_path.parent)})


def streams(cache: mmapcache.Cache) -> bool:
    return cache.status()["state"] == "streaming"


def holds(cache: mmapcache.Cache, expected: dict[Any, Any]) -> None:
    """Waits until the collection is this: `n` by key."""

    def same() -> bool:
        with cache.snapshot() as snapshot:
            return {key: d["n"] for key, d in snapshot["sites"].items()} == expected

    wait_for(same)


def shaped(cache: mmapcache.Cache) -> Sequence[dict[str, Any]]:
    with cache.snapshot() as snapshot:
        return [d.to_dict() for d in snapshot["sites"].values()]


def test_changes_are_transformed(replica_set: Server, sites: Any, cache_path: Path) -> None:
    with (
        loader(replica_set, sites, cache_path, "--transform=live_shapes:active"),
        mmapcache.open(cache_path, timeout=30) as cache,
    ):
        wait_for(lambda: streams(cache))
        sites.insert_one({"_id": 3, "name": "s3", "n": 3, "tags": []})
        holds(cache, {0: 0, 1: 1, 2: 2, 3: 3})
        sites.update_one({"_id": 1}, {"$set": {"active": False}})
        sites.update_one({"_id": 2}, {"$set": {"n": 20}})
        sites.delete_one({"_id": 0})
        holds(cache, {2: 20, 3: 3})
        sites.update_one({"_id": 1}, {"$unset": {"active": 1}})
        holds(cache, {1: 1, 2: 20, 3: 3})
        assert all(d["twice"] == 2 * d["n"] for d in shaped(cache))
        assert cache.status()["loads"] == {"initial": 1}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_changes_have_keys_of_their_own_across_restarts(
    replica_set: Server, sites: Any, cache_path: Path, number: signal.Signals
) -> None:
    with (
        loader(replica_set, sites, cache_path, "--key=sites=name") as first,
        mmapcache.open(cache_path, timeout=30) as cache,
    ):
        wait_for(lambda: streams(cache))
        sites.update_one({"_id": 0}, {"$set": {"name": "zero"}})
        holds(cache, {"zero": 0, "s1": 1, "s2": 2})
        first.signal(number)
        first.wait()
        sites.update_one({"_id": 1}, {"$set": {"name": "one"}})
        sites.delete_one({"_id": 2})
        with loader(replica_set, sites, cache_path, "--key=sites=name") as second:
            second.expect("going on from the position")
            holds(cache, {"zero": 0, "one": 1})
            sites.update_one({"_id": 0}, {"$set": {"name": "nil"}})
            holds(cache, {"nil": 0, "one": 1})
            assert cache.status()["loads"] == {"initial": 1}
        with loader(
            replica_set, sites, cache_path
        ) as third:  # a position of other keys is of no use
            third.expect("generation [0-9]+:")
            holds(cache, {0: 0, 1: 1})
            assert "going on" not in third.output


def test_a_change_that_cannot_be_shaped_degrades_until_it_can(
    replica_set: Server, sites: Any, cache_path: Path
) -> None:
    flags = ["--key=sites=name", "--interval=0.2", "--reload-spread=0"]
    with (
        loader(replica_set, sites, cache_path, *flags) as running,
        mmapcache.open(cache_path, timeout=30) as cache,
    ):
        wait_for(lambda: streams(cache))
        sites.update_one({"_id": 1}, {"$set": {"name": "s2"}})
        wait_for(lambda: cache.status()["state"] == "degraded")
        wait_for(lambda: "have one key, name = 's2'" in (cache.status()["error"] or ""))
        holds(cache, {"s0": 0, "s1": 1, "s2": 2})
        sites.update_one({"_id": 2}, {"$set": {"name": "s1"}})
        holds(cache, {"s0": 0, "s1": 2, "s2": 1})
        wait_for(lambda: streams(cache))
        assert running.process.poll() is None


def test_a_verification_compares_what_was_made(
    replica_set: Server, sites: Any, cache_path: Path
) -> None:
    flags = ["--key=sites=name", "--transform=live_shapes:active"]
    with (
        loader(replica_set, sites, cache_path, *flags) as running,
        mmapcache.open(cache_path, timeout=30) as cache,
    ):
        wait_for(lambda: streams(cache))
        sites.update_one({"_id": 1}, {"$set": {"active": False}})
        sites.update_one({"_id": 0}, {"$set": {"name": "zero"}})
        holds(cache, {"zero": 0, "s2": 2})
        running.signal(signal.SIGHUP)
        running.expect("verified: 3 documents compared, 0 differed")


def test_a_verification_repairs_what_was_made_otherwise(
    replica_set: Server, sites: Any, cache_path: Path
) -> None:
    helper = cache_path.with_name("live_helper.py")
    cache_path.with_name("live_shapes.py").write_text(
        "import live_helper\n\ndef active(document):\n    return live_helper.made(document)\n"
    )
    helper.write_text("def made(d):\n    return {**d, 'v': 1}\n")
    flags = ["--transform=live_shapes:active", "--key=sites=name"]
    with loader(replica_set, sites, cache_path, *flags, "--once") as once:
        assert once.wait() == 0
    helper.write_text("def made(d):\n    return {**d, 'v': 2} if d['n'] else None\n")
    with (
        loader(replica_set, sites, cache_path, *flags) as running,
        mmapcache.open(cache_path, timeout=30) as cache,
    ):
        running.expect("going on from the position")
        assert [d["v"] for d in shaped(cache)] == [1, 1, 1]  # nothing says that it has changed
        running.signal(signal.SIGHUP)
        running.expect("verified: 3 documents compared, 3 differed and were put right")
        holds(cache, {"s1": 1, "s2": 2})
        assert [d["v"] for d in shaped(cache)] == [2, 2]


def test_a_standby_goes_on_from_the_position(
    replica_set: Server, sites: Any, cache_path: Path
) -> None:
    with (
        loader(replica_set, sites, cache_path) as first,
        mmapcache.open(cache_path, timeout=30) as cache,
        loader(replica_set, sites, cache_path, "--standby") as second,
    ):
        second.expect("standing by")
        wait_for(lambda: streams(cache))
        first.signal(signal.SIGKILL)
        sites.update_one({"_id": 0}, {"$set": {"n": 7}})
        second.expect("took over")
        holds(cache, {0: 7, 1: 1, 2: 2})
        assert cache.status()["loads"] == {"initial": 1}


def test_a_dry_run_says_whether_streams_are_followed(
    replica_set: Server, sites: Any, cache_path: Path
) -> None:
    def dry(*flags: str) -> str:
        with loader(replica_set, sites, cache_path, "--dry-run", *flags) as run:
            assert run.wait() == 0
            return run.output

    assert "then  the change streams are followed\n" in dry()
    assert "then  everything is read again every 10 s\n" in dry("--follow=poll")
    assert not cache_path.exists()
    with loader(replica_set, sites, cache_path, "--once") as once:
        assert once.wait() == 0
    assert "are followed from the position in the file, of 20" in dry()
    assert "then  the change streams are followed\n" in dry("--key=sites=name")
