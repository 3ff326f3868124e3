#!/usr/bin/env python3
"""tests/nomemory: every allocation of the binding fails, operation by operation (docs/proof.md).

    tests/nomemory/run.py [--only WORD] [--jobs N]

Compiles hook.c, runs child.py once for each operation of operations.py, and prints what was wrong
and `nomemory: N allocations failed in M operations, K of them the core's`. The exit status is 1
when something was wrong. The core's own malloc fails where hook.c can stand before it: with glibc,
and no sanitizer that stands there already. Under a sanitizer one pass is made, and leaks are not
looked for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PASSES = 20  # at most: enough to tell a leak from caches that grow now and then
PATIENCE = 400.0  # seconds for one operation


@dataclass(frozen=True)
class Outcome:
    """What became of one operation."""

    name: str
    cases: dict[str, int]  # allocations that failed, by kind
    faults: list[str]


def preloadable() -> bool:
    """Whether hook.c may stand before malloc."""
    return platform.libc_ver()[0] == "glibc" and "LD_PRELOAD" not in os.environ


def build(directory: Path) -> dict[str, str]:
    """Compiles hook.c; the environment in which it is found, and preloaded if that can be."""
    hook = directory / "hook.so"
    command = [os.environ.get("CC", "cc"), "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    command += ["-shared", "-fPIC", f"-I{sysconfig.get_paths()['include']}", str(HERE / "hook.c")]
    command += ["-DPRELOADED"] if preloadable() else []
    subprocess.run([*command, "-o", str(hook)], check=True)
    given = os.environ.get("PYTHONPATH", "")
    preload = {"LD_PRELOAD": str(hook)} if preloadable() else {}
    path = f"{directory}:{HERE.parent}:{given}"
    return {**os.environ, **preload, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}


def try_one(
    name: str,
    directory: Path,
    env: dict[str, str],
    module: str = "nomemory.operations",
    passes: int = PASSES,
) -> Outcome:
    """Runs one operation in a process of its own and a directory of its own."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        try:
            done = subprocess.run(
                [sys.executable, str(HERE / "child.py"), module, name, scratch, str(passes)],
                env=env,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(name, {}, [f"not done within {PATIENCE} s"])
        if done.returncode == 0:
            answer = json.loads(done.stdout.splitlines()[-1])
            return Outcome(name, answer["cases"], answer["faults"])
        progress = Path(scratch) / "progress"
        last = progress.read_text().strip() if progress.exists() else "the beginning"
        said = f"ended with {done.returncode} at {last}:\n{done.stdout}{done.stderr}"
        return Outcome(name, {}, [said])


def names(env: dict[str, str], word: str) -> list[str]:
    """The operations whose names contain the word."""
    script = "import json, nomemory.operations as o; print(json.dumps(list(o.OPERATIONS)))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True
    )
    return [name for name in json.loads(done.stdout) if word in name]


def run(only: str, jobs: int, share: float = 1.0, seed: int = 0) -> list[Outcome]:
    """All operations whose names contain the word, or a share of them, `jobs` at a time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="mmapcache-nomemory-", dir=memory if memory.is_dir() else None
    ) as directory:
        place = Path(directory)
        env = build(place)
        passes = 1 if "LD_PRELOAD" in os.environ else PASSES
        chosen = names(env, only)
        chosen = random.Random(seed).sample(chosen, max(1, round(len(chosen) * share)))
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            tries = [pool.submit(try_one, name, place, env, passes=passes) for name in chosen]
            return [attempt.result() for attempt in tries]


def summary(outcomes: list[Outcome]) -> str:
    """The faults, then the count."""
    lines = [f"{o.name}: {fault}" for o in outcomes for fault in o.faults]
    cases = sum(sum(outcome.cases.values()) for outcome in outcomes)
    core = sum(outcome.cases.get("core", 0) for outcome in outcomes)
    count = f"nomemory: {cases} allocations failed in {len(outcomes)} operations"
    return "\n".join([*lines, f"{count}, {core} of them the core's"])


def main() -> int:
    """Prints the summary; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description="Fail every allocation of the binding.")
    parser.add_argument("--only", default="", metavar="WORD", help="operations named so")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    arguments = parser.parse_args()
    outcomes = run(arguments.only, arguments.jobs)
    print(summary(outcomes))
    return 1 if any(outcome.faults for outcome in outcomes) or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
