"""What a server does with what waited while it stood still, and where its data must not be served.

Servers are stopped by SIGSTOP, far longer or far shorter than their fence.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import pytest
from ring.conftest import EPOCH, StartServer
from ring.ring_servers import (
    Connection,
    Refused,
    Server,
    eventually,
    make_ready,
    packed,
    put,
    ring_record,
)

from mmapcache.ring._ring import VALUE, Clock, encode

LONG = 1.6  # seconds: above the fence of 1
SHORT = 0.1
clock = Clock()


def begin(server: Server) -> Connection:
    """Node a, ready, in a ring of a and b."""
    node = server.connect(hello=False)
    assert node("RING.RING", ring_record(EPOCH, ["a", "b"])) == "OK"
    make_ready(node)
    return node


def unless_it_stood_still(look: Callable[[], bool]) -> Callable[[], bool]:
    """For servers with short fences, which a busy machine lets stand still for longer now and then:
    the same, but false where that made the server begin anew."""

    def again() -> bool:
        try:
            return look()
        except (AssertionError, OSError, Refused):
            return False

    return again


def replies_until_the_end(connection: Connection) -> list[object]:
    """What comes until the server closes the connection; of errors the first word."""
    found: list[object] = []
    while True:
        try:
            found.append(connection.receive())
        except Refused as refused:
            found.append(refused.word)
        except ConnectionResetError:
            return found


def test_nothing_that_waited_in_a_stopped_server_is_executed(start_server: StartServer) -> None:
    server = start_server()
    node, other = begin(server), server.connect()
    old = encode(VALUE, clock.next(), 0, b"old")
    assert node("RING.FILL", EPOCH, b"k", old) == 1
    life = node.hello()["run_id"]
    with server.stopped():
        node.send("RING.GET", EPOCH, b"k")
        node.send(*put(EPOCH, clock.next(), 0, b"k", b"late"))
        other.send(*put(EPOCH, clock.next(), 0, b"k2", b"late"))
        other.send("RING.GET", EPOCH, b"k")
        time.sleep(LONG)
    assert {*replies_until_the_end(node), *replies_until_the_end(other)} <= {"STOPPED"}
    again = server.connect()
    said = again.hello()
    assert said["state"] == "joining"
    assert said["run_id"] != life
    assert said["final"] == 0
    assert again("DBSIZE") == 0
    assert again.refused("RING.GET", EPOCH, b"k") == "MAYBE"


def work_off(connection: Connection, times: list[int]) -> None:
    """Sends what is answered with the server's time, until the server closes the connection."""
    command = packed(put(EPOCH, bytes(16), 0, b"k", b"v"))
    with contextlib.suppress(OSError):
        while True:
            connection._socket.sendall(command * 500)
            for _ in range(500):
                try:
                    connection.receive()
                except Refused as refused:
                    if refused.word == "LATE":
                        times.append(int(refused.rest.split()[0]))


def test_nothing_that_a_busy_server_had_read_is_executed(start_server: StartServer) -> None:
    """A server that is stopped while it works goes on with the next command, not with a tick."""
    server = start_server()
    begin(server)
    times: list[int] = []
    threads = [
        threading.Thread(target=work_off, args=(server.connect(), times), daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    eventually("they are at work", lambda: len(times) > 2000)
    with server.stopped():
        time.sleep(LONG)
        resumed = time.time_ns() // 1_000_000
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    after = [ms for ms in times if ms >= resumed - 500]
    assert not after, f"{len(after)} commands were executed after the stop"


@pytest.mark.every
def test_fence_is_300_ms_if_nothing_else_is_said(start_server: StartServer) -> None:
    server = start_server(fence=None)
    node = server.connect(hello=False)
    assert node.hello()["fence"] == 300

    def begins_anew() -> bool:
        begin(server)
        lives = int(server.info()["lives"])
        with server.stopped():
            time.sleep(0.7)
        return int(server.info()["lives"]) > lives

    eventually("it begins anew", unless_it_stood_still(begins_anew))


def test_short_stop_changes_nothing(start_server: StartServer) -> None:
    server = start_server(fence=20_000)
    node = begin(server)
    node(*put(EPOCH, clock.next(), 0, b"k", b"v"))
    life = node.hello()["run_id"]
    with server.stopped():
        node.send("RING.GET", EPOCH, b"k")
        time.sleep(SHORT)
    assert node.receive() == b"v"
    said = node.hello()
    assert (said["run_id"], said["state"]) == (life, "ready")


@pytest.mark.every
def test_slow_command_is_a_standing_still(start_server: StartServer) -> None:
    server = start_server(config=["enable-debug-command yes"])
    node = begin(server)
    node(*put(EPOCH, clock.next(), 0, b"k", b"v"))
    assert server.connect(hello=False)("DEBUG", "SLEEP", str(LONG)) == "OK"
    eventually("it is joining", lambda: server.state() == "joining")
    assert server.connect()("DBSIZE") == 0


@pytest.mark.every
def test_long_queue_of_commands_is_no_standing_still(start_server: StartServer) -> None:
    """Each command is a sign of life, not the tick alone, which does not come in between."""
    server = start_server(fence=100)
    value = b"x" * 1_000_000

    def works_it_off() -> bool:
        node = begin(server)
        life = node.hello()["run_id"]
        for _ in range(3):
            for _ in range(200):
                node.send(*put(EPOCH, clock.next(), 0, b"k", value))
            for _ in range(200):
                assert node.receive() == "OK"
        return bool(node.hello()["run_id"] == life)

    eventually("it does not begin anew", unless_it_stood_still(works_it_off))


def await_file(node: Connection) -> None:
    """A server does not end while it writes its first append-only file."""
    eventually(
        "no child writes a file",
        lambda: (
            b"aof_rewrite_in_progress:0" in node("INFO", "persistence")
            and b"aof_rewrite_scheduled:0" in node("INFO", "persistence")
        ),
    )


FLUSHES: dict[str, Callable[[Connection], object]] = {
    "FLUSHALL": lambda node: node("FLUSHALL"),
    "FLUSHALL ASYNC": lambda node: node("FLUSHALL", "ASYNC"),
    "FLUSHDB": lambda node: node("FLUSHDB"),
    "SWAPDB": lambda node: node("SWAPDB", 0, 1),
    "SWAPDB, the other way": lambda node: node("SWAPDB", 1, 0),
    "DEBUG RELOAD": lambda node: node("DEBUG", "RELOAD"),
}


@pytest.mark.parametrize("name", FLUSHES)
def test_emptied_by_hand(start_server: StartServer, name: str) -> None:
    """The node is joining before the next answer, and its connections are dropped."""
    server = start_server(fence=20_000, config=["enable-debug-command yes"])
    node, by_hand = begin(server), server.connect(hello=False)
    node(*put(EPOCH, clock.next(), 0, b"k", b"v"))
    life = node.hello()["run_id"]
    FLUSHES[name](by_hand)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        node("RING.GET", EPOCH, b"k")
    eventually("it has begun again", lambda: server.state() == "joining")
    again = server.connect()
    said = again.hello()
    assert said["state"] == "joining"
    assert said["run_id"] != life
    with pytest.raises(Refused, match=r"^MAYBE joining"):
        again("RING.GET", EPOCH, b"k")
    assert again("DBSIZE") == 0


def test_other_databases_may_be_emptied(start_server: StartServer) -> None:
    server = start_server(fence=20_000)
    node, by_hand = begin(server), server.connect(hello=False)
    node(*put(EPOCH, clock.next(), 0, b"k", b"v"))
    by_hand("SELECT", 3)
    by_hand("SET", "x", "y")
    by_hand("FLUSHDB")
    by_hand("SWAPDB", 3, 4)
    by_hand("SWAPDB", 0, 0)
    assert node("RING.GET", EPOCH, b"k") == b"v"
    assert node.hello()["state"] == "ready"


def test_flush_from_a_connection_of_the_ring(start_server: StartServer) -> None:
    server = start_server(fence=20_000)
    node = begin(server)
    assert node("FLUSHALL") == "OK"
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        node("RING.GET", EPOCH, b"k")
    assert server.state() == "joining"


@pytest.mark.parametrize("how", ["dump", "append-only file"])
def test_old_data_is_never_served(start_server: StartServer, how: str) -> None:
    config = {
        "dump": ["appendonly no", "save 3600 1"],
        "append-only file": ["appendonly yes", "appendfsync always"],
    }[how]
    server = start_server(fence=20_000, config=config)
    node = begin(server)
    for number in range(50):
        node(*put(EPOCH, clock.next(), 0, b"k%d" % number, b"old"))
    await_file(node)
    server.terminate()
    server.start()
    assert server.state() == "spare"
    node = server.connect(hello=False)
    assert node("DBSIZE") == 0
    node("RING.RING", ring_record(EPOCH, ["a", "b"]))
    node = server.connect()
    assert node.refused("RING.GET", EPOCH, b"k1") == "MAYBE"
    server.kill()
    server.start()
    assert server.connect(hello=False)("DBSIZE") == 0


def test_swap_that_is_replayed_begins_no_life(start_server: StartServer) -> None:
    """What follows a SWAPDB in an append-only file is as old as what stands before it."""
    server = start_server(fence=20_000, config=["appendonly yes", "appendfsync always"])
    node = begin(server)
    await_file(node)
    assert server.connect(hello=False)("SWAPDB", 0, 1) == "OK"
    node = server.connect()
    node(*put(EPOCH, clock.next(), 0, b"k", b"old"))
    await_file(node)
    server.terminate()
    files = (server.folder / "appendonlydir").iterdir()
    assert any(b"SWAPDB" in file.read_bytes() for file in files)
    server.start()
    assert server.connect(hello=False)("DBSIZE") == 0


@pytest.mark.every
@pytest.mark.parametrize("how", ["dump", "append-only file"])
def test_authoritative_data_is_kept_once(start_server: StartServer, how: str) -> None:
    """Versions, ends and tombstones come back as they were."""
    config = {
        "dump": ["appendonly no", "save 3600 1"],
        "append-only file": ["appendonly yes", "appendfsync always"],
    }[how]
    server = start_server(fence=20_000, arguments=["authoritative=yes"], config=config)
    node = begin(server)
    time.sleep(0.2)  # the tick has seen the settings
    end = time.time_ns() // 1_000_000 + 1_000_000
    node(*put(EPOCH, clock.next(), 0, b"value", b"kept"))
    node(*put(EPOCH, clock.next(), end, b"ends", b"kept"))
    node(*put(EPOCH, clock.next(), 0, b"deleted", b"kept"))
    node("RING.DEL", EPOCH, clock.next(), b"deleted")
    node("RING.INCR", EPOCH, clock.next(), b"number", 5)
    keys = [b"value", b"ends", b"deleted", b"number"]
    before = node("RING.DUMP", *keys), [node("PEXPIRETIME", key) for key in keys]
    await_file(node)
    server.terminate()
    server.start()
    node = server.connect(hello=False)
    node("RING.RING", ring_record(EPOCH, ["a", "b"]))
    node = server.connect()
    assert node.hello()["state"] == "joining"
    assert (node("RING.DUMP", *keys), [node("PEXPIRETIME", key) for key in keys]) == before
    node("FLUSHALL")
    assert server.connect()("DBSIZE") == 0


def test_replica_serves_nothing(start_server: StartServer) -> None:
    server = start_server(fence=20_000)
    node = begin(server)
    node(*put(EPOCH, clock.next(), 0, b"k", b"v"))
    life = node.hello()["run_id"]
    by_hand = server.connect(hello=False)
    by_hand("REPLICAOF", "127.0.0.1", 1)
    eventually("it is a replica", lambda: server.state() == "starting")
    assert server.connect().refused("RING.GET", EPOCH, b"k") == "STOPPED"
    by_hand("REPLICAOF", "NO", "ONE")
    eventually("it begins again", lambda: server.state() == "joining")
    again = server.connect()
    assert again.hello()["run_id"] != life
    assert again("DBSIZE") == 0


def test_server_that_is_killed_comes_back_joining(start_server: StartServer) -> None:
    server = start_server()
    node = begin(server)
    node(*put(EPOCH, clock.next(), 0, b"k", b"v"))
    life = node.hello()["run_id"]
    server.kill()
    server.start()
    node = server.connect(hello=False)
    assert node.hello()["run_id"][:32] != life[:32]
    node("RING.RING", ring_record(EPOCH, ["a", "b"]))
    node = server.connect()
    assert node.refused("RING.GET", EPOCH, b"k") == "MAYBE"
    assert node.refused("RING.INCR", EPOCH, clock.next(), b"k", 1) == "MAYBE"
    assert node(*put(EPOCH, clock.next(), 0, b"k", b"new")) == "OK"
    assert node("RING.GET", EPOCH, b"k") == b"new"


@pytest.mark.every
def test_dumps_while_values_are_written(start_server: StartServer) -> None:
    """A forked child that writes a dump, again and again."""
    server = start_server(fence=20_000)
    node = begin(server)
    for number in range(300):
        node(*put(EPOCH, clock.next(), 0, b"k%d" % number, b"x" * 1000))
        if number % 30 == 0:
            node.send("BGSAVE")
            node._parse()
    assert node.hello()["state"] == "ready"


@pytest.mark.every
def test_killed_while_it_writes_a_dump(start_server: StartServer) -> None:
    """The child, which has the clients' sockets, does not outlive its server."""
    server = start_server(fence=60_000, config=["rdb-key-save-delay 40000000"])
    node = begin(server)
    for number in range(3):  # 40 seconds each
        node(*put(EPOCH, clock.next(), 0, b"k%d" % number, b"v"))
    node("BGSAVE")
    eventually("the child writes", lambda: b"bgsave_in_progress:1" in node("INFO", "persistence"))
    assert server.process is not None
    server.process.kill()
    begun = time.monotonic()
    with pytest.raises(ConnectionResetError):
        node.receive()
    assert time.monotonic() - begun < 30, "it took as long as the child was busy"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["id="],
        ["id=a/b"],
        ["id=.."],
        ["id=" + "x" * 65],
        ["id=a", "fence=99"],
        ["id=a", "fence=60001"],
        ["id=a", "fence=1e3"],
        ["id=a", "authoritative=maybe"],
        ["id=a", "address=nowhere"],
        ["id=a", "address=host:0"],
        ["id=a", "address=host:1x"],
        ["id=a", "zookeeper=host:2181"],
        ["id=a", "zookeeper=/root"],
        ["id=a", "zookeeper=host:2181/"],
        ["id=a", "zookeeper=host:2181/a//b"],
        ["id=a", "zookeper=host:2181/ring"],
        ["a"],
    ],
    ids=" ".join,
)
def test_arguments_that_cannot_be(start_server: StartServer, arguments: list[str]) -> None:
    """`MODULE LOAD` fails and the log says why; nothing is left behind."""
    server = start_server(config=["enable-module-command yes"])
    path = (server.folder / "conf").read_text().split("loadmodule ")[1].split()[0]
    plain = Server(server.kind, server.folder / "plain")
    conf = plain.folder / "conf"
    lines = [line for line in conf.read_text().splitlines() if not line.startswith("loadmodule")]
    conf.write_text("\n".join([*lines, f"loadmodule {path} {' '.join(arguments)}", ""]))
    plain.start(wait=False)
    assert plain.process is not None
    try:
        assert plain.process.wait(60) != 0
    finally:
        plain.kill()
    assert "the module" in plain.log.read_text()
