"""Fixtures of the ring: servers of both kinds with the module, and ZooKeeper."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ring.ring_servers import (
    Connection,
    Server,
    ZooKeeper,
    make_ready,
    module_path,
    ring_record,
    server_binary,
    zookeeper_missing,
)
from support.tools import lacking

from demo.ring.installed import KINDS

EPOCH = 7
HERE = Path(__file__).parent
StartServer = Callable[..., Server]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Both kinds show the same, so one of them will do; both run with EVERY, as in CI."""
    one = next((name for name in KINDS if server_binary(name)[0]), KINDS[0])
    others = [name for name in KINDS if name != one]
    for item in items:
        callspec = getattr(item, "callspec", None)
        if HERE in item.path.parents and callspec and callspec.params.get("kind") in others:
            item.add_marker(pytest.mark.every)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each test runs on both kinds of servers."""
    for found, missing in (server_binary(request.param), module_path()):
        if not found:
            lacking(missing)
    if "/asan/" in module_path()[0] and request.param == "valkey":
        pytest.skip("Valkey loads modules with RTLD_DEEPBIND, which AddressSanitizer refuses")
    return str(request.param)


@pytest.fixture
def start_server(kind: str, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers that the test may do anything to; named as in the ring."""
    servers = []
    numbers = itertools.count()

    def start(*, folder: str = "", **options: Any) -> Server:
        server = Server(kind, tmp_path / (folder or str(next(numbers))), **options)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def shared_server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Node a, ready, of a ring of a and b. Tests use keys of their own and leave it so."""
    server = Server(kind, tmp_path_factory.mktemp(kind), fence=30_000).start()
    connection = server.connect(hello=False)
    assert connection("RING.RING", ring_record(EPOCH, ["a", "b"])) == "OK"
    make_ready(connection)
    yield server
    server.kill()


@pytest.fixture
def node(shared_server: Server) -> Iterator[Connection]:
    """A connection to the server of `shared_server`."""
    connection = shared_server.connect()
    yield connection
    connection.close()


def _running_zookeeper(folder: Path) -> Iterator[ZooKeeper]:
    if missing := zookeeper_missing():
        lacking(missing)
    server = ZooKeeper(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def shared_zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper]:
    yield from _running_zookeeper(tmp_path_factory.mktemp("zookeeper"))


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper]:
    """One of the file's own: its tests may stop it."""
    yield from _running_zookeeper(tmp_path_factory.mktemp("zookeeper"))


@pytest.fixture
def zookeeper(tmp_path: Path) -> Iterator[ZooKeeper]:
    """One of the test's own, running."""
    yield from _running_zookeeper(tmp_path / "zookeeper")
