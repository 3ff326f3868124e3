"""Plots of docs/performance.md, drawn from the JSON of a run.

python -m benchmarks --json FILE --plots docs/plots, or later python -m benchmarks.plots FILE DIR

Beside it stands what was measured before, from `bench-before.json` in the folder above DIR: a run
of 23 November 2026.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

Rows = dict[str, dict[str, Any]]


def _save(directory: Path, name: str) -> None:
    pyplot.tight_layout()
    pyplot.savefig(directory / f"{name}.svg", metadata={"Date": None})
    pyplot.close()


def _bars(rows: Rows, names: dict[str, str], title: str, unit: str, scale: float) -> None:
    """Horizontal bars of the medians of the rows named."""
    figure, axes = pyplot.subplots(figsize=(6, 0.5 * len(names) + 1.1))
    del figure
    values = [rows[name]["ours"] * scale for name in names]
    bars = axes.barh(list(names.values()), values, color="#4477aa")
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(unit)
    axes.set_title(title, fontsize=10)


def occupancy(rows: Rows, before: Rows, directory: Path) -> None:
    """Occupancy over time under random updates, before and after compaction."""
    if "random_updates" not in rows:
        return
    panels = [
        (title, made[name]["details"])
        for title, made, name in (
            ("60 % live, without compaction", before, "random_updates"),
            ("60 % live", rows, "random_updates"),
            ("85 % live, 16 MiB", rows, "full_16_85"),
        )
        if name in made
    ]
    figure, many = pyplot.subplots(
        *(2, len(panels)), figsize=(3.2 * len(panels), 5), sharey="row", sharex="col", squeeze=False
    )
    for column, (title, details) in enumerate(panels):
        upper, lower = many[0][column], many[1][column]
        points = details["occupancy"]
        updates = [point["updates"] / 1e6 for point in points]
        for field, label in (
            ("file", "file size"),
            ("used", "bytes in use"),
            ("live", "live keys and values"),
        ):
            upper.plot(updates, [point[field] for point in points], label=label, linewidth=1)
        free = [point["largest_free"] * details["maximum"] / 1024 for point in points]
        lower.plot(updates, free, color="#cc6677", linewidth=1)
        lower.axhline(64, color="#888888", linestyle=":", linewidth=1)
        lower.set_yscale("log")
        lower.set_xlabel("million updates")
        upper.set_title(title, fontsize=9)
        upper.set_ylim(0, 1.05)
    many[0][0].set_ylabel("share of the maximum")
    many[1][0].set_ylabel("largest free block, KiB")
    many[0][-1].legend(fontsize=7, loc="lower right")
    figure.suptitle("Random updates, 100 B to 64 KiB (dotted: the largest document)", fontsize=10)
    _save(directory, "occupancy")


def targets(rows: Rows, before: Rows, directory: Path) -> None:
    """How far each figure is from its target: before, and now."""
    names = [
        name
        for name, row in rows.items()
        if row["target"] and (row["ratio"] or 0) > 0 and not name.startswith("peer_")
    ]
    if not before or not any(name in before for name in names):
        return

    def far(row: dict[str, Any], target: dict[str, Any]) -> float:
        """1 is the target; more is missed."""
        part = float(row["ratio"]) / float(target["target"])
        return 1 / part if target["at_least"] else part

    def what(row: dict[str, Any]) -> tuple[str, str]:
        """What was measured, and against what, without a size that differs from run to run."""
        return re.sub(r" \(.*\)", "", row["measure"]), row["peer_name"]

    pyplot.figure(figsize=(7, 0.21 * len(names) + 1))
    for place, name in enumerate(names):
        now = far(rows[name], rows[name])
        old = before.get(name)
        if old and (old["ratio"] or 0) > 0 and what(old) == what(rows[name]):
            then = far(old, rows[name])
            pyplot.plot([then, now], [place, place], color="#bbbbbb", linewidth=1)
            pyplot.plot([then], [place], "o", mfc="none", color="#888888", markersize=4)
        pyplot.plot([now], [place], "o", color="#4477aa" if now <= 1 else "#cc6677", markersize=4)
    pyplot.axvline(1, color="#228833", linewidth=1)
    pyplot.yticks(range(len(names)), names, fontsize=7)
    pyplot.gca().invert_yaxis()
    pyplot.margins(y=0.01)
    pyplot.xscale("log")
    pyplot.xlabel("times the target of today (left of the line: met); hollow: before")
    _save(directory, "targets")


def backings(rows: Rows, directory: Path) -> None:
    """Reads and commits on each backing, and what msync adds."""
    kinds = {"tmpfs": "tmpfs", "disk": "disk file", "memfd": "memfd"}
    reads = {f"backing_get_raw_{key}": name for key, name in kinds.items()}
    if set(reads) <= set(rows):
        _bars(rows, reads, "get_raw, uniform keys", "ns", 1.0)
        _save(directory, "backings-reads")
    commits = {f"backing_commit_{key}": name for key, name in kinds.items()}
    if set(commits) <= set(rows):
        _bars(rows, commits, "commit of one document", "µs", 1e-3)
        _save(directory, "backings-commits")
    if "backing_msync" in rows and "backing_commit_disk" in rows:
        both = {"backing_commit_disk": "commit", "backing_msync": "commit + msync"}
        _bars(rows, both, "what msync adds to a commit on a disk file", "µs", 1e-3)
        pyplot.xscale("log")
        _save(directory, "backings-msync")


def memory_limit(rows: Rows, directory: Path) -> None:
    """Reads per second by the share of the file that memory may hold."""
    if "memory_limit_0.5" not in rows:
        return
    points = rows["memory_limit_0.5"]["details"]["points"]
    pyplot.figure(figsize=(6, 2.8))
    labels = ["no limit" if p["share"] > 1 else f"{p['share']:.0%}" for p in points]
    bars = pyplot.bar(labels, [p["rate"] for p in points], color="#4477aa")
    pyplot.bar_label(bars, labels=[f"{point['rate']:,.0f}" for point in points], fontsize=8)
    pyplot.yscale("log")
    pyplot.margins(y=0.15)
    pyplot.xlabel("memory limit, share of the file")
    pyplot.ylabel("reads per second")
    pyplot.title("Uniform reads of a disk file larger than the memory limit", fontsize=10)
    _save(directory, "memory-limit")


def growing(rows: Rows, directory: Path) -> None:
    """A file that grows under its reader."""
    if "growing_map" not in rows:
        return
    points = rows["growing_map"]["details"]["points"]
    figure, axes = pyplot.subplots(figsize=(6, 3))
    del figure
    times = [point[0] for point in points]
    axes.plot(times, [point[1] / 2**20 for point in points], color="#4477aa")
    axes.set_xlabel("seconds")
    axes.set_ylabel("file size, MiB", color="#4477aa")
    other = axes.twinx()
    other.plot(times, [point[2] / 1e3 for point in points], ".", color="#cc6677", markersize=3)
    other.set_yscale("log")
    other.set_ylabel("slowest batch of 100 gets, µs", color="#cc6677")
    axes.set_title("A map that grows under its reader", fontsize=10)
    _save(directory, "growing")


def slowest(rows: Rows, before: Rows, directory: Path) -> None:
    """Commit cost by the number of keys, now and before."""
    counts = sorted(
        int(rest)
        for first, _, rest in (name.partition("_") for name in rows)
        if first == "commit" and rest.isdigit()
    )
    if not counts:
        return
    names = [f"commit_{count}" for count in counts]
    pyplot.figure(figsize=(6, 2.8))
    pyplot.plot(counts, [rows[n]["ours"] / 1e3 for n in names], "o-", label="mmapcache")
    pyplot.plot(counts, [rows[n]["peer"] / 1e3 for n in names], "s-", label="py-lmdb")
    if set(names) <= set(before):
        for side, style, label in (("ours", "o:", "mmapcache"), ("peer", "s:", "py-lmdb")):
            old = [before[n][side] / 1e3 for n in names]
            pyplot.plot(counts, old, style, color="#bbbbbb", label=f"{label}, before")
    pyplot.xscale("log")
    pyplot.ylim(bottom=0)
    pyplot.xlabel("keys")
    pyplot.ylabel("µs per commit")
    pyplot.legend(fontsize=8)
    pyplot.title("Commit of one document", fontsize=10)
    _save(directory, "commits")


def draw(report: dict[str, Any], directory: Path) -> None:
    """Draw every plot that the report has figures for."""
    directory.mkdir(parents=True, exist_ok=True)
    pyplot.rcParams["svg.fonttype"] = "none"
    pyplot.rcParams["svg.hashsalt"] = "mmapcache"
    rows: Rows = {row["name"]: row for row in report["rows"]}
    kept = directory.parent / "bench-before.json"
    old = json.loads(kept.read_text(encoding="utf-8"))["rows"] if kept.exists() else []
    before: Rows = {row["name"]: row for row in old}
    for plot in (backings, memory_limit, growing):
        plot(rows, directory)
    for compared in (occupancy, slowest, targets):
        compared(rows, before, directory)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
