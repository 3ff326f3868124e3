"""A server without memory: what it refuses, what it forgets, and that it does not hide either."""

from __future__ import annotations

import pytest
from ring.conftest import EPOCH, StartServer
from ring.ring_servers import Connection, Refused, Server, make_ready, put, ring_record

from mmapcache.ring._ring import TOMBSTONE, TOMBSTONE_MS, VALUE, Clock, encode

clock = Clock()
VALUE_BYTES = 20_000


def begin(server: Server, policy: str) -> Connection:
    """Node a, ready, with room for a few megabytes."""
    node = server.connect(hello=False)
    assert node("RING.RING", ring_record(EPOCH, ["a", "b"])) == "OK"
    make_ready(node)
    used = int(node("INFO", "memory").split(b"used_memory:")[1].split()[0])
    node("CONFIG", "SET", "maxmemory-policy", policy)
    node("CONFIG", "SET", "maxmemory", used + 3_000_000)
    return node


def write_until_full(node: Connection) -> int:
    """How many values were taken."""
    for number in range(1000):
        try:
            node(*put(EPOCH, clock.next(), 0, b"k%d" % number, b"x" * VALUE_BYTES))
        except Refused as refused:
            assert refused.word == "FULL"
            return number
    raise AssertionError("it took everything")


def test_full_server_says_so_and_keeps_no_older_value(start_server: StartServer) -> None:
    server = start_server(fence=60_000)
    node = begin(server, "noeviction")
    taken = write_until_full(node)
    assert taken > 50
    said = node.hello()
    assert (said["state"], said["final"]) == ("ready", 0)
    assert node("RING.GET", EPOCH, b"k0") == b"x" * VALUE_BYTES
    with pytest.raises(Refused, match=r"^MAYBE dropped"):
        node("RING.GET", EPOCH, b"never there")

    assert node.refused(*put(EPOCH, clock.next(), 0, b"k0", b"y" * VALUE_BYTES)) == "FULL"
    assert node.refused("RING.GET", EPOCH, b"k0") == "MAYBE", "the older value is served"
    node("CONFIG", "SET", "maxmemory", "100mb")
    assert node(*put(EPOCH, clock.next(), 0, b"k0", b"z")) == "OK"
    assert int(server.info()["full"]) == 2


def test_full_server_still_deletes(start_server: StartServer) -> None:
    node = begin(start_server(fence=60_000), "noeviction")
    older = clock.next()
    taken = write_until_full(node)
    # A little above the limit, as after a value that was just taken.
    node("CONFIG", "SET", "maxmemory", 1_000_000)
    assert node("RING.DEL", EPOCH, clock.next(), b"k1") == 1
    assert node("RING.META", EPOCH, b"k1")[0] == TOMBSTONE
    assert node.refused(*put(EPOCH, older, 0, b"k1", b"v")) == "NEWER"
    assert node.refused("RING.DEL", EPOCH, clock.next(), b"never there") == "FULL"
    assert node.refused("RING.INCR", EPOCH, clock.next(), b"counter", 1) == "MAYBE"
    entry = encode(VALUE, clock.next(), 0, b"v")
    assert node.refused("RING.FILL", EPOCH, b"k2", entry) == "FULL"
    assert node.refused("RING.GET", EPOCH, b"k2") == "MAYBE"
    assert taken > 50


def test_full_server_keeps_no_older_value_of_what_it_is_filled_with(
    start_server: StartServer,
) -> None:
    """Of a packet: what stands behind the first one that is refused, too."""
    node = begin(start_server(fence=60_000), "noeviction")
    write_until_full(node)
    node("CONFIG", "SET", "maxmemory", 1_000_000)
    words: list[bytes] = []
    for number in range(1, 5):
        words += (b"k%d" % number, encode(VALUE, clock.next(), 0, b"newer"))
    assert node.refused("RING.FILL", EPOCH, *words) == "FULL"
    assert node("EXISTS", *words[::2]) == 0
    # A deletion of something that is there needs no memory.
    deleted = clock.next()
    end = int.from_bytes(deleted[:6], "big") + TOMBSTONE_MS
    tombstone = encode(TOMBSTONE, deleted, end, b"")
    words = [b"k6", encode(VALUE, deleted, 0, b"newer"), b"k7", tombstone]
    assert node.refused("RING.FILL", EPOCH, *words) == "FULL"
    assert node("RING.META", EPOCH, b"k7")[0] == TOMBSTONE


def test_eviction_makes_no_miss_final(start_server: StartServer) -> None:
    server = start_server(fence=60_000)
    node = begin(server, "allkeys-lru")
    assert node("RING.GET", EPOCH, b"never there") is None
    for number in range(400):
        node(*put(EPOCH, clock.next(), 0, b"k%d" % number, b"x" * VALUE_BYTES))
    assert int(node("INFO", "stats").split(b"evicted_keys:")[1].split()[0]) > 100
    said = node.hello()
    assert (said["state"], said["final"]) == ("ready", 0)
    assert server.info()["dropped_keys"] == "1"
    gone = [n for n in range(400) if node("EXISTS", b"k%d" % n) == 0]
    for number in gone[:20]:
        assert node.refused("RING.GET", EPOCH, b"k%d" % number) == "MAYBE"
    assert node("FLUSHALL") == "OK"
    make_ready(server.connect())
    assert server.connect().hello()["final"] == 1, "a new life has dropped nothing"


def test_full_server_loses_no_counter(start_server: StartServer) -> None:
    """What was not done anywhere makes nothing old: the other holder may be full as well."""
    node = begin(start_server(fence=60_000), "noeviction")
    end = 2**45
    node(*put(EPOCH, clock.next(), end, b"counter", b"5"))
    write_until_full(node)
    node("CONFIG", "SET", "maxmemory", 1_000_000)
    version = clock.next()
    assert node.refused("RING.INCR", EPOCH, version, b"counter", 1) == "FULL"
    assert node.refused("RING.EXPIRE", EPOCH, clock.next(), b"counter", 0) == "FULL"
    assert node("RING.GET", EPOCH, b"counter") == b"5"
    assert node("RING.META", EPOCH, b"counter")[2] == end
    node("CONFIG", "SET", "maxmemory", 0)
    assert node("RING.INCR", EPOCH, version, b"counter", 1)[0] == 6
    node("CONFIG", "SET", "maxmemory", 1_000_000)
    assert node("RING.INCR", EPOCH, version, b"counter", 1)[0] == 6, "it was done already"


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl"])
def test_eviction_that_finds_nothing_ends(start_server: StartServer, policy: str) -> None:
    """Without a value that may be evicted the server is full, a tenth above its limit."""
    node = begin(start_server(fence=60_000), policy)
    write_until_full(node)
