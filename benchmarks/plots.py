"""Plots of docs/performance.md, drawn from the JSON of a run.

python -m benchmarks --json FILE --plots docs/plots, or later python -m benchmarks.plots FILE DIR
"""

from __future__ import annotations

import json
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


def occupancy(rows: Rows, directory: Path) -> None:
    """Occupancy over time under random updates."""
    if "random_updates" not in rows:
        return
    points = rows["random_updates"]["details"]["occupancy"]
    pyplot.figure(figsize=(6, 3.2))
    for field, label in (
        ("file", "file size"),
        ("used", "bytes in use"),
        ("live", "live keys and values"),
        ("largest_free", "largest free block"),
    ):
        values = [point[field] for point in points]
        pyplot.plot([p["updates"] / 1e6 for p in points], values, label=label, linewidth=1)
    pyplot.xlabel("million updates")
    pyplot.ylabel("share of the maximum")
    pyplot.ylim(0, 1.02)
    pyplot.legend(fontsize=8)
    pyplot.title("Random updates, 100 B to 64 KiB, live bytes at 60 %", fontsize=10)
    _save(directory, "occupancy")


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
    pyplot.bar_label(bars, fmt="%.3g", fontsize=8)
    pyplot.yscale("log")
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


def slowest(rows: Rows, directory: Path) -> None:
    """Commit cost by the number of keys."""
    names = [name for name in rows if name.startswith("commit_") and name != "commit_flat"]
    if not names:
        return
    names.sort(key=lambda name: int(name.split("_")[1]))
    counts = [int(name.split("_")[1]) for name in names]
    pyplot.figure(figsize=(6, 2.8))
    pyplot.plot(counts, [rows[n]["ours"] / 1e3 for n in names], "o-", label="mmapcache")
    pyplot.plot(counts, [rows[n]["peer"] / 1e3 for n in names], "s-", label="py-lmdb")
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
    for plot in (occupancy, backings, memory_limit, growing, slowest):
        plot(rows, directory)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
