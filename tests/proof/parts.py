"""The lines of the table: what is run, what it needs, and where its log says how many cases.

Every part is a command that can be run by hand; docs/proof.md says what each shows. Parts may run
at the same time, so each has a build directory of its own.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# The tools that a part may need, and the package that has each.
PACKAGES = {
    "gcc": "gcc libc6-dev",
    "make": "make",
    "gcov": "gcc",
    "clang": "clang libclang-rt-14-dev",
    "llvm-profdata": "llvm",
    "llvm-cov": "llvm",
    "spin": "spin",
    "valgrind": "valgrind",
    "musl-gcc": "musl-tools",
    "qemu-aarch64": "qemu-user",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "redis-server": "redis-server libzookeeper-mt-dev libcjson-dev",
    "java": "zookeeper",
}

# What a log says: None when it does not say how many cases there were.
Cases = Callable[[str], str | None]


@dataclass(frozen=True)
class Part:
    """One line of the table. A command that fails is a violation, and so is a log without cases."""

    name: str
    command: tuple[str, ...]
    cases: Cases
    tools: tuple[str, ...] = ("make", "gcc")
    python: bool = False  # it needs the environment of the tests


def figures(pattern: str, wording: str) -> Cases:
    """All matches of a pattern added up: `wording` has a {} for each group."""

    def read(log: str) -> str | None:
        rows = re.findall(pattern, log)
        if not rows:
            return None
        groups = [row if isinstance(row, tuple) else (row,) for row in rows]
        return wording.format(
            *(f"{sum(map(int, column)):,}" for column in zip(*groups, strict=True))
        )

    return read


def programs(log: str) -> str | None:
    """The core's test programs that ran, and what they say they had to leave out."""
    count = len(re.findall(r"^test_\w+ \(\w+\): ok", log, re.MULTILINE))
    skipped = len(re.findall(r"^test_\w+: skipped: ", log, re.MULTILINE))
    return (
        f"{count} programs" + (f", {skipped} cases skipped" if skipped else "") if count else None
    )


def tests(log: str) -> str | None:
    """What pytest's closing lines add up to."""
    passed = figures(r"\b(\d+) passed", "{} tests")(log)
    skipped = figures(r"\b(\d+) skipped\b.* in \d", ", {} skipped")(log)
    return passed + (skipped or "") if passed else None


def c_parts(build: Path, reduced: bool, fuzz_seconds: int) -> list[Part]:
    """The core's parts, without Python; the long ones first, so that none is left at the end."""

    def core(name: str, *arguments: str) -> tuple[str, ...]:
        make = ("make", "--no-print-directory", "-C", "tests/core")
        return (*make, f"BUILD={build / name}", *arguments)

    fuzz = (sys.executable, "tests/fuzz/run.py", "--build", str(build / "fuzz"))
    return [
        Part(
            "fuzzers, executions",
            # Reduced, the same each time: what a new seed finds is work, no verdict on a change.
            (*fuzz, "--seconds", str(fuzz_seconds), *(("--seed", "1") if reduced else ())),
            figures(r"fuzz \w+: (\d+) executions", "{}"),
            ("clang", "llvm-profdata", "llvm-cov"),
        ),
        Part(
            "deliberate faults in the core, seen",
            core("mutants", "mutants"),
            figures(r"mutants: (\d+) of (\d+) seen", "{} of {}"),
        ),
        Part(
            "crash points, second crashes, reader pauses",
            core("crash", "TESTS=test_crash", f"ARGS={'6 12' if reduced else '1 1'}"),
            figures(
                r"crash points: (\d+), second crashes: (\d+) in \d+ cases, reader pauses: (\d+)",
                "{} + {} + {}",
            ),
        ),
        Part(
            "model: right ones hold, wrong ones fail",
            (sys.executable, "tests/model/run.py", *(("--quick",) if reduced else ())),
            figures(r"(\d+) configurations, \d+ do not hold; (\d+) mutants", "{} + {}"),
            ("spin", "gcc"),
        ),
        Part(
            "core tests under valgrind",
            core("valgrind", "valgrind"),
            programs,
            ("make", "gcc", "valgrind"),
        ),
        Part("core tests, ASan and UBSan", core("asan", "asan"), programs),
        Part(
            "core tests on aarch64, emulated",
            core("aarch64", "aarch64"),
            programs,
            ("make", "qemu-aarch64", "aarch64-linux-gnu-gcc"),
        ),
        Part("core tests on musl", core("musl", "musl"), programs, ("make", "gcc", "musl-gcc")),
        Part(
            "lines and branches of the core",
            core("coverage", "coverage"),
            figures(r"\w+\.c: \d+ of \d+ lines, (\d+) of (\d+) branches", "{} of {} branches"),
            ("make", "gcc", "gcov"),
        ),
        Part("core tests", core("test", "test"), programs),
        Part("readers and a loader, TSan", core("tsan", "tsan"), programs),
        Part(
            "failing allocations and system calls",
            core("faults", "TESTS=test_faults"),
            figures(r"faults: (\d+) allocations failed, (\d+) system calls failed", "{} + {}"),
        ),
        Part(
            "a loader, instruction by instruction",
            core("singlestep", "singlestep"),
            figures(r"singlestep: (\d+) instructions", "{} instructions"),
        ),
    ]


def python_parts() -> list[Part]:
    """The parts that need the environment of the tests, which the Makefile makes."""

    make = ("make", "--no-print-directory")

    def pytest(name: str, *files: str) -> Part:
        # Beside another part, so without the cache that pytest keeps in the tree. EVERY: of what
        # make test takes samples, all.
        arguments = shlex.join(["-p", "no:cacheprovider", *files])
        command = ("env", "EVERY=1", *make, "pytest", f"ARGS={arguments}")
        return Part(name, command, tests, python=True)

    return [
        Part("binding under ASan and UBSan", (*make, "sanitize"), tests, python=True),
        Part("binding's threads, TSan", (*make, "sanitize", "ARGS=--threads"), tests, python=True),
        Part(
            "C files, clang's analyzer",
            (*make, "analyze"),
            figures(r"lint: (\d+) of \d+ passed", "{} files"),
            python=True,
        ),
        pytest(
            "replies of the server cut at every byte",
            *("tests/test_live_faults.py", "-k", "every_byte"),
        ),
        pytest("files truncated under readers", "tests/test_truncation.py"),
        pytest("servers, interpreters", "tests/test_servers.py", "tests/test_interpreters.py"),
        pytest("failing allocations of the binding", "tests/test_nomemory.py"),
        Part(
            "deliberate faults in the ring, seen",
            (*make, "ring-proof"),
            figures(r"faults of [a-z ]+: (\d+) of (\d+) seen", "{} of {}"),
            ("make", "gcc", "redis-server", "java"),
            python=True,
        ),
        Part(
            "rules of the architecture, one funnel",
            (sys.executable, "tools/lint_architecture.py"),
            figures(r"architecture: (\d+) rules", "{} rules"),
            (),
        ),
    ]
