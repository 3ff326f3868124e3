"""What streams do not tell; several databases; other servers; and what status() says of it."""

from __future__ import annotations

import itertools
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.live import content, equal, following, in_state, loads, truth
from support.loader import PATIENCE, Loader, confirmed_at, wait_for
from support.scripted_oplog import Delay, Edit, ReplicaSet
from support.scripted_server import CLOSE, Request, failing

import mmapcache
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.mongo.client import make_client
from mmapcache.sync.mongo.source import MongoSource
from mmapcache.sync.mongo.together import Together
from mmapcache.sync.options import CollectionOptions, Options
from mmapcache.sync.parsing import Settle
from mmapcache.sync.position import Position, unmark
from mmapcache.sync.source import Caught

bson = pytest.importorskip("bson")
pytest.importorskip("pymongo")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

SITES = ["--collection=shop.sites"]
OLD = {"shop.sites": [{"_id": i, "v": 0} for i in range(5)]}
INITIAL = {"initial": 1}
POINTER = b"\x0c_id\0" + struct.pack("<i", 4) + b"a.b\0" + b"x" * 12
TOKEN = bson.encode({"_data": "82"})


def listed(**fields: Any) -> Edit:
    """What the server lists of each collection has these fields, too."""

    def change(reply: dict[str, Any]) -> None:
        for entry in reply["cursor"]["firstBatch"]:
            entry.update(fields)

    return Edit(change)


# --- what no stream tells -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"type": "view"}, {"type": "timeseries"}, {"options": {"capped": True, "size": 4096}}],
    ids=["view", "time series", "capped"],
)
def test_a_collection_whose_changes_are_not_told_is_polled(
    cache_path: Path, fields: dict[str, Any]
) -> None:
    why = "shop.sites cannot be followed: "
    with ReplicaSet(OLD) as server:
        server.always("listCollections", listed(**fields))
        with following(cache_path, server, *SITES, state="polling") as (loader, cache):
            server.collections["shop.sites"] = [{"_id": 7, "v": 1}]  # and nothing is told
            equal(cache, truth(server))
            loader.expect(f"{why}.*reading everything every 0.2 s")
            wait_for(lambda: (cache.status()["error"] or "").startswith(why))
            assert cache.status()["state"] == "polling"
            assert "warning" not in loader.output


@pytest.mark.parametrize(
    "flag",
    [
        '--filter=sites={"$expr": {"$lt": ["$from", "$$NOW"]}}',
        '--projection=sites={"_id": "$v"}',
        '--projection=sites={"_id": {"$toString": "$_id"}}',
        '--projection=sites={"_id.a": 1}',
    ],
)
def test_a_query_that_no_stream_serves_is_polled(cache_path: Path, flag: str) -> None:
    with ReplicaSet(OLD) as server:
        flags = ["--uri", server.uri, *SITES, flag, "--dry-run"]
        with Loader(cache_path, flags) as loader:
            loader.expect("shop.sites cannot be followed: ")
        assert server.seen["find"] >= 1


@pytest.mark.parametrize("flag", ['{"_id": 1, "v": 1}', '{"_id": true}', '{"v": 1}', '{"v": 0}'])
def test_a_projection_that_keeps_the_id_is_followed(cache_path: Path, flag: str) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *SITES, f"--projection=sites={flag}") as (_, cache),
    ):
        server.delete("shop.sites", 1)
        wait_for(lambda: 1 not in content(cache)["sites"])
        assert loads(cache) == INITIAL


@pytest.mark.parametrize("moment", ["load", "event"])
def test_a_server_without_majority_reads_is_polled(cache_path: Path, moment: str) -> None:
    def refuse(request: Request) -> Any:
        concern = request.get("readConcern", {}).get("level")
        return failing(148, "ReadConcernMajorityNotEnabled") if concern == "majority" else None

    with ReplicaSet(OLD) as server:
        if moment == "load":
            server.always("find", refuse)
        with following(
            cache_path, server, *SITES, state="polling" if moment == "load" else "streaming"
        ) as (_, cache):
            server.always("find", refuse)
            server.update("shop.sites", 1, {"v": 1})
            in_state(cache, "polling")
            equal(cache, truth(server))


def test_majority_reads_that_the_uri_asks_for_and_nobody_has(cache_path: Path) -> None:
    """Polling is no way out of it, and is not tried without a pause."""
    with ReplicaSet(OLD) as server:
        uri = server.uri + "&readConcernLevel=majority"
        with following(cache_path, uri, *SITES, "--follow=poll", state="polling") as (_, cache):
            server.always("find", failing(148, "ReadConcernMajorityNotEnabled"))
            in_state(cache, "degraded")
            finds = server.seen["find"]
            time.sleep(1.0)
            assert server.seen["find"] - finds < 10


# --- positions ------------------------------------------------------------------------------------


def test_the_position_of_another_server_is_not_used(cache_path: Path, tmp_path: Path) -> None:
    """The other one takes the token, as it has no more than a time in it; and has other data."""
    other = {"shop.sites": [{"_id": 1, "v": 2}]}
    with ReplicaSet(other) as second, ReplicaSet(OLD) as first:
        file = tmp_path / "uri"
        file.write_text(first.uri)
        flags = ["--uri-file", str(file), *SITES, "--reload-spread=0"]
        with Loader(cache_path, flags), mmapcache.open(cache_path, timeout=PATIENCE) as cache:
            in_state(cache, "streaming")
            second.noop()
            file.write_text(second.uri)
            first.script("await", CLOSE)
            first.always("open", CLOSE)
            equal(cache, truth(second))
            wait_for(lambda: loads(cache) == {"initial": 1, "bad_token": 1})


@pytest.mark.parametrize("at", ["-1", "1" + "0" * 400])
def test_a_time_that_is_none(at: str) -> None:
    whole = Position("x", 1.0, {"shop": TOKEN}).mark()
    assert unmark(whole) is not None
    assert unmark(whole.replace(b'"at":1.0', b'"at":' + at.encode())) is None


def test_an_event_in_the_first_reply_of_a_stream(cache_path: Path) -> None:
    """It has no token for what is before the event, unless one asks for no events."""

    def change(reply: dict[str, Any]) -> None:
        event = {"_id": reply["cursor"].pop("postBatchResumeToken")}
        reply["cursor"]["firstBatch"] = [event]

    def hasty(request: Request) -> Any:
        return Edit(change) if request["cursor"].get("batchSize") else None

    with ReplicaSet(OLD) as server:
        server.script("open", hasty)
        with following(cache_path, server, *SITES, "--follow=stream") as (_, cache):
            server.update("shop.sites", 1, {"v": 1})
            equal(cache, truth(server))


def test_a_position_that_has_no_room_in_the_file(cache_path: Path) -> None:
    def change(reply: dict[str, Any]) -> None:
        reply["cursor"]["postBatchResumeToken"] = {"_data": "82" * 30_000}

    with ReplicaSet(OLD) as server:
        server.always("open", Edit(change))
        with following(cache_path, server, *SITES, state="polling") as (loader, cache):
            server.update("shop.sites", 1, {"v": 1})
            equal(cache, truth(server))
            loader.expect("change streams has no room .*reading everything every")


def test_a_position_that_is_too_long_for_a_mark_is_not_said_to_be_stored(
    cache_path: Path,
) -> None:
    def change(reply: dict[str, Any]) -> None:
        reply["cursor"]["postBatchResumeToken"] = {"_data": "82" * 1500}

    with ReplicaSet(OLD) as server, following(cache_path, server, *SITES) as (_, cache):
        server.update("shop.sites", 1, {"v": 1})
        equal(cache, truth(server))
        wait_for(lambda: cache.status()["events"])
        stored = cache.status()["position_at"] or 0.0
        server.always("await", Edit(change))
        wait_for(lambda: (cache.status()["confirmed_at"] or 0) > stored + 8)
        assert (cache.status()["position_at"] or 0.0) < stored + 7


# --- several databases ----------------------------------------------------------------------------


def once_then(first: Any, then: Any) -> Callable[[], Any]:
    answers = [first]
    return lambda: answers.pop() if answers else then


def in_database(name: str, fault: Any) -> Callable[[Request], Any]:
    return lambda request: fault if request["$db"] == name else None


def test_one_stream_of_several_hangs(cache_path: Path) -> None:
    """The others are heard all the time."""
    others = ["other", "third", "fourth", "fifth"]
    data = OLD | {f"{name}.sites": [{"_id": 1}] for name in others}
    flags = [*SITES, *(f"--collection={name}.sites={name}" for name in others)]
    with ReplicaSet(data) as server, following(cache_path, server, *flags) as (_, cache):
        wait_for(lambda: len(server.streams) == 5)
        server.always("await", in_database("shop", Delay(2 * PATIENCE)))
        in_state(cache, "degraded")
        server.always("await", None)
        server.update("shop.sites", 1, {"v": 1})
        wait_for(lambda: content(cache)["sites"][1]["v"] == 1)
        in_state(cache, "streaming")
        assert cache.status()["errors"]["silence"] == 1
        assert loads(cache) == INITIAL


def test_a_long_settle_time_is_no_silence(cache_path: Path) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *SITES, "--settle=17000:17000") as (_, cache),
    ):
        for i in range(40):  # a reply each
            server.insert("shop.sites", {"_id": i + 100})
            time.sleep(0.02)
        equal(cache, truth(server))
        assert cache.status()["errors"] == {}


def test_the_lag_is_that_of_the_slowest_database(cache_path: Path) -> None:
    """An hour of `shop` is still to come; `other` is idle, and says so."""
    ago = 3600

    def old(reply: dict[str, Any]) -> None:
        for event in reply["cursor"]["nextBatch"]:
            moment = event["clusterTime"]
            event["clusterTime"] = bson.Timestamp(moment.time - ago, moment.inc)

    late = once_then(Edit(old), Delay(4.0))
    flags = [*SITES, "--collection=other.sites=other", "--settle=2500:2500"]
    with (
        ReplicaSet(OLD | {"other.sites": [{"_id": 1}]}) as server,
        following(cache_path, server, *flags) as (_, cache),
    ):
        wait_for(lambda: len(server.streams) == 2)
        began = time.time()
        server.always("await", lambda r: late() if r["$db"] == "shop" else None)
        with server.transaction():
            server.update("shop.sites", 1, {"v": 1})
            server.update("shop.sites", 2, {"v": 1})
        wait_for(lambda: content(cache)["sites"][2]["v"] == 1)
        wait_for(lambda: 0 < confirmed_at(cache) < began - ago + 60)
        assert (cache.status()["position_at"] or 0.0) < began + 1


# --- what status() says ---------------------------------------------------------------------------


def test_the_error_is_that_of_now(cache_path: Path) -> None:
    """A collection that is kept, a connection that broke, and came back."""
    data = OLD | {"shop.other": [{"_id": 1, "v": 0}]}
    flags = [*SITES, "--collection=shop.other"]
    with ReplicaSet(data) as server, following(cache_path, server, *flags) as (_, cache):
        server.drop("shop.sites")
        wait_for(lambda: "came back empty" in (cache.status()["error"] or ""))
        kept = cache.status()["error"]
        server.always("open", CLOSE)
        server.script("await", CLOSE)
        wait_for(lambda: cache.status()["error"] != kept)
        server.always("open", None)
        server.update("shop.other", 1, {"v": 1})
        wait_for(lambda: content(cache)["other"][1]["v"] == 1)
        wait_for(lambda: cache.status()["error"] == kept)
        assert cache.status()["state"] == "degraded"


@pytest.mark.parametrize(
    "element",
    [b"\x04_id\0" + bson.encode({"0": 1}), b"\x06_id\0", POINTER],
    ids=["an array", "undefined", "a pointer"],
)
def test_an_id_that_no_query_asks_for(cache_path: Path, element: bytes) -> None:
    """Types that MongoDB has given up; and one that it never had."""
    key = struct.pack("<i", len(element) + 5) + element + b"\0"

    def change(reply: dict[str, Any]) -> None:
        for event in reply["cursor"]["nextBatch"]:
            event["documentKey"] = bson.raw_bson.RawBSONDocument(key)

    with ReplicaSet(OLD) as server, following(cache_path, server, *SITES) as (_, cache):
        server.script("await", Edit(change))
        server.update("shop.sites", 1, {"v": 1})
        equal(cache, truth(server))
        wait_for(lambda: loads(cache) == INITIAL | {"refused": 1})


def test_a_change_while_a_suspect_is_read_is_no_error(cache_path: Path) -> None:
    reads = itertools.count()

    def busy(request: Request) -> None:
        if "$in" not in str(request.get("filter")):  # the comparison: makes the suspect
            server.update("shop.sites", 1, {"v": 2})
        elif next(reads) == 1:  # its event is read first, then the suspect
            server.update("shop.sites", 1, {"v": 3})

    with ReplicaSet(OLD) as server, following(cache_path, server, *SITES) as (loader, cache):
        server.always("find", busy)
        loader.signal(signal.SIGHUP)
        loader.expect("verified: 5 documents compared, 0 differed")
        equal(cache, truth(server))
        assert cache.status()["errors"] == {}
        assert next(reads) > 1


def test_what_was_read_is_not_remembered_without_end() -> None:
    collection = CollectionOptions("shop", "sites", "sites")
    with ReplicaSet({"shop.sites": [{"_id": i} for i in range(20)]}) as server:
        options = Options("x", uri=server.uri, collections=(collection,), settle=Settle(0.0, 0.0))
        source = MongoSource(options)
        for feed in source.feeds(frozenset(), estimate=False, follow=True):
            assert list(source.buffers(feed))
        for i in range(20):  # a backlog: the first read is later than all of these
            server.update("shop.sites", i, {"v": 1})
        assert source.position is not None
        with source.follow(source.position, Inbox(), limit=4) as follower:
            events = 0
            for given in follower.messages():
                events += given.events if isinstance(given, Caught) else 0
                if events == 20:
                    break
            assert len(follower._answers) <= 4
        source.close()


def test_large_documents_are_asked_for_in_small_numbers() -> None:
    together = Together()
    for _ in range(10):
        together.took(together.count, 1.0, together.count * (1 << 20))
    assert together.count == 32
    for count in (32, 32, 16):
        together.took(count, count / 1000, 1000)
    assert together.count in (16, 32)
    together.took(together.count, 1.0, 1 << 30)
    assert together.count in (8, 16)


def test_no_stream_waits_for_another_ones_connection() -> None:
    for setting, limit in (("", 0), ("&maxPoolSize=7", 7)):
        uri = "mongodb://127.0.0.1:9/?connect=false" + setting
        with make_client(uri, Options("x"), lambda _: None) as client:
            assert client.options.pool_options.max_pool_size == limit
