"""The live loader: from a write to the workers, and what following and standing still cost.

Two servers. SecantusDB as a replica set of one is a real server: from it come the delays, the bytes
and what a standby needs. It takes far longer to produce an event or a document than the loader to
take it; the replaying server (replay_stream.py) does not, and from it come the rates. The loader is
`mmapcache sync` in a process of its own, as it is deployed.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pymongo

from benchmarks.harness import Context, Row
from benchmarks.live_parts import (
    PROBE,
    WORKERS,
    Arrivals,
    LoaderProcess,
    Readers,
    Updates,
    cpu,
    until,
)
from benchmarks.live_rates import burst, events, memory, resume
from benchmarks.live_world import (
    POLL,
    PROBED,
    SETTINGS,
    STREAM,
    Client,
    filled,
    limit_row,
    real_server,
)
from benchmarks.proxy import CountingProxy
from benchmarks.replay_stream import BYTES, ReplayStream

HOUR = 3600
POLLS = 360  # an hour, one every ten seconds


def _quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _probe(uri: str) -> pymongo.collection.Collection[dict[str, Any]]:
    """The collection of one document, whose `n` a benchmark counts up."""
    client: Client = pymongo.MongoClient(uri)
    probe = client["bench"][PROBE]
    probe.replace_one({"_id": PROBE}, {"_id": PROBE, "n": 0}, upsert=True)
    return probe


# --- from a write to the workers ------------------------------------------------------------------


def delay(context: Context) -> Iterator[Row]:
    """Acknowledged to seen by eight workers: single writes, and writes that keep coming."""
    uri = real_server(context).uri
    visible, added, details = _delays(context, uri, context.size(300, 50), 0.15)
    for part, limit in ((0.5, 0.002), (0.99, 0.010)):
        yield limit_row(
            _quantile(added, part),
            f"delay_p{part * 100:.0f}",
            limit,
            f"write acknowledged to visible in all {WORKERS} workers, less the event's own delay"
            f" to a bare stream: p{part * 100:.0f}",
            "s",
            note=f"with it {_quantile(visible, part) * 1e3:.1f} ms, {len(added):,} writes",
            details=details,
        )
    visible, added, details = _delays(context, uri, context.size(500, 100), 0.02)
    yield Row(
        name="delay_steady",
        measure="the same at fifty writes a second without an end, which are gathered: p50",
        ours=_quantile(added, 0.5),
        unit="s",
        note=f"p99 {_quantile(added, 0.99) * 1e3:.0f} ms, {len(added):,} writes",
        details=details,
    )


def _delays(
    context: Context, uri: str, count: int, gap: float
) -> tuple[list[float], list[float], dict[str, float]]:
    """Of writes with such gaps: seconds to be visible, the same less the event's, and quantiles."""
    probe = _probe(uri)
    loader = LoaderProcess(context.path("delay"), uri, *PROBED, *STREAM)
    readers, bare = None, None
    source = random.Random(11)
    try:
        loader.reach("streaming")
        readers = Readers(loader.path, count)
        bare = Arrivals(uri)
        time.sleep(0.5)
        written = [0]
        for number in range(1, count + 1):
            probe.update_one({"_id": PROBE}, {"$set": {"n": number}})
            written.append(time.monotonic_ns())
            time.sleep(gap * source.uniform(0.5, 1.5))
        seen = readers.join(30)
        arrived = bare.close()
    finally:
        if readers is not None:
            readers.close()
        loader.kill()
    numbers = [n for n in range(1, count + 1) if n in arrived]
    visible = [(seen[n] - written[n]) / 1e9 for n in numbers]
    event = [(arrived[n] - written[n]) / 1e9 for n in numbers]
    added = [(seen[n] - arrived[n]) / 1e9 for n in numbers]
    details = {
        f"{name}_{part}": _quantile(values, part)
        for name, values in (("visible", visible), ("event", event), ("added", added))
        for part in (0.5, 0.9, 0.99, 1.0)
    }
    return visible, added, details


def take_over(context: Context) -> Iterator[Row]:
    """A standby: from SIGKILL of the first loader to a later write's being visible."""
    uri = real_server(context).uri
    probe = _probe(uri)
    path = context.path("standby")
    spent = []
    loader = LoaderProcess(path, uri, *PROBED, *STREAM)
    standby = None
    number = 0
    try:
        cache = loader.reach("streaming")
        for _ in range(context.size(7, 3)):
            standby = LoaderProcess(path, uri, *PROBED, *STREAM, "--standby")
            until(standby.waits, 60, "a standby")
            loader.kill()
            start = time.monotonic()
            number += 1
            first = number
            while cache[PROBE][PROBE]["n"] < first:
                number += 1
                probe.update_one({"_id": PROBE}, {"$set": {"n": number}})
                time.sleep(0.002)
                if time.monotonic() > start + 60:
                    raise TimeoutError("the standby does not serve")
            spent.append(time.monotonic() - start)
            loader = standby
            time.sleep(0.5)
    finally:
        loader.kill()
        if standby is not None:
            standby.kill()
    yield limit_row(
        statistics.median(spent),
        "take_over",
        1.0,
        "take-over by a standby: SIGKILL of the loader to a later write's being visible",
        "s",
        note=f"longest {max(spent):.2f} s",
        samples={"ours": spent},
    )


# --- standing still, and a hundredth that moves ---------------------------------------------------


Cost = tuple[float, float]  # bytes and processor seconds of loader and server, an hour


def _following(
    context: Context, uri: str, pid: int, seconds: float, changing: ReplayStream | None = None
) -> tuple[Cost, float]:
    """What a following loader costs while whatever goes on goes on; and its own seconds alone."""
    proxy = CountingProxy(uri)
    loader = LoaderProcess(context.path("following"), proxy.uri, *SETTINGS, *STREAM)
    try:
        loader.reach("streaming")
        time.sleep(2)
        start, passed, own, server = time.monotonic(), proxy.bytes(), loader.cpu, cpu(pid)
        while (left := start + seconds - time.monotonic()) > 0:
            if changing is not None:
                changing.release(changing.count // 1000)
                left = 1.0
            time.sleep(min(1.0, left))
        passed, own, server = proxy.bytes() - passed, loader.cpu - own, cpu(pid) - server
        hours = (time.monotonic() - start) / HOUR
    finally:
        loader.kill()
        proxy.close()
    return (passed / hours, (own + server) / hours), own / hours


def _polling(context: Context, uri: str, pid: int, idle: float) -> Cost:
    """What 360 polls cost, by three of them, less `idle`, what the server does anyway."""
    proxy = CountingProxy(uri)
    loader = LoaderProcess(context.path("polling"), proxy.uri, *SETTINGS, *POLL)
    try:
        cache = loader.reach("polling", 300)

        def confirmed() -> float:
            return cache.status()["confirmed_at"] or 0.0

        def after(time_: float) -> float:
            until(lambda: confirmed() > time_, 300, "a poll")
            return confirmed()

        last = after(confirmed())
        start, passed, own, server = time.monotonic(), proxy.bytes(), loader.cpu, cpu(pid)
        for _ in range(3):
            last = after(last)
        passed, own, server = proxy.bytes() - passed, loader.cpu - own, cpu(pid) - server
        server -= idle * (time.monotonic() - start) / HOUR
    finally:
        loader.kill()
        proxy.close()
    return passed / 3 * POLLS, (own + server) / 3 * POLLS


def _alone(pid: int, seconds: float) -> float:
    """A server's processor seconds an hour without a loader."""
    start, spent = time.monotonic(), cpu(pid)
    time.sleep(seconds)
    return (cpu(pid) - spent) / (time.monotonic() - start) * HOUR


def _cost_rows(
    name: str, text: str, ours: Cost, peer: Cost, targets: tuple[float | None, float], **more: Any
) -> Iterator[Row]:
    measures = (("bytes", "B", "bytes"), ("cpu", "s", "CPU seconds of loader and server"))
    for index, (short, unit, what) in enumerate(measures):
        yield Row(
            name=f"{name}_{short}",
            measure=f"{text}: {what} an hour / polling every 10 s",
            ours=ours[index],
            unit=unit,
            peer=peer[index],
            peer_name="polling",
            ratio=ours[index] / peer[index],
            target=targets[index],
            **more,
        )


def steady(context: Context) -> Iterator[Row]:
    """An hour, by a window of it: nothing changes; then 1 % of the documents every ten seconds."""
    count, seconds = filled(context), context.size(60, 15)
    server = real_server(context)
    assert server.process is not None
    pid = server.process.pid
    idle = _alone(pid, seconds / 3)
    (passed, spent), own = _following(context, server.uri, pid, seconds)
    polled = _polling(context, server.uri, pid, idle)
    what = f"{count:,} documents of {BYTES} bytes"
    details = {"server_alone": idle, "loader": own, "following": spent, "window": seconds}
    yield from _cost_rows(
        "steady",
        f"{what}, nothing changes",
        (passed, spent - idle),
        polled,
        # A poll weighs as much as there are documents; standing still always weighs the same.
        (None if context.quick else 1 / 2000, 1 / 10),
        note=f"of {seconds} s; less the {idle:.0f} s an hour of a server without a loader",
        details=details,
    )
    rate = count / 1000
    updates = Updates(server.uri, count, rate)
    try:
        time.sleep(1)
        writes = _alone(pid, seconds / 3)
        (passed, spent), own = _following(context, server.uri, pid, seconds)
        polled = _polling(context, server.uri, pid, writes)
    finally:
        made = updates.end()
    details = {"server_alone": writes, "loader": own, "following": spent, "window": seconds}
    yield from _cost_rows(
        "changing",
        f"{what}, 1 % of them change every 10 s",
        (passed, spent - writes),
        polled,
        (1 / 30, 1 / 2),
        note=f"of {seconds} s; less the {writes:.0f} s an hour that the writes cost the server",
        details=details | {"updates": made},
    )


def steady_replayed(context: Context) -> Iterator[Row]:
    """The processor's part of the same, from a server for which a poll is next to nothing."""
    count, seconds = context.size(200_000, 20_000), context.size(60, 15)
    server = ReplayStream(count)
    pid = server.process.pid
    try:
        polled = _polling(context, server.uri, pid, 0)
        for name, text, changing, target in (
            ("steady", "nothing changes", None, 1 / 10),
            ("changing", "1 % of them change every 10 s", server, 1 / 2),
        ):
            cost, own = _following(context, server.uri, pid, seconds, changing)
            *_, row = _cost_rows(
                f"{name}_replayed",
                f"{count:,} documents of {BYTES} bytes, {text}, replaying server",
                cost,
                polled,
                (None, target),
                note=f"of {seconds} s",
                details={"loader": own, "bytes": cost[0], "bytes_polling": polled[0]},
            )
            yield row
    finally:
        server.close()


def idle_collections(context: Context) -> Iterator[Row]:
    """A database of a thousand collections in which nothing happens."""
    count, seconds = context.size(1000, 200), context.size(30, 10)
    server = ReplayStream(10, count)
    loader = LoaderProcess(context.path("many"), server.uri, "--database", "many", *STREAM)
    try:
        loader.reach("streaming")
        time.sleep(3)
        start, spent = time.monotonic(), loader.cpu
        time.sleep(seconds)
        share = (loader.cpu - spent) / (time.monotonic() - start)
    finally:
        loader.kill()
        server.close()
    yield limit_row(
        share * 100,
        "idle_collections",
        1.0,
        f"the loader's CPU while nothing happens, streaming, {count:,} collections",
        "% of a core",
        note=f"of {seconds} s",
    )


BENCHES = (
    delay,
    take_over,
    events,
    resume,
    memory,
    idle_collections,
    steady,
    steady_replayed,
    burst,
)
