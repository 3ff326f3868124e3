"""The black box: a real loader and real workers, killed and stopped at random, and a log outside.

    main ──fork──► loader      commits, flat out, what it wrote into the log before
      │  ──fork──► worker 0-3  read through the cache that main opened before the fork
      │  ──fork──► worker 4-7  open it themselves
      └─ SIGKILL, SIGSTOP and SIGCONT to all of them; whoever died is forked again

Who judges. Every document tells its collection, key and version, and its body follows from these.
Every collection has a document "#" with the sum over its documents, "meta" has the sums of all. The
log has, for each generation that was ever attempted, a digest of all of it, appended before the
commit, and a second line after it. A worker's snapshot must add up to its own sums and to a line of
the log; a loader that opens must find the last generation known to be committed, or a later one
that was attempted; all processes must agree on what a generation is.

Everything that the processes report lives in a shared anonymous map, so a SIGKILL loses no count.

    python tests/proof/soak.py --seconds 150 [--kills 10000] [--seed N]

It ends when the time is over, and with --kills not before that many SIGKILLs. Exit 1: a violation.
"""

from __future__ import annotations

import argparse
import collections
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmapcache

WORKERS = 8
NAMES = ("a", "b", "c", "d")
KEYS = 250
MAX_SIZE = 64 << 20  # bytes
FILE_BOUND = 32 << 20  # bytes: several times what is live; the rest is retired blocks
BLOCKED = 10.0  # seconds without a finished read, of a worker that is not stopped

# Counters of one process in the shared map, 8 bytes each.
READS, SWEEPS, EXPIRED, STARVED, LONGEST, LONGEST_STOPPED, GENERATION, BEAT, STOPS = range(9)
COMMITS, OPENS, CHECKS, FULL, USED, FILE = range(9, 15)
SLOTS = 16
LOADER = WORKERS  # its row; the one after it is main's
STOPPED = (WORKERS + 1) * SLOTS  # odd while the loader is stopped

Model = dict[str, dict[int, int]]  # collection, key: version


class ViolationError(Exception):
    """Something that must never happen."""


def body(name: str, key: int, version: int) -> str:
    """The text of a document: mostly small, now and then large."""
    word = zlib.crc32(f"{name}/{key}/{version}".encode())
    size = word % 600 if word % 97 else word % 120_000
    return f"{word:08x}" * (size // 8)


def weight(key: int, version: int) -> int:
    return zlib.crc32(f"{key}={version}".encode())


def total(documents: dict[int, int]) -> int:
    """What "#" says of a collection."""
    return sum(weight(key, version) for key, version in documents.items())


def sums(model: Model) -> dict[str, int]:
    return {name: total(documents) for name, documents in model.items()}


def digest(of: dict[str, int]) -> str:
    return f"{zlib.crc32(json.dumps(of, sort_keys=True).encode()):08x}"


def judged(name: str, key: Any, document: Any) -> int:
    """The version of a document that was found under a key."""
    got = document.to_dict()
    version = got.get("v")
    if got != {"_id": key, "c": name, "v": version, "body": body(name, key, version)}:
        raise ViolationError(f"{name}/{key}: {str(got)[:300]}")
    return int(version)


def collected(name: str, items: dict[Any, Any]) -> dict[int, int]:
    """Keys and versions of a whole collection, after its own sum was compared."""
    items = dict(items)
    mark = items.pop("#", None)
    found = {key: judged(name, key, document) for key, document in items.items()}
    if mark is None:
        if found:
            raise ViolationError(f"{name}: documents without a sum")
    elif (mark["sum"], mark["count"]) != (total(found), len(found)):
        raise ViolationError(f"{name}: {mark.to_dict()}, but {total(found)}, {len(found)}")
    return found


class Log:
    """The expected values: lines `try generation digest`, `done generation digest`."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._at = 0
        self.attempts: dict[int, set[str]] = collections.defaultdict(set)
        self.last_done = 0

    def say(self, what: str, generation: int, content: str) -> None:
        os.write(self._file, f"{what} {generation} {content}\n".encode())

    def follow(self) -> None:
        """Reads what was appended since."""
        while data := os.pread(self._file, 1 << 20, self._at):
            end = data.rfind(b"\n") + 1
            if end == 0:
                return
            self._at += end
            for line in data[:end].decode().splitlines():
                what, generation, content = line.split()
                self.attempts[int(generation)].add(content)
                if what == "done":
                    self.last_done = int(generation)

    def expect(self, generation: int, content: str) -> None:
        if content not in self.attempts[generation]:
            self.follow()
        if content not in self.attempts[generation]:
            raise ViolationError(
                f"generation {generation} is {content}, not {self.attempts[generation]}"
            )


class Bench:
    """Where everything is: the directory, the shared counters, the log.

    :param directory: emptied by whoever made it
    :param seed: of the choices; what the kernel schedules is not repeated by it
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.path = directory / "cache"
        self.log = directory / "log"
        self.violations = directory / "violations"
        self.seed = seed
        self.shared = memoryview(mmap.mmap(-1, (WORKERS + 2) * SLOTS * 8)).cast("q")

    def violation(self, who: str, text: str) -> None:
        with self.violations.open("a") as file:
            file.write(f"{who}: {text}\n")


def load(bench: Bench, rng: random.Random) -> None:
    """The loader, for ever: recovers, compares with the log, commits batches."""
    row = bench.shared[LOADER * SLOTS : (LOADER + 1) * SLOTS]
    log = Log(bench.log)
    writer = mmapcache.Writer(bench.path, max_size=MAX_SIZE, timeout=5.0, retention=0.1)
    log.follow()
    row[OPENS] += 1
    if writer.generation < log.last_done:
        raise ViolationError(f"generation {writer.generation} after {log.last_done} was committed")
    model: Model = {}
    if writer.generation:
        with writer.reader(front_entries=0) as cache:
            if rng.random() < 0.3:
                verify(cache, row)
            model = {
                name: collected(name, dict(cache[name].items())) for name in cache if name in NAMES
            }
            log.expect(writer.generation, digest(sums(model)))
    version = json.loads(writer.state or b"0")
    while True:
        commit(writer, log, model, version := version + 1, rng, row)
        if rng.random() < 0.5:
            time.sleep(rng.random() * 0.004)


def verify(cache: mmapcache.Cache, row: memoryview) -> None:
    """The whole file: its structures, and that no block belongs to nobody."""
    report = cache.check()
    stats = cache.stats()
    row[CHECKS] += 1
    row[USED] = max(row[USED], report["bytes_used"])
    row[FILE] = max(row[FILE], stats["file_size"])
    content = sum(one["bytes"] for one in report["collections"].values())
    free = sum(size * count for size, count in report["free_blocks"].items())
    if report["bytes_used"] > 3 * content + (1 << 20):
        raise ViolationError(f"{report['bytes_used']} bytes used for {content}")
    if not 0 <= stats["file_size"] - report["bytes_used"] - free <= 1 << 20:
        raise ViolationError(f"{report['bytes_used']} used and {free} free of {stats['file_size']}")
    if stats["file_size"] > FILE_BOUND:
        raise ViolationError(f"the file has grown to {stats['file_size']} bytes")


def commit(
    writer: mmapcache.Writer,
    log: Log,
    model: Model,
    version: int,
    rng: random.Random,
    row: memoryview,
) -> None:
    """One batch; `model` is what the cache holds, and follows."""

    def document(name: str, key: int) -> dict[str, Any]:
        return {"_id": key, "c": name, "v": version, "body": body(name, key, version)}

    with writer.batch() as batch:
        for name in rng.sample(NAMES, rng.randint(1, 3)):
            now = model.setdefault(name, {})
            how = rng.random()
            if how < 0.02:
                batch.drop(name)
                del model[name]
                continue
            if how < 0.1:
                now = model[name] = dict.fromkeys(rng.sample(range(KEYS), rng.randint(1, KEYS)), 0)
                with batch.replace(name) as replace:
                    for key in now:
                        now[key] = version
                        replace.put(key, document(name, key))
                    mark = {"_id": "#", "sum": total(now), "count": len(now)}
                    replace.put("#", mark)
                continue
            for key in rng.sample(range(KEYS), rng.choice((1, 1, 2, 5, 40, KEYS))):
                if rng.random() < 0.25:
                    batch.delete(name, key)
                    now.pop(key, None)
                else:
                    batch.put(name, key, document(name, key))
                    now[key] = version
            batch.put(name, "#", {"_id": "#", "sum": total(now), "count": len(now)})
        batch.put("meta", "sums", {"_id": "sums", "of": sums(model), "version": version})
        batch.state = json.dumps(version).encode()
        content = digest(sums(model))
        log.say("try", writer.generation + 1, content)
    if batch.generation is None:
        raise ViolationError("a batch with another version changed nothing")
    log.say("done", batch.generation, content)
    row[COMMITS] += 1
    row[FILE] = max(row[FILE], writer.stats()["file_size"])


def work(bench: Bench, slot: int, inherited: mmapcache.Cache, rng: random.Random) -> None:
    """A worker, for ever: reads in every way, and judges."""
    row = bench.shared[slot * SLOTS : (slot + 1) * SLOTS]
    shared = bench.shared
    log = Log(bench.log)
    cache = inherited if slot < WORKERS // 2 else mmapcache.open(bench.path, front_entries=200)
    ways: list[Callable[[mmapcache.Cache, random.Random], int]] = [one, one, one, many, walk]
    while True:
        stops, loader = row[STOPS], shared[STOPPED]
        began = time.monotonic_ns()
        try:
            if rng.random() < 0.1:
                content, generation = snapshot(cache, rng)
                log.expect(generation, content)
                row[SWEEPS] += 1
                reads = 1
                began = time.monotonic_ns()
            else:
                reads = rng.choice(ways)(cache, rng)
                generation = cache.generation
        except mmapcache.SnapshotExpired as error:
            row[STARVED if "reclaimed each of" in str(error) else EXPIRED] += 1
            continue
        spent = time.monotonic_ns() - began
        if generation < row[GENERATION]:
            raise ViolationError(f"generation {generation} after {row[GENERATION]}")
        row[GENERATION] = generation
        row[READS] += reads
        row[BEAT] = time.monotonic_ns()
        if row[STOPS] == stops and stops % 2 == 0:
            row[LONGEST] = max(row[LONGEST], spent)
            if loader % 2 and shared[STOPPED] == loader:
                row[LONGEST_STOPPED] = max(row[LONGEST_STOPPED], spent)


def one(cache: mmapcache.Cache, rng: random.Random) -> int:
    """Single keys."""
    name = rng.choice(NAMES)
    collection = cache.collection(name)
    for key in rng.sample(range(KEYS), 10):
        document = collection.get(key)
        if document is not None:
            judged(name, key, document)
    return 10


def many(cache: mmapcache.Cache, rng: random.Random) -> int:
    """All keys of a collection at once."""
    name = rng.choice(NAMES)
    collected(name, cache.collection(name).get_many([*range(KEYS), "#"]))
    return KEYS


def walk(cache: mmapcache.Cache, rng: random.Random) -> int:
    """An iteration."""
    name = rng.choice(NAMES)
    return len(collected(name, dict(cache.collection(name).items())))


def snapshot(cache: mmapcache.Cache, rng: random.Random) -> tuple[str, int]:
    """Every collection of one generation, with a pause in between; its digest."""
    with cache.snapshot() as view:
        model: Model = {}
        for name in rng.sample(NAMES, len(NAMES)):
            if name in view:
                model[name] = collected(name, dict(view[name].items()))
            time.sleep(rng.choice((0.0, 0.0, 0.002)))
        of = sums(model)
        said = view["meta"]["sums"]["of"].to_dict()
        if said != of:
            raise ViolationError(f"generation {view.generation}: {said} expected, {of} found")
        return digest(of), view.generation


class Soak:
    """The main process: forks, kills, stops.

    :param bench: the shared things
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._rng = random.Random(bench.seed)
        self._forks = 0
        self._pids: dict[int, int] = {}  # slot: pid
        self._resume: dict[int, float] = {}  # slot: when a stopped process goes on
        self.counts: collections.Counter[str] = collections.Counter()

    def fork(self, slot: int, inherited: mmapcache.Cache | None) -> None:
        self._forks += 1
        rng = random.Random(self._bench.seed * 1_000_003 + self._forks)
        self._bench.shared[slot * SLOTS + BEAT] = time.monotonic_ns()
        pid = os.fork()
        if pid:
            self._pids[slot] = pid
            return
        who = "loader" if slot == LOADER else f"worker {slot}"
        try:
            if inherited is None:
                load(self._bench, rng)
            else:
                os.nice(5)  # on few cores the loader would hardly get to commit
                work(self._bench, slot, inherited, rng)
        except BaseException:
            self._bench.violation(who, traceback.format_exc())
        finally:
            os._exit(1)

    def run(self, seconds: float, kills: int) -> None:
        """Until both the time and the kills are reached, or something was violated."""
        self.fork(LOADER, None)
        cache = mmapcache.open(self._bench.path, 10.0, front_entries=200)
        for slot in range(WORKERS):
            self.fork(slot, cache)
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.counts["kills"] < kills:
            # mostly short, so that openings are hit; some loaders live for hundreds of commits
            long = self._rng.random() < 0.01
            time.sleep(0.3 if long else self._rng.expovariate(1 / 0.012))
            self._signal(cache)
            if self._bench.violations.exists():
                return
        self._go_on(float("inf"))
        time.sleep(1.0)
        cache.check()
        if not cache.generation:
            self._bench.violation("main", "nothing was committed")

    def _signal(self, cache: mmapcache.Cache) -> None:
        """One random signal, and whatever is due."""
        now = time.monotonic()
        self._go_on(now)
        slot = LOADER if self._rng.random() < 0.4 else self._rng.randrange(WORKERS)
        if self._rng.random() < 0.75:
            # A loader gets some time, mostly: otherwise nothing would ever be committed.
            self._kill(slot, cache)
        elif slot not in self._resume:
            self.counts["stops of the loader" if slot == LOADER else "stops of workers"] += 1
            self._mark(slot)
            os.kill(self._pids[slot], signal.SIGSTOP)
            self._resume[slot] = now + self._rng.choice((0.01, 0.1, 0.4))
        for worker in range(WORKERS):
            age = time.monotonic_ns() - self._bench.shared[worker * SLOTS + BEAT]
            if worker not in self._resume and age > BLOCKED * 1e9:
                self._bench.violation(f"worker {worker}", f"no read for {age / 1e9:.1f} s")
            # whoever ended by itself has left a violation behind, or died of a signal
            self._died(worker)
        self._died(LOADER)

    def _mark(self, slot: int) -> None:
        """Tells whom it concerns that a process is stopped (odd), or goes on (even)."""
        self._bench.shared[STOPPED if slot == LOADER else slot * SLOTS + STOPS] += 1

    def _go_on(self, now: float) -> None:
        for slot in [slot for slot, due in self._resume.items() if due <= now]:
            del self._resume[slot]
            if slot != LOADER:
                self._bench.shared[slot * SLOTS + BEAT] = time.monotonic_ns()
            else:
                self._mark(slot)
            os.kill(self._pids[slot], signal.SIGCONT)
            if slot != LOADER:
                self._mark(slot)

    def _kill(self, slot: int, cache: mmapcache.Cache) -> None:
        self.counts["kills"] += 1
        self.counts["kills of the loader" if slot == LOADER else "kills of workers"] += 1
        if self._resume.pop(slot, None) is not None:
            self.counts["kills of a stopped process"] += 1
            self._mark(slot)
        os.kill(self._pids[slot], signal.SIGKILL)
        _, status = os.waitpid(self._pids.pop(slot), 0)
        if status != signal.SIGKILL:
            self._bench.violation(f"slot {slot}", f"ended with status {status}")
        self.fork(slot, None if slot == LOADER else cache)

    def _died(self, slot: int) -> None:
        pid, status = os.waitpid(self._pids[slot], os.WNOHANG)
        if pid:
            self._bench.violation(f"slot {slot}", f"ended with status {status}")
            del self._pids[slot]

    def close(self) -> None:
        for pid in self._pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def report(self, seconds: float) -> None:
        shared = self._bench.shared
        rows = [shared[slot * SLOTS : (slot + 1) * SLOTS] for slot in range(WORKERS)]
        loader = shared[LOADER * SLOTS : (LOADER + 1) * SLOTS]
        for name, count in sorted(self.counts.items()):
            print(f"{name:36}{count:12,}")
        figures: list[tuple[str, float]] = [
            ("reads", sum(row[READS] for row in rows)),
            ("snapshots compared with the log", sum(row[SWEEPS] for row in rows)),
            ("snapshots expired", sum(row[EXPIRED] for row in rows)),
            ("reads that the loader outran", sum(row[STARVED] for row in rows)),
            ("commits", loader[COMMITS]),
            ("openings by a loader", loader[OPENS]),
            ("whole files verified", loader[CHECKS]),
            ("generation", max(row[GENERATION] for row in rows)),
            ("most bytes in use", loader[USED]),
            ("largest file, bytes", loader[FILE]),
            ("longest call, ms", max(row[LONGEST] for row in rows) / 1e6),
            ("... while the loader stood still, ms", max(r[LONGEST_STOPPED] for r in rows) / 1e6),
            ("seconds", seconds),
        ]
        for name, figure in figures:
            print(
                f"{name:36}{figure:12,}" if isinstance(figure, int) else f"{name:36}{figure:12.1f}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description="SIGKILL and SIGSTOP at random, over everybody")
    parser.add_argument("--seconds", type=float, default=150.0, help="at least (150)")
    parser.add_argument("--kills", type=int, default=0, help="at least (0)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    memory = Path("/dev/shm")
    directory = Path(
        tempfile.mkdtemp(prefix="mmapcache-soak-", dir=memory if memory.is_dir() else None)
    )
    began = time.monotonic()
    bench = Bench(directory, arguments.seed)
    soak = Soak(bench)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        soak.run(arguments.seconds, arguments.kills)
        soak.report(time.monotonic() - began)
        violations = bench.violations.read_text() if bench.violations.exists() else ""
        print(violations or "violations                                     0")
        return bool(violations)
    finally:
        soak.close()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
