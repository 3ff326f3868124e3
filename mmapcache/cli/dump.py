"""``mmapcache dump PATH [COLLECTION]``: every document, all from one generation.

Lines that `mongoimport` and the loader's file source read again for one collection; lines that name
collection and key for all; or files, one per collection, with ``--out``.
"""

from __future__ import annotations

import argparse
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from mmapcache.cli import streams
from mmapcache.cli.extjson import dumps, key_to_extended, to_extended
from mmapcache.cli.output import DONE, UsageError, emit, emit_json, open_cache, refuse_uri
from mmapcache.cli.reading import Gathered, gather

_Documents = list[tuple[object, bytes]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("path", help="the cache file")
    parser.add_argument("collection", nargs="?", help="only this collection")
    parser.add_argument(
        "--format",
        choices=("relaxed", "canonical", "bson"),
        default="relaxed",
        help="Extended JSON, readable (default) or exact in types; or BSON",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="lines with collection, key and document (what is printed for all collections)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write COLLECTION.json or COLLECTION.bson files there instead"
    )
    parser.add_argument("--timeout", type=float, default=0.0, help="seconds to wait for data")


def run(args: argparse.Namespace) -> int:
    """Prints or writes the documents."""
    if args.format == "bson" and args.json:
        raise UsageError("--json and --format bson exclude each other")
    if args.format == "bson" and args.out is None and args.collection is None:
        raise UsageError("BSON of all collections needs --out DIR, or name one collection")
    if args.out is not None:
        refuse_uri(args.out, "--out")
    with open_cache(args.path, args.timeout) as cache:
        gathered = gather(cache, None if args.collection is None else [args.collection])
    if args.out is not None:
        return _write_files(args, gathered)
    for name, documents in gathered.collections.items():
        if args.format == "bson":
            for _, raw in documents:
                streams.show_bytes(raw)
        else:
            named = args.json or args.collection is None
            for value in _values(name, documents, args.format == "canonical", named):
                emit_json(value)
    return DONE


def _values(name: str, documents: _Documents, canonical: bool, named: bool) -> Iterator[object]:
    for key, raw in documents:
        document = to_extended(raw, canonical=canonical)
        if named:
            key_value = key_to_extended(key)
            yield {"collection": name, "key": key_value, "document": document}
        else:
            yield document


def _write_files(args: argparse.Namespace, gathered: Gathered) -> int:
    directory = Path(args.out)
    directory.mkdir(parents=True, exist_ok=True)
    for name, documents in gathered.collections.items():
        suffix = "bson" if args.format == "bson" else "json"
        # A collection's name may hold a slash; a file's may not.
        target = directory / f"{urllib.parse.quote(name, safe=' ')}.{suffix}"
        if args.format == "bson":
            target.write_bytes(b"".join(raw for _, raw in documents))
        else:
            with target.open("w", encoding="utf-8") as file:
                canonical = args.format == "canonical"
                for value in _values(name, documents, canonical, args.json):
                    file.write(dumps(value) + "\n")
        if args.json:
            emit_json({"collection": name, "documents": len(documents), "file": str(target)})
        else:
            emit(f"{target}: {len(documents):,} documents")
    return DONE
