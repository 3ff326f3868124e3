"""The public surface, operation by operation, each as something that can be done again and again.

An operation makes cases. A case is a call without arguments, all that it needs having been made
before, so that nothing but the operation allocates in it; how to show its answer; and what must
hold afterwards, whether it succeeded or not. Its answer must be the same each time.
"""

from __future__ import annotations

import copy
import importlib.machinery
import importlib.util
import itertools
import operator
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from support.raw_bson import bson_of

import mmapcache
from mmapcache import _mmapcache


def plain(value: Any) -> Any:
    """The answer in plain types, in an order of its own."""
    if isinstance(value, mmapcache.Document):
        return value.to_dict()
    if isinstance(value, mmapcache.Array):
        return value.to_list()
    if isinstance(value, mmapcache.Collection):
        return f"collection {value.name}"
    if isinstance(value, dict):
        return {plain(name): plain(member) for name, member in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(repr(plain(member)) for member in value)
    if isinstance(value, (list, tuple)):
        return [plain(member) for member in value]
    return value


def show(value: object) -> str:
    """What two answers are compared by."""
    return repr(plain(value))


@dataclass
class Case:
    """One call to be made with failing allocations.

    An exception of a class in `raises` is an answer, too; one that `allowed` accepts is what
    others make of MemoryError. `after` gets whether there was an answer, and raises when anything
    is not as it must be. Unless `repeat` is off, the call is then made again and must give the
    right answer. A call that raises is no lambda: an exception that passes a frame of Python code
    is lost by CPython when it has no memory for the traceback.
    """

    call: Callable[[], object]
    show: Callable[[Any], str] = show
    after: Callable[[bool], object] = lambda succeeded: None
    repeat: bool = True
    raises: tuple[type[BaseException], ...] = ()
    allowed: Callable[[BaseException], bool] = lambda error: False

    def answer(self, result: object, error: BaseException | None) -> str | None:
        """What the call answered, to be compared; None for an exception that is no answer."""
        if error is None:
            return self.show(result)
        return type(error).__name__ if isinstance(error, self.raises) else None

    def right_answer(self) -> str:
        """The call made with memory."""
        try:
            return self.show(self.call())
        except self.raises as error:
            return self.answer(None, error) or ""


@dataclass(frozen=True)
class Operation:
    """What makes the cases; `first_use`: each in a process that has not done it yet."""

    make: Callable[[World], Case]
    first_use: bool = False


def pymongo_decoding(error: BaseException) -> bool:
    """PyMongo makes InvalidBSON of any exception while it decodes, of MemoryError too."""
    return isinstance(error, InvalidBSON)


def pymongo_refusing(error: BaseException) -> bool:
    """PyMongo's encoder, alone too, may forget an exception while it makes InvalidDocument."""
    foreign = ("bson.errors.InvalidDocument", "<function encode ", "error return without exception")
    return isinstance(error, SystemError) and any(words in str(error) for words in foreign)


OPERATIONS: dict[str, Operation] = {}

# PyDict_SetDefaultRef of CPython 3.13 goes on after it found no memory for a larger dict, and
# leaves a broken one. Whoever imports anything calls it, for strings to intern and for types.
CAN_FAIL_IMPORTS = sys.version_info[:2] != (3, 13)


def operation(
    name: str, *, first_use: bool = False, imports: bool = False
) -> Callable[[Callable[[World], Case]], Callable[[World], Case]]:
    """Enters a function that makes cases under a name. First uses import, too."""

    def enter(make: Callable[[World], Case]) -> Callable[[World], Case]:
        assert name not in OPERATIONS, name
        if CAN_FAIL_IMPORTS or not (first_use or imports):
            OPERATIONS[name] = Operation(make, first_use)
        return make

    return enter


def extension_path() -> str:
    """The file of the extension, as the dynamic linker names it."""
    assert _mmapcache.__file__ is not None
    return _mmapcache.__file__


# One value of each BSON type and what else makes a difference. Raw ones PyMongo does not write.
VALUES: dict[str, Any] = {
    "double": 2.5,
    "text": "some text that is no name",
    "text not ASCII": "früh übt sich",
    "document": {"qps": 1000, "text": "nested text"},
    "array": [1000, "member of an array", {"n": 1}],
    "bytes": b"\x00\x01 bytes of a value",
    "binary": bson.Binary(b"binary of a user", 128),
    "uuid": bson.Binary(bytes(range(16)), 4),
    "objectid": bson.ObjectId("0123456789abcdef01234567"),
    "bool": True,
    "date": datetime(2024, 2, 29, 12, 30, 1, 5000),
    "null": None,
    "regex": bson.Regex("^a.*b$", "im"),
    "dbref": bson.DBRef("other", 1000, "database"),
    "code": bson.Code("function () {}"),
    "code with scope": bson.Code("function () {}", {"a": 1000}),
    "int32": 100000,
    "int64": bson.Int64(1 << 40),
    "timestamp": bson.Timestamp(1000, 2000),
    "decimal": bson.Decimal128("12345.6789"),
    "min key": bson.MinKey(),
    "max key": bson.MaxKey(),
    "date out of range": bson.datetime_ms.DatetimeMS(1 << 55),
}
RAW_VALUES = {
    "undefined": (6, b""),
    "symbol": (14, b"\x0a\x00\x00\x00long text\x00"),
    "dbpointer": (12, b"\x06\x00\x00\x00other\x00" + bytes(range(12))),
    "binary of the old subtype": (5, b"\x09\x00\x00\x00\x02\x05\x00\x00\x00bytes"),
}
RAW_VALUE_DOCUMENTS = {
    name: bson_of(bytes([kind]) + b"v\0" + value) for name, (kind, value) in RAW_VALUES.items()
}
KEYS: dict[str, Any] = {
    "text": "key of some text",
    "text not ASCII": "schlüssel",
    "long text": "k" * 900,
    "int": 1000000,
    "int of a double": 1 << 70,
    "int of a decimal": 10**30 + 1,
    "double": 1.5,
    "bool": True,
    "bytes": b"key of bytes",
    "none": None,
    "date": datetime(2024, 1, 1),
    "date with a zone": datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    "uuid": uuid.UUID(int=1 << 100 | 5),
    "objectid": bson.ObjectId("00112233445566778899aabb"),
    "binary": bson.Binary(b"key", 128),
    "decimal": bson.Decimal128("1.25"),
    "dict": {"a": 1000, "b": "text"},
    "raw": RawBSONDocument(bson.encode({"a": 2000})),
    "timestamp": bson.Timestamp(5, 6),
}
# An int that MongoDB has as another number only.
AS_STORED: dict[str, Any] = {
    "int of a double": float(1 << 70),
    "int of a decimal": bson.Decimal128(str(10**30 + 1)),
}
OPTIONS: Any = CodecOptions(
    tz_aware=True,
    tzinfo=timezone(timedelta(hours=3)),
    uuid_representation=3,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
AWARE: Any = CodecOptions(tz_aware=True)
ENCODE: Any = CodecOptions(uuid_representation=4)
LARGE = {"_id": "large", "text": "x" * 5000, **{f"field {n}": n * 1000 for n in range(40)}}
MIXED = {
    "_id": "mixed",
    "limits": {"qps": 1000, "burst": {"size": 2000}},
    "hosts": [{"name": "first host"}, {"name": "second host"}, "third host"],
    "since": datetime(2024, 5, 6, 7, 8, 9),
    "owner": bson.ObjectId("0123456789abcdef01234567"),
    "naïve": "ünïcode",
    "raw": b"0123456789",
}


def encode(document: dict[str, Any]) -> bytes:
    """Its BSON, made by PyMongo."""
    return bytes(bson.encode(document, codec_options=ENCODE))


def fresh(name: str) -> str:
    """A text of its own that nobody has hashed, as a request brings it."""
    return (name + " ")[:-1]


class World:
    """A cache in a directory of its own, filled without anything that an operation learns."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = str(directory / "cache")
        self.serial = itertools.count()
        self.writer = mmapcache.Writer(self.path, max_size="8MiB", retention=0)
        with self.writer.batch() as batch:
            batch.put_raw("sites", b"".join(map(encode, (MIXED, LARGE))))
            stored = [AS_STORED.get(name, key) for name, key in KEYS.items()]
            batch.put_raw("keys", b"".join(encode({"_id": key}) for key in stored))
            batch.put_raw("größen", encode({"_id": "ä", "n": 1000}))
            batch.put_raw("many", b"".join(encode({"_id": f"k{n}", "n": n}) for n in range(70)))
            batch.state = b"state of the loader"
        self.cache = mmapcache.open(self.path)
        # What must not be referred to more often after an enumeration than before it.
        self.watched: dict[str, Any] = {
            "Document": mmapcache.Document,
            "Array": mmapcache.Array,
            "Collection": mmapcache.Collection,
            "Batch": mmapcache.Batch,
            "OPTIONS": OPTIONS,
            "the path": self.path,
            "the writer": self.writer,
            "the cache": self.cache,
            "LARGE": LARGE,
            "MIXED": MIXED,
            **{f"the key {name}": key for name, key in KEYS.items() if key not in (None, True)},
        }

    def cold(self) -> mmapcache.Cache:
        """A cache of its own that has read nothing yet."""
        return mmapcache.open(self.path)

    def close(self) -> None:
        self.cache.close()
        self.writer.close()


# ---- Document and Array ----


def value_cases(raw: bytes, options: Any = None) -> Callable[[World], Case]:
    def make(world: World) -> Case:
        document = mmapcache.Document(raw, options)
        return Case(lambda: document["v"])

    return make


RAW_OF = {name: encode({"v": value}) for name, value in VALUES.items()} | RAW_VALUE_DOCUMENTS
for _name, _raw in RAW_OF.items():
    operation(f"document, value: {_name}")(value_cases(_raw))
    operation(f"document, first value: {_name}", first_use=True)(value_cases(_raw))
for _name in ("date", "date out of range", "uuid"):
    operation(f"document, value with options: {_name}")(value_cases(RAW_OF[_name], OPTIONS))
operation("document, value with options: old uuid")(
    value_cases(encode({"v": bson.Binary(bytes(range(16)), 3)}), OPTIONS)
)


def on_document(name: str, call: Callable[[Any], object], document: dict[str, Any] = MIXED) -> None:
    """An operation on a Document that has decoded nothing yet."""
    raw = encode(document)

    def make(world: World) -> Case:
        made = mmapcache.Document(raw)
        return Case(lambda: call(made))

    operation(f"document, {name}")(make)


def walk_names(document: Any) -> list[Any]:
    found = []
    for name in document:
        found.append(document[fresh(name)])
    return found


def rebuilt(document: Any) -> object:
    """What pickling comes to, without pickle, which leaks for want of memory."""
    make, arguments = document.__reduce__()
    return make(*arguments)


def another_module() -> Any:
    """The extension once more, with a state of its own."""
    path = extension_path()
    loader = importlib.machinery.ExtensionFileLoader("mmapcache._mmapcache", path)
    spec = importlib.machinery.ModuleSpec("mmapcache._mmapcache", loader, origin=path)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def in_json(document: Any) -> tuple[object, object, object]:
    plain = mmapcache.json_default
    return plain(document["since"]), plain(document["raw"]), plain(document["owner"])


on_document("missing field", lambda d: d.get("no such field", "default"))
on_document("missing field not ASCII", lambda d: d.get(fresh("ähnlich"), "default"))
on_document("field not ASCII", lambda d: d[fresh("naïve")])
on_document("all fields", walk_names)
on_document("all of 42 fields", walk_names, LARGE)
on_document("nested", lambda d: d["limits"]["burst"]["size"])
on_document("in", lambda d: ("limits" in d, fresh("naïve") in d, "nothing" in d))
on_document("len", len)
on_document("len of 42 fields", len, LARGE)
on_document("list", list)
on_document("items", lambda d: list(d.items()))
on_document("items of 42 fields", lambda d: list(d.items()), LARGE)
on_document("values", lambda d: list(d.values()))
on_document("keys as a set", lambda d: d.keys() & {"limits", "hosts", "nothing"})
on_document("items as a set", lambda d: ("raw", MIXED["raw"]) in d.items())
on_document("value in values", lambda d: "ünïcode" in d.values())
on_document("view compared", lambda d: d.keys() == set(MIXED))
on_document("view isdisjoint", lambda d: d.keys().isdisjoint(["nothing", "hosts"]))
on_document("view repr", lambda d: repr(d.keys()))
on_document("to_dict", lambda d: d.to_dict())
on_document("to_dict of every type", lambda d: d.to_dict(), {**VALUES})
on_document("repr", repr)
# Decimal128's repr needs a context of the decimal module, which crashes for want of memory.
on_document("repr of every type", repr, {k: v for k, v in VALUES.items() if k != "decimal"})
on_document("hash", lambda d: (hash(d["limits"]), hash(d["owner"])))
on_document("pluck", lambda d: d.pluck("limits.burst.size"))
on_document("pluck an array", lambda d: d.pluck("hosts"))
on_document("pluck not ASCII", lambda d: d.pluck(fresh("naïve")))
on_document("| dict", lambda d: d | {"more": 1})
on_document("dict |", lambda d: {"more": 1} | d)
on_document("== dict", lambda d: d == MIXED)
on_document("== dict of 42 fields", lambda d: d == LARGE, LARGE)
on_document("copy", lambda d: copy.copy(d) is d and copy.deepcopy(d) is d)
on_document("pickle", rebuilt)
on_document("raw", lambda d: d.raw)
on_document("sizeof", sys.getsizeof)
on_document("json", in_json)
on_document("array, member", lambda d: d["hosts"][1])
on_document("array, negative", lambda d: d["hosts"][-1])
on_document("array, slice", lambda d: d["hosts"][::2])
on_document("array, list", lambda d: list(d["hosts"]))
on_document("array, index", lambda d: d["hosts"].index("third host"))
on_document("array, count", lambda d: d["hosts"].count({"name": "first host"}))
on_document("array, in", lambda d: "third host" in d["hosts"])
on_document("array, to_list", lambda d: d["hosts"].to_list())
on_document("array, == list", lambda d: d["hosts"] == MIXED["hosts"])
on_document("array, hash", lambda d: hash(d["hosts"]) == hash(d["hosts"]))
on_document("array, repr", lambda d: repr(d["hosts"]))
on_document("array, pickle", lambda d: rebuilt(d["hosts"]))


@operation("document, == another")
def _equal(world: World) -> Case:
    one = mmapcache.Document(encode(MIXED))
    other = mmapcache.Document(encode(dict(reversed(MIXED.items()))))
    return Case(lambda: (one == other, one["hosts"] == other["hosts"]))


@operation("document, == RawBSONDocument")
def _equal_raw(world: World) -> Case:
    document = mmapcache.Document(encode(MIXED))
    raws = [RawBSONDocument(encode(document)) for document in (MIXED, LARGE)]
    return Case(lambda: [document == raw for raw in raws], allowed=pymongo_decoding)


@operation("document, == RawBSONDocument of equal names", first_use=True)
def _equal_raw_counted(world: World) -> Case:
    document = mmapcache.Document(encode(LARGE))
    raw = RawBSONDocument(encode(dict(reversed(LARGE.items()))))
    return Case(lambda: document == raw, allowed=pymongo_decoding)


@operation("Document(bytes)")
def _document(world: World) -> Case:
    raw = encode(MIXED)
    return Case(lambda: mmapcache.Document(raw))


@operation("Document(bytes, options)")
def _document_options(world: World) -> Case:
    raw = encode(MIXED)
    return Case(lambda: mmapcache.Document(raw, OPTIONS))


@operation("Document(bytes, options), aware date")
def _document_aware(world: World) -> Case:
    return Case(lambda: mmapcache.Document(RAW_OF["date"], AWARE)["v"])


@operation("Document(garbage)")
def _document_garbage(world: World) -> Case:
    return Case(partial(mmapcache.Document, b"garbage"), raises=(mmapcache.InvalidDocument,))


@operation("Document(dict)")
def _document_of_dict(world: World) -> Case:
    """Of every type, and larger than what needs no memory of its own."""
    every = {**VALUES, "uuid": uuid.UUID(int=5), "list": [*VALUES.values()], "text": "t" * 1500}
    return Case(lambda: mmapcache.Document(every).raw, allowed=pymongo_refusing)


@operation("Document(dict) with a bad name")
def _document_of_bad_dict(world: World) -> Case:
    bad = {"outer": {"a\0b": 1}}
    return Case(partial(mmapcache.Document, bad), raises=(mmapcache.InvalidDocument,))


@operation("object_id")
def _object_id(world: World) -> Case:
    digits, theirs = "00112233445566778899aabb", bson.ObjectId("00112233445566778899aabb")

    def call() -> object:
        one = mmapcache.object_id(digits)
        again = mmapcache.object_id(one.binary)
        return (
            one == again == theirs,
            hash(one) == hash(theirs),
            str(one),
            repr(again),
            one < theirs,
        )

    return Case(call)


@operation("json of what has no plain form")
def _json_rare(world: World) -> Case:
    values = (bson.Timestamp(5, 1), bson.Regex("a", "i"), bson.DBRef("c", 5))
    for value in values:
        mmapcache.json_default(value)  # it imports
    return Case(lambda: [mmapcache.json_default(value) for value in values])


@operation("Document without bson")
def _document_without_bson(world: World) -> Case:
    """A module of its own, in a process that has no bson any more."""
    raw = encode(VALUES)
    module = another_module()
    document: Any = module.Document(raw)
    for name in [name for name in sys.modules if name.partition(".")[0] == "bson"]:
        del sys.modules[name]
    sys.modules["bson"] = None  # type: ignore[assignment]

    def call() -> object:
        again = module.Document(raw)
        plain = module.json_default(again)
        return repr(again), [*plain], hash(again), again == document, repr(plain["timestamp"])

    call()
    return Case(call)


@operation("cut_events")
def _cut_events(world: World) -> Case:
    event = {
        "_id": {"_data": "82"},
        "operationType": "delete",
        "clusterTime": bson.Timestamp(2, 3),
        "ns": {"coll": "sites"},
        "documentKey": {"_id": "key"},
    }
    events = [event, event | {"ns": {"coll": "others"}}, {"operationType": "drop"}]
    raw = encode({"nextBatch": events, "id": 5})
    return Case(lambda: _mmapcache.cut_events(memoryview(raw)))


@operation("cut_ids")
def _cut_ids(world: World) -> Case:
    raw = encode(MIXED | {"_id": "key"}) * 3
    return Case(lambda: _mmapcache.cut_ids(memoryview(raw)))


@operation("cut_ids of garbage")
def _cut_ids_garbage(world: World) -> Case:
    return Case(partial(_mmapcache.cut_ids, b"garbage"), raises=(mmapcache.InvalidDocument,))


@operation("bson.encode(document), first", first_use=True)
def _to_pymongo(world: World) -> Case:
    raw = encode({"v": {"n": 1000}})

    def call() -> object:
        return isinstance(mmapcache.Document(raw), RawBSONDocument)

    return Case(call)


# ---- reading a cache ----


@operation("open")
def _open(world: World) -> Case:
    return Case(lambda: mmapcache.open(world.path)["sites"]["mixed"])


@operation("open, options")
def _open_options(world: World) -> Case:
    options = {"codec_options": OPTIONS, "front_bytes": "1MiB", "timeout": 1.5, "populate": True}
    return Case(lambda: mmapcache.open(world.path, **options)["sites"]["mixed"]["since"])


@operation("open, relative path")
def _open_relative(world: World) -> Case:
    os.chdir(world.directory)
    return Case(lambda: mmapcache.open("cache").generation)


@operation("open, nothing there")
def _open_nothing(world: World) -> Case:
    return Case(partial(mmapcache.open, world.path + "x"), raises=(mmapcache.NotReadyError,))


@operation("open, nothing published")
def _open_unpublished(world: World) -> Case:
    path = world.path + "y"
    writer = mmapcache.Writer(path, max_size="2MiB")
    writer.report(state="degraded", error="no \x1b[7m route", source="mongodb://h")
    writer.close()
    return Case(partial(mmapcache.open, path), raises=(mmapcache.NotReadyError,))


@operation("close")
def _close(world: World) -> Case:
    cache = world.cold()
    cache["sites"]["mixed"]
    return Case(cache.close)


def on_sites(name: str, call: Callable[[Any], object], collection: str = "sites") -> None:
    """An operation on a Collection that has read nothing yet, and on one that has."""

    def cold(world: World) -> Case:
        sites = world.cold().collection(collection)
        return Case(lambda: call(sites))

    def warm(world: World) -> Case:
        sites = world.cache.collection(collection)
        call(sites)
        return Case(lambda: call(sites))

    def in_snapshot(world: World) -> Case:
        sites = world.cold().snapshot().collection(collection)
        return Case(lambda: call(sites))

    operation(f"collection, {name}: cold")(cold)
    operation(f"collection, {name}: warm")(warm)
    operation(f"collection, {name}: snapshot")(in_snapshot)


on_sites("get", lambda s: s.get("mixed"))
on_sites("get by another object", lambda s: s.get(fresh("mixed")))
on_sites("get nothing", lambda s: s.get("nothing", "default"))
on_sites("[]", lambda s: s["large"])
on_sites("in", lambda s: ("mixed" in s, "nothing" in s))
on_sites("len", len)
on_sites("get_raw", lambda s: (s.get_raw("mixed"), s.get_raw("nothing")))
on_sites("get_many", lambda s: s.get_many(["mixed", "nothing", "large", 5, b"x"]))
on_sites("get_many of 70", lambda s: s.get_many([f"k{n}" for n in range(90)]), "many")
on_sites("pluck", lambda s: s.pluck("mixed", "limits.burst.size"))
on_sites("pluck a long text", lambda s: s.pluck("large", "text"))
on_sites("pluck a document", lambda s: s.pluck("mixed", "limits"))
on_sites("pluck nothing", lambda s: s.pluck("mixed", "limits.nothing", 5))
on_sites("map", lambda s: [(m := s.map(len))["mixed"], m.get("mixed"), m.get("large"), len(m)])
on_sites("map of nothing", lambda s: s.map(len, missing=list).get("nothing", "default"))
on_sites("map of many", lambda s: sorted(s.map(len, entries=20).items()), "many")
on_sites("map, its values", lambda s: sorted(s.map(mmapcache.Document.to_dict).values(), key=len))
on_sites("iteration", list, "many")
on_sites("iteration over all keys", list, "keys")
on_sites("items", lambda s: list(s.items()), "keys")
on_sites("values", lambda s: list(s.values()))
on_sites("keys as a set", lambda s: s.keys() & {"mixed", "nothing"})
on_sites("keys compared", lambda s: s.keys() == {"mixed", "large"})
on_sites("items contain", lambda s: ("mixed", MIXED) in s.items())
on_sites("compared", lambda s: (s == {"mixed": MIXED}, s == dict(s), s != s.map(len)))
on_sites("completions", lambda s: set(s._ipython_key_completions_()))  # sorted() would leak
on_sites("repr", lambda s: (repr(s), repr(s.keys())))
on_sites("name not ASCII", lambda s: (s.get("ä"), len(s), "ä" in s), "größen")
on_sites("of no name", lambda s: (s.get("ä"), len(s)), "nothing")


@operation("collection, [] nothing")
def _missing(world: World) -> Case:
    return Case(partial(operator.getitem, world.cold()["sites"], "nothing"), raises=(KeyError,))


@operation("collection, [] nothing: warm")
def _missing_again(world: World) -> Case:
    sites = world.cache["sites"]
    assert sites.get("nothing") is None
    return Case(partial(operator.getitem, sites, "nothing"), raises=(KeyError,))


def key_cases(key: Any) -> Callable[[World], Case]:
    def make(world: World) -> Case:
        keys = world.cold()["keys"]
        return Case(lambda: (keys.get(key, "nothing"), key in keys))

    return make


for _name, _key in KEYS.items():
    operation(f"key: {_name}")(key_cases(_key))
    operation(f"first key: {_name}", first_use=True)(key_cases(_key))


@operation("key: with options")
def _key_options(world: World) -> Case:
    keys = world.cold().collection("keys", codec_options=OPTIONS)
    return Case(lambda: [keys.get(KEYS[name]) for name in ("date", "objectid", "dict")])


def wrong_key_cases(key: Any) -> Callable[[World], Case]:
    def make(world: World) -> Case:
        keys = world.cold()["keys"]
        return Case(partial(keys.get, key), raises=(TypeError,), allowed=pymongo_refusing)

    return make


operation("key: a list")(wrong_key_cases([1]))
operation("key: a set")(wrong_key_cases({1}))
operation("key: refused by PyMongo")(wrong_key_cases({"a": {1}}))
operation("key: no instance")(wrong_key_cases(object))
operation("key: an int too large")(wrong_key_cases(1 << 600))
operation("key: not UTF-8")(wrong_key_cases("\ud800"))


@operation("cache, mapping")
def _cache_mapping(world: World) -> Case:
    cache = world.cold()
    return Case(
        lambda: (
            sorted(cache),
            len(cache),
            "sites" in cache,
            "größen" in cache,
            "nothing" in cache,
            cache.get("nothing"),
            cache.get(fresh("größen")),
            sorted(cache.keys()),
            len(cache.values()),
            len(cache.items()),
            repr(cache) != "",
        )
    )


@operation("cache, compared")
def _cache_compared(world: World) -> Case:
    cache = world.cold()
    other = dict.fromkeys(cache)
    return Case(lambda: (cache == {}, cache == other, cache.snapshot() != other))


@operation("cache, [] nothing")
def _cache_nothing(world: World) -> Case:
    return Case(partial(operator.getitem, world.cold(), "nothing"), raises=(KeyError,))


@operation("cache, [] not ASCII")
def _cache_name(world: World) -> Case:
    cache = world.cold()
    return Case(lambda: cache[fresh("größen")][fresh("ä")])


@operation("cache, collection with options")
def _cache_collection(world: World) -> Case:
    cache = world.cold()
    return Case(lambda: cache.collection("sites", codec_options=OPTIONS)["mixed"]["since"])


@operation("cache, attributes")
def _cache_attributes(world: World) -> Case:
    cache = world.cold()
    return Case(lambda: (cache.generation, cache.state, cache.path != "", cache.closed))


@operation("cache, status and stats")
def _cache_status(world: World) -> Case:
    cache = world.cold()

    def shown(answer: Any) -> str:
        status, stats = answer
        return show([{k: v for k, v in status.items() if k != "age"}, stats])

    return Case(lambda: (cache.status(), cache.stats()), shown)


@operation("cache, check")
def _cache_check(world: World) -> Case:
    cache = world.cold()
    return Case(cache.check)


@operation("cache, wait")
def _cache_wait(world: World) -> Case:
    cache = world.cold()
    return Case(lambda: (cache.wait(0, 1.0), cache.wait(cache.generation, 0.0)))


@operation("what changed")
def _news(world: World) -> Case:
    cache = world.cold()
    names = ("ä", 5, b"x", mmapcache.Document(encode({"a": 1})))
    expected = {"changed": frozenset(names), "größen": frozenset("ö")}
    seen, _ = cache._news(None)
    with world.writer.batch() as batch:
        for key in names:
            batch.put("changed", key, {"n": next(world.serial)})
        batch.put("größen", "ö", {"n": next(world.serial)})

    def call() -> object:
        _, keys = cache._news(seen)
        return keys == expected

    return Case(call)


@operation("snapshot")
def _snapshot(world: World) -> Case:
    cache = world.cold()

    def call() -> object:
        with cache.snapshot() as snapshot:
            return (
                snapshot.generation,
                sorted(snapshot),
                len(snapshot),
                "größen" in snapshot,
                snapshot.get("nothing"),
                snapshot[fresh("größen")]["ä"],
                len(snapshot.items()),
                repr(snapshot) != "",
            )

    return Case(call)


@operation("a new generation, while a snapshot holds the old one")
def _advance(world: World) -> Case:
    cache = world.cold()
    sites = cache["sites"]
    snapshot = cache.snapshot()
    with world.writer.batch() as batch:
        batch.put_raw("other", encode({"_id": 1, "n": next(world.serial)}))

    def after(succeeded: bool) -> None:
        assert snapshot.generation < cache.generation == world.writer.generation

    return Case(lambda: (sites["mixed"], sites.get("nothing")), after=after)


@operation("import", imports=True)
def _import(world: World) -> Case:
    def call() -> object:
        module = another_module()
        return module.Document(b"\5\0\0\0\0").to_dict(), module.MAX_DEPTH

    return Case(call)


# ---- writing one ----


@operation("Writer, open and close")
def _writer(world: World) -> Case:
    path = str(world.directory / "another")

    def call() -> object:
        with mmapcache.Writer(path, max_size="2MiB", mode=0o600) as writer:
            return writer.generation, writer.state, writer.closed, repr(writer) != ""

    return Case(call)


@operation("Writer, successor of another size")
def _writer_successor(world: World) -> Case:
    path = str(world.directory / "grown")
    Path(path).unlink(missing_ok=True)
    with mmapcache.Writer(path, max_size="2MiB") as writer, writer.batch() as batch:
        batch.put_raw("sites", encode(MIXED))

    def call() -> object:
        with mmapcache.Writer(path, max_size="4MiB") as writer:
            return writer.reader()["sites"]["mixed"]

    return Case(call)


@operation("Writer.anonymous")
def _anonymous(world: World) -> Case:
    def call() -> object:
        with mmapcache.Writer.anonymous(max_size="2MiB") as writer:
            with writer.batch() as batch:
                batch.put_raw("sites", b"\x0e\0\0\0\x10_id\0\1\0\0\0\0")
            return writer.reader()["sites"].get(1)

    return Case(call)


@operation("Writer, reports")
def _writer_reports(world: World) -> Case:
    writer = world.writer

    def call() -> object:
        writer.report(state="polling", error="früh", source="a source", confirmed=1000.5)
        writer.checkpoint()
        status = writer.status()
        return status["state"], status["error"], status["confirmed_at"], writer.stats()["max_size"]

    return Case(call)


@operation("Writer, counts and a position")
def _writer_counts(world: World) -> Case:
    writer = world.writer
    loads, errors = {"initial": 1, "poll": 2**70}, {f"error {n} \udcff": n for n in range(50)}

    def call() -> object:
        writer.report(following=True, position_at=1.5, events=2, loads=loads, errors=errors)
        writer.mark(bytearray(b"position"))
        status = writer.status()
        return status["loads"], status["errors"], status["events"], writer.position

    return Case(call)


@operation("Writer, reader")
def _writer_reader(world: World) -> Case:
    return Case(lambda: world.writer.reader(codec_options=OPTIONS)["sites"]["mixed"]["since"])


def in_batch(name: str, act: Callable[[Any], object], *, first_use: bool = False) -> None:
    """One call in an open batch, which goes on whatever became of it, and can be published."""

    def make(world: World) -> Case:
        writer = world.writer
        if first_use:  # the parent's is not ours
            writer = mmapcache.Writer(str(world.directory / "of the child"), max_size="2MiB")
        with writer.batch() as old:
            old.drop("sandbox")
            old.drop("sandböx")
            old.put_raw("sandbox", encode({"_id": "old", "n": 1000}))
        batch = writer.batch()
        batch.__enter__()
        cache = writer.reader(front_entries=0)

        def content() -> list[str]:
            names = sorted(name for name in cache if name.startswith("sandb"))
            return [f"{name}: {sorted(map(repr, cache[name].items()))}" for name in names]

        def after(succeeded: bool) -> None:
            again = act(batch)
            assert show(again) in (show(False), show(True), show(1), show(2), "None"), again
            batch.__exit__(None, None, None)
            shown = content()
            with writer.batch() as other:
                other.drop("sandbox")
                other.drop("sandböx")
                other.put_raw("sandbox", encode({"_id": "old", "n": 1000}))
            with writer.batch() as other:
                act(other)
            right = content()
            assert shown == right, (shown, right)
            assert cache.check()["generation"] == writer.generation

        return Case(lambda: act(batch), after=after, repeat=False)

    operation(f"batch, {name}", first_use=first_use)(make)


RAW_MIXED = RawBSONDocument(encode(MIXED))
BSON_MIXED = encode(MIXED)
TWO = encode({"_id": "first", "n": 1}) + encode({"_id": "second", "text": "t" * 3000})


def set_state(batch: Any) -> None:
    batch.state = b"another state" * 100


def replace(batch: Any) -> None:
    with batch.replace("sandbox") as full:
        full.put("old", {"_id": "old", "n": 2})
        full.put_raw(TWO)


def put_under(key: Any) -> Callable[[Any], object]:
    return lambda batch: batch.put("sandbox", key, MIXED)


in_batch("put dict", lambda b: b.put("sandbox", "new", MIXED))
in_batch("put dict, first", lambda b: b.put("sandbox", "new", MIXED), first_use=True)
in_batch("put large", lambda b: b.put("sandbox", "new", LARGE))
in_batch("put bytes", lambda b: b.put("sandbox", "new", TWO[: TWO[0]]))
in_batch("put raw", lambda b: b.put("sandbox", "new", RAW_MIXED))
in_batch("put Document", lambda b: b.put("sandbox", "new", mmapcache.Document(BSON_MIXED)))
in_batch("put again", lambda b: b.put("sandbox", "old", {"_id": "old", "n": 3}))
in_batch("put in a new collection", lambda b: b.put("sandböx", "new", MIXED))
in_batch("put_raw", lambda b: b.put_raw("sandbox", TWO))
in_batch("delete", lambda b: b.delete("sandbox", "old"))
in_batch("delete by a dict", lambda b: b.delete("sandbox", {"a": 5}))
in_batch("drop", lambda b: b.drop("sandbox"))
in_batch("replace", replace)
in_batch("state", set_state)
for _name, _key in KEYS.items():
    in_batch(f"put under a key: {_name}", put_under(_key))


def garbage_cases(garbage: Any) -> Callable[[World], Case]:
    def make(world: World) -> Case:
        batch = world.writer.batch()
        batch.__enter__()

        def after(succeeded: bool) -> None:
            batch.__exit__(KeyError, None, None)

        return Case(
            partial(batch.put, "sandbox", 1, garbage),
            after=after,
            repeat=False,
            raises=(mmapcache.InvalidDocument, OverflowError, TypeError),
            allowed=pymongo_refusing,
        )

    return make


operation("batch, put of garbage")(garbage_cases(b"garbage"))
operation("batch, put of a large int")(garbage_cases({"v": 1 << 70}))
operation("batch, put of a key that is no text")(garbage_cases({1: 1}))
operation("batch, put of no document")(garbage_cases(5))


@operation("batch, full")
def _full(world: World) -> Case:
    path = str(world.directory / "small")
    writer = mmapcache.Writer(path, max_size="2MiB")
    batch = writer.batch()
    batch.__enter__()
    raw = encode({"_id": 1, "v": b"x" * (3 << 20)})

    def after(succeeded: bool) -> None:
        batch.__exit__(KeyError, None, None)
        writer.close()

    return Case(
        partial(batch.put, "sandbox", 1, raw),
        after=after,
        repeat=False,
        raises=(mmapcache.FullError,),
    )


def commit_cases(*, fails: bool) -> Callable[[World], Case]:
    def make(world: World) -> Case:
        writer = world.writer
        cache = world.cold()
        number = next(world.serial)
        with writer.batch() as before:
            before.drop("sandbox")
            before.put_raw("sandbox", encode({"_id": 1, "n": -1}))
        generation = writer.generation
        batch = writer.batch()
        batch.__enter__()
        for n in range(60):
            batch.put_raw("sandbox", encode({"_id": n, "n": number, "t": "t" * (n * 50)}))
        batch.state = str(number).encode()
        batch.drop("dropped")
        batch.put_raw(f"new {number % 7}", encode({"_id": number}))

        def after(succeeded: bool) -> None:
            published = succeeded and not fails
            assert writer.generation == cache.generation == generation + published
            documents = cache["sandbox"].get_many(range(100))
            assert {d["n"] for d in documents.values()} == ({number} if published else {-1})
            assert len(documents) == (60 if published else 1)
            assert batch.generation == (generation + 1 if published else None)
            with writer.batch() as next_one:
                next_one.put_raw("sandbox", encode({"_id": "next", "n": number}))
            assert cache["sandbox"]["next"]["n"] == number
            cache.check()

        reason = KeyError if fails else None
        return Case(lambda: batch.__exit__(reason, None, None), after=after, repeat=False)

    return make


operation("batch, commit")(commit_cases(fails=False))
operation("batch, abandon")(commit_cases(fails=True))


@operation("batch, begin")
def _begin(world: World) -> Case:
    writer = world.writer

    def call() -> object:
        with writer.batch() as batch:
            counts = [batch.puts, batch.deletes, batch.unchanged]
        return counts, batch.generation

    return Case(call)
