"""Differential tests: random documents and random damage, judged by PyMongo's own decoder."""

from __future__ import annotations

import copy
import decimal
import pickle
from typing import Any

import pytest

bson = pytest.importorskip("bson")

from bson.codec_options import CodecOptions, DatetimeConversion  # noqa: E402
from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from support.comparison import same  # noqa: E402

import mmapcache  # noqa: E402
from mmapcache import Array, Document  # noqa: E402

OPTIONS: Any = CodecOptions(
    uuid_representation=bson.binary.UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
# The judge of damaged bytes reads no UUIDs: whether 16 bytes are there is no matter of validity.
LENIENT: Any = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)


class FirstWins(dict[str, Any]):
    """What of fields with the same name keeps the first: damage can make such fields."""

    def __setitem__(self, name: str, value: Any) -> None:
        self.setdefault(name, value)


JUDGE: Any = LENIENT.with_options(document_class=FirstWins)


def printable(value: Any) -> bool:
    """Whether PyMongo can print it: 35 digits are valid BSON, and break its repr."""
    try:
        return str(value) != ""
    except decimal.Inexact:
        return False


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
INT64 = st.integers(-(2**63), 2**63 - 1)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    INT64,
    st.integers(-100, 100),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.datetimes().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    INT64.map(bson.datetime_ms.DatetimeMS),
    st.uuids(),
    st.binary(min_size=12, max_size=12).map(bson.ObjectId),
    st.binary(min_size=16, max_size=16).map(bson.Decimal128.from_bid).filter(printable),
    st.builds(bson.Regex, NAMES, st.sampled_from(["", "i", "msux"])),
    st.builds(bson.Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    # Not 255: PyMongo's C encoder takes it for its own error, -1, on CPython 3.10.
    st.builds(bson.Binary, st.binary(), st.sampled_from([1, 2, 5, 6, 8, 128, 254])),
    st.builds(bson.Code, st.text(st.characters(exclude_categories=["Cs"]))),
    st.builds(bson.Code, NAMES, st.dictionaries(NAMES, INT64, max_size=2)),
    st.builds(bson.DBRef, NAMES, INT64),
    st.sampled_from([bson.MinKey(), bson.MaxKey()]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(NAMES, inner, max_size=5)),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=40)


def encode(value: dict[str, Any]) -> bytes:
    return bytes(bson.encode(value, codec_options=OPTIONS))


def check_document(document: Document, expected: dict[str, Any]) -> None:
    """Every way to a field gives the field."""
    assert len(document) == len(expected)
    assert list(document) == list(expected)
    for name, value in expected.items():
        other = "".join(list(name))
        assert same(document[name], value)
        assert document[other] is document[name]
        assert document.get(other) is document[name]
        assert other in document
        if "." not in name:
            assert same(document.pluck(name), value)
        check_value(document[name], value)
    for (name, value), (expected_name, expected_value) in zip(
        document.items(), expected.items(), strict=True
    ):
        assert name == expected_name
        assert same(value, expected_value)
    assert all(map(same, document.values(), expected.values()))
    assert same(dict(document), expected)
    assert same({**document}, expected)
    assert same(document.to_dict(), expected)


def check_value(ours: Any, theirs: Any) -> None:
    if isinstance(ours, Document):
        check_document(ours, theirs)
    elif isinstance(ours, Array):
        assert len(ours) == len(theirs)
        assert same(ours.to_list(), theirs)
        assert same(list(ours), theirs)
        assert same(ours[::-1], theirs[::-1])
        for index, value in enumerate(theirs):
            assert same(ours[index], value)
            assert ours[index] is ours[index - len(theirs)]
            check_value(ours[index], value)


@settings(deadline=None, max_examples=100)
@given(DOCUMENTS)
@example({})
@example({"": {"": [{}, []]}})
def test_every_path(value: dict[str, Any]) -> None:
    raw = encode(value)
    expected = bson.decode(raw, OPTIONS)
    document = Document(raw)
    check_document(document, expected)
    check_document(Document(raw), expected)
    assert document.raw == raw
    assert bson.encode(document) == raw
    assert pickle.loads(pickle.dumps(document)) == document
    assert copy.deepcopy(document) is document
    assert len(repr(document)) < 40000
    fresh = Document(raw)
    assert fresh == document
    plain = document.to_dict()
    if plain == document.to_dict():  # else there is a NaN, which equals itself in one object only
        assert document == plain


@settings(deadline=None, max_examples=100)
@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_equality_and_hash(value: dict[str, Any], random: Any) -> None:
    """The order of the fields and the type of a number do not count, for == and hash alike."""
    items = list(value.items())
    random.shuffle(items)
    document, shuffled = Document(encode(value)), Document(encode(dict(items)))
    assert document == shuffled
    try:
        wanted = hash(document)
    except TypeError:
        with pytest.raises(TypeError):
            hash(shuffled)
    else:
        assert hash(shuffled) == wanted
    other = Document(encode({**value, "one more": 1}))
    assert ("one more" in value) or document != other


@settings(deadline=None, max_examples=150)
@given(
    DOCUMENTS,
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    st.integers(-3, 3),
)
def test_damaged(value: dict[str, Any], flips: list[tuple[float, int]], cut: int) -> None:
    """Accepted exactly when bson.decode accepts, and then read the same; never a crash."""
    raw = bytearray(encode(value))
    for where, byte in flips:
        raw[int(where * len(raw))] = byte
    if cut < 0:
        raw = raw[:cut]
    elif cut > 1:
        raw += bytes(cut)
    damaged = bytes(raw)
    try:
        expected = bson.decode(damaged, JUDGE)
    except bson.errors.InvalidBSON:
        with pytest.raises(mmapcache.InvalidDocument):
            Document(damaged)
        return
    document = Document(damaged, LENIENT)
    assert same(document.to_dict(), expected)
    assert same(document, expected)
    repr(document)


KEYS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    INT64,
    st.integers(-5, 5),
    st.sampled_from([0.0, -0.0, 1.0, 2.0**53, 2.0**63, -(2.0**63), float("inf")]),
    st.floats(allow_nan=False),
    st.binary(max_size=20),
    st.booleans(),
    st.none(),
    st.uuids(),
    st.binary(min_size=12, max_size=12).map(bson.ObjectId),
    st.datetimes().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    st.sampled_from([bson.MinKey(), bson.MaxKey(), bson.Timestamp(1, 2), bson.Binary(b"x", 5)]),
)


def spelled(key: Any, kind: int) -> Any:
    """The same key as another type of number, where there is one."""
    if isinstance(key, bool) or not isinstance(key, (int, float)):
        return key
    if kind == 0 and isinstance(key, int) and -(2**63) <= key < 2**63:
        return bson.Int64(key)
    if kind == 1 and isinstance(key, int) and abs(key) <= 2**53:
        return float(key)
    if kind == 2:
        return bson.Decimal128(str(key)) if isinstance(key, int) else key
    return key


@settings(deadline=None, max_examples=100)
@given(st.lists(KEYS, max_size=30), st.integers(0, 3))
def test_keys(keys: list[Any], kind: int) -> None:
    """A collection with these keys holds what a dict with (type class, value) as its key would."""

    def identity(key: Any) -> tuple[str, Any]:
        number = isinstance(key, (int, float)) and not isinstance(key, bool)
        return ("number" if number else type(key).__name__, key)

    wanted = {identity(key): (key, n) for n, key in enumerate(keys)}
    with mmapcache.Writer.anonymous(max_size="4MiB") as writer:
        with writer.batch() as batch:
            for n, key in enumerate(keys):
                batch.put("c", spelled(key, kind), {"n": n})
        if not keys:
            return
        collection = writer.reader()["c"]
        assert len(collection) == len(wanted)
        for key, n in wanted.values():
            assert collection[key]["n"] == n
            assert collection[spelled(key, kind)]["n"] == n
            assert key in collection
        found = {identity(key) for key in collection}
        assert found == set(wanted)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(NAMES, KEYS, max_size=4))
def test_subdocument_keys(value: dict[str, Any]) -> None:
    """A subdocument as a key, in any spelling of its numbers; it comes back as a Document."""
    with mmapcache.Writer.anonymous(max_size="4MiB") as writer:
        with writer.batch() as batch:
            batch.put("c", value, {"n": 1})
        collection = writer.reader()["c"]
        for kind in range(4):
            assert {name: spelled(key, kind) for name, key in value.items()} in collection
        assert Document(encode(value)) in collection
        assert {**value, "another": 1} not in collection or "another" in value
        (key,) = collection
        if not isinstance(key, bson.DBRef):
            assert isinstance(key, Document)
            assert key == value
            assert collection.get_many([key])[key]["n"] == 1
