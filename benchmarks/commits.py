"""Commits of one document: at several sizes of the store, and one by one while it grows."""

from __future__ import annotations

import random
import statistics
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmapcache
from benchmarks import data, peers
from benchmarks.harness import (
    REPEATS,
    Context,
    Figures,
    Row,
    interleave,
    no_gc,
    now,
    percentile99,
    quantity,
    row_of,
    seconds,
)

COMMITS = 2_000


class Each:
    """A measurement: nanoseconds per commit over the pairs that `made` prepares; the empty loop is
    subtracted. The 99th percentile is one of single commits, a reading of the clock included."""

    def __init__(
        self, commit: Callable[[Any, bytes], object], made: Callable[[], list[tuple[Any, bytes]]]
    ) -> None:
        """Remember both."""
        self._commit = commit
        self._made = made

    def __call__(self) -> float:
        """The mean of one list of pairs."""
        pairs, commit = self._made(), self._commit
        start = now()
        for _key, _document in pairs:
            pass
        empty = now() - start
        start = now()
        for key, document in pairs:
            commit(key, document)
        return (now() - start - empty) / len(pairs)

    def tail(self) -> float:
        """The 99th percentile of one list of pairs."""
        commit, spent = self._commit, []
        for key, document in self._made():
            start = now()
            commit(key, document)
            spent.append(now() - start)
        return percentile99(spent)


class _Stores:
    """Ours and LMDB, grown together."""

    def __init__(self, context: Context, largest: int) -> None:
        self.count = 0
        self.path = str(context.path("commits"))
        self.writer = mmapcache.Writer(self.path, max_size=largest * 500 + (512 << 20))
        self.lmdb = peers.Lmdb(context.path("commits.lmdb"), largest * 1600 + (256 << 20))
        self.version = 0

    def grow(self, count: int) -> None:
        """Fill both up to `count` documents."""
        step = 250_000
        for start in range(self.count, count, step):
            made = data.documents(min(step, count - start), start)
            peers.put_all(self.writer, made)
            keys = [data.key(index).encode() for index in range(start, start + len(made))]
            self.lmdb.fill(zip(keys, made, strict=True))
        self.count = count

    def updates(self, seed: int) -> list[tuple[int, bytes]]:
        """Documents of random keys, each with a content that is not stored yet."""
        source = random.Random(seed)
        self.version += 1
        chosen = [source.randrange(self.count) for _ in range(COMMITS)]
        return [(index, data.document(index, self.version)) for index in chosen]

    def measure(self) -> Figures:
        """Commit updates in both, in turn."""
        turn = iter(range(1 << 30))
        writer, lmdb = self.writer, self.lmdb

        def ours() -> list[tuple[Any, bytes]]:
            return [(data.key(index), made) for index, made in self.updates(next(turn))]

        def theirs() -> list[tuple[Any, bytes]]:
            return [(data.key(index).encode(), made) for index, made in self.updates(next(turn))]

        return interleave(
            {
                "ours": Each(lambda key, made: writer.put("settings", key, made), ours),
                "py-lmdb": Each(lmdb.put, theirs),
            }
        )

    def close(self) -> None:
        self.writer.close()
        self.lmdb.close()


def one_document(context: Context) -> Iterator[Row]:
    """Commit of one ready document at several sizes against py-lmdb put and commit."""
    sizes = (10_000, 100_000, 200_000) if context.quick else (10_000, 100_000, 1_000_000, 5_000_000)
    stores = _Stores(context, sizes[-1])
    medians: dict[int, float] = {}
    for size in sizes:
        stores.grow(size)
        figures = stores.measure()
        medians[size] = figures.median("ours")
        yield row_of(
            figures,
            f"commit_{size}",
            f"commit of one ready document at {size:,} keys / py-lmdb put + commit",
            unit="ns",
            peer="py-lmdb",
            peer_name="py-lmdb",
            target=0.33,
        )
    yield Row(
        name="commit_flat",
        measure=f"commit of one document: slowest / quickest of {', '.join(map(_short, sizes))}",
        ours=max(medians.values()),
        unit="ns",
        peer=min(medians.values()),
        peer_name="quickest size",
        ratio=max(medians.values()) / min(medians.values()),
        target=1.5,
        note="smaller sizes" if context.quick else "",
        details={"medians_ns": medians},
    )
    stores.close()
    yield from _reopen(context, stores.path, sizes[-1])


def _short(size: int) -> str:
    return f"{size // 1_000_000} M" if size >= 1_000_000 else f"{size // 1_000} k"


def _reopen(context: Context, path: str, large: int) -> Iterator[Row]:
    """Opening an existing file as a loader, for this file and one of a fifth of its keys."""
    small = large // 5
    other = peers.fill_cache(context.path("reopen"), data.documents(small))

    def opened(name: str) -> Callable[[], float]:
        def measure() -> float:
            start = time.perf_counter()
            writer = mmapcache.Writer(name)
            spent = time.perf_counter() - start
            writer.close()
            return spent

        return measure

    figures = interleave(
        {
            "large": opened(path),
            "read": lambda: seconds(lambda: _read_once(path)),
            "small": opened(other),
        }
    )
    yield row_of(
        figures,
        "reopen_read",
        f"loader reopening a file of {large:,} keys / reading the file's bytes once",
        unit="s",
        ours="large",
        peer="read",
        peer_name=f"{Path(path).stat().st_size / 2**30:.2g} GiB",
        target=2.0,
        note="smaller" if context.quick else "",
    )
    yield Row(
        name="reopen_linear",
        measure="reopening: time for 5 times the keys / 5 times the time",
        ours=figures.median("large"),
        unit="s",
        peer=5 * figures.median("small"),
        peer_name="5x",
        ratio=figures.median("large") / (5 * figures.median("small")),
        target=1.0,
    )


def _read_once(path: str) -> None:
    """Read every byte of a file into the same mebibyte."""
    into = bytearray(1 << 20)
    with Path(path).open("rb", buffering=0) as file:
        while file.readinto(into):
            pass


def _grow_one_by_one(context: Context, pairs: list[tuple[str, bytes]]) -> array[int]:
    """Nanoseconds of each commit that inserts one of the pairs into a file that begins empty."""
    spent = array("q", bytes(8 * len(pairs)))
    size = len(pairs) * 700 + (256 << 20)
    with mmapcache.Writer(str(context.path("growing")), max_size=size) as writer:
        for number, (key, document) in enumerate(pairs):
            began = now()
            writer.put("settings", key, document)
            spent[number] = now() - began
    return spent


def _pauses(duration: float) -> int:
    """The longest gap in ns between two readings of the clock in a loop of `duration` seconds."""
    last = start = now()
    worst = 0
    while last - start < duration * 1e9:
        this = now()
        worst = max(worst, this - last)
        last = this
    return worst


def growth(context: Context) -> Iterator[Row]:
    """The slowest single commit while growing from nothing, one commit per key."""
    count = context.size(1_000_000, 100_000)
    pairs = [(data.key(index), data.document(index)) for index in range(count)]
    slowest, medians, tails, tops, spent_for, machine = [], [], [], [], [], []
    with no_gc():
        for _ in range(REPEATS):
            spent = _grow_one_by_one(context, pairs)
            ordered = sorted(range(count), key=spent.__getitem__, reverse=True)
            slowest.append(float(spent[ordered[0]]))
            medians.append(float(statistics.median(spent)))
            tails.append(percentile99(spent))
            tops.append([(index, spent[index]) for index in ordered[:8]])
            spent_for.append(sum(spent) / 1e9)
            machine.append(_pauses(min(spent_for[-1], 5.0)))
    largest = statistics.median(slowest)
    middle = statistics.median(medians)
    yield Row(
        name="slowest_commit",
        measure=f"slowest commit while growing to {count:,} keys, one commit each",
        ours=largest,
        unit="ns",
        peer=3e6,
        peer_name="allowed",
        ratio=largest / 3e6,
        target=1.0,
        note=f"median {quantity(middle, 'ns')}, p99 {quantity(statistics.median(tails), 'ns')};"
        f" longest pause of an idle loop {quantity(statistics.median(machine), 'ns')}",
        samples={"ours": slowest, "medians": medians, "p99": tails},
        details={"slowest": tops, "seconds": spent_for, "idle_pauses_ns": machine},
    )


BENCHES = (one_document, growth)
