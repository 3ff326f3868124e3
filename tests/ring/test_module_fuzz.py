"""Whatever anybody sends, the server answers with a word that the docs know, and lives."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ring.conftest import EPOCH
from ring.ring_servers import Connection, Refused, put

from mmapcache.ring._ring import VALUE, Clock, decode, encode

DOCS = Path(__file__).parents[2] / "docs" / "ring.md"
# Those that leave the node as it is for other tests.
COMMANDS = (
    *("GET", "MGET", "META", "SET", "DEL", "INCR", "EXPIRE", "FILL", "DUMP", "DROP"),
    *("OWE", "OWED", "PAID", "HELLO", "READY", "RING"),
)
clock = Clock()


def words_of_the_docs() -> set[str]:
    """The first words of the table of errors."""
    table = DOCS.read_text("utf-8").split("Errors; the first word")[1].split("###")[0]
    return set(re.findall(r"^\| `([A-Z]+)", table, re.MULTILINE))


def now() -> int:
    return time.time_ns() // 1_000_000


numbers = st.one_of(
    st.integers(-2, 10),
    st.integers(-(2**65), 2**65),
    st.builds(lambda ms: now() + ms, st.integers(-9_000, 90_000)),
)
versions = st.one_of(
    st.builds(lambda unused: clock.next(), st.none()),
    st.binary(min_size=16, max_size=16),
    st.builds(lambda ms: (now() + ms).to_bytes(6, "big") + bytes(10), st.integers(-9_000, 90_000)),
)
values = st.one_of(st.binary(max_size=40), st.integers(-(2**64), 2**64).map(lambda n: b"%d" % n))
entries = st.one_of(
    st.builds(
        lambda v, end, value: encode(VALUE, v, end, value),
        st.builds(clock.next),
        st.just(0),
        values,
    ),
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda rest: b"\xa7\x01\0\0" + rest),
    st.binary(min_size=24, max_size=24).map(lambda rest: b"\xa7\x02\0\0" + rest),
)
keys = st.sampled_from([b"fuzz:1", b"fuzz:2", b"fuzz:3", b"", b"\0"]) | st.binary(max_size=300)
arguments = st.lists(
    st.one_of(
        st.just(EPOCH), st.just(EPOCH), numbers, versions, values, entries, keys, st.just("b")
    ),
    max_size=7,
)
right = st.one_of(
    st.tuples(st.just("SET"), st.just(EPOCH), keys, entries),
    st.tuples(st.just("DEL"), st.just(EPOCH), versions, keys),
    st.tuples(st.just("INCR"), st.just(EPOCH), versions, keys, numbers),
    st.tuples(st.just("EXPIRE"), st.just(EPOCH), versions, keys, numbers),
    st.tuples(st.just("FILL"), st.just(EPOCH), keys, entries),
    st.tuples(st.just("GET"), st.just(EPOCH), keys),
    st.tuples(st.just("META"), st.just(EPOCH), keys),
    st.tuples(st.just("OWE"), st.just(EPOCH), st.just("b"), keys, versions),
    st.tuples(st.just("PAID"), st.just("b"), keys, versions),
)
wrong = st.builds(lambda name, rest: (name, *rest), st.sampled_from(COMMANDS), arguments)


@pytest.mark.every
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.one_of(right, wrong), min_size=1, max_size=8))
def test_any_command(node: Connection, commands: list[tuple[bytes | str | int, ...]]) -> None:
    """What is stored stays whole, and no version goes down."""
    known = words_of_the_docs()
    for name, *rest in commands:
        before = node("RING.DUMP", b"fuzz:1", b"fuzz:2")
        try:
            node(f"RING.{name!s}", *rest)
        except Refused as refused:
            assert refused.word in known, refused
        after = node("RING.DUMP", b"fuzz:1", b"fuzz:2")
        for old, new in zip(before, after, strict=True):
            if old is not None and new is not None:
                assert decode(new)[1] >= decode(old)[1]
    assert node.hello()["state"] == "ready"


@pytest.mark.every
def test_sizes_up_to_a_mebibyte(node: Connection) -> None:
    """Keys and values about each power of two, one after the other in the same key, too."""
    sizes = sorted({size for n in range(21) for size in (2**n - 1, 2**n, 2**n + 1)})
    for size in [*sizes, *reversed(sizes)]:
        value = b"x" * size
        assert node(*put(EPOCH, clock.next(), 0, b"the same", value)) == "OK"
        assert node("RING.GET", EPOCH, b"the same") == value
    for size in sizes:
        key = b"size:" + b"k" * size
        assert node(*put(EPOCH, clock.next(), 0, key, b"v")) == "OK"
        assert node("RING.MGET", EPOCH, key, key + b"k") == [b"v", None]
        assert node("RING.OWE", EPOCH, "b", key, clock.next()) == "OK"
        assert node("RING.OWED", "b", 1, key[:-1])[0] == key
        assert node("RING.PAID", "b", key, clock.next()) == 1
        assert node("RING.DEL", EPOCH, clock.next(), key) == 1
