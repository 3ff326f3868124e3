"""A value whose class is one of PyMongo's, where PyMongo is not installed: shown, not used.

    for key in cache["rates"]:        # RareValue for a Timestamp, a Decimal128, a Regex, ...
        print(key, cache["rates"][key])

A Collection gives one as a key, and finds the document by it; `json_default` and `repr` make one of
what is in a document, where they have to show it. The extension imports this module when the first
such value is met.
"""

from __future__ import annotations

import struct
from typing import Any, Final

__all__ = ["RareValue"]

# BSON's types by the names of PyMongo's classes.
_NAMES: Final = {
    0x05: "Binary",
    0x09: "DatetimeMS",
    0x0B: "Regex",
    0x0C: "DBRef",
    0x0D: "Code",
    0x0F: "Code",
    0x11: "Timestamp",
    0x13: "Decimal128",
    0x7F: "MaxKey",
    0xFF: "MinKey",
}
_DATE, _CODE, _TEXTS = 0x09, 0x0D, frozenset({0x05, 0x0D, 0x0F, 0x13})
_FLAGS: Final = {"i": 2, "l": 4, "m": 8, "s": 16, "u": 32, "x": 64}  # re's


class RareValue:
    """One BSON value that only PyMongo's `bson` can represent as an object.

    It equals what has the same type and bytes, and is hashable and immutable: any number of threads
    and forked workers may use it. `repr` shows what it would be with PyMongo; `str` of a Decimal128
    or of Code is its text.
    """

    __slots__ = ("_bson",)

    def __init__(self, bson: bytes, /) -> None:
        """`bson`: a BSON document whose one field, with an empty name, has the value."""
        self._bson = bson

    def extended(self, *, canonical: bool = False) -> Any:
        """Its Extended JSON value: ``{"$timestamp": {"t": 5, "i": 1}}``."""
        from mmapcache.cli.extjson import to_extended

        return to_extended(self._bson, canonical=canonical)[""]

    def plain(self) -> Any:
        """What plain JSON has in its place: text where there is a plain form (digits of a decimal,
        code, bytes as base64), else its relaxed Extended JSON."""
        value = self.extended()
        if self._bson[4] == 0x0C:
            return {**value["$dbPointer"], "$id": value["$dbPointer"]["$id"]["$oid"]}
        if self._bson[4] not in _TEXTS:
            return value
        if "$binary" in value:
            return value["$binary"]["base64"]
        return value["$code"] if "$code" in value else value["$numberDecimal"]

    def __eq__(self, other: object) -> bool:
        return self._bson == other._bson if isinstance(other, RareValue) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._bson)

    def __reduce__(self) -> tuple[type, tuple[bytes]]:
        return RareValue, (self._bson,)

    def __str__(self) -> str:
        return str(self.plain()) if self._bson[4] in (_CODE, 0x0F, 0x13) else repr(self)

    def __repr__(self) -> str:
        return f"{self._named()}({self._arguments()})"

    def _named(self) -> str:
        """PyMongo's class; of a type that needs none, ours."""
        return _NAMES.get(self._bson[4], "RareValue")

    def _arguments(self) -> str:
        kind, value = self._bson[4], self.extended()
        if kind == _DATE:
            return str(struct.unpack_from("<q", self._bson, 6)[0])
        if kind == 0x11:
            return "{t}, {i}".format_map(value["$timestamp"])
        if kind == 0x13:
            return repr(value["$numberDecimal"])
        if kind in (0x0D, 0x0F):
            return f"{value['$code']!r}, {_scope(self._bson) if kind == 0x0F else None}"
        if kind == 0x05:
            size, subtype = struct.unpack_from("<iB", self._bson, 6)
            start = 15 if subtype == 2 and size >= 4 else 11
            return f"{self._bson[start : 11 + size]!r}, {subtype}"
        if kind == 0x0B:
            # A loop: without memory for a generator, CPython 3.12 and 3.13 free its code twice.
            regex, flags = value["$regularExpression"], 0
            for letter in regex["options"]:
                flags |= _FLAGS.get(letter, 0)
            return f"{regex['pattern']!r}, {flags}"
        if kind == 0x0C:
            pointer = value["$dbPointer"]
            return f"{pointer['$ref']!r}, ObjectId({pointer['$id']['$oid']!r})"
        return "" if kind in _NAMES else repr(value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a {self._named()} has no attribute {name!r} without PyMongo: "
            "pip install 'mmapcache[mongodb]'"
            if name != "_bson"
            else name
        )


def _scope(bson: bytes) -> str:
    from ._mmapcache import Document

    size = struct.unpack_from("<i", bson, 10)[0]
    return repr(Document(bson[14 + size : -1]))[len("Document(") : -1]
