"""What a loader says of its stream of changes to readers; hostile bytes say nothing."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import bson
import pytest

import mmapcache

REPORT, POSITION, SLOT = 8192, 12288, 2048
COUNTS_LEN, COUNTS, COUNTS_ROOM = 844, 848, 1196


def put_one(writer: mmapcache.Writer, number: int = 1) -> None:
    with writer.batch() as batch:
        batch.put("sites", "k", {"n": number})


def words(status: mmapcache.types.Status) -> tuple[object, ...]:
    return (
        status["position_at"],
        status["events"],
        status["disconnects"],
        status["loads"],
        status["errors"],
        status["lag"],
    )


NOTHING: tuple[object, ...] = (None, 0, 0, {}, {}, None)


def test_a_file_without_them_says_nothing(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path) as writer:
        assert words(writer.status()) == NOTHING
        put_one(writer)
        writer.report(state="polling", confirmed=True)
        assert words(writer.status()) == NOTHING
        with mmapcache.open(cache_path) as cache:
            assert words(cache.status()) == NOTHING


def test_each_is_kept_until_it_is_said_anew(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path) as writer:
        put_one(writer)
        cache = mmapcache.open(cache_path)
        writer.report(
            position_at=1000.5,
            events=7,
            disconnects=2,
            loads={"initial": 1, "poll": 30},
            errors=Counter({"AutoReconnect": 4}),
        )
        loads, errors = {"initial": 1, "poll": 30}, {"AutoReconnect": 4}
        assert words(cache.status()) == (1000.5, 7, 2, loads, errors, None)
        writer.report(state="streaming")
        assert words(cache.status()) == (1000.5, 7, 2, loads, errors, None)
        writer.report(loads={"verify": 1})
        assert words(cache.status()) == (1000.5, 7, 2, {"verify": 1}, errors, None)
        writer.report(errors={}, events=2**80, disconnects=0, position_at=0)
        assert words(cache.status()) == (None, 2**63 - 1, 0, {"verify": 1}, {}, None)
        assert words(cache.status()) == words(writer.status())
        cache.close()


def test_lag_is_the_age_while_following(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path) as writer:
        put_one(writer)
        with mmapcache.open(cache_path) as cache:
            writer.report(following=True, confirmed=True)
            status = cache.status()
            assert status["lag"] is not None and status["age"] is not None
            assert abs(status["lag"] - status["age"]) < 60
            writer.report(confirmed=True)
            assert cache.status()["lag"] is not None
            writer.report(following=False)
            assert cache.status()["lag"] is None
            writer.report(following=True)
    with mmapcache.open(cache_path) as cache:  # closed: nobody follows
        assert cache.status()["lag"] is None


def test_the_next_loader_goes_on_counting(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path) as writer:
        put_one(writer)
        writer.report(events=5, loads={"initial": 1}, errors={"x": 2}, position_at=9)
        writer.mark(b"token")
    with mmapcache.Writer(cache_path) as writer:
        assert words(writer.status()) == (9.0, 5, 0, {"initial": 1}, {"x": 2}, None)
        assert writer.position == b"token"


def test_a_successor_of_another_size_takes_all_of_it_over(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        put_one(writer)
        writer.report(state="polling", source="a source", confirmed=1000.5)
        writer.report(events=5, loads={"initial": 1}, errors={"x": 2}, position_at=9)
        writer.mark(b"token")
        before = writer.status()
    with mmapcache.Writer(cache_path, max_size="8MiB") as writer:
        after = writer.status()
        assert after["file_id"] != before["file_id"]
        assert words(after) == words(before)
        assert (after["state"], after["confirmed_at"]) == ("polling", 1000.5)
        assert writer.position == b"token"
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        put_one(writer, 2)
        writer.report(events=6)
    with mmapcache.Writer(cache_path, max_size="8MiB") as writer:
        assert writer.position == b""  # the data went on without it
        assert writer.status()["events"] == 6


def test_a_file_begun_anew_counts_anew(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path) as writer:
        put_one(writer)
        writer.report(events=5, loads={"initial": 1}, position_at=9)
        writer.mark(b"token")
    with mmapcache.Writer(cache_path, discard=True) as writer:
        assert words(writer.status()) == NOTHING
        assert writer.position == b""


@pytest.mark.parametrize(
    "count", [1, 30, 500, 20_000], ids=["one", "that just fit", "too many", "very many"]
)
def test_the_largest_counts_keep_their_names(cache_path: Path, count: int) -> None:
    errors = {f"error {number:06}": number + 1 for number in range(count)}
    with mmapcache.Writer(cache_path) as writer:
        writer.report(errors=errors, loads=errors)
        status = writer.status()
        for said, least in ((status["errors"], 30), (status["loads"], 14)):
            named = {name: number for name, number in said.items() if name != "other"}
            assert sum(said.values()) == sum(errors.values())
            assert len(named) >= min(count, least)
            assert sorted(named.values()) == sorted(errors.values())[-len(named) :]
            assert all(errors[name] == number for name, number in named.items())


def test_names_that_are_no_names_are_others(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path) as writer:
        writer.report(errors={"a\0b": 1, "n" * 65: 2, "n" * 64: 4, "other": 8, "é": 16, "": 32})
        assert writer.status()["errors"] == {"n" * 64: 4, "é": 16, "": 32, "other": 11}
        writer.report(errors={"\udcff": 1, "x": 2**90, "y": 2**63 - 1})
        most = 2**63 - 1
        assert writer.status()["errors"] == {"\\udcff": 1, "x": most, "y": most}
        writer.report(errors={"n" * 65: 2**90, "n" * 66: 2**90, "n" * 67: 2**90})
        assert writer.status()["errors"] == {"other": most}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"loads": [("a", 1)]}, TypeError),
        ({"loads": 5}, TypeError),
        ({"errors": {1: 1}}, TypeError),
        ({"errors": {"a": "1"}}, TypeError),
        ({"errors": {"a": None}}, TypeError),
        ({"errors": {"a": 1.5}}, TypeError),
        ({"errors": {"a": -1}}, ValueError),
        ({"errors": {"a": -(2**90)}}, ValueError),
        ({"events": -1}, ValueError),
        ({"disconnects": "1"}, TypeError),
        ({"position_at": -1}, ValueError),
        ({"position_at": float("nan")}, ValueError),
        ({"position_at": "now"}, TypeError),
    ],
)
def test_wrong_arguments_change_nothing(
    cache_path: Path, arguments: dict[str, object], error: type[Exception]
) -> None:
    with mmapcache.Writer(cache_path) as writer:
        writer.report(state="before", loads={"a": 1}, errors={"b": 2}, events=3)
        before = words(writer.status())
        with pytest.raises(error):
            writer.report(state="after", **arguments)  # type: ignore[arg-type]
        assert words(writer.status()) == before
        assert writer.status()["state"] == "before"


def stat(path: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mmapcache", "stat", str(path), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_stat_shows_them(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path) as writer:
        put_one(writer)
        text = stat(cache_path)
        for line in (
            "lag none: the loader does not",
            "position never",
            "loads none",
            "errors none",
        ):
            assert line in " ".join(text.split())
        errors = {"AutoReconnect": 2, "a\nb": 3}
        writer.report(following=True, confirmed=True, position_at=86400.0, events=1234)
        writer.report(disconnects=5, loads={"initial": 1, "poll": 2000}, errors=errors)
        text = " ".join(stat(cache_path).split())
        assert " s behind the source " in text
        assert "position 1970-01-02" in text
        assert "loads poll 2,000, initial 1 " in text
        assert "events 1,234 disconnects 5 errors a\\nb 3, AutoReconnect 2 " in text
        status, seen = json.loads(stat(cache_path, "--json"))["status"], writer.status()
        assert status.keys() == seen.keys()
        for name in ("position_at", "events", "disconnects", "loads", "errors"):
            assert status[name] == seen[name]
        assert status["lag"] is not None


# ---- positions ----


def test_a_position_counts_until_the_next_generation(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path) as writer:
        assert writer.position == b""
        writer.mark(b"before the first one")
        assert writer.position == b"before the first one"
        put_one(writer)
        assert writer.position == b""
        generation = writer.generation
        writer.mark(b"one")
        writer.mark(bytearray(b"two\0"))
        assert (writer.position, writer.generation) == (b"two\0", generation)
        put_one(writer)  # the same again: no generation
        assert writer.position == b"two\0"
        with writer.batch() as batch:
            batch.put("sites", "k", {"n": 5})
            writer.mark(b"in a batch")  # of what is published
        assert writer.position == b""
        writer.mark(b"three")
        writer.mark(b"")
        assert writer.position == b""


def test_how_long_a_position_may_be(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path) as writer:
        longest = os.urandom(mmapcache.MAX_POSITION_BYTES)
        writer.mark(longest)
        with pytest.raises(mmapcache.LimitError, match="2017 bytes, the limit is 2016"):
            writer.mark(longest + b"x")
        assert writer.position == longest
        with pytest.raises(TypeError):
            writer.mark("text")  # type: ignore[arg-type]
    for use in (lambda: writer.mark(b""), lambda: writer.position):
        with pytest.raises(mmapcache.ClosedError):
            use()


KILLED = """
import os, signal, sys, mmapcache
writer = mmapcache.Writer(sys.argv[1])
with writer.batch() as batch:
    batch.put("sites", "k", {"n": 1})
writer.report(following=True, confirmed=True, events=3)
writer.mark(b"older")
writer.mark(b"newest")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_loader_leaves_its_position(cache_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(cache_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with mmapcache.open(cache_path) as cache:  # it grows as long as nobody takes over
        assert cache.status()["loader"] == "dead"
        assert cache.status()["lag"] is not None
    with mmapcache.Writer(cache_path) as writer:
        assert writer.position == b"newest"
        assert writer.status()["lag"] is None
        assert writer.status()["events"] == 3
    spoil(cache_path, POSITION, lambda slot: slot[:40] + b"?" + slot[41:], newest=True)
    with mmapcache.Writer(cache_path) as writer:
        assert writer.position == b"older"


# ---- files that say what no loader writes ----


def checksum(data: bytes) -> int:
    """mc_checksum, as docs/format.md has it."""
    words64 = (1 << 64) - 1
    secret = [0xD1B54A32D192ED03, 0x9E3779B97F4A7C15, 0xABC98388FB8FAC03, 0x8CB92BA72F3D8DD7]

    def halves(x: int, y: int) -> int:
        return (x * y ^ x * y >> 64) & words64

    def fold(x: int, y: int) -> int:
        return (halves(x, y) + x + y) & words64

    state, other, rest = secret[0], secret[1], data
    while len(rest) > 32:
        w = struct.unpack_from("<4Q", rest)
        state = fold(w[0] ^ state, w[1] ^ secret[2])
        other = fold(w[2] ^ other, w[3] ^ secret[3])
        rest = rest[32:]
    state ^= other
    if len(rest) > 16:
        first = struct.unpack_from("<2Q", rest)
        state = fold(first[0] ^ state, first[1] ^ secret[2])
        a, b = struct.unpack("<2Q", data[-16:])
    else:
        a, b = struct.unpack_from("<Q", rest)[0], struct.unpack("<Q", rest[-8:])[0]
    state = fold(a ^ state, b ^ secret[1])
    mixed = halves(state ^ secret[2], len(data) ^ secret[3])
    return (mixed ^ mixed >> 32) & 0xFFFFFFFF


def spoil(
    path: Path,
    offset: int,
    change: Callable[[bytes], bytes],
    *,
    newest: bool = False,
    mend: bool = False,
) -> None:
    """Changes the 2044 bytes of both slots, or of the newest; `mend`: with the checksum for it."""
    data = bytearray(path.read_bytes())
    slots = [offset, offset + SLOT]
    if newest:
        slots = [max(slots, key=lambda at: int(struct.unpack_from("<Q", data, at)[0]))]
    for at in slots:
        slot = change(bytes(data[at : at + SLOT - 4]))
        assert len(slot) == SLOT - 4
        data[at : at + SLOT - 4] = slot
        if mend:
            struct.pack_into("<I", data, at + SLOT - 4, checksum(slot))
    path.write_bytes(data)


def with_counts(counts: bytes, length: int | None = None) -> Callable[[bytes], bytes]:
    def change(slot: bytes) -> bytes:
        told = struct.pack("<I", len(counts) if length is None else length)
        return slot[:COUNTS_LEN] + told + counts.ljust(COUNTS_ROOM, b"\0")

    return change


def element(kind: int, name: bytes, value: bytes) -> bytes:
    return bytes([kind]) + name + b"\0" + value


def document(*elements: bytes) -> bytes:
    content = b"".join(elements)
    return struct.pack("<i", len(content) + 5) + content + b"\0"


ONE = struct.pack("<q", 1)
HOSTILE = {
    "no document": b"\xff" * 200,
    "longer than the room": struct.pack("<i", 4000) + b"\x03loads\0" + b"\x7f" * 100,
    "no end": document(element(3, b"loads", document(element(18, b"a", ONE))))[:-1] + b"\1",
    "inner longer than the outer": document(element(3, b"loads", struct.pack("<i", 900) + b"\0")),
    "a number in its place": document(element(18, b"loads", ONE), element(16, b"errors", ONE[:4])),
    "an array in its place": document(element(4, b"loads", document(element(18, b"0", ONE)))),
    "a name that is not UTF-8": document(
        element(3, b"loads", document(element(18, b"\xff\xfe", ONE)))
    ),
    "deep": document(element(3, b"loads", b"\x60\4\0\0" + b"\x03a\0\x60\4\0\0" * 150)),
    "other values": bson.encode(
        {"loads": {"a": -1, "b": 1.5, "c": "1", "d": None, "e": True, "f": {}}, "errors": []}
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_counts_are_none(cache_path: Path, name: str) -> None:
    with mmapcache.Writer(cache_path) as writer:
        put_one(writer)
        writer.report(state="polling", loads={"a": 1}, errors={"b": 1}, events=1)
    spoil(cache_path, REPORT, with_counts(HOSTILE[name]), mend=True)
    with mmapcache.open(cache_path) as cache:
        status = cache.status()
        assert (status["loads"], status["errors"]) == ({}, {})
        assert (status["state"], status["events"]) == ("polling", 1)
        assert cache["sites"]["k"]["n"] == 1
    with mmapcache.Writer(cache_path) as writer:
        writer.report(errors={"c": 1})
        assert writer.status()["errors"] == {"c": 1}
        assert writer.status()["loads"] == {}


@pytest.mark.parametrize("length", [1197, 2**31, 2**32 - 1])
def test_a_hostile_length_of_counts(cache_path: Path, length: int) -> None:
    with mmapcache.Writer(cache_path) as writer:
        put_one(writer)
        writer.report(loads={"a": 1})
    counts = bson.encode({"loads": {"a": 1}, "errors": {}})
    spoil(cache_path, REPORT, with_counts(counts), mend=True)
    with mmapcache.open(cache_path) as cache:
        assert cache.status()["loads"] == {"a": 1}  # the checksum of this file is right
    spoil(cache_path, REPORT, with_counts(counts, length), mend=True)
    with mmapcache.open(cache_path) as cache:
        assert cache.status()["loads"] == {}
    with mmapcache.Writer(cache_path) as writer:
        writer.report(errors={"c": 1})
        assert (writer.status()["loads"], writer.status()["errors"]) == ({}, {"c": 1})


def test_counts_of_another_hand_are_read(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path) as writer:
        put_one(writer)
        writer.report(loads={"a": 1})
    counts = bson.encode({"new": 1, "errors": {"a": 1, "b": 2**40, "c": -1}, "loads": {}})
    spoil(cache_path, REPORT, with_counts(counts), mend=True)
    with mmapcache.open(cache_path) as cache:
        assert cache.status()["errors"] == {"a": 1, "b": 2**40}


@pytest.mark.parametrize("length", [2017, 2**31, 2**32 - 1])
def test_a_hostile_length_of_a_position(cache_path: Path, length: int) -> None:
    with mmapcache.Writer(cache_path) as writer:
        put_one(writer)
        writer.mark(b"one")

    def change(slot: bytes) -> bytes:
        return slot[:24] + struct.pack("<I", length) + slot[28:]

    spoil(cache_path, POSITION, change, newest=True, mend=True)
    with mmapcache.Writer(cache_path) as writer:
        assert writer.position == b""
        writer.mark(b"two")
    with mmapcache.Writer(cache_path) as writer:
        assert writer.position == b"two"


def test_a_position_of_a_generation_that_was_lost(cache_path: Path) -> None:
    """A number is not enough where a machine failed and the generation was made once more."""
    with mmapcache.Writer(cache_path) as writer:
        put_one(writer)
        writer.mark(b"one")

    def of_another_moment(slot: bytes) -> bytes:
        at = struct.unpack_from("<q", slot, 16)[0]
        return slot[:16] + struct.pack("<q", at - 1) + slot[24:]

    spoil(cache_path, POSITION, of_another_moment, newest=True, mend=True)
    with mmapcache.Writer(cache_path) as writer:
        assert writer.position == b""
