"""The loader against replies that no server in its right mind gives: failed rounds, no ends."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.loader import PATIENCE, Loader, load_once, wait_for
from support.scripted_server import Message, Raw, ScriptedServer, failing

import mmapcache

pytestmark = pytest.mark.usefixtures("warm_loaders")

bson = pytest.importorskip("bson")
pytest.importorskip("pymongo")

SOON = ["--interval=0.1", "--batch-size=10"]
SITES = ["--collection=shop.sites"]
OLD: dict[str, list[dict[str, Any]]] = {"shop.sites": [{"_id": i, "v": 0} for i in range(35)]}
NEW: dict[str, list[dict[str, Any]]] = {"shop.sites": [{"_id": i, "v": 1} for i in range(35)]}


def cursor(**fields: Any) -> dict[str, Any]:
    return {"ok": 1.0, "cursor": fields}


GARBAGE = bytes(range(1, 200))
MAD = {
    "no cursor": {"ok": 1.0},
    "a cursor of another type": {"ok": 1.0, "cursor": 5},
    "a cursor that is null": {"ok": 1.0, "cursor": None},
    "no batch": cursor(id=bson.Int64(0), ns="shop.sites"),
    "a batch of another type": cursor(id=0, ns="shop.sites", firstBatch="x", nextBatch="x"),
    "a batch of numbers": cursor(id=0, ns="shop.sites", firstBatch=[1], nextBatch=[1]),
    "no cursor id": cursor(ns="shop.sites", firstBatch=[], nextBatch=[]),
    "a cursor id of another type": cursor(id="x", ns="shop.sites", firstBatch=[], nextBatch=[]),
    "no namespace": cursor(id=bson.Int64(0), firstBatch=[], nextBatch=[]),
    "no code": failing(None, "Whatever"),
    "a code of another type": failing(None, "Whatever") | {"code": "x"},
    "no ok": {"cursor": {}},
    "ok of another type": {"ok": "yes"},
    "ok: 0 and nothing else": {"ok": 0.0},
    "an empty document": {},
    "errors of another type": {"ok": 0.0, "errmsg": 5, "errorLabels": 5},
    "write errors of another type": {"ok": 1.0, "writeErrors": 3, "writeConcernError": "x"},
    "no BSON": Raw(GARBAGE),
    "nothing": Raw(b""),
    "a document that claims less": Raw(struct.pack("<i", 4) + GARBAGE),
    "an unknown section": Message(struct.pack("<IB", 0, 9) + bson.encode({"ok": 1.0})),
    "an unknown compressor": Message(struct.pack("<iiB", 2013, 5, 77) + GARBAGE, code=2012),
    "broken compression": Message(struct.pack("<iiB", 2013, 5, 2) + GARBAGE, code=2012),
    "a code that nobody knows": Message(GARBAGE, code=4711),
    "a length that is negative": Message(GARBAGE, length=-5),
    "a length that is short": Message(GARBAGE, length=3),
}
HARMLESS = {"no namespace", "no cursor id", "write errors of another type"}


@pytest.mark.parametrize("command", ["find", "getMore"])
@pytest.mark.parametrize("mad", MAD)
def test_a_reply_that_makes_no_sense_is_a_failed_round(
    cache_path: Path, command: str, mad: str
) -> None:
    server = ScriptedServer(dict(OLD))
    flags = ["--uri", server.uri, *SITES, *SOON]
    with (
        server,
        Loader(cache_path, flags) as loader,
        mmapcache.open(cache_path, timeout=PATIENCE) as cache,
    ):
        wait_for(lambda: cache.status()["state"] == "polling")
        server.answer = lambda name, *_: MAD[mad] if name == command else None
        if mad in HARMLESS:  # some PyMongo takes them for an end
            wait_for(lambda: server.seen[command] > 10 or cache.status()["state"] == "degraded")
        else:
            wait_for(lambda: cache.status()["state"] == "degraded")
        assert loader.process.poll() is None
        assert cache.status()["loader"] == "alive"
        server.collections = dict(NEW)
        server.answer = None
        wait_for(lambda: cache.status()["state"] == "polling" and 34 in cache["sites"])
        wait_for(lambda: cache["sites"][34]["v"] == 1)
        assert len(cache["sites"]) == 35
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0
        assert "Traceback" not in loader.output


@pytest.mark.parametrize("command", ["listCollections", "hello", "count"])
@pytest.mark.parametrize("mad", ["no cursor", "no code", "no BSON", "an unknown compressor"])
def test_a_mad_reply_at_the_start_is_tried_again(cache_path: Path, command: str, mad: str) -> None:
    count = 2

    def answer(name: str, request: dict[str, Any], before: int) -> Any:
        return MAD[mad] if name == command and before < count else None

    with ScriptedServer(dict(OLD), answer) as server:
        status, output = load_once(
            cache_path, ["--uri", server.uri, "--database=shop", "--progress", *SOON]
        )
        assert status == 0, output
        assert "Traceback" not in output


def test_what_a_source_raised_is_shown_with_debug(cache_path: Path) -> None:
    def answer(name: str, request: dict[str, Any], before: int) -> Any:
        return {"ok": 1.0} if name == "find" and before < 2 else None

    with ScriptedServer(dict(OLD), answer) as server:
        flags = ["--uri", server.uri, *SITES, "--log-level=debug"]
        status, output = load_once(cache_path, flags)
        assert status == 0
        assert "an answer that makes no sense (KeyError: 'cursor')" in output
        assert "Traceback" in output


BROKEN = """
import sys
from mmapcache.sync import reporting, round
def broken(*arguments):
    raise {error}
{where} = broken
sys.argv[0] = "mmapcache"
from mmapcache.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("error", "status"), [("LookupError('within')", 1), ("MemoryError", 1), ("SystemExit(3)", 3)]
)
@pytest.mark.parametrize("where", ["round.Round._absent", "reporting.Reporting.note"])
def test_whatever_ends_the_loader_is_in_the_file(
    cache_path: Path, where: str, error: str, status: int
) -> None:
    source = cache_path.with_name("sites.bson")
    source.write_bytes(bson.encode({"_id": 1}))
    assert load_once(cache_path, [f"--source=file:{source}"])[0] == 0
    script = BROKEN.format(where=where, error=error)
    done = subprocess.run(
        [sys.executable, "-c", script, "sync", str(cache_path), f"--source=file:{source}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == status
    with mmapcache.open(cache_path) as cache:
        found = cache.status()
        assert (found["loader"], found["state"]) == ("none", "degraded")
        name = error.partition("(")[0]
        assert f"the loader ended unexpectedly: {name}" in str(found["error"])
    shown = subprocess.run(
        [sys.executable, "-m", "mmapcache", "stat", str(cache_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "properly" not in shown.stdout


def test_a_failure_at_the_start_is_in_the_file(cache_path: Path) -> None:
    source = cache_path.with_name("sites.bson")
    source.write_bytes(bson.encode({"_id": 1}))
    assert load_once(cache_path, [f"--source=file:{source}"])[0] == 0
    source.unlink()
    with Loader(cache_path, [f"--source=file:{source}"]) as loader:
        assert loader.wait() == 1
    with mmapcache.open(cache_path) as cache:
        assert "there is no file" in str(cache.status()["error"])


# --- replies that are too long --------------------------------------------------------------------


def test_a_reply_that_is_too_long_asks_for_less_by_itself(cache_path: Path) -> None:
    """A server without MongoDB's limit of 16 MiB a batch; here one that claims 49 MB."""

    def answer(name: str, request: dict[str, Any], before: int) -> Any:
        if name in ("find", "getMore") and request.get("batchSize", 0) > 7:
            return Message(b"", length=49_000_000)
        return None

    with ScriptedServer(dict(OLD), answer) as server:
        flags = ["--uri", server.uri, *SITES, "--interval=0.1", "--batch-size=100"]
        with Loader(cache_path, flags) as loader:
            loader.expect("a batch of 100 documents .* asks for 25 .*--batch-size 25 or less")
            loader.expect("a batch of 25 documents .* asks for 6 .*--batch-size 6 or less")
            with mmapcache.open(cache_path, timeout=PATIENCE) as cache:
                assert len(cache["sites"]) == 35
                finds = server.seen["find"]
                wait_for(lambda: server.seen["find"] > finds + 1)
                assert cache.status()["state"] == "polling"  # and it stays so
        sizes = [r["batchSize"] for name, r in server.requests if name == "find"]
        assert sizes[:3] == [100, 25, 6]
        assert set(sizes[3:]) == {6}


# --- dropped under a cursor -----------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True], ids=["dropped", "made anew"])
@pytest.mark.parametrize("uuids", [True, False], ids=["uuids", "names only"])
@pytest.mark.parametrize("what", [SITES, ["--database=shop"]])
def test_a_collection_dropped_under_a_cursor_that_ends_short(
    cache_path: Path, again: bool, uuids: bool, what: list[str]
) -> None:
    if again and not uuids:
        pytest.skip("a server without UUIDs: nothing tells the new collection from the old one")
    server = ScriptedServer(OLD | {"shop.other": [{"_id": 1}]})
    server.tells_uuids = uuids
    with (
        server,
        Loader(cache_path, ["--uri", server.uri, *what, *SOON]) as loader,
        mmapcache.open(cache_path, timeout=PATIENCE) as cache,
    ):
        dropped: list[int] = []

        def answer(name: str, request: dict[str, Any], before: int) -> Any:
            if name == "getMore" and not dropped:
                dropped.append(before)
                server.drop("shop.sites")
                if again:
                    server.collections["shop.sites"] = NEW["shop.sites"]
            return None

        generation = cache.generation
        server.answer = answer
        loader.expect("shop.sites was dropped or made anew while it was read")
        loader.expect("recovered" if again else "came back empty")
        assert len(cache["sites"]) == 35
        assert cache.generation == generation + again


def test_a_user_who_may_not_list_collections_may_still_read(cache_path: Path) -> None:
    def answer(name: str, request: dict[str, Any], before: int) -> Any:
        return failing(13, "Unauthorized") if name == "listCollections" else None

    with ScriptedServer(dict(OLD), answer) as server:
        status, output = load_once(cache_path, ["--uri", server.uri, *SITES, *SOON])
        assert status == 0, output


def test_a_second_look_that_fails_is_not_taken_for_a_drop(cache_path: Path) -> None:
    def answer(name: str, request: dict[str, Any], before: int) -> Any:
        late = name == "listCollections" and before in (2, 3)  # and PyMongo's own second try
        return failing(91, "Shutdown") if late else None

    with ScriptedServer(dict(OLD), answer) as server:
        status, output = load_once(cache_path, ["--uri", server.uri, *SITES, *SOON])
        assert status == 0, output
        assert "scripted Shutdown" in output
        assert "dropped" not in output


def test_one_reply_needs_no_second_look(cache_path: Path) -> None:
    with ScriptedServer(dict(OLD)) as server:
        assert load_once(cache_path, ["--uri", server.uri, *SITES])[0] == 0
        assert server.seen["listCollections"] == 2  # for wrong names, and before the read
