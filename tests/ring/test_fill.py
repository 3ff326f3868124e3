"""When an agent makes a node ready: with nodes in memory, and a clock that is the test's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ring.model import Node

from mmapcache.ring import _ring, fill
from mmapcache.ring.connecting import Settings
from mmapcache.ring.fill import Filler, Known, StaleError
from mmapcache.ring.record import Change, Member, Record, new_ring
from mmapcache.ring.view import GONE
from mmapcache.ring.wire import Lost
from mmapcache.sync.logs import log
from ring import twin

IDS = ("a", "b", "c")


class NodeLink:
    """What an agent asks of a node."""

    def __init__(self, node: Node, ring: Agents) -> None:
        self._node = node
        self._ring = ring

    def _reach(self) -> Node:
        if self._node.id in self._ring.away:
            raise Lost("refused")
        return self._node

    def call(self, name: str, *words: Any) -> Any:
        node = self._reach()
        if name == "DBSIZE":
            return len(node.data)
        if name == "RING.DUMP":
            return [_ring.encode(*node.data[key]) if key in node.data else None for key in words]
        if name == "RING.READY":
            node.state = "ready"
            return b"OK"
        return node.run([name.encode(), *words])

    def calls(self, commands: list[Any]) -> list[Any]:
        self._reach()
        return [[] for _ in commands]  # nothing is owed

    def hello(self) -> dict[str, object]:
        self._ring.asked(self._node.id)
        node = self._reach()
        return {"id": node.id, "run_id": "life", "state": node.state, "epoch": node.record.epoch}

    def scan(self) -> Iterator[list[bytes]]:
        yield list(self._reach().data)
        self._ring.scanned(self._node.id)


class Agents:
    """An agent that leads, and the nodes of its ring."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.record: Record = new_ring(IDS)
        self.nodes = {name: Node(name, self.record) for name in IDS}
        self.members = {n: Member(n, f"{n}:1", "life", "ready", 1) for n in IDS}
        self.away: set[str] = set()
        self.current = True
        self.scanned: Callable[[str], object] = lambda name: None
        self.asked: Callable[[str], object] = lambda name: None
        self.clock = 1000.0
        monkeypatch.setattr(fill, "time", SimpleNamespace(monotonic=lambda: self.clock))
        self.filler = Filler(self._known, self._advance, Settings(1.0), rate=0)
        links: Any = SimpleNamespace(to=lambda name, address: NodeLink(self.nodes[name], self))
        self.filler._links = links
        self._clock = _ring.Clock(b"the test")

    def _known(self) -> Known:
        return Known(self.record, dict(self.members), True, self.current)

    def _advance(self, old: Record, new: Record) -> bool:
        self.record = new
        return True

    def put(self, key: bytes, *names: str) -> None:
        for name in names:
            self.nodes[name].data[key] = (_ring.VALUE, self._clock.next(), 0, b"v")

    def keys(self, *pair: str) -> list[bytes]:
        """Some that these hold."""
        every = (b"k%d" % number for number in range(200))
        return [key for key in every if set(twin.pair(IDS, key)) == set(pair)]

    def lose(self, name: str) -> None:
        """It cannot be reached, and ZooKeeper does not hear of it."""
        self.away.add(name)
        self.members[name] = Member(name, f"{name}:1", "life", GONE, 1)

    def join(self, name: str) -> None:
        """It has been started anew."""
        self.nodes[name].data.clear()
        self.nodes[name].state = "joining"

    def rounds(self, seconds: float) -> None:
        end = self.clock + seconds
        while self.clock < end:
            with contextlib.suppress(StaleError, Lost):
                self.filler.round()
            self.clock += 0.4


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Agents:
    return Agents(monkeypatch)


def test_a_node_is_filled_when_no_write_of_before_can_be_under_way(agents: Agents) -> None:
    """A client that the last life of a has answered may send to b until then."""
    first, *others = agents.keys("a", "b")
    for key in others:
        agents.put(key, "b")
    agents.join("a")
    agents.rounds(1.1)
    agents.put(first, "b")
    assert agents.nodes["a"].state == "joining"
    agents.rounds(1.2)
    assert agents.nodes["a"].state == "ready"
    assert agents.nodes["a"].data == agents.nodes["b"].data


def test_a_life_that_begins_while_another_node_hangs_is_as_young_as_it_is(agents: Agents) -> None:
    """b is started anew while the agent waits for a, which it asks before."""
    begun: list[float] = []
    filled: list[float] = []

    def hang(name: str) -> None:
        if name == "a" and not begun:
            agents.clock += 2
            agents.join("b")
            begun.append(agents.clock)

    agents.asked = hang
    agents.scanned = lambda name: filled.append(agents.clock)
    agents.rounds(6)
    assert agents.nodes["b"].state == "ready"
    assert filled[0] - begun[0] >= 1.3


def test_what_a_node_has_that_is_back_is_waited_for(agents: Agents) -> None:
    """b was cut off for long. It is back, though ZooKeeper has not heard of it, when a joins."""
    for key in agents.keys("a", "b"):
        agents.put(key, "b")
    agents.lose("b")
    agents.rounds(7)
    agents.away.clear()
    agents.join("a")
    agents.rounds(3)
    assert agents.nodes["a"].state == "ready"
    assert agents.nodes["a"].data == agents.nodes["b"].data


def test_nodes_that_begin_anew_together_are_said_to_have_lost_something(
    agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *words: said.append(text % words))
    for node in agents.nodes.values():
        node.state = "joining"  # a new ring: nothing was there
    agents.rounds(3)
    agents.join("a")
    agents.rounds(3)
    assert said == []  # the others have it
    agents.join("a")
    agents.join("c")
    agents.rounds(3)
    assert said == ["a, c began anew at the same time: what they alone held is lost"]
    assert agents.filler.doing.lost == 1
    assert {node.state for node in agents.nodes.values()} == {"ready"}


def test_an_agent_that_never_began_ends(agents: Agents) -> None:
    """Another one holds its file, for example."""
    agents.filler.stop()


@pytest.mark.parametrize("deed", ["a joins", "c is drained"])
def test_a_node_that_is_back_before_the_end_counts(agents: Agents, deed: str) -> None:
    held = agents.keys("a", "b") if deed == "a joins" else agents.keys("b", "c")
    for key in held:
        agents.put(key, "b")
    agents.lose("b")
    agents.rounds(7)
    agents.scanned = lambda name: agents.away.clear()
    if deed == "a joins":
        agents.join("a")
    else:
        agents.record = agents.record.begin("drain", "c", 1)
        for node in agents.nodes.values():
            node.record = agents.record
    before = agents.record
    while agents.nodes["a"].state == "joining" or (agents.record, deed) == (before, "c is drained"):
        agents.rounds(0.4)
    assert set(held) <= agents.nodes["a"].data.keys()


def test_nobody_is_dead_while_zookeeper_is_away(agents: Agents) -> None:
    """The others may hear of b by now, and reach it."""
    agents.lose("b")
    agents.current = False
    agents.join("a")
    agents.rounds(9)
    assert agents.nodes["a"].state == "joining"
    agents.current = True
    agents.rounds(1)
    assert agents.nodes["a"].state == "ready"


def test_a_node_of_which_nothing_is_known_is_waited_for(agents: Agents) -> None:
    """An agent that has never heard of b, as at the start with a file of its own."""
    for key in agents.keys("a", "b"):
        agents.put(key, "b")
    member = agents.members.pop("b")
    agents.join("a")
    agents.rounds(8)
    assert agents.nodes["a"].state == "joining"
    agents.members["b"] = member
    agents.rounds(1)
    assert agents.nodes["a"].data == agents.nodes["b"].data
    assert agents.nodes["a"].state == "ready"


def test_a_node_that_never_was_there_is_not_waited_for_for_ever(agents: Agents) -> None:
    del agents.members["b"]
    agents.join("a")
    agents.rounds(20)
    assert agents.nodes["a"].state == "ready"


def test_what_a_node_has_that_was_only_cut_off_is_brought(agents: Agents) -> None:
    """a began anew without b, as that was dead to all appearance; b comes back as it was."""
    held = agents.keys("a", "b")
    for key in held:
        agents.put(key, "b")
    agents.lose("b")
    agents.rounds(7)
    agents.join("a")
    agents.rounds(5)
    assert (agents.nodes["a"].state, agents.nodes["a"].data) == ("ready", {})
    agents.away.clear()
    agents.members["b"] = Member("b", "b:1", "life", "ready", 1)
    agents.rounds(1)
    assert set(held) == agents.nodes["a"].data.keys()


@pytest.mark.parametrize("away", [False, True])
def test_who_is_away_while_others_clean_up_begins_anew(agents: Agents, away: bool) -> None:
    """It has what it holds no more, and would bring that along into a later change."""
    agents.record = Record(4, IDS, Change("add", "c", 1, clean=True))
    if away:
        agents.lose("c")
    for _ in range(60):
        for node in agents.nodes.values():
            node.record = agents.record
        agents.rounds(0.4)
    assert agents.record == Record(6 if away else 4, IDS)
