"""Clients of a soak: processes that read and write, and write down what they did and saw."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ring.history import Event
from ring.ring_servers import stands_still
from ring.rings import AsyncRing, Ring
from ring.wires import Wire

from mmapcache.ring import RingError
from ring import history

HOT = [f"hot{number}" for number in range(30)]  # written all the time
COLD = [f"cold{number}" for number in range(3000)]  # written now and then: a loss stays one
PAUSE = 0.001  # seconds between two operations of one of them
RACE = 0.1  # seconds: so often all write the same key at the same moment
_RACES = 1000  # keys of them: each is written again only after that many
_BEFORE = 0.003  # seconds before a race that are waited
AHEAD = 30_000  # ms that the clock of the first one's host is ahead


def work(path: Path, log: Path, name: str, seed: int, *, ahead: bool) -> None:
    """Until SIGTERM: each operation becomes a line of the log, and each write one before it, too.

    :param ahead: its host's clock is far ahead
    """
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

    ring: Any = dice.choice((Ring, AsyncRing))(path)
    if ahead:
        ring._core.clock.learn(time.time_ns() // 1_000_000 + AHEAD)
    with log.open("a", buffering=1) as file:
        for count in itertools.takewhile(lambda _: not ended, itertools.count()):
            time.sleep(PAUSE)
            key, what = _next(dice)
            who = f"{name}:{count}"
            value = f"{seed}.{who}" if what == "set" else None
            copies, degraded = 0, False
            began = clock()
            if what != "get":
                file.write(history.line(Event(what, key, value, began, math.inf, who=who)))
            try:
                if what == "get":
                    data = done(ring.get(key))
                    value = None if data is None else data.decode()
                else:
                    written = done(ring.delete(key) if value is None else ring.set(key, value))
                    copies, degraded = written.copies, written.degraded
            except RingError as error:
                print(f"worker {name}: {error}", file=sys.stderr)
                if what == "get":
                    continue
            event = Event(what, key, value, began, clock(), copies, degraded, who)
            file.write(history.line(event))
    print(f"worker {name}: {ring.counts}", file=sys.stderr)


def _next(dice: random.Random) -> tuple[str, str]:
    """The key of an operation, and what is done with it."""
    wait = RACE - time.monotonic() % RACE
    if wait < _BEFORE:
        time.sleep(wait)
        return f"race{round(time.monotonic() / RACE) % _RACES}", "set"
    key = dice.choice(HOT if dice.random() < 0.4 else COLD)
    chance = dice.random()
    return key, "get" if chance < 0.6 else "set" if chance < 0.93 else "delete"


@dataclass
class Worker:
    """One of them, which another one follows when it is killed.

    :param path: of its host's file of the ring
    :param wire: to the network namespace that it is in
    """

    number: int
    path: Path
    wire: Wire | None
    life: int = 0
    pid: int = 0


class Workers:
    """All of them.

    :param paths: of the hosts' files; the workers take turns
    :param wires: one for each worker; empty: none is in a namespace
    :param prepare: what each child does first
    """

    def __init__(
        self,
        number: int,
        paths: Sequence[Path],
        folder: Path,
        seed: int,
        *,
        wires: Sequence[Wire] = (),
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._seed = seed
        self._prepare = prepare
        self._all = [
            Worker(each, paths[each % len(paths)], wires[each] if wires else None)
            for each in range(number)
        ]
        self.logs: list[Path] = []

    def start(self) -> None:
        for worker in self._all:
            self._start(worker)

    def _start(self, worker: Worker) -> None:
        worker.life += 1
        name = f"{worker.number}.{worker.life}"
        log = self._folder / f"history.{name}"
        log.touch()
        self.logs.append(log)
        seed = (self._seed * 1000 + worker.number) * 1000 + worker.life
        worker.pid = os.fork()
        if worker.pid == 0:
            status = 1
            try:
                if worker.wire is not None:
                    worker.wire.enter()
                self._prepare()
                work(worker.path, log, name, seed, ahead=worker.number == 0)
                status = 0
            finally:
                os._exit(status)

    def any(self, dice: random.Random) -> Worker:
        """One of them."""
        return dice.choice(self._all)

    def stopped(self, worker: Worker) -> contextlib.AbstractContextManager[None]:
        return stands_still(functools.partial(os.kill, worker.pid))

    def replace(self, worker: Worker) -> None:
        """Kills it, and starts another one in its place."""
        os.kill(worker.pid, signal.SIGKILL)
        _, status = os.waitpid(worker.pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, f"a worker had ended by itself: {status}"
        self._start(worker)

    def kill(self) -> None:
        """Those that have not ended."""
        for worker in self._all:
            if worker.pid:
                os.kill(worker.pid, signal.SIGKILL)
                os.waitpid(worker.pid, 0)
                worker.pid = 0

    def end(self) -> None:
        """Lets each write down what it has seen."""
        running = [worker for worker in self._all if worker.pid]
        for worker in running:
            os.kill(worker.pid, signal.SIGCONT)
            os.kill(worker.pid, signal.SIGTERM)
        statuses = [os.waitpid(worker.pid, 0)[1] for worker in running]
        for worker in running:
            worker.pid = 0
        assert not any(statuses), f"a worker ended by itself: {statuses}"
