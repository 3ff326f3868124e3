"""Versions, the clock and stored values in C are what docs/ring.md says."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.processes import in_child

from mmapcache.ring._ring import (
    HEADER_BYTES,
    MAX_TIME,
    TOMBSTONE,
    TOMBSTONE_MS,
    VALUE,
    VERSION_BYTES,
    Clock,
    Placement,
    decode,
    encode,
)
from ring import twin

WRITER = bytes(range(8))
times = st.integers(0, MAX_TIME - TOMBSTONE_MS)
versions = st.builds(
    lambda ms, rest: ms.to_bytes(6, "big") + rest, times, st.binary(min_size=10, max_size=10)
)


@given(versions, st.integers(0, MAX_TIME), st.binary(max_size=200))
def test_values_go_there_and_back(version: bytes, end: int, value: bytes) -> None:
    entry = encode(VALUE, version, end, value)
    assert entry == twin.encode(1, version, end, value)
    assert decode(entry) == (VALUE, version, end, value)


@given(versions)
def test_tombstones_go_there_and_back(version: bytes) -> None:
    end = int.from_bytes(version[:6], "big") + TOMBSTONE_MS
    entry = encode(TOMBSTONE, version, end, b"")
    assert entry == twin.encode(2, version, end, b"")
    assert decode(entry) == (TOMBSTONE, version, end, b"")
    for wrong in (0, end - 1, end + 1):
        with pytest.raises(ValueError):
            encode(TOMBSTONE, version, wrong, b"")
    with pytest.raises(ValueError):
        encode(TOMBSTONE, version, end, b"x")


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_are_an_entry(data: bytes) -> None:
    for candidate in (data, b"\xa7\x01\0\0" + data, b"\xa7\x02\0\0" + data):
        try:
            kind, version, end, value = decode(candidate)
        except ValueError:
            continue
        assert encode(kind, version, end, value) == candidate


def test_each_byte_of_the_header_counts() -> None:
    good = encode(VALUE, bytes(16), 0, b"value")
    for at, wrong in [(0, 0xA6), (1, 0), (1, 3), (2, 1), (3, 1), (4, 0x80), (20, 1)]:
        with pytest.raises(ValueError, match="not those of a value of the ring"):
            decode(good[:at] + bytes([wrong]) + good[at + 1 :])
    with pytest.raises(ValueError):
        decode(good[: HEADER_BYTES - 1])
    with pytest.raises(TypeError):
        decode("text")  # type: ignore[arg-type]


def test_arguments_that_cannot_be() -> None:
    for arguments in [
        (0, bytes(16), 0, b""),
        (3, bytes(16), 0, b""),
        (VALUE, bytes(15), 0, b""),
        (VALUE, b"\xff" * 16, 0, b""),
        (VALUE, bytes(16), -1, b""),
        (VALUE, bytes(16), MAX_TIME + 1, b""),
        (VALUE, bytes(16), 2**70, b""),
    ]:
        with pytest.raises(ValueError):
            encode(*arguments)
    for kind in (VALUE, TOMBSTONE):
        with pytest.raises(ValueError, match=rf"version's time must be 0 to {MAX_TIME} ms, not"):
            encode(kind, (MAX_TIME + 1).to_bytes(6, "big") + bytes(10), 0, b"")
    with pytest.raises(TypeError):
        encode(VALUE, "x" * 16, 0, b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        encode(VALUE, bytes(16), 0, 5)  # type: ignore[arg-type]
    for wrong in (b"", bytes(7), bytes(9)):
        with pytest.raises(ValueError, match="8 bytes"):
            Clock(wrong)
    with pytest.raises(TypeError):
        Clock("12345678")  # type: ignore[arg-type]


def test_versions_rise_and_say_the_time() -> None:
    clock = Clock(WRITER)
    before = time.time_ns() // 1_000_000
    made = [clock.next() for _ in range(10_000)]
    after = time.time_ns() // 1_000_000
    assert made == sorted(set(made))
    assert all(len(version) == VERSION_BYTES and version[8:] == WRITER for version in made)
    assert before <= int.from_bytes(made[0][:6], "big")
    assert int.from_bytes(made[-1][:6], "big") <= after


@given(st.lists(versions, min_size=1, max_size=20))
def test_versions_are_above_all_that_were_seen(seen: list[bytes]) -> None:
    """With the clock in the future, so that the hour of the day takes no part."""
    ahead = (MAX_TIME - 10**9).to_bytes(6, "big") + bytes(10)
    clock, other = Clock(WRITER), twin.Clock(WRITER)
    for version in (ahead, *seen):
        clock.learn(version)
        other.learn(version)
        assert clock.next() == other.next(0) > version


def test_counter_runs_over_into_the_time() -> None:
    clock = Clock(WRITER)
    time_ahead = MAX_TIME - 10**9
    clock.learn(time_ahead.to_bytes(6, "big") + b"\xff\xff" + bytes(8))
    assert clock.next() == (time_ahead + 1).to_bytes(6, "big") + b"\0\0" + WRITER
    clock.learn(time_ahead + 50)
    assert clock.next()[:8] == (time_ahead + 50).to_bytes(6, "big") + b"\0\1"


def test_what_a_clock_does_not_learn() -> None:
    clock = Clock()
    for wrong in (b"\xff" * 16, MAX_TIME + 1, -1, bytes(15), 2**70):
        with pytest.raises(ValueError):
            clock.learn(wrong)
    with pytest.raises(TypeError):
        clock.learn("now")  # type: ignore[arg-type]
    assert int.from_bytes(clock.next()[:6], "big") <= time.time_ns() // 1_000_000


def test_each_process_is_another_writer() -> None:
    clock = Clock()
    mine = clock.next()
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(sender, clock.next())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(receiver, 16)
    os.close(receiver)
    os.close(sender)
    assert len(theirs) == 16
    assert theirs[8:] != mine[8:]
    assert clock.next()[8:] == mine[8:]
    assert Clock().next()[8:] != mine[8:]


def test_threads_get_different_versions() -> None:
    clock = Clock()
    made: list[list[bytes]] = [[] for _ in range(4)]

    def take(into: list[bytes]) -> None:
        into.extend(clock.next() for _ in range(5_000))

    threads = [threading.Thread(target=take, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [version for part in made for version in part]
    assert len(set(every)) == len(every)


def nothing_is_left_behind() -> None:
    clock, placement = Clock(), Placement(["a", "b", "c"], change_to=["a", "b"])
    version = clock.next()
    entry = encode(VALUE, version, 0, b"x" * 50)
    calls: list[Callable[[], object]] = [
        *(clock.next, Clock, lambda: clock.learn(version), lambda: clock.learn(5)),
        *(lambda: placement.pair("k"), lambda: placement.holders(b"k"), lambda: placement.ids),
        *(lambda: decode(entry), lambda: encode(VALUE, version, 0, "text")),
        lambda: Placement(["a", "b"], change_to=["a", "b", "c"]),
        *(lambda: placement.pair("\ud800"), lambda: placement.pair(5)),  # type: ignore[arg-type]
        *(lambda: decode(b"x"), lambda: encode(3, version, 0, b""), lambda: clock.learn(b"x")),
        *(lambda: Placement(["a", "a"]), lambda: Placement(["a"], ["b"]), lambda: Clock(b"1")),
    ]

    def work() -> int:
        for _ in range(500):
            for call in calls:
                with contextlib.suppress(ValueError, TypeError):
                    call()
        gc.collect()
        return sys.getallocatedblocks()

    for _ in range(5):  # the interpreter's own lists and caches fill first
        before = work()
    for _ in range(5):
        after = work()
    assert after - before < 250, f"{after - before} more"  # one lost per call would be 2,500


def test_nothing_is_left_behind() -> None:
    """Neither by what succeeds nor by what fails; a child has no other thread that allocates."""
    in_child(nothing_is_left_behind)
