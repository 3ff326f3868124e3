"""``mmapcache ls PATH [COLLECTION]``: the collections, or the keys of one."""

from __future__ import annotations

import argparse

from mmapcache.cli.extjson import key_text, key_to_extended
from mmapcache.cli.output import DONE, add_opening, emit, emit_json, open_cache, table
from mmapcache.cli.reading import counts, require_collection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("path", help="the cache file")
    parser.add_argument("collection", nargs="?", help="list the keys of this collection")
    parser.add_argument("--json", action="store_true", help="one JSON value per line")
    add_opening(parser)


def run(args: argparse.Namespace) -> int:
    """Prints one line per collection, or one per key, in no particular order."""
    with open_cache(args) as cache:
        if args.collection is None:
            counted = counts(cache)
            keys: list[object] = []
        else:
            require_collection(cache, args.collection, cache.path)
            keys = list(cache[args.collection])
            counted = {}
    if args.collection is not None:
        for key in keys:
            if args.json:
                emit_json(key_to_extended(key))
            else:
                emit(key_text(key))
    elif args.json:
        for name, count in counted.items():
            emit_json({"collection": name, "documents": count})
    else:
        rows = [(name, f"{count:,}") for name, count in counted.items()]
        for line in table(("collection", "documents"), rows):
            emit(line)
    return DONE
