"""The `_id` of a document as the bytes that BSON has for it: its type, and its value.

That is exact whatever it is, hashable, and can be asked for without having been decoded.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import mmapcache
from mmapcache._mmapcache import cut_ids
from mmapcache.sync.identity import mark


def _names(count: int) -> tuple[bytes, ...]:
    """Those of an array's members."""
    return tuple(b"%d\0" % number for number in range(count))


_NAMES = _names(2048)


def of_document(document: bytes) -> bytes:
    """That of any document.

    :raises ValueError: it has none
    :raises mmapcache.InvalidDocument: it is no document
    """
    (one,) = cut_ids(document)
    return one


def of_value(value: Any) -> bytes:
    """That of a document with this `_id`."""
    import bson

    alone = bson.encode({"_id": value})
    return alone[4:5] + alone[9:-1]


def document(element: bytes) -> bytes:
    """`{"_id": …}`."""
    return _framed(element[:1] + b"_id\0" + element[1:])


def value(element: bytes) -> Any:
    """What PyMongo makes of it."""
    import bson

    return bson.decode(document(element), _options())["_id"]


def mark_of(element: bytes) -> int:
    """`identity.mark` of it."""
    return mark(mmapcache.Document(document(element))["_id"])


def one_of(elements: list[bytes]) -> bytes:
    """`{"_id": {"$in": […]}}`."""
    names = _NAMES if len(elements) <= len(_NAMES) else _names(len(elements))
    pairs = zip(elements, names, strict=False)
    array = _framed(b"".join([element[:1] + name + element[1:] for element, name in pairs]))
    return _framed(b"\x03_id\0" + _framed(b"\x04$in\0" + array))


def _framed(content: bytes) -> bytes:
    """A document of these elements."""
    return struct.pack("<i", len(content) + 5) + content + b"\0"


@functools.cache
def _options() -> Any:
    from bson.codec_options import CodecOptions, DatetimeConversion
    from bson.raw_bson import RawBSONDocument

    return CodecOptions(
        document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO
    )
