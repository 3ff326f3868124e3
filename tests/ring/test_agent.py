"""The agent and the operator's commands, with a real ZooKeeper and real servers."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ring.ring_servers import (
    ZooKeeper,
    eventually,
    module_path,
    server_binary,
)
from ring.rings import KeptRing, Ring, command
from support.tools import lacking

import mmapcache
from mmapcache.ring import Written
from mmapcache.ring.published import Published
from mmapcache.ring.record import Record

IDS = ("a", "b", "c")


@pytest.fixture(scope="module")
def kept(keeper: ZooKeeper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptRing]:
    """A ring of three; the tests of this file go through its life in their order."""
    for found, missing in (server_binary("redis"), module_path()):
        if not found:
            lacking(missing)
    ring = KeptRing("redis", tmp_path_factory.mktemp("kept"), IDS, keeper.address)
    try:
        yield ring.start()
    finally:
        ring.stop()


class Reader(threading.Thread):
    """Reads keys and writes some, until it is stopped; counts what is wrong."""

    def __init__(self, path: Path, values: dict[str, bytes]) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.values = dict(values)
        self.wrong: list[str] = []
        self.reads = 0
        self._end = threading.Event()

    def run(self) -> None:
        with Ring(self.path, timeout=5.0, deadline=30.0) as ring:
            keys = sorted(self.values)
            while not self._end.is_set():
                for index, key in enumerate(keys):
                    value = ring.get(key)
                    self.reads += 1
                    if value != self.values[key]:
                        self.wrong.append(f"{key}: {value!r} for {self.values[key]!r}")
                    if index % 7 == self.reads % 7:
                        self.values[key] = b"%d of %s" % (self.reads, key.encode())
                        if not ring.set(key, self.values[key]):
                            self.wrong.append(f"{key} was not written")
                    if self._end.is_set():
                        return

    def stop(self) -> None:
        self._end.set()
        self.join(60)
        assert not self.wrong, self.wrong[:5]
        assert self.reads > len(self.values)


@pytest.fixture(scope="module")
def values(kept: KeptRing) -> dict[str, bytes]:
    values = {f"key:{i}": b"%d" % i for i in range(3000)}
    with Ring(kept.path, timeout=5.0, deadline=30.0) as ring:
        assert ring.mset(values) == Written(2, False)
    return values


def test_the_ring_is_published(kept: KeptRing, values: dict[str, bytes]) -> None:
    with Ring(kept.path, timeout=5.0, deadline=30.0) as ring:
        assert ring.epoch == 1
        assert set(ring.nodes) == set(IDS)
        assert ring.age is not None
        assert ring.age < 60
    said = kept.command("status")
    assert [row["state"] for row in said["members"]] == ["ready"] * 3
    assert sum(row["keys"] for row in said["members"]) == 2 * len(values)
    assert [agent["leads"] for agent in said["agents"]] == [True]
    assert kept.command("verify")["alike"] == len(values)
    where = kept.command("where", "key:1", "--copies")
    assert {row["kind"] for row in where["holders"]} == {"value"}
    text = command("status", "--zookeeper", kept.place).stdout
    assert "epoch 1, 3 nodes" in text
    assert "there is a ring" in kept.command("init", "x", check=False)


def test_add_a_node_under_load(kept: KeptRing, values: dict[str, bytes]) -> None:
    assert "no server with the id d" in kept.command("add", "d", check=False)
    kept.add_server("d")
    eventually("it is a spare", lambda: "spare" in str(kept.command("status")["members"]))
    plan = kept.command("add", "d", "--dry-run")
    assert 0.20 < plan["copies_moved"] < 0.30  # a quarter of four
    reader = Reader(kept.path, values)
    reader.start()
    kept.command("add", "d")
    reader.stop()
    values.update(reader.values)
    with Ring(kept.path, timeout=5.0, deadline=30.0) as ring:
        assert ring.epoch == 4
        assert set(ring.nodes) == {*IDS, "d"}
        assert ring.mget(sorted(values)) == [values[key] for key in sorted(values)]
    found = kept.command("verify")
    assert (found["whole"], found["alike"]) == (True, len(values))
    assert "is in the ring already" in kept.command("add", "d", check=False)


@pytest.mark.every
def test_drain_a_node_under_load(kept: KeptRing, values: dict[str, bytes]) -> None:
    assert "not in the ring" in kept.command("drain", "x", check=False)
    reader = Reader(kept.path, values)
    reader.start()
    assert kept.agent.process is not None
    kept.agent.process.send_signal(signal.SIGSTOP)  # it would be done before the next command
    said = kept.command("drain", "b", "--detach")
    assert said["epoch"] == 5
    refused = kept.command("add", "b", check=False)
    assert "one node is changed at a time" in refused
    # The agent is killed in the middle; another one completes it.
    kept.agent.process.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    kept.agent.end()
    kept.agent = kept.another_agent("ring").start()
    kept.command("drain", "b")
    reader.stop()
    values.update(reader.values)
    with Ring(kept.path, timeout=5.0, deadline=30.0) as ring:
        eventually("it is published", lambda: ring.epoch == 7)
        assert set(ring.nodes) == {"a", "c", "d"}
        assert ring.mget(sorted(values)) == [values[key] for key in sorted(values)]
    assert kept.command("verify")["whole"]


@pytest.mark.every
def test_zookeeper_goes_and_comes(
    kept: KeptRing, keeper: ZooKeeper, values: dict[str, bytes]
) -> None:
    def said() -> str:
        with mmapcache.open(kept.path) as cache:
            return cache.status()["state"]

    eventually("all is well", lambda: said() == "streaming")
    reader = Reader(kept.path, values)
    reader.start()
    with keeper.stopped():  # longer than the sessions last
        eventually("the agent notices", lambda: said() == "degraded")
    eventually("it is back", lambda: said() == "streaming")
    keeper.kill()
    eventually("the agent notices", lambda: said() == "degraded")
    with Ring(kept.path, timeout=5.0, deadline=30.0) as ring:
        assert ring.set("while it is away", "v") == Written(2, False)
    keeper.start()
    eventually("it is back", lambda: said() == "streaming")
    reader.stop()
    values.update(reader.values)
    states = [row["state"] for row in kept.command("status")["members"] if row["role"] == "member"]
    assert states == ["ready"] * 3  # nobody was flushed by a session that ended


@pytest.mark.every
def test_a_second_agent_takes_over(kept: KeptRing, values: dict[str, bytes]) -> None:
    second = kept.another_agent("second").start()
    standby = kept.another_agent("ring", "--standby").start()
    try:
        with Ring(second.path, timeout=5.0, deadline=30.0) as ring:
            eventually("it publishes, too", lambda: _epoch(ring) == 7)
        eventually("both are known", lambda: len(kept.command("status")["agents"]) >= 2)
        kept.agent.end()
        kept.servers["c"].kill()
        with Ring(second.path, timeout=5.0, deadline=30.0) as ring:
            assert ring.set("key:1", values["key:1"])
            kept.servers["c"].start()
            eventually("another one fills it", lambda: ring.nodes["c"][1] == "ready")
        began = time.time()

        def is_current() -> bool:
            with mmapcache.open(kept.path) as cache:
                return (cache.status()["confirmed_at"] or 0) > began

        eventually("the one that stood by has the file", is_current)
        assert standby.end(signal.SIGTERM) == 0
    finally:
        standby.end()
        second.end()
        kept.agent.start()
    eventually("copies are alike", lambda: kept.command("verify", check=False)["whole"])


def _epoch(ring: Ring) -> int:
    try:
        return ring.epoch
    except mmapcache.MmapCacheError:
        return 0


@pytest.mark.every
def test_repair(kept: KeptRing, values: dict[str, bytes]) -> None:
    """What somebody did behind the ring's back."""
    eventually("an agent leads", lambda: kept.command("status")["agents"])
    keys = sorted(values)[:200]
    with Ring(kept.path, timeout=5.0, deadline=30.0) as ring:
        for key in keys:
            first = kept.servers[ring.where(key)[0]].connect()
            assert first("DEL", key) == 1
            first.close()
    found = kept.command("verify", check=False)
    assert (found["missing"], found["whole"]) == (200, False)
    assert kept.command("repair", "--dry-run", check=False)["brought"] == 0
    assert kept.command("repair")["brought"] == 200
    assert kept.command("verify")["alike"] >= len(values)
    with Ring(kept.path, timeout=5.0, deadline=30.0) as ring:
        assert ring.mget(keys) == [values[key] for key in keys]


@pytest.mark.every
def test_a_change_is_given_up(kept: KeptRing, values: dict[str, bytes]) -> None:
    """The node that is added has died."""
    assert "is not under way" in kept.command("add", "b", "--abort", check=False)
    kept.agent.end()
    eventually("b is a spare", lambda: "spare" in str(kept.command("status")["members"]))
    assert kept.command("add", "b", "--detach")["epoch"] == 8
    kept.servers["b"].kill()
    kept.agent.start()
    assert kept.command("add", "b", "--abort", "--dry-run")["dry_run"]
    assert kept.command("add", "b", "--abort")["epoch"] == 9
    with Ring(kept.path, timeout=5.0, deadline=30.0) as ring:
        eventually("it is published", lambda: ring.epoch == 9)
        assert set(ring.nodes) == {"a", "c", "d"}
        assert ring.mget(sorted(values)) == [values[key] for key in sorted(values)]
    assert kept.command("verify")["whole"]
    kept.servers["b"].start()


@pytest.mark.every
def test_zookeeper_forgets_everything(
    kept: KeptRing, keeper: ZooKeeper, values: dict[str, bytes]
) -> None:
    """The last known ring serves, servers register anew and keep their data."""

    def said() -> tuple[str, str]:
        with mmapcache.open(kept.path) as cache:
            status = cache.status()
            return status["state"], status["error"] or ""

    file = Published(str(kept.path))
    record = file.read()[1]
    file.close()
    keeper.kill(forget=True)
    keeper.start()
    eventually("the agent says so", lambda: "there is no ring" in said()[1])
    with Ring(kept.path, timeout=5.0, deadline=30.0) as ring:
        assert ring.mget(sorted(values)) == [values[key] for key in sorted(values)]
        assert ring.set("while it is empty", "v") == Written(2, False)
    zookeeper = client_of(kept.place)
    try:
        older = Record(1, record.nodes)
        assert zookeeper.create(older)
        eventually("an older record is not taken", lambda: "epoch 1" in said()[1])
        assert zookeeper.replace(record, 0)
    finally:
        zookeeper.stop()
    eventually("all is well", lambda: said()[0] == "streaming")
    kept.wait_ready()
    with Ring(kept.path, timeout=5.0, deadline=30.0) as ring:
        assert ring.epoch == record.epoch
        assert ring.mget(sorted(values)) == [values[key] for key in sorted(values)]


def client_of(place: str) -> Any:
    """A session of the test's own."""
    from mmapcache.ring.zookeeper import ZooKeeper as Client
    from mmapcache.ring.zookeeper import parse_place

    client = Client(parse_place(place))
    client.start()
    assert client.wait(60)
    return client
