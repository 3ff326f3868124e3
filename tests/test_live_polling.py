"""Servers without change streams, and loaders that want none: everything is read again instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.live import IMPATIENT, Reader, equal, following, in_state, loads, truth
from support.loader import Loader, wait_for
from support.scripted_oplog import ReplicaSet
from support.scripted_server import CLOSE, failing

pytest.importorskip("pymongo")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

BOTH = ["--collection=shop.a", "--collection=shop.b"]
OLD = {"shop.a": [{"_id": i, "v": 0} for i in range(35)], "shop.b": [{"_id": 1, "v": 0}]}


NONE = {
    "40573, standalone": failing(40573, "Location40573"),
    "40324, unknown stage": failing(40324, "Location40324"),
    "59, unknown command": failing(59, "CommandNotFound"),
    "238, not implemented": failing(238, "NotImplemented"),
    "9, cannot parse": failing(9, "FailedToParse"),
    "115, not supported": failing(115, "CommandNotSupported"),
}
MISSING = {"no operationTime": {"operationTime", "postBatchResumeToken"}}
MISSING["no token"] = {"postBatchResumeToken"}
MISSING["neither, nor $clusterTime"] = {"operationTime", "postBatchResumeToken", "$clusterTime"}


def without_streams(case: str) -> ReplicaSet:
    server = ReplicaSet(OLD)
    if case in NONE:
        server.always("open", NONE[case])
    else:
        server.omit = MISSING[case]
    return server


@pytest.mark.parametrize("case", [*NONE, *MISSING])
def test_a_server_without_streams_is_polled(cache_path: Path, case: str) -> None:
    with (
        without_streams(case) as server,
        following(cache_path, server, *BOTH, state="polling") as (loader, cache),
        Reader(cache_path) as reader,
    ):
        for i in range(5):
            with server.transaction():
                server.delete("shop.a", i)
                server.update("shop.b", 1, {"v": i + 1})
            equal(cache, truth(server))
        finds = server.seen["find"]
        wait_for(lambda: server.seen["find"] >= finds + 10)
        status = cache.status()
        assert (status["state"], status["error"]) == ("polling", None)
        assert status["lag"] is None
        assert server.seen["aggregate"] <= 3  # another attempt now and then, not at each refresh
        assert set(loads(cache)) == {"initial", "poll"}
        assert "warning" not in loader.output
    assert len(reader.states()) == 6


@pytest.mark.parametrize("case", [*NONE, *MISSING])
def test_follow_stream_fails_with_a_sentence(cache_path: Path, case: str) -> None:
    with without_streams(case) as server:
        flags = ["--uri", server.uri, *BOTH, "--follow=stream"]
        with Loader(cache_path, flags) as loader:
            assert loader.wait() == 1
            last = loader.output.strip().splitlines()[-1]
            assert "error  " in last
            assert "change stream" in last
            assert "--follow" in last
            assert "Traceback" not in loader.output


def test_follow_poll_never_opens_a_stream(cache_path: Path) -> None:
    with (
        ReplicaSet(OLD) as server,
        following(cache_path, server, *BOTH, "--follow=poll", state="polling") as (_, cache),
    ):
        finds = server.seen["find"]
        server.delete("shop.a", 3)
        equal(cache, truth(server))
        wait_for(lambda: server.seen["find"] >= finds + 10)
        assert server.seen["aggregate"] == 0
        assert cache.status()["state"] == "polling"
        assert set(loads(cache)) == {"initial", "poll"}


def test_a_user_who_may_not_watch_is_polled(cache_path: Path) -> None:
    with ReplicaSet(OLD) as server:
        server.always("open", failing(13, "Unauthorized"))
        with following(cache_path, server, *BOTH, state="polling") as (_, cache):
            server.delete("shop.a", 3)
            equal(cache, truth(server))
            assert server.seen["aggregate"] <= 3


def test_streams_that_are_taken_away_while_they_run(cache_path: Path) -> None:
    """As when a standalone server takes the place of a replica set."""
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (_, cache):
        server.always("open", failing(40573, "Location40573"))
        server.script("await", CLOSE)
        server.delete("shop.a", 3)
        in_state(cache, "polling")
        equal(cache, truth(server))
        server.delete("shop.a", 4)
        equal(cache, truth(server))


def test_streams_are_asked_for_again_now_and_then(cache_path: Path) -> None:
    """Every minute; here every second, of a loader that reads everything five times as often."""
    with ReplicaSet(OLD) as server:
        server.always("open", failing(40573, "Location40573"))
        flags = ["--interval=0.2"]
        with following(cache_path, server, *BOTH, *flags, state="polling", program=IMPATIENT) as (
            _,
            cache,
        ):
            asked, finds = server.seen["aggregate"], server.seen["find"]
            wait_for(lambda: server.seen["aggregate"] >= asked + 3)
            assert server.seen["find"] >= finds + 2 * 2 * 3  # of two collections, between them
            assert cache.status()["state"] == "polling"
            server.always("open", None)
            in_state(cache, "streaming")
            wait_for(lambda: server.streams)
            server.delete("shop.a", 3)
            equal(cache, truth(server))
