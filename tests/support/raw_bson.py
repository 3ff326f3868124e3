"""BSON that no encoder makes, byte by byte."""

from __future__ import annotations


def bson_of(*elements: bytes) -> bytes:
    """A document of elements that are bytes already: type, name, NUL, value."""
    body = b"".join(elements)
    return (len(body) + 5).to_bytes(4, "little") + body + b"\0"


def nested(depth: int) -> bytes:
    """A document that is `depth` documents deep, itself included."""
    document = bson_of()
    for _ in range(depth - 1):
        document = bson_of(b"\x03a\0" + document)
    return document
