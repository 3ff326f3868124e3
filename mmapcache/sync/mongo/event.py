"""A change event that is taken as bytes.

PyMongo's stream asks each event for its `_id`, the resume token, and a RawBSONDocument decodes all
its fields to answer that: more work than all else that is done with an event. Here the token is
where every server puts it, in front, and is looked at only when somebody resumes from it.
"""

from __future__ import annotations

import struct
from collections.abc import ItemsView, Iterator
from typing import Any

from bson.raw_bson import RawBSONDocument

_FIRST = b"\x03_id\0"  # the first element of an event: its _id, a document
_LENGTH = struct.Struct("<i")


class Event(RawBSONDocument):
    """One event; the `document_class` of a stream."""

    __slots__ = ()

    def __getitem__(self, item: str) -> Any:
        if item == "_id" and self.raw[4:9] == _FIRST:
            return Token(self)
        return super().__getitem__(item)


class Token(RawBSONDocument):
    """An event's `_id`."""

    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self._event = event

    @property
    def raw(self) -> bytes:
        event = self._event.raw
        (length,) = _LENGTH.unpack_from(event, 9)
        return bytes(event[9 : 9 + length])

    def _document(self) -> RawBSONDocument:
        return RawBSONDocument(self.raw)

    def items(self) -> ItemsView[str, Any]:
        return self._document().items()

    def __getitem__(self, item: str) -> Any:
        return self._document()[item]

    def __iter__(self) -> Iterator[str]:
        return iter(self._document())

    def __len__(self) -> int:
        return len(self._document())

    def __deepcopy__(self, memo: object) -> RawBSONDocument:
        return self._document()

    def __repr__(self) -> str:
        return f"Token({self.raw!r})"
