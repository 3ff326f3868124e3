"""Writes that a node took and another one did not, as the agents read and strike them off."""

from __future__ import annotations

import pytest
from ring.conftest import EPOCH, StartServer
from ring.ring_servers import Connection, Refused, make_ready, packed, ring_record

from mmapcache.ring._ring import Clock

clock = Clock()
MOST = 100_000


def begin(start_server: StartServer, nodes: list[str]) -> Connection:
    node: Connection = start_server(fence=60_000).connect(hello=False)
    node("RING.RING", ring_record(EPOCH, nodes))
    make_ready(node)
    return node


def test_note_list_and_strike_off(start_server: StartServer) -> None:
    node = begin(start_server, ["a", "b"])
    assert node("RING.OWED", "b", 10) == []
    assert node("RING.PAID", "b", b"k", clock.next()) == 0
    low, middle, high = clock.next(), clock.next(), clock.next()
    for version in (middle, low, middle):
        assert node("RING.OWE", EPOCH, "b", b"k1", version) == "OK"
    assert node("RING.OWE", EPOCH, "b", b"\0\xff", high) == "OK"
    assert node("RING.OWED", "b", 10) == [b"\0\xff", high, b"k1", middle]
    assert node("RING.OWED", "b", 1) == [b"\0\xff", high]
    assert node("RING.OWED", "b", 0) == []
    assert node("RING.OWED", "b", 5, b"\0\xff") == [b"k1", middle]
    assert node("RING.OWED", "b", 5, b"k1") == []
    assert node("RING.PAID", "b", b"k1", low, b"other", high) == 0
    assert node("RING.OWE", EPOCH, "b", b"k1", high) == "OK"
    assert node("RING.PAID", "b", b"k1", middle) == 0, "a later write is owed, too"
    assert node("RING.PAID", "b", b"k1", high, b"\0\xff", high) == 2
    assert node("RING.OWED", "b", 10) == []


def note(node: Connection, first: int, count: int) -> None:
    version = clock.next()
    for begin in range(first, first + count, 1000):
        numbers = range(begin, min(begin + 1000, first + count))
        node._socket.sendall(
            b"".join(packed(("RING.OWE", EPOCH, "b", b"k%06d" % n, version)) for n in numbers)
        )
        for _ in numbers:
            assert node.receive() == "OK"


def test_overflow_is_said_and_settled_once(start_server: StartServer) -> None:
    node = begin(start_server, ["a", "b"])
    note(node, 0, MOST)
    assert len(node("RING.OWED", "b", 2 * MOST)) == 2 * MOST
    note(node, 0, 10)
    assert node("RING.OWED", "b", 1)[0] == b"k000000", "those are noted already"
    note(node, MOST, 3)
    with pytest.raises(Refused) as overflow:
        node("RING.OWED", "b", 1)
    assert overflow.value.word == "OVERFLOW"
    number = int(overflow.value.rest.split()[0])
    assert node("RING.PAID", "b", number + 1) == 0
    assert node.refused("RING.OWED", "b", 1) == "OVERFLOW"
    assert node("RING.PAID", "b", number) == 1
    assert node("RING.PAID", "b", number) == 0
    after = node("RING.OWED", "b", 10)
    assert after[::2] == [b"k%06d" % n for n in range(MOST, MOST + 3)]


def test_those_of_nodes_that_left_are_forgotten(start_server: StartServer) -> None:
    node = begin(start_server, ["a", "b"])
    note(node, 0, 5)
    node("RING.RING", ring_record(EPOCH + 1, ["a", "b"], {"drain": "b"}))
    assert len(node("RING.OWED", "b", 10)) == 10
    node("RING.RING", ring_record(EPOCH + 2, ["a"]))
    assert node.refused("RING.OWED", "b", 10) == "ERR"
    node("RING.RING", ring_record(EPOCH + 3, ["a", "b"]))
    assert node("RING.OWED", "b", 10) == []


def test_a_new_life_owes_nothing(start_server: StartServer) -> None:
    server = start_server(fence=60_000)
    node = server.connect(hello=False)
    node("RING.RING", ring_record(EPOCH, ["a", "b"]))
    node.hello()
    note(node, 0, 5)
    assert server.info()["owed_b"] == "keys=5,overflow=0"
    node("FLUSHALL")
    assert server.connect()("RING.OWED", "b", 10) == []
