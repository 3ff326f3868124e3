"""Fixtures: a MongoDB server, a database of one's own on it, cache files in memory, a writer."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.loader import Loader
from support.mongodb_server import Server
from support.one_file import write

import mmapcache

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.database import Database

# Files that take longest, those that wait beside those that compute: they begin first, so that none
# of them is what everything waits for at the end. The others follow, those with most tests first.
LONG = (
    *("test_live_faults.py", "test_sync_faults.py", "test_demo_run.py", "test_live_server.py"),
    *("test_truncation.py", "test_packaging.py", "test_sync_phases.py", "test_live_verify.py"),
    *("test_live_codes.py", "test_sync.py", "test_servers.py", "test_live_hold.py"),
    *("test_benchmarks.py", "test_streams.py", "test_readme.py", "test_service.py"),
    *("test_agent.py", "test_clients.py", "test_restarts.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order of the files, which `make pytest` keeps; that of the tests in a file is its own.
    What takes long is skipped unless EVERY."""
    tests = Counter(item.path for item in items)
    rank = {name: number for number, name in enumerate(LONG)}
    if not os.environ.get("EVERY"):
        skip = pytest.mark.skip(reason="takes long: EVERY=1 make pytest ARGS='-k every'")
        for item in items:
            if item.get_closest_marker("every"):
                item.add_marker(skip)
    items.sort(key=lambda i: (rank.get(i.path.name, len(LONG)), -tests[i.path], i.path.name))


@pytest.fixture(scope="session")
def mongodb_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a server that all tests share: MMAPCACHE_TEST_MONGODB, or one started here."""
    given = os.environ.get("MMAPCACHE_TEST_MONGODB")
    if given:
        yield given
        return
    with Server(tmp_path_factory.mktemp("mongodb")) as server:
        yield server.uri


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with change streams, which the tests of a module share."""
    with Server(tmp_path_factory.mktemp("replica-set"), replica_set=True) as server:
        yield server


@pytest.fixture
def mongodb_client(mongodb_uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client of the shared server."""
    pymongo = pytest.importorskip("pymongo")
    with pymongo.MongoClient(mongodb_uri) as client:
        yield client


@pytest.fixture
def database(mongodb_client: MongoClient[dict[str, Any]]) -> Iterator[Database[dict[str, Any]]]:
    """An empty database that no other test uses; dropped afterwards."""
    database = mongodb_client[f"mmapcache_test_{uuid.uuid4().hex[:12]}"]
    yield database
    mongodb_client.drop_database(database.name)


@pytest.fixture
def cache_path() -> Iterator[Path]:
    """A path on tmpfs for a cache file, in a directory of its own."""
    memory = Path("/dev/shm")
    directory = tempfile.mkdtemp(prefix="mmapcache-test-", dir=memory if memory.is_dir() else None)
    yield Path(directory) / "cache"
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def source(cache_path: Path) -> Path:
    """A file with one document, beside the cache file: see support/one_file.py."""
    return write(cache_path.parent)


@pytest.fixture
def warm_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders of this test are forked from a process that has imported PyMongo: support/warm.py."""
    monkeypatch.setattr(Loader, "warm", True)


@pytest.fixture
def writer(cache_path: Path) -> Iterator[mmapcache.Writer]:
    """A loader that is alive in this process; what it has published is each file's own."""
    with mmapcache.Writer(cache_path, max_size="32MiB") as writer:
        yield writer
