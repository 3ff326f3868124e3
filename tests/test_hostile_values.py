"""Readers of a file whose bytes somebody else wrote, or is writing: an answer or CorruptError."""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.processes import in_child
from support.raw_bson import bson_of

import mmapcache

bson = pytest.importorskip("bson")

LEVELS = 200_000
SECONDS = 2.0


def nested_bytes(levels: int, kind: int = 3) -> bytes:
    """A document of so many levels, made in one go: each level is one field more."""
    around = 8  # bytes: length, type, one letter, NUL ... and the closing NUL, which makes 8
    head = b"".join(
        struct.pack("<i", 5 + around * below) + bytes([kind]) + b"0\0"
        for below in range(levels - 1, 0, -1)
    )
    return head + bson_of() + b"\0" * (levels - 1)


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    """Puts other bytes in the place of bytes that the file holds once."""
    assert len(old) == len(new)
    with path.open("r+b") as file:
        at = file.read().find(old)
        assert at > 0
        file.seek(at)
        file.write(new)


def test_nested_bytes_are_a_document() -> None:
    for depth in (1, 2, 50):
        raw = nested_bytes(depth)
        document = bson.decode(raw)
        for _ in range(depth - 1):
            document = document["0"]
        assert document == {}


@pytest.mark.parametrize("kind", [3, 4], ids=["documents", "arrays"])
def test_nesting_without_end(cache_path: Path, kind: int) -> None:
    """What no validator let in is CorruptError at its 201st level, whoever goes down there."""
    deep = nested_bytes(LEVELS, kind)
    end = deep.rindex(b"0")
    other = deep[:end] + b"1" + deep[end + 1 :]
    size = len(deep) - len(bson.encode({"v": b""}))
    fillers = [bson.encode({"v": letter * size}) for letter in (b"x", b"y")]
    with mmapcache.Writer(cache_path, max_size="32MiB") as writer, writer.batch() as batch:
        batch.put("sites", 1, fillers[0])
        batch.put("sites", 2, fillers[1])
    overwrite(cache_path, fillers[0], deep)
    overwrite(cache_path, fillers[1], other)

    def walk(document: Any) -> None:
        for level in range(LEVELS):
            try:
                document = (
                    document["0"] if isinstance(document, mmapcache.Document) else document[0]
                )
            except mmapcache.CorruptError:
                assert level == mmapcache.MAX_DEPTH - 1
                raise

    def pickled(document: Any) -> None:
        kind, arguments = document.__reduce__()
        kind(*arguments)

    def read() -> None:
        with mmapcache.open(cache_path) as cache:
            sites = cache["sites"]
            works: list[Callable[[Any], object]] = [
                walk,
                hash,
                lambda document: document == sites[2],
                lambda document: document != sites[2],
                lambda document: document.to_dict(),
                lambda document: json.dumps(document, default=mmapcache.json_default),
            ]
            for work in works:
                documents = sites.get_many([1])
                with pytest.raises(mmapcache.CorruptError):
                    work(documents.pop(1))
            with pytest.raises(mmapcache.InvalidDocument):
                pickled(sites[1])
            assert "..." in repr(sites[1])
            inner = sites.pluck(1, ".".join(["0"] * 5000))
            with pytest.raises(mmapcache.CorruptError):
                hash(inner)
            first = mmapcache.Document(bson_of())
            assert sites[1] != first

    in_child(read)


EVERYTHING = {
    "regex": bson.Regex("r" * 60_000 + "\u00e9", "ims"),
    "small_regex": bson.Regex("abc", "x"),
    "text": "t" * 700,
    "code": bson.Code("c" * 700),
    "scope": bson.Code("c" * 600, {"a": {"b": 1}}),
    "dbref": bson.DBRef("sites", 5),
    "pointer": {"a": 1},
    "binary": b"b" * 700,
    "old_binary": bson.Binary(b"b" * 20, 2),
    "uuid": bson.Binary(b"u" * 16, 4),
    "oid": bson.ObjectId(b"o" * 12),
    "date": bson.datetime_ms.DatetimeMS(5),
    "decimal": bson.Decimal128("1.5"),
    "timestamp": bson.Timestamp(1, 2),
    "number": 1.5,
    "list": [1, "a", {"b": [True, None]}] * 30,
    "nested": {"a": {"b": {"c": "d" * 600}}},
}


def flip(path: Path, at: int, size: int, seed: int) -> None:
    """Writes other bytes over a part of the file, and the right ones again, until killed."""
    rng = random.Random(seed)
    with path.open("r+b") as file:
        view = mmap.mmap(file.fileno(), 0)
    right = view[at : at + size]
    flags = right.find(b"ims\0")
    zeros = [flags - 1, flags + 3]  # the ends of a regular expression's two texts
    while True:
        where = rng.choice(zeros) if rng.random() < 0.5 else rng.randrange(size)
        view[at + where] = rng.choice([0, 1, 0x0B, 0x41, 0x7F, 0x80, 0xFF])
        for _ in range(rng.randrange(200)):
            pass
        view[at : at + size] = right


def test_values_that_change_while_they_are_read(cache_path: Path) -> None:
    """A process writes into the file what no loader would, while every type is plucked."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    raw = bson.encode({"_id": 1, **EVERYTHING})
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer, writer.batch() as batch:
        batch.put("sites", 1, raw)
    at = cache_path.read_bytes().find(raw)
    child = os.fork()
    if child == 0:
        flip(cache_path, at, len(raw), seed)
    answers = corrupt = 0
    try:
        with mmapcache.open(cache_path, front_bytes=0) as cache:
            sites = cache["sites"]
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                for name in [*EVERYTHING, *["regex"] * 100]:
                    try:
                        value = sites.pluck(1, name)
                        repr(value)
                        if name == "regex" and isinstance(value, bson.Regex):
                            assert len(value.pattern) <= len(EVERYTHING["regex"].pattern) + len(
                                "_ims"
                            )
                        answers += 1
                    except mmapcache.MmapCacheError:
                        corrupt += 1
                    except UnicodeDecodeError:
                        raise
                    except (ValueError, TypeError, OverflowError, ArithmeticError):
                        pass  # what a class of bson's says of such a value
                try:
                    sites[1].to_dict()
                    list(sites.items())
                except (mmapcache.MmapCacheError, ValueError, TypeError, OverflowError):
                    pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert answers > 100


def test_names_that_are_no_text(cache_path: Path) -> None:
    """One byte of a collection's name in the file changed: whoever lists names says so."""
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer, writer.batch() as batch:
        batch.put("collection-of-mine", 1, {"_id": 1})
        batch.put("other", 1, {"_id": 1})
    with mmapcache.open(cache_path) as cache:
        overwrite(cache_path, b"collection-of-mine", b"collection\xffof-mine")
        works: list[Callable[[], object]] = [
            lambda: list(cache),
            lambda: list(cache.keys()),
            lambda: list(cache.items()),
            lambda: list(cache.values()),
            cache.check,
        ]
        for work in works:
            with pytest.raises(mmapcache.CorruptError):
                work()
        with cache.snapshot() as snapshot, pytest.raises(mmapcache.CorruptError):
            list(snapshot)
        assert cache["other"][1] == {"_id": 1}
    assert cache.closed


def test_a_document_that_changes_while_it_is_put(cache_path: Path) -> None:
    """Its checksum is that of the bytes that are stored, whatever another thread writes then."""
    good = bson.encode({"_id": 1, "v": "x" * 1_000_000})
    buffer, at, over = bytearray(good), len(good) - 1000, threading.Event()

    def flip() -> None:
        while not over.is_set():
            buffer[at] = ord("y")
            buffer[at] = ord("x")

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        with mmapcache.Writer(cache_path, max_size="64MiB", retention=0) as writer:
            reader = writer.reader()
            for _ in range(150):
                with writer.batch() as batch:
                    batch.put_raw("sites", memoryview(buffer).toreadonly())
                reader.check()
                with writer.batch() as batch:
                    batch.drop("sites")
    finally:
        over.set()
        flipping.join()
