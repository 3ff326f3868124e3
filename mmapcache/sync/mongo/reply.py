"""A change stream's reply, of which no event becomes an object.

PyMongo's stream takes events one by one, and each would be a document of its own to it. Here the
changes of documents that follow each other in a reply are one thing to it, a `Run`: it gives them
on together, and asks for the resume token of the last. So it goes on from where they end when a
connection breaks, as it would after the last of them.

What is not the change of a document, or not told as every server tells it, is an `Event`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bson.raw_bson import RawBSONDocument

from mmapcache._mmapcache import cut_events
from mmapcache.sync.mongo.event import Event

# collection, type and value of the _id, time, not part of a transaction, deleted
Change = tuple[str, bytes, int, bool, bool]


class Run:
    """Changes that follow each other.

    :param changes: at least one
    :param token: the newest one's, BSON
    """

    __slots__ = ("changes", "token")

    def __init__(self, changes: Sequence[Change], token: bytes) -> None:
        self.changes = changes
        self.token = token

    def __getitem__(self, item: str) -> Any:
        if item != "_id":
            raise KeyError(item)
        return RawBSONDocument(self.token)


class Reply(Event):
    """A reply; the `document_class` of a stream."""

    __slots__ = ()

    def __getitem__(self, item: str) -> Any:
        value = super().__getitem__(item)
        if item == "cursor" and isinstance(value, RawBSONDocument):
            return _gathered(value)
        return value


def _gathered(cursor: RawBSONDocument) -> Mapping[str, Any]:
    """The same with runs; itself when it has no events that can be told apart."""
    cut = cut_events(cursor.raw)
    if cut is None:
        return cursor
    name, parts, rest = cut
    told = dict(RawBSONDocument(rest))
    told[name] = [Event(part) if isinstance(part, bytes) else Run(*part) for part in parts]
    return told
