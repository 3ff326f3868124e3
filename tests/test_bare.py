"""Reading and writing where PyMongo is not installed: the same as where it is, or a sentence."""

from __future__ import annotations

import copy
import io
import itertools
import json
import pickle
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.bare import bare, run_bare

import mmapcache
from mmapcache.cli import main
from mmapcache.rare import RareValue

bson = pytest.importorskip("bson")
from bson import json_util  # noqa: E402 - after the skip
from bson.codec_options import CodecOptions  # noqa: E402
from bson.datetime_ms import DatetimeMS  # noqa: E402

OID = "6b0b" * 6
STANDARD: Any = CodecOptions(uuid_representation=bson.binary.UuidRepresentation.STANDARD)
FAR: Any = CodecOptions(tz_aware=True, datetime_conversion=bson.DatetimeConversion.DATETIME_AUTO)
# What a value of each is without PyMongo: an object that is the same, or the class that is missing.
SAME: dict[str, Any] = {
    "oid": bson.ObjectId(OID),
    "reference": bson.DBRef("c", bson.ObjectId(OID), "db", more=bson.ObjectId(OID)),
    "int64": bson.Int64(5),
    "date": datetime(2026, 1, 2, 3, 4, 5, 678000),
    "uuid": uuid.UUID(int=5),
    "bytes": b"\xff\0",
    "text": "grün",
    "nested": {"oid": bson.ObjectId(OID), "since": datetime(2026, 1, 2)},
    "null": None,
    "bool": True,
    "float": 1.5,
}
RARE: dict[str, tuple[Any, str]] = {
    "decimal": (bson.Decimal128("1.10"), "Decimal128"),
    "timestamp": (bson.Timestamp(5, 1), "Timestamp"),
    "regex": (bson.Regex("^a.*'", "imsx"), "Regex"),
    "code": (bson.Code("f('x')"), "Code"),
    "scope": (bson.Code("f()", {"x": 1, "o": bson.ObjectId(OID)}), "Code"),
    "binary": (bson.Binary(b"xy\n", 128), "Binary"),
    "old": (bson.Binary(b"xy", 2), "Binary"),
    "least": (bson.MinKey(), "MinKey"),
    "most": (bson.MaxKey(), "MaxKey"),
    "far": (DatetimeMS(2**60), "DatetimeMS"),
}
ALL = {**SAME, **{name: value for name, (value, _) in RARE.items()}}


def encoded(document: dict[str, Any]) -> bytes:
    return bytes(bson.encode(document, codec_options=STANDARD))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bare")


@pytest.fixture(scope="module")
def path(folder: Path) -> Iterator[Path]:
    """A collection for each type, with it as key and value, and one with all of them."""
    path = folder / "all.mmc"
    with mmapcache.Writer(path) as writer, writer.batch() as batch:
        for name, value in ALL.items():
            batch.put_raw(name, encoded({"_id": value, "v": value}))
        batch.put_raw("all", encoded({"_id": 1, **ALL, "list": list(ALL.values())}))
    yield path


@contextmanager
def said() -> Iterator[Callable[[], str]]:
    """What is printed within, as a terminal of UTF-8 gets it."""
    written = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(written, "utf-8", write_through=True)):
        yield lambda: written.getvalue().decode()


def printed(*words: object) -> str:
    with said() as out:
        assert main([str(word) for word in words]) == 0
        return out()


READ = """
import json, pickle, pprint
import mmapcache

def tried(function):
    try:
        return function()
    except ImportError as error:
        return str(error)

seen = {}
cache = mmapcache.open(sys.argv[1])
for name, collection in cache.items():
    (key,) = list(collection)
    document = collection[key]
    assert collection.get_raw(key) == document.raw and key in collection
    assert {key: 1}[next(iter(collection))] == 1 and pickle.loads(pickle.dumps(key)) == key
    assert document == mmapcache.Document(document.raw) and hash(document)
    assert document == pickle.loads(pickle.dumps(document)) != mmapcache.Document({"_id": 1})
    assert collection == {key: mmapcache.Document(document.raw)} and "_id" in document
    seen[name] = {
        "key": repr(key),
        "repr": repr(document),
        "pprint": pprint.pformat(document),
        "json": json.dumps(document, default=mmapcache.json_default),
        "key json": json.dumps(key, default=mmapcache.json_default),
        "value": tried(lambda: repr(document.get("v"))),
        "dict": tried(lambda: repr(document.to_dict().get("v"))),
    }
print(json.dumps(seen))
"""


def test_every_type_is_listed_printed_and_plain_json(folder: Path, path: Path) -> None:
    seen = json.loads(run_bare(folder, READ, path))
    assert seen.keys() == {*ALL, "all"}
    cache = mmapcache.open(path)
    for name in seen:
        key, document = next(iter(cache[name].items()))
        assert seen[name]["repr"] == repr(document)
        assert seen[name]["pprint"].startswith("Document({")
        assert seen[name]["json"] == json.dumps(document, default=mmapcache.json_default), name
        expected = json.dumps(key, default=mmapcache.json_default)
        assert name == "decimal" or seen[name]["key json"] == expected
        if name in RARE:
            assert seen[name]["key"] == repr(key)
            sentence = f"a value of type {RARE[name][1]} needs PyMongo's bson package: "
            assert seen[name]["value"] == f"{sentence}pip install 'mmapcache[mongodb]'"
            assert seen[name]["dict"] == seen[name]["value"]
        elif name not in ("oid", "reference", "nested", "all"):
            assert seen[name]["key"] == repr(key)
            assert seen[name]["value"] == seen[name]["dict"] == repr(document["v"])
    assert seen["oid"]["key"] == seen["oid"]["value"] == f"object_id('{OID}')"
    shown = f"{{'$ref': 'c', '$id': ObjectId('{OID}'), '$db': 'db', 'more': ObjectId('{OID}')}}"
    assert seen["reference"]["value"] == seen["reference"]["key"] == f"Document({shown})"


COMMANDS = """
from mmapcache.cli import main
path, folder, *keys = sys.argv[1:]
for words in (["ls", path], ["dump", path], ["dump", path, "--format", "canonical"],
              ["dump", path, "--json"], ["dump", path, "all", "--format", "canonical"]):
    assert main(words) == 0, words
for name in sorted(keys[0].split()):
    assert main(["ls", path, name]) == main(["ls", "--json", path, name]) == 0, name
for name, key in zip(keys[1::2], keys[2::2]):
    assert main(["get", path, name, key, "--json", "--canonical"]) == 0, (name, key)
assert main(["get", path, "oid", '{"$oid": "' + "7" * 24 + '"}']) == 1
assert main(["get", path, "timestamp", '{"$timestamp": {"t": 6, "i": 1}}']) == 1
"""

GET = """
from mmapcache.cli import main
for key in sys.argv[2:]:
    if main(["get", sys.argv[1], "c", key, "--pluck", "v"]):
        print("none")
"""


def test_get_takes_a_key_in_each_form(folder: Path) -> None:
    """A document and a date as a key, relaxed and canonical; others are not found by them."""
    path = folder / "forms.mmc"
    day = datetime(2026, 1, 2, 3, 4, 5, 678000)
    inner = {"n": 5, "long": 2**40, "f": 1.5, "day": day, "far": DatetimeMS(2**60)}
    nested = {**inner, "uuid": uuid.UUID(int=5), "list": [bson.Int64(7)]}
    with mmapcache.Writer(path) as writer, writer.batch() as batch:
        for number, one in enumerate((nested, {**nested, "n": 6}, day)):
            batch.put_raw("c", encoded({"_id": one, "v": number}))
    texts = [
        json_util.dumps(value, json_options=json_util.JSONOptions(json_mode=mode, tz_aware=True))
        for value in (bson.decode(encoded(nested), FAR), bson.decode(encoded({"d": day}), FAR)["d"])
        for mode in (json_util.JSONMode.CANONICAL, json_util.JSONMode.RELAXED)
    ]
    texts.append(texts[0].replace('"$numberInt": "5"', '"$numberInt": "6"'))
    texts.append(json.dumps({**json.loads(texts[0]), "uuid": {"$uuid": str(uuid.UUID(int=5))}}))
    texts.append(texts[0].replace('"$numberInt": "5"', '"$numberInt": "x"'))
    out = run_bare(folder, GET, path, *texts)
    assert out.split() == ["0", "0", "2", "2", "1", "0", "none"]


def test_each_command_prints_what_it_prints_with_pymongo(folder: Path, path: Path) -> None:
    cache = mmapcache.open(path)
    keys = [" ".join(ALL)]
    for name in ALL:
        keys += [name, printed("ls", "--json", path, name).strip()]
    without = run_bare(folder, COMMANDS, path, folder, *keys)
    with said() as out:
        exec(COMMANDS, {"sys": type("sys", (), {"argv": ["", str(path), str(folder), *keys]})})
        assert without == out()
    # and that is what PyMongo writes, byte for byte
    options = {
        json_util.JSONMode.CANONICAL: "canonical",
        json_util.JSONMode.RELAXED: "relaxed",
    }
    raw = cache["all"].get_raw(1)
    assert raw is not None
    decoded = bson.decode(raw, FAR)
    for mode, name in options.items():
        spelled = json_util.JSONOptions(json_mode=mode, tz_aware=True)
        text = json_util.dumps(
            decoded, json_options=spelled, ensure_ascii=False, separators=(",", ":")
        )
        assert printed("dump", path, "all", "--format", name) == text + "\n"


def test_stat_check_bson_and_watch(folder: Path) -> None:
    """watch names the keys that change."""
    script = """
from mmapcache.cli import main
path = sys.argv[1]
assert main(["stat", path]) == main(["check", path]) == main(["watch", path, "--count", "0"]) == 0
assert main(["dump", path, "--format", "bson", "--out", sys.argv[2]]) == 0
assert main(["watch", path, "--count", "1", "--json"]) == 0
"""
    with mmapcache.Writer(folder / "watched.mmc") as writer:
        with writer.batch() as batch:
            for name, value in ALL.items():
                batch.put_raw("c", encoded({"_id": value, "n": name}))
        process = bare(folder, script, folder / "watched.mmc", folder / "out")
        assert process.stdout is not None
        for line in process.stdout:
            if '"event":"start"' in line:
                break
        writer.put("c", bson.ObjectId(OID), {"_id": bson.ObjectId(OID), "new": 1})
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    change = json.loads(out)["changes"]["c"]
    assert change["changed"] == {"count": 1, "keys": [{"$oid": OID}]}
    assert change["added"]["count"] == change["removed"]["count"] == 0
    assert len(bson.decode_all((folder / "out" / "c.bson").read_bytes(), FAR)) == len(ALL)


WRITE = """
import datetime, json, re, uuid
import mmapcache
from mmapcache import Document, object_id
zone = datetime.timezone(datetime.timedelta(hours=2))
plain = {
    "x": [None, True, False, 1, -2**31, 2**31, -2**63, 1.5, "gr\\u00fc\\0n", b"\\0x", ("a", {})],
    "when": [datetime.datetime(2026, 1, 2, 3, 4, 5, 678901), datetime.datetime(1969, 1, 1, 0, 0, 0,
             1, zone)],
    "id": [object_id(sys.argv[2]), uuid.UUID(int=5)],
    "_id": {"a": 1, "o": object_id(sys.argv[2])},
}
with mmapcache.Writer(sys.argv[1]) as writer:
    cache = writer.reader()
    writer.put("c", plain["_id"], plain)
    document = cache["c"][plain["_id"]]
    writer.put("c", object_id(sys.argv[2]), {"doc": document, "list": document["x"]})
    print(document.raw.hex())
    print(cache["c"][object_id(sys.argv[2])].raw.hex())
    inside = []
    inside.append(inside)
    refused = [{"a": {"b": object()}}, {"a": re.compile("x")}, {"a\\0": 1}, {1: 1}, {"n": 2**63},
               {"s": "\\ud800"}, {"l": inside}, {"d": datetime.datetime(1, 1, 1, tzinfo=zone)}]
    for bad in refused:
        try:
            writer.put("c", 1, bad)
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
    try:
        cache["c"].get({"a": object()})
    except TypeError as error:
        print(error)
    assert 1 not in cache["c"] and {"a": 2**70} not in cache["c"]
"""


def test_a_writer_takes_plain_dicts(folder: Path) -> None:
    first, second, *sentences = run_bare(folder, WRITE, folder / "own.mmc", OID).splitlines()
    plain = {
        "_id": {"a": 1, "o": bson.ObjectId(OID)},
        "x": [
            *(None, True, False, 1, -(2**31), 2**31, -(2**63), 1.5, "gr\u00fc\0n", b"\0x"),
            ["a", {}],
        ],
        "when": [datetime(2026, 1, 2, 3, 4, 5, 678000), datetime(1968, 12, 31, 22)],
        "id": [bson.ObjectId(OID), uuid.UUID(int=5)],
    }
    assert bytes.fromhex(first) == encoded(plain)
    assert bytes.fromhex(second) == encoded({"doc": plain, "list": plain["x"]})
    nothing = (
        "is none of the types that a document takes without PyMongo; those of its bson package "
        "need: pip install 'mmapcache[mongodb]'"
    )
    surrogate = "'utf-8' codec can't encode character '\\ud800' in position 0"
    assert sentences == [
        f"InvalidDocument: field 'b': 'object' {nothing}",
        f"InvalidDocument: field 'a': 're.Pattern' {nothing}",
        "InvalidDocument: the name 'a\\x00' has a NUL in it, which BSON cannot write",
        "InvalidDocument: the names within a document are str, not int",
        "OverflowError: field 'n': an int of more than 64 bits has no place in BSON; a str has, or "
        "a float",
        f"UnicodeEncodeError: {surrogate}: surrogates not allowed",
        "InvalidDocument: field 'l': more than 200 documents are nested within each other",
        "OverflowError: field 'd': this date is, in UTC, outside of the years 1 to 9999",
        f"this cannot be a key: field 'a': 'object' {nothing}",
    ]


UNPICKLED = """
import json, pickle
import mmapcache
rare = pickle.loads(bytes.fromhex(sys.argv[1]))
print(json.dumps(rare, default=mmapcache.json_default))
"""


def test_a_rare_value_that_came_from_elsewhere_is_plain_json(folder: Path) -> None:
    """In a process whose caches have made none."""
    rare = RareValue(encoded({"": bson.Decimal128("1.50")}))
    assert run_bare(folder, UNPICKLED, pickle.dumps(rare).hex()) == '"1.50"\n'


# ---- with PyMongo ----


def test_an_object_id_is_as_good_as_an_objectid() -> None:
    theirs, ours = bson.ObjectId(OID), mmapcache.object_id(OID)
    other = mmapcache.object_id(b"\x6b\x0b" * 5 + b"\x6b\x0c")
    assert ours == theirs == ours and hash(ours) == hash(theirs) and {theirs: 1}[ours] == 1
    assert ours != other and theirs != other and ours < other and theirs < other and other > theirs
    assert not ours < theirs and ours <= theirs and ours != OID and ours != theirs.binary
    assert ours == mmapcache.object_id(theirs) == mmapcache.object_id(theirs.binary)
    assert ours == mmapcache.object_id(OID.upper()) == mmapcache.object_id(ours)
    assert (str(ours), repr(ours), ours.binary) == (OID, f"object_id('{OID}')", theirs.binary)
    assert copy.deepcopy(ours) == pickle.loads(pickle.dumps(ours)) == ours
    assert encoded({"a": ours}) == encoded({"a": theirs})
    assert json.dumps([ours], default=mmapcache.json_default) == f'["{OID}"]'
    for bad in (OID[:-1], OID + "0", OID[:-1] + "g", "\u0661" * 24, b"x" * 11, ""):
        with pytest.raises(ValueError, match="24 hexadecimal digits, or 12 bytes"):
            mmapcache.object_id(bad)
    with pytest.raises(TypeError, match="not of int"):
        mmapcache.object_id(5)
    with mmapcache.Writer.anonymous(max_size="4MiB") as writer:
        writer.put("c", ours, {"_id": theirs})
        cache = writer.reader()
        assert cache["c"][theirs] is cache["c"][ours]
        assert type(next(iter(cache["c"]))) is bson.ObjectId
        assert cache["c"].get_many([ours]) == {theirs: {"_id": theirs}}
        assert writer.put("c", theirs, {"_id": ours}) is False


def test_a_missed_str_hints_at_the_objectid_of_these_digits() -> None:
    with mmapcache.Writer.anonymous(max_size="4MiB") as writer:
        writer.put("c", bson.ObjectId(OID), {"n": 1})
        cache = writer.reader()
        with cache.snapshot() as snap:
            for names in (cache, snap):
                collection = names["c"]
                built = collection.map(dict)
                for mapping in (collection, collection, built):  # then from the front cache
                    with pytest.raises(KeyError) as caught:
                        mapping[OID]
                    assert f"look it up as mmapcache.object_id('{OID}')" in caught.value.args[0]
                for mapping, key in itertools.product(
                    (collection, built), ("7" * 24, "6b0b", "x" * 24, 5)
                ):
                    with pytest.raises(KeyError) as caught:
                        mapping[key]
                    assert caught.value.args == (key,)
                with pytest.raises(LookupError) as other:  # who says what is missing is asked
                    collection.map(dict, missing=LookupError)[OID]
                assert (other.type, other.value.args) == (LookupError, (OID,))
                assert collection.get(OID) is None and OID not in collection


def test_the_hint_needs_no_pymongo(folder: Path, path: Path) -> None:
    script = """
import mmapcache
collection = mmapcache.open(sys.argv[1])["oid"]
for mapping in (collection, collection.map(dict)):
    try:
        mapping[sys.argv[2]]
    except KeyError as error:
        print(error.args[0])
    assert mapping[mmapcache.object_id(sys.argv[2])]
"""
    hints = run_bare(folder, script, path, OID).splitlines()
    hint = f"look it up as mmapcache.object_id('{OID}')"
    assert len(hints) == 2 and all(line.endswith(hint) for line in hints)


def test_plain_json_of_what_has_no_plain_form() -> None:
    """The same on its own, and of a document, whoever made the object."""
    for name, (value, _) in RARE.items():
        alone = json.dumps(value, default=mmapcache.json_default)
        document = mmapcache.Document(encoded({"v": value}))
        assert json.dumps(document, default=mmapcache.json_default) == f'{{"v": {alone}}}', name
        rare = RareValue(encoded({"": value}))
        assert json.dumps(rare, default=mmapcache.json_default) == alone
        assert repr(rare) == repr(document["v"])
        assert rare == RareValue(encoded({"": value})) and hash(rare) and rare != alone
    decimal = RareValue(encoded({"": bson.Decimal128("1.50")}))
    assert str(decimal) == "1.50"
    assert repr(RareValue(encoded({"": bson.ObjectId(OID)}))) == f"RareValue({{'$oid': '{OID}'}})"
    with pytest.raises(AttributeError, match=r"'to_decimal' without PyMongo: pip install"):
        decimal.to_decimal()
    with pytest.raises(TypeError, match="no place in plain JSON"):
        mmapcache.json_default(object())


def test_a_rare_key_finds_what_its_class_finds() -> None:
    with mmapcache.Writer.anonymous(max_size="4MiB") as writer:
        for number, (value, _) in enumerate(RARE.values()):
            writer.put("c", value, {"n": number})
        collection = writer.reader()["c"]
        for number, (value, _) in enumerate(RARE.values()):
            assert collection[RareValue(encoded({"": value}))]["n"] == number
            assert writer.put("d", number, {"v": RareValue(encoded({"": value}))})
        values = [document["v"] for document in writer.reader()["d"].values()]
        assert all(value in values for value in itertools.islice(ALL.values(), 11, None))
