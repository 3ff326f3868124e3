"""What a loader that commits does to a reader: reads per second and the worst pause.

The reader stays on one CPU and the loader, a process of its own, on the other. Idle and busy
seconds alternate, so that both meet the same noise of the machine.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import mmapcache
from benchmarks import data, peers
from benchmarks.harness import Context, Figures, Row, no_gc, now, percentile99, quantity, row_of

Commit = Callable[[int, bytes], object]
Get = Callable[[Any], Any]


def _loader(
    make: Callable[[], Commit], count: int, rate: int | None, busy: Any, end: Any, total: Any
) -> None:
    """Commit single updates, `rate` a second or flat out, while `busy` is set, until `end` is."""
    commit = make()
    source = random.Random(3)
    chosen = [source.randrange(count) for _ in range(1000)]
    version = 0
    while not end.is_set():
        if not busy.wait(timeout=0.1):
            continue
        version += 1
        begun = time.monotonic()
        batch = chosen if rate is None else chosen[: max(1, rate // 10)]
        for number, index in enumerate(batch):
            commit(index, data.document(index, version))
            if rate is not None:
                time.sleep(max(0.0, begun + (number + 1) / rate - time.monotonic()))
        total.value += len(batch)


def _reads(get: Get, keys: list[Any], duration: float) -> tuple[float, array[int]]:
    """Reads per second for `duration` seconds, and the ns of each batch of 100 gets."""
    batches = [keys[start : start + 100] for start in range(0, len(keys) - 99, 100)]
    spent = array("q")
    start = last = now()
    end = start + int(duration * 1e9)
    while last < end:
        for batch in batches:
            for key in batch:
                get(key)
            this = now()
            spent.append(this - last)
            last = this
    return 100 * len(spent) / ((last - start) / 1e9), spent


def _measure(
    context: Context,
    reader: Callable[[], Get],
    keys: list[Any],
    make: Callable[[], Commit],
    a_second: int | None = None,
) -> tuple[Figures, Figures, float]:
    """Reads per second and worst batch, idle and busy in turn; and commits per second.

    `reader` and `make` open the store in their processes, after the fork: LMDB wants it so.
    """
    fork = multiprocessing.get_context("fork")
    busy, end, total = fork.Event(), fork.Event(), fork.Value("q", 0)
    context.cpu(1)
    process = fork.Process(
        target=_loader,
        args=(make, context.size(200_000, 50_000), a_second, busy, end, total),
        daemon=True,
    )
    process.start()
    context.cpu(0)
    get = reader()
    duration = 0.6 if not context.quick else 0.2
    rates: dict[str, list[float]] = {"idle": [], "busy": []}
    worst: dict[str, list[float]] = {"idle": [], "busy": []}
    tails: dict[str, list[float]] = {"idle": [], "busy": []}
    spent = 0.0
    with no_gc():
        _reads(get, keys, 0.2)
        for _ in range(context.size(9, 5)):
            for side in ("idle", "busy"):
                if side == "busy":
                    busy.set()
                    time.sleep(0.05)
                rate, batches = _reads(get, keys, duration)
                busy.clear()
                time.sleep(0.05)
                rates[side].append(rate)
                worst[side].append(float(max(batches)))
                tails[side].append(percentile99(batches) / 100)
                spent += duration + 0.05 if side == "busy" else 0
    end.set()
    process.join()
    return Figures(rates, tails), Figures(worst), total.value / spent


def _rows(
    name: str,
    text: str,
    taken: tuple[Figures, Figures, float],
    target: float | None,
    note: str,
    *,
    pause: bool = True,
) -> Iterator[Row]:
    """The reads per second and, with `pause`, the worst pause beside them."""
    rates, worst, commits = taken
    note = "; ".join(filter(None, (note, f"{commits:,.0f} commits/s")))
    tail, idle = (quantity(rates.p99(side) or 0.0, "ns") for side in ("busy", "idle"))
    yield row_of(
        Figures(rates.samples),
        f"interference_{name}",
        f"reads/s of one worker while a loader commits / idle: {text}",
        unit="/s",
        ours="busy",
        peer="idle",
        peer_name="idle",
        target=target,
        at_least=True,
        note=f"{note}; a get, p99 of batches of 100: {tail}, idle {idle}",
    )
    if not pause:
        return
    over = worst.median("busy") - worst.median("idle")
    yield Row(
        name=f"worst_batch_{name}",
        measure=f"worst batch of 100 gets meanwhile, over idle, in ms: {text}",
        ours=worst.median("busy"),
        unit="ns",
        peer=worst.median("idle"),
        peer_name="idle",
        ratio=over / 1e6,
        target=None if target is None else 1.0,
        note=note,
        samples={"ours": worst.samples["busy"], "peer": worst.samples["idle"]},
    )


def _giving(get: Get) -> Callable[[], Get]:
    return lambda: get


def flat_out(context: Context) -> Iterator[Row]:
    """Ours (bytes, and documents through the front cache) and py-lmdb."""
    count = context.size(200_000, 50_000)
    note = f"{count:,} documents"
    raw = data.documents(count)
    source = random.Random(11)
    keys = [data.key(source.randrange(count)) for _ in range(20_000)]
    path = peers.fill_cache(context.path("busy"), raw, 1 << 30)

    def ours(collection: str) -> Callable[[], Commit]:
        def make() -> Commit:
            opened = mmapcache.Writer(path)

            def commit(index: int, document: bytes) -> None:
                with opened.batch() as batch:
                    batch.put(collection, data.key(index), document)

            return commit

        return make

    cache = mmapcache.open(path)
    settings = cache["settings"]
    taken = _measure(context, lambda: settings.get_raw, keys, ours("settings"))
    yield from _rows("get_raw", "get_raw of 20,000 keys, flat out", taken, 0.5, note)
    hot = keys[:1000]
    for name, text, get, collection, a_second, target in (
        ("get", "get of hot keys, flat out in the same collection", "get", "settings", None, 0.5),
        ("raw", "get_raw of hot keys, flat out in the same one", "get_raw", "settings", None, 0.5),
        ("get_elsewhere", "get of hot keys, flat out in another one", "get", "else", None, 0.95),
        (
            "raw_elsewhere",
            "get_raw of hot keys, flat out in another",
            "get_raw",
            "else",
            None,
            0.95,
        ),
        ("get_1000", "get of hot keys, 1,000 a second in the same", "get", "settings", 1000, 0.95),
        ("get_100", "get of hot keys, 100 a second in the same", "get", "settings", 100, 0.99),
    ):
        read = getattr(settings, get)
        taken = _measure(context, _giving(read), hot, ours(collection), a_second)
        yield from _rows(name, text, taken, target, note, pause=name in ("get", "raw"))
    cache.close()

    store = peers.Lmdb(context.path("busy.lmdb"), 1 << 30)
    store.fill(zip([data.key(i).encode() for i in range(count)], raw, strict=True))
    store.environment.close()

    def theirs() -> Commit:
        store.environment = store.open()
        return lambda index, document: store.put(data.key(index).encode(), document)

    def reading() -> Get:
        begin = store.open().begin

        def get(key: bytes) -> bytes | None:
            with begin() as transaction:
                found: bytes | None = transaction.get(key)
                return found

        return get

    taken = _measure(context, reading, [key.encode() for key in keys], theirs)
    yield from _rows("lmdb", "py-lmdb, a transaction per get, flat out", taken, None, note)


BENCHES = (flat_out,)
