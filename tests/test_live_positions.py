"""Positions of many databases: short enough to be marked, or committed now and then."""

from __future__ import annotations

import json
import random
import signal
import zlib
from pathlib import Path

import pytest
from support.hold import Hold
from support.live import equal, following, loads, truth
from support.loader import PATIENCE, Loader, wait_for
from support.scripted_oplog import ReplicaSet

import mmapcache
from mmapcache.cli.output import moment_text
from mmapcache.sync.position import Position, unmark

bson = pytest.importorskip("bson")
pytest.importorskip("pymongo")

FLAGS = ["--collection=shop.a"]
DATA = {"shop.a": [{"_id": i, "v": 0} for i in range(35)]}

# An idle position moves on sooner.
SOON = """
import os, sys
from mmapcache.sync import following, position
following._MARK, following._MARK_ALONE = 0.1, 0.5
"""
# And has no room beside the generation.
LONG = SOON + "position.Position.mark = lambda self: os.urandom(2017)\n"
MAIN = """
sys.argv[0] = "mmapcache"
from mmapcache.__main__ import main
sys.exit(main())
"""


def position_of(databases: int) -> Position:
    """With tokens as MongoDB 7 gives them with an event."""
    dice = random.Random(databases)
    kind = "463C6F7065726174696F6E54797065003C757064617465"
    key = "46646F63756D656E744B65790046645F6964"
    tokens = {}
    for number in range(databases):
        head = f"82{0x69000000 + dice.randrange(256):08X}00000001"
        body = f"2B042C0100296E5A1004{dice.randbytes(16).hex().upper()}{kind}00{key}0064"
        data = f"{head}{body}{dice.randbytes(12).hex().upper()}000004"
        tokens[f"database_{number}"] = bson.encode({"_data": data})
    return Position("0123456789abcdef", 1764400000.0, tokens, {"sites": "dropped"})


def test_marks_have_room_for_many_databases() -> None:
    for databases in (1, 5, 8, 25):
        position = position_of(databases)
        assert len(position.mark()) <= 2016, databases
        assert unmark(position.mark()) == position
    assert position_of(1).mark().startswith(b"{"), "a short one can be read by people"


def test_marks_that_are_none() -> None:
    mark = position_of(20).mark()
    assert unmark(mark) == position_of(20)
    for wrong in (mark[1:], mark[:100], b"x", zlib.compress(b"[1]"), zlib.compress(b"{")):
        assert unmark(wrong) is None
    assert unmark(zlib.compress(b" " * (4 << 20))) is None


@pytest.mark.once
def test_a_position_without_room_is_committed_now_and_then(cache_path: Path) -> None:
    """In a generation that changes nothing else; and a loader goes on from there."""

    def at() -> float:
        return float(json.loads(cache.state)["position"]["at"])

    with ReplicaSet(DATA) as server:
        server.noops = 0.1
        with following(cache_path, server, *FLAGS, program=("-c", LONG + MAIN)) as (loader, cache):
            before, generation = at(), cache.generation
            wait_for(lambda: at() > before + 1)
            assert cache.generation > generation
            later = at()
            wait_for(lambda: at() > later)
            equal(cache, truth(server))
            assert (cache.status()["position_at"] or 0.0) > before
            loader.signal(signal.SIGKILL)
            loader.wait()
            server.truncate(before=int(later))
        server.delete("shop.a", 4)
        with following(cache_path, server, *FLAGS, program=("-c", LONG + MAIN)) as (_, cache):
            equal(cache, truth(server))
            assert loads(cache) == {"initial": 1}


@pytest.mark.once
def test_a_plan_shows_the_newest_position(cache_path: Path) -> None:
    """Not the one of the last commit, from which no loader would go on."""
    with ReplicaSet(DATA) as server:
        server.noops = 0.2
        with following(cache_path, server, *FLAGS, program=("-c", SOON + MAIN)) as (loader, cache):
            committed = json.loads(cache.state)["position"]["at"]
            wait_for(lambda: (cache.status()["position_at"] or 0) > committed + 1)
            loader.signal(signal.SIGTERM)
            loader.wait()
            newest = cache.status()["position_at"]
        with Loader(cache_path, ["--uri", server.uri, *FLAGS, "--dry-run"]) as plan:
            assert plan.wait() == 0
            assert f"from the position in the file, of {moment_text(newest)}\n" in plan.output
        with following(cache_path, server, *FLAGS) as (loader, _):
            loader.expect(f"going on from the position of {moment_text(newest)}")


@pytest.mark.once
def test_a_position_is_not_committed_to_a_file_without_its_data(cache_path: Path) -> None:
    """The loader would go on from there, in an empty file."""
    with ReplicaSet(DATA) as server:
        server.noops = 0.1
        with following(cache_path, server, *FLAGS, program=("-c", LONG + MAIN)) as (loader, _):
            cache_path.unlink()
            loader.expect("removed or replaced: beginning anew")
            with mmapcache.open(cache_path, timeout=PATIENCE) as made:
                equal(made, truth(server))
                wait_for(lambda: loads(made) == {"initial": 1})


@pytest.mark.once
def test_a_file_that_is_replaced_when_following_begins(cache_path: Path) -> None:
    hold = Hold(cache_path.with_name("hold"), "mmapcache.sync.following:Following.follow")
    with (
        ReplicaSet(DATA) as server,
        Loader(cache_path, ["--uri", server.uri, *FLAGS], hold.environment) as loader,
    ):
        wait_for(hold.arrived)
        cache_path.unlink()
        hold.go()
        loader.expect("removed or replaced: beginning anew")
        with mmapcache.open(cache_path, timeout=PATIENCE) as made:
            equal(made, truth(server))
            wait_for(lambda: loads(made) == {"initial": 1})
