"""The ring beside plain redis-py and a plain server: rates, latency of a failover, placement.

Ours has two copies of everything and five servers; the peer has one copy on one server of the same
binary. Rates are for each second; what has the sign ≥ is to be reached.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.harness import Context, Row, compare
from benchmarks.ring_world import PLAIN, MissingError, World, running
from demo.ring.circle import Circle

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
    except ImportError:
        yield None
        return
    try:
        with running(context.scratch / "ring", ids) as world, Ring(world.path) as ring:
            plain = redis.Redis(port=world.ports[PLAIN])
            ring.mset({_key(i): VALUE for i in range(KEYS)})
            plain.mset({_key(i): VALUE for i in range(KEYS)})
            yield world, ring, plain
            plain.close()
    except MissingError:
        yield None


def _key(number: int) -> str:
    return f"answer:{number}"


def _rate(operation: Callable[[str], object], count: int, each: int = 1) -> Callable[[], float]:
    keys = [_key(i % KEYS) for i in range(count)]

    def measure() -> float:
        start = time.perf_counter()
        for key in keys:
            operation(key)
        return count * each / (time.perf_counter() - start)

    return measure


def rates(context: Context) -> Iterator[Row]:
    """Operations a second of one blocking client."""
    count = context.size(20_000, 3_000)
    many = [_key(i) for i in range(100)]
    with _world(context) as made:
        if made is None:
            return
        _, ring, plain = made
        sides: list[tuple[str, str, Any, Any, float, int, int]] = [
            ("get", "GET/s of one client", ring.get, plain.get, 0.9, count, 1),
            (
                *("set", "SET/s of one client, 2 copies"),
                lambda key: ring.set(key, VALUE),
                lambda key: plain.set(key, VALUE),
                *(0.55, count, 1),
            ),
            (
                *("mget", "keys/s by MGET of 100"),
                lambda key: ring.mget(many),
                lambda key: plain.mget(many),
                *(0.7, count // 50, 100),
            ),
        ]
        for name, measure, ours, peer, target, times, each in sides:
            yield compare(
                name,
                measure,
                _rate(ours, times, each),
                _rate(peer, times, each),
                unit="/s",
                peer_name="redis-py",
                target=target,
                at_least=True,
            )


def asynchronous(context: Context) -> Iterator[Row]:
    """Operations a second of asyncio with some in flight at any time."""
    count = context.size(20_000, 3_000)
    with _world(context) as made:
        if made is None:
            return
        world, _, _ = made
        import redis.asyncio

        from mmapcache.ring import AsyncRing

        loop = asyncio.new_event_loop()
        ring = AsyncRing(world.path)
        plain = redis.asyncio.Redis(port=world.ports[PLAIN])

        def rate(operation: Callable[[str], Awaitable[object]]) -> Callable[[], float]:
            async def worker(first: int) -> None:
                for i in range(first, count, IN_FLIGHT):
                    await operation(_key(i % KEYS))

            async def all_of_them() -> float:
                start = time.perf_counter()
                await asyncio.gather(*[worker(i) for i in range(IN_FLIGHT)])
                return count / (time.perf_counter() - start)

            return lambda: loop.run_until_complete(all_of_them())

        for name, measure, ours, peer, target in (
            (
                *("async_set", f"SET/s of asyncio, {IN_FLIGHT} in flight, 2 copies"),
                rate(lambda key: ring.set(key, VALUE)),
                rate(lambda key: plain.set(key, VALUE)),
                0.5,
            ),
            (
                *("async_get", f"GET/s of asyncio, {IN_FLIGHT} in flight"),
                rate(ring.get),
                rate(plain.get),
                None,
            ),
        ):
            yield compare(
                name,
                measure,
                ours,
                peer,
                unit="/s",
                peer_name="redis-py",
                target=target,
                at_least=True,
            )
        loop.run_until_complete(ring.close())
        loop.run_until_complete(plain.aclose())
        loop.close()


def failover(context: Context) -> Iterator[Row]:
    """Milliseconds of reads of a victim's keys."""
    with _world(context) as made:
        if made is None:
            return
        world, ring, _ = made
        keys = [key for key in map(_key, range(KEYS)) if ring.where(key)[0] == "a"]

        def reads() -> tuple[list[float], int]:
            spent, bad = [], 0
            for key in keys * 5:
                start = time.perf_counter()
                bad += ring.get(key) != VALUE
                spent.append((time.perf_counter() - start) * 1e3)
            return sorted(spent), bad

        reads()
        world.kill("a")
        yield from _latency("kill", "after kill -9", reads(), 5.0)
        world.start_server("a")
        time.sleep(1.0)
        world.wait_ready()
        reads()
        with world.stopped("a"):
            yield from _latency("hang", "of a node that hangs", reads(), 105.0)


def _latency(name: str, when: str, measured: tuple[list[float], int], most: float) -> Iterator[Row]:
    spent, bad = measured
    p99 = spent[len(spent) * 99 // 100]
    yield Row(
        name=f"{name}_p99",
        measure=f"a read {when}, p99",
        ours=p99,
        unit="ms",
        peer=most,
        peer_name="allowed",
        ratio=p99 / most,
        target=1.0,
        note=f"longest {spent[-1]:.1f} ms, {bad} bad of {len(spent):,}",
    )


def servers(context: Context) -> Iterator[Row]:
    """Commands a second of one server, as fast as packets of many can be sent."""
    with _world(context, ("a", "b")) as made:
        if made is None:
            return
        world, ring, _ = made
        from mmapcache.ring import _ring
        from mmapcache.ring.wire import pack

        count = context.size(200_000, 20_000)
        version = ring._core.clock.next()
        entry = _ring.encode(_ring.VALUE, version, 0, VALUE)
        epoch = str(ring.epoch).encode()
        ours, peer = _Raw(world.ports["a"]), _Raw(world.ports[PLAIN])
        ours.ask(pack((b"RING.HELLO",)), 1)
        names = [_key(i).encode() for i in range(KEYS)]
        for name, mine, theirs in (
            ("SET", lambda k: (b"RING.SET", epoch, k, entry), lambda k: (b"SET", k, VALUE)),
            ("GET", lambda k: (b"RING.GET", epoch, k), lambda k: (b"GET", k)),
        ):
            yield compare(
                f"server_{name.lower()}",
                f"RING.{name}/s in one server, 100-byte values",
                ours.rate([pack(mine(key)) for key in names], count),
                peer.rate([pack(theirs(key)) for key in names], count),
                unit="/s",
                peer_name=name,
                target=0.9,
                at_least=True,
            )
        ours.close()
        peer.close()


class _Raw:
    """A connection that only counts replies, each of which has so many lines."""

    AT_ONCE = 500

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def ask(self, packet: bytes, replies: int) -> bytes:
        """Sends, and waits until the bytes of as many replies as the first says are there."""
        self._socket.sendall(packet)
        data = self._socket.recv(1 << 20)
        size = _reply_size(data)
        while replies > 1 and size and len(data) < size * replies:
            data += self._socket.recv(1 << 20)
        return data

    def rate(self, commands: list[bytes], count: int) -> Callable[[], float]:
        packets = [
            b"".join(commands[i : i + self.AT_ONCE]) for i in range(0, len(commands), self.AT_ONCE)
        ]
        rounds = max(1, count // len(commands))

        def measure() -> float:
            start = time.perf_counter()
            for _ in range(rounds):
                for packet in packets:
                    self.ask(packet, self.AT_ONCE)
            return rounds * len(commands) / (time.perf_counter() - start)

        return measure


def _reply_size(data: bytes) -> int:
    """Bytes of the first reply; all replies of a packet have as many. 0: it is an array."""
    head, _, _ = data.partition(b"\r\n")
    if head[:1] == b"$":
        return len(head) + 2 + int(head[1:]) + 2
    if head[:1] == b"-":
        raise RuntimeError(f"the server refused: {head!r}")
    return len(head) + 2 if head[:1] == b"+" else 0


def scaling(context: Context) -> Iterator[Row]:
    """Reads a second of eight workers over five servers, and over one."""
    with _world(context) as made:
        if made is None:
            return
        world, _, _ = made
        span = context.size(5, 1)
        one = _workers(_read_plain, world.ports[PLAIN], span)
        five = _workers(_read_ring, str(world.path), span)
        yield Row(
            name="scaling",
            measure="GET/s of 8 workers, 5 servers",
            ours=five,
            unit="/s",
            peer=one,
            peer_name="1 server",
            ratio=five / one,
            target=1.5,
            at_least=True,
        )


def _workers(work: Callable[[Any, float], int], where: Any, span: float) -> float:
    context = multiprocessing.get_context("fork")
    with context.Pool(8) as pool:
        counts = pool.starmap(work, [(where, span)] * 8)
    return sum(counts) / span


def _read_ring(path: str, span: float) -> int:
    from mmapcache.ring import Ring

    with Ring(path, timeout=1.0) as ring:
        return _read(ring.get, span)


def _read_plain(port: int, span: float) -> int:
    import redis

    return _read(redis.Redis(port=port).get, span)


def _read(get: Callable[[str], object], span: float) -> int:
    end = time.perf_counter() + span
    count = 0
    while time.perf_counter() < end:
        for _ in range(20):
            get(_key(count % KEYS))
            count += 1
    return count


def placement(context: Context) -> Iterator[Row]:
    """How fast holders are found, how even the load is, and how much moves."""
    from mmapcache.ring._ring import Placement

    ids = tuple(f"redis-{i}" for i in range(8))
    keys = [b"key:%016d" % i for i in range(context.size(100_000, 20_000))]
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


BENCHES = (placement, rates, asynchronous, servers, scaling, failover)
