"""The module and a real ZooKeeper: it registers, follows, and outlives whatever ZooKeeper does."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ring.conftest import StartServer
from ring.ring_servers import (
    Server,
    ZooKeeper,
    eventually,
    free_port,
    make_ready,
    put,
    ring_record,
    zookeeper_missing,
)
from support.tools import lacking, tool

from mmapcache.ring._ring import Clock

if zookeeper_missing():
    lacking(zookeeper_missing(), module=True)

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

ADDRESS = "10.1.2.3:6379"
clock = Clock()


class Tree:
    """What stands in ZooKeeper."""

    def __init__(self, zookeeper: ZooKeeper) -> None:
        self.root = zookeeper.root
        self.client = KazooClient(hosts=zookeeper.address, timeout=1.0)
        self.client.start(timeout=60)

    def live(self, node: str = "a") -> dict[str, Any] | None:
        try:
            data, stat = self.client.retry(self.client.get, f"{self.root}/live/{node}")
        except NoNodeError:
            return None
        return {**json.loads(data), "session": stat.ephemeralOwner}

    def put(self, record: str) -> None:
        self.client.retry(self.client.ensure_path, f"{self.root}/ring")
        self.client.retry(self.client.set, f"{self.root}/ring", record.encode())

    def close(self) -> None:
        self.client.stop()
        self.client.close()


@pytest.fixture
def zookeeper(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ZooKeeper]:
    """Running, with a root of the test's own; with `own` all of it is the test's."""
    if getattr(request, "param", "shared") != "own":
        shared: ZooKeeper = request.getfixturevalue("shared_zookeeper")
        shared.root = f"/ring-{uuid.uuid4().hex[:8]}"
        yield shared
        return
    server = ZooKeeper(tmp_path / "zookeeper")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def tree(zookeeper: ZooKeeper) -> Iterator[Tree]:
    made = Tree(zookeeper)
    yield made
    made.close()


Begin = Callable[..., Server]
own = pytest.mark.parametrize("zookeeper", ["own"], indirect=True)


@pytest.fixture
def begin(start_server: StartServer, zookeeper: ZooKeeper) -> Begin:
    def start(**options: Any) -> Server:
        options.setdefault("fence", 60_000)
        arguments = [f"zookeeper={zookeeper.address}{zookeeper.root}", f"address={ADDRESS}"]
        return start_server(arguments=arguments, **options)

    return start


def in_state(tree: Tree, state: str, node: str = "a") -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        live = tree.live(node)
        return live if live is not None and live["state"] == state else None

    return eventually(f"node {node} is {state}", look)


def test_node_registers_and_follows_the_record(begin: Begin, tree: Tree) -> None:
    server = begin()
    live = in_state(tree, "spare")
    assert server.info()["zookeeper_registration"] == "ok"
    assert live["address"] == ADDRESS
    assert live["since"] <= time.time_ns() // 1_000_000
    assert live["session"] != 0
    tree.put(ring_record(3, ["a", "b"]))
    joining = in_state(tree, "joining")
    node = server.connect()
    assert node.hello()["epoch"] == 3
    assert joining["run_id"] == node.hello()["run_id"]
    make_ready(node)
    in_state(tree, "ready")
    malformed = [b"", b"{}", ring_record(2, ["a", "b"]).encode(), b"\xff" * 100, b"x" * 70_000]
    for number, record in enumerate(malformed, 1):
        tree.client.set(f"{tree.root}/ring", record)
        refused = partial(lambda n: server.info()["records_refused"] == str(n), number)
        eventually("it is refused", refused)
    assert server.info()["record_refused_as"]
    assert node(*put(3, clock.next(), 0, b"k", b"v")) == "OK"
    tree.put(ring_record(4, ["a", "b", "c"]))
    eventually("it is at 4", lambda: node.hello()["epoch"] == 4)
    assert node.refused("RING.RING", ring_record(9, ["a"])) == "ERR"
    tree.client.delete(f"{tree.root}/ring")
    time.sleep(0.3)
    assert node.hello()["epoch"] == 4
    tree.put(ring_record(5, ["a", "b", "c"]))
    eventually("it is at 5", lambda: node.hello()["epoch"] == 5)
    node("FLUSHALL")
    assert in_state(tree, "joining")["run_id"] != joining["run_id"]


def test_node_that_missed_a_step_begins_anew(begin: Begin, tree: Tree) -> None:
    """What was cut off for some steps may hold by now what nobody has brought to it."""
    server = begin()
    tree.put(ring_record(3, ["a", "b"]))
    in_state(tree, "joining")
    node = server.connect()
    make_ready(node)
    in_state(tree, "ready")
    assert node(*put(3, clock.next(), 0, b"k", b"v")) == "OK"
    drain = {"drain": "b", "since": 1}
    tree.put(ring_record(4, ["a", "b"], drain))
    eventually("it is at 4", lambda: node.hello()["epoch"] == 4)
    tree.put(ring_record(5, ["a"], drain))
    eventually("it is at 5", lambda: node.hello()["epoch"] == 5)
    assert node("RING.GET", 5, b"k") == b"v"
    tree.put(ring_record(7, ["a", "c"]))
    in_state(tree, "joining")
    again = server.connect()
    assert (again.hello()["epoch"], again("DBSIZE")) == (7, 0)
    assert again.refused("RING.GET", 7, b"k") == "MAYBE"


def test_sigterm_removes_the_node(begin: Begin, tree: Tree) -> None:
    server = begin()
    tree.put(ring_record(3, ["a", "b"]))
    in_state(tree, "joining")
    assert server.terminate() == 0
    assert tree.live() is None, "it is there when the process is gone"


@pytest.mark.every
def test_restart_after_kill_replaces_the_old_session_s_node(begin: Begin, tree: Tree) -> None:
    server = begin()
    before = in_state(tree, "spare")
    server.kill()
    server.start()
    eventually(
        "the new life is there",
        lambda: (tree.live() or before)["run_id"][:32] != before["run_id"][:32],
    )
    after = tree.live()
    assert after is not None
    assert after["session"] != before["session"]
    time.sleep(1.5)  # the old session has expired since
    assert tree.live() == after


def test_second_server_with_the_same_id_stops_the_first(
    begin: Begin, tree: Tree, tmp_path: Path
) -> None:
    first = begin()
    tree.put(ring_record(3, ["a", "b"]))
    in_state(tree, "joining")
    node = first.connect()
    second = begin(folder="second")
    eventually("the first one leaves", lambda: first.state() == "leaving")
    assert node.refused("RING.GET", 3, b"k") == "STOPPED"
    time.sleep(0.5)
    live = in_state(tree, "joining")
    assert live["run_id"] == second.connect(hello=False).hello()["run_id"]
    assert second.state() == "joining"


def test_replaced_server_joins_no_more(begin: Begin, tree: Tree) -> None:
    """Whatever becomes of its data."""
    first = begin(config=["enable-debug-command yes"])
    in_state(tree, "spare")
    begin(folder="second")
    eventually("the first one leaves", lambda: first.state() == "leaving")
    lives = first.info()["lives"]
    by_hand = first.connect(hello=False)
    for command in (("FLUSHALL",), ("SWAPDB", 0, 1), ("DEBUG", "RELOAD")):
        assert by_hand(*command) == "OK"
        assert first.state() == "leaving"
        time.sleep(0.2)  # some ticks
        assert first.info()["lives"] == lives


def test_node_that_somebody_deleted_comes_back(begin: Begin, tree: Tree) -> None:
    begin()
    before = in_state(tree, "spare")
    tree.client.delete(f"{tree.root}/live/a")
    after = eventually("it registers again", tree.live)
    assert after["run_id"] == before["run_id"]


def test_expired_session_is_begun_again_without_a_flush(begin: Begin, tree: Tree) -> None:
    """The server stands still for longer than its session, and not for longer than its fence."""
    server = begin()
    tree.put(ring_record(3, ["a", "b"]))
    in_state(tree, "joining")
    node = server.connect()
    make_ready(node)
    node(*put(3, clock.next(), 0, b"k", b"v"))
    before = in_state(tree, "ready")
    with server.stopped():
        eventually("the session has expired", lambda: tree.live() is None)
    after = in_state(tree, "ready")
    assert after["run_id"] == before["run_id"]
    assert after["session"] != before["session"]
    assert node("RING.GET", 3, b"k") == b"v"
    time.sleep(0.2)
    assert node("RING.GET", 3, b"k") == b"v"
    tree.put(ring_record(4, ["a", "b"]))
    eventually("it hears of the record", lambda: node.hello()["epoch"] == 4)


@pytest.mark.every
@own
def test_zookeeper_away_at_the_start(begin: Begin, zookeeper: ZooKeeper) -> None:
    zookeeper.kill()
    server = begin()
    node = server.connect(hello=False)
    assert node("PING") == "PONG"
    assert server.state() == "spare"
    assert server.info()["zookeeper"] == "away"
    zookeeper.start()
    eventually("it is connected", lambda: server.info()["zookeeper"] == "connected")
    tree = Tree(zookeeper)
    in_state(tree, "spare")
    tree.close()


@pytest.mark.every
@own
def test_zookeeper_that_hangs_at_the_start(begin: Begin, zookeeper: ZooKeeper) -> None:
    with zookeeper.stopped():
        server = begin()
        node = server.connect(hello=False)
        for _ in range(20):
            assert node("PING") == "PONG"
            assert server.state() == "spare"
            time.sleep(0.01)
        assert server.info()["zookeeper"] == "away"
    tree = Tree(zookeeper)
    in_state(tree, "spare")
    tree.close()


@pytest.mark.every
@own
@pytest.mark.parametrize("forget", [False, True])
def test_zookeeper_killed_and_back(begin: Begin, zookeeper: ZooKeeper, forget: bool) -> None:
    """The last known ring serves; with `forget` ZooKeeper comes back without anything."""
    tree = Tree(zookeeper)
    server = begin()
    tree.put(ring_record(3, ["a", "b"]))
    in_state(tree, "joining")
    node = server.connect()
    make_ready(node)
    node(*put(3, clock.next(), 0, b"k", b"v"))
    life = node.hello()["run_id"]
    tree.close()
    zookeeper.kill(forget=forget)
    eventually("it is away", lambda: server.info()["zookeeper"] == "away")
    time.sleep(1.5)
    assert node("RING.GET", 3, b"k") == b"v"
    zookeeper.start()
    tree = Tree(zookeeper)
    assert in_state(tree, "ready")["run_id"] == life
    assert node("RING.GET", 3, b"k") == b"v"
    tree.put(ring_record(4, ["a", "b"]))
    eventually("it hears of the record", lambda: node.hello()["epoch"] == 4)
    tree.close()


@pytest.mark.every
@own
def test_zookeeper_that_hangs_delays_nobody(begin: Begin, zookeeper: ZooKeeper) -> None:
    tree = Tree(zookeeper)
    server = begin(fence=2_000)
    tree.put(ring_record(3, ["a", "b"]))
    in_state(tree, "joining")
    node = server.connect()
    tree.close()
    with zookeeper.stopped():
        eventually("it is away", lambda: server.info()["zookeeper"] == "away")
        begun = time.monotonic()
        for number in range(200):
            node(*put(3, clock.next(), 0, b"k%d" % number, b"v"))
            time.sleep(0.005)
        assert node.hello()["state"] == "joining"
        assert server.terminate() == 0, f"it could not end, {time.monotonic() - begun} s"


@pytest.mark.every
def test_dumps_beside_the_threads(begin: Begin, tree: Tree) -> None:
    """No child that is forked beside ZooKeeper's threads hangs, while records arrive."""
    server = begin()
    tree.put(ring_record(3, ["a", "b"]))
    in_state(tree, "joining")
    node = server.connect()
    for number in range(20):
        tree.put(ring_record(4 + number, ["a", "b"]))
        assert b"Background saving" in node("BGSAVE").encode()
        eventually(
            "the dump is written",
            lambda: b"rdb_bgsave_in_progress:0" in node("INFO", "persistence"),
        )
    assert b"rdb_last_bgsave_status:ok" in node("INFO", "persistence")
    eventually("it has the last one", lambda: node.hello()["epoch"] == 23)


def test_tls_port_is_announced(begin: Begin, tree: Tree, kind: str, tmp_path: Path) -> None:
    tool("openssl", "apt install openssl")
    if kind == "valkey":
        pytest.skip("the valkey-server of the wheel is built without TLS")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-subj", "/CN=ring"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    port = free_port()
    files = [f"tls-key-file {key}", f"tls-cert-file {certificate}"]
    begin(config=[f"tls-port {port}", f"tls-ca-cert-file {certificate}", *files])
    live = in_state(tree, "spare")
    assert live["address"] == ADDRESS
    assert live["tls_address"] == f"10.1.2.3:{port}"


def test_address_comes_from_the_settings(
    start_server: StartServer, tree: Tree, zookeeper: ZooKeeper
) -> None:
    port = free_port()
    arguments = [f"zookeeper={zookeeper.address}{zookeeper.root}"]
    start_server(arguments=arguments, config=[f"port {port}", "bind 127.0.0.1 -::1"])
    assert in_state(tree, "spare")["address"] == f"127.0.0.1:{port}"
    start_server(id_="b", arguments=arguments, config=["bind * -::*"])
    assert in_state(tree, "spare", "b")["address"] == f"{socket.gethostname()}:0"
