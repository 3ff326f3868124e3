"""``mmapcache stat PATH``: everything that an operator asks first, on a live or a dead file.

With ``--max-age`` or ``--require-loader`` it is a probe, too: status 1 and a sentence when the data
is older than that, or no loader keeps it fresh. What cannot be read is status 1 at any rate.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import mmapcache
from mmapcache.cli.output import (
    DONE,
    FAILED,
    CommandError,
    add_opening,
    ago_text,
    complain,
    emit,
    emit_json,
    moment_text,
    naming,
    open_cache,
    seconds_text,
    sentence,
    size_text,
    table,
)
from mmapcache.cli.reading import counts
from mmapcache.last_change import changed_before

_MEANING = (
    "age: how long ago the data was last known to be what the source has. lag: the same time while "
    "the loader follows the source's changes, so that the data is at most that far behind them; "
    "none while it loads or polls."
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
    probe = parser.add_argument_group("as a probe (implies --quick)")
    probe.add_argument(
        "--max-age",
        type=_seconds,
        metavar="S",
        help="exit with 1 when the data was last known to be current more than S seconds ago",
    )
    probe.add_argument(
        "--require-loader", action="store_true", help="exit with 1 unless a loader is alive"
    )
    add_opening(parser)
    parser.epilog = f"{_MEANING} {parser.epilog}"


def run(args: argparse.Namespace) -> int:
    """Prints status and statistics; a corrupt structure is named, not fatal.

    With --json there is one object on stdout whatever happens, and `failed` in it has the sentence
    that is on stderr: null if and only if the exit status is 0.
    """
    probe = args.max_age is not None or args.require_loader
    try:
        with open_cache(args) as cache:
            facts = _collect(cache, quick=args.quick or probe)
    except (CommandError, mmapcache.MmapCacheError, OSError) as error:
        if args.json:
            emit_json(_unreadable(error, args.path))
        raise
    failed = _judged(facts["status"], args.max_age, require_loader=args.require_loader)
    facts["failed"] = None if failed is None else naming(args.path, failed)
    if args.json:
        emit_json(facts)
    else:
        for line in _lines(facts):
            emit(line)
    if failed is None:
        return DONE
    complain("stat", facts["failed"])
    return FAILED


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise argparse.ArgumentTypeError("it must be seconds, 0 or more")
    return seconds


def _judged(status: dict[str, Any], max_age: float | None, *, require_loader: bool) -> str | None:
    """What a probe complains of; None: all is well."""
    said = f". It says why: {status['error']}" if status["error"] else ""
    if require_loader and status["loader"] != "alive":
        how = _HOW[status["loader"]]
        return f"no loader is running, the last one {how}: start `mmapcache sync`{said}"
    if max_age is None:
        return None
    age = status["age"]
    if age is None or age > max_age:
        how = f"the loader {_HOW[status['loader']]}"
        return f"the data's age is {seconds_text(age)}, more than {max_age:g} s; {how}{said}"
    return None


def _unreadable(error: Exception, path: str) -> dict[str, Any]:
    """The JSON object for a cache that could not be read: what its loader says is in it, if it
    says anything."""
    from mmapcache.sync.redaction import redact

    status = None
    if isinstance(error, mmapcache.NotReadyError) and error.loader is not None:
        status = {
            "path": path,
            "generation": 0,
            "loader": error.loader,
            "state": error.state,
            "error": error.error,
            "source": error.source,
        }
    return {
        "status": status,
        "stats": None,
        "problem": None,
        "collections": {},
        "failed": redact(sentence(error, path)),
    }


def _collect(cache: mmapcache.Cache, *, quick: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"status": dict(cache.status()), "stats": dict(cache.stats())}
    facts["problem"] = None
    collections: dict[str, dict[str, Any]]
    collections = {name: {"documents": count} for name, count in counts(cache).items()}
    if not quick:
        try:
            found = cache.check()
            before = changed_before(cache, found["collections"])
            collections = {
                name: {
                    **{key: part[key] for key in ("documents", "bytes", "changed_at")},
                    "changed_before": before.get(name),
                }
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
_HOW = {"alive": "is running", "dead": "was killed", "none": "has ended"}


def _confirmed_text(confirmed: float | None, age: float | None) -> str:
    if not confirmed:
        return "never"
    return f"{moment_text(confirmed)}, {seconds_text(age)} ago"


def _lag_text(lag: float | None) -> str:
    if lag is None:
        return "none: the loader does not follow the source's changes"
    return f"at most {seconds_text(lag)} behind the source (the age, while changes are followed)"


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _collection_lines(collections: dict[str, dict[str, Any]]) -> list[str]:
    if not collections:
        return ["no collections"]
    now = time.time()
    rows = []
    for name, part in collections.items():
        more = ("-", "-")  # --quick, or damage
        if "bytes" in part:
            changed = ago_text(part["changed_at"], part["changed_before"], now)
            more = (size_text(part["bytes"]), changed)
        rows.append((name, f"{part['documents']:,}", *more))
    return table(("collection", "documents", "bytes", "last change"), rows)


def _block_lines(free_blocks: dict[str, int]) -> list[str]:
    if not free_blocks:
        return ["no free blocks"]
    rows = []
    for size, count in free_blocks.items():
        bytes_each = int(size)
        rows.append((size_text(bytes_each), f"{count:,}", size_text(bytes_each * count)))
    return table(("free block", "blocks", "bytes"), rows)
