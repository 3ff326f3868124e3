"""Threads: many readers of one cache, one writer that refuses to be shared, closing meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.threads import together

import mmapcache

bson = pytest.importorskip("bson")


@pytest.fixture(autouse=True)
def fast_switches() -> Iterator[None]:
    """Threads take turns a thousand times more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def writer(cache_path: Path) -> Iterator[mmapcache.Writer]:
    with mmapcache.Writer(cache_path, max_size="16MiB", retention=0) as writer:
        yield writer


def test_readers_see_whole_generations(writer: mmapcache.Writer) -> None:
    """Every document carries its turn; a get_many or snapshot that mixes turns is wrong."""
    turns = 150
    keys = list(range(40))
    cache = writer.reader(front_entries=25)

    def commit(turn: int) -> None:
        with writer.batch() as batch:
            for key in keys:
                batch.put("sites", key, {"_id": key, "turn": turn, "pad": "x" * (turn % 50)})

    commit(0)
    over = threading.Event()

    def load() -> None:
        try:
            for turn in range(1, turns):
                commit(turn)
        finally:
            over.set()

    def read() -> None:
        last = 0
        sites = cache["sites"]
        while not over.is_set():
            one = sites[keys[5]]["turn"]
            assert one >= last
            many = sites.get_many(keys)
            found = {document["turn"] for document in many.values()}
            assert len(many) == len(keys)
            assert len(found) == 1
            last = found.pop()
            assert last >= one
            try:
                with cache.snapshot() as snap:
                    mine = snap["sites"]
                    pair = {mine[key]["turn"] for key in (1, 2, 5)}
                    assert len(pair) == 1
                    assert {document["turn"] for document in mine.values()} == pair
            except mmapcache.SnapshotExpired:
                pass

    together(load, read, read, read)
    assert cache["sites"][0]["turn"] == turns - 1


def test_a_writer_lets_one_thread_in(writer: mmapcache.Writer) -> None:
    buffer = b"".join(bson.encode({"_id": n, "v": "x" * 200}) for n in range(20000))
    refused: list[str] = []
    started = threading.Event()
    with writer.batch() as batch:

        def fill() -> None:
            started.set()
            for _ in range(20):
                batch.put_raw("sites", buffer)

        thread = threading.Thread(target=fill)
        thread.start()
        started.wait()
        while thread.is_alive() and not refused:
            calls: list[Callable[[], Any]] = [
                lambda: batch.put("sites", 1, {"_id": 1}),
                lambda: writer.generation,
                writer.report,
            ]
            for call in calls:
                try:
                    call()
                except mmapcache.MmapCacheError as error:
                    refused.append(str(error))
        thread.join()
    assert refused
    assert all("another thread" in text for text in refused)
    with writer.reader() as cache:
        assert len(cache["sites"]) == 20000


def test_close_while_others_read(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        for n in range(200):
            batch.put("sites", n, {"_id": n})
    for _ in range(20):
        cache = writer.reader()
        sites = cache["sites"]

        def read(cache: mmapcache.Cache = cache, sites: mmapcache.Collection = sites) -> None:
            with pytest.raises(mmapcache.ClosedError):
                while True:
                    assert sites.get(5) == {"_id": 5}
                    assert len(sites.get_many(range(100))) == 100
                    assert len(list(sites.values())) == 200
                    with cache.snapshot() as snap:
                        assert 7 in snap["sites"]

        def close(cache: mmapcache.Cache = cache) -> None:
            time.sleep(0.005)
            cache.close()

        together(read, read, close)


def test_close_while_others_wait_and_check(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        for n in range(20000):
            batch.put("sites", n, {"_id": n})
    cache = writer.reader()

    def wait() -> None:
        with pytest.raises(mmapcache.ClosedError):
            cache.wait(cache.generation, 30)

    def check() -> None:
        with pytest.raises(mmapcache.ClosedError):
            while True:
                cache.check()

    def close() -> None:
        time.sleep(0.2)
        cache.close()

    start = time.monotonic()
    together(wait, check, close)
    assert time.monotonic() - start < 10


def test_waiting_lets_other_threads_run(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    turns: list[int] = []

    def count() -> None:
        while not turns or turns[-1] < 50:
            turns.append(len(turns))
            time.sleep(0.001)

    together(lambda: cache.wait(0, 0.5), count)
    assert turns[-1] >= 50


def test_signals_reach_who_waits(writer: mmapcache.Writer) -> None:
    class Ring(Exception):  # noqa: N818 - it is no error
        pass

    def ring(*_: object) -> None:
        raise Ring

    before = signal.signal(signal.SIGALRM, ring)
    try:
        cache = writer.reader()
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Ring):
            cache.wait(0, 30)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Ring):
            mmapcache.open(cache.path, timeout=30)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Ring):
            mmapcache.Writer(cache.path, timeout=30)
        assert time.monotonic() - start < 10
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_fork_while_other_threads_read_and_commit(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    with writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1, "n": 0})
    over = threading.Event()

    def load() -> None:
        n = 0
        while not over.is_set():
            n += 1
            with writer.batch() as batch:
                batch.put("sites", 1, {"_id": 1, "n": n})

    def read() -> None:
        while not over.is_set():
            assert cache["sites"][1]["n"] >= 0

    def fork() -> None:
        try:
            for _ in range(25):
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    right = cache["sites"][1]["n"] >= 0 and writer.closed
                    os._exit(0 if right else 1)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            over.set()

    together(load, read, fork)
