"""Workers that read and write a ring while its nodes are killed, stopped and restarted; then the
history is judged.

    PYTHONPATH=tests python -m ring.soak --seconds 60 --kind redis --seed 1 --zookeeper

The next fault comes when all nodes are ready again. Some are of two parts: a second node is killed
as soon as the first one says that it is ready, or stands still for a moment while it is filled.
Prints what was done; the exit status is 1 when something was wrong. What was read until then is
judged, too, when it cannot go on: a machine may be too busy to start a server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ring.history import Event
from ring.ring_servers import Refused, ZooKeeper, eventually
from ring.rings import AsyncRing, KeptRing, Ring, TestRing
from ring.wires import Wire

from mmapcache.ring import RingError
from mmapcache.ring.published import Published
from ring import client_faults, history, losses

IDS = ("a", "b", "c", "d", "e")
HOT = [f"hot{number}" for number in range(30)]  # written all the time
COLD = [f"cold{number}" for number in range(3000)]  # written now and then: a loss stays one
WORKERS = 4
LEAST = 3  # nodes of the ring
PAUSE = 0.001  # seconds between two operations of one of them
FENCE = 1.0  # seconds


def work(path: Path, log: Path, number: int, seed: int) -> None:
    """Until SIGTERM: each operation becomes a line of the log."""
    dice = random.Random(seed)
    ended = False

    def end(number: int, frame: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    clock = time.monotonic
    loop = asyncio.new_event_loop()

    def done(result: Any) -> Any:
        return loop.run_until_complete(result) if asyncio.iscoroutine(result) else result

    ring: Any = AsyncRing(path) if number % 2 else Ring(path)
    with log.open("a") as file:
        if number == 0:  # its host's clock is far ahead
            ring._core.clock.learn(time.time_ns() // 1_000_000 + 30_000)
        for count in itertools.takewhile(lambda _: not ended, itertools.count()):
            time.sleep(PAUSE)
            key = dice.choice(HOT if dice.random() < 0.4 else COLD)
            who = f"{number}:{count}"
            chance = dice.random()
            began = clock()
            what, value, copies, degraded = "get", None, 0, False
            try:
                if chance < 0.6:
                    data = done(ring.get(key))
                    value = None if data is None else data.decode()
                elif chance < 0.93:
                    what, value = "set", f"{seed}.{who}"
                    written = done(ring.set(key, value))
                    copies, degraded = written.copies, written.degraded
                else:
                    what = "delete"
                    deleted = done(ring.delete(key))
                    copies, degraded = deleted.copies, deleted.degraded
            except RingError as error:
                print(f"worker {number}: {error}", file=sys.stderr)
                if what == "get":
                    continue
            event = Event(what, key, value, began, clock(), copies, degraded, who)
            file.write(history.line(event))
    print(f"worker {number}: {ring.counts}", file=sys.stderr)


class Faults:
    """What is done to the nodes."""

    def __init__(self, ring: TestRing, dice: random.Random, workers: Sequence[int]) -> None:
        self._ring = ring
        self._dice = dice
        self._workers = workers
        self.done: Counter[str] = Counter()
        self.story: list[str] = []
        self.kills: dict[str, list[float]] = {}  # seconds since 1970
        self.choices: Sequence[Callable[[str], object]] = (
            self.kill,
            self.old_dump,
            self.short_stop,
            self.long_stop,
            self.agent,
            self.flush,
            self.kill_two_in_a_row,
            self.kill_and_stop_another,
            self.kill_beside_a_stopped_client,
        )

    def one(self) -> None:
        """One of them, on one node."""
        fault = self._dice.choice(self.choices)
        name = self._dice.choice(sorted(self._ring.servers))
        self.done[fault.__name__] += 1
        began = time.monotonic()
        fault(name)
        self.story.append(f"{began:.3f} to {time.monotonic():.3f}: {fault.__name__} {name}")

    def _kill(self, name: str) -> None:
        self.kills.setdefault(name, []).append(time.time())
        self._ring.servers[name].kill()

    def _another(self, name: str) -> str:
        return self._dice.choice([each for each in self._ring.members() if each != name])

    def kill(self, name: str) -> None:
        self._kill(name)
        time.sleep(self._dice.random())
        self._ring.servers[name].start()

    def kill_two_in_a_row(self, name: str) -> None:
        """The second as soon as the first one says that it is ready."""
        server = self._ring.servers[name]
        second = self._another(name)
        self._kill(name)
        server.start()
        if name in self._ring.members():
            eventually(f"{name} is ready", lambda: server.state() == "ready")
        self.kill(second)

    def kill_and_stop_another(self, name: str) -> None:
        """Which has what the first one is filled with."""
        self._kill(name)
        server = self._ring.servers[name].start()
        other = self._another(name)
        while name in self._ring.members() and server.state() != "ready":
            self.short_stop(other)
            time.sleep(self._dice.random() * 0.5)

    def kill_beside_a_stopped_client(self, name: str) -> None:
        """It goes on with what it was doing when the node is ready again."""
        worker = self._dice.choice(self._workers)
        os.kill(worker, signal.SIGSTOP)
        try:
            self.kill(name)
            self._ring.wait_ready()
        finally:
            os.kill(worker, signal.SIGCONT)

    def old_dump(self, name: str) -> None:
        server = self._ring.servers[name]
        with contextlib.closing(server.connect(hello=False)) as connection:
            connection("SAVE")
        time.sleep(self._dice.random())
        self._kill(name)
        server.start()
        (server.folder / "dump.rdb").unlink()

    def short_stop(self, name: str) -> None:
        with self._ring.servers[name].stopped():
            time.sleep(self._dice.random() * FENCE * 0.6)

    def long_stop(self, name: str) -> None:
        with self._ring.servers[name].stopped():
            time.sleep(FENCE * (1.2 + self._dice.random()))

    def agent(self, name: str) -> None:
        self._ring.agent.end()
        self._ring.agent.start()

    def flush(self, name: str) -> None:
        with contextlib.closing(self._ring.servers[name].connect(hello=False)) as connection:
            connection("FLUSHALL")


class CutFaults(Faults):
    """With wires that are cut: for everybody but the node, it is as if it hung, but it goes on."""

    def __init__(self, ring: TestRing, dice: random.Random, workers: Sequence[int]) -> None:
        super().__init__(ring, dice, workers)
        self.choices = (*self.choices, self.cut, self.cut, self.cut)

    def cut(self, name: str) -> None:
        with self._ring.wires[name].cut():
            time.sleep(self._dice.random() * 3)


class KeptFaults(Faults):
    """With those of ZooKeeper, and changes of the members."""

    def __init__(
        self, ring: KeptRing, zookeeper: ZooKeeper, dice: random.Random, workers: Sequence[int]
    ) -> None:
        super().__init__(ring, dice, workers)
        self._kept = ring
        self._zookeeper = zookeeper
        self.choices = (
            *self.choices,
            self.zookeeper_stops,
            self.zookeeper_is_killed,
            self.change,
            self.change,
            self.change_and_kill,
            self.change_and_kill_at_a_step,
            self.change_and_give_up,
        )

    def zookeeper_stops(self, name: str) -> None:
        with self._zookeeper.stopped():  # longer than the servers' sessions last
            time.sleep(2 + self._dice.random())

    def zookeeper_is_killed(self, name: str) -> None:
        self._zookeeper.kill()
        time.sleep(self._dice.random() * 3)
        self._zookeeper.start()

    def change(self, name: str) -> tuple[str, str]:
        """A node that is in is drained, and one that is out is added. Three stay: of two, one may
        be killed before the other has everything."""
        inside = self._kept.members()
        if name in inside and len(inside) <= LEAST:
            name = next(each for each in self._ring.servers if each not in inside)
        kind = "drain" if name in inside else "add"
        self._kept.command(kind, name, "--detach")
        return kind, name

    def change_and_give_up(self, name: str) -> None:
        """If it is not too late for that; a node that is added may have died."""
        kind, node = self.change(name)
        time.sleep(self._dice.random() * 1.5)
        dies = kind == "add" and self._dice.random() < 0.5
        if dies:
            self._kill(node)
        self._kept.command(kind, node, "--abort", "--detach", check=False)
        if dies:
            self._ring.servers[node].start()

    def change_and_kill(self, name: str) -> None:
        self.change(name)
        time.sleep(self._dice.random() * 2)
        victim = self._dice.choice(sorted(self._ring.servers))
        self.kill(victim)
        if self._dice.random() < 0.5:
            self.agent(victim)

    def change_and_kill_at_a_step(self, name: str) -> None:
        """As soon as a step is taken, perhaps before the nodes have heard of it."""
        step = self._dice.choice(("filling", "switched", "cleaning", "complete"))
        file = Published(str(self._ring.path))
        try:
            before = file.read()[1].epoch
            self.change(name)
            eventually(
                f"the change is {step}",
                lambda: (now := file.read()[1]).step == step and now.epoch > before,
            )
        finally:
            file.close()
        victim = self._dice.choice(sorted(self._ring.servers))
        self._kill(victim)
        self._ring.servers[victim].start()


def soak(
    kind: str,
    folder: Path,
    seconds: float,
    seed: int,
    *,
    keep: bool,
    cuts: bool = False,
    fault: str = "",
    only: str = "",
) -> int:
    """How many things were wrong.

    :param keep: with ZooKeeper, and changes of the members
    :param cuts: with nodes in network namespaces, whose wires are cut
    :param fault: a deliberate one, see client_faults.py
    :param only: the one thing that is done to nodes; empty: all of them
    :raises AssertionError: something was wrong for long
    """
    dice = random.Random(seed)
    since_1970 = time.time() - time.monotonic()
    fence = round(FENCE * 1000)
    zookeeper = ZooKeeper(folder / "zookeeper") if keep else None
    wires = {name: Wire() for name in IDS} if cuts else {}
    if zookeeper is None:
        ring = TestRing(kind, folder, IDS, fence=fence, wires=wires)
    else:
        zookeeper.start()
        ring = KeptRing(kind, folder, IDS, zookeeper.address, fence=fence)
    if fault:
        ring.agent.command = (sys.executable, "-m", "ring.faulty_agent", fault)
    logs: list[Path] = []
    workers: list[int] = []
    whole = []  # when all nodes were ready
    faults = (CutFaults if cuts else Faults)(ring, dice, workers)
    ended: AssertionError | None = None
    try:
        ring.start()
        for number in range(WORKERS):
            logs.append(folder / f"history.{number}")
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    client_faults.of(fault, "client")
                    work(ring.path, logs[-1], number, seed * 1000 + number)
                    status = 0
                finally:
                    os._exit(status)
            workers.append(child)
        if zookeeper is not None and isinstance(ring, KeptRing):
            ring.add_server("spare", fence=fence)
            faults = KeptFaults(ring, zookeeper, dice, workers)
        if only:
            faults.choices = [getattr(faults, only)]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            faults.one()
            ring.wait_ready()
            whole.append(time.time())
            time.sleep(dice.random() * 2)
            ring.wait_ready()  # a busy machine may have stopped one by itself
        end_all(workers)
        eventually("copies are alike", lambda: alike(ring), patience=20 if fault else 60)
    except AssertionError as error:
        ended = error
    finally:
        with contextlib.suppress(AssertionError):
            end_all(workers)
        ring.stop()
        for wire in wires.values():
            wire.remove()
        if zookeeper is not None:
            zookeeper.kill()
    if ended is not None and not logs:  # it has not even begun
        raise ended
    lost = [moment - since_1970 for moment in losses.both(without(ring, faults, whole))]
    events = list(history.load(log for log in logs if log.exists()))
    wrong = history.wrongs(events, lost)
    counts = Counter(event.what for event in events)
    degraded = sum(event.degraded for event in events)
    print(f"seed {seed}, {kind}: {dict(counts)}, {degraded} degraded; faults {dict(faults.done)}")
    print(f"{len(lost)} moments at which two nodes had lost what they held; {len(wrong)} wrong")
    for text in wrong[:20]:
        print(text)
    if wrong:
        print(*faults.story, f"lost: {lost}", sep="\n")
        print(ring.agent.log.read_text())
        for name, server in ring.servers.items():
            print(
                *[
                    f"{name}: {each}"
                    for each in server.log.read_text().splitlines()
                    if "<ring>" in each
                ],
                sep="\n",
            )
    if ended is not None:
        raise ended
    return len(wrong)


def end_all(workers: list[int]) -> None:
    """Lets each write down what it has seen."""
    for child in workers:
        os.kill(child, signal.SIGCONT)
        os.kill(child, signal.SIGTERM)
    statuses = [os.waitpid(child, 0)[1] for child in workers]
    workers.clear()
    assert not any(statuses), "a worker ended by itself"


def without(
    ring: TestRing, faults: Faults, whole: Sequence[float]
) -> dict[str, list[tuple[float, float]]]:
    """From when to when each node was without what it held."""
    return {
        name: losses.spans(server.log.read_text(), faults.kills.get(name, ()), whole)
        for name, server in ring.servers.items()
    }


def alike(ring: TestRing) -> bool:
    """Whether both copies of every key are the same; not while a node begins anew."""
    keys = HOT + COLD
    found: dict[str, list[bytes]] = {}
    for name in ring.members():
        try:
            with contextlib.closing(ring.servers[name].connect()) as connection:
                entries = connection("RING.DUMP", *keys)
        except (OSError, Refused):
            return False
        for key, entry in zip(keys, entries, strict=True):
            if entry is not None:
                found.setdefault(key, []).append(entry)
    return all(len(copies) == 2 and len(set(copies)) == 1 for copies in found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kind", choices=("redis", "valkey"), default="redis")
    parser.add_argument("--zookeeper", action="store_true", help="and changes of the members")
    parser.add_argument("--cuts", action="store_true", help="and wires that are cut: needs root")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-ring-") as folder:
        wrong = soak(
            args.kind,
            Path(folder),
            args.seconds,
            args.seed,
            keep=args.zookeeper,
            cuts=args.cuts,
        )
        return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
