#!/usr/bin/env python3
"""Fuzz the core with libFuzzer: hostile cache files and hostile BSON.

    tests/fuzz/run.py [--seconds N] [--only image|bson] [--build DIR]

Builds with clang's AddressSanitizer, UndefinedBehaviorSanitizer and coverage, makes a starting
corpus of real images, runs each target for N seconds (300 unless told) on one core, and prints
executions, findings, and line and branch coverage of the sources that each target is about. What
it finds is left in DIR/findings; an input that found something belongs into regressions/, where
tests/core/test_fuzz.c replays it for ever.

Needs clang with its runtime and llvm: apt-get install clang libclang-rt-14-dev llvm
"""

from __future__ import annotations

import argparse
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SRC = ROOT / "src"
TARGETS = {"image": ("store.c", "table.c", "check.c", "writer.c"), "bson": ("bson.c", "key.c")}
LONGEST_BYTES = {"image": 65536, "bson": 4096}
NEEDS = "apt-get install clang libclang-rt-14-dev llvm"


def core_sources() -> list[Path]:
    """The sources that do not reach Python.h."""
    chosen = []
    for source in sorted(SRC.glob("*.c")):
        deps = subprocess.run(
            ["clang", "-M", "-std=c11", str(source)], capture_output=True, text=True, check=False
        )
        if "Python.h" not in deps.stdout + deps.stderr:
            chosen.append(source)
    return chosen


def build(out: Path, names: list[str]) -> None:
    """Compiles the core once and links the corpus maker and each target."""
    flags = ["-O1", "-g", "-fno-strict-aliasing", f"-I{SRC}", f"-I{HERE}"]
    flags += ["-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
    sanitize = "-fsanitize=fuzzer-no-link,address,undefined"
    coverage = ["-fprofile-instr-generate", "-fcoverage-mapping"]
    objects = []
    for source in core_sources():
        objects.append(str(out / f"{source.stem}.o"))
        command = ["clang", "-std=c11", *flags, sanitize, *coverage, "-c", str(source)]
        subprocess.run([*command, "-o", objects[-1]], check=True)
    programs = [("make_corpus", "make_corpus.c", "-fsanitize=address,undefined")]
    programs += [(f"fuzz_{n}", f"fuzz_{n}.c", "-fsanitize=fuzzer,address,undefined") for n in names]
    for program, source_name, kind in programs:
        command = ["clang", "-std=gnu11", *flags, kind, *coverage, str(HERE / source_name)]
        subprocess.run([*command, *objects, "-pthread", "-o", str(out / program)], check=True)


def bson_corpus() -> list[bytes]:
    """Small documents of every type."""

    def document(*elements: bytes) -> bytes:
        body = b"".join(elements) + b"\0"
        return struct.pack("<i", len(body) + 4) + body

    text = struct.pack("<i", 3) + b"ab\0"
    inner = document(b"\x100\0" + struct.pack("<i", 7))
    scope = text + inner
    scoped = struct.pack("<i", len(scope) + 4) + scope
    values = [
        (1, struct.pack("<d", 1.5)), (2, text), (3, inner), (4, inner),
        (5, struct.pack("<i", 2) + b"\x00xy"), (5, struct.pack("<i", 6) + b"\x02\2\0\0\0xy"),
        (6, b""), (7, b"objectid0123"), (8, b"\1"), (9, struct.pack("<q", 12345)), (10, b""),
        (11, b"a\0i\0"), (12, text + b"objectid0123"), (13, text), (14, text), (15, scoped),
        (16, struct.pack("<i", -1)), (17, struct.pack("<Q", 5)), (18, struct.pack("<q", 9)),
        (19, bytes(14) + b"\x40\x30"), (127, b""), (255, b""),
    ]  # fmt: skip
    elements = [bytes([kind]) + b"_id\0" + value for kind, value in values]
    return [document(element) for element in elements] + [document(*elements), document()]


def coverage_of(out: Path, name: str) -> list[str]:
    """One line per source: lines and branches executed while the corpus is run once more."""
    raw, profile = out / f"{name}.profraw", out / f"{name}.profdata"
    program = out / f"fuzz_{name}"
    subprocess.run(
        [str(program), "-runs=0", str(out / "corpus" / name)],
        env={"LLVM_PROFILE_FILE": str(raw), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    subprocess.run(["llvm-profdata", "merge", "-sparse", str(raw), "-o", str(profile)], check=True)
    report = subprocess.run(
        ["llvm-cov", "report", str(program), f"-instr-profile={profile}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = []
    for row in report.splitlines():
        cells = row.split()
        if cells and Path(cells[0]).name in TARGETS[name]:
            figures = [cell for cell in cells if cell.endswith("%")]
            line, branch = figures[2], figures[3] if len(figures) > 3 else "-"
            lines.append(f"  {Path(cells[0]).name:12} lines {line:>7}, branches {branch:>7}")
    return lines


def fuzz(out: Path, name: str, seconds: int) -> tuple[int, int]:
    """Runs one target; (executions, findings)."""
    findings, corpus = out / "findings", out / "corpus" / name
    findings.mkdir(exist_ok=True)
    before = set(findings.iterdir())
    command = [str(out / f"fuzz_{name}"), str(corpus), str(HERE / "regressions" / name)]
    command += [f"-max_total_time={seconds}", f"-max_len={LONGEST_BYTES[name]}", "-timeout=10"]
    command += [
        "-print_final_stats=1",
        "-rss_limit_mb=1024",
        f"-artifact_prefix={findings}/{name}-",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        log = process.communicate()[1]
    # A target that found something had no time to clean up, and tmpfs is memory.
    for left in Path("/dev/shm").glob(f"mmapcache-test-fuzz-{process.pid}*"):
        left.unlink()
    match = re.search(r"number_of_executed_units:\s+(\d+)", log)
    found = len(set(findings.iterdir()) - before)
    if process.returncode != 0 or not match:
        print(log[-3000:])
        found = max(found, 1)
    return int(match[1]) if match else 0, found


def main() -> int:
    """Prints a line per target; 1 when something was found."""
    parser = argparse.ArgumentParser(description="Fuzz the core of mmapcache.")
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--only", choices=sorted(TARGETS))
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "fuzz")
    arguments = parser.parse_args()
    for tool in ("clang", "llvm-profdata", "llvm-cov"):
        if shutil.which(tool) is None:
            print(f"the fuzzers need {tool}: {NEEDS}", file=sys.stderr)
            return 2
    out, names = arguments.build, [arguments.only] if arguments.only else sorted(TARGETS)
    for name in names:
        (out / "corpus" / name).mkdir(parents=True, exist_ok=True)
        (HERE / "regressions" / name).mkdir(parents=True, exist_ok=True)
    try:
        build(out, names)
    except subprocess.CalledProcessError as error:
        print(f"the fuzzers do not build ({error}); is all of this installed? {NEEDS}")
        return 2
    if "image" in names:
        subprocess.run([str(out / "make_corpus"), str(out / "corpus" / "image")], check=True)
    for index, data in enumerate(bson_corpus()):
        if "bson" in names:
            (out / "corpus" / "bson" / f"start-{index}").write_bytes(data)
    total = 0
    for name in names:
        executions, found = fuzz(out, name, arguments.seconds)
        total += found
        print(f"fuzz {name}: {executions} executions in {arguments.seconds} s, {found} findings")
        print("\n".join(coverage_of(out, name)), flush=True)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
