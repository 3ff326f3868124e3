"""What an agent brings to nodes, and what it had better not."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from ring.model import Node
from ring.test_restarts import KEYS, Story

from mmapcache.ring import _ring, fill, sweep
from mmapcache.ring.record import Change, Record
from mmapcache.ring.sweep import LONGEST, Owed, Pace, Sweep, TooSlowError

HOUR = 3_600_000
VALUE, TOMBSTONE = _ring.VALUE, _ring.TOMBSTONE


def links_of(story: Story) -> Any:
    return {name: story.agent._links.to(name, "") for name in story.world.nodes}


def ago(ms: int) -> bytes:
    """A version that was given out then."""
    return (time.time_ns() // 1_000_000 - ms).to_bytes(6, "big") + bytes(2) + b"a writer"


def keys_of(record: Record, count: int, *pair: str) -> list[bytes]:
    """Some that these hold."""
    whose = sweep.Whose(record)
    every = (b"key%d" % number for number in itertools.count())
    held = (key for key in every if set(whose.pair(key)) == set(pair))
    return list(itertools.islice(held, count))


def key_of(record: Record, *pair: str) -> bytes:
    return keys_of(record, 1, *pair)[0]


def still() -> Story:
    """A ring of a, b and c in which nothing happens by itself."""
    return Story(iter(()), [])


@pytest.mark.parametrize("age", [20_000, 2 * HOUR])
def test_nothing_older_stays_of_what_has_ended_before_it_was_brought(age: int) -> None:
    """a was cut off: b took a short-lived value, or a deletion, and has forgotten it by now."""
    story = still()
    key = key_of(story.world.record, "a", "b")
    a, b = story.world.nodes["a"], story.world.nodes["b"]
    a.data[key] = (VALUE, ago(3 * HOUR), 0, b"older")
    b.owed["a", key] = ago(age)
    owed = Owed(story.world.record, links_of(story))
    owed.apply("b")
    assert (a.data, b.owed, owed.left) == ({}, {}, 0)


def test_who_does_not_hold_a_key_knows_nothing_of_it() -> None:
    """It has dropped it, as it went to others."""
    story = still()
    key = key_of(story.world.record, "a", "c")
    a, b = story.world.nodes["a"], story.world.nodes["b"]
    a.data[key] = (VALUE, ago(3 * HOUR), 0, b"older")
    b.owed["a", key] = ago(20_000)
    Owed(story.world.record, links_of(story)).apply("b")
    assert key in a.data
    assert not b.owed


def test_what_was_read_too_long_ago_is_not_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent stood still between reading it and sending it: it was deleted long ago."""
    story = still()
    key = key_of(story.world.record, "a", "b")
    a, b = story.world.nodes["a"], story.world.nodes["b"]
    b.data[key] = (VALUE, ago(100), 0, b"v")
    clock = [1000.0]
    monkeypatch.setattr(sweep, "uptime", lambda: clock[0])
    slow = Sweep(story.world.record, links_of(story), Pace(0), lambda seconds: None)
    entries = slow.dump("b", [key])
    clock[0] += LONGEST + 1
    with pytest.raises(TooSlowError):
        slow.fill("a", list(entries.items()))
    assert not a.data


@pytest.mark.parametrize("step", ["filling", "switched"])
def test_a_node_is_not_drained_that_alone_has_what_a_full_one_refused(step: str) -> None:
    """It would go with its notes, and with what it alone holds."""
    story = still()
    world = story.world
    world.record = world.record.begin("drain", "c", 1)
    if step == "switched":
        world.record = world.record.advance()
    for name in "abc":
        story.hear(name)
    for source in story.sources:
        source.learn()
    a, b, c = (world.nodes[name] for name in "abc")
    a.full = b.full = True
    assert world.drive(story.clients[0].set("k", "v", 0)).copies == 1
    assert c.owed.keys() == {("a", b"k"), ("b", b"k")}
    before = world.record
    for _ in range(3):
        story.do("agent", 0)
    assert world.record == before
    a.full = b.full = False
    for _ in range(9):
        story.do("agent", 0)
        for name in "abc":
            story.hear(name)
    assert (world.record.nodes, world.record.change) == (("a", "b"), None)
    assert a.data[b"k"] == b.data[b"k"]


class Timed:
    """A story in which each question to a node takes the agent 50 ms; nothing else happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.story = story = Story(itertools.repeat(("pause", 0.2)), [])  # type: ignore[arg-type]
        monkeypatch.setattr(fill, "time", SimpleNamespace(monotonic=story.world.now))
        self.a, self.b = story.world.nodes["a"], story.world.nodes["b"]
        self._brought: Counter[str] = Counter()
        for node in story.world.nodes.values():
            monkeypatch.setattr(node, "_fill", self._counted(node))

    def _counted(self, node: Node) -> Any:
        take = node._fill

        def fill(*words: bytes) -> int:
            self._brought[node.id] += len(words) // 2
            return take(*words)

        return fill

    def keys(self, count: int) -> list[bytes]:
        """Some that a and b hold."""
        return keys_of(self.story.world.record, count, "a", "b")

    def rounds(self, count: int, *, of: str = "a", after: float = 0.0) -> int:
        """How many keys a node was brought in some rounds, which begin after some seconds; whether
        it took them or not."""
        self.story.world.clock += after
        before = self._brought[of]
        for _ in range(count):
            self.story.do("agent", 0)
        return self._brought[of] - before

    @property
    def owed(self) -> int:
        """As the agent tells it."""
        return self.story.agent.doing.owed


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timed:
    return Timed(monkeypatch)


def test_a_full_node_is_tried_with_a_few_keys(timed: Timed) -> None:
    """And with all of them now and then: one may be owed by now of which it has an older value."""
    a, b = timed.a, timed.b
    *keys, later = timed.keys(1501)
    for key in keys:
        b.data[key] = (VALUE, ago(1000), 0, b"v")
        b.owed["a", key] = b.data[key][1]
    a.full = True
    assert timed.rounds(1) >= 1500
    a.data[later] = (VALUE, ago(2000), 0, b"older")
    b.data[later] = (VALUE, ago(1000), 0, b"v")
    b.owed["a", later] = b.data[later][1]
    assert (timed.rounds(2), len(b.owed), timed.owed) == (40, 1501, 1500)
    assert timed.rounds(1, after=60) >= 1501
    assert (a.data, timed.owed) == ({}, 1501)
    assert timed.rounds(1) == 20
    a.full = False
    timed.rounds(1)
    assert a.data == {key: b.data[key] for key in (*keys, later)}
    assert (b.owed, timed.owed) == ({}, 0)


@pytest.mark.parametrize("most", [10, 40])
def test_more_than_can_be_noted_reaches_a_full_node(timed: Timed, most: int) -> None:
    """It had no memory for 30 keys. What is left of them in the end may be few enough, or not."""
    a, b = timed.a, timed.b
    keys = timed.keys(30)
    b.most = most
    for key in keys:
        b.data[key] = (VALUE, ago(1000), 0, b"v")
        a.data[key] = (VALUE, ago(2000), 0, b"older")
    b.overflow, b.overflows = {"a": 7}, 7
    a.full = True
    assert timed.rounds(1) >= 30
    assert not a.data
    again = timed.rounds(3)
    assert again == 0 if most == 10 else 0 < again <= 60
    assert timed.owed == (100_000 if most == 10 else 30)
    a.full = False
    timed.rounds(2, after=60 if most == 10 else 0)
    assert a.data == b.data
    assert (b.owed, b.overflow, timed.owed) == ({}, {}, 0)


def test_what_a_node_had_no_memory_for_when_it_was_filled_is_brought(timed: Timed) -> None:
    a, b = timed.a, timed.b
    for key in timed.keys(30):
        b.data[key] = (VALUE, ago(1000), 0, b"v")
    a.state, a.full = "joining", True
    timed.rounds(9)
    assert (a.state, a.data) == ("ready", {})
    assert timed.owed == 30
    a.full = False
    timed.rounds(1)
    assert (a.data, b.owed) == (b.data, {})


def test_a_full_holder_holds_up_no_cleaning_and_loses_nothing(timed: Timed) -> None:
    """What it has no memory for stays where it is; the rest goes, and makes room."""
    story = timed.story
    world = story.world
    cleaning = Record(4, ("a", "b", "c"), Change("add", "c", 1, clean=True))
    for node in world.nodes.values():
        node.record = cleaning
    world.record = cleaning
    only, common = key_of(cleaning, "b", "c"), key_of(cleaning, "a", "b")
    a, b, c = (world.nodes[name] for name in "abc")
    b.full = True
    a.data[only] = (VALUE, ago(100), 0, b"v")
    c.data[common] = a.data[common] = b.data[common] = (VALUE, ago(100), 0, b"v")
    assert timed.rounds(3, of="b") == 2, "it was cleaned up again and again"
    assert world.record == cleaning
    assert only in a.data
    assert common not in c.data
    b.full = False
    timed.rounds(3, after=60)
    assert world.record.change is None
    assert only not in a.data
    assert b.data[only] == c.data[only]


@pytest.mark.parametrize(("count", "size"), [(10, 600_000), (150, 1)])
def test_a_full_holder_keeps_nothing_older_of_all_that_it_is_owed(
    count: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever does not fit into one packet, or into what is brought at once."""
    monkeypatch.setattr(Owed, "AT_ONCE", 100)
    story = still()
    record = story.world.record
    keys = keys_of(record, count, "a", "b")
    a, b = story.world.nodes["a"], story.world.nodes["b"]
    for key in keys:
        a.data[key] = (VALUE, ago(2000), 0, b"older")
        b.data[key] = (VALUE, ago(1000), 0, b"x" * size)
        b.owed["a", key] = b.data[key][1]
    a.full = True
    owed = Owed(record, links_of(story))
    owed.apply("b")
    assert not a.data
    assert len(b.owed) == owed.left == count
    a.full = False
    for _ in range(2):
        Owed(record, links_of(story)).apply("b")
    assert (a.data, b.owed) == ({key: b.data[key] for key in keys}, {})


@pytest.mark.parametrize("kind", ["add", "drain"])
def test_a_change_that_is_given_up(kind: Any) -> None:
    """The node that is added never comes; the one that is drained is to stay."""
    story = still()
    world = story.world
    node = "d" if kind == "add" else "c"
    world.record = world.record.begin(kind, node, 1)
    for name in "abc":
        story.hear(name)
    keys = [key.encode() for key in KEYS]
    values = {}
    for key in KEYS:
        for source in story.sources:
            source.learn()
        values[key] = key.encode()
        world.drive(story.clients[0].set(key, key.encode(), 0))
    before = {name: set(world.nodes[name].data) for name in "abc"}
    world.record = world.record.give_up(kind, node)
    for _ in range(4):
        story.do("agent", 0)
        for name in "abc":
            story.hear(name)
    assert (world.record.nodes, world.record.change) == (("a", "b", "c"), None)
    whose = sweep.Whose(world.record)
    held = {name: {key for key in keys if name in whose.pair(key)} for name in "abc"}
    assert {name: set(world.nodes[name].data) for name in "abc"} == held
    assert kind == "add" or before != held, "nothing was to be cleaned up"
    for source in story.sources:
        source.learn()
    assert {key: world.drive(story.clients[1].get(key)) for key in KEYS} == values
