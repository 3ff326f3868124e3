"""Documents and keys that the benchmarks work on.

Everything is a pure function of an index and a version, so that two processes make the same
documents without talking to each other, and one million of them take about a second: a document
is a template of BSON pieces, encoded once by PyMongo, between which the variable parts are laid.

    pieces[width] = HEAD | key | NEXT | domain | ... | qps | ... | version | TAIL
"""

from __future__ import annotations

import datetime
import functools
import itertools
import random
import struct
from collections.abc import Iterator

import bson

KEY_LENGTH = 24
_MASK = (1 << 64) - 1
DOCUMENT_BYTES = 300
_SPREAD = 20  # sizes are 280 .. 320 bytes, mean 300
_INT = struct.Struct("<i")
_QPS_MARK = 0x51505351
_VERSION_MARK = 0x56455253


def key(index: int) -> str:
    """The key of document `index`: 24 hexadecimal digits, scattered as site keys are."""
    mixed = (index + 1) * 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return f"{mixed ^ mixed >> 31:016x}{index:08x}"


def keys(count: int) -> list[str]:
    """The first `count` keys."""
    return [key(index) for index in range(count)]


def fresh(originals: list[str]) -> list[str]:
    """Equal but not identical copies of `originals`, never hashed before."""
    return [text[:12] + text[12:] for text in originals]


def hashed(originals: list[str]) -> list[str]:
    """Equal but not identical copies of `originals` that already know their Python hash."""
    copies = fresh(originals)
    for text in copies:
        hash(text)
    return copies


def _settings(domain: str) -> dict[str, object]:
    """One customer's settings with marks where the template is cut."""
    return {
        "_id": "k" * KEY_LENGTH,
        "domain": domain,
        "enabled": True,
        "plan": "business",
        "difficulty": 0.75,
        "limits": {"qps": _QPS_MARK, "burst": 250, "window": 60.0},
        "theme": {"name": "light", "accent": "#3366ff"},
        "features": ["audio", "invisible"],
        "updated": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        "version": _VERSION_MARK,
    }


@functools.cache
def _template(size: int) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The fixed pieces of a document of `size` bytes."""
    padding = size - len(bson.encode(_settings("")))
    domain = "d" * padding
    encoded = bson.encode(_settings(domain))
    assert len(encoded) == size
    head, rest = encoded.split(b"k" * KEY_LENGTH)
    middle, rest = rest.split(domain.encode())
    after, rest = rest.split(_INT.pack(_QPS_MARK))
    between, tail = rest.split(_INT.pack(_VERSION_MARK))
    return head, middle, after, between, tail


@functools.cache
def _domain(size: int) -> bytes:
    """The text that fills a document of `size` bytes."""
    padding = size - len(bson.encode(_settings("")))
    return (b"customer.example.org/" * 4)[:padding]


def _size(index: int) -> int:
    return DOCUMENT_BYTES - _SPREAD + (index * 2654435761 >> 8) % (2 * _SPREAD + 1)


def document(index: int, version: int = 0) -> bytes:
    """Document `index` as BSON of 280 to 320 bytes; another `version` changes 8 of its bytes."""
    size = _size(index)
    head, middle, after, between, tail = _template(size)
    return b"".join(
        (
            head,
            key(index).encode(),
            middle,
            _domain(size),
            after,
            _INT.pack(10 + (index + version) % 1000),
            between,
            _INT.pack(version),
            tail,
        )
    )


def documents(count: int, start: int = 0) -> list[bytes]:
    """The documents `start` .. `start + count - 1`."""
    return [document(index) for index in range(start, start + count)]


def batches(items: list[bytes], limit: int = 16 << 20) -> Iterator[bytes]:
    """Concatenations of whole documents of at most `limit` bytes each."""
    chunk: list[bytes] = []
    size = 0
    for item in items:
        if size + len(item) > limit and chunk:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(item)
        size += len(item)
    if chunk:
        yield b"".join(chunk)


def large_document(index: int) -> bytes:
    """A document of 400 nested fields, about 24 KB."""
    fields: dict[str, object] = {"_id": f"large{index:08d}"}
    for field in range(400):
        fields[f"setting_{field:03d}"] = {
            "on": field % 3 == 0,
            "limit": field + index,
            "label": f"{index % 10**9:09d}-{field:04d}",
        }
    return bson.encode(fields)


LARGE_FIELD = "setting_200"
"""The field in the middle of a large document whose leaf `limit` is asked for."""


_FILLER = b"x" * 65536
_SIZED = b"\x02_id\x00" + _INT.pack(KEY_LENGTH + 1)
_SIZED_REST = b"\x00\x10version\x00"
_SIZED_BYTES = 4 + len(_SIZED) + KEY_LENGTH + len(_SIZED_REST) + 4 + len(b"\x02body\x00") + 4 + 2


def sized_document(index: int, size: int, version: int = 0) -> bytes:
    """A document of exactly `size` bytes (at least 100) whose body is one string."""
    body = size - _SIZED_BYTES
    return b"".join(
        (
            _INT.pack(size),
            _SIZED,
            key(index).encode(),
            _SIZED_REST,
            _INT.pack(version),
            b"\x02body\x00",
            _INT.pack(body + 1),
            _FILLER[:body],
            b"\x00\x00",
        )
    )


@functools.cache
def _zipfian_weights(count: int) -> list[float]:
    """The sums of the weights of the first ranks, for each rank."""
    return list(itertools.accumulate(rank**-0.99 for rank in range(1, count + 1)))


def zipfian(count: int, draws: int, seed: int) -> list[int]:
    """Indexes of documents as YCSB draws them: rank r with a weight of 1 / r^0.99, the ranks
    scattered over all documents."""
    sums = _zipfian_weights(count)
    ranks = random.Random(seed).choices(range(count), cum_weights=sums, k=draws)
    # a prime that divides no count in use: each rank has an index of its own
    return [(rank * 2_654_435_761 + 12_345) % count for rank in ranks]


def lognormal_size(source: random.Random) -> int:
    """A size in bytes, lognormal around 1 KiB, cut to 100 .. 65,536."""
    return min(65536, max(100, int(source.lognormvariate(6.93, 1.1))))
