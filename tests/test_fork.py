"""Opened before a fork or after it: nothing to call, nothing shared that could break."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.caches import fill
from support.processes import in_child, run_script

import mmapcache

bson = pytest.importorskip("bson")


@pytest.fixture
def writer(writer: mmapcache.Writer) -> mmapcache.Writer:
    fill(writer, "sites", {"_id": 1, "n": 1})
    return writer


def test_opened_before_the_fork(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites = cache["sites"]
    document = sites[1]
    ready, go = os.pipe(), os.pipe()

    def child() -> None:
        assert sites[1] is document
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        assert cache.generation == 2
        assert sites[1] == {"_id": 1, "n": 2}
        assert len(sites) == 2
        assert sites.get_many([1, 2, 3]).keys() == {1, 2}
        with cache.snapshot() as snap:
            assert snap["sites"][2] == {"_id": 2}
        assert cache.status()["loader"] == "alive"
        cache.close()

    def commit() -> None:
        os.read(ready[0], 1)
        fill(writer, "sites", {"_id": 1, "n": 2}, {"_id": 2})
        os.write(go[1], b"x")

    thread = threading.Thread(target=commit)
    thread.start()
    in_child(child)
    thread.join()
    assert document == {"_id": 1, "n": 1}
    assert sites[1] == {"_id": 1, "n": 2}
    for end in (*ready, *go):
        os.close(end)


def test_opened_after_the_fork(writer: mmapcache.Writer, cache_path: Path) -> None:
    def child() -> None:
        with mmapcache.open(cache_path) as cache:
            assert cache["sites"][1] == {"_id": 1, "n": 1}
            assert cache.check()["generation"] == 1

    in_child(child)
    with writer.reader() as cache:
        in_child(child)
        assert cache["sites"][1] == {"_id": 1, "n": 1}


def test_a_child_of_a_child(writer: mmapcache.Writer) -> None:
    cache = writer.reader()

    def grandchild() -> None:
        assert cache["sites"][1]["n"] == 1

    in_child(lambda: in_child(grandchild))


def test_a_snapshot_crosses_a_fork(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    with cache.snapshot() as snap:
        fill(writer, "sites", {"_id": 1, "n": 2})

        def child() -> None:
            assert snap["sites"][1]["n"] == 1
            assert cache["sites"][1]["n"] == 2

        in_child(child)


def test_a_writer_is_closed_in_the_child(writer: mmapcache.Writer) -> None:
    with pytest.raises(ZeroDivisionError), writer.batch() as batch:
        batch.put("sites", 5, {"_id": 5})
        full = batch.replace("flags")
        full.__enter__()

        def child() -> None:
            assert writer.closed
            calls: list[Any] = [
                lambda: batch.put("sites", 6, {"_id": 6}),
                lambda: full.put(1, {"_id": 1}),
                lambda: batch.__exit__(None, None, None),
                writer.batch,
                writer.report,
                writer.status,
                writer.stats,
                writer.checkpoint,
                lambda: writer.generation,
                lambda: writer.state,
                writer.__enter__,
            ]
            for call in calls:
                with pytest.raises(mmapcache.ClosedError, match="forked child"):
                    call()
            batch.__exit__(ValueError, ValueError(), None)
            writer.close()

        in_child(child)
        batch.put("sites", 7, {"_id": 7})
        raise ZeroDivisionError
    fill(writer, "sites", {"_id": 8})
    with writer.reader() as cache:
        assert set(cache["sites"]) == {1, 8}
        cache.check()


def test_the_lock_is_not_held_by_a_child(cache_path: Path) -> None:
    """A loader that dies gives the lock back even while a child of it lives on."""
    script = """
import os, sys, time
import mmapcache
writer = mmapcache.Writer(sys.argv[1], max_size="4MiB")
with writer.batch() as batch:
    batch.put("sites", 1, {"_id": 1})
child = os.fork()
if child == 0:
    os.close(1)
    os.close(2)
    time.sleep(20)
    os._exit(0)
print(child, flush=True)
os._exit(0)
"""
    child = int(run_script(script, str(cache_path)))
    try:
        with mmapcache.Writer(cache_path, timeout=2) as writer:
            fill(writer, "sites", {"_id": 2})
            assert writer.generation == 2
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_may_become_the_loader(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        fill(writer, "sites", {"_id": 1})

        def child() -> None:
            with pytest.raises(mmapcache.LockTimeout):
                mmapcache.Writer(cache_path)

        in_child(child)
        cache = writer.reader()

    def loader() -> None:
        with mmapcache.Writer(cache_path) as mine:
            fill(mine, "sites", {"_id": 2})

    in_child(loader)
    assert set(cache["sites"]) == {1, 2}


@pytest.mark.parametrize("when", ["before", "after"])
def test_anonymous_caches_are_for_children(when: str) -> None:
    writer = mmapcache.Writer.anonymous(max_size="4MiB")
    fill(writer, "sites", {"_id": 1})
    cache = writer.reader()

    def child() -> None:
        mine = cache if when == "before" else writer.reader()
        assert mine["sites"][1] == {"_id": 1}
        with pytest.raises(mmapcache.ClosedError):
            writer.batch()

    in_child(child)
    ready, go = os.pipe(), os.pipe()

    def follower() -> None:
        mine = cache if when == "before" else writer.reader()
        generation = mine.generation
        os.write(ready[1], b"x")
        assert mine.wait(generation, 20)
        assert mine["sites"][2] == {"_id": 2}

    def commit() -> None:
        os.read(ready[0], 1)
        fill(writer, "sites", {"_id": 2})

    thread = threading.Thread(target=commit)
    thread.start()
    in_child(follower)
    thread.join()
    for end in (*ready, *go):
        os.close(end)
    writer.close()


def test_dead_loader_is_seen_and_harmless(cache_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            writer = mmapcache.Writer(cache_path, max_size="4MiB")
            fill(writer, "sites", {"_id": 1})
            with writer.batch() as batch:
                batch.put("sites", 2, {"_id": 2})
                os.write(write, b"x")
                time.sleep(60)
        finally:
            os._exit(1)
    os.read(read, 1)
    cache = mmapcache.open(cache_path)
    assert cache.status()["loader"] == "alive"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert cache.status()["loader"] == "dead"
    assert dict(cache["sites"]) == {1: {"_id": 1}}
    with mmapcache.Writer(cache_path) as writer:
        assert writer.generation == 1
        fill(writer, "sites", {"_id": 3})
    assert set(cache["sites"]) == {1, 3}
    cache.check()
    os.close(read)
    os.close(write)


def test_a_killed_reader_harms_nobody(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    child = os.fork()
    if child == 0:
        try:
            while True:
                cache["sites"].get_many(range(10))
        finally:
            os._exit(1)
    time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    fill(writer, "sites", {"_id": 2})
    assert len(cache["sites"]) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_reader_under_another_user(cache_path: Path) -> None:
    nobody, group = 65534, 54321
    os.chown(cache_path.parent, 0, group)
    cache_path.parent.chmod(0o2755)  # files in it get its group
    writer = mmapcache.Writer(cache_path, max_size="4MiB")
    fill(writer, "sites", {"_id": 1, "n": 1})
    assert cache_path.stat().st_gid == group
    assert cache_path.stat().st_mode & 0o777 == 0o640

    def member() -> None:
        os.setgroups([])
        os.setgid(group)
        os.setuid(nobody)
        with mmapcache.open(cache_path) as cache:
            assert cache["sites"][1] == {"_id": 1, "n": 1}
            assert cache.status()["loader"] == "alive"
        with pytest.raises((OSError, mmapcache.MmapCacheError)):
            mmapcache.Writer(cache_path)

    def stranger() -> None:
        os.setgroups([])
        os.setgid(nobody)
        os.setuid(nobody)
        with pytest.raises(PermissionError):
            mmapcache.open(cache_path)

    in_child(member)
    in_child(stranger)
    fill(writer, "sites", {"_id": 2})
    writer.close()
