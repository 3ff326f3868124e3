"""The five known ways in which loaders of this kind lose data or deceive their operators.

Each has been reported of a tool that copies from MongoDB; here each has a test.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.live import Reader, content, equal, following, in_state, loads, truth
from support.loader import Loader, wait_for
from support.scripted_oplog import ReplicaSet
from support.scripted_server import CLOSE, HANG, failing

import mmapcache

pytest.importorskip("pymongo")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

BOTH = ["--collection=shop.a", "--collection=shop.b"]
OLD = {"shop.a": [{"_id": i, "v": 0} for i in range(35)], "shop.b": [{"_id": 1, "v": 0}]}


def test_1_it_stops_silently_and_still_says_that_all_is_well(cache_path: Path) -> None:
    """monstache#571, #508, #707; MongoShake#956.

    Here: a stream that hangs, then one that cannot be opened, is in the state and in the age of the
    data, which grow for whoever reads the file alone, even when the loader itself is stopped.
    """
    with ReplicaSet(OLD) as server, following(cache_path, server, *BOTH) as (loader, cache):
        server.silence()
        in_state(cache, "degraded")
        assert cache.status()["error"]
        server.speak()
        in_state(cache, "streaming")
        server.always("open", failing(99999, "Nobody"))
        server.script("await", CLOSE)
        in_state(cache, "degraded")
        server.always("open", None)
        in_state(cache, "streaming")
        loader.signal(signal.SIGSTOP)
        before = cache.status()
        time.sleep(0.6)
        after = cache.status()
        assert before["lag"] is not None
        assert after["lag"] is not None
        assert after["lag"] >= before["lag"] + 0.5
        assert (after["age"] or 0) >= (before["age"] or 0) + 0.5
        loader.signal(signal.SIGCONT)
        server.delete("shop.a", 3)
        equal(cache, truth(server))


def test_2_it_does_not_notice_that_the_oplog_has_rolled_over(cache_path: Path) -> None:
    """MongoShake#218, monstache#258.

    Here: whether the stream was open or the loader was down, what no event told is in the cache.
    """
    with ReplicaSet(OLD) as server:
        with following(cache_path, server, *BOTH) as (loader, cache):
            with server.changed:
                server.delete("shop.a", 3)
                server.truncate()
            equal(cache, truth(server))
            wait_for(lambda: loads(cache) == {"initial": 1, "history_lost": 1})
            in_state(cache, "streaming")
            loader.signal(signal.SIGTERM)
            loader.wait()
        server.delete("shop.a", 4)
        server.truncate()
        with following(cache_path, server, *BOTH) as (_, cache):
            equal(cache, truth(server))
            wait_for(lambda: loads(cache) == {"initial": 1, "history_lost": 2})


def test_3_it_forgets_what_was_deleted_while_it_was_down(cache_path: Path) -> None:
    """monstache#466. Here: the stored position knows of it, or else a load compares everything."""
    with ReplicaSet(OLD) as server:
        with following(cache_path, server, *BOTH) as (loader, _):
            loader.signal(signal.SIGKILL)
            loader.wait()
        server.delete("shop.a", 3)
        finds = len(server.requests)
        with following(cache_path, server, *BOTH) as (loader, cache):
            equal(cache, truth(server))
            assert 3 not in cache["a"]
            assert loads(cache) == {"initial": 1}
            loader.signal(signal.SIGKILL)
            loader.wait()
        read = [request for name, request in server.requests[finds:] if name == "find"]
        assert all("$in" in str(request.get("filter")) for request in read)
        server.delete("shop.a", 4)
        server.truncate()
        with following(cache_path, server, *BOTH) as (_, cache):
            equal(cache, truth(server))
            assert 4 not in cache["a"]


def test_4_it_takes_half_a_load_for_the_whole(cache_path: Path) -> None:
    """monstache#625. Here: a load that was cut short is no generation and has no position."""
    server = ReplicaSet(OLD)
    stuck: list[Any] = []

    def hang(request: dict[str, Any]) -> Any:
        stuck.append(request)
        return HANG

    with server:
        server.script("getMore", None, hang)
        flags = ["--uri", server.uri, *BOTH, "--batch-size=10", "--follow=stream"]
        with Loader(cache_path, flags) as loader:
            wait_for(lambda: stuck)
            loader.signal(signal.SIGKILL)
            loader.wait()
        with pytest.raises(mmapcache.NotReadyError):
            mmapcache.open(cache_path)
        with following(cache_path, server, *BOTH) as (loader, cache):
            assert content(cache) == truth(server)
            with Reader(cache_path) as reader:
                before = content(cache)
                with server.changed:
                    server.collections = {"shop.a": [{"_id": i, "v": 1} for i in range(35)]} | {
                        "shop.b": OLD["shop.b"]
                    }
                    server.script("getMore", None, CLOSE, CLOSE)  # half of the load that follows
                    server.script("await", failing(286, "ChangeStreamHistoryLost"))
                equal(cache, truth(server))
                in_state(cache, "streaming")
            assert reader.states() == [before, truth(server)]
            wait_for(lambda: loads(cache) == {"initial": 1, "history_lost": 1})


def test_5_it_can_do_nothing_without_change_streams(cache_path: Path) -> None:
    """monstache#345. Here: what has none is read again at the interval, and says so."""
    with ReplicaSet(OLD) as server:
        server.always("open", failing(40573, "Location40573"))
        with following(cache_path, server, *BOTH, state="polling") as (_, cache):
            server.delete("shop.a", 3)
            equal(cache, truth(server))
            assert cache.status()["state"] == "polling"
            assert cache.status()["error"] is None
