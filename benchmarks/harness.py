"""What every benchmark stands on: rows, timing loops, interleaved repeats, scratch space.

A figure is never taken alone. `compare` runs ours, the peer, ours, the peer ... at least seven
times and takes the median of each, so that a slow second of the machine meets both sides. The
timing loops are generated from one template per expression: each side gets a code object of its
own (so that the interpreter's specialisation of one does not slow the other) with equal source.

A benchmark is a function `(Context) -> Iterable[Row]`. Each group of them runs in a process of its
own; what several benchmarks of a group need (a store of a million documents) is made once, by
`Context.shared`.
"""

from __future__ import annotations

import gc
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

REPEATS = 7

# Wall-clock time. Where other work goes on meanwhile, MMAPCACHE_BENCH_CLOCK=cpu counts
# the processor time of the thread instead; measures with more than one thread stay on the wall.
now = (
    time.thread_time_ns
    if os.environ.get("MMAPCACHE_BENCH_CLOCK") == "cpu"
    else time.perf_counter_ns
)

T = TypeVar("T")

PREFIX = "mmapcache-bench-"  # of every scratch directory, followed by the process that made it
DISK = Path("/var/tmp")
_UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
CGROUP = Path("/sys/fs/cgroup" if _UNIFIED else "/sys/fs/cgroup/memory")


@dataclass
class Row:
    """One line of the table.

    `ours` and `peer` are medians in `unit`; `ratio` is ours / peer; `target` is what the ratio must
    not exceed (or, with `at_least`, must reach); None means that the figure is only reported.
    """

    name: str
    measure: str
    ours: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    ratio: float | None = None
    target: float | None = None
    at_least: bool = False
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None for figures that are only reported."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target

    def as_dict(self) -> dict[str, Any]:
        """The row as it goes into the JSON file."""
        return {**asdict(self), "met": self.met}


Bench = Callable[["Context"], Iterable[Row]]


class Context:
    """What a benchmark may use: a scratch directory on tmpfs, sizes, and things made once."""

    def __init__(self, scratch: Path, quick: bool) -> None:
        """Keep `scratch`, an existing directory, and whether the sizes are the small ones."""
        self.scratch = scratch
        self.quick = quick
        self._shared: dict[str, Any] = {}

    def size(self, full: int, quick: int) -> int:
        """The size to use in this run."""
        return quick if self.quick else full

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """The object called `name`, made at first use and kept for the group."""
        if name not in self._shared:
            self._shared[name] = make()
        made: T = self._shared[name]
        return made

    def forget(self, *names: str) -> None:
        """Drop shared objects that are no longer needed, and their memory."""
        for name in names:
            self._shared.pop(name, None)
        gc.collect()

    def path(self, name: str) -> Path:
        """A path in the scratch directory that nothing uses yet."""
        path = self.scratch / name
        if path.exists():
            path.unlink()
        return path

    def cpu(self, number: int) -> None:
        """Pin this process to one of the CPUs it may use, when there is more than one."""
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) > 1:
            os.sched_setaffinity(0, {allowed[number % len(allowed)]})


def remove_group(path: Path) -> None:
    """Remove a control group as soon as its last process has gone."""
    for _ in range(50):
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)


def sweep(root: Path, pid: int | None = None) -> None:
    """Remove what process `pid` left behind; with None, what dead processes did."""
    for directory in (root, DISK, CGROUP):
        for left in directory.glob(f"{PREFIX}*"):
            owner = left.name.removeprefix(PREFIX)
            dead = owner.isdigit() and not Path(f"/proc/{owner}").exists()
            if owner != str(pid) and (pid is not None or not dead):
                continue
            if directory == CGROUP:
                remove_group(left)
            else:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def no_gc() -> Iterator[None]:
    """Garbage collection off, as timeit does it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_TEMPLATE = """
def loop(keys, {names}):
    start = now()
    for key in keys:
        {expression}
    return now() - start
"""

Loop = Callable[..., int]


def make_loop(expression: str, *names: str) -> Loop:
    """A new function `loop(keys, *names) -> nanoseconds` that runs `expression` for each key."""
    source = _TEMPLATE.format(names=", ".join(names), expression=expression)
    scope: dict[str, Any] = {"now": now}
    exec(compile(source, f"<loop {expression}>", "exec"), scope)
    made: Loop = scope["loop"]
    return made


Timed = Callable[[], float]


def timed(expression: str, keys: Callable[[], list[Any]], **names: Any) -> Timed:
    """A measurement: nanoseconds for each run of `expression`, the empty loop subtracted.

    `keys` is called before each timing, outside it, for the key objects to use.
    """
    loop = make_loop(expression, *names)
    empty = make_loop("pass", *names)
    values = tuple(names.values())

    def measure() -> float:
        used = keys()
        spent = loop(used, *values)
        nothing = min(empty(used, *values) for _ in range(3))
        return max(spent - nothing, 1) / len(used)

    return measure


@dataclass
class Figures:
    """The samples of each side of a comparison and their medians."""

    samples: dict[str, list[float]]

    def median(self, side: str) -> float:
        """The median of one side."""
        return statistics.median(self.samples[side])

    def ratio(self, ours: str, peer: str) -> float:
        """Median of `ours` over median of `peer`."""
        return self.median(ours) / self.median(peer)


def interleave(sides: dict[str, Timed], repeats: int = REPEATS, warmups: int = 1) -> Figures:
    """Run the sides in turn, `repeats` times each after `warmups` rounds that do not count."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    with no_gc():
        for turn in range(warmups + repeats):
            for name, side in sides.items():
                value = side()
                if turn >= warmups:
                    samples[name].append(value)
    return Figures(samples)


def compare(
    name: str,
    measure: str,
    ours: Timed,
    peer: Timed,
    *,
    unit: str,
    peer_name: str,
    target: float | None,
    at_least: bool = False,
    note: str = "",
    repeats: int = REPEATS,
    warmups: int = 1,
) -> Row:
    """One row from two measurements, interleaved."""
    figures = interleave({"ours": ours, "peer": peer}, repeats, warmups)
    return row_of(
        figures,
        name,
        measure,
        unit=unit,
        peer="peer",
        peer_name=peer_name,
        target=target,
        at_least=at_least,
        note=note,
    )


def row_of(
    figures: Figures,
    name: str,
    measure: str,
    *,
    unit: str,
    peer: str,
    peer_name: str,
    target: float | None,
    ours: str = "ours",
    at_least: bool = False,
    note: str = "",
) -> Row:
    """One row from two of the sides of `figures`."""
    return Row(
        name=name,
        measure=measure,
        ours=figures.median(ours),
        unit=unit,
        peer=figures.median(peer),
        peer_name=peer_name,
        ratio=figures.ratio(ours, peer),
        target=target,
        at_least=at_least,
        note=note,
        samples={"ours": figures.samples[ours], "peer": figures.samples[peer]},
    )


def served(arguments: list[str], failed: str) -> tuple[subprocess.Popen[str], str]:
    """A Python process that prints its URI when it serves; and that.

    :param failed: what is said when it prints none
    """
    process = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    uri = process.stdout.readline().strip()
    if not uri:
        raise RuntimeError(failed)
    return process, uri


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def thread_seconds(action: Callable[[], object]) -> float:
    """Seconds of one call whose work is all in this thread, by `now`."""
    start = now()
    action()
    return (now() - start) / 1e9


def pss(pid: int | str = "self") -> int:
    """Proportional set size of a process in bytes."""
    with Path(f"/proc/{pid}/smaps_rollup").open(encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    raise OSError(f"no Pss line for process {pid}")


def _cpu_model() -> str:
    with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return "absent"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def machine() -> dict[str, Any]:
    """Where the figures were taken: machine, kernel, settings, versions, command."""
    packages = ("mmapcache", "lmdb", "cdbx", "pymongo", "SecantusDB", "redis", "hiredis")
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "thp_enabled": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "thp_shmem": _read("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "load_average": os.getloadavg(),
        "clock": now.__name__,
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in packages},
        "command": " ".join(sys.orig_argv),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def quantity(value: float, unit: str) -> str:
    """A figure as a person reads it; nanoseconds, seconds and bytes are scaled."""
    if unit == "ns":
        for factor, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
            if value >= factor:
                return f"{value / factor:.3g} {name}"
        return f"{value:.3g} ns"
    if unit == "s":
        return quantity(value * 1e9, "ns")
    if unit == "B":
        for factor, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if value >= factor:
                return f"{value / factor:.3g} {name}"
        return f"{value:.0f} B"
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()


def table(rows: list[Row]) -> str:
    """The printed table."""
    head = ("measure", "ours", "peer", "ratio", "target", "")
    lines = [head]
    for row in rows:
        peer = "" if row.peer is None else f"{quantity(row.peer, row.unit)} {row.peer_name}"
        sign = "≥" if row.at_least else "≤"
        lines.append(
            (
                row.measure + (f" [{row.note}]" if row.note else ""),
                quantity(row.ours, row.unit),
                peer.strip(),
                "" if row.ratio is None else f"{row.ratio:.3g}",
                "" if row.target is None else f"{sign} {row.target:.3g}",
                {None: "reported", True: "met", False: "MISSED"}[row.met],
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    shown.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(shown)
