"""The loader when its source fails: nothing half is published, and it comes back by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.loader import PATIENCE, Loader, confirmed_at, load_once, wait_for
from support.mongodb_server import Server
from support.processes import free_port
from support.scripted_server import CLOSE, HALF, HANG, ScriptedServer, failing

import mmapcache

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

pymongo = pytest.importorskip("pymongo")

SOON = ["--interval", "0.1", "--batch-size", "10"]
OLD = {"shop.a": [{"_id": i, "v": 0} for i in range(35)], "shop.b": [{"_id": 1, "v": 0}]}
NEW = {"shop.a": [{"_id": i, "v": 1} for i in range(5, 40)], "shop.b": [{"_id": 2, "v": 1}]}
BOTH = ["--collection", "shop.a", "--collection", "shop.b"]


@contextmanager
def loaded(
    path: Path, server: ScriptedServer, *flags: str
) -> Iterator[tuple[Loader, mmapcache.Cache]]:
    """A loader that has published OLD."""
    with Loader(path, ["--uri", server.uri, *BOTH, *SOON, *flags]) as loader:
        loader.expect("generation 1:")
        with mmapcache.open(path, timeout=PATIENCE) as cache:
            yield loader, cache


def content(cache: mmapcache.Cache) -> dict[str, list[dict[str, Any]]]:
    with cache.snapshot() as snapshot:
        documents = {
            "shop." + name: [d.to_dict() for d in snapshot[name].values()] for name in snapshot
        }
    return {name: sorted(items, key=lambda d: d["_id"]) for name, items in documents.items()}


FAULTS = {
    "cursor not found": failing(43, "CursorNotFound"),
    "cursor killed": failing(237, "CursorKilled"),
    "query killed": failing(175, "QueryPlanKilled"),
    "stepping down": failing(189, "PrimarySteppedDown"),
    "out of nowhere": failing(99999, "Nobody"),
    "connection closed": CLOSE,
    "half a reply": HALF,
}


@pytest.mark.parametrize(
    ("command", "fault"),
    [("getMore", fault) for fault in FAULTS]
    + [("find", "half a reply"), ("find", "out of nowhere")],
)
def test_a_load_cut_short_publishes_nothing(cache_path: Path, command: str, fault: str) -> None:
    server = ScriptedServer(dict(OLD))
    broken = 0

    def answer(name: str, document: dict[str, Any], before: int) -> Any:
        nonlocal broken
        # The second collection's find, which PyMongo may retry once by itself: hence two faults.
        # Or a batch that is neither the first nor the last of its cursor.
        half = document.get("find", "b") == "b" and (name == "find" or before % 3 == 1)
        if name == command and server.collections == NEW and half and broken < 2:
            broken += 1
            return FAULTS[fault]
        return None

    with server, loaded(cache_path, server) as (loader, cache):
        server.answer = answer
        server.collections = dict(NEW)
        generations = {cache.generation}
        seen = [content(cache)]

        def arrived() -> bool:
            generations.add(cache.generation)
            if (now := content(cache)) != seen[-1]:
                seen.append(now)
            return now == NEW and broken == 2

        wait_for(arrived)
        assert seen == [OLD, NEW]  # and nothing between
        assert generations | {cache.generation} == {1, 2}
        assert loader.process.poll() is None
        wait_for(lambda: cache.status()["state"] == "polling")
        assert cache.status()["error"] is None
        loader.expect("next try in")
    assert "Traceback" not in loader.output


def test_the_status_tells_of_a_failing_source(cache_path: Path) -> None:
    server = ScriptedServer(dict(OLD))
    with server, loaded(cache_path, server) as (_, cache):
        server.answer = lambda name, *_: failing(91, "Shutdown") if name == "find" else None
        wait_for(lambda: cache.status()["state"] == "degraded")
        status = cache.status()
        assert "scripted Shutdown" in str(status["error"])
        assert status["loader"] == "alive"
        confirmed = confirmed_at(cache)
        time.sleep(0.3)
        assert confirmed_at(cache) == confirmed
        assert cache.generation == 1
        server.answer = None
        wait_for(lambda: confirmed_at(cache) > confirmed)
        assert cache.status()["state"] == "polling"
        assert cache.generation == 1


def test_a_server_that_hangs(cache_path: Path) -> None:
    server = ScriptedServer(dict(OLD))
    hang = True

    def answer(name: str, document: dict[str, Any], before: int) -> Any:
        return HANG if name == "getMore" and hang and server.collections == NEW else None

    with server:
        uri = server.uri + "&socketTimeoutMS=300"
        with Loader(cache_path, ["--uri", uri, *BOTH, *SOON]) as loader:
            with mmapcache.open(cache_path, timeout=PATIENCE) as cache:
                server.answer = answer
                server.collections = dict(NEW)
                wait_for(lambda: cache.status()["state"] == "degraded")
                assert "timed out" in str(cache.status()["error"])
                assert content(cache) == OLD
                hang = False
                assert cache.wait(1, PATIENCE)
                assert content(cache) == NEW
            loader.signal(signal.SIGTERM)
            assert loader.wait() == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)]
)
@pytest.mark.parametrize("first", [True, False])
def test_ended_in_the_middle_of_a_load(
    cache_path: Path, number: signal.Signals, status: int, first: bool
) -> None:
    server = ScriptedServer(dict(NEW if first else OLD))
    stuck: list[int] = []

    def answer(name: str, document: dict[str, Any], before: int) -> Any:
        if name == "getMore" and server.collections == NEW and before % 3 == 2:
            stuck.append(before)
            return HANG
        return None

    with server:
        server.answer = answer
        with Loader(cache_path, ["--uri", server.uri, *BOTH, *SOON]) as loader:
            if not first:
                with mmapcache.open(cache_path, timeout=PATIENCE):
                    server.collections = dict(NEW)
            wait_for(lambda: stuck)
            began = time.monotonic()
            loader.signal(number)
            assert loader.wait() == status
            assert time.monotonic() - began < 5
        if first:
            with pytest.raises(mmapcache.NotReadyError):
                mmapcache.open(cache_path)
        else:
            with mmapcache.open(cache_path) as cache:
                assert (cache.generation, content(cache)) == (1, OLD)
        # The next loader goes on from there.
        server.answer = None
        assert load_once(cache_path, ["--uri", server.uri, *BOTH])[0] == 0
        with mmapcache.open(cache_path) as cache:
            assert content(cache) == NEW
            assert cache.generation == (1 if first else 2)
            cache.check()


def test_a_second_sighup_during_a_load_is_not_lost(cache_path: Path) -> None:
    server = ScriptedServer(dict(OLD))
    with (
        server,
        Loader(cache_path, ["--uri", server.uri, *BOTH, "--interval", "3600"]) as loader,
        mmapcache.open(cache_path, timeout=PATIENCE) as cache,
    ):
        before = server.seen["find"]
        server.answer = lambda name, *_: time.sleep(0.3) if name == "find" else None
        loader.signal(signal.SIGHUP)
        wait_for(lambda: server.seen["find"] == before + 1)
        server.collections = dict(NEW)  # read only by the refresh that follows at once
        loader.signal(signal.SIGHUP)
        wait_for(lambda: server.seen["find"] == before + 4)
        wait_for(lambda: content(cache) == NEW)


def test_the_server_goes_and_comes_back(tmp_path: Path, cache_path: Path) -> None:
    with Server(tmp_path) as server:
        with pymongo.MongoClient(server.uri) as client:
            client.shop.sites.insert_many([{"_id": i} for i in range(500)])
        flags = ["--uri", server.uri, "--collection=shop.sites", "--interval=0.05"]
        with Loader(cache_path, flags) as loader, mmapcache.open(cache_path, PATIENCE) as cache:
            server.kill()
            # at first, when it was killed while it answered: that the connection was closed
            wait_for(lambda: "no MongoDB server answers" in str(cache.status()["error"]))
            assert cache.status()["state"] == "degraded"
            assert len(cache["sites"]) == 500
            server.start()
            with pymongo.MongoClient(server.uri) as client:
                client.shop.sites.insert_one({"_id": "back"})
            assert wait_for(lambda: "back" in cache["sites"])
            wait_for(lambda: cache.status()["state"] == "polling")
            assert loader.process.poll() is None
            loader.expect("recovered")


def test_a_real_server_killed_while_it_is_read(tmp_path: Path, cache_path: Path) -> None:
    """However many documents had arrived: the old generation or the new one, whole."""
    with Server(tmp_path) as server:
        with pymongo.MongoClient(server.uri) as client:
            client.shop.sites.insert_many([{"_id": i, "v": 0} for i in range(3000)])
        flags = ["--uri", server.uri, "--collection=shop.sites", "--batch-size=20"]
        with (
            Loader(cache_path, [*flags, "--interval=0.05"]),
            mmapcache.open(cache_path, PATIENCE) as cache,
        ):
            for value in (1, 2):
                with pymongo.MongoClient(server.uri) as client:
                    client.shop.sites.update_many({}, {"$set": {"v": value}})
                time.sleep(0.05 * value)
                server.kill()
                for _ in range(20):
                    with cache.snapshot() as snapshot:
                        values = [d["v"] for d in snapshot["sites"].values()]
                    assert len(values) == 3000
                    time.sleep(0.01)
                server.start()
            wait_for(lambda: cache.status()["state"] == "polling")
            assert len(cache["sites"]) == 3000


def refused(
    cache_path: Path, uri: str, *flags: str, environment: dict[str, str] | None = None
) -> str:
    """The output of a loader that must end by itself, at once, with 1."""
    # Not before it has tried again for its --timeout, 30 s, if it did.
    with Loader(cache_path, ["--uri", uri, *flags], environment) as loader:
        assert loader.wait() == 1, loader.output
    assert "next try in" not in loader.output
    assert "Traceback" not in loader.output
    return loader.output


def test_wrong_credentials_fail_at_once_and_rotation_does_not(
    tmp_path: Path, cache_path: Path
) -> None:
    with Server(tmp_path / "data") as server:
        with pymongo.MongoClient(server.uri) as client:
            client.shop.sites.insert_one({"_id": 1})
            roles = [{"role": "read", "db": "shop"}]
            client.shop.command("createUser", "app", pwd="s3cr3t/w0rd", roles=roles)
        server.stop()
        server.start(auth=True)

        def uri(password: str) -> str:
            return f"mongodb://app:{password}@127.0.0.1:{server.port}/?authSource=shop"

        flag = "--collection=shop.sites"
        output = refused(cache_path, uri("wr0ng%2Fw0rd"), flag, "--log-level=debug")
        assert "wrong credentials" in output
        assert "wr0ng" not in output
        output = refused(cache_path, uri("s3cr3t%2Fw0rd"), "--collection=crm.users")
        assert "may not read" in output or "wrong name" in output
        assert "s3cr3t" not in output

        secret = tmp_path / "uri"
        secret.write_text(uri("s3cr3t%2Fw0rd") + "\n")
        flags = ["--uri-file", str(secret), flag, "--interval=0.1", "--log-level=debug"]
        with Loader(cache_path, flags) as loader, mmapcache.open(cache_path, PATIENCE) as cache:
            assert cache["sites"][1] == {"_id": 1}
            secret.write_text(uri("wr0ng%2Fw0rd"))
            wait_for(lambda: cache.status()["state"] == "degraded")
            assert "wrong credentials" in str(cache.status()["error"])
            assert loader.process.poll() is None
            secret.write_text(uri("s3cr3t%2Fw0rd"))
            wait_for(lambda: cache.status()["state"] == "polling")
            for text in (loader.output, str(cache.status()), repr(cache_path.read_bytes())):
                assert "s3cr3t" not in text
                assert "wr0ng" not in text


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://ann:open@sesame@h/",
        "mongodb://ann:open/sesame@h/",
        "mongodb://ann:open:sesame@h/",
        "mongodb://ann:open%sesame@h/",
        "mongodb://ann:opensesame@h:port/",
        "mongodb://ann:opensesame@h/?authMechanism=sesame",
    ],
)
def test_a_uri_that_is_wrong_is_not_shown(cache_path: Path, uri: str) -> None:
    output = refused(cache_path, uri, "--collection=shop.sites", "--log-level=debug")
    assert "sesame" not in output.replace("authMechanism must be", "")


def test_once_keeps_trying_until_its_time_is_over(cache_path: Path) -> None:
    uri = f"mongodb://127.0.0.1:{free_port()}/"
    began = time.monotonic()
    status, output = load_once(cache_path, ["--uri", uri, *BOTH, "--timeout", "1.5"])
    assert status == 1
    assert time.monotonic() - began > 1.0
    assert "no MongoDB server answers" in output
    assert "next try in" in output


def test_once_succeeds_when_the_server_comes_in_time(cache_path: Path) -> None:
    server = ScriptedServer(dict(OLD), lambda name, _, before: CLOSE if before < 2 else None)
    with server:
        status, output = load_once(cache_path, ["--uri", server.uri, *BOTH])
        assert status == 0, output
        assert "next try in" in output


def test_once_that_is_stopped_has_failed(cache_path: Path) -> None:
    uri = f"mongodb://127.0.0.1:{free_port()}/"
    with Loader(cache_path, ["--uri", uri, *BOTH, "--once"]) as loader:
        loader.expect("next try in")
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 1


def test_pymongo_missing_is_said(cache_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loader, "warm", False)
    hide = cache_path.with_name("hide")
    (hide / "pymongo").mkdir(parents=True)
    (hide / "pymongo" / "__init__.py").write_text("raise ImportError('hidden')")
    (hide / "bson").mkdir()
    (hide / "bson" / "__init__.py").write_text("raise ImportError('hidden')")
    path = os.pathsep.join([str(hide), *filter(None, [os.environ.get("PYTHONPATH")])])
    with Loader(cache_path, ["--uri", "mongodb://h/", *BOTH], {"PYTHONPATH": path}) as loader:
        assert loader.wait() == 2
        assert "pip install 'mmapcache[mongodb]'" in loader.output
    source = cache_path.with_name("x.bson")
    source.write_bytes(b"\x0e\0\0\0\x10_id\0\x01\0\0\0\0")
    flags = ["--source", f"file:{source}"]
    status, output = load_once(cache_path, flags, {"PYTHONPATH": path})
    assert status == 0, output  # mongodump's files need nothing but the cache
    source = source.with_suffix(".json")
    source.write_text('{"_id": 1}')
    status, output = load_once(cache_path, ["--source", f"file:{source}"], {"PYTHONPATH": path})
    assert status == 1
    assert "pip install 'mmapcache[mongodb]'" in output
