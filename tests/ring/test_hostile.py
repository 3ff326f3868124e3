"""Servers that answer with anything: clients say so in an error of the ring's, or ask the other."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ring.model import World
from ring.rings import AsyncRing, Ring
from ring.test_core import Bench, client

import mmapcache
from mmapcache.ring import NoHolderReachable, RingError, published
from mmapcache.ring.record import Member, new_ring
from mmapcache.ring.together import together

JUNK: list[Any] = [5, [], [b"x"], [1, 2, 3, 4], [1, 5], [1, b"short"], [b"1", None], b"", "OK", 1.5]
JUNK += [[1, "text", 0, 3], [1, bytes(16), b"x", 3], [None, b"x" * 40], [[1], [2]], {1: 2}]
OPERATIONS: list[Callable[[Any], Any]] = [
    lambda it: it.get("k"),
    lambda it: it.get_with_source("k"),
    lambda it: it.mget(["k", "l"]),
    lambda it: it.exists(["k"]),
    lambda it: it.pttl("k"),
    lambda it: it.incrby("k", 1),
    lambda it: it.expire("k", 5),
]


@pytest.mark.parametrize("operation", range(len(OPERATIONS)))
def test_replies_of_another_shape(operation: int) -> None:
    right = [(0, b""), (1, b""), (2, b""), (2, [b"x"])]
    for junk in JUNK:
        bench = Bench()
        for node in bench.world.nodes.values():
            node.run = lambda command, junk=junk: junk  # type: ignore[method-assign, misc]
        with contextlib.suppress(RingError):
            found = bench.do(OPERATIONS[operation](bench.client))
            assert (operation, junk) in right, (junk, found)


def test_the_other_holder_is_asked_when_one_answers_with_junk() -> None:
    bench = Bench()
    bench.do(bench.client.set(bench.key, "5", 0))
    bench.first.run = lambda command: [5]  # type: ignore[method-assign]
    assert bench.do(bench.client.get(bench.key)) == b"5"
    assert bench.do(bench.client.mget([bench.key])) == [b"5"]


def test_a_value_that_is_no_text_ends_no_other_operation() -> None:
    world = World(new_ring(("a", "b", "c")))
    bytes_, text = client(world), client(world, decode=True)
    world.drive(bytes_.set("bad", b"\xff", 0))
    steps = [text.get("bad"), *[text.set(f"k{i}", "v", 0) for i in range(20)]]
    world.lost = lambda name, commands: "before" if name == "c" else ""
    with pytest.raises(UnicodeDecodeError):
        world.drive(together(steps))
    assert all(world.drive(bytes_.get(f"k{i}")) == b"v" for i in range(20))
    owed = sum(len(node.owed) for node in world.nodes.values())
    assert owed, "who is without a copy is written down"


class _Junk(socketserver.BaseRequestHandler):
    """Greets as node `a`, then says what is no reply."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                hello = b"*4\r\n$2\r\nid\r\n$1\r\na\r\n$5\r\nstate\r\n$5\r\nready\r\n"
                self.request.sendall(hello if b"RING.HELLO" in data else b"what is this\r\n")


@pytest.fixture
def junk_ring(tmp_path: Path) -> Iterator[Path]:
    """The file of a ring whose one node talks nonsense."""
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Junk) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        path = tmp_path / "ring.mmc"
        with mmapcache.Writer(path) as writer:
            member = Member("a", address, "life", "ready", 1)
            published.publish(writer, new_ring(["a"]), [member])
            yield path
        server.shutdown()


@pytest.mark.parametrize("kind", [Ring, AsyncRing])
def test_a_ring_is_not_copied(kind: Any, tmp_path: Path) -> None:
    """A copy would have its connections, and not hear of a fork."""
    for deed in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="each process makes its own"):
            deed(kind(tmp_path / "none"))


def test_bytes_that_are_no_reply(junk_ring: Path) -> None:
    with Ring(junk_ring, timeout=1.0, deadline=0.2) as ring:
        with pytest.raises(NoHolderReachable, match="a at 127"):
            ring.get("k")
        with pytest.raises(NoHolderReachable):
            ring.set("k", "v")

    async def work() -> None:
        async with AsyncRing(junk_ring, timeout=1.0, deadline=0.2) as ring:
            with pytest.raises(NoHolderReachable):
                await ring.get("k")

    asyncio.run(work())
