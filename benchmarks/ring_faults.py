"""The ring while servers are killed, stopped and added; nutcracker and Redis Cluster beside it.

The servers, ZooKeeper and the agent are those of `make ring-demo`. A read is bad when it raises an
error, finds nothing, or finds another value than the last one that was written.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import Context, Row
from benchmarks.ring_world import MissingError, left_out
from demo.ring.installed import any_server, module_path, zookeeper_missing

KEYS = 2000
READS = 6000
WORKERS = 8
_TIMEOUT = 0.1  # seconds, of the ring's client: the default
_SLACK = 0.005
# Seconds that a server may stand still: what is measured is not to be that it had to wait for a
# processor for so long.
_FENCE = 5.0
_PATIENCE = 30.0


@dataclass
class Reads:
    """What reads found."""

    spent: list[float] = field(default_factory=list)  # milliseconds of each
    failed: int = 0
    lost: int = 0
    wrong: int = 0

    @property
    def bad(self) -> int:
        """All that did not find the last value."""
        return self.failed + self.lost + self.wrong

    def p99(self) -> float:
        """Milliseconds."""
        return sorted(self.spent)[len(self.spent) * 99 // 100]

    def read(self, get: Callable[[str], Any], keys: Sequence[str], count: int, value: bytes) -> Any:
        """So many more."""
        for key in itertools.islice(itertools.cycle(keys), count):
            start = time.perf_counter()
            try:
                found = get(key)
            except Exception:  # of whichever client
                self.failed += 1
            else:
                self.lost += found is None
                self.wrong += found is not None and found != value
            self.spent.append((time.perf_counter() - start) * 1e3)
        return self

    def text(self) -> str:
        """For a note."""
        return f"{self.failed} failed, {self.lost} lost, {self.wrong} wrong"


@contextmanager
def _world(context: Context) -> Iterator[Any]:
    """The demo's world, its nodes ready; None: something is not installed."""
    try:
        from demo.ring.world import World
    except ImportError as error:
        left_out(f"faults: {error}: pip install 'mmapcache[ring]'")
        yield None
        return
    binary, no_binary = any_server()
    module, no_module = module_path()
    if not binary or not module:
        left_out(f"faults: {no_binary or no_module}")
        yield None
        return
    no_zookeeper = zookeeper_missing()
    if no_zookeeper:
        left_out(f"adding a node, and counting sessions: {no_zookeeper}")
    folder = context.scratch / "faults"
    folder.mkdir(exist_ok=True)
    world = World(folder, binary, module, kept=not no_zookeeper, nutcracker="", fence=_FENCE)
    try:
        world.start()
        yield world
    finally:
        world.ring.close()
        world.close()
        shutil.rmtree(folder, ignore_errors=True)


def _key(number: int) -> str:
    return f"answer:{number}"


def _all_keys() -> list[str]:
    return [_key(i) for i in range(KEYS)]


def _write(ring: Any, value: bytes) -> None:
    written = ring.mset(dict.fromkeys(_all_keys(), value))
    if written.degraded:
        raise RuntimeError("a ring at rest did not take two copies")


def faults(context: Context) -> Iterator[Row]:
    """A node is killed, comes back empty, comes back with an old dump, hangs; a sixth one comes."""
    with _world(context) as world:
        if world is None:
            return
        ring, value = world.ring, b"first"
        _write(ring, value)
        victims = [key for key in _all_keys() if ring.where(key)[0] == "a"]
        Reads().read(ring.get, victims, len(victims), value)
        before = Reads().read(ring.get, victims, READS, value).p99()

        world.kill("a")
        reads = Reads().read(ring.get, victims, READS, value)
        yield _latency("kill", "read of a victim's key after kill -9, p99", reads, 5.0, before)
        yield _none("kill_bad", f"bad reads of {READS:,} of them", reads, reads.bad)

        reads = _coming_back(world, victims, value)
        yield _none("empty_bad", "bad reads after a restart without data", reads, reads.bad)

        world.save("a")
        value = b"second"
        _write(ring, value)
        world.kill("a")
        reads = _coming_back(world, victims, value)
        world.forget("a")
        yield _none("dump_wrong", "wrong values after a restart with an old dump", reads, reads.bad)

        with world.stopped("a"):
            reads = Reads().read(ring.get, victims, READS, value)
        limit = (_TIMEOUT + _SLACK) * 1e3
        yield _latency("hang", "read of a victim's key on a hang, p99", reads, limit, before)
        yield _none("hang_bad", f"bad reads of {READS:,} of them", reads, reads.bad)
        world.settle()
        if world.keeper is not None:
            yield _sessions(world)
            yield _adding(world, value)


def _coming_back(world: Any, keys: list[str], value: bytes) -> Reads:
    """Reads from the start of a killed node until all is ready again, and some more."""
    for server in world.nodes["a"]:
        server.start()
    ready = threading.Event()

    def wait() -> None:
        for server in world.nodes["a"]:
            server.wait()
        world.settle()
        ready.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    reads = Reads()
    while not ready.is_set() and waiter.is_alive():
        reads.read(world.ring.get, keys, 200, value)
    waiter.join()
    return reads.read(world.ring.get, keys, max(READS - len(reads.spent), 1000), value)  # type: ignore[no-any-return]


def _sessions(world: Any) -> Row:
    """While eight workers read."""
    context = multiprocessing.get_context("fork")
    started, done = context.Semaphore(0), context.Event()
    workers = [
        context.Process(target=_worker, args=(str(world.path), started, done))
        for _ in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        if not started.acquire(timeout=_PATIENCE):
            raise RuntimeError("the workers do not read")
    sessions = world.keeper.sessions() - len(world.nodes)
    done.set()
    for worker in workers:
        worker.join()
    return Row(
        name="sessions",
        measure=f"ZooKeeper sessions for {WORKERS} workers",
        ours=sessions,
        unit="",
        peer=1,
        peer_name="wanted",
        ratio=sessions,
        target=1,
        note=f"the agent's; each of the {len(world.nodes)} servers has one, too",
    )


def _worker(path: str, started: Any, done: Any) -> None:
    from mmapcache.ring import Ring

    with Ring(path, timeout=1.0) as ring:
        for key in _all_keys()[:50]:
            ring.get(key)
        started.release()
        done.wait(_PATIENCE)
    os._exit(0)


def _adding(world: Any, value: bytes) -> Row:
    """A sixth node comes while all keys are read."""
    world.make("f")
    world.start_nodes("f")
    lives = world.lives()
    said: list[Any] = []
    command = threading.Thread(target=lambda: said.append(world.command("add", "f")))
    reads = Reads()
    began = time.monotonic()
    command.start()
    while command.is_alive():
        reads.read(world.ring.get, _all_keys(), 500, value)
    command.join()
    if not said:
        raise RuntimeError("`mmapcache ring add` has failed")
    lasted = time.monotonic() - began
    reads.read(world.ring.get, _all_keys(), KEYS, value)
    world.settle()
    now = world.lives()
    anew = sum(now[name] != life for name, life in lives.items() if name != "f")
    keys = world.keys()
    share = keys["f"] / sum(keys.values())
    return _none(
        "add_unreadable",
        "keys unreadable while a sixth node comes",
        reads,
        reads.bad,
        f"; {lasted:.1f} s; the node has {share:.1%} of all copies, so {2 * share:.1%} of the keys "
        "got another holder"
        + (f"; {anew} of the others stood still and began anew" if anew else ""),
    )


def _latency(name: str, measure: str, reads: Reads, most: float, before: float) -> Row:
    """
    :param before: the p99 before anything had happened
    """
    return Row(
        name=f"{name}_p99",
        measure=measure,
        ours=reads.p99(),
        unit="ms",
        peer=most,
        peer_name="allowed",
        ratio=reads.p99() / most,
        target=1.0,
        note=f"the first one {reads.spent[0]:.1f} ms, the longest {max(reads.spent):.1f} ms; "
        f"p99 before that {before:.1f} ms",
    )


def _none(name: str, measure: str, reads: Reads, bad: int, more: str = "") -> Row:
    return Row(
        name=name,
        measure=measure,
        ours=bad,
        unit="",
        peer=0,
        peer_name="wanted",
        ratio=bad,
        target=0,
        note=f"{len(reads.spent):,} reads: {reads.text()}{more}",
    )


def peers(context: Context) -> Iterator[Row]:
    """The same kill of nutcracker and of Redis Cluster."""
    try:
        from benchmarks.ring_peers import cluster, nutcracker
    except ImportError:
        return  # said by `faults`
    for name, make, timeout in (("nutcracker", nutcracker, 100), ("Redis Cluster", cluster, 1000)):
        try:
            with make(context.scratch / "peers", timeout) as peer:
                yield _killed(name, peer)
        except MissingError as missing:
            left_out(str(missing))


def _killed(name: str, peer: Any) -> Row:
    """The first server, which is a master, with a third or a fifth of all keys."""
    import redis

    client = peer.client
    for key in _all_keys():
        client.set(key, b"first")
    port, process = next(iter(peer.processes.items()))
    with redis.Redis(port=port) as victim:
        keys = [key.decode() for key in victim.scan_iter("answer:*", count=1000)]
    process.kill()
    began = time.monotonic()
    first = None
    reads = Reads()
    while len(reads.spent) < READS and time.monotonic() - began < _PATIENCE:
        before = reads.bad
        reads.read(client.get, keys, 1, b"first")
        if first is None and reads.bad == before:
            first = time.monotonic() - began
    found = "never" if first is None else f"{first:.3g} s after it"
    return Row(
        name=f"kill_bad_{name.replace(' ', '_').lower()}",
        measure=f"the same of {name}, bad reads",
        ours=reads.bad,
        unit="",
        note=f"{len(reads.spent):,} reads: {reads.text()}; the first good one {found}, p99 "
        f"{reads.p99():.1f} ms",
    )


BENCHES = (faults, peers)
