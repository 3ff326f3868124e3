"""`python -m benchmarks`: run the groups, print one table, write one JSON file.

Each group runs in a child process, so that one group's garbage is not another's page faults and a
crash costs one group only. The scratch directory on /dev/shm is this process's: it is removed at
the end, on an error and on Ctrl-C; one left behind by a killed run is removed by the next.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from benchmarks import harness
from benchmarks.harness import Context, Row
from benchmarks.report import dumps

GROUPS = (
    "reads",
    "peers",
    "documents",
    "commits",
    "loads",
    "live",
    "space",
    "indexes",
    "memory",
    "interference",
    "backings",
    "ring",
)


APART = ("live", "ring")  # take long and have tables of their own: run when they are named
MODULES = {"peers": "rivals"}  # of a group that is not called like its module


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under 3 minutes")
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help=f"a group ({', '.join(GROUPS)}) or one benchmark as GROUP.NAME; repeatable",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write SVG plots there")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--group", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def benches(group: str) -> dict[str, harness.Bench]:
    """The benchmarks of a group by their full names."""
    module = importlib.import_module(f"benchmarks.{MODULES.get(group, group)}")
    found: tuple[harness.Bench, ...] = module.BENCHES
    return {f"{group}.{bench.__name__}": bench for bench in found}


def _wanted(name: str, only: list[str] | None) -> bool:
    if only is None:
        return name.split(".")[0] not in APART
    return any(name == each or name.startswith(each + ".") for each in only)


def _run_group(options: argparse.Namespace) -> int:
    """In the child: run one group, one JSON line per row on standard output."""
    context = Context(options.scratch, options.quick)
    failed = 0
    for name, bench in benches(options.group).items():
        if not _wanted(name, options.only):
            continue
        start = time.perf_counter()
        try:
            for row in bench(context):
                print(json.dumps(row.as_dict()), flush=True)
        except Exception as error:
            failed += 1
            text = f"{name}: {type(error).__name__}: {error}"
            print(json.dumps({"failed": text}), flush=True)
            if os.environ.get("BENCH_TRACEBACK"):
                raise
        print(f"  {name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return 1 if failed else 0


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A scratch directory on tmpfs, gone afterwards."""
    root = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    harness.sweep(root)
    path = root / f"{harness.PREFIX}{os.getpid()}"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        harness.sweep(root, os.getpid())


def _child(group: str, scratch: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks", "--group", group, "--scratch", str(scratch)]
    command += ["--quick"] if options.quick else []
    for name in options.only or ():
        command += ["--only", name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def _collect(group: str, options: argparse.Namespace, rows: list[Row], failures: list[str]) -> None:
    """Run one group in a child and take its rows."""
    print(f"{group} ...", file=sys.stderr, flush=True)
    with _scratch() as scratch:
        child = _child(group, scratch, options)
        try:
            assert child.stdout is not None
            for line in child.stdout:
                values = json.loads(line)
                if "failed" in values:
                    failures.append(values["failed"])
                    print(f"FAILED {values['failed']}", file=sys.stderr, flush=True)
                    continue
                values.pop("met")
                rows.append(Row(**values))
                print(harness.table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
            if child.wait() not in (0, 1):
                failures.append(f"{group}: its process ended with status {child.returncode}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _stop(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for; 0 when every benchmark ran (met or not), 1 when one failed."""
    options = _arguments(argv)
    if options.group:
        return _run_group(options)
    if options.list and options.only is None:
        options.only = list(GROUPS)
    named = {name.partition(".")[0] for name in options.only or GROUPS}
    asked = [g for g in GROUPS if g in named]  # of the others, what they need may be absent
    wanted = [g for g in asked if any(_wanted(n, options.only) for n in benches(g))]
    if options.list:
        print("\n".join(n for g in wanted for n in benches(g) if _wanted(n, options.only)))
        return 0
    if not wanted:
        print(f"nothing is called {options.only}; --list names all", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _stop)
    rows: list[Row] = []
    failures: list[str] = []
    start = time.monotonic()
    environment = harness.machine()
    for group in wanted:
        _collect(group, options, rows, failures)
    spent = time.monotonic() - start
    report = {
        "environment": environment,
        "quick": options.quick,
        "seconds": round(spent, 1),
        "rows": [row.as_dict() for row in rows],
        "failed": failures,
    }
    if options.json:
        options.json.write_text(dumps(report), encoding="utf-8")
    if options.plots:
        from benchmarks import plots

        plots.draw(report, options.plots)
    print(harness.table(rows))
    missed = [row.name for row in rows if row.met is False]
    print(f"\n{len(rows)} figures in {spent:.0f} s, {len(missed)} missed: {', '.join(missed)}")
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
