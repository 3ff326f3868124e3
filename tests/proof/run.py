#!/usr/bin/env python3
"""`make proof`: everything that proves the core's promises, one table: what, cases, violations.

    tests/proof/run.py                 all of it, about 40 minutes on two cores
    tests/proof/run.py --reduced       samples of the same, under 15 minutes
    tests/proof/run.py --only crash    parts whose name contains the word
    tests/proof/run.py --fuzz-seconds 3600

Each part runs one command that can be run by hand, prints it, and keeps its log in build/proof/.
docs/proof.md says what each part shows. Needs clang with its runtime, llvm, spin and gcc; without
one of them its parts are named as not run, and the exit status is 1 as for a violation.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDS = "apt-get install clang libclang-rt-14-dev llvm spin gcc make"


@dataclass(frozen=True)
class Part:
    """One line of the table. `cases` reads its log; a command that fails is a violation."""

    name: str
    command: tuple[str, ...]
    tools: tuple[str, ...]
    cases: Callable[[str], str]


def figures(pattern: str, wording: str) -> Callable[[str], str]:
    """What a log says, all matches of a pattern added up: `wording` has a {} for each group."""

    def read(log: str) -> str:
        rows = re.findall(pattern, log)
        if not rows:
            return "-"
        groups = [row if isinstance(row, tuple) else (row,) for row in rows]
        return wording.format(
            *(f"{sum(map(int, column)):,}" for column in zip(*groups, strict=True))
        )

    return read


def counted(pattern: str, wording: str) -> Callable[[str], str]:
    """How often a log has a line of this form."""
    return lambda log: wording.format(len(re.findall(pattern, log, re.MULTILINE)))


def parts(build: Path, reduced: bool, fuzz_seconds: int) -> list[Part]:
    """The table's lines, in the order of how fast they fail."""
    make = ("make", "--no-print-directory", "-C", "tests/core", f"BUILD={build / 'core'}")
    crash = [str(build / "core" / "test" / "test_crash"), *(("6", "12") if reduced else ("1", "1"))]
    model = (sys.executable, "tests/model/run.py", *(("--quick",) if reduced else ()))
    fuzz = (sys.executable, "tests/fuzz/run.py", "--build", str(build / "fuzz"), "--seconds")
    tests = counted(r"^test_\w+ \(\w+\): ok", "{} programs")
    return [
        Part("core tests", (*make, "test"), ("gcc",), tests),
        Part(
            "crash points, second crashes, reader pauses",
            tuple(crash),
            ("gcc",),
            figures(
                r"crash points: (\d+), second crashes: (\d+) in \d+ cases, reader pauses: (\d+)",
                "{} + {} + {}",
            ),
        ),
        Part(
            "failing allocations, failing system calls",
            (str(build / "core" / "test" / "test_faults"),),
            ("gcc",),
            figures(
                r"faults: (\d+) allocations failed, (\d+) system calls failed, 0 violations",
                "{} + {}",
            ),
        ),
        Part("core tests, ASan and UBSan", (*make, "asan"), ("gcc",), tests),
        Part("readers and a loader, TSan", (*make, "tsan"), ("gcc",), tests),
        Part(
            "deliberate faults in the core, seen",
            (*make, "mutants"),
            ("gcc",),
            figures(r"mutants: (\d+) of (\d+) seen", "{} of {}"),
        ),
        Part(
            "lines and branches of the core",
            (*make, "coverage"),
            ("gcc", "gcov"),
            figures(r"\w+\.c: \d+ of \d+ lines, (\d+) of (\d+) branches", "{} of {} branches"),
        ),
        Part(
            "fuzzers, executions",
            (*fuzz, str(fuzz_seconds)),
            ("clang", "llvm-profdata", "llvm-cov"),
            figures(r"fuzz \w+: (\d+) executions", "{}"),
        ),
        Part(
            "model: right ones hold, wrong ones fail",
            model,
            ("spin", "gcc"),
            figures(r"(\d+) configurations, \d+ do not hold; (\d+) mutants", "{} + {}"),
        ),
    ]


def run(part: Part, build: Path) -> tuple[str, str]:
    """Runs one part; (cases, violations)."""
    missing = [tool for tool in part.tools if shutil.which(tool) is None]
    if missing:
        print(f"{part.name}: not run, {', '.join(missing)} is missing: {NEEDS}")
        return "not run", f"{missing[0]} is missing"
    print(f"{part.name}: {' '.join(part.command)}", flush=True)
    path = build / f"{re.sub(r'[^a-z]+', '-', part.name.lower())}.log"
    with path.open("w") as log:
        status = subprocess.run(
            part.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode
    text = path.read_text(errors="replace")
    if status != 0:
        print("\n".join(text.splitlines()[-25:]))
    return part.cases(text), "0" if status == 0 else f"see {path.relative_to(ROOT)}"


def main() -> int:
    """Prints the table; 1 when there is a violation or something could not be run."""
    parser = argparse.ArgumentParser(description="Prove the core's promises.")
    parser.add_argument("--reduced", action="store_true", help="samples, under 15 minutes")
    parser.add_argument("--only", default="", metavar="WORD", help="parts with this in their name")
    parser.add_argument("--fuzz-seconds", type=int, metavar="N", help="for each of two fuzzers")
    arguments = parser.parse_args()
    build = ROOT / "build" / "proof"
    build.mkdir(parents=True, exist_ok=True)
    seconds = arguments.fuzz_seconds or (90 if arguments.reduced else 450)
    rows = []
    for part in parts(build, arguments.reduced, seconds):
        if arguments.only in part.name:
            start = time.monotonic()
            rows.append((part.name, *run(part, build), f"{time.monotonic() - start:.0f} s"))
    if not rows:
        print(f"no part is called {arguments.only!r}")
        return 2
    rows.insert(0, ("what", "cases", "violations", "took"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for number, row in enumerate(rows):
        print(" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        if number == 0:
            print("-|-".join("-" * width for width in widths))
    return 0 if all(row[2] == "0" for row in rows[1:]) else 1


if __name__ == "__main__":
    sys.exit(main())
