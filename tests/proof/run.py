#!/usr/bin/env python3
"""tests/proof: `make proof`, all that proves the promises, in one table of cases and violations.

    tests/proof/run.py                 all of it, an hour on two cores
    tests/proof/run.py --reduced       samples of the same, under 15 minutes
    tests/proof/run.py --only crash    parts whose name contains the word
    tests/proof/run.py --jobs 1        one after the other; as many as there are cores unless told
    tests/proof/run.py --fuzz-seconds 3600
    tests/proof/run.py --write         lines go into docs/proof-results.md, too, when they are there

Each part (parts.py) is one command that can be run by hand; it is printed, and its log is kept in
build/proof/. docs/proof.md says what each part shows. Three commands lie here with it: sanitize.py,
which is a part, and soak.py and soak_loader.py, which `make soak` and `make soak-loader` run for as
long as they are told. Where a tool is missing, what needs it is named as not run, and the exit
status is 1 as for a violation.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from parts import PACKAGES, Part, c_parts, python_parts

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "proof"
RESULTS = ROOT / "docs" / "proof-results.md"
BEGIN, END = "<!-- make proof: begin -->\n", "<!-- make proof: end -->\n"
REDUCED = """--reduced takes every 6th crash point and reader pause and every 12th second crash, the
model's smaller bounds, and 90 s of each fuzzer instead of 450 s. Nothing is left out."""

Row = tuple[str, str, str, str]
HEAD: Row = ("what", "cases", "violations", "took")


def environment() -> dict[str, str]:
    """This one's, without what `make proof` was told: each part is a make of its own."""
    make = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS", "REDUCED"}
    return {name: value for name, value in os.environ.items() if name not in make}


def execute(command: tuple[str, ...], log: Path) -> tuple[int, str]:
    """Runs a command from the root; exit status, and what it said."""
    with log.open("w") as file:
        status = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    return status, log.read_text(errors="replace")


def run(part: Part) -> Row:
    """Runs one part: its line of the table."""
    missing = [tool for tool in part.tools if shutil.which(tool) is None]
    if missing:
        return part.name, "not run", f"{', '.join(missing)} is missing", "-"
    print(f"{part.name}: {' '.join(part.command)}", flush=True)
    log = BUILD / f"{re.sub(r'[^a-z0-9]+', '-', part.name.lower())}.log"
    start = time.monotonic()
    status, said = execute(part.command, log)
    took = f"{time.monotonic() - start:.0f} s"
    cases = part.cases(said)
    if status == 0 and cases is not None:
        return part.name, cases, "0", took
    print(f"{part.name}: exit status {status}, see {log.relative_to(ROOT)}", flush=True)
    return part.name, cases or "-", f"see {log.relative_to(ROOT)}", took


def prepare(parts: list[Part]) -> bool:
    """Names what is missing, and makes what parts that run at the same time would make twice."""
    tools = sorted({tool for part in parts for tool in part.tools if shutil.which(tool) is None})
    if tools:
        packages = sorted({name for tool in tools for name in PACKAGES[tool].split()})
        print(f"missing: {', '.join(tools)}: apt-get install {' '.join(packages)}")
    if not any(part.python for part in parts) or shutil.which("make") is None:
        return True
    target = Path(os.environ.get("VENV", ".venv")) / "test" / ".installed"
    log = BUILD / "environment.log"
    status, said = execute(("make", "--no-print-directory", str(target)), log)
    if status != 0:
        print("\n".join(["the environment of the tests:", *said.splitlines()[-25:]]))
    return status == 0


def write(row: Row, names: Sequence[str], results: Path) -> None:
    """Puts a line, with its day, into the table between the two marks of the page of results.

    :param names: of all parts, in the order of the table; lines of others go
    """
    before, _, rest = results.read_text().partition(BEGIN)
    table, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{results}: put the lines {BEGIN!r} and {END!r} where the table goes")
    day = time.strftime("%d %B %Y").removeprefix("0")
    there = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    lines = {cells[0].strip(): [cell.strip() for cell in cells] for cells in there[2:]}
    lines[row[0]] = [*row, day]
    kept = [lines[name] for name in names if name in lines]
    text = [
        f"{platform.machine()}, {os.cpu_count()} cores; each line is of its own day.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in [[*HEAD, "on"], ["---"] * 5, *kept]),
        "",
    ]
    results.write_text("".join([before, BEGIN, "\n".join(text), END, after]))


def main() -> int:
    """Prints the table; 1 when there is a violation or something could not be run."""
    parser = argparse.ArgumentParser(description="Prove the promises.", epilog=REDUCED)
    parser.add_argument("--reduced", action="store_true", help="samples, under 15 minutes")
    parser.add_argument(
        "--only",
        action="append",
        metavar="WORD",
        help="parts with this in their name; repeatable",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--fuzz-seconds", type=int, metavar="N", help="for each of two fuzzers")
    parser.add_argument("--write", action="store_true", help="the lines into docs/")
    arguments = parser.parse_args()
    if arguments.write and arguments.reduced:
        parser.error("--write is for what the whole parts say: leave --reduced out")
    BUILD.mkdir(parents=True, exist_ok=True)
    seconds = arguments.fuzz_seconds or (90 if arguments.reduced else 450)
    parts = [*c_parts(BUILD, arguments.reduced, seconds), *python_parts()]
    names = [part.name for part in parts]
    only = arguments.only or [""]
    parts = [part for part in parts if any(word in part.name for word in only)]
    if not parts:
        print(f"no part is called {' or '.join(only)}")
        return 2
    start = time.monotonic()
    if not prepare(parts):
        return 1
    writing = threading.Lock()

    def line_of(part: Part) -> Row:
        row = run(part)
        if arguments.write:
            with writing:
                write(row, names, RESULTS)
        return row

    with ThreadPoolExecutor(max_workers=max(1, arguments.jobs)) as pool:
        rows = [HEAD, *pool.map(line_of, parts)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for number, row in enumerate(rows):
        print(" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        if number == 0:
            print("-|-".join("-" * width for width in widths))
    failed = sum(row[2] != "0" for row in rows[1:])
    for name, _, violations, _ in rows[1:]:
        if violations.startswith("see "):  # last, where whoever looks at a failed run looks first
            said = (ROOT / violations.removeprefix("see ")).read_text(errors="replace")
            print("\n".join([f"\n{name}, the end of {violations[4:]}:", *said.splitlines()[-25:]]))
    print(
        f"proof: {len(parts) - failed} of {len(parts)} parts hold, {time.monotonic() - start:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
