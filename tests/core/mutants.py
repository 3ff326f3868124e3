"""Builds each deliberate fault of src/mutant.h into the core and demands that a test sees it.

    CC=gcc FLAGS=... LINK=... OWN_test_x=... mutants.py BUILD_DIR [NUMBER...]

LINK is what every test is linked with before the core, OWN_test_x what test_x has besides.
BUILD_DIR holds the objects of the faultless build; only the faulty source is compiled anew. The
tests named after the source come first (test_buddy for buddy.c), then all others. A test sees the
fault when it fails or does not end: a fault may well make a loop endless.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SRC = HERE.parent.parent / "src"
HOOK = re.compile(r"MC_MUTANT_IS\((\d+)\)(?:.*?/\* (.+?) \*/)?")
TIMEOUT_SECONDS = 60.0


def mutants() -> list[tuple[int, Path, str]]:
    """Number, source and description (the comment behind the hook) of every fault."""
    found = []
    for source in sorted(SRC.rglob("*.c")):
        for line in source.read_text().splitlines():
            for match in HOOK.finditer(line):
                found.append((int(match[1]), source, match[2] or line.strip()))
    return sorted(found)


def build(number: int, source: Path, out: Path) -> dict[str, Path]:
    """Compiles the fault in; test name -> program."""
    compiler, flags = os.environ["CC"], os.environ["FLAGS"].split()
    folder = out / f"mutant-{number}"
    folder.mkdir(exist_ok=True)
    faulty = folder / f"{source.stem}.o"
    define = f"-DMC_MUTANT={number}"
    # A fault may leave a variable unused; that is no reason not to try it.
    common = [compiler, "-std=c11", *flags, "-Wno-error", "-w", define]
    subprocess.run([*common, "-c", str(source), "-o", str(faulty)], check=True)
    own = f"test_{source.stem}"
    tests = sorted(out.glob("test_*.o"), key=lambda test: (not test.stem.startswith(own), test))
    programs = {}
    for test in tests:
        if test.stem == "test_fuzz" and source.stem in {"region", "lock"}:
            continue  # it has a region and locks of its own, in memory
        programs[test.stem] = folder / test.stem
        own_objects = os.environ.get(f"OWN_{test.stem}", "").split()
        helpers = [*own_objects, *os.environ["LINK"].split()]
        link = [compiler, *flags, str(test), str(faulty), *helpers, str(out / "libcore.a")]
        subprocess.run([*link, "-o", str(folder / test.stem), "-pthread", "-lm"], check=True)
    return programs


def run(program: Path, environment: dict[str, str]) -> tuple[int | None, str]:
    """Exit status (None: it did not end) and error output. Whatever it leaves behind is removed."""
    with subprocess.Popen(
        [str(program)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # a group of its own: its children end with it
    ) as process:
        try:
            log = process.communicate(timeout=TIMEOUT_SECONDS)[1]
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            log, status = "", None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for left in Path("/dev/shm").glob(f"mmapcache-test-{process.pid}*"):
        left.unlink()
    return status, log


def seen_by(programs: dict[str, Path]) -> str:
    """Which test saw the fault and how; empty when none did."""
    environment = {"SEED": "1", **os.environ}
    for name, program in programs.items():
        status, log = run(program, environment)
        if status is None:
            return f"{name}: did not end"
        if status != 0:
            lines = log.strip().splitlines()
            # Only the check itself, without the path of this machine.
            text = lines[-1].rsplit("/", 1)[-1] if lines else f"exit status {status}"
            return f"{name}: {text}"
    return ""


def main() -> int:
    """Prints a line per fault; 1 when one went unseen."""
    out, only = Path(sys.argv[1]), {int(number) for number in sys.argv[2:]}
    unseen = 0
    chosen = [mutant for mutant in mutants() if not only or mutant[0] in only]
    for number, source, description in chosen:
        how = seen_by(build(number, source, out))
        unseen += not how
        print(f"mutant {number} ({source.name}: {description}): {how or 'NOT SEEN'}", flush=True)
    print(f"mutants: {len(chosen) - unseen} of {len(chosen)} seen")
    return 1 if unseen or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
