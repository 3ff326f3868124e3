"""Python keys and MongoDB's equality of them, through a real collection."""

from __future__ import annotations

import datetime
import sys
import uuid
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from support.processes import run_script

bson = pytest.importorskip("bson")

from bson.codec_options import CodecOptions  # noqa: E402
from bson.raw_bson import RawBSONDocument  # noqa: E402
from bson.son import SON  # noqa: E402

import mmapcache  # noqa: E402
from mmapcache import Document  # noqa: E402


@pytest.fixture
def writer() -> Iterator[mmapcache.Writer]:
    with mmapcache.Writer.anonymous(max_size="8MiB") as writer:
        yield writer


def put(writer: mmapcache.Writer, *keys: Any) -> mmapcache.Collection:
    """A collection with these keys, the values counting them from 0."""
    with writer.batch() as batch:
        batch.drop("c")
        for number, key in enumerate(keys):
            batch.put("c", key, {"n": number})
    return writer.reader()["c"]


NATURAL = [
    "text",
    "",
    "grün",
    "nul\0within",
    1,
    -(2**63),
    2**63 - 1,
    1.5,
    1e300,
    float("-inf"),
    True,
    False,
    None,
    b"",
    b"\x00\xff",
    uuid.UUID(int=5),
    bson.ObjectId("65a1b2c3d4e5f60718293a4b"),
    datetime.datetime(2024, 2, 29, 1, 2, 3, 4000),
    datetime.datetime(1, 1, 1),
    bson.Decimal128("0.1"),
    bson.Regex("a", "i"),
    bson.Timestamp(1, 2),
    bson.Binary(b"x", 5),
    bson.Code("f()"),
    bson.Code("f()", {"x": 1}),
    bson.MinKey(),
    bson.MaxKey(),
    bson.datetime_ms.DatetimeMS(2**60),
    {"a": 1, "b": [{"c": 2.5}]},
]


def test_there_and_back(writer: mmapcache.Writer) -> None:
    """Every type of key is found, and comes back as it is."""
    collection = put(writer, *NATURAL)
    assert len(collection) == len(NATURAL)
    found = list(collection)
    for number, key in enumerate(NATURAL):
        assert collection[key]["n"] == number
        same = [other for other in found if other == key and type(other) is type(key)]
        assert len(same) == 1 or isinstance(key, dict)
    assert {"a": 1, "b": [{"c": 2.5}]} in found


EQUAL = [
    [
        1,
        1.0,
        bson.Int64(1),
        bson.Decimal128("1"),
        bson.Decimal128("1.000"),
        bson.Decimal128("10E-1"),
    ],
    [0, 0.0, -0.0, bson.Decimal128("-0"), bson.Decimal128("0E+100")],
    [2**53, 2.0**53],
    [2**53 + 1],
    [2**63, 2.0**63, bson.Decimal128(str(2**63))],
    [10**30, bson.Decimal128("1E30"), bson.Decimal128(str(10**30))],
    [-(10**30), bson.Decimal128("-1E30")],
    [float("nan"), bson.Decimal128("NaN"), -float("nan")],
    [float("inf"), bson.Decimal128("Infinity")],
    [0.5, bson.Decimal128("0.50")],
    [0.1],
    [bson.Decimal128("0.1"), bson.Decimal128("0.10")],
    [True],
    ["1"],
    [b"1", bson.Binary(b"1", 0)],
    [uuid.UUID(int=7), bson.Binary(uuid.UUID(int=7).bytes, 4)],
    [
        datetime.datetime(2024, 1, 1, 12),
        datetime.datetime(2024, 1, 1, 12, 0, 0, 999),
        datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone.utc),
        datetime.datetime(2024, 1, 1, 14, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    ],
    [
        {"a": 1, "b": [2]},
        {"a": 1.0, "b": [bson.Decimal128("2.0")]},
        SON([("a", 1), ("b", (2,))]),
        Document(bson.encode({"a": 1, "b": [2]})),
        RawBSONDocument(bson.encode({"a": bson.Int64(1), "b": [2.0]})),
    ],
    [{"b": [2], "a": 1}],
    [bson.DBRef("c", 1), {"$ref": "c", "$id": 1}],
]


def test_equality(writer: mmapcache.Writer) -> None:
    """Spellings of one key are one, and nothing else is: each class against all the others."""
    collection = put(writer, *(spelling for group in EQUAL for spelling in group))
    assert len(collection) == len(EQUAL)
    last = -1
    for group in EQUAL:
        last += len(group)
        for spelling in group:
            assert spelling in collection
            assert collection[spelling]["n"] == last, spelling


def test_limit(writer: mmapcache.Writer) -> None:
    """At most 1,024 bytes; a longer one is refused by put and merely absent for a lookup."""
    longest = ["x" * 1024, "ü" * 512, b"x" * 1024]
    collection = put(writer, *longest)
    assert [collection[key]["n"] for key in longest] == [0, 1, 2]
    for key in ("x" * 1025, "ü" * 513, b"x" * 1025, {"a": "x" * 1100}, "x" * 10**6):
        assert key not in collection
        assert collection.get(key, 5) == 5
        with pytest.raises(KeyError):
            collection[key]
        with pytest.raises(mmapcache.LimitError), writer.batch() as batch:
            batch.put("c", key, {})


def test_keys_that_cannot_be(writer: mmapcache.Writer) -> None:
    """A number or a text that no _id can be is absent; a put of it says why."""
    collection = put(writer, 1)
    for key in (10**40 + 1, -(10**40) - 1, 2**2000, "\ud800", {"a": 2**70}):
        assert key not in collection
        assert collection.get(key) is None
        with pytest.raises(mmapcache.InvalidDocument), writer.batch() as batch:
            batch.put("c", key, {})


def test_wrong_types(writer: mmapcache.Writer) -> None:
    collection = put(writer, 1)
    wrong: list[Any] = [object(), [1], (1,), {1}, bytearray(b"a"), 1j, {"a": object()}, {1: 2}]
    wrong.append(Document(bson.encode({"a": [1]}))["a"])
    for key in wrong:
        with pytest.raises(TypeError):
            collection[key]
        with pytest.raises(TypeError):
            collection.get(key)
        with pytest.raises(TypeError), writer.batch() as batch:
            batch.put("c", key, {})


def test_subclasses(writer: mmapcache.Writer) -> None:
    """Subclasses of str, int and UUID are the key that they hold."""

    class Name(str):
        __slots__ = ()

    class Number(int):
        pass

    class Identity(uuid.UUID):
        pass

    collection = put(writer, "a", 5, uuid.UUID(int=9))
    assert collection[Name("a")]["n"] == 0
    assert collection[Number(5)]["n"] == 1
    assert collection[Identity(int=9)]["n"] == 2


def test_no_python_code_runs_for_the_keys_of_a_database(writer: mmapcache.Writer) -> None:
    """Each is read by its slot or in C: whatever a class says in Python, it is not asked."""

    class Identity(uuid.UUID):
        @property
        def bytes(self) -> bytes:
            raise AssertionError("nobody needs this")

    number = 0x8123456789ABCDEF0123456789ABCDEF
    put(writer, uuid.UUID(int=number), mmapcache.object_id("6b" * 12), bson.ObjectId("7c" * 12))
    collection = writer.reader()["c"]
    keys = [*collection, Identity(int=number), mmapcache.object_id("6b" * 12)]
    ran: list[str] = []
    before = sys.getprofile()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            ran.append(frame.f_code.co_name)

    for _ in range(2):  # at the first time something may be imported
        ran.clear()
        sys.setprofile(note)
        try:
            found = list(map(collection.get, keys))
        finally:
            sys.setprofile(before)
    assert None not in found and ran == []


def test_an_object_id_is_known_before_a_date_is_looked_for() -> None:
    said = run_script("""
import sys, types, mmapcache
key = mmapcache.object_id("6b" * 12)
with mmapcache.Writer.anonymous(max_size="4MiB") as writer:
    writer.put("c", key, {})
    sys.modules["datetime"] = types.ModuleType("datetime")  # no class in it
    print(key in writer.reader()["c"])
""")
    assert said == "True\n"


@pytest.mark.parametrize("representation", [3, 4, 5, 6])
def test_uuid_representation(writer: mmapcache.Writer, representation: int) -> None:
    """Keys follow the codec options of the collection, in both directions."""
    options: Any = CodecOptions(uuid_representation=representation)
    key = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
    with writer.batch() as batch:
        batch.put_raw("c", bson.encode({"_id": key}, codec_options=options))
    collection = writer.reader().collection("c", codec_options=options)
    assert key in collection
    assert list(collection) == [key]
    assert {"x": key} not in collection


def test_uuid_unspecified(writer: mmapcache.Writer) -> None:
    options: Any = CodecOptions()
    key = uuid.UUID(int=5)
    put(writer, key)
    collection = writer.reader().collection("c", codec_options=options)
    assert list(collection) == [bson.Binary(key.bytes, 4)]
    assert bson.Binary(key.bytes, 4) in collection
    with pytest.raises(ValueError, match="UNSPECIFIED"):
        collection[key]


def test_common_keys_need_no_pymongo() -> None:
    code = """
import sys
sys.modules["bson"] = None
import datetime, uuid, mmapcache
empty = b"\\5\\0\\0\\0\\0"
keys = ["a", "\\u00fc", 1, 2**64, 1.5, True, None, b"x", uuid.UUID(int=5),
        datetime.datetime(2024, 1, 1), mmapcache.Document(empty)]
with mmapcache.Writer.anonymous(max_size="4MiB") as writer:
    with writer.batch() as batch:
        for key in keys:
            batch.put("c", key, empty)
    collection = writer.reader()["c"]
    assert all(key in collection for key in keys)
    assert len(list(collection)) == len(keys)
    assert {"a": 1} not in collection
    try:
        {"a": object()} in collection
    except TypeError as error:
        print(error)
    try:
        object() in collection
    except TypeError:
        print("TypeError")
"""
    said = run_script(code)
    assert "pip install 'mmapcache[mongodb]'" in said
    assert "TypeError" in said
