"""What takes long or is answered late: said in the state, told from a hang, and never given up for
good."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from support.live import IMPATIENT, equal, following, in_state, loads, log_lines, truth, well
from support.loader import PATIENCE, wait_for
from support.scripted_oplog import LOST, ReplicaSet
from support.scripted_server import CLOSE, failing

from mmapcache.sync.watch import Watch

pytest.importorskip("pymongo")

pytestmark = pytest.mark.once

FLAGS = ["--collection=shop.a"]
DATA = {"shop.a": [{"_id": i, "v": 0} for i in range(35)]}
EXPIRED = failing(50, "MaxTimeMSExpired")


def reads(server: ReplicaSet) -> list[dict[str, Any]]:
    """The finds by _id."""
    return [r for name, r in server.requests if name == "find" and "$in" in str(r)]


@pytest.mark.parametrize("hold", [[], ['--hold-while=shop.m:{"on": true}']])
def test_a_member_that_lags_is_asked_for_the_same_time_again(
    cache_path: Path, hold: list[str]
) -> None:
    """It never has what is new, but in the end what was new at the first try. Not even a refusal
    that tells of a newer time makes it a later one."""
    with ReplicaSet(DATA) as server, following(cache_path, server, *FLAGS, *hold) as (_, cache):
        server.noops = 0.0  # its clock moves with each reply
        opened = len(server.opened)
        server.always("find", EXPIRED)
        finds = server.seen["find"]
        with server.transaction():
            for i in range(5):
                server.update("shop.a", i, {"v": 1})
        in_state(cache, "degraded")
        wait_for(lambda: server.seen["find"] > finds + 2)
        assert "lags" in (cache.status()["error"] or "")
        server.always("find", None)
        equal(cache, truth(server, "a"))
        well(cache)
        assert len(server.opened) == opened, "the streams went on"
        assert cache.status()["errors"] == {"50": 1}, "counted once"
        assert loads(cache) == {"initial": 1}
    asked = [r for name, r in server.requests if name == "find"][finds:][:3]
    assert len({r["readConcern"]["afterClusterTime"] for r in asked}) == 1
    assert all(0 < r["maxTimeMS"] < 10_000 for r in asked)
    if not hold:
        assert len(reads(server)[-1]["filter"]["_id"]["$in"]) < 5, "it may be the query, too"


def test_a_part_of_a_burst_may_be_late(cache_path: Path) -> None:
    """When the main thread is about to commit what came before."""
    flags = [*FLAGS, "--collection=shop.b", "--settle=500:500"]
    data = DATA | {"shop.b": [{"_id": 1, "v": 0}]}
    with ReplicaSet(data) as server, following(cache_path, server, *flags) as (_, cache):
        server.update("shop.a", 1, {"v": 1})  # goes on at once, and what comes next is gathered
        equal(cache, truth(server))
        generation = cache.generation
        server.script("find", None, *[EXPIRED] * 3)
        server.update("shop.a", 2, {"v": 2})
        server.update("shop.b", 1, {"v": 2})
        wait_for(lambda: server.idle("find"))
        equal(cache, truth(server))
        in_state(cache, "streaming")
        assert cache.status()["errors"] == {"50": 1}
        assert cache.generation > generation


def test_a_verification_that_is_broken_is_tried_again(cache_path: Path) -> None:
    """Though what is followed meanwhile is well."""
    with (
        ReplicaSet(DATA) as server,
        following(cache_path, server, *FLAGS, program=IMPATIENT) as (loader, cache),
    ):
        broken = [CLOSE] * 4  # PyMongo asks twice
        server.script("find", *broken, failing(13, "Unauthorized"))
        loader.signal(signal.SIGHUP)
        wait_for(lambda: loads(cache) == {"initial": 1, "verify": 1})
        assert server.idle("find")
        loader.expect("verified: 35 documents compared, 0 differed")
        assert len(log_lines(loader, "reading everything to verify it")) == 4
        in_state(cache, "streaming")


# --- a load that waits ----------------------------------------------------------------------------

SOON = (
    "-c",
    """
import sys
import mmapcache.sync.mongo.follower  # whose limit stays
from mmapcache.sync import watch
watch.SILENCE = 1.0
sys.argv[0] = "mmapcache"
from mmapcache.__main__ import main
sys.exit(main())
""",
)


@pytest.mark.parametrize("why", ["verify", "history_lost"])
def test_a_server_that_hangs_during_a_load(cache_path: Path, why: str) -> None:
    """While its heartbeats answer. PyMongo alone would say so after three minutes."""

    def hang(request: Any) -> None:
        server.silence()

    with (
        ReplicaSet(DATA) as server,
        following(cache_path, server, *FLAGS, program=SOON) as (loader, cache),
    ):
        server.script("find", hang)
        if why == "verify":
            loader.signal(signal.SIGHUP)
        else:
            server.script("await", LOST)
        wait_for(lambda: "nothing was heard" in (cache.status()["error"] or ""))
        assert cache.status()["state"] == "degraded"
        assert cache.status()["errors"]["silence"] >= 1
        server.speak()
        wait_for(lambda: loads(cache) == {"initial": 1, why: 1})
        well(cache)
        assert "NetworkTimeout" not in cache.status()["errors"], "it went on, not anew"
        loader.expect("is heard again")


def test_a_query_that_takes_long_is_not_a_server_that_hangs(cache_path: Path) -> None:
    over = threading.Event()

    def slow(request: Any) -> None:
        over.wait(PATIENCE)

    with (
        ReplicaSet(DATA) as server,
        following(cache_path, server, *FLAGS, program=SOON) as (loader, cache),
    ):
        server.script("find", slow)
        server.script("await", LOST)
        loader.expect("waiting for documents; mongodb://.* answers meanwhile")
        in_state(cache, "loading")
        over.set()
        wait_for(lambda: loads(cache) == {"initial": 1, "history_lost": 1})


def test_silence_is_counted_from_the_last_word() -> None:
    now = 100.0
    said: list[str] = []
    alive = threading.Event()
    asked = threading.Semaphore(0)

    def ask() -> bool:
        asked.release()
        return alive.wait(PATIENCE)

    def at(seconds: float) -> list[str]:
        nonlocal now
        now = seconds
        watch.look()
        told, said[:] = said[:], []
        return told

    watch = Watch(
        ask,
        lambda: said.append("hangs"),
        lambda: said.append("answers"),
        lambda: said.append("goes on"),
        lambda: now,
    )
    watch.waits()
    assert at(104.9) == []
    assert not asked.acquire(blocking=False), "not asked yet"
    assert at(105.0) == []
    assert asked.acquire(timeout=PATIENCE), "asked by a thread"
    assert at(109.9) == []
    assert at(110.0) == ["hangs"]
    assert at(130.0) == [], "said once"
    assert not asked.acquire(blocking=False), "asked once at a time"
    watch.heard()
    assert said == ["goes on"]
    said.clear()
    watch.waits()
    assert at(139.9) == []
    assert at(140.0) == ["hangs"]
    alive.set()
    wait_for(lambda: at(140.0) == ["goes on", "answers"])
    assert at(144.9) == []
    assert at(145.0) == []
    assert asked.acquire(timeout=PATIENCE), "asked once more"
    wait_for(lambda: not watch._asking)
    assert at(149.9) == [], "it answers, however long it takes"
