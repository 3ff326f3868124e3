"""The live loader under a burst, after a pause, and in memory: see live.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import bson
import pymongo

import mmapcache
from benchmarks import data
from benchmarks.harness import Context, Row
from benchmarks.live_parts import BareStream, LoaderProcess, Peak, until
from benchmarks.live_world import SETTINGS, STREAM, Client, filled, limit_row, real_server
from benchmarks.replay_stream import ReplayStream


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
    count = filled(context)
    uri = real_server(context).uri
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
    yield limit_row(
        peak,
        "memory",
        128 << 20,
        f"the loader's peak memory beyond the cache file: load of {count:,} documents, then"
        f" {missed:,} events",
        "B",
        note=f"{loaded / 2**20:.0f} MiB in the load",
        details={"load": loaded, "anonymous": watch.anonymous},
    )
