"""The stream cut, silent, wrong: the position stays, and the cache ends as what the server has."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.live import (
    IMPATIENT,
    Content,
    Reader,
    content,
    equal,
    following,
    in_state,
    loads,
    truth,
    well,
)
from support.loader import load_once, wait_for
from support.scripted_oplog import RESUMABLE, Delay, Edit, ReplicaSet
from support.scripted_server import CLOSE, HALF, HANG, Cut, failing
from test_sync_replies import HARMLESS, MAD

bson = pytest.importorskip("bson")
pytest.importorskip("pymongo")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

BOTH = ["--collection=shop.a", "--collection=shop.b"]
OLD = {"shop.a": [{"_id": i, "v": 0} for i in range(35)], "shop.b": [{"_id": 1, "v": 0}]}
INITIAL = {"initial": 1}
# Set: a reply is cut at each of its bytes; otherwise at a fifth of those in its middle.
EVERY = bool(os.environ.get("EVERY"))
NOTICED = 20.0  # seconds after which a hang is known at the latest, on a slow machine


# --- connections ----------------------------------------------------------------------------------


def next_cut(last: Cut, dice: random.Random) -> Cut:
    """Byte by byte in the header and at the end; with long strides between unless EVERY."""
    stride = 1
    if not EVERY and 40 <= last.size < last.whole - 24:
        stride = min(dice.randint(1, 9), last.whole - 24 - last.size)
    return Cut(last.size + stride, last.whole)


@pytest.mark.parametrize("kind", ["open", "await", "find"])
def test_a_reply_cut_at_every_byte(cache_path: Path, kind: str) -> None:
    """Twice in a row, as PyMongo asks once more by itself; for a stream that is `open` again."""
    seed = random.randrange(2**32)
    print(f"SEED={seed}")
    dice = random.Random(seed)
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH, program=IMPATIENT) as (loader, cache),
    ):
        cut = Cut(-1, whole=1)
        while cut.size < cut.whole:
            cut = next_cut(cut, dice)
            with server.changed:
                again = kind != "await" and cut.size < cut.whole
                server.script(kind, cut, *[Cut(cut.size)] * again)
                if kind == "await":
                    server.script("open", *[CLOSE] * (2 * (cut.size % 2)))
                elif kind == "open":
                    server.script("await", CLOSE)
                server.update("shop.a", cut.size % 35, {"v": cut.size})
            wait_for(lambda: server.idle(kind) and content(cache) == truth(server))
        well(cache)
        assert cut.whole > 200
        assert loads(cache) == INITIAL
        status = cache.status()
        assert status["errors"]["AutoReconnect"] > 10
        assert kind == "find" or status["disconnects"] > 10  # of streams, that is
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0


@pytest.mark.parametrize("fault", ["closed", "half"])
def test_connections_that_end_never_drop_the_position(cache_path: Path, fault: str) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH) as (_, cache),
        Reader(cache_path) as reader,
    ):
        what = CLOSE if fault == "closed" else HALF
        server.always("open", what)
        server.script("await", what)
        in_state(cache, "degraded")
        assert cache.status()["error"]
        with server.transaction():
            server.delete("shop.a", 3)
            server.update("shop.b", 1, {"v": 3})
        assert content(cache) != truth(server)
        server.always("open", None)
        equal(cache, truth(server))
        well(cache)
        assert loads(cache) == INITIAL
        assert cache.status()["disconnects"] >= 1
    assert len(reader.states()) == 2  # a burst is one commit


PASSING = [91, 189, 11600, 11602, 10107, 13435, 6, 89, 7, 262, 43, 237, 50, 99999]


@pytest.mark.parametrize("kind", ["await", "open", "find"])
def test_errors_that_pass(cache_path: Path, kind: str) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH, program=IMPATIENT) as (_, cache),
    ):
        for number, code in enumerate(PASSING):
            labels = [RESUMABLE, "RetryableWriteError"] if code < 10_000 else []
            fault = failing(code, "Scripted") | {"errorLabels": labels}
            wait_for(lambda: server.streams)
            with server.changed:
                server.script(kind, fault, fault)
                if kind == "open":
                    server.script("await", CLOSE)
                server.update("shop.a", number, {"v": number})
                server.delete("shop.b", number + 1)
                server.insert("shop.b", {"_id": number + 2})
            wait_for(lambda: server.idle(kind))
            equal(cache, truth(server), f"after {code}")
        well(cache)
        assert loads(cache) == INITIAL


def test_a_primary_that_steps_down(cache_path: Path) -> None:
    uri_flags = ["--follow=stream", *BOTH]
    with ReplicaSet(OLD) as server:
        uri = server.uri + "&serverSelectionTimeoutMS=500"
        with following(cache_path, uri, *uri_flags) as (_, cache):
            wait_for(lambda: server.streams)
            server.step_down()
            in_state(cache, "degraded")
            server.delete("shop.a", 3)  # as the new primary is told
            assert cache.status()["lag"] is None or cache.status()["age"]
            server.primary = True
            equal(cache, truth(server))
            in_state(cache, "streaming")
            assert loads(cache) == INITIAL
            assert cache.status()["disconnects"] >= 1


def test_a_server_that_hangs_while_its_heartbeats_answer(cache_path: Path) -> None:
    """PyMongo alone would wait for its socketTimeoutMS: three minutes, or for ever."""
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        server.silence()
        began = time.monotonic()
        in_state(cache, "degraded")
        assert time.monotonic() - began < NOTICED
        assert cache.status()["error"]
        hellos = server.heartbeats
        wait_for(lambda: server.heartbeats > hellos)
        server.delete("shop.a", 3)
        server.speak()
        equal(cache, truth(server))
        in_state(cache, "streaming")
        assert loads(cache) == INITIAL


def test_a_server_that_hangs_does_not_keep_a_loader(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (loader, _):
        server.silence()
        time.sleep(0.3)
        began = time.monotonic()
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0
        assert time.monotonic() - began < 5


def test_a_read_of_changed_documents_that_hangs(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        server.script("find", HANG)
        server.delete("shop.a", 3)
        began = time.monotonic()
        in_state(cache, "degraded")
        assert time.monotonic() - began < NOTICED
        equal(cache, truth(server))
        in_state(cache, "streaming")
        assert loads(cache) == INITIAL


def test_answers_that_are_late(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        for kind in ("await", "find"):
            server.script(kind, Delay(0.7), Delay(0.7))
        for i in range(5):
            server.update("shop.a", i, {"v": i})
        equal(cache, truth(server))
        well(cache)
        assert cache.status()["disconnects"] == 0


def test_a_silent_stream_that_idles_is_not_taken_for_a_hang(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        generation = cache.generation
        opened = len(server.opened)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            status = cache.status()
            assert (status["state"], status["error"]) == ("streaming", None)
            assert status["lag"] is not None
            assert status["lag"] < 5
            time.sleep(0.05)
        assert cache.generation == generation
        assert len(server.opened) == opened


# --- replies that make no sense -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["await", "open", "find"])
def test_replies_that_make_no_sense(cache_path: Path, kind: str) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH, program=IMPATIENT) as (loader, cache),
    ):
        for number, (name, mad) in enumerate(MAD.items(), start=1):
            wait_for(lambda: server.streams)
            with server.changed:
                server.script(kind, *[mad] * (1 if name in HARMLESS else 3))
                if kind == "open":
                    server.script("await", CLOSE)
                server.update("shop.a", 3, {"v": number})
                server.delete("shop.a", 4)
            wait_for(lambda: server.idle(kind))
            # What an empty answer that looks right has hidden is known with the next change.
            server.update("shop.a", 3, {"v": -number})
            server.insert("shop.a", {"_id": 4})
            server.update("shop.b", 1, {"v": number})
            equal(cache, truth(server), f"after {name}")
        in_state(cache, "streaming")
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0


def without(field: str) -> Callable[[dict[str, Any]], None]:
    """All events of a batch lack a field."""

    def change(reply: dict[str, Any]) -> None:
        for event in reply["cursor"]["nextBatch"]:
            event.pop(field, None)

    return change


def cursor_with(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda reply: reply["cursor"].update(fields)


def cursor_without(field: str) -> Callable[[dict[str, Any]], object]:
    return lambda reply: reply["cursor"].pop(field, None)


def null_documents(reply: dict[str, Any]) -> None:
    for event in reply["cursor"]["nextBatch"]:
        event["fullDocument"] = None


def with_field(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(reply: dict[str, Any]) -> None:
        for event in reply["cursor"]["nextBatch"]:
            event[field] = value

    return change


def shard_keys(reply: dict[str, Any]) -> None:
    """As in a sharded cluster, before or after the _id."""
    for number, event in enumerate(reply["cursor"]["nextBatch"]):
        key, identity = {"country": "ch"}, event["documentKey"]
        event["documentKey"] = key | identity if number % 2 else identity | key


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "no _id": without("_id"),
    "no documentKey": without("documentKey"),
    "no clusterTime": without("clusterTime"),
    "no operationType": without("operationType"),
    "no ns": without("ns"),
    "fullDocument null": null_documents,
    "another cursor": cursor_with(id=bson.Int64(4711)),
    "the cursor has ended": cursor_with(id=bson.Int64(0)),
    "no token": cursor_without("postBatchResumeToken"),
    "an empty token": cursor_with(postBatchResumeToken={}),
    "a token of another type": cursor_with(postBatchResumeToken=5),
    "a namespace of another type": with_field("ns", 5),
    "an _id of another type": with_field("_id", 5),
    "a time of another type": with_field("clusterTime", 5),
    "a document key without an _id": with_field("documentKey", {"x": 1}),
    "a kind that nobody knows": with_field("operationType", "reshard"),
    "a shard key": shard_keys,
    "no operationTime": lambda reply: reply.pop("operationTime"),
    "no $clusterTime": lambda reply: reply.pop("$clusterTime"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_events_and_replies_that_lack_something(cache_path: Path, wrong: str) -> None:
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        with server.changed:
            server.script("await", Edit(WRONG[wrong]))
            server.update("shop.a", 3, {"v": 3})
            server.delete("shop.a", 4)
            server.replace("shop.b", 1, {"w": 1})
        equal(cache, truth(server))
        in_state(cache, "streaming")
        server.update("shop.b", 1, {"v": 9})
        equal(cache, truth(server))
        well(cache)
        assert len(server.opened) < 10


# --- what is read after an event ------------------------------------------------------------------


def test_reads_are_not_older_than_their_event(cache_path: Path) -> None:
    """A secondary that lags knows nothing of the event yet, unless it is asked to wait for it."""
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH) as (_, cache),
        Reader(cache_path) as reader,
    ):
        for i in range(10):
            server.freeze_reads()
            server.update("shop.a", 3, {"v": i + 1})
            equal(cache, truth(server))
        finds = [r for name, r in server.requests if name == "find" and "$in" in str(r)]
        assert len(finds) >= 10
        for request in finds:
            assert request["readConcern"]["level"] == "majority"
            assert request["readConcern"]["afterClusterTime"]
    versions = [state["a"][3]["v"] for state in reader.states()]
    assert versions == sorted(versions)


def test_an_event_is_read_though_its_reply_tells_no_time(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        answered = server.seen["getMore"]
        server.always("await", Edit(lambda reply: reply.pop("operationTime")))
        wait_for(lambda: server.seen["getMore"] > answered + 1)
        server.noop()
        server.freeze_reads()
        server.update("shop.a", 3, {"v": 1})
        equal(cache, truth(server))


def test_a_document_never_goes_back(cache_path: Path) -> None:
    """Update, delete, insert, update of one key: a lookup at the first event shows the last state
    already, and the delete would go back from there."""
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH) as (_, cache),
        Reader(cache_path) as reader,
    ):
        rng = itertools.count(1)
        for _ in range(30):
            server.update("shop.a", 3, {"v": next(rng)})
            server.delete("shop.a", 3)
            server.insert("shop.a", {"_id": 3, "v": next(rng)})
            server.update("shop.a", 3, {"v": next(rng)})
        equal(cache, truth(server))
    found = [state["a"].get(3, {}).get("v") for state in reader.states()]
    shown = [v for v in found if v is not None]
    assert shown == sorted(shown)
    # A deletion is seen only where it was: after the v of the update before, not later.
    for before, after in itertools.pairwise(found):
        assert before is not None or after is None or after % 3 != 1


def test_reads_that_hang_do_not_lose_what_comes_meanwhile(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        server.script("find", Delay(1.0))
        server.update("shop.a", 3, {"v": 1})
        for i in range(20):
            server.update("shop.a", i, {"v": 2 + i})
            server.insert("shop.a", {"_id": 100 + i})
            time.sleep(0.02)
        equal(cache, truth(server))


# --- several databases ----------------------------------------------------------------------------


def test_two_databases_of_which_one_is_silent(cache_path: Path) -> None:
    data = {"shop.a": OLD["shop.a"], "crm.users": [{"_id": 1, "v": 0}]}
    flags = ["--collection=shop.a", "--collection=crm.users"]

    def all_of(server: ReplicaSet) -> Content:
        return truth(server) | truth(server, database="crm")

    def hang(request: dict[str, Any]) -> Any:
        return HANG if request["$db"] == "crm" else None

    with ReplicaSet(data) as server:
        with following(cache_path, server, *flags) as (loader, cache):
            wait_for(lambda: len(server.streams) == 2)
            server.update("shop.a", 3, {"v": 1})
            server.update("crm.users", 1, {"v": 1})
            equal(cache, all_of(server))
            server.always("await", hang)
            in_state(cache, "degraded")
            server.update("crm.users", 1, {"v": 2})
            server.always("await", None)
            equal(cache, all_of(server))
            in_state(cache, "streaming")
            loader.signal(signal.SIGKILL)
            loader.wait()
        server.delete("shop.a", 4)
        server.insert("crm.users", {"_id": 2})
        with following(cache_path, server, *flags) as (_, cache):
            equal(cache, all_of(server))
            assert loads(cache) == INITIAL


# --- restarts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_resumes(cache_path: Path, number: signal.Signals) -> None:
    with ReplicaSet(OLD) as server:
        with following(cache_path, server, *BOTH) as (loader, cache):
            server.update("shop.a", 3, {"v": 3})
            equal(cache, truth(server))
            generation = cache.generation
            loader.signal(number)
            loader.wait()
        server.delete("shop.a", 4)
        server.insert("shop.b", {"_id": 7})
        finds = len(server.requests)
        with following(cache_path, server, *BOTH) as (loader, cache):
            equal(cache, truth(server))
            assert loads(cache) == INITIAL
            assert cache.generation >= generation + 1
            assert cache.status()["position_at"]
            loader.expect("going on from the position")
        queries = [r for name, r in server.requests[finds:] if name == "find"]
        assert all("$in" in str(query.get("filter")) for query in queries)


def test_an_idle_position_moves_without_a_generation(cache_path: Path) -> None:
    """And a loader that is killed then resumes from there, though the oplog has rolled over."""
    with ReplicaSet(OLD) as server:
        server.noops = 0.2
        with following(cache_path, server, *BOTH) as (loader, cache):
            generation, position = cache.generation, cache.status()["position_at"]
            assert position
            wait_for(lambda: (cache.status()["position_at"] or 0) > position + 1)
            later = cache.status()["position_at"] or 0
            # A killed loader may lose the newest note of it, but not the one before.
            wait_for(lambda: (cache.status()["position_at"] or 0) > later + 1)
            assert cache.generation == generation
            loader.signal(signal.SIGKILL)
            loader.wait()
            server.truncate(before=int(later))
        server.delete("shop.a", 4)
        with following(cache_path, server, *BOTH) as (_, cache):
            equal(cache, truth(server))
            assert loads(cache) == INITIAL
            assert cache.generation == generation + 1


def test_once_leaves_a_position_for_a_daemon(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server:
        status, output = load_once(cache_path, ["--uri", server.uri, *BOTH])
        assert status == 0, output
        server.delete("shop.a", 4)
        with following(cache_path, server, *BOTH) as (_, cache):
            equal(cache, truth(server))
            assert loads(cache) == INITIAL


def test_other_options_make_the_position_void(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server:
        with following(cache_path, server, "--collection=shop.a"):
            pass
        with following(cache_path, server, *BOTH) as (_, cache):
            equal(cache, truth(server))
        with following(cache_path, server, *BOTH, '--filter=a={"v": 0}') as (_, cache):
            server.update("shop.a", 3, {"v": 1})
            server.update("shop.b", 1, {"v": 1})
            wait_for(lambda: 3 not in content(cache)["a"] and content(cache)["b"][1]["v"] == 1)
            server.update("shop.a", 3, {"v": 0})
            wait_for(lambda: 3 in content(cache)["a"])


def test_many_write_while_connections_end(cache_path: Path) -> None:
    """Some seconds of everything, from a seed that is shown."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    over = threading.Event()
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH, program=IMPATIENT) as (_, cache),
    ):

        def write() -> None:
            for i in itertools.count(1):
                key = rng.randrange(60)
                with server.changed:
                    known = any(d["_id"] == key for d in server.collections["shop.a"])
                    if not known:
                        server.insert("shop.a", {"_id": key, "v": i})
                    elif rng.random() < 0.3:
                        server.delete("shop.a", key)
                    else:
                        server.update("shop.a", key, {"v": i})
                if over.wait(0.002):
                    return

        writer = threading.Thread(target=write)
        writer.start()
        try:
            faults = random.Random(seed + 1)
            for _ in range(60):
                kind = faults.choice(["await", "open", "find"])
                server.script(kind, faults.choice([CLOSE, HALF, Cut(faults.randrange(400))]))
                if faults.random() < 0.2:
                    server.disconnect()
                time.sleep(0.05)
        finally:
            over.set()
            writer.join()
        equal(cache, truth(server))
        assert loads(cache) == INITIAL
