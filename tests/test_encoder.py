"""The extension's own BSON encoder against PyMongo's: equal bytes, or errors of the same kind."""

from __future__ import annotations

import enum
import math
import random
import re
import types
import uuid
from collections import ChainMap, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from support.raw_bson import nested

import mmapcache

bson = pytest.importorskip("bson")
from bson.codec_options import CodecOptions  # noqa: E402 - after the skip
from bson.datetime_ms import DatetimeMS  # noqa: E402
from bson.raw_bson import RawBSONDocument  # noqa: E402

STANDARD: Any = CodecOptions(uuid_representation=bson.binary.UuidRepresentation.STANDARD)
DOCUMENTS = 600


class Number(enum.IntEnum):
    SEVEN = 7


class Text(str):
    __slots__ = ()


class Bytes(bytes):
    pass


class Real(float):
    pass


class Date(datetime):
    pass


Pair = namedtuple("Pair", "left right")


class Making:
    """Random documents of all that either encoder takes."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        raw = bson.encode({"r": {"x": 1}})
        edge = (0, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63))
        real = (0.0, -0.0, math.inf, -math.inf, math.nan, 1e300, 5e-324)
        self.leaves: tuple[Callable[[], Any], ...] = (
            lambda: rng.choice((None, True, False, Number.SEVEN, Text("\u00e9"), Bytes(b"q"))),
            lambda: rng.choice((*edge, rng.randrange(-(2**63), 2**63))),
            lambda: rng.choice((*real, rng.random(), Real(2.5))),
            self.text,
            self.date,
            lambda: rng.randbytes(rng.choice((0, 1, 50))),
            lambda: uuid.UUID(int=rng.getrandbits(128)),
            lambda: bson.ObjectId(rng.randbytes(12)),
            lambda: mmapcache.object_id(rng.randbytes(12)),
            lambda: bson.Decimal128(rng.choice(("1.50", "NaN", "-Infinity", "0E-20"))),
            lambda: bson.Timestamp(rng.randrange(2**32), rng.randrange(2**32)),
            # Not 255: PyMongo before 4.20 takes that for an error of its own.
            lambda: bson.Binary(b"xyz", rng.choice((0, 1, 2, 3, 4, 6, 128, 254))),
            lambda: rng.choice((bson.Int64(5), bson.MinKey(), bson.MaxKey(), DatetimeMS(2**60))),
            lambda: rng.choice((bson.Regex("a", "i"), re.compile("x", re.IGNORECASE))),
            lambda: rng.choice((bson.Code("x"), bson.Code("x", {"a": 1}))),
            lambda: bson.DBRef("c", 1, "d", x=3),
            lambda: rng.choice((RawBSONDocument(raw), mmapcache.Document(raw))),
        )

    def text(self) -> str:
        letters = "ab\0\u00e4\u20ac\U0001f600_"
        return "".join(self.rng.choices(letters, k=self.rng.choice((0, 1, 300))))

    def date(self) -> datetime:
        rng = self.rng
        zone: tzinfo | None = rng.choice(
            (
                None,
                timezone.utc,
                timezone(timedelta(seconds=rng.randrange(-80000, 80000))),
                timezone(timedelta(microseconds=rng.randrange(-(10**10), 10**10))),
            )
        )
        kind = rng.choice((datetime, Date))
        day = (rng.randrange(2, 9999), rng.randrange(1, 13), rng.randrange(1, 29))
        return kind(*day, rng.randrange(24), 59, rng.randrange(60), rng.randrange(10**6), zone)

    def name(self) -> str:
        names = ("_id", "a", "b", "x.y", "$z", "", "\u00e4\u20ac", Text("s"), "n" * 70)
        return self.rng.choice(names) + self.rng.choice(("", "1"))

    def value(self, depth: int) -> Any:
        chance = self.rng.random()
        if depth > 4 or chance < 0.7:
            return self.rng.choice(self.leaves)()
        if chance < 0.85:
            count = self.rng.choice((0, 1, 3, 12, 120 if depth < 2 else 2))
            members = [self.value(depth + 1) for _ in range(count)]
            return self.rng.choice((list, tuple))(members) if count != 2 else Pair(*members)
        return self.document(depth + 1)

    def document(self, depth: int = 1) -> Mapping[str, Any]:
        count = self.rng.choice((0, 1, 3, 8))
        fields = {self.name(): self.value(depth) for _ in range(count)}
        chance = self.rng.random()
        if chance < 0.7:
            return fields
        if chance < 0.8:
            ordered = OrderedDict(fields)
            if ordered:
                ordered.move_to_end(self.rng.choice(list(ordered)), last=self.rng.random() < 0.5)
            return ordered
        if chance < 0.85:
            son: Mapping[str, Any] = bson.SON(fields)
            return son
        if chance < 0.9:
            return defaultdict(list, fields)
        return types.MappingProxyType(fields) if chance < 0.95 else ChainMap(fields, {"_id": 1})


def test_random_documents_have_the_bytes_that_bson_gives() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    making = Making(random.Random(seed))
    for _ in range(DOCUMENTS):
        document = making.document()
        assert mmapcache.Document(document).raw == bson.encode(document, False, STANDARD), document


def test_what_bson_refuses_is_refused() -> None:
    east = timezone(timedelta(hours=5))
    inside: dict[str, Any] = {}
    inside["inside"] = [inside]
    cases: list[tuple[Any, type[Exception], str]] = [
        ({"a": {"b\0": 1}}, mmapcache.InvalidDocument, r"the name 'b\\x00' has a NUL in it"),
        ({"a": {1: 1}}, mmapcache.InvalidDocument, "field 'a': the names .* are str, not int"),
        ({b"a": 1}, mmapcache.InvalidDocument, "the names within a document are str, not bytes"),
        ({"a": 2**63}, OverflowError, "field 'a': an int of more than 64 bits"),
        ({"a": [-(2**63) - 1]}, OverflowError, "field 'a': an int of more than 64 bits"),
        ({"a": "\ud800"}, UnicodeEncodeError, "surrogates not allowed"),
        ({"\ud800": 1}, UnicodeEncodeError, "surrogates not allowed"),
        ({"a": datetime(1, 1, 1, tzinfo=east)}, OverflowError, "outside of the years 1 to 9999"),
        ({"a": object()}, mmapcache.InvalidDocument, "cannot encode object"),
        ({"a": {1, 2}}, mmapcache.InvalidDocument, "cannot encode object"),
        ({"a": bytearray(b"x")}, mmapcache.InvalidDocument, "cannot encode object"),
        ({"x": inside}, mmapcache.InvalidDocument, "more than 200 documents are nested"),
        ([], TypeError, "a document is a Mapping"),
    ]
    for document, error, text in cases:
        with pytest.raises(error, match=text):
            mmapcache.Document(document)


def marked(marker: object) -> object:
    """Of a class that says that it is one of bson's."""
    return type("Foreign", (), {"_type_marker": marker})()


def test_a_marker_that_is_no_number_of_bsons_is_refused_as_any_foreign_object() -> None:
    """bson's own encoder ends with SystemError or OverflowError there."""

    class Everything:
        def __getattr__(self, name: str) -> int:
            return -1

    with mmapcache.Writer.anonymous(max_size="2MiB") as writer:
        writer.put("c", 1, {"_id": 1})
        for value in (*map(marked, (-1, 2**70, -(2**70), 0, "7")), Everything()):
            with pytest.raises(mmapcache.InvalidDocument, match="none of PyMongo's"):
                mmapcache.Document({"a": value})
            with pytest.raises(mmapcache.InvalidDocument, match="field 'a'"):
                writer.put("c", 1, {"_id": 1, "a": value})
            for refuses in (mmapcache.json_default, mmapcache.object_id, writer.reader()["c"].get):
                with pytest.raises(TypeError):
                    refuses(value)
            assert mmapcache.object_id("6b0b" * 6) != value


def deep(depth: int, array: bool) -> dict[str, Any]:
    document: Any = {}
    for _ in range(depth - 1):
        document = {"a": document} if not array else [document]
    return {"": document} if array else document


def test_two_hundred_documents_deep() -> None:
    assert mmapcache.Document(deep(200, False)).raw == nested(200)
    assert mmapcache.Document(deep(199, True)).raw == bson.encode(deep(199, True))
    for document in (deep(201, False), deep(200, True), {"a": mmapcache.Document(nested(200))}):
        with pytest.raises(mmapcache.InvalidDocument, match="more than 200 documents are nested"):
            mmapcache.Document(document)


def test_an_array_of_a_document_is_written_where_bson_takes_none() -> None:
    array = mmapcache.Document({"a": [1, {"b": bson.Timestamp(1, 2)}]})["a"]
    document = {"list": array, "stamp": bson.Timestamp(1, 2)}
    assert mmapcache.Document(document).raw == bson.encode({**document, "list": array.to_list()})


def test_a_container_that_changes_while_it_is_written() -> None:
    class Changing(tzinfo):
        def utcoffset(self, moment: datetime | None) -> timedelta:
            change()
            return timedelta(0)

        def tzname(self, moment: datetime | None) -> str:
            return "changing"

        def dst(self, moment: datetime | None) -> None:
            return None

    moment = datetime(2026, 1, 1, tzinfo=Changing())
    fields: dict[str, Any] = {"when": moment, "after": 1}
    change: Callable[[], Any] = lambda: fields.update(dict.fromkeys(map(str, range(99))))  # noqa: E731
    with pytest.raises(RuntimeError, match="the dict changed while it was written"):
        mmapcache.Document(fields)
    members: list[Any] = [1, moment, *"abc"]
    change = members.clear
    assert mmapcache.Document({"l": members})["l"].to_list() == [1, datetime(2026, 1, 1)]


def test_uuids_of_keys_are_written_as_the_options_say() -> None:
    """A dict as a key is encoded with the options of its collection."""
    one = uuid.UUID(int=0x0123456789ABCDEF0123456789ABCDEF)
    with mmapcache.Writer.anonymous(max_size="4MiB") as writer:
        for representation in (3, 4, 5, 6):
            options: Any = CodecOptions(uuid_representation=representation)
            raw = bson.encode({"_id": {"u": one}, "n": representation}, codec_options=options)
            with writer.batch() as batch:
                batch.put_raw(f"c{representation}", raw)
            collection = writer.reader().collection(f"c{representation}", options)
            assert collection[{"u": one}]["n"] == representation
        with pytest.raises(ValueError, match="UNSPECIFIED"):
            {"u": one} in writer.reader().collection("c4", CodecOptions())  # noqa: B015
