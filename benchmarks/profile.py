"""Where the time of a read goes: `python -m benchmarks.profile PATH [--tool perf|callgrind]`.

Runs one path in a process of its own under perf (sampled by the clock, so that it works in virtual
machines without counters) or, when perf is absent or forbidden, under valgrind's callgrind, which
counts instructions exactly but knows nothing of cache misses. Prints the costliest functions.

    hot       get of 100 keys that the front cache holds
    uniform   get of keys drawn from a million, nearly all past the front cache
    raw       get_raw of the same
    nested    a nested field of 100 hot documents
    many      get_many of 100 uniform keys
    commit    commits of one document
    load      put_raw of a million documents
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mmapcache
from benchmarks import data, peers
from benchmarks.harness import make_loop

PATHS = ("hot", "uniform", "raw", "nested", "many", "commit", "load")


def _work(path: str, file: Path, count: int, duration: float) -> None:
    """Run one path for a while; the process that is profiled."""
    source = random.Random(1)
    uniform = data.hashed([data.key(source.randrange(count)) for _ in range(50_000)])
    step = _steps(file, count, uniform)[path]
    end = time.monotonic() + duration
    while time.monotonic() < end:
        step()


def _steps(file: Path, count: int, uniform: list[str]) -> dict[str, Callable[[], object]]:
    """What to repeat for each path."""
    settings = mmapcache.open(str(file))["settings"]
    hot = uniform[:100] * 100
    groups = [uniform[start : start + 100] for start in range(0, len(uniform), 100)]
    get = make_loop("get(key)", "get")
    nested = make_loop("store[key]['limits']['qps']", "store")
    version = iter(range(1, 1 << 30))

    def commit() -> None:
        with mmapcache.Writer(str(file)) as writer:
            for number in version:
                index = source.randrange(count)
                writer.put("settings", data.key(index), data.document(index, number))
                if number % 200_000 == 0:
                    break

    def load() -> None:
        other = Path(f"{file}.load")
        peers.fill_cache(other, raw)
        other.unlink()

    source = random.Random(2)
    raw = data.documents(min(count, 200_000))
    return {
        "hot": lambda: get(hot, settings.get),
        "uniform": lambda: get(uniform, settings.get),
        "raw": lambda: get(uniform, settings.get_raw),
        "nested": lambda: nested(hot, settings),
        "many": lambda: get(groups, settings.get_many),
        "commit": commit,
        "load": load,
    }


def _perf(command: list[str], directory: Path) -> None:
    record = directory / "perf.data"
    subprocess.run(
        ["perf", "record", "-q", "-e", "cpu-clock", "-F", "4999", "-o", record, "--", *command],
        check=True,
    )
    subprocess.run(
        ["perf", "report", "-i", record, "--stdio", "--percent-limit", "1", "-s", "dso,symbol"],
        check=True,
    )


def _callgrind(command: list[str], directory: Path) -> None:
    out = directory / "callgrind.out"
    subprocess.run(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "-q", *command], check=True
    )
    subprocess.run(["callgrind_annotate", "--threshold=90", out], check=True)


def main() -> int:
    """Profile one path, or be the process that is profiled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", choices=PATHS)
    parser.add_argument("--tool", choices=("perf", "callgrind"))
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file is not None:
        _work(options.path, options.file, options.keys, options.seconds)
        return 0
    tool = options.tool or ("perf" if shutil.which("perf") else "callgrind")
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="mmapcache-bench-", dir=root) as name:
        file = Path(name) / "cache"
        peers.fill_cache(file, data.documents(options.keys))
        command = [sys.executable, "-m", "benchmarks.profile", options.path, "--file", str(file)]
        command += ["--keys", str(options.keys), "--seconds", str(options.seconds)]
        (_perf if tool == "perf" else _callgrind)(command, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
