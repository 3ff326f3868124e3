"""Caches, collections and documents as Python's tools meet any mapping: ==, pprint, IPython."""

from __future__ import annotations

import itertools
import pprint
import subprocess
import sys
import weakref
from collections import OrderedDict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from support.caches import fill

import mmapcache

bson = pytest.importorskip("bson")

SITES = {"a": {"_id": "a", "n": 1}, 5: {"_id": 5, "tags": ["x", {"y": None}]}}
FLAGS = {b"f": {"_id": b"f", "on": True}}


@pytest.fixture
def writer(writer: mmapcache.Writer) -> mmapcache.Writer:
    fill(writer, "sites", *SITES.values())
    fill(writer, "flags", *FLAGS.values())
    return writer


def test_a_collection_equals_a_mapping_of_its_content(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites: Any = cache["sites"]
    for same in (SITES, OrderedDict(SITES), MappingProxyType(SITES), dict(sites), sites):
        assert sites == same
        assert same == sites
        assert (sites != same) is False
    for other in (
        {},
        {"a": SITES["a"]},
        {**SITES, "b": 1},
        {**SITES, 5: {"_id": 5}},
        {"a": SITES["a"], 6: SITES[5]},
        cache["flags"],
    ):
        assert sites != other
        assert other != sites
        assert (sites == other) is False
    assert sites != list(SITES)
    assert sites is not None
    with pytest.raises(TypeError):
        _ = sites < SITES
    assert sites == mmapcache.Cache.snapshot(cache)["sites"]
    assert cache.collection("nothing") == {}
    built: Any = sites.map(mmapcache.Document.to_dict)
    assert built == SITES == built == sites
    assert sites.map(len) == {"a": 2, 5: 2} != sites


def test_a_cache_equals_a_mapping_of_its_content(writer: mmapcache.Writer) -> None:
    cache: Any = writer.reader()
    content: Any = {"sites": SITES, "flags": FLAGS}
    snapshot = cache.snapshot()
    for left in (cache, snapshot):
        for right in (content, cache, snapshot, writer.reader(), dict(cache)):
            assert left == right
            assert right == left
    fill(writer, "flags", {"_id": b"f", "on": False})
    assert snapshot == content != cache
    assert cache != snapshot != writer.reader()
    assert cache["sites"] == snapshot["sites"]
    assert cache != {"sites": SITES}
    assert cache is not None
    cache.close()
    assert cache == cache
    with pytest.raises(mmapcache.ClosedError):
        _ = cache == content


def test_a_cache_is_compared_in_one_generation(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    numbers = itertools.count(2)

    class Meanwhile(dict[Any, Any]):
        """Commits while it is compared."""

        def items(self) -> Any:
            fill(writer, "flags", {"_id": b"f", "on": next(numbers)})
            fill(writer, "sites", {"_id": "a", "n": next(numbers)})
            return super().items()

    assert cache == {"sites": Meanwhile(SITES), "flags": Meanwhile(FLAGS)}
    assert cache["sites"]["a"]["n"] > 2


def test_mappings_have_no_hash_as_a_dict_has_none(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    for mapping in (cache, cache["sites"], cache.snapshot(), cache["sites"].map(len)):
        with pytest.raises(TypeError, match="unhashable"):
            hash(mapping)


LONG = {
    "numbers": list(range(20)),
    "inner": {"text": "x" * 60, "more": ["y" * 70, {"z": "z" * 70}]},
}


def test_nothing_takes_a_weak_reference(writer: mmapcache.Writer) -> None:
    """docs/documents.md says so, and what to do instead."""
    cache = writer.reader()
    sites = cache["sites"]
    document = sites[5]
    for each in (cache, cache.snapshot(), sites, sites.map(len), document, document["tags"]):
        with pytest.raises(TypeError, match="weak reference"):
            weakref.ref(each)


def test_pprint_takes_several_lines() -> None:
    document = mmapcache.Document(bson.encode(LONG))
    plain = pprint.pformat(LONG, width=60)
    shown = pprint.pformat(document, width=80)
    assert (
        shown.splitlines()[0] == "Document({'inner': Document({'more': Array(['" + "y" * 70 + "',"
    )
    assert len(shown.splitlines()) >= len(plain.splitlines())
    within = {"Document": dict, "Array": list}
    assert eval(shown, {"__builtins__": {}}, within) == LONG
    assert pprint.pformat(document["inner"]["more"][1]["z"]) == repr("z" * 70)
    assert pprint.pformat(mmapcache.Document(bson.encode({"a": [1]}))) == "Document({'a': [1]})"


def test_pprint_may_be_imported_later() -> None:
    script = (
        "import sys, mmapcache, bson\n"
        "d = mmapcache.Document(bson.encode({'a': 'x' * 50, 'b': 'y' * 50}))\n"
        "sys.modules.pop('pprint', None)\n"
        "repr(d)\n"
        "assert 'pprint' not in sys.modules\n"
        "from pprint import pformat\n"
        "assert len(pformat(d).splitlines()) == 2, pformat(d)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_ipython_completes_keys(writer: mmapcache.Writer) -> None:
    cache: Any = writer.reader()
    complete = "_ipython_key_completions_"
    assert sorted(getattr(cache, complete)()) == ["flags", "sites"]
    assert sorted(getattr(cache.snapshot(), complete)()) == ["flags", "sites"]
    assert set(getattr(cache["sites"], complete)()) == {"a", 5}
    assert set(getattr(cache["sites"].map(len), complete)()) == {"a", 5}
    assert getattr(cache["sites"][5], complete)() == ["_id", "tags"]
    fill(writer, "many", *({"_id": n} for n in range(10_050)))
    assert len(getattr(cache["many"], complete)()) == 10_000


def test_pymongo_takes_an_array_with_help() -> None:
    """What docs/documents.md says about an Array in a query."""
    from bson.codec_options import CodecOptions, TypeRegistry

    array = mmapcache.Document(bson.encode({"ids": [1, {"n": [2]}]}))["ids"]
    wanted = bson.encode({"_id": {"$in": [1, {"n": [2]}]}})
    with pytest.raises(bson.errors.InvalidDocument, match="Array"):
        bson.encode({"_id": {"$in": array}})
    assert bson.encode({"_id": {"$in": array.to_list()}}) == wanted

    def plain(value: Any) -> Any:
        return value.to_list() if isinstance(value, mmapcache.Array) else value

    options: Any = CodecOptions(type_registry=TypeRegistry(fallback_encoder=plain))
    assert bson.encode({"_id": {"$in": array}}, codec_options=options) == wanted


def test_a_batch_that_is_over_is_closed(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        full = batch.replace("other")
        with full:
            full.put(1, {"_id": 1})
        calls: list[Any] = [lambda: full.put(2, {"_id": 2}), full.__enter__]
        for call in calls:
            with pytest.raises(mmapcache.ClosedError, match="replace"):
                call()
    calls = [lambda: batch.put("sites", 1, {}), lambda: batch.drop("a"), batch.__enter__]
    for call in calls:
        with pytest.raises(mmapcache.ClosedError, match="batch"):
            call()
    with pytest.raises(mmapcache.MmapCacheError, match=r"with writer\.batch") as caught:
        writer.batch().drop("a")
    assert not isinstance(caught.value, mmapcache.ClosedError)


def test_a_collection_that_is_not_there_says_which_are(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    for name in ("userSettings", "users", "a\x1b[2J\u202e", "größen", "x1", "x2"):
        fill(writer, name, {"_id": 1})
    for mapping in (cache, cache.snapshot()):
        with pytest.raises(KeyError) as caught:
            mapping["site"]
        (text,) = caught.value.args
        assert text.startswith("no collection 'site': there are 'sites', ")
        assert text.endswith(" and 2 more")
        with pytest.raises(KeyError, match="there are 'userSettings', "):
            mapping["usersettings"]
        with pytest.raises(KeyError) as caught:
            mapping["a"]
        assert r"'a\x1b[2J\u202e'" in caught.value.args[0]
        assert caught.value.args[0].isprintable()
        with pytest.raises(KeyError, match="no collection 'typo'"):
            mapping.collection("typo")["key"]
        with pytest.raises(KeyError) as caught:
            mapping["n" * 1_000_000]
        assert len(caught.value.args[0]) < 1000
        with pytest.raises(KeyError, match=r"^5$"):
            mapping[5]  # type: ignore[index]
        assert mapping.get("site", 7) == 7
        assert mapping.collection("typo").get("key") is None
        with pytest.raises(KeyError, match=r"^'key'$"):
            mapping["sites"]["key"]


def test_a_handle_says_that_its_collection_is_absent(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    there, typo = cache["sites"], cache.collection("typo")
    odd = cache.collection("\ud800")
    snap = cache.snapshot()
    assert repr(there) == "<mmapcache.Collection 'sites'>"
    assert repr(typo) == "<mmapcache.Collection 'typo', absent>"
    assert repr(odd) == "<mmapcache.Collection '\\ud800', absent>"
    assert repr(snap["sites"]) == "<mmapcache.Collection 'sites' of a snapshot>"
    absent = snap.collection("typo")
    assert repr(absent) == "<mmapcache.Collection 'typo' of a snapshot, absent>"
    fill(writer, "typo", {"_id": 1})
    assert repr(typo) == "<mmapcache.Collection 'typo'>"
    assert repr(absent).endswith(" of a snapshot, absent>")
    with writer.batch() as batch:
        batch.drop("sites")
    assert repr(there) == "<mmapcache.Collection 'sites', absent>"
    snap.close()
    assert repr(absent) == "<mmapcache.Collection 'typo' of a snapshot>"  # nobody can say
    cache.close()
    assert repr(there) == "<mmapcache.Collection 'sites'>"


def test_what_cannot_be_read_is_not_called_absent(cache_path: Path) -> None:
    """Nor does it raise: repr() is for logs, and for what is wrong."""
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        fill(writer, "sites", {"_id": 1})
        cache = mmapcache.open(cache_path)
        typo = cache.collection("typo")
        with cache_path.open("r+b") as file:
            file.truncate(0)
    with pytest.raises(mmapcache.MmapCacheError):
        len(typo)
    assert repr(typo) == "<mmapcache.Collection 'typo'>"


def test_of_many_collections_some_are_looked_at_and_all_counted() -> None:
    writer = mmapcache.Writer.anonymous(max_size="4MiB")
    with writer.batch() as batch:
        for n in range(300):
            batch.put(f"c{n}", 1, {"_id": 1})
    cache = writer.reader()
    for mapping in (cache, cache.snapshot()):
        assert len(list(mapping)) == 300
        with pytest.raises(KeyError, match=r"there are ('c\d+', ){5}'c\d+' and 294 more"):
            mapping["c"]


def test_an_empty_cache_says_so() -> None:
    cache = mmapcache.Writer.anonymous(max_size="2MiB").reader()
    with pytest.raises(KeyError, match="no collection 'sites': the cache has none"):
        cache["sites"]
