"""Memory of eight forked workers that touched every document, against one such worker.

Proportional set size shares each page among the processes that map it, so the sum over the workers
is what they take together. The workers make their keys as they go: a list of a million keys made
before the fork would be copied by its reference counts and drown the figure.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmapcache
from benchmarks import data, peers
from benchmarks.harness import Context, Row, pss

WORKERS = 8
Touch = Callable[[], None]


def _worker(make: Callable[[], Touch], number: int, start: Any, done: Any, end: Any) -> None:
    """Touch everything, then stay until told to end."""
    del number
    touch = make()
    start.wait()
    touch()
    gc.collect()
    done.release()
    end.wait()


def _together(make: Callable[[], Touch], workers: int) -> float:
    """PSS in bytes of `workers` forked processes together after they touched everything."""
    fork = multiprocessing.get_context("fork")
    start, end, done = fork.Event(), fork.Event(), fork.Semaphore(0)
    processes = [
        fork.Process(target=_worker, args=(make, number, start, done, end), daemon=True)
        for number in range(workers)
    ]
    gc.freeze()
    for process in processes:
        process.start()
    start.set()
    for _ in processes:
        if not done.acquire(timeout=300):
            raise RuntimeError("a worker did not finish")
    pids = [process.pid for process in processes if process.pid is not None]
    total = float(sum(pss(pid) for pid in pids))
    end.set()
    for process in processes:
        process.join()
    gc.unfreeze()
    return total


def _row(
    name: str,
    measure: str,
    make: Callable[[], Touch],
    target: float | None,
    note: str,
    repeats: int = 3,
) -> Row:
    """One row: eight workers against one, in turn."""
    ones, eights = [], []
    for _ in range(repeats):
        ones.append(_together(make, 1))
        eights.append(_together(make, WORKERS))
    one, eight = statistics.median(ones), statistics.median(eights)
    return Row(
        name=name,
        measure=measure,
        ours=eight,
        unit="B",
        peer=one,
        peer_name="1 worker",
        ratio=eight / one,
        target=target,
        note=note,
        samples={"ours": eights, "peer": ones},
    )


def eight_workers(context: Context) -> Iterator[Row]:
    """Ours, through bytes and through documents; py-lmdb; dicts made after and before the fork."""
    count = context.size(1_000_000, 100_000)
    path, lmdb_path = context.path("memory"), context.path("memory.lmdb")
    builder = multiprocessing.get_context("fork").Process(
        target=_build, args=(path, lmdb_path, count)
    )
    builder.start()
    builder.join()
    note = f"{count:,} documents" if context.quick else ""
    text = "PSS of 8 workers that touched every document / 1 worker"
    yield _row("memory_raw", f"{text}, get_raw", _ours(path, count, "get_raw"), 1.05, note)
    yield _row(
        "memory_get",
        f"{text}, get with the default front cache",
        _ours(path, count, "get"),
        1.05,
        note,
    )
    yield _row("memory_lmdb", f"{text}: py-lmdb", _lmdb(lmdb_path, count), None, note)
    few = context.size(100_000, 20_000)
    note = f"{few:,} documents"
    yield _row("memory_dict", f"{text}: dict in each", _dict(few, None), None, note)
    before = peers.decoded(data.documents(few))
    yield _row(
        "memory_dict_preloaded", f"{text}: dict made before fork", _dict(few, before), None, note
    )


def _build(path: Path, lmdb_path: Path, count: int) -> None:
    """Make the stores; in a process of its own, so that the heap that is forked stays small."""
    raw = data.documents(count)
    peers.fill_cache(path, raw)
    store = peers.Lmdb(lmdb_path, count * 700 + (64 << 20))
    store.fill((data.key(index).encode(), each) for index, each in enumerate(raw))
    store.environment.close()


def _ours(path: Path, count: int, method: str) -> Callable[[], Touch]:
    cache = mmapcache.open(str(path))

    def make() -> Touch:
        get = getattr(cache["settings"], method)

        def touch() -> None:
            for index in range(count):
                get(data.key(index))

        return touch

    return make


def _lmdb(path: Path, count: int) -> Callable[[], Touch]:
    def make() -> Touch:
        transaction = peers.Lmdb(path, count * 700 + (64 << 20)).environment.begin()

        def touch() -> None:
            for index in range(count):
                transaction.get(data.key(index).encode())

        return touch

    return make


def _dict(count: int, before: dict[str, Any] | None) -> Callable[[], Touch]:
    def make() -> Touch:
        def touch() -> None:
            nonlocal before
            if before is None:
                before = peers.decoded(data.documents(count))
            for index in range(count):
                _ = before[data.key(index)]["limits"]["qps"]

        return touch

    return make


BENCHES = (eight_workers,)
