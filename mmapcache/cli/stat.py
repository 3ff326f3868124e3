"""``mmapcache stat PATH``: everything that an operator asks first, on a live or a dead file."""

from __future__ import annotations

import argparse
from typing import Any

import mmapcache
from mmapcache.cli.output import (
    DONE,
    add_opening,
    emit,
    emit_json,
    moment_text,
    open_cache,
    seconds_text,
    size_text,
    table,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("path", help="the cache file")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out what needs a walk over the whole file: bytes per collection, free blocks",
    )
    add_opening(parser)


def run(args: argparse.Namespace) -> int:
    """Prints status and statistics; a corrupt structure is named, not fatal."""
    with open_cache(args) as cache:
        facts = _collect(cache, quick=args.quick)
    if args.json:
        emit_json(facts)
    else:
        for line in _lines(facts):
            emit(line)
    return DONE


def _collect(cache: mmapcache.Cache, *, quick: bool) -> dict[str, Any]:
    status = cache.status()
    stats = cache.stats()
    with cache.snapshot() as snap:
        collections: dict[str, dict[str, int]] = {
            name: {"documents": len(snap[name])} for name in sorted(snap)
        }
    facts: dict[str, Any] = {"status": dict(status), "stats": dict(stats), "problem": None}
    if not quick:
        try:
            found = cache.check()
            collections = {
                name: {"documents": part["documents"], "bytes": part["bytes"]}
                for name, part in sorted(found["collections"].items())
            }
            facts["free_blocks"] = {str(k): v for k, v in sorted(found["free_blocks"].items())}
        except mmapcache.CorruptError as error:
            facts["problem"] = str(error)
    facts["collections"] = collections
    return facts


def _lines(facts: dict[str, Any]) -> list[str]:
    status, stats = facts["status"], facts["stats"]
    confirmed = status["confirmed_at"]
    loader = _LOADER.get(status["loader"], str(status["loader"]))
    if status["loader"] == "none" and status["error"]:
        loader = "none: the last one has ended; see its error"
    pairs = [
        ("file", f"{status['path']} ({status['file_id']})"),
        (
            "generation",
            f"{status['generation']:,}, published {moment_text(status['published_at'])}",
        ),
        ("age", f"{seconds_text(status['age'])} since the data was last known to be current"),
        ("confirmed", _confirmed_text(confirmed, status["age"])),
        ("lag", _lag_text(status["lag"])),
        ("position", moment_text(status["position_at"])),
        ("loader", loader),
        ("state", status["state"] or "none reported"),
        ("error", status["error"] or "none"),
        ("source", status["source"] or "none reported"),
        ("loads", _counts_text(status["loads"])),
        ("events", f"{status['events']:,}"),
        ("disconnects", f"{status['disconnects']:,}"),
        ("errors", _counts_text(status["errors"])),
        ("in use", f"{size_text(stats['bytes_used'])} of {size_text(stats['file_size'])} file"),
        (
            "free",
            f"{size_text(stats['bytes_free'])}, largest block {size_text(stats['largest_free'])}",
        ),
        ("limit", f"{size_text(stats['max_size'])} (--max-size)"),
        ("huge pages", size_text(stats["huge_bytes"])),
    ]
    width = max(len(name) for name, _ in pairs)
    lines = [f"{name.ljust(width)}  {text}" for name, text in pairs]
    if facts["problem"] is not None:
        lines += ["", f"CORRUPT: {facts['problem']}"]
    lines += ["", *_collection_lines(facts["collections"])]
    if "free_blocks" in facts:
        lines += ["", *_block_lines(facts["free_blocks"])]
    return lines


_LOADER = {
    "alive": "alive",
    "dead": "dead: it ended without closing; start `mmapcache sync` again",
    "none": "none: the last one closed the file properly",
}


def _confirmed_text(confirmed: float | None, age: float | None) -> str:
    if not confirmed:
        return "never"
    return f"{moment_text(confirmed)}, {seconds_text(age)} ago"


def _lag_text(lag: float | None) -> str:
    if lag is None:
        return "none: the loader does not follow the source's changes"
    return f"{seconds_text(lag)} behind the source"


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _collection_lines(collections: dict[str, dict[str, int]]) -> list[str]:
    if not collections:
        return ["no collections"]
    rows = [
        (name, f"{part['documents']:,}", size_text(part["bytes"]) if "bytes" in part else "-")
        for name, part in collections.items()
    ]
    return table(("collection", "documents", "bytes"), rows)


def _block_lines(free_blocks: dict[str, int]) -> list[str]:
    if not free_blocks:
        return ["no free blocks"]
    rows = []
    for size, count in free_blocks.items():
        bytes_each = int(size)
        rows.append((size_text(bytes_each), f"{count:,}", size_text(bytes_each * count)))
    return table(("free block", "blocks", "bytes"), rows)
