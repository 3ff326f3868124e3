"""Collections that no stream tells of, beside others that are followed: they are read again."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.live import content, equal, following, in_state, loads, truth, well
from support.loader import Loader, confirmed_at, wait_for
from support.scripted_oplog import Edit, ReplicaSet
from support.scripted_server import Request, failing

import mmapcache

pytest.importorskip("bson")
pytest.importorskip("pymongo")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

BOTH = ["--collection=shop.sites", "--collection=shop.recent"]
DATA = {
    "shop.sites": [{"_id": i, "v": 0} for i in range(5)],
    "shop.recent": [{"_id": i, "v": 0} for i in range(3)],
}
WHY = "shop.recent cannot be followed: "


def make_polled(server: ReplicaSet, **fields: Any) -> None:
    """The server lists `recent` with these fields, as a view's if there are none."""

    def change(reply: dict[str, Any]) -> None:
        for entry in reply["cursor"]["firstBatch"]:
            if entry["name"] == "recent":
                entry.update(fields or {"type": "view"})

    server.always("listCollections", Edit(change))


def count_reads(server: ReplicaSet, refused: set[str] | None = None) -> Counter[str]:
    """Counts, from now on, how often each collection is read whole.

    :param refused: collections of which the server refuses that; read each time
    """
    reads: Counter[str] = Counter()

    def note(request: Request) -> Any:
        if "_id" not in request.get("filter", {}):
            reads[request["find"]] += 1
            if refused and request["find"] in refused:
                return failing(8000, "the view's pipeline fails")
        return None

    server.always("find", note)
    return reads


def error(cache: mmapcache.Cache) -> str:
    """What its status says that is wrong, or odd."""
    return cache.status()["error"] or ""


def put(server: ReplicaSet, *documents: dict[str, Any]) -> None:
    """What `recent` has from now on, of which no stream tells."""
    with server.changed:
        server.collections["shop.recent"] = list(documents)


@pytest.mark.parametrize(
    "fields",
    [{"type": "view"}, {"type": "timeseries"}, {"options": {"capped": True, "size": 4096}}],
    ids=["view", "time series", "capped"],
)
def test_only_that_collection_is_read_again(cache_path: Path, fields: dict[str, Any]) -> None:
    with ReplicaSet(DATA) as server:
        make_polled(server, **fields)
        with following(cache_path, server, *BOTH) as (loader, cache):
            reads = count_reads(server)
            put(server, {"_id": 7, "v": 1})
            server.update("shop.sites", 1, {"v": 1})
            equal(cache, truth(server))
            wait_for(lambda: reads["recent"] >= 3)
            server.delete("shop.sites", 2)
            equal(cache, truth(server))
            assert reads["sites"] == 0
            assert cache.status()["state"] == "streaming"
            assert error(cache).startswith(WHY)
            assert error(cache).endswith(": read again every 0.2 s")
            assert loads(cache).keys() == {"initial", "poll"}
            assert loads(cache)["initial"] == 1
            assert "warning" not in loader.output


def test_its_own_events_are_not_taken(cache_path: Path) -> None:
    """A capped collection's inserts are told, and what falls out of it is not: half the truth."""
    with ReplicaSet(DATA) as server:
        make_polled(server, options={"capped": True, "size": 4096})
        flags = ["--interval=3600", *BOTH]
        with following(cache_path, server, *flags) as (_, cache):
            server.insert("shop.recent", {"_id": 8, "v": 1})
            server.insert("shop.sites", {"_id": 8, "v": 1})
            wait_for(lambda: 8 in content(cache)["sites"])
            assert 8 not in content(cache)["recent"]


def test_a_moving_filter_beside_the_plain_collection(cache_path: Path) -> None:
    """One namespace under two names: only one of them is read again."""
    flags = [
        "--collection=shop.sites",
        "--collection=shop.sites=due",
        '--filter=due={"$expr": {"$lt": ["$v", "$$NOW"]}}',
    ]
    with ReplicaSet({"shop.sites": DATA["shop.sites"]}) as server:

        def answer(request: Request) -> Any:  # the tests' server knows no $$NOW
            if "$expr" in request.get("filter", {}):
                with server.changed:
                    due = [d for d in server.collections["shop.sites"] if d["v"]]
                return server.cursor_reply("shop.sites", iter([due])) | {"ok": 1.0}
            return None

        server.always("find", answer)
        with following(cache_path, server, "--allow-empty", *flags) as (_, cache):
            server.update("shop.sites", 3, {"v": 1})
            wait_for(lambda: content(cache)["due"] == {3: {"_id": 3, "v": 1}})
            assert content(cache)["sites"] == truth(server)["sites"]
            assert "shop.sites cannot be followed: $$NOW" in error(cache)


def test_it_fails_and_the_others_are_followed(cache_path: Path) -> None:
    refused: set[str] = set()
    with ReplicaSet(DATA) as server:
        make_polled(server)
        with following(cache_path, server, *BOTH) as (loader, cache):
            count_reads(server, refused)
            kept = content(cache)["recent"]
            refused.add("recent")
            in_state(cache, "degraded")
            assert "the view's pipeline fails" in error(cache)
            loader.expect("the view's pipeline fails.*the other collections are followed")
            for value in range(1, 4):
                server.update("shop.sites", 1, {"v": value})
                equal(cache, {**truth(server, "sites"), "recent": kept})
            # What is polled is as old as it is, however new the rest.
            before = confirmed_at(cache)
            server.update("shop.sites", 1, {"v": 4})
            wait_for(lambda: content(cache)["sites"][1]["v"] == 4)
            assert confirmed_at(cache) == before
            refused.clear()
            in_state(cache, "streaming")
            loader.expect("recovered")
            wait_for(lambda: confirmed_at(cache) > before)
            assert loads(cache)["initial"] == 1


def test_it_comes_back_empty(cache_path: Path) -> None:
    with ReplicaSet(DATA) as server:
        make_polled(server)
        with following(cache_path, server, *BOTH) as (_, cache):
            put(server)
            in_state(cache, "degraded")
            assert "came back empty, kept with its last content: recent" in error(cache)
            server.update("shop.sites", 1, {"v": 1})
            wait_for(lambda: content(cache)["sites"][1]["v"] == 1)
            assert len(content(cache)["recent"]) == 3
            put(server, {"_id": 1, "v": 2})
            in_state(cache, "streaming")
            equal(cache, truth(server))
            assert loads(cache).keys() == {"initial", "poll"}


def test_the_age_is_that_of_the_oldest_part(cache_path: Path) -> None:
    with ReplicaSet(DATA) as server:
        make_polled(server)
        with following(cache_path, server, "--interval=3600", *BOTH) as (_, cache):
            loaded = confirmed_at(cache)
            heartbeat = cache.status()["position_at"]
            server.update("shop.sites", 1, {"v": 1})
            wait_for(lambda: content(cache)["sites"][1]["v"] == 1)
            wait_for(lambda: (cache.status()["position_at"] or 0) > (heartbeat or 0))
            assert confirmed_at(cache) == pytest.approx(loaded, abs=0.005)


def test_a_loader_that_goes_on_reads_it_first(cache_path: Path) -> None:
    with ReplicaSet(DATA) as server:
        make_polled(server)
        with following(cache_path, server, *BOTH) as (loader, cache):
            equal(cache, truth(server))
            loader.signal(signal.SIGTERM)
            assert loader.wait() == 0
        put(server, {"_id": 9, "v": 9})
        server.update("shop.sites", 1, {"v": 9})
        reads = count_reads(server)
        with following(cache_path, server, "--interval=3600", *BOTH) as (loader, cache):
            equal(cache, truth(server))
            loader.expect("going on from the position of ")
            wait_for(lambda: error(cache).startswith(WHY))
            assert reads == {"recent": 1}
            assert loads(cache)["initial"] == 1


def test_a_view_that_was_made_anew_as_a_collection_is_followed(cache_path: Path) -> None:
    with ReplicaSet(DATA) as server:
        make_polled(server)
        with following(cache_path, server, *BOTH) as (loader, cache):
            server.always("listCollections", None)
            loader.expect("shop.recent was made anew: it can be followed")
            wait_for(lambda: loads(cache).get("dropped") == 1)
            well(cache)
            reads = count_reads(server)
            server.update("shop.recent", 1, {"v": 5})
            equal(cache, truth(server))
            assert not reads


def test_of_a_whole_database(cache_path: Path) -> None:
    """A time series among its collections; it goes with --allow-empty when it is dropped."""
    with ReplicaSet(DATA) as server:
        make_polled(server, type="timeseries")
        flags = ["--database=shop", "--allow-empty"]
        with following(cache_path, server, *flags) as (_, cache):
            put(server, {"_id": 1, "v": 3})
            server.insert("shop.sites", {"_id": 10, "v": 1})
            server.insert("shop.new", {"_id": 1})
            equal(cache, truth(server))
            with server.changed:
                del server.collections["shop.recent"]  # nothing is told of it
            equal(cache, truth(server))
            server.update("shop.sites", 10, {"v": 2})
            equal(cache, truth(server))
            assert loads(cache).keys() == {"initial", "poll"}


def test_a_verification_leaves_it_out(cache_path: Path) -> None:
    with ReplicaSet(DATA) as server:
        make_polled(server)
        with following(cache_path, server, "--interval=3600", *BOTH) as (loader, cache):
            reads = count_reads(server)
            put(server, {"_id": 1, "v": 1})
            loader.signal(signal.SIGHUP)
            loader.expect("verified: 5 documents compared, 0 differed")
            assert reads == {"sites": 1}
            server.update("shop.sites", 1, {"v": 1})
            wait_for(lambda: content(cache)["sites"][1]["v"] == 1)


def test_a_marker_holds_it_back(cache_path: Path) -> None:
    with ReplicaSet(DATA) as server:
        make_polled(server)
        flags = ['--hold-while=shop.jobs:{"running": true}', *BOTH]
        with following(cache_path, server, *flags) as (loader, cache):
            server.insert("shop.jobs", {"_id": 1, "running": True})
            loader.expect("jobs")
            before = content(cache)
            put(server, {"_id": 1, "v": 6})
            server.update("shop.sites", 1, {"v": 6})
            time.sleep(1.0)
            assert content(cache) == before
            server.update("shop.jobs", 1, {"running": False})
            equal(cache, truth(server, "sites", "recent"))


def test_streams_that_are_insisted_on(cache_path: Path) -> None:
    with ReplicaSet(DATA) as server:
        make_polled(server)
        flags = ["--uri", server.uri, "--follow=stream", *BOTH]
        with Loader(cache_path, flags) as loader:
            loader.expect(f"{WHY}.*--follow auto")
            assert loader.wait() == 1


def test_a_dry_run_says_so(cache_path: Path) -> None:
    with ReplicaSet(DATA) as server:
        make_polled(server)
        flags = ["--uri", server.uri, "--dry-run", *BOTH]
        with Loader(cache_path, flags) as loader:
            loader.expect("then  the change streams are followed")
            loader.expect(f"then  {WHY}.*: read again every 10 s")
            assert loader.wait() == 0
        with pytest.raises(mmapcache.NotReadyError):
            mmapcache.open(cache_path)
