"""Document and Array: what people expect of a Mapping and a Sequence, and other libraries."""

from __future__ import annotations

import contextlib
import copy
import datetime
import gc
import json
import pickle
import pprint
import sys
import textwrap
import threading
import uuid
from collections.abc import ItemsView, KeysView, Mapping, Sequence, ValuesView
from types import MappingProxyType
from typing import Any

import pytest

bson = pytest.importorskip("bson")

from bson import json_util  # noqa: E402
from bson.codec_options import CodecOptions, DatetimeConversion, TypeRegistry  # noqa: E402
from bson.raw_bson import RawBSONDocument  # noqa: E402
from bson.son import SON  # noqa: E402
from support.comparison import same  # noqa: E402
from support.processes import in_child, run_script  # noqa: E402
from support.raw_bson import bson_of, nested  # noqa: E402

import mmapcache  # noqa: E402
from mmapcache import Array, Document  # noqa: E402

STANDARD: Any = CodecOptions(uuid_representation=bson.binary.UuidRepresentation.STANDARD)
SITE: dict[str, Any] = {
    "_id": bson.ObjectId("65a1b2c3d4e5f60718293a4b"),
    "name": "Größe",
    "limits": {"qps": 250, "burst": 1000, "paths": [{"p": "/a", "n": 1}, {"p": "/b", "n": 2.5}]},
    "tags": ["alpha", "beta"],
    "enabled": True,
    "owner": None,
    "ratio": 0.5,
    "big": 2**60,
    "since": datetime.datetime(2024, 2, 29, 12, 30, 15, 250000),
    "token": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "secret": b"\x00\xff",
    "price": bson.Decimal128("9.99"),
}


def make(value: dict[str, Any]) -> Document:
    return Document(bson.encode(value, codec_options=STANDARD))


@pytest.fixture
def site() -> Document:
    return make(SITE)


# ---- as a mapping ----


def test_lookup(site: Document) -> None:
    assert site["limits"]["qps"] == 250
    assert site["limits"] is site["limits"]
    assert site["name"] is site["name"]
    assert site["limits"]["paths"][1]["n"] == 2.5
    assert site.get("name") == "Größe"
    assert site.get("nothing") is None
    assert site.get("nothing", 3) == 3
    assert "name" in site
    assert "nothing" not in site
    assert 5 not in site  # type: ignore[comparison-overlap]
    with pytest.raises(KeyError, match="nothing"):
        site["nothing"]
    with pytest.raises(KeyError):
        site["\ud800"]
    with pytest.raises(KeyError):
        site[5]  # type: ignore[index]
    with pytest.raises(TypeError, match="unhashable"):
        site[[]]  # type: ignore[index]
    with pytest.raises(TypeError):
        site.get()  # type: ignore[call-overload]


def test_lookup_by_other_string_objects(site: Document) -> None:
    """A name that was made at run time finds the very object that a literal finds."""

    class Name(str):
        __slots__ = ()

    for name in ("limits", "tags", "name"):
        made = "".join(list(name))
        assert site[made] is site[name]
        assert site[Name(name)] is site[made]
        assert site["".join(list(name))] is site[sys.intern(name)]


def test_mapping_protocol(site: Document) -> None:
    assert isinstance(site, Mapping)
    assert len(site) == len(SITE)
    assert list(site) == list(SITE) == list(site.keys())
    assert dict(site) == SITE == {**site}
    assert list(site.items()) == list(SITE.items())
    assert list(site.values()) == list(SITE.values())
    assert site | {"x": 1} == {**SITE, "x": 1}
    assert {"x": 1, "name": "old"} | site == {"x": 1, **SITE}
    assert type(site | site) is dict
    with pytest.raises(TypeError):
        site | 5  # type: ignore[operator]
    for method in ("__setitem__", "__delitem__", "update", "pop", "clear"):
        assert not hasattr(site, method)
    with pytest.raises((TypeError, AttributeError)):
        site.extra = 1  # type: ignore[attr-defined]


def test_views(site: Document) -> None:
    keys, items, values = site.keys(), site.items(), site.values()
    assert len(keys) == len(items) == len(values) == len(SITE)
    assert isinstance(keys, KeysView)
    assert isinstance(items, ItemsView)
    assert isinstance(values, ValuesView)
    assert "name" in keys
    assert ("ratio", 0.5) in items
    assert ("ratio", 0.6) not in items
    assert ("nothing", 1) not in items
    assert "ratio" not in items  # type: ignore[operator]
    assert 0.5 in values
    assert 0.6 not in values
    assert keys == SITE.keys()
    assert SITE.keys() == keys
    assert keys != {"name"}
    assert keys > {"name", "tags"}
    assert keys >= SITE.keys()
    assert {"name"} < keys
    assert keys & {"name", "x"} == {"name"}
    assert {"name", "x"} & keys == {"name"}
    assert keys | ["x"] == {*SITE, "x"}
    assert keys - SITE.keys() == set()
    assert keys ^ {"name"} == set(SITE) - {"name"}
    assert keys.isdisjoint(["x"])
    assert not keys.isdisjoint(["x", "name"])
    assert make({"a": 1}).items() == {"a": 1}.items()
    assert "name" in repr(keys)
    assert iter(keys).__length_hint__() == len(SITE)  # type: ignore[attr-defined]


def test_match(site: Document) -> None:
    match site:
        case {"limits": {"qps": qps, "paths": [{"p": first}, *rest]}, "tags": ["alpha", tag]}:
            assert (qps, first, len(rest), tag) == (250, "/a", 1, "beta")
        case _:
            pytest.fail("the pattern must match")


def test_array(site: Document) -> None:
    tags = site["tags"]
    assert isinstance(tags, Array)
    assert isinstance(tags, Sequence)
    assert list(tags) == ["alpha", "beta"] == tags
    assert tags[0] is tags[0] is tags[-2]
    assert tags[1:] == ["beta"]
    assert tags[::-1] == ["beta", "alpha"]
    assert list(reversed(tags)) == ["beta", "alpha"]
    assert "beta" in tags
    assert "gamma" not in tags
    assert tags.index("beta") == 1
    assert tags.index("beta", -1) == 1
    assert tags.count("beta") == 1
    assert tags.to_list() == ["alpha", "beta"]
    assert type(tags.to_list()) is list
    assert tags.raw == bson.encode({"0": "alpha", "1": "beta"})
    for index in (2, -3, 2**70):
        with pytest.raises(IndexError):
            tags[index]
    with pytest.raises(TypeError):
        tags["0"]  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="gamma"):
        tags.index("gamma")
    assert site["limits"]["paths"][0] is next(iter(site["limits"]["paths"]))
    assert not hasattr(tags, "append")


def test_equality(site: Document) -> None:
    twin = make(SITE)
    assert site == twin
    assert site == SITE
    assert SITE == site  # noqa: SIM300 - the other side's __eq__ is asked first
    assert (site != SITE) is False
    assert [site] == [SITE]
    assert {"x": SITE} == {"x": site}  # noqa: SIM300
    assert site == make(dict(reversed(SITE.items())))
    assert make({"a": 1, "b": [1, {"c": 2}]}) == {"a": 1.0, "b": [1.0, {"c": bson.Int64(2)}]}
    assert make({"a": 1}) == make({"a": 1.0})
    assert make({"a": 1}) != {"a": 2}
    assert make({"a": 1}) != {"b": 1}
    assert make({"a": 1}) != {"a": 1, "b": 2}
    assert make({"a": [1]}) != {"a": (1,)}
    assert make({"a": [1]})["a"] != [1, 2]
    assert make({"a": [1]})["a"] != make({"a": [2]})["a"]
    assert make({"a": [1]})["a"] == make({"a": [1.0]})["a"]
    assert make({"a": {}}) != make({"a": []})
    assert site != 5
    assert site["tags"] != 5
    assert site == SON(SITE)
    raw = RawBSONDocument(site.raw)
    assert site == raw
    assert raw == site
    assert RawBSONDocument(bson.encode({"a": 1})) != make({"a": 2})
    assert make({"a": 1}) == RawBSONDocument(bson.encode({"a": 1.0}))
    nan = make({"a": float("nan")})
    assert nan == make({"a": float("nan")})
    with pytest.raises(TypeError):
        site < twin  # type: ignore[operator]  # noqa: B015


def test_hash() -> None:
    a = make({"x": 1, "y": {"z": [1, 2]}})
    b = make({"y": {"z": [1.0, 2]}, "x": 1.0})
    assert a == b
    assert hash(a) == hash(b)
    assert {a: "found"}[b] == "found"
    assert hash(a["y"]["z"]) == hash(b["y"]["z"])
    assert hash(make({"x": 1})) != hash(make({"x": 2}))
    assert hash(make({"x": 1})) != hash(make({"y": 1}))
    assert hash(make({"x": float("nan")})) == hash(make({"x": float("nan")}))
    with pytest.raises(TypeError, match="unhashable"):
        hash(make({"x": bson.Regex("a")}))


def test_copies(site: Document) -> None:
    site["limits"]["qps"]
    assert copy.copy(site) is site
    assert copy.deepcopy(site) is site
    assert site.copy() is site
    assert copy.deepcopy({"a": site["tags"]})["a"] is site["tags"]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(site, protocol))
        assert type(again) is Document
        assert again.raw == site.raw
        nested = pickle.loads(pickle.dumps(site["limits"], protocol))
        assert nested == site["limits"]
        assert pickle.loads(pickle.dumps(site["tags"], protocol)) == ["alpha", "beta"]
    options: Any = CodecOptions(tz_aware=True)
    aware = pickle.loads(pickle.dumps(Document(site.raw, options)))
    assert aware["since"].tzinfo is not None


def test_repr(site: Document) -> None:
    text = repr(site)
    assert text.startswith("Document({'_id': ObjectId('65a1b2c3d4e5f60718293a4b'), 'name': 'Größe'")
    assert "'limits': {'qps': 250" in text
    assert repr(site["tags"]) == "Array(['alpha', 'beta'])"
    assert repr(make({})) == "Document({})"
    huge = make({"text": "ä" * 1000000, "bytes": bytes(1000000), "list": list(range(100000))})
    assert len(repr(huge)) < 2000
    assert "..." in repr(huge)
    deep: Any = 1
    for _ in range(150):
        deep = {"a": deep}
    assert len(repr(make(deep))) < 200
    pprint.pformat(site)
    assert pprint.pformat(site.to_dict())


def test_to_dict(site: Document) -> None:
    plain = site.to_dict()
    assert same(plain, SITE)
    assert type(plain["limits"]) is dict
    assert type(plain["limits"]["paths"]) is list
    plain["name"] = "changed"
    assert site["name"] == "Größe"


def test_raw(site: Document) -> None:
    assert bson.decode(site.raw, STANDARD) == SITE
    assert site["limits"].raw == bson.encode(SITE["limits"])


def test_pluck(site: Document) -> None:
    assert site.pluck("limits.qps") == 250
    assert site.pluck("limits.paths.1.n") == 2.5
    assert site.pluck("tags.0") == "alpha"
    assert site.pluck("limits") == SITE["limits"]
    assert site.pluck("limits.paths") == SITE["limits"]["paths"]
    for path in ("limits.nothing", "tags.2", "tags.-1", "tags.01", "name.x", "limits.paths.n", ""):
        assert site.pluck(path) is None
        assert site.pluck(path, "default") == "default"
    dotted = make({"a.b": 1, "a": {"": {"c": 2}}})
    assert dotted.pluck("a.b") is None
    assert dotted["a.b"] == 1
    assert dotted.pluck("a..c") == 2
    assert site.pluck("\ud800", 1) == 1
    with pytest.raises(TypeError):
        site.pluck(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        site.pluck()  # type: ignore[call-arg]


def test_many_fields() -> None:
    """A document that is too large to be walked each time is indexed; nothing changes by that."""
    value = {f"field_{n:04}": {"n": n} for n in range(3000)}
    document = make(value)
    first = document["field_0001"]
    for name in value:
        assert document[name]["n"] == value[name]["n"]
        assert document["".join(list(name))] is document[name]
    assert document["field_0001"] is first
    assert "nothing" not in document
    assert document.get("nothing") is None
    assert len(document) == 3000
    assert list(document.values())[1] is first
    assert document == value
    assert sys.getsizeof(document) > len(document.raw)


def test_some_fields_then_index() -> None:
    """What was remembered before the index was built stays the same object."""
    value = {f"f{n}": [n] for n in range(60)}
    document = make(value)
    kept = {name: document[name] for name in list(value)[:30]}
    assert all(document[name] is kept[name] for name in kept)
    assert [document[name] for name in value] == list(value.values())
    assert all(document[name] is kept[name] for name in kept)


def test_duplicate_names() -> None:
    """Of fields with one name the first counts, as MongoDB's server reads them."""
    raw = bson_of(b"\x10a\0\1\0\0\0", b"\x10b\0\2\0\0\0", b"\x10a\0\3\0\0\0")
    document = Document(raw)
    assert len(document) == 2
    assert document["a"] == 1
    assert list(document.items()) == [("a", 1), ("b", 2)]
    assert document.to_dict() == {"a": 1, "b": 2} == document
    assert document.pluck("a") == 1
    assert document == make({"b": 2, "a": 1})
    assert document.raw == raw


def test_array_names_do_not_count() -> None:
    """Members are by position, whatever their names are; wrong UTF-8 in them is as good as any."""
    array = bson_of(b"\x10x\0\1\0\0\0", b"\x10\xff\0\2\0\0\0")
    document = Document(bson_of(b"\x04a\0" + array))
    assert document["a"] == [1, 2]
    assert document.pluck("a.1") == 2
    assert document.to_dict() == {"a": [1, 2]}


def test_depth() -> None:
    document = Document(nested(mmapcache.MAX_DEPTH))
    assert mmapcache.MAX_DEPTH == 200
    assert same(document.to_dict(), bson.decode(nested(200)))
    assert document == document.to_dict()
    for depth in (201, 1000, 5000):
        with pytest.raises(mmapcache.InvalidDocument):
            Document(nested(depth))


def test_construction_from_a_mapping() -> None:
    """As Batch.put takes it: dicts, documents, other mappings; UUIDs as MongoDB's standard."""
    plain = {"_id": uuid.UUID(int=7), "limits": {"qps": 5}, "hosts": ["a", "b"]}
    document = Document(plain)
    assert document == plain == Document(document) == Document(MappingProxyType(plain))
    assert document.raw == Document(RawBSONDocument(document.raw)).raw == make(plain).raw
    assert document["hosts"][1] == "b"
    when = {"at": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)}
    assert Document(when, bson.CodecOptions(tz_aware=False))["at"].tzinfo is None
    with pytest.raises(mmapcache.InvalidDocument, match="object"):
        Document({"a": object()})


def test_construction() -> None:
    raw = bytearray(bson.encode({"a": 1}))
    document = Document(raw)
    raw[7] = 2
    assert document["a"] == 1
    assert Document(memoryview(raw))["a"] == 2
    for wrong in (b"", b"\5\0\0\0", bytes(raw) + b"\0", bytes(raw)[:-1] + b"\1"):
        with pytest.raises(mmapcache.InvalidDocument):
            Document(wrong)
    with pytest.raises(TypeError):
        Document()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="a document is a Mapping"):
        Document(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        mmapcache.Array({"0": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        type("Sub", (Document,), {})


# ---- options ----


def test_dates() -> None:
    millis = [0, -1, 951782399999, 253402300799999, -62135596800000, 1709209815250, -86400000]
    raw = bson.encode({str(n): bson.datetime_ms.DatetimeMS(n) for n in millis})
    assert same(Document(raw), bson.decode(raw))
    out = bson.encode({"late": bson.datetime_ms.DatetimeMS(2**60)})
    assert Document(out)["late"] == bson.datetime_ms.DatetimeMS(2**60)
    strict: Any = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME)
    with pytest.raises(ValueError, match="DATETIME_AUTO"):
        Document(out, strict)["late"]


@pytest.mark.parametrize("conversion", list(DatetimeConversion))
@pytest.mark.parametrize("hours", [None, 0, 5, -11])
def test_date_options(conversion: DatetimeConversion, hours: int | None) -> None:
    """As bson.decode with the same options, at and around both ends of datetime's range."""
    zone = None if hours is None else datetime.timezone(datetime.timedelta(hours=hours))
    for aware in (False, True) if hours is None else (True,):
        options: Any = CodecOptions(tz_aware=aware, tzinfo=zone, datetime_conversion=conversion)
        for end in (-62135596800000, 253402300799999, 0):
            for delta in (-1, 0, 1, 3600_000 * 12, -3600_000 * 12):
                raw = bson.encode({"t": bson.datetime_ms.DatetimeMS(end + delta)})
                try:
                    expected = bson.decode(raw, options)["t"]
                except bson.errors.InvalidBSON:
                    with pytest.raises((ValueError, OverflowError)):
                        Document(raw, options)["t"]
                    continue
                found = Document(raw, options)["t"]
                assert type(found) is type(expected)
                assert found == expected
                if isinstance(found, datetime.datetime):
                    assert found.tzinfo == expected.tzinfo


@pytest.mark.parametrize("representation", [0, 3, 4, 5, 6])
def test_uuid_options(representation: int) -> None:
    options: Any = CodecOptions(uuid_representation=representation)
    value = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
    for subtype in (3, 4):
        raw = bson.encode({"u": bson.Binary(value.bytes, subtype), "s": bson.Binary(b"x", subtype)})
        found = Document(raw, options)["u"]
        expected = bson.decode(bson.encode({"u": bson.Binary(value.bytes, subtype)}), options)["u"]
        assert type(found) is type(expected)
        assert found == expected
        assert Document(raw, options)["s"] == bson.Binary(b"x", subtype)
    if representation:
        assert Document(bson.encode({"u": value}, codec_options=options), options)["u"] == value


def test_uuid_is_whole() -> None:
    """A UUID that is made without calling its class is one in every respect."""
    made = make({"u": SITE["token"]})["u"]
    assert made == SITE["token"]
    assert hash(made) == hash(SITE["token"])
    assert (made.hex, made.bytes, made.version, made.is_safe) == (
        SITE["token"].hex,
        SITE["token"].bytes,
        SITE["token"].version,
        SITE["token"].is_safe,
    )
    assert pickle.loads(pickle.dumps(made)) == made
    oid = make({"o": SITE["_id"]})["o"]
    assert oid == SITE["_id"]
    assert hash(oid) == hash(SITE["_id"])
    assert oid.generation_time == SITE["_id"].generation_time
    assert pickle.loads(pickle.dumps(oid)) == oid


def test_options_refused() -> None:
    raw = bson.encode({})
    with pytest.raises(ValueError, match="document_class"):
        Document(raw, CodecOptions(document_class=SON))
    with pytest.raises(ValueError, match="type registry"):
        Document(raw, CodecOptions(type_registry=TypeRegistry(fallback_encoder=str)))
    with pytest.raises(ValueError, match="strict"):
        Document(raw, CodecOptions(unicode_decode_error_handler="ignore"))
    with pytest.raises(TypeError, match="CodecOptions"):
        Document(raw, 5)
    nested = Document(bson.encode({"a": {"t": SITE["since"]}}), CodecOptions(tz_aware=True))
    assert nested["a"]["t"].tzinfo is not None
    assert nested.to_dict()["a"]["t"].tzinfo is not None


# ---- PyMongo's types and neighbours ----


def test_dbref() -> None:
    """A subdocument that is a DBRef becomes one, as bson.decode does; at the top it stays."""
    value = {
        "ref": bson.DBRef("users", 5),
        "full": bson.DBRef("users", bson.ObjectId(), "db", extra=[1]),
        "mixed": {"$id": 1, "x": {"$ref": "y", "$id": 1, "$db": 5}, "$ref": "c"},
        "not": {"$ref": 5, "$id": 1},
        "half": {"$ref": "a"},
        "list": [bson.DBRef("a", 1)],
    }
    raw = bson.encode(value)
    assert same(Document(raw), bson.decode(raw))
    assert same(Document(raw).to_dict(), bson.decode(raw))
    top = bson.encode({"$ref": "a", "$id": 1})
    assert Document(top) == {"$ref": "a", "$id": 1}


def test_bson_encode(site: Document) -> None:
    assert bson.encode(site) == site.raw
    assert bson.encode({"x": [site["limits"]]}) == bson.encode({"x": [SITE["limits"]]})
    with pytest.raises(bson.errors.InvalidDocument):
        bson.encode({"tags": site["tags"]})
    assert bson.decode(bson.encode({"tags": site["tags"].to_list()}))["tags"] == ["alpha", "beta"]


def test_insert_one() -> None:
    """PyMongo takes a Document where it takes a RawBSONDocument."""
    from pymongo.common import validate_is_document_type

    validate_is_document_type("document", make({"a": 1}))
    assert isinstance(make({"a": 1}), RawBSONDocument)


def test_json(site: Document) -> None:
    text = json.dumps(site, default=mmapcache.json_default)
    plain = json.loads(text)
    assert plain["limits"] == SITE["limits"]
    assert plain["_id"] == str(SITE["_id"])
    assert plain["since"] == "2024-02-29T12:30:15.250000Z"
    assert plain["token"] == str(SITE["token"])
    assert plain["secret"] == "AP8="
    assert plain["price"] == "9.99"
    assert json.dumps(site["tags"], default=mmapcache.json_default) == '["alpha", "beta"]'
    aware = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
    assert mmapcache.json_default(aware) == "2024-01-01T00:00:00+00:00"
    with pytest.raises(TypeError, match="'object' has no place in plain JSON: MongoDB has no such"):
        mmapcache.json_default(object())
    options = json_util.JSONOptions(uuid_representation=4, tz_aware=False)
    assert (
        json_util.loads(json_util.dumps(site, json_options=options), json_options=options) == SITE
    )


def test_msgspec(site: Document) -> None:
    """msgspec converts Mappings; an Array it does not know as a sequence: to_dict() is the way."""
    msgspec = pytest.importorskip("msgspec")
    limits = msgspec.defstruct("Limits", [("qps", int)])
    flat = msgspec.defstruct("Flat", [("name", str), ("limits", limits)])
    listed = msgspec.defstruct("Listed", [("tags", list[str])])
    assert msgspec.convert(site, flat, from_attributes=False) == flat("Größe", limits(250))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(site, listed)
    assert msgspec.convert(site.to_dict(), listed) == listed(["alpha", "beta"])
    text = msgspec.json.encode(site["limits"], enc_hook=mmapcache.json_default)
    assert json.loads(text) == SITE["limits"]


def test_pydantic(site: Document) -> None:
    pydantic = pytest.importorskip("pydantic")
    limits = pydantic.create_model("Limits", qps=(int, ...))
    model = pydantic.create_model(
        "Site", name=(str, ...), limits=(limits, ...), tags=(list[str], ...)
    )
    made = pydantic.TypeAdapter(model).validate_python(site)
    assert (made.name, made.limits.qps, made.tags) == ("Größe", 250, ["alpha", "beta"])
    assert pydantic.TypeAdapter(dict[str, Any]).validate_python(site) == SITE


# ---- without PyMongo, in threads, without leaks ----


def test_no_pymongo_needed() -> None:
    """Common types do not import bson; the others say what is missing when there is none."""
    raw = bson.encode({**SITE, "regex": bson.Regex("a")}, codec_options=STANDARD)
    code = f"""
        import sys, json
        sys.modules["bson"] = None
        import mmapcache
        document = mmapcache.Document({raw!r})
        for name in ("name", "limits", "tags", "enabled", "owner", "ratio", "big", "since",
                     "token", "secret"):
            document[name]
        document["limits"].to_dict(), document["limits"]["paths"][0]["p"], len(document)
        list(document), document.pluck("limits.qps"), repr(document)
        mmapcache.json_default(document["limits"]), json.dumps(document["tags"].to_list())
        assert str(document["_id"]) == {str(SITE["_id"])!r}
        for name in ("price", "regex"):
            try:
                document[name]
            except ImportError as error:
                print(error)
        """
    lines = run_script(textwrap.dedent(code)).splitlines()
    assert len(lines) == 2
    assert all("pip install 'mmapcache[mongodb]'" in line for line in lines)


def read_all(document: Document, barrier: threading.Barrier, found: list[list[Any]]) -> None:
    barrier.wait()
    found.append([document["".join(list(name))] for name in document])


def test_threads() -> None:
    """One object per field, however many threads come first."""
    for _ in range(20):
        document = make({**SITE, **{f"n{i}": [i] for i in range(40)}})
        found: list[list[Any]] = []
        barrier = threading.Barrier(4)

        threads = [
            threading.Thread(target=read_all, args=(document, barrier, found)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for others in zip(*found, strict=True):
            assert len({id(other) for other in others}) == 1


def test_nested_outlives_parent() -> None:
    site = make({"a": {"b": {"c": [1, 2, "x" * 100]}}})
    nested = site["a"]["b"]["c"]
    kept = site["a"]
    del site
    assert nested[2] == "x" * 100
    del nested
    assert kept["b"]["c"][0] == 1


def no_leak() -> None:
    raw = make({**SITE, **{f"n{i}": {"x": i} for i in range(40)}}).raw

    def work() -> None:
        for _ in range(50):
            document = Document(raw, STANDARD)
            [document[name] for name in document]
            [document["".join(list(name))] for name in document]
            document == document.to_dict()  # noqa: B015
            repr(document)
            list(document.items())
            pickle.loads(pickle.dumps(document["limits"]))
            document["limits"]["paths"][1:]
            document.keys() & {"name"}
            bson.encode({"x": document["limits"]})
            for wrong in ("nothing", "limits.x"):
                document.get(wrong)
                document.pluck(wrong)
            Document(document)
            Document({"x": [document]})
            for invalid in (raw[:-1], {"x": object()}):
                with contextlib.suppress(mmapcache.InvalidDocument):
                    Document(invalid)

    for _ in range(3):
        work()
    gc.collect()  # empties the interpreter's own lists of free objects
    before = sys.getallocatedblocks()
    for _ in range(10):
        work()
    gc.collect()
    assert sys.getallocatedblocks() - before < 250  # one lost per document would be 500


def test_no_leak() -> None:
    """As many blocks of memory after many documents as before; nobody else is in the child."""
    in_child(no_leak)
