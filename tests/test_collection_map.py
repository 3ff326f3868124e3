"""collection.map(): built once for each document that changed, dropped with it, nothing held."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, ItemsView, Iterable, Mapping, ValuesView
from pathlib import Path
from typing import Any

import pytest
from support.caches import fill
from support.processes import in_child, run_script

import mmapcache

bson = pytest.importorskip("bson")


class Built:
    """What a test's service makes of a document."""

    def __init__(self, document: mmapcache.Document) -> None:
        self.n = document["n"]


def fresh(text: str) -> str:
    """An equal str that nobody has hashed or seen."""
    return "".join(list(text))


def put(writer: mmapcache.Writer, **numbers: int) -> None:
    fill(writer, "sites", *({"_id": key, "n": n} for key, n in numbers.items()))


@pytest.fixture
def writer(writer: mmapcache.Writer) -> mmapcache.Writer:
    put(writer, a=1, b=2, c=3)
    return writer


def counted(calls: list[Any]) -> Callable[[mmapcache.Document], Built]:
    def build(document: mmapcache.Document) -> Built:
        assert type(document) is mmapcache.Document
        calls.append(document["_id"])
        return Built(document)

    return build


def test_values_of_a_map_are_not_counted_with_the_front_cache(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    built = cache["sites"].map(counted([]))
    for n in range(20):
        assert [built[key].n for key in "abc"] == [1, 2, 3]
        put(writer, d=n)
    stats = cache.stats()["front_cache"]
    assert stats["revalidations"] <= stats["hits"]


def test_a_value_is_built_once_and_again_when_its_document_changes(
    writer: mmapcache.Writer,
) -> None:
    calls: list[Any] = []
    cache = writer.reader()
    built = cache["sites"].map(counted(calls))
    assert calls == []
    first = built["a"]
    assert first.n == 1
    assert built["a"] is built.get("a") is built[fresh("a")] is first
    put(writer, b=20, d=4)
    assert built["a"] is built[fresh("a")] is first
    assert built["b"].n == 20
    assert calls == ["a", "b"]
    put(writer, a=10)
    assert built["a"].n == built[fresh("a")].n == 10
    assert calls == ["a", "b", "a"]
    with writer.batch() as batch:
        batch.delete("sites", "a")
    assert built.get("a") is None
    assert built.get(fresh("a"), "default") == built.get(key="a", default="default") == "default"
    with writer.batch() as batch:
        batch.drop("sites")
    assert (built.get("b"), len(built), list(built.items())) == (None, 0, [])
    put(writer, b=7)
    assert built["b"].n == 7


@pytest.mark.parametrize("front_entries", [0, 16384], ids=["front cache off", "on"])
@pytest.mark.parametrize("kind", ["str", "bytes", "int", "ObjectId", "dict"])
def test_keys_of_every_kind(writer: mmapcache.Writer, kind: str, front_entries: int) -> None:
    key = {"str": "é" * 30, "bytes": b"x", "int": 5, "ObjectId": bson.ObjectId(), "dict": {"x": 1}}
    with writer.batch() as batch:
        batch.put("keys", key[kind], {"_id": key[kind], "n": 5})
    calls: list[Any] = []
    built = writer.reader(front_entries=front_entries)["keys"].map(counted(calls))
    assert built[key[kind]] is built[key[kind]] is built[key[kind]]
    assert len(calls) == 1


def test_what_the_function_raises_is_the_callers_and_is_forgotten(writer: mmapcache.Writer) -> None:
    answers: list[Any] = [ZeroDivisionError("first"), KeyError("second"), None]

    def build(document: mmapcache.Document) -> Any:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return answer

    built = writer.reader()["sites"].map(build)
    with pytest.raises(ZeroDivisionError, match="first"):
        built["a"]
    with pytest.raises(KeyError, match="second"):
        built.get("a", "a KeyError of the function is no missing key")
    assert built["a"] is None  # a value like any other
    assert built.get("a", "default") is None
    assert answers == []


def test_missing_is_raised_or_called(writer: mmapcache.Writer) -> None:
    sites = writer.reader()["sites"]
    with pytest.raises(KeyError) as caught:
        sites.map(Built)["nothing"]
    assert caught.value.args == ("nothing",)
    with pytest.raises(LookupError, match="nothing") as other:
        sites.map(Built, missing=LookupError)["nothing"]
    assert other.type is LookupError
    asked: list[Any] = []

    def default(key: Any) -> Any:
        asked.append(key)
        return {"the default of": key}

    built = sites.map(Built, missing=default)
    assert built["nothing"] == built["nothing"] == {"the default of": "nothing"}
    assert built["x" * 2000] == {"the default of": "x" * 2000}
    assert asked == ["nothing", "nothing", "x" * 2000]
    assert (built.get("nothing"), built.get("nothing", 5), len(asked)) == (None, 5, 3)
    with pytest.raises(TypeError, match=r"no exception"):
        sites.map(Built, missing=type("Odd", (KeyError,), {"__new__": lambda *_: 5}))["nothing"]
    with pytest.raises(TypeError, match="cannot be a key"):
        built[[1]]


def test_arguments(writer: mmapcache.Writer) -> None:
    sites: Any = writer.reader()["sites"]
    for wrong, text in (
        (lambda: sites.map(5), "map.. takes a function of a Document, not int"),
        (lambda: sites.map(Built, missing=KeyError()), "an exception class, or a function of the"),
        (lambda: sites.map(Built, KeyError), "positional"),
        (lambda: sites.map(Built, entries="many"), "entries"),
        (lambda: sites.map(Built, entries=1 << 40), "at most"),
        (lambda: mmapcache.CollectionMap(), "cannot create"),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            wrong()
    assert repr(sites.map(len)) == "<mmapcache.CollectionMap of 'sites' by <built-in function len>>"
    assert repr(mmapcache.CollectionMap[int]) == "mmapcache.CollectionMap[int]"


def test_it_is_a_mapping(writer: mmapcache.Writer) -> None:
    built = writer.reader()["sites"].map(lambda document: document["n"])
    assert isinstance(built, Mapping)
    assert isinstance(built.items(), ItemsView)
    assert isinstance(built.values(), ValuesView)
    assert (len(built), "a" in built, "x" in built) == (3, True, False)
    assert dict(built) == dict(built.items()) == {"a": 1, "b": 2, "c": 3}
    assert set(built) == set(built.keys()) == {"a", "b", "c"}
    assert sorted(built.values()) == [1, 2, 3]
    assert ("a", 1) in built.items()
    assert ("a", 2) not in built.items()
    assert ("x", 1) not in built.items()
    assert built.items() & {("a", 1), ("a", 2)} == {("a", 1)}
    view: Any = built.items()
    assert view.mapping is built


def test_a_document_that_goes_while_items_are_built_is_left_out(writer: mmapcache.Writer) -> None:
    sites = writer.reader()["sites"]

    def build(document: mmapcache.Document) -> str:
        with writer.batch() as batch:
            for key in {"a", "b", "c"} - {document["_id"]}:
                batch.delete("sites", key)
        return str(document["_id"])

    pairs = list(sites.map(build, missing=ZeroDivisionError).items())
    assert len(pairs) == 1
    assert pairs[0][0] == pairs[0][1]


def test_values_of_documents_that_changed_or_went_are_let_go(writer: mmapcache.Writer) -> None:
    count = 500
    fill(writer, "sites", *({"_id": f"k{n}", "n": n} for n in range(count)))
    built = writer.reader()["sites"].map(Built)
    values = [weakref.ref(built[f"k{n}"]) for n in range(count)]
    assert all(value() is not None for value in values)
    with writer.batch() as batch:
        for n in range(0, count, 2):
            batch.delete("sites", f"k{n}")
        batch.put("sites", "k1", {"_id": "k1", "n": -1})
    for n in range(count):  # a commit for each: nobody asks for the keys that went
        put(writer, other=n)
        assert built["a"].n == 1
    gone = [n for n, value in enumerate(values) if value() is None]
    assert gone == sorted({*range(0, count, 2), 1})


def test_no_more_than_its_entries_are_kept(writer: mmapcache.Writer) -> None:
    fill(writer, "sites", *({"_id": f"k{n}", "n": n} for n in range(200)))
    sites = writer.reader()["sites"]
    few, none = sites.map(Built, entries=50), sites.map(Built, entries=0)
    values = [weakref.ref(few[f"k{n}"]) for n in range(200)]
    assert sum(value() is not None for value in values) == 50
    assert none["a"] is not none["a"]
    for n in range(300):  # absent keys push nothing out
        few.get(f"absent {n % 150}")
    assert sum(value() is not None for value in values) == 50


def test_two_that_build_at_once_get_the_same(writer: mmapcache.Writer) -> None:
    sites = writer.reader()["sites"]
    together = threading.Barrier(4, timeout=60)
    calls: list[Any] = []

    def build(document: mmapcache.Document) -> Built:
        together.wait()
        calls.append(document)
        return Built(document)

    built = sites.map(build)
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(built["a"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(calls) == 4
    assert len(got) == 4
    assert {id(value) for value in got} == {id(built["a"])}


def test_threads_while_documents_change(writer: mmapcache.Writer) -> None:
    """Each value is of its own document, and never older than one that its thread has seen."""
    cache = writer.reader()
    built = cache["sites"].map(Built, entries=2)  # so that values die and are built all the time
    stop = threading.Event()
    wrong: list[Any] = []
    interval = sys.getswitchinterval()

    def read() -> None:
        seen = {"a": 0, "b": 0, "c": 0}
        try:
            while not stop.is_set():
                for key in seen:
                    n = built[fresh(key) if seen[key] % 2 else key].n
                    if n < seen[key]:
                        wrong.append((key, n, seen[key]))
                    seen[key] = n
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        end = time.monotonic() + 5
        for n in range(4, 150):
            put(writer, a=n, b=n, c=n)
            if wrong or time.monotonic() > end:
                break
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        sys.setswitchinterval(interval)
    assert wrong == []


def test_the_function_may_do_anything(writer: mmapcache.Writer) -> None:
    """Read its own map, change the document that it is given, and close the cache."""
    cache = writer.reader()
    sites = cache["sites"]

    def build(document: mmapcache.Document) -> Any:
        if document["_id"] == "a" and document["n"] < 5:
            put(writer, a=document["n"] + 1)
            return [document["n"], *built["a"]]
        if document["_id"] == "b":
            cache.close()
        return [document["n"]]

    built = sites.map(build)
    assert built["a"] == [1, 2, 3, 4, 5]
    assert built["a"] == [5]
    assert built["b"] == [2]
    with pytest.raises(mmapcache.ClosedError):
        built["a"]


def test_a_destructor_may_do_anything(writer: mmapcache.Writer) -> None:
    """A value that dies in the middle of a change of the map reads the map."""
    died: list[int] = []

    class Last(Built):
        def __del__(self) -> None:
            died.append(self.n)
            if len(died) < 500:
                for key in ("a", "b", "c"):
                    built.get(fresh(key))

    built = writer.reader()["sites"].map(Last, entries=2)
    for n in range(4, 40):
        put(writer, a=n, b=n)
        for key in ("a", "b", "c", "a", "b"):
            assert built[key].n == (3 if key == "c" else n)
    assert len(died) > 50


def test_a_map_of_a_snapshot_stays_with_it(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    with cache.snapshot() as snapshot:
        built = snapshot["sites"].map(Built)
        first = built["a"]
        put(writer, a=10)
        assert built["a"] is first
        assert built[fresh("b")].n == 2
        assert cache["sites"].map(Built)["a"].n == 10
    with pytest.raises(mmapcache.ClosedError):
        built["a"]


def test_another_file_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with mmapcache.Writer(path, max_size="2MiB") as writer:
        put(writer, a=1, b=2)
    cache = mmapcache.open(path)
    built = cache["sites"].map(Built)
    old = [weakref.ref(built["a"]), weakref.ref(built["b"])]
    assert built["a"] is old[0]()
    with mmapcache.Writer(path, max_size="4MiB", recreate=True) as writer:
        put(writer, a=3)
    cache.wait(cache.generation, 60)
    assert built["a"].n == 3
    assert [value() for value in old] == [None, None]


def test_a_forked_child_goes_on_with_values_of_its_own(writer: mmapcache.Writer) -> None:
    built = writer.reader()["sites"].map(lambda document: [document["n"], os.getpid()])
    parents = built["a"]

    def child() -> None:
        assert built["a"] is parents
        assert built["b"] == [2, os.getpid()]
        built["a"].append("child")

    in_child(child)
    assert built["a"] == [1, os.getpid()]
    assert built["b"] == [2, os.getpid()]


def test_cycles_are_collected(writer: mmapcache.Writer) -> None:
    """A service that holds a map whose function, values, views and iterators hold the service."""
    sites = writer.reader()["sites"]

    class Service:
        def __init__(self) -> None:
            self.map = sites.map(self.build)
            self.items = self.map.items()
            self.walk = iter(self.items)
            next(self.walk)
            self.value = self.map["a"]

        def build(self, document: mmapcache.Document) -> Any:
            return [self, document]

    dead = weakref.ref(Service())
    gc.collect()
    assert dead() is None


def test_leaks_and_interpreters(tmp_path: Path) -> None:
    run_script(SCRIPT, str(tmp_path / "cache"))


SCRIPT = """
import sys
import mmapcache
import bson
path = sys.argv[1]
writer = mmapcache.Writer(path, max_size="8MiB", retention=0)

def commit(n):
    with writer.batch() as batch:
        batch.put_raw("sites", b"".join(
            bson.encode({"_id": f"k{m}", "n": n if m % 3 == 0 else 0}) for m in range(200)))

def fail(document):
    raise ValueError

commit(0)
sites = writer.reader(front_entries=100)["sites"]
kept = sites.map(lambda document: [document["n"]], entries=150)

def work(n):
    commit(n)
    for built in (kept, sites.map(dict), sites.map(fail, missing=list)):
        for m in range(205):
            try:
                built[f"k{m}"], built.get(m), f"k{m}" in built
            except (KeyError, ValueError):
                pass
        try:
            list(built.items()), list(built.values())
        except ValueError:
            pass

for n in range(10):
    work(n)
before = sys.getallocatedblocks()
for n in range(10, 40):
    work(n)
more = sys.getallocatedblocks() - before
assert more < 300, f"{more} blocks more"

try:
    import _interpreters
    own = _interpreters.create("isolated")
    run, destroy = _interpreters.exec, _interpreters.destroy
except ImportError:
    import _xxsubinterpreters
    own = _xxsubinterpreters.create(isolated=sys.version_info >= (3, 12))
    run, destroy = _xxsubinterpreters.run_string, _xxsubinterpreters.destroy
failed = run(own, '''
import mmapcache
built = mmapcache.open({path!r})["sites"].map(lambda document: document["_id"])
assert built["k5"] == "k5" and built["k5"] is built["k5"] and len(list(built.items())) == 200
'''.format(path=path))
assert failed is None, failed
destroy(own)
"""


def test_a_document_that_has_moved_keeps_its_value(cache_path: Path) -> None:
    """It is built anew at most once, and not after each later commit."""
    rng = random.Random(1)
    calls: list[int] = []

    with mmapcache.Writer(cache_path, max_size="4MiB", retention=0) as writer:

        def put_some(keys: Iterable[int]) -> None:
            with writer.batch() as batch:
                for key in keys:
                    batch.put("sites", key, {"_id": key, "pad": "x" * rng.randrange(300, 700)})

        count = 0
        while writer.in_use < 0.88 * (4 << 20):
            put_some(range(count, count := count + 20))
        hot = rng.sample(range(count), 200)
        cold = rng.sample(sorted(set(range(count)) - set(hot)), count - 200)
        sites = writer.reader(front_bytes="64MiB")["sites"]

        def build(document: mmapcache.Document) -> list[int]:
            calls.append(document["_id"])
            return [document["_id"]]

        built = sites.map(build)
        documents = {key: sites[key] for key in hot}
        gone, rest = cold[: len(cold) * 3 // 10], cold[len(cold) * 3 // 10 :]
        for start in range(0, len(gone), 20):
            with writer.batch() as batch:
                for key in gone[start : start + 20]:
                    batch.delete("sites", key)
            assert sites[hot[0]]
        assert [built[key] for key in hot]
        calls.clear()
        for turn in range(12):  # for each there is room only where others move
            with writer.batch() as batch:
                batch.put("large", turn, {"_id": turn, "pad": "y" * 60000})
            assert sites[hot[0]] is documents[hot[0]]
            put_some(rng.sample(rest, 3))
            assert [built[key] for key in hot]
        assert 0 < len(calls) <= 12 * len(hot)
        calls.clear()
        for _ in range(10):  # some may move again meanwhile
            put_some(rng.sample(rest, 3))
            assert [built[key] for key in hot]
        assert all(calls.count(key) < 5 for key in hot)
        assert all(sites[key] is documents[key] for key in hot)


@pytest.mark.parametrize("then", ["read", "close"])
def test_a_destructor_may_read_or_close_meanwhile(cache_path: Path, then: str) -> None:
    """At the end of a document that gives its place to the one that a value is built from."""
    with mmapcache.Writer(cache_path) as writer:
        codes = [{"_id": n, "n": 0, "code": bson.Code("x")} for n in range(40)]
        fill(writer, "sites", *codes)
        cache = mmapcache.open(cache_path, front_entries=8)
        sites = cache["sites"]
        built = sites.map(lambda document: document["n"])
        asked, ended = 0, 0

        def ends(_: object) -> None:
            nonlocal ended
            ended += 1
            if then == "close":
                cache.close()
            else:
                writer.put("sites", asked, {"_id": asked, "n": 100 + ended})
                assert "nothing" not in sites

        watched = [weakref.ref(sites[n]["code"], ends) for n in range(8)]
        assert all(ref() is not None for ref in watched)
        for asked in range(8, 40):  # in the front cache at the second visit
            with contextlib.suppress(mmapcache.ClosedError):
                assert sites.get(asked) is not None
                before = ended
                assert built[asked] in (0, 100 + before)
                if then == "read":
                    assert built[asked] == built[asked] == bson.decode(sites.get_raw(asked))["n"]
        assert ended > 0
