"""Memory of eight forked workers that touched every document, against one such worker.

Proportional set size shares each page among the processes that map it, so the sum over the workers
is what they take together. The workers are forked by a lean process, see touch.py.
"""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import data, peers
from benchmarks.harness import REPEATS, Context, Row

WORKERS = 8


def _weigh(kind: str, path: Path, workers: int) -> float:
    """Bytes that so many workers of this kind take together."""
    command = [sys.executable, "-m", "benchmarks.touch", kind, str(path), str(workers)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _build(path: Path, lmdb_path: Path, dump: Path, count: int, few: int) -> None:
    """Make the stores; in a process of its own, so that its memory is gone afterwards."""
    raw = data.documents(count)
    peers.fill_cache(path, raw)
    store = peers.Lmdb(lmdb_path, count * 700 + (64 << 20))
    store.fill((data.key(index).encode(), each) for index, each in enumerate(raw))
    store.environment.close()
    dump.write_bytes(b"".join(raw[:few]))


def default_settings(context: Context) -> Iterator[Row]:
    """What eight workers with default settings take that touched everything: once, and twice."""
    count = context.size(100_000, 20_000)
    path = context.path("defaults")
    raw = data.documents(count)
    payload = float(sum(map(len, raw)) + count * data.KEY_LENGTH)
    peers.fill_cache(path, raw)
    for kind, text, target in (("get", "every document", 2.0), ("twice", "each twice", None)):
        samples = [_weigh(kind, path, WORKERS) for _ in range(context.size(REPEATS, 3))]
        middle = statistics.median(samples)
        yield Row(
            name=f"memory_default_{kind}",
            measure=f"PSS of 8 workers that touched {text}, default settings / payload: get",
            ours=middle,
            unit="B",
            peer=payload,
            peer_name="payload",
            ratio=middle / payload,
            target=None if context.quick else target,  # the interpreters outweigh few documents
            note=f"{count:,} documents",
            samples={"ours": samples},
        )


def eight_workers(context: Context) -> Iterator[Row]:
    """Ours, through bytes and through documents; py-lmdb; dicts made after and before the fork."""
    count, few = context.size(1_000_000, 300_000), context.size(100_000, 20_000)
    path, lmdb_path = context.path("memory"), context.path("memory.lmdb")
    dump = context.path("memory.bson")
    builder = multiprocessing.get_context("fork").Process(
        target=_build, args=(path, lmdb_path, dump, count, few)
    )
    builder.start()
    builder.join()
    for name, kind, file, text, target in (
        ("memory_raw", "get_raw", path, "get_raw", 1.05),
        ("memory_get", "get", path, "get with the default front cache in each", None),
        ("memory_lmdb", "lmdb", lmdb_path, "py-lmdb", None),
        ("memory_dict", "dict", dump, "dict in each", None),
        ("memory_dict_preloaded", "preloaded", dump, "dict made before the fork", None),
    ):
        repeats = REPEATS if target is not None else 3
        samples: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(repeats):
            samples["peer"].append(_weigh(kind, file, 1))
            samples["ours"].append(_weigh(kind, file, WORKERS))
        one, eight = statistics.median(samples["peer"]), statistics.median(samples["ours"])
        yield Row(
            name=name,
            measure=f"PSS of 8 workers that touched every document / 1 worker: {text}",
            ours=eight,
            unit="B",
            peer=one,
            peer_name="1 worker",
            ratio=eight / one,
            target=target,
            note=f"{few if file == dump else count:,} documents",
            samples=samples,
        )


BENCHES = (default_settings, eight_workers)
