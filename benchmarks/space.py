"""What the bytes cost: space in use, the file's size, and space under endless updates."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator

import mmapcache
from benchmarks import data, peers
from benchmarks.harness import Context, Row, now, percentile99, quantity


def _pairs(context: Context, kind: str) -> list[bytes]:
    """Documents of 300 bytes, or of a realistic mix of sizes from 100 B to 64 KiB."""
    if kind == "uniform":
        return data.documents(context.size(1_000_000, 200_000))
    source = random.Random(7)
    count = context.size(200_000, 50_000)
    return [data.sized_document(i, data.lognormal_size(source)) for i in range(count)]


def _peer_sizes(context: Context, raw: list[bytes]) -> dict[str, float]:
    """Bytes that py-lmdb and cdb need for the same documents."""
    total = sum(map(len, raw)) + len(raw) * data.KEY_LENGTH
    pairs = [(data.key(index).encode(), each) for index, each in enumerate(raw)]
    store = peers.Lmdb(context.path("space.lmdb"), total * 2 + (64 << 20))
    store.fill(pairs)
    sizes = {"py-lmdb": float(store.used())}
    store.close()
    path = context.path("space.cdb")
    peers.make_cdb(path, pairs).close()
    sizes["cdb"] = float(path.stat().st_size)
    path.unlink()
    return sizes


def density(context: Context) -> Iterator[Row]:
    """Bytes in use and the file's size over key and value bytes, after one load."""
    for kind, text in (("uniform", "300-byte documents"), ("mixed", "a mix of 100 B to 64 KiB")):
        raw = _pairs(context, kind)
        own = float(sum(map(len, raw)) + len(raw) * data.KEY_LENGTH)
        path = context.path("space")
        with mmapcache.Writer(str(path), max_size=int(own * 2) + (64 << 20)) as writer:
            with writer.batch() as batch:
                for buffer in data.batches(raw):
                    batch.put_raw("settings", buffer)
            stats = writer.stats()
        size = float(path.stat().st_size)
        beside = _peer_sizes(context, raw)
        others = ", ".join(f"{name} {value / own:.3g}" for name, value in beside.items())
        small = f"{len(raw):,} documents; " if context.quick else ""
        yield Row(
            name=f"used_{kind}",
            measure=f"bytes in use after a load / key and value bytes, {text}",
            ours=float(stats["bytes_used"]),
            unit="B",
            peer=own,
            peer_name="keys and values",
            ratio=stats["bytes_used"] / own,
            target=1.15,
            note=small + others,
            details={"peers": beside},
        )
        ready = float(stats["bytes_free"])
        yield Row(
            name=f"file_{kind}",
            measure=f"the file's size / key and value bytes, {text}",
            ours=size,
            unit="B",
            peer=own,
            peer_name="keys and values",
            ratio=size / own,
            target=1.15,
            note=f"{small}{ready / own:.3g} of them free, for the next refresh",
            details={"bytes_free": ready, "allocated": float(path.stat().st_blocks * 512)},
        )
        path.unlink()


def _fill(
    writer: mmapcache.Writer, source: random.Random, target: float, each: int = 1000
) -> list[int]:
    """Insert documents of random sizes, `each` a commit, until `target` live bytes; the sizes."""
    sizes: list[int] = []
    live = 0
    while live < target:
        with writer.batch() as batch:
            for _ in range(each):
                size = data.lognormal_size(source)
                index = len(sizes)
                batch.put("mixed", data.key(index), data.sized_document(index, size))
                sizes.append(size)
                live += size + data.KEY_LENGTH
    return sizes


SAMPLES = 100  # points of a plot


def random_updates(context: Context) -> Iterator[Row]:
    """5,000,000 random updates of lognormal sizes with live bytes at 60 % of the maximum."""
    total = context.size(5_000_000, 200_000)
    maximum = context.size(512 << 20, 64 << 20)
    each = 100
    source = random.Random(5)
    path = context.path("updates")
    occupancy: list[dict[str, float]] = []
    full = 0
    with mmapcache.Writer(str(path), max_size=maximum) as writer:
        sizes = _fill(writer, source, 0.6 * maximum)
        live = sum(sizes) + data.KEY_LENGTH * len(sizes)
        start = time.perf_counter()
        for number in range(total // each):
            if number % (total // each // SAMPLES) == 0:
                occupancy.append(_state(writer, number * each, live, maximum))
            chosen = [source.randrange(len(sizes)) for _ in range(each)]
            fresh = [data.lognormal_size(source) for _ in chosen]
            try:
                with writer.batch() as batch:
                    for index, size in zip(chosen, fresh, strict=True):
                        made = data.sized_document(index, size, number)
                        batch.put("mixed", data.key(index), made)
            except mmapcache.FullError:
                full += 1
                continue
            for index, size in zip(chosen, fresh, strict=True):
                live += size - sizes[index]
                sizes[index] = size
        spent = time.perf_counter() - start
    path.unlink()
    yield Row(
        name="random_updates",
        measure=f"{total:,} random updates (100 B to 64 KiB), live bytes at 60 %: FullErrors",
        ours=float(full),
        unit="",
        peer=1.0,
        peer_name="FullError",
        ratio=float(full),
        target=0.0,
        note=f"{total / spent:,.0f} updates/s" + ("; smaller" if context.quick else ""),
        details={"occupancy": occupancy, "maximum": maximum, "documents": len(sizes)},
    )


A_COMMIT = 60  # updates


def _state(writer: mmapcache.Writer, updates: int, live: float, maximum: int) -> dict[str, float]:
    """A point of the plot: how the file is used after so many updates."""
    stats = writer.stats()
    return {
        "updates": float(updates),
        "live": live / maximum,
        "used": stats["bytes_used"] / maximum,
        "file": stats["file_size"] / maximum,
        "largest_free": stats["largest_free"] / maximum,
    }


def _updated(
    writer: mmapcache.Writer,
    source: random.Random,
    sizes: list[int],
    maximum: int,
    share: float,
    total: int,
    points: list[dict[str, float]],
) -> tuple[list[float], int]:
    """Commit random updates while at most `share` of `maximum` is live: nanoseconds of each commit,
    and how many were refused."""
    limit = share * maximum
    spent: list[float] = []
    refused = 0
    live = sum(sizes) + data.KEY_LENGTH * len(sizes)
    for number in range(total // A_COMMIT):
        if number % (total // A_COMMIT // SAMPLES) == 0:
            points.append(_state(writer, number * A_COMMIT, live, maximum))
        made: dict[int, bytes] = {}
        for index in source.sample(range(len(sizes)), A_COMMIT):
            size = data.lognormal_size(source)
            size = sizes[index] if live + size - sizes[index] > limit else size
            live += size - sizes[index]
            made[index] = data.sized_document(index, size, number)
        pairs = [(data.key(index), document) for index, document in made.items()]
        start = now()
        try:
            with writer.batch() as batch:
                for key, document in pairs:
                    batch.put("mixed", key, document)
        except mmapcache.FullError:
            refused += 1
            live += sum(sizes[index] - len(document) for index, document in made.items())
            continue
        spent.append(float(now() - start))
        for index, document in made.items():
            sizes[index] = len(document)
    return spent, refused


def nearly_full(context: Context) -> Iterator[Row]:
    """Random updates of lognormal sizes where most of the maximum is live: refusals, and pauses."""
    small, large = 16 << 20, context.size(1 << 30, 64 << 20)
    for maximum, share, total in (
        (small, 0.75, context.size(200_000, 20_000)),
        (small, 0.8, context.size(200_000, 20_000)),
        (small, 0.85, context.size(1_000_000, 20_000)),
        (large, 0.85, context.size(1_000_000, 20_000)),
    ):
        source = random.Random(13)
        path = context.path("full")
        with mmapcache.Writer(str(path), max_size=maximum) as writer:
            sizes = _fill(writer, source, share * maximum, 20)
            points: list[dict[str, float]] = []
            spent, refused = _updated(writer, source, sizes, maximum, share, total, points)
        path.unlink()
        name = f"full_{maximum >> 20}_{share * 100:.0f}"
        what = (
            f"{total:,} random updates (100 B to 64 KiB), {share:.0%} of {maximum >> 20} MiB live"
        )
        wanted = share == 0.85
        yield Row(
            name=name,
            measure=f"{what}: FullErrors",
            ours=float(refused),
            unit="",
            peer=1.0,
            peer_name="FullError",
            ratio=float(refused),
            target=0.0 if wanted else None,
            note=f"{len(sizes):,} documents, commits of {A_COMMIT}",
            details={"occupancy": points, "maximum": maximum} if wanted else {},
        )
        if not spent:
            continue
        yield Row(
            name=f"{name}_p99",
            measure=f"{what}: p99 of a commit / median",
            ours=percentile99(spent),
            unit="ns",
            peer=statistics.median(spent),
            peer_name="median",
            ratio=percentile99(spent) / statistics.median(spent),
            target=50.0 if wanted else None,
            note=f"the longest {quantity(max(spent), 'ns')}",
        )


BENCHES = (density, random_updates, nearly_full)
