"""The processes that the figures of the live loader are taken from.

    python -m benchmarks.live_parts count URI LOOKUP N   a bare change stream over `bench` that does
                        nothing: "ready", then for each N events its processor seconds and the time
    python -m benchmarks.live_parts arrivals URI    a bare change stream that notes when the event
                        of each value of bench.probe's `n` came: a line each, "n nanoseconds"

Times are CLOCK_MONOTONIC's, which all processes share.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmapcache
from benchmarks import data

PROBE = "probe"
WORKERS = 8
_TICKS = os.sysconf("SC_CLK_TCK")
# What the loader asks of a stream: the events without documents.
NARROW = [{"$project": {"operationType": 1, "ns": 1, "documentKey": 1, "clusterTime": 1}}]


def cpu(pid: int) -> float:
    """Processor seconds of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def until(condition: Callable[[], Any], timeout: float, what: str) -> float:
    """Ask every two milliseconds until it is so; when, on the shared clock."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.002)
    return time.monotonic()


class LoaderProcess:
    """`mmapcache sync` in a process of its own."""

    def __init__(self, path: Path, uri: str, *arguments: str, room: int = 256 << 20) -> None:
        """Start it; what it writes goes into a file beside `path`."""
        self.path = path
        self.log = path.with_name(f"{path.name}-{time.monotonic_ns()}.log")
        command = [sys.executable, "-m", "mmapcache", "sync", str(path), "--uri", uri]
        command += ["--max-size", str(room), "--no-progress", "--log-format", "json", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def said(self, field: str) -> list[Any]:
        """The values of a field in the lines of its log."""
        lines = self.log.read_text("utf-8").splitlines()
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return [record[field] for record in records if field in record]

    def waits(self) -> bool:
        """Whether it has said that another loader serves."""
        return "standing by" in self.log.read_text("utf-8")

    def reach(self, state: str, timeout: float = 120) -> mmapcache.Cache:
        """Wait for a state; the cache."""

        def there() -> bool:
            if self.process.poll() is not None:
                text = self.log.read_text("utf-8", "replace")
                raise RuntimeError(f"the loader ended:\n{text[-2000:]}")
            return bool(cache.status()["state"] == state)

        cache = mmapcache.open(str(self.path), timeout=timeout)
        until(there, timeout, f"state {state}")
        return cache

    @property
    def cpu(self) -> float:
        """Its processor seconds so far."""
        return cpu(self.process.pid)

    def once(self, timeout: float = 300) -> float:
        """Wait for its end; the seconds that its load took, by its own log."""
        if self.process.wait(timeout) != 0:
            raise RuntimeError(self.log.read_text("utf-8", "replace")[-2000:])
        return float(self.said("seconds")[-1])

    def end(self) -> None:
        """End it politely, and wait."""
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


class BareStream:
    """A bare PyMongo stream over `bench` in a process of its own, counted N events at a time."""

    def __init__(self, uri: str, count: int, *, lookup: bool) -> None:
        """Open it."""
        command = ["count", uri, "lookup" if lookup else "", str(count)]
        self._process = _part(command)
        if self._line() != "ready":
            raise RuntimeError("the bare stream did not start")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def result(self) -> tuple[float, float]:
        """When the last of N events came, and the processor seconds for them."""
        spent, at = self._line().split()
        return float(at), float(spent)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class Arrivals:
    """A bare PyMongo stream in a process of its own that notes when events came."""

    def __init__(self, uri: str) -> None:
        """Open it."""
        self._process = _part(["arrivals", uri])
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError("the bare stream did not start")

    def close(self) -> dict[int, int]:
        """End it; the nanosecond at which each came."""
        try:
            text, _ = self._process.communicate("", timeout=30)
        finally:
            self._process.kill()
            self._process.wait()
        return {int(n): int(at) for n, at in map(str.split, text.splitlines())}


def _part(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.live_parts", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class Readers:
    """Forked workers that wait for generations and note when they saw each value of the probe."""

    def __init__(self, path: Path, count: int) -> None:
        """Fork them; each opens the cache and says that it is ready."""
        fork = multiprocessing.get_context("fork")
        self._count = count
        self._memory = mmap.mmap(-1, WORKERS * (count + 1) * 8)
        self._seen = memoryview(self._memory).cast("q")
        ready = fork.Semaphore(0)
        self._processes = [
            fork.Process(target=self._read, args=(path, number, ready), daemon=True)
            for number in range(WORKERS)
        ]
        for process in self._processes:
            process.start()
        for _ in self._processes:
            if not ready.acquire(timeout=30):
                raise RuntimeError("a reader did not start")

    def _read(self, path: Path, number: int, ready: Any) -> None:
        cache = mmapcache.open(str(path))
        probe, start, known = cache[PROBE], number * (self._count + 1), 0
        generation = cache.generation
        ready.release()
        while known < self._count:
            cache.wait(generation, 1.0)
            generation = cache.generation
            value = probe[PROBE]["n"]
            now = time.monotonic_ns()
            for passed in range(known + 1, value + 1):
                self._seen[start + passed] = now
            known = max(known, value)

    def join(self, timeout: float) -> list[int]:
        """Wait until all have seen all; for each value when the last worker saw it."""
        end = time.monotonic() + timeout
        for process in self._processes:
            process.join(max(0, end - time.monotonic()))
            if process.is_alive():
                raise TimeoutError("a reader has not seen the last write")
        size = self._count + 1
        rows = [self._seen[size * n : size * (n + 1)].tolist() for n in range(WORKERS)]
        return [max(each) for each in zip(*rows, strict=True)]

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            process.kill()
            process.join()


class Peak(threading.Thread):
    """Watches what a process takes besides the cache file, which lies on tmpfs."""

    def __init__(self, pid: int) -> None:
        """Begin."""
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self.peak, self.anonymous = 0, 0
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        """Look every five milliseconds: anonymous memory, and code and data of files."""
        while not self._done.wait(0.005):
            try:
                lines = self._status.read_text("ascii", "replace").splitlines()
            except OSError:
                return
            sizes = dict(line.split(":", 1) for line in lines)
            anonymous, file = (int(sizes[n].split()[0]) << 10 for n in ("RssAnon", "RssFile"))
            self.anonymous = max(self.anonymous, anonymous)
            self.peak = max(self.peak, anonymous + file)

    def end(self) -> int:
        """Stop looking; the peak in bytes."""
        self._done.set()
        self.join()
        return self.peak


class Updates(threading.Thread):
    """A client that updates one document after the other, so many a second."""

    def __init__(self, uri: str, count: int, rate: float) -> None:
        """Begin."""
        super().__init__(daemon=True)
        self._uri, self._count, self._rate = uri, count, rate
        self.made = 0
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        """Update until the end."""
        import pymongo

        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(self._uri)
        collection = client["bench"]["settings"]
        start = time.monotonic()
        while not self._done.wait(max(0, start + self.made / self._rate - time.monotonic())):
            key = data.key(self.made * 7919 % self._count)
            collection.update_one({"_id": key}, {"$inc": {"version": 1}})
            self.made += 1
        client.close()

    def end(self) -> int:
        """Stop; how many were acknowledged."""
        self._done.set()
        self.join()
        return self.made


def _count(uri: str, lookup: bool, number: int) -> None:
    import pymongo

    # Plain dicts: with RawBSONDocument PyMongo's own stream takes twice as long.
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
    full = "updateLookup" if lookup else None
    with client["bench"].watch([] if lookup else NARROW, full_document=full) as stream:
        stream.try_next()
        print("ready", flush=True)
        while True:
            left, spent = number, time.process_time()
            for _event in stream:
                left -= 1
                if not left:
                    break
            print(time.process_time() - spent, time.monotonic(), flush=True)


def _arrivals(uri: str) -> None:
    import pymongo

    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
    seen: list[tuple[int, int]] = []

    def follow() -> None:
        with client["bench"].watch() as stream:
            print("ready", flush=True)
            for event in stream:
                now = time.monotonic_ns()
                changed = event.get("updateDescription", {}).get("updatedFields", {})
                if "n" in changed:
                    seen.append((changed["n"], now))

    threading.Thread(target=follow, daemon=True).start()
    sys.stdin.read()
    print("\n".join(f"{n} {at}" for n, at in seen), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "count":
        _count(sys.argv[2], bool(sys.argv[3]), int(sys.argv[4]))
    else:
        _arrivals(sys.argv[2])
