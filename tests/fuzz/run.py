#!/usr/bin/env python3
"""tests/fuzz: the core under libFuzzer, fed with hostile cache files and hostile BSON.

    tests/fuzz/run.py [--seconds N] [--only image|bson] [--seed N] [--build DIR]

Builds with clang's AddressSanitizer and UndefinedBehaviorSanitizer, makes a starting corpus of real
images, runs each target for N seconds (300 unless told) on one core, and prints executions,
findings, and line and branch coverage of the sources that each target is about, as a build without
sanitizers measures it on the corpus. The corpus stays in DIR/corpus, and the next run begins with
it. What it finds is left in DIR/findings; an input that found something belongs into regressions/,
where tests/core/test_fuzz.c replays it for ever.

Needs clang with its runtime and llvm: apt-get install clang libclang-rt-14-dev llvm
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SRC = ROOT / "src"
SUPPORT = (HERE / "support", HERE.parent / "core" / "support")
TARGETS = {
    "image": (
        *(
            "store.c",
            "table.c",
            "table_page.c",
            "table_write.c",
            "bson.c",
            "bson_validate.c",
            "key.c",
            "check.c",
            "writer.c",
        ),
        *("make_room.c", "batch.c", "collections.c", "publish.c", "index.c", "indexes.c"),
    ),
    "bson": ("bson.c", "bson_validate.c", "key.c"),
}
# What every program here is linked with; memory_region.c stands in for the core's region.c.
SHARED = (*sorted(SUPPORT[0].glob("*.c")), SUPPORT[1] / "harness.c")
LONGEST_BYTES = {"image": 65536, "bson": 4096}
NEEDS = "apt-get install clang libclang-rt-14-dev llvm"

# Hostile bytes get to the allocator as offsets only, so its branches tell the fuzzer nothing; and
# mc_check counts free blocks in buddy_check.c, which reads the allocator's own memory.
UNGUIDED, PLAIN = {"buddy", "buddy_query", "buddy_check", "hash"}, {"buddy_check"}
# Constants that are compared with are worth knowing where no mutator knows the format.
COMPARING = {"bson", "bson_validate", "key"}
# Memory that was freed is used again soon: fresh pages would cost more than all of the core does.
ASAN_OPTIONS = (
    "quarantine_size_mb=4:allocator_release_to_os_interval_ms=-1:max_malloc_fill_size=64"
    ":malloc_context_size=10"
)


def core_sources() -> list[Path]:
    """The sources that build without Python."""
    command = [sys.executable, str(ROOT / "tools" / "lint_architecture.py"), "--core"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in listed.splitlines()]


def instruments(stem: str) -> list[str]:
    """How one source of the core is compiled for the fuzzer."""
    if stem in PLAIN:
        return []
    if stem in UNGUIDED:
        return ["-fsanitize=address,undefined"]
    traced = [] if stem in COMPARING else ["-fno-sanitize-coverage=trace-cmp"]
    return ["-fsanitize=fuzzer-no-link,address,undefined", *traced]


def build(out: Path, names: list[str]) -> None:
    """Compiles the core twice, to fuzz and to measure, and links the corpus maker and the targets.

    The core is a library, so that a program may bring its own operating system (memory_region.c).
    """
    flags = ["-O2", "-g", "-fno-strict-aliasing", *(f"-I{folder}" for folder in (SRC, *SUPPORT))]
    flags += ["-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-DMC_GROWTH_MAX=2097152u"]
    profile = ["-fprofile-instr-generate", "-fcoverage-mapping"]
    programs = [("make_corpus", ["-fsanitize=address,undefined"])]
    programs += [(f"fuzz_{name}", ["-fsanitize=fuzzer,address,undefined"]) for name in names]
    measured = [(f"fuzz_{name}", ["-fsanitize=fuzzer", *profile]) for name in names]
    for folder, own, linked in (
        (out / "fuzz", instruments, programs),
        (out / "measure", lambda _: profile, measured),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / "libcore.a"
        library.unlink(missing_ok=True)
        objects = []
        for source in core_sources():
            objects.append(str(folder / f"{source.stem}.o"))
            command = ["clang", "-std=c11", *flags, *own(source.stem), "-c", str(source)]
            subprocess.run([*command, "-o", objects[-1]], check=True)
        subprocess.run(["ar", "rcs", str(library), *objects], check=True)
        for program, kind in linked:
            command = ["clang", "-std=gnu11", *flags, *kind, str(HERE / f"{program}.c")]
            command += [*map(str, SHARED), str(library), "-pthread", "-o", str(folder / program)]
            subprocess.run(command, check=True)


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
    program = out / "measure" / f"fuzz_{name}"
    subprocess.run(
        [str(program), "-runs=0", str(out / "corpus" / name), str(HERE / "regressions" / name)],
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
            lines.append(f"  {Path(cells[0]).name:13} lines {line:>7}, branches {branch:>7}")
    return lines


def fuzz(out: Path, name: str, seconds: int, seed: int) -> tuple[int, int]:
    """Runs one target; (executions, findings)."""
    findings, corpus = out / "findings", out / "corpus" / name
    findings.mkdir(exist_ok=True)
    before = set(findings.iterdir())
    command = [str(out / "fuzz" / f"fuzz_{name}"), str(corpus), str(HERE / "regressions" / name)]
    command += [f"-max_total_time={seconds}", f"-max_len={LONGEST_BYTES[name]}", "-timeout=10"]
    command += [
        f"-seed={seed}",
        "-print_final_stats=1",
        "-rss_limit_mb=1024",
        f"-artifact_prefix={findings}/{name}-",
    ]
    process = subprocess.run(
        command,
        env={"ASAN_OPTIONS": ASAN_OPTIONS, "PATH": "/usr/bin:/bin"},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    match = re.search(r"number_of_executed_units:\s+(\d+)", process.stderr)
    found = len(set(findings.iterdir()) - before)
    if process.returncode != 0 or not match:
        print(process.stderr[-3000:])
        found = max(found, 1)
    return int(match[1]) if match else 0, found


def main() -> int:
    """Prints a line per target; 1 when something was found."""
    parser = argparse.ArgumentParser(description="Fuzz the core of mmapcache.")
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--only", choices=sorted(TARGETS))
    parser.add_argument(
        "--seed", type=int, help="from 1; on a new corpus the same inputs as the last time"
    )
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
        subprocess.run(
            [str(out / "fuzz" / "make_corpus"), str(out / "corpus" / "image")], check=True
        )
    for index, data in enumerate(bson_corpus()):
        if "bson" in names:
            (out / "corpus" / "bson" / f"start-{index}").write_bytes(data)
    seed = arguments.seed or random.SystemRandom().randrange(1, 1 << 31)
    print(f"fuzz: --seed {seed}", flush=True)
    total = 0
    for name in names:
        executions, found = fuzz(out, name, arguments.seconds, seed)
        total += found
        rate = executions // max(arguments.seconds, 1)
        print(f"fuzz {name}: {executions} executions, {rate} a second, {found} findings")
        print("\n".join(coverage_of(out, name)), flush=True)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
