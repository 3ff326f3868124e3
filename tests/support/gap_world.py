"""What the writers of the gap test write: collections, keys, documents, and what a cache shows.

A document tells its key `k` and its counter `n`, which goes up by one with every change of that
key, a deletion included. So each state that a key ever had has a number.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import bson
from bson.int64 import Int64
from bson.objectid import ObjectId

WRITERS = 2
KEYS = 36  # of each collection; they are changed all the time
COLD = 10_000  # from here on: keys that are written once, and perhaps deleted once

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A collection and how the loader is told to read it.

    `home`: its database, unless `in_one_database` was called; `moving`: it is one that no stream
    tells of, if `poll_some` was called; `owner`: the one writer that may drop
    it; None: nobody does, and each writer has its keys; `late`: it comes when loaders are at work.
    """

    name: str
    home: str
    shown: bool = False  # only documents with `shown`
    fields: tuple[str, ...] = ()  # only these; () for all
    allow_empty: bool = False
    owner: int | None = None
    late: bool = False
    moving: bool = False

    @property
    def database(self) -> str:
        return _one_database or self.home

    @property
    def filter(self) -> Document:
        return {"shown": True} if self.shown else {}

    @property
    def projection(self) -> Document | None:
        return dict.fromkeys(self.fields, 1) if self.fields else None

    def view(self, document: Document | None) -> bytes | None:
        """What a cache holds for a document of the database; None: nothing."""
        if document is None or (self.shown and not document["shown"]):
            return None
        if self.fields:
            document = {k: v for k, v in document.items() if k == "_id" or k in self.fields}
        return bson.encode(document)

    def owned(self, writer: int, k: int) -> bool:
        return k % WRITERS == writer if self.owner is None else writer == self.owner


_SEEN = ("k", "n", "body")
PLACES = (
    Place("plain", "shop"),
    Place("hot", "shop"),
    Place("some", "shop", shown=True),
    Place("cut", "shop", fields=_SEEN),
    Place("narrow", "shop", shown=True, fields=_SEEN, moving=True),
    Place("late", "shop", allow_empty=True, late=True),
    Place("fleeting", "depot", allow_empty=True, owner=0),
    Place("kept", "depot", owner=1, moving=True),
)
BY_NAME = {place.name: place for place in PLACES}


_one_database = ""
_some_polled = False
_ALWAYS = '"$expr" = { "$lt" = ["$n", "$$NOW"] }'  # any number is less than any time


def poll_some(polled: bool) -> None:
    """Whether the filters of some places look at the time, though that changes nothing."""
    global _some_polled
    _some_polled = polled


def in_one_database() -> str:
    """All places are in one database from now on; its name."""
    global _one_database
    _one_database = "shop"
    return _one_database


def configuration() -> str:
    """The places as the loader's TOML; of one database only those that have something to set."""
    tables = []
    for place in PLACES:
        if _one_database and (place.late or place.name in ("plain", "hot")):
            continue
        lines = ["[[collection]]", f'from = "{place.database}.{place.name}"']
        terms = ["shown = true"] * place.shown + [_ALWAYS] * (place.moving and _some_polled)
        if terms:
            lines.append(f"filter = {{ {', '.join(terms)} }}")
        if place.fields:
            lines.append(f"projection = {{ {', '.join(f'{name} = 1' for name in place.fields)} }}")
        if place.allow_empty:
            lines.append("allow_empty = true")
        tables.append("\n".join(lines))
    return "\n\n".join(tables) + "\n"


def identity(k: int, retyped: int = 0) -> Any:
    """The _id of a key. A number's may be an int, a double or a long, which are one key."""
    kind = k % 7
    if k == 3:
        return None
    if kind in (0, 1):
        return (k, float(k), Int64(k))[retyped % 3]
    if kind == 2:
        return f"key {k}"
    if kind == 3:
        return ObjectId(k.to_bytes(12, "big"))
    if kind == 4:
        return {"k": k, "of": "a document"}
    if kind == 5:
        return k.to_bytes(9, "little")
    return datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=k)


def made(k: int, n: int, dice: random.Random, retyped: int = 0) -> Document:
    """A document of that key and counter."""
    size = dice.randrange(200) if dice.random() < 0.98 else dice.randrange(20_000)
    return {
        "_id": identity(k, retyped),
        "k": k,
        "n": n,
        "shown": dice.random() < 0.6,
        "body": dice.randbytes(size),
        "extra": {"list": [n, dice.random()], "text": "x" * dice.randrange(30)},
    }


def digest(seen: bytes | None) -> str:
    """Of what a cache shows; `-` for nothing."""
    return "-" if seen is None else f"{zlib.crc32(seen):08x}"
