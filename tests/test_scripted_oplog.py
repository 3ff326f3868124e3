"""The tests' own replica set against a bare PyMongo: what it says is what MongoDB says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.scripted_oplog import Delay, Edit, ReplicaSet
from support.scripted_server import CLOSE, Cut, failing

pymongo = pytest.importorskip("pymongo")

Event = dict[str, Any]
LEAN = [{"$project": {"fullDocument": 0, "updateDescription": 0}}]


@pytest.fixture
def server() -> Iterator[ReplicaSet]:
    with ReplicaSet({"shop.sites": [{"_id": i, "v": 0} for i in range(5)]}) as server:
        yield server


@pytest.fixture
def client(server: ReplicaSet) -> Iterator[Any]:
    with pymongo.MongoClient(server.uri, serverSelectionTimeoutMS=5000) as client:
        yield client


def take(stream: Any, count: int, timeout: float = 20.0) -> list[Event]:
    """The next events, as many as asked for."""
    found: list[Event] = []
    end = time.monotonic() + timeout
    while len(found) < count:
        assert time.monotonic() < end, found
        event = stream.try_next()
        if event is not None:
            found.append(event)
    return found


def kinds(events: list[Event]) -> list[tuple[str, Any]]:
    return [(e["operationType"], e.get("documentKey", {}).get("_id")) for e in events]


def test_what_is_written_is_heard_and_read(server: ReplicaSet, client: Any) -> None:
    assert [d["_id"] for d in client.shop.sites.find()] == [0, 1, 2, 3, 4]
    with client.shop.watch(full_document="updateLookup", max_await_time_ms=100) as stream:
        assert stream.resume_token is not None
        server.insert("shop.sites", {"_id": 9})
        server.update("shop.sites", 1, {"v": 7})
        server.replace("shop.sites", 2, {"w": 1})
        server.delete("shop.sites", 3)
        server.insert("other.sites", {"_id": 1})
        events = take(stream, 4)
        assert kinds(events) == [("insert", 9), ("update", 1), ("replace", 2), ("delete", 3)]
        assert events[1]["fullDocument"] == {"_id": 1, "v": 7}
        times = [e["clusterTime"] for e in events]
        assert times == sorted(times)
        assert len(set(times)) == 4
    found = client.shop.sites.find({"_id": {"$in": [1, 2, 3, 9]}})
    assert list(found) == [{"_id": 1, "v": 7}, {"_id": 2, "w": 1}, {"_id": 9}]
    assert client.shop.sites.estimated_document_count() == 5


def test_a_burst_wakes_a_stream_that_waits(server: ReplicaSet, client: Any) -> None:
    with client.shop.watch(max_await_time_ms=20_000) as stream:
        threading.Timer(0.1, server.delete, ("shop.sites", 1)).start()
        began = time.monotonic()
        assert kinds([stream.next()]) == [("delete", 1)]
        assert time.monotonic() - began < 10


def test_a_pipeline_filters(server: ReplicaSet, client: Any) -> None:
    wanted = {"ns.coll": {"$in": ["sites", "a"]}, "operationType": {"$ne": "replace"}}
    with client.shop.watch([{"$match": wanted}, *LEAN], max_await_time_ms=100) as stream:
        server.insert("shop.b", {"_id": 1})
        server.insert("shop.a", {"_id": 2})
        server.replace("shop.sites", 2, {})
        server.update("shop.sites", 2, {"v": 1})
        events = take(stream, 2)
        assert kinds(events) == [("insert", 2), ("update", 2)]
        assert "updateDescription" not in events[1]
        assert "fullDocument" not in events[0]


def test_a_stream_resumes_from_every_token(server: ReplicaSet, client: Any) -> None:
    with client.shop.watch(max_await_time_ms=10) as stream:
        tokens = [stream.resume_token]
        for i in range(5):
            with server.transaction():
                server.update("shop.sites", i, {"v": i})
                server.insert("other.sites", {"_id": i})
                server.update("shop.sites", i, {"w": i})
            server.noop()
        events = take(stream, 10)
        tokens += [event["_id"] for event in events]
        stream.try_next()
        assert stream.resume_token["_data"] > tokens[-1]["_data"]
        tokens.append(stream.resume_token)
    assert events[0]["clusterTime"] == events[1]["clusterTime"]
    server.delete("shop.sites", 0)
    for how in ("resume_after", "start_after"):
        for passed, resume in enumerate(tokens):
            with client.shop.watch(**{how: resume}, max_await_time_ms=10) as stream:
                left = take(stream, max(1, 11 - passed))
                assert left[:-1] == events[passed:]
                assert kinds(left[-1:]) == [("delete", 0)]
    with client.shop.watch(start_at_operation_time=events[4]["clusterTime"]) as stream:
        assert take(stream, 6) == events[4:]


def test_an_idle_position_moves(server: ReplicaSet, client: Any) -> None:
    server.noops = 0.05
    with client.shop.watch(max_await_time_ms=100) as stream:
        before = stream.resume_token
        assert stream.try_next() is None
        assert stream.try_next() is None
        assert stream.resume_token["_data"] > before["_data"]


def test_the_end_of_a_database(server: ReplicaSet, client: Any) -> None:
    server.insert("shop.b", {"_id": 1})
    with client.shop.watch() as stream:
        server.rename("shop.b", "shop.c")
        server.drop_database("shop")
        events = list(stream)
        assert [e["operationType"] for e in events] == [
            *("rename", "drop", "drop", "dropDatabase", "invalidate")
        ]
        assert not stream.alive
    with pytest.raises(pymongo.errors.OperationFailure) as caught:
        client.shop.watch(resume_after=events[-1]["_id"])
    assert caught.value.code == 260
    server.insert("shop.sites", {"_id": 1})
    with client.shop.watch(start_after=events[-1]["_id"]) as stream:
        assert kinds(take(stream, 1)) == [("insert", 1)]


def test_an_end_that_the_pipeline_hides(server: ReplicaSet, client: Any) -> None:
    with client.shop.watch([{"$match": {"ns.coll": "sites"}}]) as stream:
        server.drop_database("shop")
        assert [e["operationType"] for e in stream] == ["drop"]
        assert not stream.alive


def test_a_rolled_over_oplog(server: ReplicaSet, client: Any) -> None:
    with client.shop.watch(max_await_time_ms=100) as stream:
        token = stream.resume_token
        time = server.time
        server.truncate()
        with pytest.raises(pymongo.errors.OperationFailure) as caught:
            take(stream, 1)
        assert caught.value.code == 136
    for position in ({"resume_after": token}, {"start_at_operation_time": time}):
        with pytest.raises(pymongo.errors.OperationFailure) as caught:
            client.shop.watch(**position)
        assert caught.value.code == 286
        assert caught.value.has_error_label("NonResumableChangeStreamError")


@pytest.mark.parametrize("garbage", [{"_data": "82zz"}, {"_data": 5}, {}, {"_data": "", "x": 1}])
def test_tokens_that_are_none(server: ReplicaSet, client: Any, garbage: Any) -> None:
    with pytest.raises(pymongo.errors.OperationFailure) as caught:
        client.shop.watch(resume_after=garbage)
    assert caught.value.code == 50811
    with client.shop.watch() as stream:
        token = stream.resume_token["_data"]
    with pytest.raises(pymongo.errors.OperationFailure) as caught:
        client.shop.watch(resume_after={"_data": token[:-2] + "01"})
    assert caught.value.code == 280


def test_events_that_are_too_long(server: ReplicaSet, client: Any) -> None:
    with client.shop.watch(max_await_time_ms=100) as stream:
        token = stream.resume_token
        server.update("shop.sites", 1, {"v": 1}, oversized=True)
        with pytest.raises(pymongo.errors.OperationFailure) as caught:
            take(stream, 1)
        assert caught.value.code == 10334
    splitting: list[Event] = [{"$changeStreamSplitLargeEvent": {}}]
    with client.shop.watch(splitting, resume_after=token) as stream:
        fragments = take(stream, 2)
    assert [f["splitEvent"] for f in fragments] == [{"fragment": i, "of": 2} for i in (1, 2)]
    with client.shop.watch(splitting, resume_after=fragments[0]["_id"]) as stream:
        assert take(stream, 1) == fragments[1:]
    with client.shop.watch([{"$match": {"ns.coll": "b"}}], resume_after=token) as stream:
        assert stream.try_next() is None


def test_faults_come_in_turn(server: ReplicaSet, client: Any) -> None:
    with client.shop.watch(max_await_time_ms=2000) as stream:
        server.script("await", None, failing(99999, "Nobody"), Delay(0.2))
        assert stream.try_next() is None
        with pytest.raises(pymongo.errors.OperationFailure) as caught:
            take(stream, 1)
        assert caught.value.code == 99999
    with client.shop.watch(max_await_time_ms=50) as stream:
        server.delete("shop.sites", 1)
        began = time.monotonic()
        assert kinds(take(stream, 1)) == [("delete", 1)]
        assert time.monotonic() - began > 0.2
        server.script("await", Edit(lambda reply: reply["cursor"]["nextBatch"][0].pop("_id")))
        server.delete("shop.sites", 2)
        with pytest.raises(pymongo.errors.InvalidOperation):
            take(stream, 1)
    cuts = [Cut(0), Cut(20), Cut(10_000)]
    with client.shop.watch(max_await_time_ms=50) as stream:
        for i, fault in enumerate((CLOSE, *cuts)):
            server.script("await", fault)
            server.insert("shop.sites", {"_id": 100 + i})
            assert kinds(take(stream, 1)) == [("insert", 100 + i)]
    assert cuts[0].whole == cuts[1].whole > 200
    server.always("open", failing(40573, "Location40573"))
    with pytest.raises(pymongo.errors.OperationFailure):
        client.shop.watch()
    server.always("open", None)
    server.omit = {"operationTime", "postBatchResumeToken"}
    with pytest.raises(pymongo.errors.OperationFailure, match="'operationTime' missing"):
        client.shop.watch()


def test_a_step_down_and_a_silence(server: ReplicaSet, client: Any) -> None:
    with client.shop.watch(max_await_time_ms=50) as stream:
        server.step_down()
        threading.Timer(0.2, setattr, (server, "primary", True)).start()
        server.delete("shop.sites", 1)
        assert kinds(take(stream, 1)) == [("delete", 1)]
        server.silence()
        threading.Timer(0.3, server.speak).start()
        began = time.monotonic()
        server.delete("shop.sites", 2)
        assert kinds(take(stream, 1)) == [("delete", 2)]
        assert time.monotonic() - began > 0.25


def test_a_secondary_that_lags_knows_what_it_is_asked_for(server: ReplicaSet, client: Any) -> None:
    server.freeze_reads()
    server.update("shop.sites", 1, {"v": 5})
    query = {"_id": 1}
    with client.start_session() as session:
        assert client.shop.sites.find_one(query)["v"] == 0
        session.advance_operation_time(server.time)
        session.advance_cluster_time({"clusterTime": server.time})
        assert client.shop.sites.find_one(query, session=session)["v"] == 5
