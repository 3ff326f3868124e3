"""Threads against what the binding keeps without atomics: its counts, and a writer's open changes.

The GIL is the lock of all of it, so each test has calls that give it up running beside others.
`make sanitize ARGS=--threads` runs these under ThreadSanitizer.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.threads import together

import mmapcache

bson = pytest.importorskip("bson")

SECONDS = 0.3


@pytest.fixture(autouse=True)
def fast_switches() -> Iterator[None]:
    """Threads take turns a thousand times more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def uses(path: Path) -> tuple[int, int]:
    """How many mappings and descriptors of the file this process has."""
    mappings = Path("/proc/self/maps").read_text().count(f" {path}")
    links = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
    return mappings, links.count(str(path))


@pytest.mark.parametrize("turn", range(6))
def test_waiting_beside_readers_and_a_fast_loader(cache_path: Path, turn: int) -> None:
    """Whoever waits is one more user of the mapping, counted right: it goes when all have gone."""
    with mmapcache.Writer(cache_path, max_size="4MiB", retention=0) as writer:
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1, "n": 0})
        over = threading.Event()
        before = uses(cache_path)
        cache = mmapcache.open(cache_path) if turn % 2 else writer.reader()

        def load() -> None:
            end = time.monotonic() + SECONDS
            n = 0
            while time.monotonic() < end:
                n += 1
                with writer.batch() as batch:
                    batch.put("sites", 1, {"_id": 1, "n": n})
            over.set()

        def wait(cache: mmapcache.Cache = cache) -> None:
            while not over.is_set():
                cache.wait(cache.generation, 0.01)

        def read(cache: mmapcache.Cache = cache) -> None:
            sites = cache.collection("sites")
            while not over.is_set():
                with contextlib.suppress(mmapcache.SnapshotExpired):
                    sites.get(1)
                    with cache.snapshot() as snapshot:
                        list(snapshot)
                    list(cache)
                cache.status()
                cache.stats()

        together(load, wait, wait, wait, wait, read, read)
        cache.close()
        del cache, wait, read
        gc.collect()
        assert uses(cache_path) == before


def test_waiting_while_others_close(cache_path: Path) -> None:
    """The last user of a mapping may be who waits, who reads or who closes."""
    with mmapcache.Writer(cache_path, max_size="4MiB", retention=0) as writer:
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1})
        before = uses(cache_path)
        for _ in range(30):
            cache = mmapcache.open(cache_path)

            def wait(cache: mmapcache.Cache = cache) -> None:
                with pytest.raises(mmapcache.ClosedError):
                    while True:
                        cache.wait(cache.generation, 0.001)

            def check(cache: mmapcache.Cache = cache) -> None:
                with pytest.raises(mmapcache.ClosedError):
                    while True:
                        cache.check()

            def close(cache: mmapcache.Cache = cache) -> None:
                time.sleep(0.002)
                cache.close()

            together(wait, wait, check, close)
        del cache, wait, check, close
        gc.collect()
        assert uses(cache_path) == before


def documents(count: int, length: int = 200) -> bytes:
    """BSON that is long enough for put_raw to give up the GIL."""
    return b"".join(bson.encode({"_id": n, "v": "x" * length}) for n in range(count))


def when_busy(writer: mmapcache.Writer, thread: threading.Thread) -> bool:
    """Waits until another thread is inside a call of the writer; False if it was too fast."""
    while thread.is_alive():
        try:
            _ = writer.generation
        except mmapcache.MmapCacheError:
            return True
    return False


def test_a_replace_dropped_while_another_thread_puts(cache_path: Path) -> None:
    """What it had put is taken back once the running call is over, and what follows is whole."""
    buffer, longer = documents(2_000), documents(2_000, 300)
    dropped = 0
    with mmapcache.Writer(cache_path, max_size="128MiB", retention=0) as writer:
        with writer.batch() as batch:
            batch.put("sites", "old", {"_id": "old"})
        reader = writer.reader()
        for _ in range(100):
            if dropped == 3:
                break
            with writer.batch() as batch:
                replace = batch.replace("sites").__enter__()
                replace.put_raw(buffer)
                putting = threading.Thread(target=batch.put_raw, args=("sites", longer))
                putting.start()
                dropped += when_busy(writer, putting)
                del replace
                putting.join()
                batch.put("sites", "new", {"_id": "new"})
            reader.check()
            assert sorted(reader["sites"]) == ["new", "old"]
    assert dropped == 3


def test_a_batch_dropped_while_another_thread_works(cache_path: Path) -> None:
    """A batch that nobody has any more is abandoned, and the writer goes on."""
    with mmapcache.Writer(cache_path, max_size="32MiB", retention=0) as writer:
        with writer.batch() as batch:
            batch.put("sites", 0, {"_id": 0})
        reader = writer.reader()
        for n in range(10):
            batch = writer.batch().__enter__()
            batch.put_raw("sites", documents(200))
            flushing = threading.Thread(target=writer.checkpoint)
            flushing.start()
            when_busy(writer, flushing)
            del batch
            flushing.join()
            assert list(reader["sites"]) == [0]
            reader.check()
            with writer.batch() as batch:
                batch.put("sites", 0, {"_id": 0, "n": n})
            reader.check()


def test_counts_asked_while_another_thread_puts(cache_path: Path) -> None:
    buffer = documents(1_000)
    with mmapcache.Writer(cache_path, max_size="32MiB", retention=0) as writer:
        with writer.batch() as batch:

            def put() -> None:
                for _ in range(5):
                    batch.put_raw("sites", buffer)

            putting = threading.Thread(target=put)
            putting.start()
            last = 0
            while putting.is_alive():
                assert batch.puts >= last
                last = batch.puts
                assert batch.deletes == 0
            putting.join()
            assert batch.puts == 1_000
            assert batch.unchanged == 4_000
        assert batch.puts == 1_000


def read_only(buffer: bytearray) -> memoryview:
    """A view that says it cannot change, of bytes that can."""
    return memoryview(buffer).toreadonly()


def as_it_is(buffer: bytearray) -> bytearray:
    return buffer


@pytest.mark.parametrize("wrap", [as_it_is, memoryview, read_only])
def test_bytes_that_change_while_they_are_put(
    cache_path: Path, wrap: Callable[[bytearray], bytearray | memoryview]
) -> None:
    """Only what cannot change is used in place: all else is judged and stored as one copy."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    buffer = bytearray(documents(500))
    single = bytearray(bson.encode({"_id": 1, "v": "x" * 200}))
    over = threading.Event()
    right = [bytes(buffer), bytes(single)]
    with mmapcache.Writer(cache_path, max_size="32MiB", retention=0) as writer:
        reader = writer.reader()

        def flip() -> None:
            while not over.is_set():
                for target, good in zip((buffer, single), right, strict=True):
                    at = rng.randrange(len(good))
                    target[at] = rng.randrange(256)
                    target[at] = good[at]

        def put_once() -> None:
            with writer.batch() as batch:
                with contextlib.suppress(mmapcache.InvalidDocument):
                    batch.put_raw("sites", wrap(buffer))
                with contextlib.suppress(mmapcache.InvalidDocument):
                    batch.put("one", 1, wrap(single))
                batch.state = wrap(single)  # type: ignore[assignment]
            reader.check()
            for name in reader:
                for document in reader[name].values():
                    document.to_dict()

        def put() -> None:
            try:
                for _ in range(6):
                    put_once()
            finally:
                over.set()

        together(flip, put)
