"""Questions on mmap against shared memory, answered by measurement.

* reads and commits on tmpfs, on a mapped disk file and on an anonymous memfd,
* what `msync` adds to a commit on a disk file,
* what happens to readers when the map is larger than the memory they may use,
* that a map grows under its readers, and what that costs them.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmapcache
from benchmarks import data, peers
from benchmarks.harness import (
    CGROUP,
    DISK,
    Context,
    Row,
    interleave,
    no_gc,
    now,
    remove_group,
    timed,
)

COMMITS = 1_000


@contextmanager
def _disk(context: Context) -> Iterator[Path]:
    """A scratch directory on a disk file system, named as the one on tmpfs is."""
    path = DISK / context.scratch.name
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _commits(writer: mmapcache.Writer, count: int, *, sync: bool = False) -> Callable[[], float]:
    """Nanoseconds per commit of one document, each followed by a checkpoint when `sync`."""
    versions = iter(range(1, 1 << 30))
    source = random.Random(2)
    each = 20 if sync else COMMITS

    def measure() -> float:
        version = next(versions)
        chosen = [source.randrange(count) for _ in range(each)]
        made = [(data.key(index), data.document(index, version)) for index in chosen]
        clock = time.perf_counter_ns if sync else now
        start = clock()
        for key, document in made:
            with writer.batch() as batch:
                batch.put("settings", key, document)
            if sync:
                writer.checkpoint()
        return (clock() - start) / each

    return measure


def kinds(context: Context) -> Iterator[Row]:
    """Reads and commits on each backing; the checkpoint (msync) on disk."""
    count = context.size(500_000, 50_000)
    size = count * 700 + (256 << 20)
    note = f"{count:,} documents"
    with _disk(context) as disk:
        made = {
            "tmpfs": mmapcache.Writer(str(context.path("kind")), max_size=size),
            "disk file": mmapcache.Writer(str(disk / "kind"), max_size=size),
            "memfd": mmapcache.Writer.anonymous(max_size=size),
        }
        for writer in made.values():
            peers.put_all(writer, data.documents(count))
        readers = {name: writer.reader() for name, writer in made.items()}
        source = random.Random(4)
        keys = [data.key(source.randrange(count)) for _ in range(100_000)]
        reads = interleave(
            {
                name: timed("get(key)", lambda: keys, get=reader["settings"].get_raw)
                for name, reader in readers.items()
            }
        )
        commits = interleave({name: _commits(writer, count) for name, writer in made.items()})
        synced = interleave(
            {
                "plain": _commits(made["disk file"], count),
                "msync": _commits(made["disk file"], count, sync=True),
            }
        )
        for name in made:
            for what, figures in (("get_raw, uniform", reads), ("commit of one", commits)):
                yield Row(
                    name=f"backing_{what.split()[0].rstrip(',')}_{name.split()[0]}",
                    measure=f"{what}: {name} / tmpfs",
                    ours=figures.median(name),
                    unit="ns",
                    peer=figures.median("tmpfs"),
                    peer_name="tmpfs",
                    ratio=figures.ratio(name, "tmpfs"),
                    note=note,
                    samples={"ours": figures.samples[name]},
                )
        yield Row(
            name="backing_msync",
            measure="commit followed by a checkpoint (msync) on a disk file / commit",
            ours=synced.median("msync"),
            unit="ns",
            peer=synced.median("plain"),
            peer_name="commit",
            ratio=synced.ratio("msync", "plain"),
            note=note,
            samples={"ours": synced.samples["msync"], "peer": synced.samples["plain"]},
        )
        for reader in readers.values():
            reader.close()
        for writer in made.values():
            writer.close()


@contextmanager
def _memory_group(context: Context) -> Iterator[Path | None]:
    """A memory control group of our own (version 1 or 2), or None where we may not make one."""
    path = CGROUP / context.scratch.name
    try:
        path.mkdir()
    except OSError:
        yield None
        return
    try:
        yield path
    finally:
        remove_group(path)


def _limit(group: Path, limit: int | None) -> None:
    """Set the group's memory limit in bytes (None: none)."""
    one = group / "memory.limit_in_bytes"
    if one.exists():
        one.write_text("-1" if limit is None else str(limit), encoding="ascii")
    else:
        (group / "memory.max").write_text("max" if limit is None else str(limit), encoding="ascii")


def _limited(group: Path, limit: int, path: str, count: int, duration: float, pipe: Any) -> None:
    """In a process of the group: uniform reads per second under the limit, major faults per read.

    Reads for `duration` seconds before the seconds that count.
    """
    import resource

    _limit(group, limit)
    (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    source = random.Random(6)
    keys = [data.key(source.randrange(count)) for _ in range(100_000)]
    with Path(path).open("rb") as file:  # into the page cache, as far as the group may
        while file.read(1 << 20):
            pass
    with mmapcache.open(path) as cache:
        get = cache["settings"].get_raw
        reads = 0
        for counted in (False, True):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
            start = time.perf_counter()
            spent = 0.0
            reads = 0
            while spent < duration:
                start_at = reads % len(keys)
                for key in keys[start_at : start_at + 20]:
                    assert get(key) is not None
                reads += 20
                spent = time.perf_counter() - start
            if counted:
                faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
                pipe.send((reads / spent, faults / reads))
    pipe.close()


def memory_limit(context: Context) -> Iterator[Row]:
    """Uniform reads when a control group may hold only part of a disk file's map."""
    count = context.size(500_000, 100_000)
    duration = context.size(3, 1)
    fork = multiprocessing.get_context("fork")
    points: list[dict[str, float]] = []
    with _disk(context) as disk, _memory_group(context) as group:
        if group is None:
            yield Row(
                name="memory_limit",
                measure="reads while the map is larger than the memory limit",
                ours=0.0,
                unit="",
                note="not measured: no control group could be made (needs root)",
            )
            return
        path = disk / "limited"
        with mmapcache.Writer(str(path), max_size=count * 700 + (64 << 20)) as writer:
            peers.put_all(writer, data.documents(count))
            writer.checkpoint()
        size = path.stat().st_size
        for share in (4.0, 1.0, 0.75, 0.5, 0.25):
            _drop_pages(path)
            receive, send = fork.Pipe(duplex=False)
            limit = int(size * share) + (24 << 20)
            process = fork.Process(
                target=_limited, args=(group, limit, str(path), count, duration, send)
            )
            process.start()
            send.close()
            try:
                rate, faults = receive.recv()
            except EOFError:
                rate, faults = 0.0, 0.0
            process.join()
            points.append({"share": share, "rate": rate, "major_faults": faults})
    best = points[0]["rate"]
    for point in points[1:]:
        yield Row(
            name=f"memory_limit_{point['share']:g}",
            measure=f"uniform reads/s, memory limit {point['share']:.0%} of the file / no limit",
            ours=point["rate"],
            unit="/s",
            peer=best,
            peer_name="no limit",
            ratio=point["rate"] / best,
            note=f"disk file of {size >> 20} MiB; {point['major_faults']:.2g} major faults a read"
            if point["rate"]
            else "killed by the kernel",
            details={"points": points},
        )


def _drop_pages(path: Path) -> None:
    """Take the file out of the page cache, so that its pages are charged to who reads next."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


Watched = tuple[float, float, float]  # seconds, the file's size, the slowest batch in ns


def _grower(path: str, start: int, step: int, steps: int, ready: Any) -> None:
    """In a process of its own: add documents until the file is several times as large."""
    with mmapcache.Writer(path) as writer:
        ready.wait()
        for number in range(steps):
            peers.put_all(writer, data.documents(step, start + number * step))
            time.sleep(0.02)


def _thinned(points: list[Watched]) -> list[Watched]:
    """At most 150 points, enough for a plot: the last of each bin, with the slowest batch of it."""
    width = len(points) // 150 + 1
    bins = [points[start : start + width] for start in range(0, len(points), width)]
    return [(*some[-1][:2], max(point[2] for point in some)) for some in bins]


def growing(context: Context) -> Iterator[Row]:
    """A map that grows under a reader: what the reader sees, and its slowest batch of 100 gets."""
    first, step = 20_000, context.size(50_000, 10_000)
    steps = 10
    path = str(context.path("growing-map"))
    peers.fill_cache(Path(path), data.documents(first), 1 << 30)
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    process = fork.Process(target=_grower, args=(path, first, step, steps, ready))
    process.start()
    points: list[Watched] = []
    source = random.Random(9)
    keys = [data.key(source.randrange(first)) for _ in range(100)]
    with mmapcache.open(path) as cache, no_gc():
        settings = cache["settings"]
        get = settings.get_raw
        before = cache.stats()["file_size"]
        ready.set()
        begin = time.perf_counter()
        while process.is_alive():
            slowest = 0
            for _ in range(200):
                start = time.perf_counter_ns()
                for key in keys:
                    get(key)
                slowest = max(slowest, time.perf_counter_ns() - start)
            size = cache.stats()["file_size"]
            points.append((time.perf_counter() - begin, float(size), float(slowest)))
        after, seen = cache.stats()["file_size"], len(settings)
    process.join()
    assert seen == first + step * steps, "the reader did not see every document"
    yield Row(
        name="growing_map",
        measure="a file that grows under an open reader: its size after / before",
        ours=float(after),
        unit="B",
        peer=float(before),
        peer_name="before",
        ratio=after / before,
        note=f"slowest batch of 100 gets {max(p[2] for p in points) / 1e6:.2g} ms, no remap",
        details={"points": _thinned(points)},
    )


BENCHES = (kinds, memory_limit, growing)
