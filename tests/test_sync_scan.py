"""How the loader reads a filtered collection, and what a collection's own settings decide."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.loader import PATIENCE, Loader, confirmed_at, load_once, wait_for
from support.scripted_server import ScriptedServer

import mmapcache

pytest.importorskip("pymongo")
from pymongo import monitoring

from mmapcache.sync import options
from mmapcache.sync.mongo.source import MongoSource

pytestmark = pytest.mark.usefixtures("warm_loaders")

if TYPE_CHECKING:
    from pymongo.database import Database

    Documents = Database[dict[str, Any]]

OWN_ORDER = {"$natural": 1}


class Finds(monitoring.CommandListener):
    """The find commands that this process's clients sent to a database."""

    def __init__(self) -> None:
        self.database = ""
        self.sent: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == "find" and event.database_name == self.database:
            self.sent.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


LISTENER = Finds()
monitoring.register(LISTENER)


@pytest.fixture
def finds(database: Documents) -> Iterator[list[dict[str, Any]]]:
    LISTENER.database = database.name
    LISTENER.sent.clear()
    yield LISTENER.sent
    LISTENER.database = ""


def source(*arguments: str) -> MongoSource:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return MongoSource(options.resolve(parser.parse_args(["cache", *arguments]), {}))


def read(reader: MongoSource) -> bytes:
    """All documents of the only collection."""
    (feed,) = reader.feeds(frozenset(), estimate=False)
    try:
        return b"".join(reader.buffers(feed))
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--filter", 'sites={"active": true}'], OWN_ORDER),
        (["--filter", 'sites={"$or": [{"_id": 1}, {"active": true}]}'], OWN_ORDER),
        (["--filter", 'sites={"_id": {"$gt": 0}}'], None),  # nothing moves in the index of _id
        (["--projection", 'sites={"active": 1}'], None),  # in its own order anyway
        ([], None),
    ],
)
def test_a_filtered_load_reads_in_the_collections_own_order(
    mongodb_uri: str,
    database: Documents,
    finds: list[dict[str, Any]],
    flags: list[str],
    hint: dict[str, int] | None,
) -> None:
    database.sites.create_index("active")
    database.sites.insert_many([{"_id": i, "active": i % 2 == 0} for i in range(1, 300)])
    collection = f"--collection={database.name}.sites"
    got = read(source("--uri", mongodb_uri, collection, "--batch-size=50", *flags))
    assert got, "nothing came"
    (sent,) = finds
    assert sent.get("hint") == hint


def test_an_index_may_be_followed_when_asked_for(
    mongodb_uri: str, database: Documents, finds: list[dict[str, Any]], tmp_path: Path
) -> None:
    database.sites.insert_one({"_id": 1, "active": True})
    config = tmp_path / "sync.toml"
    config.write_text(
        f'[[collection]]\nfrom = "{database.name}.sites"\n'
        "filter = { active = true }\nfollow_index = true\n"
    )
    assert read(source("--uri", mongodb_uri, "--config", str(config)))
    (sent,) = finds
    assert "hint" not in sent


def test_a_snapshot_needs_no_order() -> None:
    seen = []

    def answer(command: str, document: dict[str, Any], before: int) -> Any:
        if command in ("find", "count"):
            seen.append(document)
        return {"ok": 1.0, "n": 1} if command == "count" else None

    with ScriptedServer({"shop.sites": [{"_id": 1, "active": True}]}, answer) as server:
        reader = source(
            "--uri",
            server.uri + "&readConcernLevel=snapshot",
            "--collection=shop.sites",
            "--collection=shop.sites=all",
            '--filter=sites={"active": true}',
        )
        for feed in reader.feeds(frozenset(), estimate=True):
            assert list(reader.buffers(feed))
        reader.close()
    find, count, unfiltered = seen
    assert find["readConcern"] == unfiltered["readConcern"] == {"level": "snapshot"}
    assert "hint" not in find
    assert count["count"] == "sites"
    assert "readConcern" not in count


@pytest.mark.parametrize("code", [2, 40415, 291])
def test_a_server_that_takes_no_hint_is_read_without(cache_path: Path, code: int) -> None:
    def answer(command: str, document: dict[str, Any], before: int) -> Any:
        if command == "find" and "hint" in document:
            return {"ok": 0.0, "code": code, "errmsg": "no such hint"}
        return None

    with ScriptedServer({"shop.sites": [{"_id": 1, "active": True}]}, answer) as server:
        flags = ["--uri", server.uri, "--collection=shop.sites", '--filter=sites={"active": true}']
        with Loader(cache_path, [*flags, "--interval=0.05"]) as loader:
            with mmapcache.open(cache_path, timeout=PATIENCE) as cache:
                first = wait_for(lambda: confirmed_at(cache))
                wait_for(lambda: confirmed_at(cache) > first)
                assert cache["sites"][1] == {"_id": 1, "active": True}
            loader.signal(signal.SIGTERM)
            assert loader.wait() == 0
            assert loader.output.count("does not read shop.sites in its own order") == 1


def test_a_wrong_filter_is_still_refused(cache_path: Path) -> None:
    def answer(command: str, document: dict[str, Any], before: int) -> Any:
        return {"ok": 0.0, "code": 2, "errmsg": "bad"} if command == "find" else None

    with ScriptedServer({"shop.sites": [{"_id": 1}]}, answer) as server:
        flags = ["--uri", server.uri, "--collection=shop.sites", '--filter=sites={"$no": 1}']
        status, output = load_once(cache_path, flags)
    assert status == 1
    assert "does not accept the query" in output
    assert "own order" not in output


@pytest.mark.parametrize("document", [r'{"a": "\ud800"}', '{"a": 99999999999999999999}'])
def test_a_filter_without_bson_is_wrong_usage(cache_path: Path, document: str) -> None:
    flags = ["--uri", "mongodb://h/", "--collection=shop.sites", f"--filter=sites={document}"]
    with Loader(cache_path, flags) as loader:
        assert loader.wait() == 2
        assert "filter of sites" in loader.output
        assert "Traceback" not in loader.output


def test_a_dropped_collection_goes_by_its_own_allow_empty(
    mongodb_uri: str, database: Documents, cache_path: Path, tmp_path: Path
) -> None:
    """Under --database: a table's allow_empty counts for its collection, in both directions."""
    names = ("plain", "volatile", "firm")
    for name in names:
        database[name].insert_one({"_id": 1})
    config = tmp_path / "sync.toml"

    def load(flags: list[str], tables: str) -> tuple[list[str], str]:
        config.write_text(tables)
        arguments = ["--uri", mongodb_uri, "--database", database.name, "--config", str(config)]
        output = load_once(cache_path, [*arguments, *flags])[1]
        with mmapcache.open(cache_path) as cache:
            return sorted(cache), output

    tables = (
        '[[collection]]\nname = "volatile"\nallow_empty = true\n'
        '[[collection]]\nname = "firm"\nallow_empty = false\n'
    )
    assert load([], tables)[0] == ["firm", "plain", "volatile"]
    for name in names:
        database.drop_collection(name)
    database.other.insert_one({"_id": 1})
    held, output = load([], tables)
    assert held == ["firm", "other", "plain"]
    assert "kept with its last content: firm, plain" in output
    held, output = load(["--allow-empty"], tables)
    assert held == ["firm", "other"]
    assert "kept with its last content: firm " in output


def test_a_view_with_a_filter(mongodb_uri: str, database: Documents, cache_path: Path) -> None:
    database.sites.insert_many([{"_id": i, "active": i % 2 == 0} for i in range(10)])
    database.command("create", "seen", viewOn="sites", pipeline=[{"$match": {"_id": {"$gt": 4}}}])
    flags = ["--uri", mongodb_uri, f"--collection={database.name}.seen"]
    status, output = load_once(cache_path, [*flags, '--filter=seen={"active": true}'])
    assert status == 0, output
    with mmapcache.open(cache_path) as cache:
        assert sorted(cache["seen"]) == [6, 8]
