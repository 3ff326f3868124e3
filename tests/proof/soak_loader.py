"""The gap test: a loader that follows a database, while all that can end or stop does so at random.

    writers ──> MongoDB server <── proxy <── loader ──> cache file ──> readers
       └── journal: each state of each key,   what they saw: journal ─────┘
           before it is asked for ───> support.history.Judge <───┘

Storms and calms alternate. In a storm the loader and the server are killed and stopped, and the
proxy cuts, holds and delays what passes between them. In a calm writers pause; within CALM seconds
the cache must be the database, byte for byte. Dead connections stay so in a calm: nothing tells the
loader of them. All the time the readers' journals are compared with the writers': no document goes
back, no reader sees a state that the database never had. In the end the loader has read everything
once, and again only for a collection that was dropped, and to verify it, where nothing differed.

    PYTHONPATH=tests python tests/proof/soak_loader.py [--seconds 600] [--seed N]
    ... --fault NAME      a loader with a deliberate fault: whether this test sees it
    ... --faults          all of them, one after the other
    ... --whole           a loader of a whole database, which finds its collections by itself
    ... --poll            a loader that polls; how often it reads everything is not judged
    ... --polled          two of the collections cannot be followed, and are read again each second

Exit 1: a violation, or with a fault none.
"""

from __future__ import annotations

import argparse
import collections
import json
import mmap
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from support import faulty_loader, gap_writer
from support.gap_world import PLACES, WRITERS, configuration, digest, in_one_database, poll_some
from support.history import Judge, KeyName, read
from support.loader import Loader
from support.mongodb_server import Server
from support.wire_proxy import WireProxy

import mmapcache

READERS = 2
STORM = 15.0  # seconds, about
PAUSE = 0.7  # seconds between two faults, about
QUIET = 0.2  # of the storms: nobody writes, so that idle positions are what matters
CALM = 30.0  # seconds from the last fault until the cache must be the database
PATIENCE = 60.0  # seconds for writers and readers to come along

# How often each fault is chosen, against the others.
WEIGHTS = {
    "kill loader": 3,
    "stop loader": 2,
    "kill server": 1,
    "stop server": 1,
    "cut all": 3,
    "cut one": 3,
    "cut reply": 5,
    "stall": 2,
    "delay": 2,
    "refuse": 1,
    "dead stream": 1,
    "dead connection": 1,
    "verify": 2,
}


class Gap:
    """The processes and what is done to them.

    :param directory: emptied by whoever made it
    :param arguments: the command line's
    :param fault: of the loader; "" for none
    """

    def __init__(self, directory: Path, arguments: argparse.Namespace, fault: str) -> None:
        self._path = directory / "cache"
        self._seed: int = arguments.seed
        self._fault = fault
        self._poll: bool = arguments.poll
        self._pace: float = arguments.pace
        self._dice = random.Random(self._seed)
        self._weights = faulty_loader.FAULTS[fault].weights if fault else WEIGHTS
        self._drop_often = faulty_loader.FAULTS[fault].drops if fault else 0.08
        self._dropped = faulty_loader.FAULTS[fault].dropped if fault else ""
        self._storm_seconds = 8.0 if fault else STORM
        polled = arguments.polled or (bool(fault) and faulty_loader.FAULTS[fault].polled)
        self._polled: bool = polled and not self._poll
        poll_some(self._polled)
        whole = ["--database", in_one_database()] if arguments.whole else []
        (directory / "config.toml").write_text(configuration())
        insisted = "auto" if self._polled else "stream"
        follow = ["--follow", insisted, "--interval", "1", "--reload-spread", "0.2"]
        if self._poll:
            follow = ["--interval", "0.2"]
        self._flags = [
            "--config",
            str(directory / "config.toml"),
            *whole,
            *follow,
            "--standby",
            "--max-size",
            "128MiB",
            "--batch-size",
            "50",  # so that a load has more than one reply
        ]
        self._server = Server(directory / "mongodb", replica_set=True, sync=True)
        self._proxy = WireProxy(self._server.port, random.Random(self._seed + 1))
        self._writers = [directory / f"writer-{number}" for number in range(WRITERS)]
        self._readers = [directory / f"reader-{number}" for number in range(READERS)]
        self._loaders: list[Loader] = []  # the second one is a standby
        self._children: dict[int, str] = {}
        self._undo: list[tuple[float, Callable[[], None]]] = []
        self._flags_shared = memoryview(mmap.mmap(-1, gap_writer.FLAGS * 8)).cast("q")
        self._cache: mmapcache.Cache | None = None
        self._committed: list[tuple[float, float]] = []  # when a position was seen, its time
        self._slowest = 0.0
        self._states: collections.Counter[str] = collections.Counter()
        self.judge = Judge(self._writers, self._readers)
        self.counts: collections.Counter[str] = collections.Counter()

    # --- the run ----------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Storms and calms until the time is over, or until something must not be."""
        self._server.start()
        for number, journal in enumerate(self._writers):
            self._fork(f"writer {number}", partial(self._write, number, journal))
        for number, journal in enumerate(self._readers):
            self._fork(f"reader {number}", partial(read, self._path, journal))
        self._proxy.__enter__()
        self._wait(lambda: all(self._flags_shared[gap_writer.WRITES + n] for n in range(WRITERS)))
        self._start_loader()
        self._cache = mmapcache.open(self._path, timeout=PATIENCE)
        self._flags_shared[gap_writer.LOADED] = 1
        end = time.monotonic() + seconds
        while not self.judge.violations:
            self._storm(
                min(end, time.monotonic() + self._dice.uniform(0.5, 1.5) * self._storm_seconds)
            )
            if not self.judge.violations:
                self._calm()
            print(self._progress(end), flush=True)
            if time.monotonic() >= end:
                break
        if not self.judge.violations:
            self._finish()

    def _write(self, number: int, journal: Path) -> None:
        writer = gap_writer.Writer(
            number,
            self._server.port,
            journal,
            self._seed,
            self._flags_shared,
            pace=self._pace,
            drops=self._drop_often,
            dropped=self._dropped,
        )
        writer.fill()
        writer.run()

    def _fork(self, name: str, work: Callable[[], None]) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        self._children[pid] = name

    def _start_loader(self) -> None:
        program = [faulty_loader.__file__, self._fault] if self._fault else ["-m", "mmapcache"]
        arguments = ["--uri", self._proxy.uri, *self._flags]
        self._loaders.append(Loader(self._path, arguments, None, program))
        self.counts["loaders started"] += 1

    def _wait(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> bool:
        """Until something is true; meanwhile everything is watched."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or self.judge.violations:
                return False
            self._watch()
            time.sleep(0.02)
        return True

    def _watch(self) -> None:
        """What can be seen at any time."""
        self.judge.follow()
        for child in list(self._children):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                self._violate(f"{self._children.pop(pid)} ended with status {status}")
        for loader in list(self._loaders):
            if (ended := loader.process.poll()) is not None:
                self._violate(f"the loader ended with status {ended}:\n{loader.output[-2000:]}")
                self._loaders.remove(loader)
        if self._cache is None:
            return
        self._states[self._cache.status()["state"]] += 1
        position = json.loads(self._cache.state or b"{}").get("position")
        if position and (not self._committed or position["at"] > self._committed[-1][1]):
            self._committed.append((time.time(), position["at"]))

    def _violate(self, text: str) -> None:
        self.judge.violations.append(text)

    # --- storms -----------------------------------------------------------------------------------

    def _storm(self, end: float) -> None:
        quiet = not self._fault and self._dice.random() < QUIET
        self._flags_shared[gap_writer.PAUSE] = int(quiet)
        names, weights = list(self._weights), list(self._weights.values())
        if not any(weights):
            names, weights = ["nothing"], [1]
        while time.monotonic() < end and not self.judge.violations:
            what = self._dice.choices(names, weights)[0]
            self.counts[what] += 1
            getattr(self, "_" + what.replace(" ", "_"))()
            pause = time.monotonic() + self._dice.expovariate(1) * PAUSE
            while True:
                self._undo_until(time.monotonic())
                self._watch()
                if time.monotonic() >= pause:
                    break
                time.sleep(0.02)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._undo.append((time.monotonic() + self._dice.random() * seconds, what))

    def _undo_until(self, now: float) -> None:
        due = [one for one in self._undo if one[0] <= now]
        self._undo = [one for one in self._undo if one[0] > now]
        for _, what in due:
            what()

    def _kill_loader(self) -> None:
        if self._dice.random() < 0.7:
            self._next_generation()
        if self._loaders:
            self.counts["kills of the loader"] += 1
            loader = self._loaders.pop(self._dice.randrange(len(self._loaders)))
            loader.process.kill()
            loader.process.wait()
        self._later(self._dice.choice((0, 0, 2)), self._restart_loader)

    def _next_generation(self) -> None:
        """A loader that has not begun yet dies as easily as one that is at work, but for less."""
        assert self._cache is not None
        generation = self._cache.generation
        end = time.monotonic() + 3
        while not self._cache.wait(generation, 0.05) and time.monotonic() < end:
            self._undo_until(time.monotonic())
            self._watch()
        time.sleep(self._dice.choice((0, 0, 0.01)) * self._dice.random())

    def _restart_loader(self) -> None:
        """One loader, or two of which one waits for the other's end."""
        for _ in range(self._dice.choice((1, 1, 2)) - len(self._loaders)):
            self._start_loader()

    def _stop_loader(self) -> None:
        for loader in self._loaders:
            self.counts["stops"] += 1
            loader.signal(signal.SIGSTOP)
            self._later(2, partial(loader.signal, signal.SIGCONT))

    def _kill_server(self) -> None:
        self.counts["kills of the server"] += 1
        self._server.kill()
        time.sleep(self._dice.choice((0, 0, 1)) * self._dice.random())
        self._server.start()

    def _stop_server(self) -> None:
        self.counts["stops"] += 1
        self._server.pause()
        self._later(3, self._server.resume)

    def _cut_all(self) -> None:
        self._proxy.cut()

    def _cut_one(self) -> None:
        self._proxy.cut(one=True)

    def _cut_reply(self) -> None:
        self._proxy.cut_reply(self._dice.choice((1, 1, 1, 3)))

    def _stall(self) -> None:
        self._proxy.stall(True)
        self._later(2, lambda: self._proxy.stall(False))

    def _delay(self) -> None:
        self._proxy.delay(self._dice.choice((0.005, 0.05, 0.3)))
        self._later(3, lambda: self._proxy.delay(0))

    def _refuse(self) -> None:
        self._proxy.refuse(True)
        self._proxy.cut()
        self._later(2, lambda: self._proxy.refuse(False))

    def _nothing(self) -> None:
        """The writers alone are enough."""

    def _verify(self) -> None:
        """SIGHUP: everything is read and compared, and no difference may be found."""
        for loader in self._loaders:
            if "->" in loader.output:  # before its first line SIGHUP would end it
                self.counts["verifications asked for"] += 1
                loader.signal(signal.SIGHUP)

    def _dead_stream(self) -> None:
        self._proxy.hole("getMore")

    def _dead_connection(self) -> None:
        self._proxy.hole()

    # --- calms ------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """No more faults, no more writes: the cache becomes the database in time."""
        assert self._cache is not None
        self._undo_until(float("inf"))
        self._restart_loader()
        self._proxy.heal()
        began = time.monotonic()
        self._flags_shared[gap_writer.PAUSE] = 1
        paused = range(gap_writer.PAUSED, gap_writer.PAUSED + WRITERS)
        if not self._wait(lambda: all(self._flags_shared[flag] for flag in paused)):
            self._violate("the writers did not come to rest")
            return
        database = self._database()
        self._wait(lambda: self._difference(database) == "", CALM - (time.monotonic() - began))
        difference = self._difference(database)
        if difference:
            self._violate(f"{CALM:.0f} s after the last fault {difference}")
            return
        self._slowest = max(self._slowest, time.monotonic() - began)
        self.counts["calms"] += 1
        generation = self._cache.generation
        if not self._wait(lambda: min(self.judge.generations) >= generation):
            self._violate(f"the readers did not come to generation {generation}")
            return
        self.judge.settle()
        expected = self.judge.expected()
        for name in expected.keys() | database.keys():
            if expected.get(name, "-") != digest(database.get(name)):
                self._violate(f"{name} in the database is not what its writer last made of it")
        self._judge_loads()
        self._judge_positions()

    def _database(self) -> dict[KeyName, bytes]:
        """What the database has, seen as the cache is to see it."""
        found = {}
        with MongoClient(
            "127.0.0.1",
            self._server.port,
            directConnection=True,
            document_class=RawBSONDocument,
        ) as client:
            for place in PLACES:
                collection = client[place.database][place.name]
                for document in collection.find(place.filter, place.projection):
                    found[place.name, int(document["k"])] = bytes(document.raw)
        return found

    def _difference(self, database: dict[KeyName, bytes]) -> str:
        """Where cache and database differ; "" when they are equal."""
        assert self._cache is not None
        try:
            with self._cache.snapshot() as snapshot:
                cached = {
                    (place.name, document["k"]): document.raw
                    for place in PLACES
                    if place.name in snapshot
                    for document in snapshot[place.name].values()
                }
        except mmapcache.SnapshotExpired:
            return "the cache changes too fast to be read"
        wrong = sorted(
            name
            for name in cached.keys() | database.keys()
            if cached.get(name) != database.get(name)
        )
        if not wrong:
            return ""
        some = ", ".join(
            f"{name} {k}: {_counter(cached.get((name, k)))} instead of "
            f"{_counter(database.get((name, k)))}"
            for name, k in wrong[:5]
        )
        return f"the cache differs from the database in {len(wrong)} keys: {some}"

    def _judge_loads(self) -> None:
        """Everything is read once, and again when a collection was dropped."""
        assert self._cache is not None
        if self._poll:
            return
        now: dict[str, Any] = dict(self._cache.status())
        loads: dict[str, int] = now.get("loads") or {}
        for reason, count in loads.items():
            if reason == "poll" and self._polled:
                continue
            most = {
                "initial": 1,
                "dropped": self._due(),
                "verify": self.counts["verifications asked for"],
            }.get(reason, 0)
            if count > most:
                self._violate(f"loads for the reason {reason!r}: {count}, at most {most} were due")
        if differed := (now.get("errors") or {}).get("differed"):
            self._violate(f"verifications have found {differed} documents that differed")

    def _judge_positions(self) -> None:
        """A loader goes on from where the cache was, or from a later idle position."""
        if self._poll:
            return
        resumed = 0
        for log in self._path.parent.glob("loader-*.log"):
            for said, at in _GOES_ON.findall(log.read_text("utf-8")):
                began = datetime.fromisoformat(said + "+00:00").timestamp()
                goes_on = datetime.fromisoformat(at + "+00:00").timestamp()
                due = max((at for seen, at in self._committed if seen < began), default=0.0)
                resumed += 1
                if goes_on < int(due):
                    self._violate(f"at {said} a loader went back from {due:.0f} to {goes_on:.0f}")
        self.counts["loaders that went on"] = resumed

    def _drops(self, *, of: tuple[int, ...] = tuple(range(WRITERS))) -> int:
        return sum(self._flags_shared[gap_writer.DROPS + n] for n in of)

    def _due(self) -> int:
        """Loads that drops may cause: one each, and another one when a collection that was kept
        with its last content comes back."""
        kept = {p.owner for p in PLACES if p.owner is not None and not p.allow_empty}
        return self._drops() + self._drops(of=tuple(kept))

    def nonsense(self) -> list[str]:
        """What a loader says only when it, or the fault in it, is not what its author meant."""
        lines = [
            line
            for log in sorted(self._path.parent.glob("loader-*.log"))
            for line in log.read_text("utf-8").splitlines()
        ]
        return [f"the loader says: {line}" for line in lines if _NONSENSE.search(line)]

    def _finish(self) -> None:
        """The loader ends when it is told to, and the file is whole."""
        assert self._cache is not None
        while self._loaders:
            loader = self._loaders.pop()
            loader.signal(signal.SIGTERM)
            status = loader.wait()
            # One that was just started may not be a loader yet, but an interpreter that begins.
            if status != 0 and not (status == -signal.SIGTERM and not loader.output):
                self._violate(f"the loader that was told to end ended with status {status}")
        self._cache.check()

    # --- what it says -----------------------------------------------------------------------------

    def _progress(self, end: float) -> str:
        left = max(0.0, end - time.monotonic())
        return (
            f"{left:5.0f} s left: {self.judge.counts['states written']:,} states, "
            f"{sum(self.judge.generations) // READERS:,} generations, "
            f"{self.judge.counts['states checked']:,} states checked, "
            f"{len(self.judge.violations)} violations"
        )

    def report(self, seconds: float) -> None:
        """The table."""
        rows: dict[str, float] = dict(self.judge.counts + self._proxy.counts + self.counts)
        rows["writes acknowledged"] = sum(
            self._flags_shared[gap_writer.WRITES + n] for n in range(WRITERS)
        )
        rows["collections dropped"] = self._drops()
        rows |= {f"asked: {name}": n for name, n in self._proxy.commands.items()}
        rows |= {f"times seen in state {name}": n for name, n in self._states.items()}
        if self._cache is not None:
            now: dict[str, Any] = dict(self._cache.status())
            rows |= {f"loads: {name}": n for name, n in (now.get("loads") or {}).items()}
            rows |= {f"loader: {name}": now.get(name, 0) for name in ("events", "disconnects")}
            rows |= {f"errors: {name}": n for name, n in (now.get("errors") or {}).items()}
            rows["generation"] = self._cache.generation
        rows["slowest calm until equal, seconds"] = self._slowest
        rows["seconds"] = seconds
        for name, count in sorted(rows.items()):
            print(f"{name:40}{count:12,}" if isinstance(count, int) else f"{name:40}{count:12.1f}")

    def close(self) -> None:
        """Ends whatever still runs."""
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for loader in self._loaders:
            loader.process.kill()
            loader.process.wait()
        self._server.kill()
        self._proxy.close()


_GOES_ON = re.compile(r"^(\S+)Z info +going on from the position of (\S+ \S+) UTC", re.MULTILINE)
_NONSENSE = re.compile("Traceback|following failed|ended unexpectedly|makes no sense")


def _counter(raw: bytes | None) -> str:
    return "nothing" if raw is None else f"state {bson.decode(raw)['n']}"


def run(arguments: argparse.Namespace, fault: str) -> list[str]:
    """One run; what must not be, but was."""
    memory = Path("/dev/shm")
    directory = Path(
        tempfile.mkdtemp(prefix="mmapcache-gap-", dir=memory if memory.is_dir() else None)
    )
    began = time.monotonic()
    gap = Gap(directory, arguments, fault)
    nonsense: list[str] = []
    try:
        gap.run(arguments.seconds)
        nonsense = gap.nonsense()
        if fault:
            return [] if nonsense else gap.judge.violations
        gap.judge.violations += nonsense
        gap.report(time.monotonic() - began)
        return gap.judge.violations
    finally:
        gap.close()
        if not (arguments.keep and gap.judge.violations):
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"kept: {directory}")
        for line in nonsense:
            print(line)


def main() -> int:
    parser = argparse.ArgumentParser(description="faults at random, and no gap")
    parser.add_argument("--seconds", type=float, default=None, help="(600; 60 with a fault)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument(
        "--pace", type=float, default=80.0, help="changes a second, of each writer (80)"
    )
    parser.add_argument(
        "--fault", choices=sorted(faulty_loader.FAULTS), help="see faulty_loader.py"
    )
    parser.add_argument("--faults", action="store_true", help="all of them")
    parser.add_argument("--whole", action="store_true", help="a loader of a whole database")
    parser.add_argument("--poll", action="store_true", help="a loader that polls")
    parser.add_argument("--polled", action="store_true", help="some collections are polled")
    parser.add_argument("--keep", action="store_true", help="the directory, after a violation")
    arguments = parser.parse_args()
    faults = sorted(faulty_loader.FAULTS) if arguments.faults else [arguments.fault or ""]
    if arguments.seconds is None:
        arguments.seconds = 60.0 if faults[0] else 600.0
    print(f"seed {arguments.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = False
    for fault in faults:
        violations = run(arguments, fault)
        if fault:
            print(f"{fault}: {'seen: ' + violations[0] if violations else 'NOT SEEN'}", flush=True)
            failed |= not violations
        else:
            print("\n".join(violations[:20]))
            print(f"{len(violations)} violations")
            failed |= bool(violations)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
