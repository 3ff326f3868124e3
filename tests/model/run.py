#!/usr/bin/env python3
"""tests/model: models of the protocol. The right one must hold, every mutant must fail.

    tests/model/run.py            all configurations and mutants, a few minutes on one core
    tests/model/run.py --quick    smaller bounds, about a minute
    tests/model/run.py --x86      the mutants that the memory order of x86 hides

Needs `spin` and `gcc`. A configuration holds only if the search was exhaustive: no error, no
truncated path, no memory limit met, and SPIN said so itself. A mutant is caught only if one of
the model's own assertions fails, not by a deadlock or a limit. Exit status 0: all as it must be.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAX_DEPTH = 100_000
MEMORY_MIB = 3_500

Bounds = dict[str, int]


@dataclass(frozen=True)
class Case:
    """One search: a model, its bounds, and, for a mutant, its number."""

    name: str
    model: str
    bounds: Bounds
    mutant: int = 0
    quick: bool = True


@dataclass(frozen=True)
class Outcome:
    """What SPIN found. `violated` names the property of a failed assertion, or is empty."""

    exhaustive: bool
    errors: int
    states: int
    depth: int
    seconds: float
    violated: str
    complaint: str
    trail: tuple[str, ...]


# Small bounds that most mutants fail in; the reader's kind and the ring differ by need.
GET: Bounds = {"COMMITS": 3, "KILLS": 0, "READS": 1, "TRIES": 2}
RETRY: Bounds = {"COMMITS": 3, "KILLS": 0}
RING_2: Bounds = {"COMMITS": 3, "KILLS": 0, "RING": 2, "BLOCKS": 7}
KILLED: Bounds = {"COMMITS": 3, "KILLS": 1, "READS": 1, "TRIES": 2, "FEW_KINDS": 1}
SNAPSHOT: Bounds = {"READER": 2, "COMMITS": 3, "KILLS": 0}
FRONT: Bounds = {"READER": 3, "COMMITS": 3, "KILLS": 0}
STATUS: Bounds = {"REPORTS": 2, "KILLS": 2}

CHANGES: Bounds = {"COMMITS": 3, "KILLS": 1}

P = "protocol.pml"
C = "changes.pml"
RIGHT = (
    Case(
        "get, every interleaving",
        P,
        {
            "STEPPED": 1,
            "COMMITS": 2,
            "KILLS": 1,
            "RING": 2,
            "BLOCKS": 5,
            "READS": 1,
            "TRIES": 2,
            "FEW_KINDS": 1,
        },
    ),
    Case(
        "get, every interleaving, no kill",
        P,
        {"STEPPED": 1, "COMMITS": 3, "KILLS": 0, "RING": 2, "READS": 1, "TRIES": 2},
        quick=False,
    ),
    Case(
        "get, one kill",
        P,
        {"COMMITS": 3, "KILLS": 1, "RING": 2, "BLOCKS": 6, "READS": 1, "TRIES": 2, "FEW_KINDS": 1},
    ),
    Case(
        "get twice, one kill",
        P,
        {"COMMITS": 3, "KILLS": 1, "RING": 2, "BLOCKS": 7, "FEW_KINDS": 1},
        quick=False,
    ),
    Case(
        "get, one kill, all batches",
        P,
        {"COMMITS": 3, "KILLS": 1, "READS": 1, "TRIES": 2},
        quick=False,
    ),
    Case(
        "get, two kills",
        P,
        {"COMMITS": 3, "KILLS": 2, "LOSSY": 0, "RING": 2, "READS": 1, "TRIES": 2, "FEW_KINDS": 1},
        quick=False,
    ),
    Case(
        "get, long",
        P,
        {"COMMITS": 5, "KILLS": 0, "BLOCKS": 7, "READS": 1, "TRIES": 2, "FEW_KINDS": 1},
        quick=False,
    ),
    Case(
        "get, failed batch",
        P,
        {"COMMITS": 3, "KILLS": 0, "BLOCKS": 7, "ABORTS": 1, "READS": 1, "TRIES": 2},
    ),
    Case(
        "get, any free block",
        P,
        {
            "COMMITS": 2,
            "KILLS": 1,
            "RING": 2,
            "BLOCKS": 5,
            "READS": 1,
            "TRIES": 2,
            "FEW_KINDS": 1,
            "ANY_BLOCK": 1,
        },
    ),
    Case(
        "snapshot, one kill",
        P,
        {"READER": 2, "COMMITS": 3, "KILLS": 1, "READS": 2, "TRIES": 1, "FEW_KINDS": 1},
    ),
    Case(
        "snapshot, long",
        P,
        {"READER": 2, "COMMITS": 4, "KILLS": 0, "BLOCKS": 7, "READS": 2, "TRIES": 2},
        quick=False,
    ),
    Case("front cache", P, {"READER": 3, "COMMITS": 3, "KILLS": 0, "BLOCKS": 7}),
    Case(
        "front cache, one kill",
        P,
        {"READER": 3, "COMMITS": 3, "KILLS": 1, "RING": 2, "TRIES": 2, "FEW_KINDS": 1},
        quick=False,
    ),
    Case("status, two kills", "status.pml", {"REPORTS": 2, "KILLS": 2, "LOSSY": 0}),
    Case("status, lossy kill", "status.pml", {"REPORTS": 3, "KILLS": 1}),
    Case("status, until found", "status.pml", {"REPORTS": 4, "KILLS": 0, "LOOKS": 4}),
    Case("status, two lossy kills", "status.pml", {"REPORTS": 1, "KILLS": 2}, quick=False),
    Case("changes, lossy kill", C, {"COMMITS": 3, "KILLS": 1}),
    Case("changes, two kills", C, {"COMMITS": 3, "KILLS": 2, "LOSSY": 0}),
    Case("changes, two lossy kills", C, {"COMMITS": 3, "KILLS": 2}, quick=False),
    Case("changes, long", C, {"COMMITS": 6, "KILLS": 0, "RING": 3}, quick=False),
)

MUTANTS = (
    Case("no validation", P, GET, 1),
    Case("validation before the copy", P, GET, 2),
    Case("horizon never raised", P, GET, 3),
    Case("horizon raised after the overwrite", P, GET, 4),
    Case("no release fence after the horizon", P, GET, 5),
    Case("commit stored without release", P, GET, 6),
    Case("commit stored before the root", P, GET, 7),
    Case("root slot reused without a raise", P, RING_2, 8),
    Case("root written to the wrong slot", P, GET, 9),
    Case("blocks reused one generation early", P, GET, 10),
    Case("absent not validated", P, GET, 11),
    Case("snapshot not validated", P, SNAPSHOT, 12),
    Case("reader's acquire fence missing", P, GET, 13),
    Case("restart reuses without a raise", P, KILLED, 14),
    Case("restart keeps generation g-1's blocks", P, KILLED | {"BLOCKS": 7}, 15),
    Case("release fence before the horizon store", P, GET, 16),
    Case("horizon stored relaxed", P, KILLED, 17),
    Case("restart without a fence", P, KILLED, 18),
    Case("root slot reused one generation early", P, RING_2, 19),
    Case("commit loaded relaxed", P, GET, 20),
    Case("validation accepts horizon g+1", P, GET, 21),
    Case("batch reuses what it retires itself", P, GET, 22),
    Case("reader looks in the wrong slot", P, GET, 23),
    Case("no acquire before a retry", P, RETRY, 24),
    Case("front cache ignores the birth", P, FRONT, 25),
    Case("front cache keeps what is not valid", P, FRONT, 26),
    Case("horizon raised past the commit", P, KILLED, 27),
    Case("corrupt reported unvalidated", P, GET, 28),
    Case("block still in use is retired", P, GET, 29),
    Case("status: checksum ignored", "status.pml", STATUS, 51),
    Case("status: one slot", "status.pml", STATUS, 52),
    Case("status: turn not taken from the file", "status.pml", STATUS, 53),
    Case("status: no fence between reports", "status.pml", STATUS, 54),
    Case("status: sequence starts anew", "status.pml", STATUS, 55),
    Case("status: reader looks once", "status.pml", {"REPORTS": 3, "KILLS": 0}, 56),
    Case("changes: announced after the write", C, CHANGES, 61),
    Case("changes: no fence after the announcement", C, CHANGES, 62),
    Case("changes: reader's acquire fence missing", C, CHANGES, 63),
    Case("changes: restart without a fence", C, CHANGES, 64),
    Case("changes: validation before the copy", C, CHANGES, 65),
    Case("changes: validation by one too late", C, CHANGES, 66),
    Case("changes: no validation", C, CHANGES, 67),
    Case("changes: commit before the group", C, CHANGES, 68),
)


# They differ from the right model in a memory order or a fence only: right on x86, by its order of
# stores and loads, as far as the compiler leaves them alone.
HIDDEN_BY_X86 = (5, 6, 13, 16, 17, 18, 20, 24, 54, 62, 63, 64)

# Which property an assertion states, by a piece of its text as SPIN prints it.
PROPERTIES = (
    ("rg>=must", "P2/P3"),
    ("truth_0[rg]", "P1"),
    ("rw>=", "P1"),
    ("h<=g", "P6"),
    ("witnessed", "P4"),
    ("page>=1", "P4"),
    ("e0<=", "P4"),
    ("count==truth", "P4"),
    ("!=page)", "P5"),
    ("made[w1]", "S1"),
    ("!(late)", "S3"),
    ("best>0", "S2"),
    ("looks>", "S4"),
    ("got==truth", "L1"),
    ("!(settled)", "L2"),
    ("w>=e", "L3"),
)
# Words in pan's output that mean that some of the states were not looked at.
CUT_SHORT = (
    "max search depth too small",
    "out of memory",
    "memory usage exceeds",
    "truncated",
    "Search not completed",
    "hash-table full",
)


def violated_property(output: str) -> str:
    """The property named by the failed assertion in pan's output; empty if it is none of ours."""
    found = re.search(r"assertion violated (.*) \(at depth", output)
    if found is None:
        return ""
    text = found.group(1).replace(" ", "")
    return next((name for piece, name in PROPERTIES if piece in text), "")


def location(case: Case, number: int) -> str:
    """Name a location of the model's memory."""
    if case.model == "status.pml":
        return f"slot {number // 4} word {number % 4}"
    if case.model == C:
        commits = case.bounds["COMMITS"]
        if number < 2:
            return ("commit", "written")[number]
        is_root = number < 3 + commits
        return f"root {number - 2}" if is_root else f"slot {number - 3 - commits}"
    ring = case.bounds.get("RING", 3)
    if number < 2:
        return ("commit", "horizon")[number]
    if number < 2 + 2 * ring:
        return f"root {(number - 2) // 2} {('page', 'state')[number % 2]}"
    return f"block {number - 1 - 2 * ring}"


def explain(case: Case, line: str) -> str:
    """One line of a trail in words."""
    word, *numbers = line.split()
    values = [int(number) for number in numbers]
    match word:
        case "store":
            return f"loader   {location(case, values[0])} = {values[1]}"
        case "lost":
            return f"  lost   {location(case, values[0])} = {values[1]}"
        case "load":
            return f"reader                         {location(case, values[0])} -> {values[1]}"
        case "open":
            return f"loader opens: commit {values[0]}, horizon {values[1]}"
        case "valid" | "invalid":
            return f"reader                         {word} for generation {values[0]}"
        case _:
            return word


def command(*arguments: str, cwd: Path) -> str:
    """Run a command; its output. RuntimeError with the output if it fails."""
    done = subprocess.run(arguments, cwd=cwd, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def search(case: Case) -> Outcome:
    """Build and run one search in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="mmapcache-model-") as name:
        cwd = Path(name)
        for model in HERE.glob("*.pml"):
            shutil.copy(model, cwd)
        defines = [f"-D{key}={value}" for key, value in case.bounds.items()]
        defines.append(f"-DMUTANT={case.mutant}")
        command("spin", "-a", *defines, case.model, cwd=cwd)
        optimise = "-O0" if case.mutant else "-O1" if case.quick else "-O2"
        command(
            "gcc",
            optimise,
            "-w",
            "-DSAFETY",
            "-DCOLLAPSE",
            f"-DMEMLIM={MEMORY_MIB}",
            "-o",
            "pan",
            "pan.c",
            cwd=cwd,
        )
        start = time.monotonic()
        done = subprocess.run(
            ["./pan", f"-m{MAX_DEPTH}", "-w22"],
            cwd=cwd,
            text=True,
            capture_output=True,
            check=False,
        )
        seconds = time.monotonic() - start
        output = done.stdout + done.stderr
        errors = re.search(r"errors: (\d+)", output)
        states = re.search(r"(\d+(?:\.\d+)?(?:e\+\d+)?) states, stored", output)
        depth = re.search(r"depth reached (\d+)", output)
        if errors is None or states is None or depth is None:
            raise RuntimeError(f"{case.name}: pan said\n{output}")
        trail: list[str] = []
        if int(errors.group(1)) > 0:
            replay = subprocess.run(
                ["spin", "-t", *defines, case.model],
                cwd=cwd,
                text=True,
                capture_output=True,
                check=False,
            ).stdout
            trail = [
                explain(case, line.strip()[2:])
                for line in replay.splitlines()
                if line.strip().startswith("@ ")
            ]
        complaint = re.search(r"^pan:\d+: (.*)$", output, re.MULTILINE)
        return Outcome(
            exhaustive=done.returncode == 0
            and not any(word in output for word in CUT_SHORT)
            and "Full statespace search" in output
            and int(depth.group(1)) < MAX_DEPTH,
            errors=int(errors.group(1)),
            states=int(float(states.group(1))),
            depth=int(depth.group(1)),
            seconds=seconds,
            violated=violated_property(output),
            complaint=complaint.group(1) if complaint else "",
            trail=tuple(trail),
        )


def show_trail(outcome: Outcome) -> None:
    """Print what led to an error."""
    print(f"    {outcome.complaint}")
    for line in outcome.trail:
        print(f"    {line}")


def run_right(cases: list[Case]) -> int:
    """Search the right model in every configuration; the number that do not hold."""
    failed = 0
    print(f"{'configuration':44} {'states':>11} {'depth':>6} {'s':>6}  result")
    for case in cases:
        outcome = search(case)
        holds = outcome.exhaustive and outcome.errors == 0
        failed += not holds
        verdict = "holds" if holds else "FAILS" if outcome.errors else "NOT EXHAUSTIVE"
        print(
            f"{case.name:44} {outcome.states:11,} {outcome.depth:6} {outcome.seconds:6.1f}  "
            f"{verdict}",
            flush=True,
        )
        if not holds:
            show_trail(outcome)
    return failed


def run_mutants(cases: list[Case], trails: bool) -> int:
    """Search every mutant; the number that were not caught."""
    missed = 0
    print(f"\n{'mutant':44} {'states':>11} {'depth':>6} {'s':>6}  result")
    for case in cases:
        outcome = search(case)
        caught = outcome.errors > 0 and outcome.violated != ""
        missed += not caught
        verdict = f"caught by {outcome.violated}" if caught else "NOT CAUGHT"
        print(
            f"{case.mutant:3} {case.name:40} {outcome.states:11,} {outcome.depth:6} "
            f"{outcome.seconds:6.1f}  {verdict}",
            flush=True,
        )
        if trails or not caught:
            show_trail(outcome)
    return missed


def run_hidden() -> int:
    """Show that x86's memory hides some mutants; the number of them that it does not hide."""
    cases = [
        Case(case.name, case.model, case.bounds | {"TSO": 1}, case.mutant)
        for case in MUTANTS
        if case.mutant in HIDDEN_BY_X86
    ]
    return run_right(cases)


def main() -> int:
    """Run what the command line asks for; 0 if all is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the smaller configurations only")
    parser.add_argument("--x86", action="store_true", help="mutants that x86's memory hides")
    parser.add_argument("--mutant", type=int, help="this mutant only, with its trail")
    options = parser.parse_args()
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            print(f"{tool} is missing (Debian: apt-get install {tool})", file=sys.stderr)
            return 2
    if options.mutant is not None:
        return run_mutants([case for case in MUTANTS if case.mutant == options.mutant], True)
    if options.x86:
        return 1 if run_hidden() else 0
    start = time.monotonic()
    right = [case for case in RIGHT if case.quick or not options.quick]
    failed = run_right(right)
    missed = run_mutants(list(MUTANTS), False)
    print(
        f"\n{len(right)} configurations, {failed} do not hold; {len(MUTANTS)} mutants, "
        f"{missed} not caught; {time.monotonic() - start:.0f} s"
    )
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
