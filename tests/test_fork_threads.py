"""Forked while another thread is inside the library: the child neither hangs nor breaks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mmapcache

bson = pytest.importorskip("bson")

FORKS = 300


@contextmanager
def running(*targets: Callable[[], None]) -> Iterator[None]:
    """Threads that call their target again and again for as long as the block lasts."""
    stop = threading.Event()

    def run(target: Callable[[], None]) -> None:
        while not stop.is_set():
            target()

    threads = [threading.Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def fork_often(child: Callable[[], None], times: int = FORKS) -> None:
    """Each child has 20 seconds, and ends with 0."""
    for number in range(times):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(20)
                child()
                status = 0
            finally:
                os._exit(status)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert ended == 0, f"child {number} of {times} ended with {ended}"


def build(path: Path, documents: int = 3) -> None:
    with mmapcache.Writer(path, max_size="16MiB") as writer, writer.batch() as batch:
        for key in range(documents):
            batch.put("sites", key, {"_id": key, "n": key})


def test_while_threads_open_and_close(cache_path: Path) -> None:
    build(cache_path)
    other = cache_path.with_name("other")

    def read() -> None:
        with mmapcache.open(cache_path) as cache:
            assert len(cache["sites"]) == 3

    def write() -> None:
        mmapcache.Writer(other, max_size="4MiB").close()

    with running(read, read, write):
        fork_often(read)


def test_a_child_that_lives_on_keeps_no_lock(cache_path: Path) -> None:
    """Forked in the middle of a Writer's opening: its lock goes with the parent's close."""
    children: list[int] = []
    with running(lambda: mmapcache.Writer(cache_path, max_size="4MiB").close()):
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    try:
        mmapcache.Writer(cache_path).close()
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.parametrize("call", ["put_raw", "commit", "abort", "replace", "checkpoint"])
def test_while_a_thread_is_in_a_writer(cache_path: Path, call: str) -> None:
    """The child's copy may be half changed: to close it touches nothing of that."""
    writer = mmapcache.Writer(cache_path, max_size="64MiB")
    turn = 0

    def work() -> None:
        nonlocal turn
        turn += 1
        raw = b"".join(bson.encode({"_id": n, "turn": turn, "pad": "x" * 80}) for n in range(2000))
        if call == "checkpoint":
            writer.checkpoint()
        elif call == "abort":
            with pytest.raises(ZeroDivisionError), writer.batch() as batch:
                batch.put_raw("sites", raw)
                raise ZeroDivisionError
        elif call == "replace":
            with writer.batch() as batch, batch.replace("sites") as sites:
                sites.put_raw(raw[: len(raw) // 2000 * (turn % 2000)])
        else:
            with writer.batch() as batch:
                batch.put_raw("sites", raw)

    def child() -> None:
        assert writer.closed
        with pytest.raises(mmapcache.ClosedError):
            writer.batch()
        writer.close()
        if call == "put_raw":
            with pytest.raises(mmapcache.LockTimeout):
                mmapcache.Writer(cache_path)

    with running(work):
        began = time.monotonic()
        while time.monotonic() - began < 3:
            fork_often(child, 10)
    with writer.reader() as cache:
        cache.check()
    writer.close()
