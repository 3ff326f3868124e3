"""Each command of the module and each of its errors, on a node that is ready."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from ring.ring_servers import Connection, Refused, Server, make_ready, put, ring_record

from mmapcache.ring._ring import TOMBSTONE, TOMBSTONE_MS, VALUE, Clock, decode, encode
from ring import twin

EPOCH = 7
clock = Clock()


def now() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def key(request: pytest.FixtureRequest) -> bytes:
    return f"{request.node.nodeid}:{time.time_ns()}".encode()


def version_at(ms: int) -> bytes:
    return ms.to_bytes(6, "big") + bytes(10)


def tombstone_end(version: bytes) -> int:
    return int.from_bytes(version[:6], "big") + TOMBSTONE_MS


def test_set_and_get(node: Connection, key: bytes) -> None:
    assert node("RING.GET", EPOCH, key) is None
    for value in (b"value", b"", bytes(range(256)), b"x" * 1_000_000, b"short"):
        version = clock.next()
        assert node(*put(EPOCH, version, 0, key, value)) == "OK"
        assert node("RING.GET", EPOCH, key) == value
        assert node("GET", key) == encode(VALUE, version, 0, value)
        assert node("RING.META", EPOCH, key) == [VALUE, version, 0, len(value)]
        assert node("RING.DUMP", key, b"absent") == [encode(VALUE, version, 0, value), None]


def test_keys_of_any_bytes(node: Connection) -> None:
    for key in (b"", b"\0", bytes(range(256)), b"\xff" * 5000, "käse"):
        assert node(*put(EPOCH, clock.next(), 0, key, b"v")) == "OK"
        assert node("RING.GET", EPOCH, key) == b"v"


def test_mget(node: Connection, key: bytes) -> None:
    node(*put(EPOCH, clock.next(), 0, key + b"1", b"one"))
    node("SET", key + b"3", b"not of the ring")
    found = node("RING.MGET", EPOCH, key + b"1", key + b"2", key + b"3")
    assert found[:2] == [b"one", None]
    assert isinstance(found[2], Refused)
    assert found[2].word == "TYPE"


def test_higher_version_stays(node: Connection, key: bytes) -> None:
    low, middle, high = clock.next(), clock.next(), clock.next()
    assert node(*put(EPOCH, middle, 0, key, b"middle")) == "OK"
    for command in (
        put(EPOCH, low, 0, key, b"low"),
        ("RING.DEL", EPOCH, low, key),
        ("RING.EXPIRE", EPOCH, low, key, 0),
    ):
        with pytest.raises(Refused) as refused:
            node(*command)
        assert str(refused.value) == f"NEWER {middle.hex()}"
    assert node(*put(EPOCH, middle, 0, key, b"the same once more")) == "OK"
    assert node("RING.GET", EPOCH, key) == b"middle"
    assert node(*put(EPOCH, high, 0, key, b"high")) == "OK"
    assert node("RING.GET", EPOCH, key) == b"high"


def test_deleted_key_does_not_come_back(node: Connection, key: bytes) -> None:
    before, deletion, after = clock.next(), clock.next(), clock.next()
    node(*put(EPOCH, before, 0, key, b"value"))
    assert node("RING.DEL", EPOCH, deletion, key) == 1
    assert node("RING.GET", EPOCH, key) is None
    end = tombstone_end(deletion)
    assert node("RING.META", EPOCH, key) == [TOMBSTONE, deletion, end, 0]
    assert node("RING.DUMP", key) == [twin.encode(2, deletion, end, b"")]
    assert abs(node("PEXPIRETIME", key) - end) < 2
    time.sleep(0.5)  # as long as a write may be late that is older than the deletion
    assert node.refused(*put(EPOCH, before, 0, key, b"value")) == "NEWER"
    assert node("RING.FILL", EPOCH, key, encode(VALUE, before, 0, b"value")) == 0
    assert node("RING.GET", EPOCH, key) is None
    assert node("RING.DEL", EPOCH, deletion, key) == 0
    assert node(*put(EPOCH, after, 0, key, b"again")) == "OK"
    assert node("RING.GET", EPOCH, key) == b"again"
    assert node("PTTL", key) == -1


def test_delete_of_what_is_not_there(node: Connection, key: bytes) -> None:
    before, deletion = clock.next(), clock.next()
    assert node("RING.DEL", EPOCH, deletion, key) == 0
    assert node.refused(*put(EPOCH, before, 0, key, b"late")) == "NEWER"


def test_incr(node: Connection, key: bytes) -> None:
    version = clock.next()
    assert node("RING.INCR", EPOCH, version, key, 5) == [5, encode(VALUE, version, 0, b"5")]
    assert node("RING.INCR", EPOCH, version, key, 5)[0] == 5, "the same request came twice"
    assert node("RING.INCR", EPOCH, clock.next(), key, -8)[0] == -3
    end = now() + 100_000
    assert node("RING.EXPIRE", EPOCH, clock.next(), key, end)[0] == 1
    number, entry = node("RING.INCR", EPOCH, clock.next(), key, 2**62)
    assert number == 2**62 - 3
    assert decode(entry)[2:] == (end, b"%d" % number)
    assert node.refused("RING.INCR", EPOCH, clock.next(), key, 2**62 + 3) == "TYPE"
    assert node("RING.GET", EPOCH, key) == b"%d" % number
    assert node.refused("RING.INCR", EPOCH, clock.next(), key, b"x") == "TYPE"
    assert node.refused("RING.INCR", EPOCH, clock.next(), key, 2**63) == "TYPE"
    assert node.refused("RING.INCR", EPOCH, version, key, 1) == "NEWER"


def test_incr_begins_anew_after_a_deletion(node: Connection, key: bytes) -> None:
    node("RING.INCR", EPOCH, clock.next(), key, 5)
    node("RING.DEL", EPOCH, clock.next(), key)
    assert node("RING.INCR", EPOCH, clock.next(), key, 1)[0] == 1


@pytest.mark.parametrize(
    "text", [b"", b" 1", b"1 ", b"+1", b"01", b"-0", b"1.0", b"x", b"9" * 19, b"9" * 30, b"1\0"]
)
def test_what_is_no_number(node: Connection, key: bytes, text: bytes) -> None:
    node(*put(EPOCH, clock.next(), 0, key, text))
    assert node.refused("RING.INCR", EPOCH, clock.next(), key, 1) == "TYPE"
    assert node("RING.GET", EPOCH, key) == text


def test_expire(node: Connection, key: bytes) -> None:
    assert node("RING.EXPIRE", EPOCH, clock.next(), key, now() + 1000) == [0, None]
    node(*put(EPOCH, clock.next(), 0, key, b"value"))
    version, end = clock.next(), now() + 100_000
    entry = encode(VALUE, version, end, b"value")
    assert node("RING.EXPIRE", EPOCH, version, key, end) == [1, entry]
    assert node("RING.EXPIRE", EPOCH, version, key, end) == [1, entry]
    assert node("PEXPIRETIME", key) == end + 10_000
    assert node("RING.EXPIRE", EPOCH, clock.next(), key, 0)[0] == 1
    assert node("PTTL", key) == -1


def test_what_has_ended_is_a_miss_and_stays_for_a_while(node: Connection, key: bytes) -> None:
    before, version = clock.next(), clock.next()
    assert node(*put(EPOCH, version, 1, key, b"ended long ago")) == "OK"
    assert node("RING.GET", EPOCH, key) is None
    assert node("RING.META", EPOCH, key) == [VALUE, version, 1, 14]
    assert node("PEXPIRETIME", key) == int.from_bytes(version[:6], "big") + 10_000
    assert node.refused(*put(EPOCH, before, 0, key, b"late")) == "NEWER"
    assert node("RING.EXPIRE", EPOCH, clock.next(), key, 0) == [0, None]
    assert node("RING.INCR", EPOCH, clock.next(), key, 3)[0] == 3
    assert node("RING.DEL", EPOCH, clock.next(), key) == 1


def test_late_and_far_ahead(node: Connection, key: bytes) -> None:
    for command in (
        lambda version: put(EPOCH, version, 0, key, b"v"),
        lambda version: ("RING.DEL", EPOCH, version, key),
        lambda version: ("RING.INCR", EPOCH, version, key, 1),
        lambda version: ("RING.EXPIRE", EPOCH, version, key, 0),
    ):
        for version, word in [
            (version_at(now() - 5_100), "LATE"),
            (bytes(16), "LATE"),
            (version_at(now() + 70_000), "CLOCK"),
        ]:
            with pytest.raises(Refused) as refused:
                node(*command(version))
            assert refused.value.word == word
            assert abs(int(refused.value.rest.split()[0]) - now()) < 60_000
    assert node(*put(EPOCH, version_at(now() + 30_000), 0, key, b"v")) == "OK"


def test_epochs(node: Connection, key: bytes) -> None:
    version = clock.next()
    for command in (
        ("RING.GET", key),
        ("RING.MGET", key),
        ("RING.META", key),
        ("RING.SET", key, encode(VALUE, version, 0, b"v")),
        ("RING.DEL", version, key),
        ("RING.INCR", version, key, 1),
        ("RING.EXPIRE", version, key, 0),
        ("RING.FILL", key, encode(VALUE, version, 0, b"v")),
        ("RING.OWE", "b", key, version),
    ):
        for epoch, word in [(6, "EPOCH"), (8, "BEHIND"), (0, "EPOCH"), (2**53, "BEHIND")]:
            with pytest.raises(Refused) as refused:
                node(command[0], epoch, *command[1:])
            assert (refused.value.word, refused.value.rest.split()[0]) == (word, str(EPOCH))
        assert node.refused(command[0], "x", *command[1:]) == "ERR"
    assert node("RING.GET", EPOCH, key) is None


def test_fill_takes_what_is_newer(node: Connection, key: bytes) -> None:
    low, middle, high = clock.next(), clock.next(), clock.next()
    entry = encode(VALUE, middle, 0, b"middle")
    assert node("RING.FILL", EPOCH, key, entry, key + b"2", entry) == 2
    assert node("RING.FILL", EPOCH, key, entry) == 0
    assert node("RING.FILL", EPOCH, key, encode(VALUE, low, 0, b"low")) == 0
    assert node("RING.GET", EPOCH, key) == b"middle"
    assert node("RING.FILL", EPOCH, key, encode(VALUE, high, 0, b"high")) == 1
    assert node("RING.GET", EPOCH, key) == b"high"


def test_fill_knows_no_late_but_what_has_passed(node: Connection, key: bytes) -> None:
    old = version_at(1)
    assert node("RING.FILL", EPOCH, key, encode(VALUE, old, 0, b"0")) == 1
    assert node("RING.INCR", EPOCH, clock.next(), key, 1)[0] == 1
    assert node("RING.FILL", EPOCH, key + b"2", encode(VALUE, old, 5, b"ended")) == 0
    assert node("RING.FILL", EPOCH, key + b"3", twin.encode(2, old, 1 + TOMBSTONE_MS, b"")) == 0
    assert node("EXISTS", key + b"2", key + b"3") == 0


def test_fill_with_what_has_passed_leaves_nothing_older(node: Connection, key: bytes) -> None:
    """Its holder took a later value, or a deletion, of which nothing is left by now."""
    keys = [key + b"%d" % number for number in range(4)]
    low, high = version_at(1), version_at(2)
    for name in keys:
        assert node("RING.FILL", EPOCH, name, encode(VALUE, low, 0, b"older")) == 1
    ended = encode(VALUE, high, 5, b"")
    deleted = twin.encode(2, high, 2 + TOMBSTONE_MS, b"")
    newer = encode(VALUE, version_at(1), 5, b"")
    assert node("RING.FILL", EPOCH, keys[0], ended, keys[1], deleted, keys[2], newer) == 2
    assert node("EXISTS", *keys) == 2
    assert node("RING.GET", EPOCH, keys[2]) == b"older"


def test_fill_goes_on_after_what_is_refused(node: Connection, key: bytes) -> None:
    node("SET", key, "what the ring did not write")
    entry = encode(VALUE, clock.next(), 0, b"v")
    assert node.refused("RING.FILL", EPOCH, key, entry, key + b"2", entry) == "TYPE"
    assert node("RING.GET", EPOCH, key + b"2") == b"v"


def test_fill_of_malformed_entries_takes_none(node: Connection, key: bytes) -> None:
    good = encode(VALUE, clock.next(), 0, b"v")
    for bad in (b"", b"x", good[:27], b"\0" + good, b"\xa7\x02" + good[2:]):
        assert node.refused("RING.FILL", EPOCH, key, good, key + b"2", bad) == "ERR"
    assert node("EXISTS", key) == 0


def test_keys_that_the_ring_did_not_write(node: Connection, key: bytes) -> None:
    node("SET", key + b"text", b"text")
    node("SET", key + b"number", 12345)
    node("RPUSH", key + b"list", b"a")
    entry = encode(VALUE, clock.next(), 0, b"v")
    for name in (key + b"text", key + b"number", key + b"list"):
        for command in (
            ("RING.GET", EPOCH, name),
            ("RING.META", EPOCH, name),
            put(EPOCH, clock.next(), 0, name, b"v"),
            ("RING.DEL", EPOCH, clock.next(), name),
            ("RING.INCR", EPOCH, clock.next(), name, 1),
            ("RING.EXPIRE", EPOCH, clock.next(), name, 0),
            ("RING.FILL", EPOCH, name, entry),
        ):
            assert node.refused(*command) == "TYPE"
        assert node("RING.DUMP", name) == [None]
    assert node("GET", key + b"number") == b"12345"


def test_malformed_arguments(node: Connection, key: bytes) -> None:
    good = clock.next()
    for command in (
        ("RING.SET", EPOCH, key, b"x" * 27),
        ("RING.SET", EPOCH, key, b"x" * 100),
        ("RING.SET", EPOCH, key, twin.encode(1, b"\xff" * 16, 0, b"v")),
        ("RING.SET", EPOCH, key, twin.encode(1, good, 2**47, b"v")),
        ("RING.SET", EPOCH, key, twin.encode(2, good, tombstone_end(good), b"")),
        ("RING.EXPIRE", EPOCH, good, key, -1),
        ("RING.DEL", EPOCH, b"\xff" * 16, key),
        ("RING.DEL", EPOCH, b"short", key),
        ("RING.EXPIRE", EPOCH, good, key, b"x"),
        ("RING.OWE", EPOCH, "b", key, b"short"),
        ("RING.OWE", EPOCH, "nobody", key, good),
        ("RING.OWE", EPOCH, "a", key, good),
        ("RING.OWED", "nobody", 1),
        ("RING.OWED", "b", -1),
        ("RING.OWED", "b", b"x"),
        ("RING.PAID", "b", key, b"short"),
        ("RING.PAID", "b", b"x"),
        ("RING.DROP", EPOCH, key, b"short"),
        ("RING.RING", "{}"),
    ):
        assert node.refused(*command) == "ERR", command
    assert node("EXISTS", key) == 0


def test_numbers_of_arguments(node: Connection) -> None:
    right = {
        "GET": {2},
        "META": {2},
        "SET": {3},
        "DEL": {3},
        "INCR": {4},
        "EXPIRE": {4},
        "OWE": {4},
        "READY": {2},
        "RING": {1},
        "OWED": {2, 3},
    }
    for name, counts in right.items():
        for count in set(range(8)) - counts:
            assert node.refused(f"RING.{name}", *(["1"] * count)) == "ERR"
    for name, wrong in {"MGET": 1, "FILL": 2, "DUMP": 0, "DROP": 4, "PAID": 1}.items():
        assert node.refused(f"RING.{name}", *(["1"] * wrong)) == "ERR"


def test_other_databases_are_refused(shared_server: Server, key: bytes) -> None:
    other = shared_server.connect()
    other("SELECT", 1)
    assert other.refused(*put(EPOCH, clock.next(), 0, key, b"v")) == "ERR"
    assert other("DBSIZE") == 0


def test_scripts_are_refused(node: Connection, key: bytes) -> None:
    assert node.refused("EVAL", f"return redis.call('RING.GET', '{EPOCH}', KEYS[1])", 1, key)


def test_hello(node: Connection) -> None:
    said = node.hello()
    assert abs(said.pop("now") - now()) < 60_000
    assert len(said.pop("run_id")) == 40
    assert said.pop("module")
    assert said == {
        "id": "a",
        "state": "ready",
        "epoch": EPOCH,
        "final": 1,
        "nodes": "a,b",
        "fence": 30_000,
    }


def test_ready_is_for_this_life_and_epoch(node: Connection) -> None:
    run_id = node.hello()["run_id"]
    assert node.refused("RING.READY", "f" * 40, EPOCH) == "STOPPED"
    assert node.refused("RING.READY", run_id, EPOCH + 1) == "BEHIND"
    assert node.refused("RING.READY", run_id, EPOCH - 1) == "EPOCH"
    assert node("RING.READY", run_id, EPOCH) == "OK"


def test_connection_that_said_no_hello(shared_server: Server, key: bytes) -> None:
    other = shared_server.connect(hello=False)
    for command in (("RING.GET", EPOCH, key), ("RING.DUMP", key), ("RING.OWED", "b", 1)):
        assert other.refused(*command) == "STOPPED"
    other.hello()
    assert other("RING.GET", EPOCH, key) is None


def test_many_connections(shared_server: Server, key: bytes) -> None:
    before = int(shared_server.info()["connections"])
    several = [shared_server.connect() for _ in range(200)]
    for connection in several[::2]:
        connection.close()
    for connection in several[1::2]:
        assert connection("RING.GET", EPOCH, key) is None
        connection.close()
    while int(shared_server.info()["connections"]) > before:
        time.sleep(0.01)


# ---- placement, in a ring of three ----


@pytest.fixture
def three(start_server: Any) -> Iterator[Connection]:
    connection = start_server(fence=30_000).connect(hello=False)
    connection("RING.RING", ring_record(EPOCH, ["a", "b", "c"]))
    make_ready(connection)
    yield connection


def key_of(nodes: list[str], *, of: str, held: bool) -> bytes:
    keys = (b"key:%d" % number for number in range(1000))
    return next(key for key in keys if (of in twin.pair(nodes, key)) == held)


def test_only_holders_take_a_key(three: Connection) -> None:
    nodes = ["a", "b", "c"]
    mine, other = key_of(nodes, of="a", held=True), key_of(nodes, of="a", held=False)
    version = clock.next()
    entry = encode(VALUE, version, 0, b"v")
    for command in (
        ("RING.GET", EPOCH, other),
        ("RING.META", EPOCH, other),
        put(EPOCH, version, 0, other, b"v"),
        ("RING.DEL", EPOCH, version, other),
        ("RING.INCR", EPOCH, version, other, 1),
        ("RING.EXPIRE", EPOCH, version, other, 0),
        ("RING.FILL", EPOCH, mine, entry, other, entry),
        ("RING.OWE", EPOCH, "b", other, version),
    ):
        assert three.refused(*command) == "NOTMINE"
    assert three("DBSIZE") == 0
    [nobody, taken] = three("RING.MGET", EPOCH, other, mine)
    assert (nobody.word, taken) == ("NOTMINE", None)
    without = next(node for node in "bc" if node not in twin.pair(nodes, mine))
    assert three.refused("RING.OWE", EPOCH, without, mine, version) == "NOTMINE"


def test_drop_removes_what_is_held_no_more(three: Connection) -> None:
    nodes = ["a", "b", "c"]
    mine, other = key_of(nodes, of="a", held=True), key_of(nodes, of="a", held=False)
    low, middle, high = clock.next(), clock.next(), clock.next()
    three("RING.RING", ring_record(EPOCH + 1, ["a", "b"]))
    for key in (mine, other):
        three(*put(EPOCH + 1, middle, 0, key, b"v"))
    assert three("RING.DROP", EPOCH + 1, mine, high, other, high) == 0
    three("RING.RING", ring_record(EPOCH + 2, ["a", "b", "c"]))
    assert three.refused("RING.DROP", EPOCH + 1, other, high) == "EPOCH"
    assert three.refused("RING.DROP", EPOCH + 3, other, high) == "BEHIND"
    assert three("RING.DROP", EPOCH + 2, mine, high, other, low) == 0
    assert three("RING.DROP", EPOCH + 2, mine, high, other, middle) == 1
    assert three("RING.DUMP", mine, other) == [encode(VALUE, middle, 0, b"v"), None]


def test_holders_of_both_rings_take_it_but_only_readers_know_a_miss(three: Connection) -> None:
    """Node c is drained, and keys whose new pair has a are written there, too."""
    nodes = ["a", "b", "c"]
    old, new = key_of(nodes, of="a", held=True), key_of(nodes, of="a", held=False)
    change = {"drain": "c", "since": 1}
    three("RING.RING", ring_record(EPOCH + 1, nodes, change))
    assert three("RING.GET", EPOCH + 1, old) is None
    with pytest.raises(Refused, match=r"^MAYBE joining"):
        three("RING.GET", EPOCH + 1, new)
    assert three.refused("RING.INCR", EPOCH + 1, clock.next(), new, 1) == "MAYBE"
    assert three(*put(EPOCH + 1, clock.next(), 0, new, b"v")) == "OK"
    three("RING.RING", ring_record(EPOCH + 2, ["a", "b"], change))
    assert three("RING.GET", EPOCH + 2, new) == b"v"
    three("RING.RING", ring_record(EPOCH + 3, ["a", "b"], {**change, "clean": True}))
    three("RING.RING", ring_record(EPOCH + 3, ["a", "b"]))
    assert three("RING.GET", EPOCH + 3, new) == b"v"
