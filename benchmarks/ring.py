"""The ring beside plain redis-py and a plain server: rates, the server's time, placement.

Ours has two copies of everything and five servers; the peer has one copy on one server of the same
binary. Rates are for each second; what has the sign ≥ is to be reached. ring_faults.py has what
happens when servers are killed, stopped or added.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks import ring_faults
from benchmarks.harness import Context, Row, compare, timed
from benchmarks.ring_race import BY_CPU, Side, cpu_of, race
from benchmarks.ring_world import PLAIN, MissingError, World, left_out, running
from demo.ring.circle import Circle
from demo.ring.installed import ROOT

IDS = ("a", "b", "c", "d", "e")
VALUE = b"x" * 100
KEYS = 2000
IN_FLIGHT = 32


@contextmanager
def _world(context: Context, ids: tuple[str, ...] = IDS) -> Iterator[tuple[World, Any, Any] | None]:
    """A world, a blocking client, and plain redis-py; None: something is not installed."""
    try:
        import redis

        from mmapcache.ring import Ring
    except ImportError as error:
        left_out(f"all but placement: {error}: pip install 'mmapcache[ring]'")
        yield None
        return
    with ExitStack() as stack:
        try:
            world = stack.enter_context(running(context.scratch / "ring", ids))
        except MissingError as missing:
            left_out(str(missing))
            yield None
            return
        # Rates are not to be those of failovers: where other work goes on, a server may have to
        # wait for its turn longer than the timeout is by default.
        ring = stack.enter_context(Ring(world.path, timeout=1.0))
        plain = stack.enter_context(redis.Redis(port=world.ports[PLAIN]))
        ring.mset({_key(i): VALUE for i in range(KEYS)})
        plain.mset({_key(i): VALUE for i in range(KEYS)})
        yield world, ring, plain


def _key(number: int) -> str:
    return f"answer:{number}"


def rates(context: Context) -> Iterator[Row]:
    """Operations a second of one blocking client."""
    from benchmarks.ring_peers import cluster, nutcracker

    count, repeats = 400, context.size(21, 7)
    with _world(context) as made, ExitStack() as stack:
        if made is None:
            return
        world, ring, plain = made
        others: list[tuple[str, Any, list[int]]] = []
        for name, make in (("nutcracker", nutcracker), ("Redis Cluster", cluster)):
            try:
                peer = stack.enter_context(make(context.scratch / name, 5000))
            except MissingError as missing:
                left_out(str(missing))
                continue
            others.append((name, peer.client, peer.pids))
            for i in range(KEYS):
                peer.client.set(_key(i), VALUE)
        clients = [
            ("ours", ring, world.pids(*IDS)),
            ("redis-py", plain, world.pids(PLAIN)),
            *others,
        ]
        for name, measure, operation, target, times, each in (
            ("get", "GET/s of one client", _get, 0.9, count, 1),
            ("set", "SET/s of one client, 2 copies", _set, 0.55, count, 1),
            ("mget", "keys/s by MGET of 100", _mget, 0.7, count // 20, 100),
        ):
            sides = [
                Side(side, _rounds(operation, client, times), pids)
                for side, client, pids in clients
                if each == 1 or side != "Redis Cluster"  # its keys are in many slots
            ]
            targets = [target, *[None] * (len(sides) - 2)]
            yield from race(name, measure, sides, times * each, targets, repeats)


def _get(client: Any, key: str) -> None:
    client.get(key)


def _set(client: Any, key: str) -> None:
    client.set(key, VALUE)


_MANY = [_key(i) for i in range(100)]


def _mget(client: Any, key: str) -> None:
    client.mget(_MANY)


def _rounds(operation: Callable[[Any, str], None], client: Any, count: int) -> Callable[[], None]:
    keys = [_key(i % KEYS) for i in range(count)]

    def run() -> None:
        for key in keys:
            operation(client, key)

    return run


def asynchronous(context: Context) -> Iterator[Row]:
    """Operations a second of asyncio with some in flight at any time."""
    count, repeats = 640, context.size(21, 7)
    with _world(context) as made:
        if made is None:
            return
        world, _, _ = made
        import redis.asyncio

        from mmapcache.ring import AsyncRing

        loop = asyncio.new_event_loop()
        ring = AsyncRing(world.path, timeout=1.0)
        plain = redis.asyncio.Redis(port=world.ports[PLAIN])

        def rounds(operation: Callable[[str], Awaitable[object]]) -> Callable[[], None]:
            async def worker(first: int) -> None:
                for i in range(first, count, IN_FLIGHT):
                    await operation(_key(i % KEYS))

            async def all_of_them() -> None:
                await asyncio.gather(*[worker(i) for i in range(IN_FLIGHT)])

            return lambda: loop.run_until_complete(all_of_them())

        for name, measure, ours, peer, target in (
            (
                *("async_set", f"SET/s of asyncio, {IN_FLIGHT} in flight, 2 copies"),
                rounds(lambda key: ring.set(key, VALUE)),
                rounds(lambda key: plain.set(key, VALUE)),
                0.5,
            ),
            (
                *("async_get", f"GET/s of asyncio, {IN_FLIGHT} in flight"),
                rounds(ring.get),
                rounds(plain.get),
                None,
            ),
        ):
            sides = [
                Side("ours", ours, world.pids(*IDS)),
                Side("redis-py", peer, world.pids(PLAIN)),
            ]
            yield from race(name, measure, sides, count, [target], repeats)
        loop.run_until_complete(ring.close())
        loop.run_until_complete(plain.aclose())
        loop.close()


def servers(context: Context) -> Iterator[Row]:
    """What a command costs its server, by redis_module/load: 50 connections, values of 100 bytes.

    The rates are by the server's own processor time: those on the wall are the load program's, too.
    """
    with _world(context, ("a", "b")) as made:
        if made is None:
            return
        world, _, _ = made
        subprocess.run(["make", "-s", "-C", "redis_module", "load"], cwd=ROOT, check=True)
        for pipeline, how in ((1, "one at a time"), (50, "in packets of 50")):
            count = context.size(20_000, 5_000)
            spent: dict[str, list[float]] = {}
            wall: dict[str, float] = {}
            for _ in range(5):
                for name, rate, cost in _load(world.ports["a"], count, pipeline):
                    spent.setdefault(name, []).append(cost)
                    wall[name] = max(rate, wall.get(name, rate))
            for name in ("GET", "SET"):
                mine = f"RING.{name}"
                ours, peer = statistics.median(spent[mine]), statistics.median(spent[name])
                yield Row(
                    name=f"server_{name.lower()}" + ("" if pipeline == 1 else "_packets"),
                    measure=f"{mine} in the server, 100-byte values, {how}",
                    ours=1e6 / ours,
                    unit="/s of its CPU",
                    peer=1e6 / peer,
                    peer_name=name,
                    ratio=peer / ours,
                    target=0.9,
                    at_least=True,
                    note=f"on the wall {wall[mine]:,.0f} and {wall[name]:,.0f}",
                    samples={"ours": spent[mine], "peer": spent[name]},
                )


def _load(port: int, count: int, pipeline: int) -> list[tuple[str, float, float]]:
    """Command, its rate, and microseconds of the server's time."""
    words = [str(ROOT / "redis_module/build/load"), str(port), str(count), str(pipeline)]
    said = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120).stdout
    found = re.findall(r"^(\S+) +(\d+) /s +([\d.]+) us", said, re.MULTILINE)
    return [(name, float(rate), float(cost)) for name, rate, cost in found]


def scaling(context: Context) -> Iterator[Row]:
    """Reads a second of eight workers over five servers, and over one."""
    span = context.size(4, 1)
    with _world(context) as made:
        if made is None:
            return
        world, _, _ = made
        five = _workers(_read_ring, str(world.path), span, world.pids(*IDS))
        plain = _workers(_read_plain, world.ports[PLAIN], span, world.pids(PLAIN))
    with _world(context, ("a",)) as made:
        if made is None:
            return
        world, _, _ = made
        one = _workers(_read_ring, str(world.path), span, world.pids("a"))
    for name, target, (peer, cpu), peer_name in (
        ("scaling", 1.5, plain, "redis-py, 1 server"),
        ("scaling_ring", None, one, "the ring, 1 server"),
    ):
        yield Row(
            name=name,
            measure="GET/s of 8 workers, 5 servers" + (", for each core used" if BY_CPU else ""),
            ours=five[0],
            unit="/s",
            peer=peer,
            peer_name=peer_name,
            ratio=five[0] / peer,
            target=target,
            at_least=True,
            note=f"cores used by workers + servers: {five[1]}; {cpu}",
        )


def _workers(
    work: Callable[[Any, float], tuple[int, float]], where: Any, span: float, pids: list[int]
) -> tuple[float, str]:
    """Reads a second, and how many cores the workers and the servers took."""
    context = multiprocessing.get_context("fork")
    before, began = cpu_of(pids), time.perf_counter()
    with context.Pool(8) as pool:
        done = pool.starmap(work, [(where, span)] * 8, chunksize=1)
    lasted = time.perf_counter() - began
    workers, servers = sum(cpu for _, cpu in done), (cpu_of(pids) - before) / 1e9
    rate = sum(count for count, _ in done) / (workers + servers if BY_CPU else span)
    return rate, f"{workers / lasted:.2f} + {servers / lasted:.2f}"


def _read_ring(path: str, span: float) -> tuple[int, float]:
    from mmapcache.ring import Ring

    with Ring(path, timeout=1.0) as ring:
        return _read(ring.get, span)


def _read_plain(port: int, span: float) -> tuple[int, float]:
    import redis

    return _read(redis.Redis(port=port).get, span)


def _read(get: Callable[[str], object], span: float) -> tuple[int, float]:
    end, cpu = time.perf_counter() + span, time.process_time()
    count = 0
    while time.perf_counter() < end:
        for _ in range(20):
            get(_key(count % KEYS))
            count += 1
    return count, time.process_time() - cpu


def look(context: Context) -> Iterator[Row]:
    """What an operation pays for knowing whether the ring has changed."""
    with _world(context, ("a", "b")) as made:
        if made is None:
            return
        _, ring, _ = made
        loops = {
            "view": timed("view()", _rounds_of, view=ring._core.view),
            "load": timed("cache.generation", _rounds_of, cache=ring._published._opened()),
            "call": timed("call()", _rounds_of, call=lambda: None),
            "real": timed("one.real", _rounds_of, one=1),
        }
        best = {name: min(loop() for _ in range(25)) for name, loop in loops.items()}
        for name, measure, side, peer, peer_name in (
            ("look", "an operation's look for another ring", "view", "call", "an empty function"),
            ("look_load", "of that, what the file says", "load", "real", "int.real"),
        ):
            yield Row(
                name=name,
                measure=measure,
                ours=best[side],
                unit="ns",
                peer=best[peer],
                peer_name=peer_name,
                ratio=best[side] / best[peer],
                note="the best of 25 rounds",
            )


def _rounds_of() -> list[int]:
    return list(range(10_000))


def placement(context: Context) -> Iterator[Row]:
    """How fast holders are found, how even the load is, and how much moves."""
    from mmapcache.ring._ring import Placement

    ids = tuple(f"redis-{i}" for i in range(8))
    keys = [b"key:%016d" % i for i in range(context.size(20_000, 10_000))]
    ours, circle = Placement(ids), Circle(ids)

    def rate(pair: Callable[[bytes], object]) -> Callable[[], float]:
        def measure() -> float:
            start = time.perf_counter()
            for key in keys:
                pair(key)
            return len(keys) / (time.perf_counter() - start)

        return measure

    yield compare(
        "placement",
        "holders of a key found in a second, from Python, 8 nodes",
        rate(ours.pair),
        rate(circle.pair),
        unit="/s",
        peer_name="bisect",
        target=5.0,
        at_least=True,
    )
    subprocess.run(["make", "-s", "-C", "redis_module", "load"], cwd=ROOT, check=True)
    said = subprocess.run(
        [str(ROOT / "redis_module/build/placement")], check=True, capture_output=True, timeout=120
    )
    allowed = 10e6
    yield Row(
        name="placement_c",
        measure="placement in C, 8 nodes, keys of 20 bytes",
        ours=float(said.stdout),
        unit="/s",
        peer=allowed,
        peer_name="wanted",
        ratio=float(said.stdout) / allowed,
        target=1.0,
        at_least=True,
        note="of processor time",
    )
    five, six = Placement(IDS), Placement((*IDS, "f"))
    loads = [0] * 5
    primaries = copies = 0
    total = context.size(200_000, 50_000)
    for i in range(total):
        key = b"load:%d" % i
        was, will = five.pair(key), six.pair(key)
        loads[was[0]] += 1
        primaries += was[0] != will[0]
        copies += len(set(will) - set(was))
    spread = statistics.pstdev(loads) / statistics.mean(loads)
    yield _share("load", f"load of 5 nodes, {total:,} keys, standard deviation", spread, 0.01, 1.0)
    yield _share("primaries", "primaries moved, 5 to 6 nodes", primaries / total, 1 / 6, 1.03)
    yield _share("copies", "copies moved, 5 to 6 nodes", copies / total, 1 / 3, 1.03)


def _share(name: str, measure: str, value: float, allowed: float, target: float) -> Row:
    return Row(
        name=name,
        measure=measure,
        ours=value * 100,
        unit="%",
        peer=allowed * 100,
        peer_name="",
        ratio=value / allowed,
        target=target,
    )


BENCHES = (placement, look, rates, asynchronous, servers, scaling, *ring_faults.BENCHES)
