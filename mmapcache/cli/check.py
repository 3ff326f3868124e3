"""``mmapcache check PATH``: verifies every structure and checksum; status 1 if corrupt."""

from __future__ import annotations

import argparse

import mmapcache
from mmapcache.cli.output import (
    DONE,
    FAILED,
    add_opening,
    complain,
    emit,
    emit_json,
    naming,
    open_cache,
    size_text,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("path", help="the cache file")
    parser.add_argument("--json", action="store_true", help="the findings as one JSON object")
    add_opening(parser)


def run(args: argparse.Namespace) -> int:
    """Says in a sentence what it found: clean on stdout, corrupt on stderr."""
    try:
        with open_cache(args) as cache:
            found = cache.check()
    except (mmapcache.CorruptError, mmapcache.FormatError) as error:
        if args.json:
            emit_json({"clean": False, "path": args.path, "error": str(error)})
        complain("check", naming(args.path, str(error)))
        return FAILED
    if args.json:
        free = {str(size): count for size, count in found["free_blocks"].items()}
        emit_json({"clean": True, "path": args.path, **found, "free_blocks": free})
        return DONE
    documents = sum(part["documents"] for part in found["collections"].values())
    emit(
        f"{args.path} is clean: generation {found['generation']}, {documents:,} documents in "
        f"{len(found['collections'])} collections, {found['pages']:,} pages, "
        f"{size_text(found['bytes_used'])} in use, every checksum right"
    )
    return DONE
