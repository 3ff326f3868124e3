"""Builds each deliberate fault of src/mutant.h into the core and demands that a test sees it.

    CC=gcc FLAGS=... LINK=... OWN_test_x=... mutants.py BUILD_DIR [NUMBER...]
    WRITE=1 ... mutants.py BUILD_DIR       writes mutants.txt anew

LINK is what every test is linked with before the core, OWN_test_x what test_x has besides.
BUILD_DIR holds the objects of the faultless build; only the faulty source is compiled anew, and a
test is linked with it when its turn comes. First comes the test that mutants.txt names, which saw
the fault before; then those named after the source (test_buddy for buddy.c), then all others. So a
line that is missing or wrong there costs time, and hides nothing. A test sees the fault when it
fails or takes ten times as long as without, and ten seconds: a fault may well make a loop endless.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
SRC = HERE.parent.parent / "src"
HOOK = re.compile(r"MC_MUTANT_IS\((\d+)\)(?:.*?/\* (.+?) \*/)?")
TIMEOUT_SECONDS = 300.0  # without a fault, on a machine that has other work
SEEN_BY = HERE / "mutants.txt"  # number, name of a test
HEADER = "# Which test sees which fault: where mutants.py begins. Written by WRITE=1, see there."


def mutants() -> list[tuple[int, Path, str]]:
    """Number, source and description (the comment behind its first hook) of every fault."""
    found: dict[int, tuple[int, Path, str]] = {}
    for source in sorted(SRC.rglob("*.c")):
        if source.parent.name in {"binding", "document"}:
            continue  # tests/threads has these
        for line in source.read_text().splitlines():
            for match in HOOK.finditer(line):
                number = int(match[1])
                first = found.setdefault(number, (number, source, match[2] or line.strip()))
                if first[1] != source:
                    raise SystemExit(f"mutant {number} is in {first[1].name} and {source.name}")
    return sorted(found.values())


def remembered() -> dict[int, str]:
    """The test that saw each fault when the list was written."""
    rows = [line.split() for line in SEEN_BY.read_text().splitlines() if line[:1] != "#"]
    return {int(number): test for number, test in rows}


def order(source: Path, first: str | None, out: Path) -> list[str]:
    """The tests that may see a fault in this source, the likely ones first."""
    tests = [test.stem for test in out.glob("test_*.o")]
    if source.stem in {"region", "lock"}:
        tests.remove("test_fuzz")  # it has a region and locks of its own, in memory
    own = f"test_{source.stem}"
    return sorted(tests, key=lambda test: (test != first, not test.startswith(own), test))


def compile_fault(number: int, source: Path, folder: Path) -> Path:
    """The object of the source with the fault in it."""
    faulty = folder / f"{source.stem}.o"
    # A fault may leave a variable unused; that is no reason not to try it.
    common = [os.environ["CC"], "-std=c11", *os.environ["FLAGS"].split(), "-Wno-error", "-w"]
    subprocess.run(
        [*common, f"-DMC_MUTANT={number}", "-c", str(source), "-o", str(faulty)], check=True
    )
    return faulty


def link(test: str, faulty: Path, out: Path) -> Path:
    """The test's program, with this object in the place of the library's."""
    program = faulty.parent / test
    helpers = [*os.environ.get(f"OWN_{test}", "").split(), *os.environ["LINK"].split()]
    objects = [str(out / f"{test}.o"), str(faulty), *helpers, str(out / "libcore.a")]
    command = [os.environ["CC"], *os.environ["FLAGS"].split(), *objects, "-o", str(program)]
    subprocess.run([*command, "-pthread", "-lm"], check=True)
    return program


def run(program: Path, patience: float) -> tuple[int | None, str]:
    """Exit status (None: it did not end) and error output. Whatever it leaves behind is removed."""
    with subprocess.Popen(
        [str(program)],
        env={"SEED": "1", **os.environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # a group of its own: its children end with it
    ) as process:
        try:
            log = process.communicate(timeout=patience)[1]
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            log, status = "", None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    name = f"mmapcache-test-{process.pid}"
    for left in Path("/dev/shm").glob(f"{name}*"):
        if re.fullmatch(rf"{name}(\D.*)?", left.name):  # not of a test with a longer number
            left.rmdir() if left.is_dir() else left.unlink()
    return status, log


@cache
def patience_with(program: Path) -> float:
    """Seconds until a test with a fault in it counts as endless; without one it has to pass."""
    start = time.monotonic()
    status, log = run(program, TIMEOUT_SECONDS)
    if status != 0:
        raise SystemExit(f"{program.name} fails without a fault:\n{log}")
    return 10 + 10 * (time.monotonic() - start)


def seen_by(number: int, source: Path, first: str | None, out: Path) -> tuple[str | None, str]:
    """Which test saw the fault (None: none did) and how."""
    with tempfile.TemporaryDirectory(prefix=f"mutant-{number}-", dir=out) as folder:
        faulty = compile_fault(number, source, Path(folder))
        for test in order(source, first, out):
            status, log = run(link(test, faulty, out), patience_with(out / test))
            if status is None:
                return test, "did not end"
            if status != 0:
                lines = log.strip().splitlines()
                # Only the check itself, without the path of this machine.
                return test, lines[-1].rsplit("/", 1)[-1] if lines else f"exit status {status}"
    return None, "NOT SEEN"


def main() -> int:
    """Prints a line per fault; 1 when one went unseen."""
    out, only = Path(sys.argv[1]), {int(number) for number in sys.argv[2:]}
    first, seen = remembered(), {}
    chosen = [mutant for mutant in mutants() if not only or mutant[0] in only]
    for number, source, description in chosen:
        start = time.monotonic()
        test, how = seen_by(number, source, first.get(number), out)
        took = time.monotonic() - start
        if test is not None:
            seen[number] = test
            how = f"{test}: {how}"
        print(f"mutant {number} ({source.name}: {description}): {how} ({took:.1f} s)", flush=True)
    print(f"mutants: {len(seen)} of {len(chosen)} seen")
    if os.environ.get("WRITE"):
        rows = [f"{number} {test}" for number, test in sorted({**first, **seen}.items())]
        SEEN_BY.write_text("\n".join([HEADER, *rows, ""]))
    return 1 if len(seen) < len(chosen) or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
