"""--transform and --key: what becomes of documents, and what is said of those that do not fit."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.loader import Loader, load_once, wait_for

import mmapcache
from mmapcache.sync.errors import ShapeError
from mmapcache.sync.identity import identity
from mmapcache.sync.options import CollectionOptions, Options
from mmapcache.sync.shaping import DuplicateError, Shaper, Shaping

pytestmark = pytest.mark.usefixtures("warm_loaders")

bson = pytest.importorskip("bson")
if TYPE_CHECKING:
    from pymongo.database import Database

FUNCTIONS = """
import bson.raw_bson

def same(document):
    return document

def bigger(document):
    if document["_id"] == 2:
        return None
    tags = document["tags"]
    return {**document, "size": len(document), "first": tags[0], "all": tags}

def raw(document):
    return bson.raw_bson.RawBSONDocument(document.raw)

def only_even(document):
    return document if document["_id"] % 2 == 0 else None

def nothing(document):
    pass

def fails(document):
    if document["_id"] == 2:
        return document["no such field"]
    return document

def exits(document):
    raise SystemExit("enough")

def a_list(document):
    return [document]

def no_bson(document):
    return {"_id": document["_id"], "when": object()}

def no_id(document):
    return {"name": document["name"]}

def other_id(document):
    return {**document.to_dict(), "_id": "other"}

def equal_id(document):
    return {"_id": float(document["_id"]), "name": document["name"].upper()}

async def asynchronous(document):
    return document

class Shape:
    @staticmethod
    def site(document):
        return {"_id": document["_id"], "site": True}

value = 5
"""
SITES = [
    {"_id": 1, "name": "one", "tags": ["a", {"b": 1}], "owner": {"mail": "x"}},
    {"_id": 2, "name": "two", "tags": [], "owner": {"mail": "y"}},
]


class Place:
    """A source, a module with functions, and a cache to load the one into with the other."""

    def __init__(self, cache_path: Path) -> None:
        self.cache_path = cache_path
        self.source = cache_path.with_name("sites.bson")
        self._modules = cache_path.with_name("modules")
        self._modules.mkdir()
        self.module("shapes", FUNCTIONS)
        self.environment = {"PYTHONPATH": str(self._modules)}
        self.write(SITES)

    def module(self, name: str, text: str) -> None:
        (self._modules / f"{name}.py").write_text(text)

    def write(self, documents: Sequence[dict[str, Any]]) -> None:
        new = self.source.with_name("new")
        new.write_bytes(b"".join(map(bson.encode, documents)))
        new.rename(self.source)

    def once(self, *flags: str) -> tuple[int, str]:
        return load_once(
            self.cache_path, [f"--source=file:{self.source}", *flags], self.environment
        )

    def load(self, *flags: str) -> dict[Any, Any]:
        """What is in the cache after a load that must succeed."""
        status, output = self.once(*flags)
        assert status == 0, output
        return self.content()

    def content(self) -> dict[Any, Any]:
        with mmapcache.open(self.cache_path) as cache:
            return {key: document.to_dict() for key, document in cache["sites"].items()}


@pytest.fixture
def place(cache_path: Path) -> Place:
    return Place(cache_path)


# --- --transform ----------------------------------------------------------------------------------


def test_a_dict_goes_into_the_cache_and_none_leaves_out(place: Place) -> None:
    assert place.load("--transform=shapes:bigger") == {
        1: {**SITES[0], "size": 4, "first": "a", "all": SITES[0]["tags"]}
    }


def test_what_is_returned_unchanged_keeps_its_bytes(place: Place) -> None:
    raw = bson.encode({"_id": bson.Int64(1), "n": bson.Int64(7)})
    twice = raw[:-1] + raw[4:]  # each field a second time, which no dict can have
    document = len(twice).to_bytes(4, "little") + twice[4:]
    for function in ("same", "raw"):
        place.source.write_bytes(document)
        place.load(f"--transform=shapes:{function}")
        with mmapcache.open(place.cache_path) as cache:
            assert cache["sites"].get_raw(1) == document


def test_a_dotted_function_and_an_equal_id(place: Place) -> None:
    assert place.load("--transform=shapes:Shape.site")[1] == {"_id": 1, "site": True}
    assert place.load("--transform=shapes:equal_id")[1] == {"_id": 1.0, "name": "ONE"}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", "_id 2: KeyError: .*shapes.py line [0-9]+"),
        ("exits", "_id 1: SystemExit: enough"),
        ("a_list", "made a list of the document with _id 1: it must return a document"),
        ("no_bson", "_id 1 has no BSON: .*object"),
        ("no_id", "of _id 1 it has removed it"),
        ("other_id", "of _id 1 it has made 'other' of it"),
    ],
)
def test_what_cannot_be_transformed_is_named(place: Place, function: str, message: str) -> None:
    before = place.load()
    with Loader(
        place.cache_path,
        [f"--source=file:{place.source}", f"--transform=shapes:{function}", "--once"],
        place.environment,
    ) as loader:
        assert loader.wait() == 1
        loader.expect(f"sites.bson.*{message}")
        assert "Traceback" not in loader.output
    assert place.content() == before


def test_the_loader_goes_on_after_a_document_that_fails(place: Place) -> None:
    place.write(SITES[:1])
    flags = [f"--source=file:{place.source}", "--interval=3600", "--transform=shapes:fails"]
    with (
        Loader(place.cache_path, flags, place.environment) as loader,
        mmapcache.open(place.cache_path, timeout=30) as cache,
    ):
        place.write(SITES)
        loader.signal(signal.SIGHUP)
        wait_for(lambda: cache.status()["state"] == "degraded")
        error = cache.status()["error"] or ""
        assert "sites.bson" in error
        assert "_id 2" in error
        assert (cache.generation, len(cache["sites"])) == (1, 1)
        place.write([SITES[0], {"_id": 3}])
        loader.signal(signal.SIGHUP)
        wait_for(lambda: cache.status()["state"] == "polling")
        assert list(cache["sites"]) == [1, 3]


def test_the_first_load_goes_on_as_well(place: Place) -> None:
    flags = [f"--source=file:{place.source}", "--interval=3600", "--transform=shapes:fails"]
    with Loader(place.cache_path, [*flags, "--log-level=debug"], place.environment) as loader:
        loader.expect("KeyError")
        loader.expect(r"what the transform raised\n.*Traceback")
        place.write(SITES[:1])
        loader.signal(signal.SIGHUP)
        loader.expect("generation 1:")


def test_a_transform_that_leaves_out_everything_empties_nothing(place: Place) -> None:
    before = place.load()
    status, output = place.once("--transform=shapes:nothing")
    assert (status, place.content()) == (1, before)
    assert "came back empty, kept with its last content: sites" in output
    assert place.load("--transform=shapes:nothing", "--allow-empty") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shapes", "must be package.module:function"),
        ("shapes:", "must be package.module:function"),
        ("./shapes.py:same", "must be package.module:function"),
        ("nowhere.at.all:same", "there is no module 'nowhere'; .*PYTHONPATH"),
        ("shapes:absent", "there is no 'absent' in .*shapes.py"),
        ("shapes:value", "is a int, not a function"),
        ("shapes:asynchronous", "must be a plain function"),
        ("broken:same", "cannot be imported: ZeroDivisionError: .*broken.py line 1"),
        ("needy:same", "cannot be imported: No module named 'nowhere'"),
        ("leaving:same", "cannot be imported: SystemExit: 3"),
    ],
)
def test_a_transform_that_cannot_be_imported(place: Place, text: str, message: str) -> None:
    place.module("broken", "1 / 0")
    place.module("needy", "import nowhere")
    place.module("leaving", "raise SystemExit(3)")
    flags = [f"--source=file:{place.source}", f"--transform={text}"]
    with Loader(place.cache_path, flags, place.environment) as loader:
        assert loader.wait() == 2
        loader.expect(f"mmapcache sync: error: .*{message}")
        assert "Traceback" not in loader.output
    assert not place.cache_path.exists()


def test_one_transform_for_each_collection(place: Place) -> None:
    config = place.cache_path.with_name("sync.toml")
    directory = place.cache_path.with_name("dump")
    directory.mkdir()
    for name in ("sites", "plain", "limits"):
        (directory / f"{name}.bson").write_bytes(b"".join(map(bson.encode, SITES)))
    config.write_text(
        f'path = "{place.cache_path}"\nsource = "file:{directory}"\nonce = true\n'
        'transform = "shapes:same"\n'
        '[[collection]]\nname = "sites"\ntransform = "shapes:only_even"\nkey = "owner.mail"\n'
        '[[collection]]\nname = "limits"\nkey = "name"\n'
    )
    status, output = load_once(place.cache_path, ["--config", str(config)], place.environment)
    assert status == 0, output
    with mmapcache.open(place.cache_path) as cache:
        assert [list(cache[name]) for name in ("sites", "plain")] == [["y"], [1, 2]]
        assert sorted(cache["limits"]) == ["one", "two"]


# --- --key ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "keys"),
    [("name", {"one", "two"}), ("owner.mail", {"x", "y"}), ("_id", {1, 2}), ("owner", None)],
)
def test_another_field_as_the_key(place: Place, field: str, keys: set[Any] | None) -> None:
    content = place.load(f"--key=sites={field}")
    assert list(content.values()) == SITES or list(content.values()) == SITES[::-1]
    if keys is not None:
        assert set(content) == keys
    # And back again: what had other keys is gone.
    assert set(place.load()) == {1, 2}


@pytest.mark.parametrize(
    ("field", "second", "message"),
    [
        ("name", {}, "the document with _id 2 has no 'name', which is the key"),
        ("a.b", {"a": {"b": 1}}, "the document with _id 1 has no 'a.b'"),
        ("name", {"name": ["x"]}, "_id 2 cannot be stored with 'name' as its key: .*array"),
        ("name", {"name": "x" * 2000}, "_id 2 cannot be stored with 'name' as its key: .*1024"),
        ("name", {"name": "one"}, "_id 1 and 2 have one key, name = 'one'"),
    ],
)
def test_what_cannot_be_a_key_is_named(
    place: Place, field: str, second: dict[str, Any], message: str
) -> None:
    before = place.load()
    place.write([SITES[0], {"_id": 2, **second}])
    flags = [f"--source=file:{place.source}", f"--key=sites={field}", "--once"]
    with Loader(place.cache_path, flags) as loader:
        assert loader.wait() == 1
        loader.expect(f"sites.bson.*{message}")
    assert place.content() == before


def test_two_documents_with_one_id_and_other_keys(place: Place) -> None:
    place.write([{"_id": 1, "name": "a"}, {"_id": 1, "name": "b"}])
    status, output = place.once("--key=sites=name")
    assert status == 1
    assert "two documents have the _id 1" in output


def test_the_key_is_taken_from_what_the_transform_made(place: Place) -> None:
    assert set(place.load("--transform=shapes:equal_id", "--key=sites=name")) == {"ONE", "TWO"}
    status, output = place.once("--transform=shapes:no_id", "--key=sites=name")
    assert status == 1
    assert "must leave _id as it is" in output


def test_key_and_transform_of_a_database(
    mongodb_uri: str, database: Database[dict[str, Any]], place: Place
) -> None:
    database["sites"].insert_many(SITES)
    database["other"].insert_one({"_id": 2})
    flags = ["--uri", mongodb_uri, "--database", database.name, "--key", "sites=owner.mail"]
    flags += ["--projection", 'sites={"owner": 1}', "--transform", "shapes:only_even"]
    status, output = load_once(place.cache_path, flags, place.environment)
    assert status == 0, output
    assert place.content() == {"y": {"_id": 2, "owner": {"mail": "y"}}}
    with mmapcache.open(place.cache_path) as cache:
        assert list(cache["other"]) == [2]


# --- one by one, as a stream brings them ----------------------------------------------------------


def encoded(*documents: dict[str, Any]) -> bytes:
    return b"".join(map(bson.encode, documents))


class Live:
    """A collection in a cache that one shaper fills."""

    def __init__(self, writer: mmapcache.Writer, field: str | None = "k") -> None:
        self.writer = writer
        self.field = field
        self.cache = writer.reader()
        self.restart()

    def restart(self) -> None:
        """The loader's memory is gone."""
        self.shaper = Shaper("c", None, self.field)

    def load(self, *documents: dict[str, Any]) -> None:
        with self.writer.batch() as batch, batch.replace("c") as full:
            self.shaper.begin(batch, full)(encoded(*documents))
        self.shaper.committed()

    def apply(self, *found: dict[str, Any], missing: Sequence[Any] = ()) -> tuple[int, int]:
        return self.apply_all([(missing, found)])[0]

    def apply_all(self, parts: Any) -> list[tuple[int, int]]:
        try:
            with self.writer.batch() as batch:
                served = self.cache.get("c")
                done = [
                    self.shaper.apply(batch, served, missing, encoded(*found))
                    for missing, found in parts
                ]
        except BaseException:
            self.shaper.abandoned()
            raise
        self.shaper.committed()
        return done

    def content(self) -> dict[Any, Any]:
        return {key: d.to_dict() for key, d in self.cache.collection("c").items()}


@pytest.fixture
def live(writer: mmapcache.Writer) -> Iterator[Live]:
    live = Live(writer)
    yield live
    live.cache.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_change_of_the_key_takes_the_old_one_away(live: Live, restarted: bool) -> None:
    live.load({"_id": 1, "k": "a"}, {"_id": 2, "k": "b"})
    if restarted:
        live.restart()
    assert live.apply({"_id": 1, "k": "c"}) == (1, 1)
    assert live.content() == {"b": {"_id": 2, "k": "b"}, "c": {"_id": 1, "k": "c"}}
    assert live.apply(missing=[2, 7]) == (1, 0)
    assert list(live.content()) == ["c"]
    # What a live loader's lookup may say of a document: missing, and found.
    assert live.apply({"_id": 1.0, "k": "c", "v": 2}, missing=[1]) == (0, 1)
    assert live.content() == {"c": {"_id": 1.0, "k": "c", "v": 2}}


def test_two_documents_exchange_their_keys(live: Live) -> None:
    live.load({"_id": 1, "k": "a"}, {"_id": 2, "k": "b"})
    live.apply({"_id": 2, "k": "a"}, {"_id": 1, "k": "b"})
    assert live.content() == {"a": {"_id": 2, "k": "a"}, "b": {"_id": 1, "k": "b"}}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_duplicate_among_changes_names_both(live: Live, restarted: bool) -> None:
    live.load({"_id": 1, "k": "a"}, {"_id": 2, "k": "b"})
    if restarted:
        live.restart()
    with pytest.raises(DuplicateError, match=r"_id 1 and 2 have one key, k = 'a'"):
        live.apply({"_id": 2, "k": "a"})
    with pytest.raises(DuplicateError, match=r"_id 3 and 4 have one key, k = 'x'"):
        live.apply({"_id": 3, "k": "x"}, {"_id": 4, "k": "x"})
    with pytest.raises(ShapeError, match="_id 3 has no 'k'"):
        live.apply({"_id": 3})
    assert list(live.content()) == ["a", "b"]
    # What was given up is forgotten.
    live.apply({"_id": 3, "k": "x"}, missing=[1])
    live.apply({"_id": 2, "k": "a"})
    assert {k: d["_id"] for k, d in live.content().items()} == {"a": 2, "x": 3}


def test_a_refilled_collection_has_new_keys(live: Live) -> None:
    live.load({"_id": 1, "k": "a"})
    live.load()
    live.apply({"_id": 2, "k": "a"})
    live.apply({"_id": 1, "k": "b"})  # must not take "a" away
    assert {k: d["_id"] for k, d in live.content().items()} == {"a": 2, "b": 1}


@pytest.mark.parametrize("field", ["k", None])
def test_random_changes_are_what_a_load_would_be(
    writer: mmapcache.Writer, field: str | None
) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    dice = random.Random(seed)
    live = Live(writer, field)
    there: dict[int, dict[str, Any]] = {}
    duplicates = 0
    for step in range(300):
        touched = dice.sample(range(30), dice.randint(1, 8))
        for _id in touched:
            there.pop(_id, None)
        for _id in touched:
            key = dice.choice([f"k{n}" for n in range(40)])
            if dice.random() < 0.7 and all(d["k"] != key for d in there.values()):
                there[_id] = {"_id": _id, "k": key, "step": step}
        cut = dice.choice([0, 0, len(touched) // 2])
        parts = [
            ([i for i in ids if i not in there], [there[i] for i in ids if i in there])
            for ids in (touched[:cut], touched[cut:])
        ]
        try:
            live.apply_all(parts)
        except DuplicateError:
            assert cut  # all of a burst at once never contradicts itself
            duplicates += 1
            live.load(*there.values())
        if dice.random() < 0.1:
            live.restart()
        expected = {d["k"] if field else i: d for i, d in there.items()}
        assert live.content() == expected
    assert duplicates < 100
    live.cache.close()


# --- what belongs together ------------------------------------------------------------------------


def test_without_any_there_is_no_shaper() -> None:
    shaping = Shaping(Options("p", collections=(CollectionOptions("a", "b", "b"),)))
    assert (shaping.of("b"), shaping.of("else"), shaping.fingerprint()) == (None, None, "")


def test_the_fingerprint_tells_settings_and_versions_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(*, transform: str | None = None, key: str | None = None) -> str:
        collection = CollectionOptions("a", "b", "b", transform=transform, key=key)
        return Shaping(Options("p", collections=(collection,))).fingerprint()

    monkeypatch.syspath_prepend(tmp_path)
    for name in ("first_version", "second_version"):
        (tmp_path / f"{name}.py").write_text(f"# {name}\ndef f(d): return d\n")
    told = [of(), of(key="k"), of(key="l"), of(transform="first_version:f")]
    told += [of(transform="second_version:f"), of(transform="first_version:f", key="k")]
    assert len(set(told)) == len(told)
    assert of(key="k") == told[1]


@pytest.mark.parametrize(
    "values",
    [
        (1, 1.0, bson.Int64(1), bson.Decimal128("1.0")),
        (True,),
        (False,),
        (0, -0.0),
        (float("nan"), bson.Decimal128("NaN")),
        ("a",),
        (b"a", bson.Binary(b"a", 0)),
        (bson.Binary(b"a", 5),),
        ({"a": 1, "b": 2}, bson.SON([("a", 1.0), ("b", 2)])),
        ({"b": 2, "a": 1},),
        (bson.Regex("a"), bson.Regex("a")),
        (bson.Code("a"),),
        (None,),
    ],
)
def test_identity_is_that_of_mongodb(values: tuple[Any, ...]) -> None:
    everything = [1, True, False, 0, float("nan"), "a", b"a", bson.Binary(b"a", 5), None]
    everything += [{"a": 1, "b": 2}, {"b": 2, "a": 1}, bson.Regex("a"), bson.Code("a")]
    first = identity(values[0])
    assert {identity(value) for value in values} == {first}
    assert sum(identity(other) == first for other in everything) == 1
