"""``mmapcache get PATH COLLECTION KEY``: one document."""

from __future__ import annotations

import argparse
import contextlib

import mmapcache
from mmapcache.cli import streams
from mmapcache.cli.extjson import (
    KeyTextError,
    SoughtKey,
    dumps,
    key_text,
    parse_key,
    to_extended,
)
from mmapcache.cli.output import DONE, CommandError, add_opening, emit_json, open_cache
from mmapcache.cli.reading import require_collection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("path", help="the cache file")
    parser.add_argument("collection", help="the collection's name in the cache")
    parser.add_argument(
        "key",
        help="""the document's key: Extended JSON when it parses (5, "5", {"$oid": "..."}),
        else a string""",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="on one line instead of indented")
    shape.add_argument("--bson", action="store_true", help="the stored BSON bytes")
    parser.add_argument("--canonical", action="store_true", help="canonical Extended JSON")
    parser.add_argument("--pluck", metavar="FIELD", help="only this field, a dotted path")
    add_opening(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the document; a missing key is an error."""
    try:
        key = parse_key(args.key)
    except KeyTextError as error:
        raise CommandError(str(error)) from None
    with open_cache(args) as cache:
        require_collection(cache, args.collection, cache.path)
        try:
            collection = cache[args.collection]
            found = key.among(collection) if isinstance(key, SoughtKey) else key
            raw = None if found is None and key is not None else collection.get_raw(found)
        except (TypeError, ValueError) as error:
            raise CommandError(f"{args.key} cannot be a key: {error}") from None
        if raw is None:
            raise CommandError(_missing(cache, args.collection, key, args.key))
    if args.bson:
        streams.show_bytes(raw)
        return DONE
    value: object = to_extended(raw, canonical=args.canonical)
    if args.pluck is not None:
        value = _pluck(value, args.pluck)
    if args.json:
        emit_json(value)
    else:
        emit_json(value, indent=2)
    return DONE


def _missing(cache: mmapcache.Cache, name: str, key: object, text: str) -> str:
    message = f"{cache.path}: there is no document {key_text(key)} in {name!r}"
    if not isinstance(key, str) and text in cache[name]:
        return f"{message}; there is one with the string as its key: write {dumps(text)!r}"
    with contextlib.suppress(TypeError, ValueError):
        if isinstance(key, str) and mmapcache.object_id(key) in cache[name]:
            oid = dumps({"$oid": key})
            return f"{message}; there is one with the ObjectId as its key: write {oid!r}"
    return message


def _pluck(value: object, path: str) -> object:
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise CommandError(f"the document has no field {path!r}")
    return value
