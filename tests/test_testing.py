"""mmapcache.testing: content of all shapes, changes, staleness, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.processes import in_child, run_script

import mmapcache
from mmapcache import testing
from mmapcache.testing import TestCache  # nor does pytest look for tests in it

bson = pytest.importorskip("bson")
json_util = pytest.importorskip("bson.json_util")

SITE = {
    "_id": "9f3c",
    "limits": {"qps": 20},
    "hosts": ["a", "b"],
    "owner": bson.ObjectId(b"0" * 12),
}


def test_the_fixture_is_an_empty_cache(mmapcache_test: TestCache) -> None:
    """pytest found it by itself."""
    assert isinstance(mmapcache_test, TestCache)
    assert list(mmapcache_test.cache) == []
    mmapcache_test.set("sites", "9f3c", SITE)
    assert mmapcache_test.cache["sites"]["9f3c"] == SITE


def write(directory: Path, *names: str) -> Path:
    documents = [SITE, {"_id": 7, "n": 1}]
    for name in names:
        if name.endswith(".bson"):
            (directory / name).write_bytes(b"".join(map(bson.encode, documents)))
        else:
            texts = [json_util.dumps(document) for document in documents]
            (directory / name).write_text("\n".join(texts))
    return directory


@pytest.mark.parametrize(
    "shape",
    [
        lambda directory: {
            "sites": {"9f3c": {k: SITE[k] for k in SITE if k != "_id"}, 7: {"n": 1}}
        },
        lambda directory: {"sites": [SITE, mmapcache.Document({"_id": 7, "n": 1})]},
        lambda directory: {"sites": map(bson.encode, [SITE, {"_id": 7, "n": 1}])},
        lambda directory: {"sites": str(write(directory, "other.json") / "other.json")},
        lambda directory: write(directory, "sites.bson") / "sites.bson",
        lambda directory: str(write(directory, "sites.jsonl")),
    ],
)
def test_content(tmp_path: Path, shape: Callable[[Path], Any]) -> None:
    with testing.cache(shape(tmp_path)) as test:
        assert set(test.cache) == {"sites"}
        assert dict(test.cache["sites"]) == {"9f3c": SITE, 7: {"_id": 7, "n": 1}}
        assert test.cache.generation == 1
        assert test.load({"sites": [{"_id": 8}], "flags": {}}) == 2
        assert len(test.cache["sites"]) == 3


def test_changes_are_generations(mmapcache_test: TestCache) -> None:
    test, cache = mmapcache_test, mmapcache_test.cache
    assert test.set("sites", "a", {"n": 1}) == 1
    with cache.snapshot() as before:
        assert test.set("sites", "a", {"_id": "other", "n": 2}) == 2
        assert before["sites"]["a"] == {"_id": "a", "n": 1}
    assert cache["sites"]["a"] == {"_id": "other", "n": 2}
    assert test.advance() == 3
    assert cache["sites"]["a"] == {"_id": "other", "n": 2}
    assert test.delete("sites", "a") == 4
    assert (len(cache), len(cache["sites"])) == (1, 0)
    with pytest.raises(KeyError, match=r"sites.*no document 'a'"):
        test.delete("sites", "a")
    assert test.drop("sites") == 5
    with pytest.raises(KeyError, match="no collection 'sites'"):
        test.drop("sites")
    assert cache.generation == 5


def test_stale(mmapcache_test: TestCache) -> None:
    """Also by more than the machine has run; a change is fresh again."""
    status = mmapcache_test.cache.status
    mmapcache_test.set("sites", "a", {})
    assert (status()["loader"], status()["state"], status()["error"]) == (
        "alive",
        "streaming",
        None,
    )
    for seconds in (90.0, 10 * 365 * 86400.0):
        mmapcache_test.stale(seconds)
        age = status()["age"]
        assert age is not None
        assert seconds <= age < seconds + 60
    mmapcache_test.set("sites", "a", {"n": 1})
    age = status()["age"]
    assert age is not None
    assert age < 60
    with pytest.raises(ValueError, match="0 or more"):
        mmapcache_test.stale(-1)


def test_a_service_that_opens_by_path(
    mmapcache_test: TestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may close what it opened."""
    monkeypatch.setattr(mmapcache, "open", mmapcache_test.open)
    mmapcache_test.set("sites", "a", {"n": 1})
    with mmapcache.open("/run/mmapcache/settings.mmc", timeout=30, owner="mmapcache") as opened:
        assert opened["sites"]["a"]["n"] == 1
    again = mmapcache.open("/run/mmapcache/settings.mmc")
    assert mmapcache_test.cache["sites"]["a"]["n"] == 1
    mmapcache_test.close()
    mmapcache_test.close()
    assert opened.closed
    assert again.closed
    assert mmapcache_test.cache.closed


def test_forked_workers_see_changes(mmapcache_test: TestCache) -> None:
    mmapcache_test.set("sites", "a", {"n": 1})
    ready, go = os.pipe(), os.pipe()

    def worker() -> None:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        assert mmapcache_test.cache["sites"]["a"]["n"] == 2
        with pytest.raises(mmapcache.ClosedError, match="belongs to the process"):
            mmapcache_test.set("sites", "a", {"n": 3})

    def change() -> None:
        os.read(ready[0], 1)
        mmapcache_test.set("sites", "a", {"n": 2})
        os.write(go[1], b"x")

    thread = threading.Thread(target=change)
    thread.start()
    in_child(worker)
    thread.join()
    for end in (*ready, *go):
        os.close(end)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (5, TypeError, "content of a cache is a Mapping"),
        ({"sites": 5}, TypeError, "collection 'sites'.*not int"),
        (
            {"sites": {"_id": 1}},
            TypeError,
            "collection 'sites', key '_id': a document is a Mapping",
        ),
        ({"sites": [{"n": 1}]}, ValueError, "collection 'sites'.*needs an _id"),
        ({"sites": {1: {"x": object()}}}, mmapcache.InvalidDocument, "'sites', key 1: .*object"),
        ("/nowhere/sites.json", FileNotFoundError, "/nowhere/sites.json"),
        (__file__, ValueError, r"only \.json"),
        ({"sites": "/"}, ValueError, "is a directory"),
    ],
)
def test_wrong_content_is_named(content: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        testing.cache(content)


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sites.json"
    path.write_text('{"_id": 1}\n{"n": 2}\n')
    with pytest.raises(ValueError, match=r"sites\.json line 2: the document has no _id"):
        testing.cache(path)


def test_nothing_is_left_and_no_pymongo_is_needed() -> None:
    """No file is made; what only PyMongo can write says what to install."""
    script = textwrap.dedent(
        f"""
        import json, os, sys
        sys.modules["bson"] = sys.modules["pymongo"] = None
        from mmapcache import Document, testing
        opened = []
        sys.addaudithook(lambda name, args: opened.append(args[0]) if name == "open" else None)
        with testing.cache({{}}):
            pass  # what a process keeps, and a file may be its own: see docs/macos.md
        opened.clear()
        before = len(os.listdir("/proc/self/fd"))
        with testing.cache({{"sites": [{bson.encode({"_id": "a", "n": 5})!r}]}}) as test:
            n = test.cache["sites"]["a"]["n"]
        errors = []
        with testing.cache({{"sites": {{1: {{"n": [5.5]}}}}}}) as test:
            assert test.cache["sites"][1] == {{"_id": 1, "n": [5.5]}}
        bad = {{"f": object()}}
        for make in (lambda: testing.cache({{"sites": {{1: bad}}}}), lambda: Document(bad)):
            try:
                make()
            except ValueError as error:
                errors.append(str(error))
        after = len(os.listdir("/proc/self/fd"))
        files = [path for path in opened if str(path).startswith(("/dev/shm", "/tmp"))]
        print(json.dumps([n, errors, after - before, files]))
        """
    )
    said = run_script(script)
    n, (cache, document), descriptors, files = json.loads(said)
    assert (n, descriptors, files) == (5, 0, [])
    assert "pip install 'mmapcache[mongodb]'" in document
    assert cache == f"collection 'sites', key 1: {document}"
