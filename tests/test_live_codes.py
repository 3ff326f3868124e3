"""What ends a stream's position: everything is read again, and published as one commit."""

from __future__ import annotations

import base64
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.live import (
    Content,
    Reader,
    content,
    equal,
    following,
    in_state,
    loads,
    log_lines,
    truth,
    well,
)
from support.loader import PATIENCE, load_once, wait_for
from support.scripted_oplog import LOST, Edit, ReplicaSet
from support.scripted_server import CLOSE, failing

import mmapcache

bson = pytest.importorskip("bson")
pytest.importorskip("pymongo")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

BOTH = ["--collection=shop.a", "--collection=shop.b", "--follow=stream"]
WHOLE = ["--database=shop", "--follow=stream"]
OLD = {"shop.a": [{"_id": i, "v": 0} for i in range(35)], "shop.b": [{"_id": 1, "v": 0}]}
NEW = {"shop.a": [{"_id": i, "v": 1} for i in range(5, 40)], "shop.b": [{"_id": 2, "v": 1}]}


def states(*data: dict[str, list[dict[str, Any]]]) -> list[Content]:
    return [
        {name.partition(".")[2]: {d["_id"]: d for d in documents} for name, documents in d.items()}
        for d in data
    ]


def behind_the_streams_back(server: ReplicaSet) -> None:
    """Everything changes, and no event says so: what is lost is lost."""
    with server.changed:
        server.collections = {name: list(documents) for name, documents in NEW.items()}


CODES = {
    "286": (LOST, "history_lost"),
    "286 without its label": (failing(286, "ChangeStreamHistoryLost"), "history_lost"),
    "136": (failing(136, "CappedPositionLost"), "history_lost"),
    "280": (failing(280, "ChangeStreamFatalError"), "history_lost"),
    "260": (failing(260, "InvalidResumeToken"), "bad_token"),
    "40585": (failing(40585, "Location40585"), "history_lost"),
    "50811": (failing(50811, "Location50811"), "bad_token"),
    "40647": (failing(40647, "Location40647"), "bad_token"),
    "10334": (failing(10334, "BSONObjectTooLarge"), "oversized"),
}


@pytest.mark.parametrize("where", ["await", "open"])
@pytest.mark.parametrize("code", CODES)
def test_a_code_that_ends_the_position(cache_path: Path, code: str, where: str) -> None:
    fault, reason = CODES[code]
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH) as (loader, cache),
        Reader(cache_path) as reader,
    ):
        generation = cache.generation
        behind_the_streams_back(server)
        server.noop()  # no position from now on is the lost one
        if where == "await":
            server.script("await", fault)
        else:
            server.script("open", fault)
            server.script("await", CLOSE)
        wait_for(lambda: loads(cache).get(reason))
        equal(cache, truth(server))
        well(cache)
        wait_for(lambda: loads(cache) == {"initial": 1, reason: 1})
        assert cache.generation == generation + 1
        assert cache.status()["errors"].get(code.partition(" ")[0]) == 1
        stages = [request["pipeline"][0]["$changeStream"] for request in server.opened]
        tokens = [stage.get("startAfter", stage.get("resumeAfter")) for stage in stages]
        lost = [token for token in tokens[:-1] if token is not None]
        assert lost
        assert tokens[-1] not in lost
        server.update("shop.a", 7, {"v": 2})
        equal(cache, truth(server))
        wait_for(lambda: loads(cache) == {"initial": 1, reason: 1})
        loader.expect("warning")
    assert reader.states() == [*states(OLD, NEW), truth(server)]
    assert len(log_lines(loader, "warning")) == 1, loader.output


@pytest.mark.parametrize("code", ["286", "280", "50811", "9", "40585"])
def test_a_stored_position_that_the_server_no_longer_takes(cache_path: Path, code: str) -> None:
    """9, FailedToParse, is also what servers without change streams say: without the token this
    one takes the stream, so it was the token."""
    with ReplicaSet(OLD) as server:
        with following(cache_path, server, *BOTH) as (loader, _):
            loader.signal(signal.SIGTERM)
            assert loader.wait() == 0
        behind_the_streams_back(server)
        server.noop()  # no position from now on is the stored one
        refusal = LOST if code == "286" else failing(int(code), "Scripted")
        stored: list[Any] = []

        def refuse(request: dict[str, Any]) -> Any:
            stage = request["pipeline"][0]["$changeStream"]
            token = stage.get("startAfter", stage.get("resumeAfter"))
            stored.append(token)
            return refusal if token is not None and token == stored[0] else None

        server.always("open", refuse)
        with (
            Reader(cache_path) as reader,
            mmapcache.open(cache_path) as cache,
            following(cache_path, server, *BOTH),
        ):
            equal(cache, truth(server))
            reason = "bad_token" if code in ("9", "50811") else "history_lost"
            wait_for(lambda: loads(cache) == {"initial": 1, reason: 1})
        assert reader.states() == states(OLD, NEW)


def base64_of(document: bytes) -> str:
    return base64.b64encode(document).decode()


DAMAGED: dict[str, dict[str, Any]] = {
    "no token": {"tokens": {}},
    "another database's": {"tokens": {"other": base64_of(bson.encode({"_data": "82"}))}},
    "no BSON": {"tokens": {"shop": base64_of(bytes(range(1, 40)))}},
    "BSON that claims more": {"tokens": {"shop": base64_of(b"\x40\0\0\0\0")}},
    "BSON that is no token": {"tokens": {"shop": base64_of(bson.encode({"x": 1}))}},
    "an empty token": {"tokens": {"shop": base64_of(bson.encode({}))}},
    "no base64": {"tokens": {"shop": "?"}},
    "tokens of another type": {"tokens": [1]},
    "a time that is none": {"at": float("inf")},
    "a time of another type": {"at": "yesterday"},
    "a time before all": {"at": -1e300},
    "no time": {"at": None},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_stored_position_that_makes_no_sense(cache_path: Path, damage: str) -> None:
    with ReplicaSet(OLD) as server:
        assert load_once(cache_path, ["--uri", server.uri, *BOTH])[0] == 0
        with mmapcache.Writer(cache_path) as writer, writer.batch() as batch:
            state = json.loads(writer.state)
            state["position"].update(DAMAGED[damage])
            batch.state = json.dumps(state).encode()
        server.delete("shop.a", 4)
        with following(cache_path, server, *BOTH) as (_, cache):
            equal(cache, truth(server))
            server.delete("shop.a", 5)
            equal(cache, truth(server))
            well(cache)
            assert loads(cache)["initial"] <= 2
            assert set(loads(cache)) <= {"initial", "bad_token"}


def test_a_rolled_over_oplog_is_noticed_by_an_open_stream(cache_path: Path) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH) as (_, cache),
        Reader(cache_path) as reader,
    ):
        with server.changed:
            behind_the_streams_back(server)
            server.truncate()
        equal(cache, truth(server))
        wait_for(lambda: loads(cache) == {"initial": 1, "history_lost": 1})
        in_state(cache, "streaming")
    assert reader.states() == states(OLD, NEW)


@pytest.mark.parametrize("flags", [BOTH, WHOLE])
def test_a_rollover_during_the_first_load(cache_path: Path, flags: list[str]) -> None:
    """What changed between the stream's start and the end of the load is in no event any more."""
    server = ReplicaSet(OLD)

    def during(request: dict[str, Any]) -> None:
        server.always("getMore", None)
        with server.changed:
            server.delete("shop.a", 3)
            server.update("shop.a", 4, {"v": 9})
            server.insert("shop.a", {"_id": 99})
            server.truncate()

    server.always("getMore", during)
    with server, following(cache_path, server, *flags) as (_, cache):
        equal(cache, truth(server))
        wait_for(lambda: loads(cache) == {"initial": 1, "history_lost": 1})
        server.delete("shop.a", 5)
        equal(cache, truth(server))


# --- collections that end -------------------------------------------------------------------------


def test_a_dropped_collection_keeps_its_last_content(cache_path: Path) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH) as (_, cache),
        Reader(cache_path) as reader,
    ):
        server.drop("shop.a")
        in_state(cache, "degraded")
        wait_for(lambda: loads(cache) == {"initial": 1, "dropped": 1})
        assert "a" in re.findall(r"\w+", str(cache.status()["error"]))
        assert content(cache) == states(OLD)[0]
        server.update("shop.b", 1, {"v": 5})  # the others go on
        wait_for(lambda: content(cache)["b"] == {1: {"_id": 1, "v": 5}})
        assert cache.status()["state"] == "degraded"
        server.insert("shop.a", {"_id": 1, "v": 7})
        equal(cache, truth(server))
        well(cache)
        server.insert("shop.a", {"_id": 2, "v": 7})
        equal(cache, truth(server))
    for state in reader.states():
        assert len(state["a"]) in (35, 1, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_kept_collection_is_remembered(cache_path: Path, number: signal.Signals) -> None:
    """By the next loader, and by a load for another reason."""
    with ReplicaSet(OLD) as server:
        with following(cache_path, server, *BOTH) as (loader, cache):
            server.drop("shop.a")
            in_state(cache, "degraded")
            wait_for(lambda: server.streams)
            server.update("shop.b", 1, {"v": 5})
            wait_for(lambda: content(cache)["b"][1]["v"] == 5)
            wait_for(lambda: loads(cache).get("dropped"))  # is written after the commit
            loader.signal(number)
            loader.wait()
        with following(cache_path, server, *BOTH, state="degraded") as (_, cache):
            server.update("shop.b", 1, {"v": 6})
            wait_for(lambda: content(cache)["b"][1]["v"] == 6)
            assert "a" in re.findall(r"\w+", str(cache.status()["error"]))
            wait_for(lambda: loads(cache) == {"initial": 1, "dropped": 1})
            assert content(cache)["a"] == states(OLD)[0]["a"]
            server.script("await", LOST)
            wait_for(lambda: loads(cache).get("history_lost"))
            assert content(cache)["a"] == states(OLD)[0]["a"]
            server.insert("shop.a", {"_id": 1, "v": 7})
            equal(cache, truth(server))
            well(cache)


@pytest.mark.parametrize("flags", [BOTH, WHOLE])
def test_a_dropped_collection_that_may_be_empty(cache_path: Path, flags: list[str]) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *flags, "--allow-empty") as (_, cache),
        Reader(cache_path) as reader,
    ):
        server.drop("shop.a")
        wait_for(lambda: not content(cache).get("a"))
        wait_for(lambda: loads(cache).get("dropped") == 1)
        well(cache)
        server.insert("shop.a", {"_id": 1, "v": 7})
        equal(cache, truth(server))
    assert {len(state.get("a", ())) for state in reader.states()} == {35, 0, 1}


@pytest.mark.parametrize("again", [False, True], ids=["dropped", "made anew"])
def test_a_collection_that_is_dropped_between_an_event_and_its_read(
    cache_path: Path, again: bool
) -> None:
    """The read finds nothing: not because the document is gone, but because all are."""
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH) as (_, cache),
        Reader(cache_path) as reader,
    ):
        read: list[Any] = []

        def before_the_read(request: dict[str, Any]) -> None:
            with server.changed:
                server.drop("shop.a")
                if again:
                    server.insert("shop.a", *NEW["shop.a"])
            read.append(request)

        server.script("find", before_the_read)
        server.update("shop.a", 3, {"v": 5})  # which NEW has not
        wait_for(lambda: read)
        if not again:
            in_state(cache, "degraded")
            assert content(cache) == states(OLD)[0]
            server.insert("shop.a", *NEW["shop.a"])
        equal(cache, truth(server))
        in_state(cache, "streaming")
        assert set(loads(cache)) == {"initial", "dropped"}
    assert reader.states() == states(OLD, {**NEW, "shop.b": OLD["shop.b"]})


def test_all_deleted_one_by_one_is_not_a_drop(cache_path: Path) -> None:
    """What the stream shows is what is shown: the events say that each of them is gone."""
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        with server.changed:
            for i in range(35):
                server.delete("shop.a", i)
        equal(cache, truth(server))
        assert loads(cache) == {"initial": 1}
        in_state(cache, "streaming")


def test_a_collection_renamed_over_another_is_one_commit(cache_path: Path) -> None:
    """As $out and mongorestore do it."""
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH) as (_, cache),
        Reader(cache_path) as reader,
    ):
        server.insert("shop.made", *NEW["shop.a"])
        server.rename("shop.made", "shop.a")
        equal(cache, truth(server, "a", "b"))
        in_state(cache, "streaming")
        counted = loads(cache)
        assert counted.pop("initial") == 1
        assert set(counted) <= {"renamed", "dropped"}
        assert counted
    assert reader.states() == states(OLD, {**NEW, "shop.b": OLD["shop.b"]})


def test_a_renamed_collection_under_a_database(cache_path: Path) -> None:
    flags = [*WHOLE, "--allow-empty"]
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *flags) as (_, cache),
        Reader(cache_path) as reader,
    ):
        server.rename("shop.a", "shop.c")
        equal(cache, truth(server))
        wait_for(lambda: loads(cache) == {"initial": 1, "renamed": 1})
        in_state(cache, "streaming")
    assert reader.states() == states(OLD, {"shop.b": OLD["shop.b"], "shop.c": OLD["shop.a"]})


def test_a_collection_renamed_away_keeps_its_last_content(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        server.rename("shop.a", "shop.c")
        in_state(cache, "degraded")
        assert content(cache) == states(OLD)[0]
        wait_for(lambda: loads(cache) == {"initial": 1, "renamed": 1})
        server.rename("shop.c", "shop.a")
        in_state(cache, "streaming")
        assert content(cache) == states(OLD)[0]


@pytest.mark.parametrize("flags", [BOTH, WHOLE])
def test_a_dropped_database_comes_back(cache_path: Path, flags: list[str]) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *flags) as (_, cache),
        Reader(cache_path) as reader,
    ):
        server.drop_database("shop")
        in_state(cache, "degraded")
        assert content(cache) == states(OLD)[0]
        with server.transaction():
            server.insert("shop.a", *NEW["shop.a"])
            server.insert("shop.b", *NEW["shop.b"])
        equal(cache, truth(server))
        in_state(cache, "streaming")
        counted = loads(cache)
        assert counted.pop("initial") == 1
        assert counted
        assert set(counted) <= {"dropped", "invalidated"}
    for state in reader.states():
        for name in ("a", "b"):
            assert state[name] in [whole[name] for whole in states(OLD, NEW)]


def test_a_database_dropped_and_made_anew_in_one_batch(cache_path: Path) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH) as (_, cache),
    ):
        with server.changed:
            server.update("shop.a", 1, {"v": 5})
            server.drop_database("shop")
            server.insert("shop.a", *NEW["shop.a"])
            server.insert("shop.b", *NEW["shop.b"])
        equal(cache, truth(server))
        in_state(cache, "streaming")
        server.delete("shop.a", 7)
        equal(cache, truth(server))


def invalidated(reply: dict[str, Any]) -> None:
    """In the midst of a batch; what follows it is never to be believed."""
    batch = reply["cursor"]["nextBatch"]
    end = {key: value for key, value in batch[1].items() if key in ("_id", "clusterTime")}
    batch.insert(1, end | {"operationType": "invalidate"})
    reply["cursor"]["id"] = bson.Int64(0)


def test_an_invalidate_in_the_midst_of_a_batch(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        with server.changed:
            server.script("await", Edit(invalidated))
            server.update("shop.a", 1, {"v": 5})
            server.update("shop.a", 2, {"v": 5})
            server.update("shop.b", 1, {"v": 5})
        equal(cache, truth(server))
        wait_for(lambda: loads(cache) == {"initial": 1, "invalidated": 1})
        in_state(cache, "streaming")
        server.delete("shop.a", 7)
        equal(cache, truth(server))


def test_a_new_collection_appears_by_itself(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server, following(cache_path, server, *WHOLE) as (_, cache):
        server.insert("shop.fresh", {"_id": 1}, {"_id": 2})
        equal(cache, truth(server))
        server.delete("shop.fresh", 1)
        equal(cache, truth(server))
        server.insert("other.fresh", {"_id": 1})
        server.insert("shop.system.views", {"_id": 1})
        server.insert("shop.b", {"_id": 9})
        wait_for(lambda: 9 in content(cache)["b"])
        assert set(content(cache)) == {"a", "b", "fresh"}


# --- events that are too long ---------------------------------------------------------------------


@pytest.mark.parametrize("splits", [True, False], ids=["splits", "an old server"])
@pytest.mark.parametrize("concerned", [True, False], ids=["ours", "another's"])
def test_an_event_that_is_too_long(cache_path: Path, splits: bool, concerned: bool) -> None:
    def refuse(request: dict[str, Any]) -> Any:
        if any("$changeStreamSplitLargeEvent" in stage for stage in request["pipeline"]):
            return failing(40324, "Location40324")
        return None

    with ReplicaSet(OLD | {"shop.c": [{"_id": 1}]}) as server:
        if not splits:
            server.always("open", refuse)
        with following(cache_path, server, *BOTH) as (_, cache):
            server.update("shop.a" if concerned else "shop.c", 1, {"v": 5}, oversized=True)
            server.update("shop.b", 1, {"v": 5})
            equal(cache, truth(server, "a", "b"))
            in_state(cache, "streaming")
            counted = loads(cache)
            assert counted.pop("initial") == 1
            assert counted in ({}, {"oversized": 1})
            assert concerned or not counted
            server.delete("shop.a", 7)
            equal(cache, truth(server, "a", "b"))


# --- a fleet --------------------------------------------------------------------------------------


def test_reloads_are_spread_but_the_first_is_not(cache_path: Path) -> None:
    began = time.monotonic()
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH, "--reload-spread=3600") as (loader, cache),
    ):
        assert time.monotonic() - began < PATIENCE
        behind_the_streams_back(server)
        finds = server.seen["find"]
        server.script("await", LOST)
        wait_for(lambda: cache.status()["errors"].get("286"))
        time.sleep(0.5)
        assert server.seen["find"] == finds
        assert content(cache) == states(OLD)[0]
        assert cache.status()["loader"] == "alive"
        began = time.monotonic()
        loader.signal(signal.SIGHUP)  # an operator need not wait
        equal(cache, truth(server))
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0
