"""The live loader: from a write to the workers, and what following and standing still cost.

Two servers. SecantusDB as a replica set of one is a real server: from it come the delays, the bytes
and what a standby needs. It takes far longer to produce an event or a document than the loader to
take it; the replaying server (replay_stream.py) does not, and from it come the rates. The loader is
`mmapcache sync` in a process of its own, as it is deployed.
"""

from __future__ import annotations

import atexit
import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

import bson
import pymongo
from bson.raw_bson import RawBSONDocument

import mmapcache
from benchmarks import data, peers
from benchmarks.harness import Context, Row
from benchmarks.live_parts import (
    PROBE,
    WORKERS,
    Arrivals,
    BareStream,
    LoaderProcess,
    Peak,
    Readers,
    Updates,
    cpu,
    until,
)
from benchmarks.proxy import CountingProxy
from benchmarks.replay_stream import BYTES, ReplayStream, document

Client = pymongo.MongoClient[dict[str, Any]]

STREAM, POLL = ("--follow", "stream"), ("--follow", "poll", "--interval", "1")
SETTINGS = ("--collection", "bench.settings")
PROBED = ("--collection", "bench.probe")
HOUR = 3600
POLLS = 360  # an hour, one every ten seconds


def _limit(value: float, name: str, limit: float, measure: str, unit: str, **more: Any) -> Row:
    """A row whose target is a quantity and not a peer."""
    return Row(
        name=name,
        measure=measure,
        ours=value,
        unit=unit,
        peer=limit,
        peer_name="allowed",
        ratio=value / limit,
        target=1,
        **more,
    )


def _quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _server(context: Context) -> peers.MongoServer:
    """A replica set of one that lives as long as this process."""

    def start() -> peers.MongoServer:
        server = peers.MongoServer(replica_set="bench", directory=context.scratch)
        atexit.register(server.close)
        return server

    return context.shared("server", start)


def _probe(uri: str) -> pymongo.collection.Collection[dict[str, Any]]:
    """The collection of one document, whose `n` a benchmark counts up."""
    client: Client = pymongo.MongoClient(uri)
    probe = client["bench"][PROBE]
    probe.replace_one({"_id": PROBE}, {"_id": PROBE, "n": 0}, upsert=True)
    return probe


# --- from a write to the workers ------------------------------------------------------------------


def delay(context: Context) -> Iterator[Row]:
    """Single writes, far enough apart not to be a burst: acknowledged to seen by eight workers."""
    count, gap = context.size(1000, 200), 0.02
    uri = _server(context).uri
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
    for part, limit in ((0.5, 0.002), (0.99, 0.010)):
        yield _limit(
            _quantile(added, part),
            f"delay_p{part * 100:.0f}",
            limit,
            f"write acknowledged to visible in all {WORKERS} workers, less the event's own delay"
            f" to a bare stream: p{part * 100:.0f}",
            "s",
            note=f"with it {_quantile(visible, part) * 1e3:.1f} ms, {len(numbers):,} writes",
            details=details,
        )


def take_over(context: Context) -> Iterator[Row]:
    """A standby: from SIGKILL of the first loader to a later write's being visible."""
    uri = _server(context).uri
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
            time.sleep(1.5)
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
    yield _limit(
        statistics.median(spent),
        "take_over",
        1.0,
        "take-over by a standby: SIGKILL of the loader to a later write's being visible",
        "s",
        note=f"longest {max(spent):.2f} s",
        samples={"ours": spent},
    )


# --- standing still, and a hundredth that moves ---------------------------------------------------


def _filled(context: Context) -> int:
    """How many documents the real server has in `bench.settings`; it gets them at first."""
    count = context.size(200_000, 20_000)

    def fill() -> int:
        client: Client = pymongo.MongoClient(_server(context).uri)
        for start in range(0, count, 5_000):
            made = [RawBSONDocument(document(i, 0)) for i in range(start, start + 5_000)]
            client["bench"]["settings"].insert_many(made)
        client.close()
        return count

    return context.shared("filled", fill)


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
    name: str, text: str, ours: Cost, peer: Cost, targets: Cost, **more: Any
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
    count, seconds = _filled(context), context.size(60, 15)
    server = _server(context)
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
        (1 / 2000, 1 / 10),
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
                (1, target),
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
    yield _limit(
        share * 100,
        "idle_collections",
        1.0,
        f"the loader's CPU while nothing happens, streaming, {count:,} collections",
        "% of a core",
        note=f"of {seconds} s",
    )


# --- rates ----------------------------------------------------------------------------------------


def _equal(cache: mmapcache.Cache, server: ReplayStream, timeout: float = 300) -> float:
    """When the cache had become what the server has; every document is compared."""
    settings = cache["settings"]
    last, expected = data.key(server.last), server.expected(server.last)
    end = time.monotonic() + timeout
    while True:
        generation = cache.generation
        now = time.monotonic()
        if settings.get_raw(last) == expected:
            differs = sum(
                settings.get_raw(data.key(index)) != server.expected(index)
                for index in range(server.count)
            )
            if not differs:
                return now
        if now > end:
            raise TimeoutError(f"the cache is not what the server has: {cache.status()}")
        cache.wait(generation, 1.0)


def _loads(cache: mmapcache.Cache) -> dict[str, int]:
    """How often everything was read, by reason."""
    loads: dict[str, int] = cache.status()["loads"]
    return loads


def _bare(server: ReplayStream, count: int, *, lookup: bool) -> tuple[float, float]:
    """Seconds and processor seconds of a bare stream for the next events."""
    stream = BareStream(server.uri, count, lookup=lookup)
    try:
        server.prepare(count)
        start = time.monotonic()
        server.release(count)
        end, spent = stream.result()
    finally:
        stream.close()
    return end - start, spent


def events(context: Context) -> Iterator[Row]:
    """A burst that rewrites everything, from a server that is never the limit."""
    count = context.size(200_000, 20_000)
    server = ReplayStream(count)
    sides: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": [], "lookup": []}
    loads = []
    details: dict[str, Any] = {}
    try:
        for _ in range(3):
            loader = LoaderProcess(context.path("events"), server.uri, *SETTINGS, *STREAM)
            try:
                cache = loader.reach("streaming")
                server.prepare(count)
                start, spent = time.monotonic(), loader.cpu
                server.release(count)
                end = _equal(cache, server)
                sides["ours"].append((end - start, loader.cpu - spent))
                details["loads"] = _loads(cache)
            finally:
                loader.kill()
            sides["bare"].append(_bare(server, count, lookup=False))
            sides["lookup"].append(_bare(server, count, lookup=True))
            once = LoaderProcess(context.path("load"), server.uri, *SETTINGS, "--once")
            loads.append(once.once())
    finally:
        server.close()
    wall = {side: [seconds for seconds, _ in pairs] for side, pairs in sides.items()}
    work = {side: [spent / count for _, spent in pairs] for side, pairs in sides.items()}
    for side, text in (
        ("bare", "a bare PyMongo stream of the same events that does nothing"),
        ("lookup", "a bare PyMongo stream with updateLookup that does nothing"),
    ):
        rates = {s: [count / each for each in wall[s]] for s in ("ours", side)}
        ours, peer = (statistics.median(rates[s]) for s in ("ours", side))
        yield Row(
            name=f"events_{side}",
            measure=f"events applied per second / {text}, replaying server",
            ours=ours,
            unit="events/s",
            peer=peer,
            peer_name="bare",
            ratio=ours / peer,
            target=0.7,
            at_least=True,
            note=f"{count:,} events",
            samples={"ours": rates["ours"], "peer": rates[side]},
            details=details,
        )
        ours, peer = statistics.median(work["ours"]), statistics.median(work[side])
        yield Row(
            name=f"events_cpu_{side}",
            measure=f"CPU of an event / {text}, replaying server",
            ours=ours,
            unit="s",
            peer=peer,
            peer_name="bare",
            ratio=ours / peer,
            target=1.4,
            note=f"{count:,} events",
            samples={"ours": work["ours"], "peer": work[side]},
        )
    ours, peer = statistics.median(wall["ours"]), statistics.median(loads)
    yield Row(
        name="burst_replayed",
        measure=f"a burst that rewrites all {count:,} documents: time to equality / one full load,"
        " replaying server",
        ours=ours,
        unit="s",
        peer=peer,
        peer_name="load",
        ratio=ours / peer,
        target=3,
        samples={"ours": wall["ours"], "peer": loads},
        details=details,
    )


def burst(context: Context) -> Iterator[Row]:
    """The same from the real server, whose clients write as fast as it takes it."""
    count = _filled(context)
    uri = _server(context).uri
    once = LoaderProcess(context.path("burst-load"), uri, *SETTINGS, "--once")
    load = once.once()
    loader = LoaderProcess(context.path("burst"), uri, *SETTINGS, *STREAM)
    client: Client = pymongo.MongoClient(uri)
    settings = client["bench"]["settings"]
    try:
        cache = loader.reach("streaming", 300)
        start = time.monotonic()
        for first in range(0, count, 1000):
            chosen = range(first, first + 1000)
            settings.bulk_write(
                [
                    pymongo.UpdateOne({"_id": data.key(i)}, {"$set": {"version": -1}})
                    for i in chosen
                ],
                ordered=False,
            )
        written = time.monotonic()
        ours = cache["settings"]

        def equal() -> bool:
            # The newest first: as long as that one is missing, there is no need to ask all.
            newest = range(count - 1, -1, -1)
            return all(
                bson.decode(ours.get_raw(data.key(i)) or b"\5\0\0\0\0").get("version") == -1
                for i in newest
            )

        asked = [written]

        def ask() -> bool:
            asked.append(time.monotonic())
            return equal()

        until(ask, 300, "equality")
        reached = asked[-1]
        details = {"loads": _loads(cache), "writing": written - start}
    finally:
        loader.kill()
        client.close()
    for name, text, seconds, target in (
        ("burst", "last acknowledged write to equality", reached - written, 3),
        ("burst_whole", "first write to equality", reached - start, None),
    ):
        yield Row(
            name=name,
            measure=f"a burst that rewrites all {count:,} documents: {text} / one full load",
            ours=seconds,
            unit="s",
            peer=load,
            peer_name="load",
            ratio=seconds / load,
            target=target,
            note=f"the writes took {written - start:.1f} s",
            details=details,
        )


def resume(context: Context) -> Iterator[Row]:
    """A loader that was down while events passed; from its start to equality."""
    count = context.size(200_000, 20_000)
    missed = count // 2
    server = ReplayStream(count)
    path = context.path("resume")
    spent: dict[str, list[float]] = {"resume": [], "load": []}
    try:
        LoaderProcess(path, server.uri, *SETTINGS, "--once").once()
        for turn in range(3):
            server.release(missed)
            for side, used in (("resume", path), ("load", context.path(f"anew-{turn}"))):
                start = time.monotonic()
                loader = LoaderProcess(used, server.uri, *SETTINGS, *STREAM)
                try:
                    cache = loader.reach("streaming")
                    spent[side].append(_equal(cache, server) - start)
                    loads = _loads(cache)
                finally:
                    loader.end()
                if side == "resume" and sum(loads.values()) != 1:
                    raise AssertionError(f"it did not resume: {loads}")
    finally:
        server.close()
    ours, peer = statistics.median(spent["resume"]), statistics.median(spent["load"])
    yield Row(
        name="resume",
        measure=f"resume after {missed:,} missed events / full load of the {count:,} documents,"
        " both from the process's start, replaying server",
        ours=ours,
        unit="s",
        peer=peer,
        peer_name="load",
        ratio=ours / peer,
        samples={"ours": spent["resume"], "peer": spent["load"]},
    )


# --- memory ---------------------------------------------------------------------------------------


def memory(context: Context) -> Iterator[Row]:
    """The first load of a million documents, and a burst of events after it."""
    count, missed = context.size(1_000_000, 200_000), context.size(200_000, 20_000)
    server = ReplayStream(count)
    room = max(256 << 20, count * 700)
    loader = LoaderProcess(context.path("memory"), server.uri, *SETTINGS, *STREAM, room=room)
    watch = Peak(loader.process.pid)
    try:
        cache = loader.reach("streaming", 300)
        loaded = watch.peak
        server.prepare(missed)
        server.release(missed)
        _equal(cache, server)
        peak = watch.end()
    finally:
        loader.kill()
        server.close()
    yield _limit(
        peak,
        "memory",
        128 << 20,
        f"the loader's peak memory beyond the cache file: load of {count:,} documents, then"
        f" {missed:,} events",
        "B",
        note=f"{loaded / 2**20:.0f} MiB in the load",
        details={"load": loaded, "anonymous": watch.anonymous},
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
