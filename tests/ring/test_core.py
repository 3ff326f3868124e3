"""The clients' core against nodes in memory: which holder is asked, and what is final."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring.model import Node, Refused, World

from mmapcache.ring import HoldersFull, NoHolderReachable, RingError, Unsupported, _ring
from mmapcache.ring.collecting import Collected
from mmapcache.ring.core import Core
from mmapcache.ring.operations import Operations
from mmapcache.ring.record import new_ring
from mmapcache.ring.together import together
from ring import twin

IDS = ("a", "b", "c")


def client(world: World, **options: Any) -> Operations:
    core = Core(world, deadline=1.0, timeout=0.1, discard=list, now=world.now)
    return Operations(core, decode=options.get("decode", False))


class Bench:
    """A ring of three, a client, and the holders of one key."""

    def __init__(self, ids: tuple[str, ...] = IDS) -> None:
        self.world = World(new_ring(ids))
        self.client = client(self.world)
        self.key = b"key"
        names = self.client.where(self.key)
        self.first: Node = self.world.nodes[names[0]]
        self.second: Node = self.world.nodes[names[-1]]

    def do(self, steps: Any) -> Any:
        return self.world.drive(steps)

    def lose(self, *nodes: Node, how: str = "before") -> None:
        names = [node.id for node in nodes]
        self.world.lost = lambda peer, commands: how if peer in names else ""

    def step_without(self, behind: Node) -> None:
        """A change begins, of which one node hears only while an operation waits."""
        changed = self.world.record.begin("drain", "c", 1)
        old, self.world.record = self.world.record, changed
        self.world.tell()
        for node in self.world.nodes.values():
            node.record = changed
        behind.record = old
        self.world.waited = lambda: setattr(behind, "record", changed)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_write_has_two_copies_of_the_same_bytes(bench: Bench) -> None:
    written = bench.do(bench.client.set(bench.key, "v", 0))
    assert (written.copies, written.degraded, bool(written)) == (2, False, True)
    assert bench.first.data == bench.second.data
    assert bench.do(bench.client.get_with_source(bench.key)) == (b"v", bench.first.id)
    assert [peer for peer, _ in bench.world.asked].count(bench.first.id) == 2


def test_a_miss_is_final_when_the_first_holder_says_so(bench: Bench) -> None:
    bench.second.data[bench.key] = (1, bytes(16), 0, b"older")
    assert bench.do(bench.client.get(bench.key)) is None
    assert len(bench.world.asked) == 1


@pytest.mark.parametrize("why", ["joining", "evicting"])
def test_a_miss_that_is_not_final_asks_the_other(bench: Bench, why: str) -> None:
    bench.do(bench.client.set(bench.key, "v", 0))
    bench.first.data.clear()
    if why == "joining":
        bench.first.state = "joining"
    else:
        bench.first.final = False
    assert bench.do(bench.client.get_with_source(bench.key)) == (b"v", bench.second.id)
    assert bench.do(bench.client.mget([bench.key, "other"])) == [b"v", None]
    bench.second.data.clear()
    bench.second.final = False
    assert bench.do(bench.client.get(bench.key)) is None
    assert bench.client.core.counts.doubtful == 1


def test_no_miss_while_the_other_holder_says_nothing(bench: Bench) -> None:
    """One holder is being filled, and the other one stands still for a moment."""
    bench.do(bench.client.set(bench.key, "7", 0))
    bench.first.data.clear()
    bench.first.state = "joining"

    def stands_still() -> None:
        end = bench.world.clock + 0.4
        still = bench.second.id
        bench.world.lost = lambda peer, commands: (
            "before" if peer == still and bench.world.clock < end else ""
        )

    stands_still()
    assert bench.do(bench.client.get_with_source(bench.key)) == (b"7", bench.second.id)
    stands_still()
    assert bench.do(bench.client.mget([bench.key])) == [b"7"]
    stands_still()
    assert bench.do(bench.client.expire(bench.key, 100)).existed
    bench.first.data.clear()
    stands_still()
    assert bench.do(bench.client.incrby(bench.key, 1)) == 8
    bench.first.data.clear()
    bench.lose(bench.second)
    for steps in (bench.client.get(bench.key), bench.client.incrby(bench.key, 1)):
        began = bench.world.clock
        with pytest.raises(NoHolderReachable, match=r"'key'.*refused"):
            bench.do(steps)
        assert 1.0 <= bench.world.clock - began < 1.5
    assert not bench.first.data
    assert bench.client.core.counts.doubtful == 0


def test_no_miss_while_the_other_holder_is_behind(bench: Bench) -> None:
    bench.do(bench.client.set(bench.key, "v", 0))
    bench.first.data.clear()
    bench.first.state = "joining"
    bench.step_without(bench.second)
    assert bench.do(bench.client.get(bench.key)) == b"v"


@pytest.mark.parametrize("how_long", [0, 30])
def test_no_miss_when_one_is_filled_and_then_the_other_one_lost(
    bench: Bench, how_long: float
) -> None:
    """Between two questions of one read."""
    bench.do(bench.client.set(bench.key, "v", 0))
    has = dict(bench.first.data)
    bench.first.data.clear()
    bench.first.state = "joining"
    happens = iter([True])

    def lost(peer: str, commands: list[list[bytes]]) -> str:
        if peer == bench.second.id and next(happens, False):
            bench.world.clock += how_long
            bench.first.data, bench.first.state = dict(has), "ready"
            bench.second.data.clear()
            bench.second.state = "joining"
        return ""

    bench.world.lost = lost
    assert bench.do(bench.client.get(bench.key)) == b"v"
    bench.first.data.clear()
    bench.first.state = "joining"
    bench.second.data, bench.second.state = dict(has), "ready"
    happens = iter([True])
    assert bench.do(bench.client.expire(bench.key, 100)).existed


def test_keys_that_a_full_server_dropped_are_not_waited_for(bench: Bench) -> None:
    """The first one evicts; the other one is dead."""
    bench.first.final = False
    bench.lose(bench.second)
    began = bench.world.clock
    assert bench.do(bench.client.get(bench.key)) is None
    assert bench.do(bench.client.incrby(bench.key, 2)) == 2
    assert bench.world.clock - began < 0.5
    assert bench.client.core.counts.doubtful == 1


@pytest.mark.parametrize("step", ["filling", "switched"])
def test_a_holder_of_the_other_ring_is_asked_before_a_miss_is_said(step: str) -> None:
    """All of the pair were started anew in the middle of a change; a third one has the value."""
    bench = Bench(("a", "b"))
    world = bench.world
    kind, node = ("drain", "b") if step == "switched" else ("add", "d")
    record = world.record.begin(kind, node, 1)  # type: ignore[arg-type]
    world.nodes["d"] = Node("d", record, "joining")
    world.record = record.advance() if step == "switched" else record
    world.tell()
    for each in world.nodes.values():
        each.record = world.record
    for number in range(20):
        key = f"k{number}"
        assert bench.do(bench.client.set(key, number, 0)).copies >= 2
        pair = bench.client.where(key)
        third = [n for n in world.nodes.values() if n.id not in pair and key.encode() in n.data]
        for name in pair:
            world.nodes[name].data.clear()
            world.nodes[name].state = "joining"
        expected = (b"%d" % number, third[0].id) if third else (None, pair[-1])
        assert bool(third) or step == "filling"
        assert bench.do(bench.client.get_with_source(key)) == expected
        if third:
            assert bench.do(bench.client.incrby(key, 1)) == number + 1


def test_a_lost_holder_costs_one_timeout_then_it_is_skipped(bench: Bench) -> None:
    bench.do(bench.client.set(bench.key, "v", 0))
    bench.lose(bench.first)
    for _ in range(5):
        assert bench.do(bench.client.get(bench.key)) == b"v"
    asked = [peer for peer, command in bench.world.asked if command[0] == b"RING.GET"]
    assert asked.count(bench.first.id) == 1
    bench.world.clock += 2
    bench.world.lost = lambda peer, commands: ""
    assert bench.do(bench.client.get_with_source(bench.key))[1] == bench.first.id


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_degraded_write_is_recorded_beside_the_copy(bench: Bench, how: str) -> None:
    bench.lose(bench.first, how=how)
    for value in (b"1", b"2"):  # the second is not even sent: the breaker is open
        written = bench.do(bench.client.set(bench.key, value, 0))
        assert (written.copies, written.degraded) == (1, True)
        assert bench.second.owed[bench.first.id, bench.key] == bench.second.data[bench.key][1]
    assert bench.client.core.counts.unrecorded == 0
    assert bench.do(bench.client.get(bench.key)) == b"2"


@pytest.mark.parametrize("deed", ["set", "delete", "incr"])
def test_a_write_that_was_held_up_is_taken_by_the_lives_of_now(bench: Bench, deed: str) -> None:
    """The client stands still between two holders. Meanwhile the first one is started anew, and is
    filled from the second, which has not got the write yet."""
    bench.do(bench.client.set(bench.key, 1, 0))
    stands_still = iter([True])

    def lost(peer: str, commands: list[list[bytes]]) -> str:
        if peer == bench.second.id and next(stands_still, False):
            bench.world.clock += 3
            bench.first.data = dict(bench.second.data)
        return ""

    bench.world.lost = lost
    if deed == "set":
        written: Any = bench.do(bench.client.set(bench.key, 2, 0))
    elif deed == "delete":
        written = bench.do(bench.client.delete([bench.key]))
        assert written.existed
    else:
        written = bench.do(bench.client.incrby(bench.key, 1))
    assert (written.copies, written.degraded) == (2, False)
    assert bench.first.data == bench.second.data
    expected = None if deed == "delete" else b"2"
    assert bench.do(bench.client.get(bench.key)) == expected


def test_a_write_that_is_held_up_each_time_says_so(bench: Bench) -> None:
    def lost(peer: str, commands: list[list[bytes]]) -> str:
        bench.world.clock += 0.6
        return ""

    bench.world.lost = lost
    written = bench.do(bench.client.set(bench.key, 2, 0))
    assert (written.copies, written.degraded) == (2, True)
    assert bench.client.core.counts.unrecorded == 1


def test_a_clock_that_lags_costs_a_round_trip(bench: Bench) -> None:
    ahead = (bench.first.now() + 20_000).to_bytes(6, "big") + bytes(10)
    bench.second.data[bench.key] = (1, ahead, 0, b"newer")
    written = bench.do(bench.client.set(bench.key, "v", 0))
    assert (written.copies, written.degraded) == (2, False)
    assert bench.first.data == bench.second.data
    assert bench.second.data[bench.key][1] > ahead
    assert bench.client.core.counts.clock_behind == 1


def test_a_late_version_is_moved_to_the_servers_clock(bench: Bench) -> None:
    now = bench.first.now
    for node in bench.world.nodes.values():
        node.now = lambda: now() + 50_000
    assert bench.do(bench.client.set(bench.key, "v", 0)).copies == 2


def test_an_old_epoch_waits_for_the_newer_ring() -> None:
    bench = Bench()
    world = bench.world
    changed = world.record.begin("add", "d", 1)
    for node in world.nodes.values():
        node.record = changed
    world.nodes["d"] = Node("d", changed, "joining")
    before = world.clock
    real_now = world.now

    def now() -> float:
        if world.record is not changed and world.clock > before + 0.01:
            world.record = changed
            world.tell()
        return real_now()

    core = Core(world, deadline=1.0, timeout=0.1, discard=list, now=now)
    operations = Operations(core, decode=False)
    written = bench.do(operations.set(bench.key, "v", 0))
    assert not written.degraded
    assert operations.epoch == 2
    assert bench.do(operations.get(bench.key)) == b"v"
    holding = [node for node in world.nodes.values() if bench.key in node.data]
    assert len(holding) == written.copies


def test_an_epoch_that_never_comes_is_an_error_that_says_so(bench: Bench) -> None:
    for node in bench.world.nodes.values():
        node.record = bench.world.record.begin("add", "d", 1)
    with pytest.raises(NoHolderReachable, match=r"'key'.*EPOCH 2"):
        bench.do(bench.client.get(bench.key))
    with pytest.raises(NoHolderReachable, match=r"'key'.*EPOCH 2"):
        bench.do(bench.client.set(bench.key, "v", 0))


def test_a_node_that_is_behind_is_as_good_as_away(bench: Bench) -> None:
    changed = bench.world.record.begin("drain", "c", 1)
    bench.world.record = changed
    bench.world.tell()
    for node in bench.world.nodes.values():
        node.record = changed
    bench.first.record = new_ring(IDS)
    began = bench.world.clock
    written = bench.do(bench.client.set(bench.key, "v", 0))
    assert written.degraded
    assert 0.1 <= bench.world.clock - began < 0.3
    assert bench.do(bench.client.get(bench.key)) == b"v"


def test_an_error_closes_the_breaker_too(bench: Bench) -> None:
    """Whoever says that it is behind is there: it is asked again when it has caught up."""
    bench.lose(bench.first)
    assert bench.do(bench.client.set(bench.key, "v", 0)).degraded
    bench.world.lost = lambda peer, commands: ""
    bench.world.clock += 2
    bench.step_without(bench.first)
    assert not bench.do(bench.client.set(bench.key, "v", 0)).degraded


def test_a_full_server_leaves_the_other_copy(bench: Bench) -> None:
    bench.do(bench.client.set(bench.key, "old", 0))
    bench.first.full = True
    written = bench.do(bench.client.set(bench.key, "new", 0))
    assert (written.copies, written.degraded) == (1, True)
    assert bench.do(bench.client.get(bench.key)) == b"new"
    bench.second.full = True
    with pytest.raises(HoldersFull, match="'key'"):
        bench.do(bench.client.set(bench.key, "newer", 0))


DEEDS: dict[str, Any] = {
    "set": lambda client, key: client.set(key, "v", 0),
    "mset": lambda client, key: client.mset({key: "v"}, 0),
    "delete": lambda client, key: client.delete([key]),
    "delete of two": lambda client, key: client.delete([key, key + b"2"]),
    "expire": lambda client, key: client.expire(key, 100),
    "incr": lambda client, key: client.incrby(key, 1),
    "incr of none": lambda client, key: client.incrby(key, 1),
    "pipeline": lambda client, key: Collected(client).set(key, "v").take(),
}


@pytest.mark.parametrize("full", ["first", "second"])
@pytest.mark.parametrize("deed", DEEDS)
def test_what_a_full_holder_refused_is_owed_to_it(bench: Bench, deed: str, full: str) -> None:
    if deed in ("expire", "incr"):
        bench.do(bench.client.set(bench.key, 1, 0))
    full_one, other = bench.first, bench.second
    if full == "second":
        full_one, other = other, full_one
    full_one.full = True
    done = bench.do(DEEDS[deed](bench.client, bench.key))
    written = done[0] if deed == "pipeline" else done
    assert (written.copies, written.degraded) == (1, True)
    assert bench.key not in full_one.data
    assert other.owed[full_one.id, bench.key] == other.data[bench.key][1]
    counts = bench.client.core.counts
    assert counts.degraded >= 1
    assert counts.unrecorded == 0


def test_all_who_are_without_are_noted() -> None:
    """Of three holders one is full, and one is away."""
    bench = Bench(("a", "b"))
    world = bench.world
    world.record = world.record.begin("add", "c", 1)
    world.nodes["c"] = Node("c", world.record, "joining")
    for node in world.nodes.values():
        node.record = world.record
    world.tell()
    view = bench.client.core.view()
    key = next(key for key in (b"k%d" % n for n in range(100)) if len(view.holders(key)) == 3)
    world.nodes["a"].full = True
    bench.lose(world.nodes["c"])
    written = bench.do(bench.client.set(key, "v", 0))
    assert (written.copies, written.degraded) == (1, True)
    version = world.nodes["b"].data[key][1]
    assert world.nodes["b"].owed == {("a", key): version, ("c", key): version}


def test_a_note_is_not_left_to_the_one_that_leaves() -> None:
    """b is drained, and cleaning begins while it is noted that a is full: c has heard of it."""
    bench = Bench()
    world = bench.world
    world.record = world.record.begin("drain", "b", 1).advance()
    world.tell()
    a, b, c = (world.nodes[name] for name in IDS)
    a.record = b.record = c.record = world.record
    view = bench.client.core.view()
    key = next(key for key in (b"k%d" % n for n in range(100)) if len(view.holders(key)) == 3)
    a.full = True
    following = world.record.advance()

    def lost(peer: str, commands: list[list[bytes]]) -> str:
        if commands[0][0] == b"RING.OWE":
            c.record = following
        return ""

    def publish() -> None:
        world.record = following
        world.tell()

    world.lost, world.waited = lost, publish
    assert bench.do(bench.client.set(key, "v", 0)).copies == 2
    assert c.owed == {("a", key): c.data[key][1]}
    assert bench.client.core.counts.unrecorded == 0


def test_nobody_there(bench: Bench) -> None:
    bench.lose(*bench.world.nodes.values())
    for steps in (bench.client.get("key"), bench.client.set("key", "v", 0)):
        began = bench.world.clock
        with pytest.raises(NoHolderReachable, match=r"'key'.*1 s.*refused"):
            bench.do(steps)
        assert 1.0 <= bench.world.clock - began < 1.5


def test_a_fence_is_not_served_through(bench: Bench) -> None:
    bench.do(bench.client.set(bench.key, "v", 0))
    bench.first.state = "starting"
    assert bench.do(bench.client.get_with_source(bench.key)) == (b"v", bench.second.id)
    assert bench.do(bench.client.set(bench.key, "w", 0)).degraded


def test_delete_and_expire_say_whether_there_was_a_value(bench: Bench) -> None:
    assert not bench.do(bench.client.delete(["key"])).existed
    bench.do(bench.client.set("key", "v", 0))
    assert bench.do(bench.client.ttl("key")) == -1
    changed = bench.do(bench.client.expire("key", 100))
    assert (changed.copies, changed.existed) == (2, True)
    assert bench.first.data == bench.second.data
    assert bench.do(bench.client.ttl("key")) == 100
    assert bench.do(bench.client.exists(["key", "other"])) == 1
    assert bench.do(bench.client.delete(["key"])).existed
    assert bench.do(bench.client.get("key")) is None
    assert bench.do(bench.client.ttl("key")) == -2
    changed = bench.do(bench.client.expire("key", 100))
    assert (bool(changed), changed.existed) == (False, False)


def test_a_counter_is_copied_with_its_version(bench: Bench) -> None:
    for expected in (1, 2, 3):
        number = bench.do(bench.client.incrby("key", 1))
        assert (number, number.copies, number.degraded) == (expected, 2, False)
        assert bench.first.data == bench.second.data
    bench.lose(bench.first)
    number = bench.do(bench.client.incrby("key", 10))
    assert (number, number.copies, number.degraded) == (13, 1, True)
    assert (bench.first.id, b"key") in bench.second.owed
    bench.do(bench.client.set("word", "x", 0))


def test_a_counter_that_was_held_up_for_long_is_not_copied(bench: Bench) -> None:
    """It may have been deleted meanwhile, and that be forgotten: the agent brings what is there."""

    def hold_up(peer: str, commands: list[list[bytes]]) -> str:
        bench.world.clock += 4000 if commands[0][0] == b"RING.INCR" else 0
        return ""

    bench.world.lost = hold_up
    number = bench.do(bench.client.incrby("key", 1))
    assert (number, number.copies, number.degraded) == (1, 1, True)
    assert not bench.second.data
    assert (bench.second.id, b"key") in bench.first.owed


def test_a_counter_begins_though_nobody_is_sure(bench: Bench) -> None:
    for node in bench.world.nodes.values():
        node.final = False
    assert bench.do(bench.client.incrby("key", 5)) == 5
    assert bench.do(bench.client.incrby("key", -2)) == 3


def test_a_pipeline_travels_together(bench: Bench) -> None:
    batch = Collected(bench.client)
    for index in range(100):
        batch.set(f"k{index}", index)
    batch.incr("n", 7)
    with pytest.raises(Unsupported, match="'n'"):
        batch.get("n")
    with pytest.raises(TypeError, match="bool"):
        batch.set("never", True)
    *written, number = bench.do(batch.take())
    assert all(w.copies == 2 for w in written)
    assert number == 7
    keys = [f"k{index}" for index in range(100)]
    values = bench.do(together([bench.client.get(key) for key in keys]))
    assert values == bench.do(bench.client.mget(keys)) == [b"%d" % i for i in range(100)]


def test_a_pipelines_failure_is_raised_after_the_others_have_ended(bench: Bench) -> None:
    bench.do(bench.client.set("word", "x", 0))
    good = [f"k{i}" for i in range(20)]
    bench.do(bench.client.mset(dict.fromkeys(good, "v"), 0))
    bench.world.nodes[bench.client.where("gone")[0]].full = True
    bench.world.nodes[bench.client.where("gone")[1]].full = True
    steps = [bench.client.set("gone", "v", 0), *[bench.client.delete([key]) for key in good]]
    with pytest.raises(HoldersFull, match="'gone'"):
        bench.do(together(steps))
    assert bench.do(bench.client.mget(good)) == [None] * 20


def test_a_ring_of_one_is_degraded_and_works() -> None:
    bench = Bench(("a",))
    assert bench.do(bench.client.set("k", "v", 0)).degraded
    assert bench.do(bench.client.get("k")) == b"v"


def test_values_are_text_on_request() -> None:
    world = World(new_ring(IDS))
    operations = client(world, decode=True)
    world.drive(operations.set("k", "ä", 0))
    assert world.drive(operations.get("k")) == "ä"
    assert world.drive(operations.mget(["k", "l"])) == ["ä", None]


def test_a_clock_far_ahead_is_the_callers(bench: Bench) -> None:
    def refuse(*words: bytes) -> None:
        raise Refused("CLOCK 5")

    bench.first._set = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(RingError, match=r"'key' was not written"):
        bench.do(bench.client.set("key", "v", 0))


class Lagging:
    """What one client sees of the ring: it learns of a step some time after the servers."""

    path = "in memory"

    def __init__(self, world: World) -> None:
        self._world = world
        self.generation = 1
        self.record = world.record

    def learn(self) -> None:
        if self.record != self._world.record:
            self.generation += 1
            self.record = self._world.record

    def read(self) -> Any:
        return self.generation, self.record, self._world.told


def fill(world: World) -> None:
    """What the agents do before they take the next step of a change."""
    for source in world.nodes.values():
        for key, entry in list(source.data.items()):
            other = world.record.other or world.record.nodes
            holders = twin.holders(world.record.nodes, other, key)
            encoded = _ring.encode(entry[0], entry[1], entry[2], entry[3])
            for node in holders:
                world.nodes[node]._fill(key, encoded)
            if source.id not in holders:
                del source.data[key]


deeds = st.sampled_from(["write", "write", "read", "read", "node", "node", "client", "step"])


@pytest.mark.parametrize("kind", ["add", "drain"])
@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(st.tuples(deeds, st.integers(0, 9)), min_size=30, max_size=120),
)
def test_a_change_loses_nothing(kind: Any, script: list[tuple[str, int]]) -> None:
    """Servers and clients learn of each step in any order; a step is taken when all servers are at
    the one before. Every read gives the newest value that was written."""
    world = World(new_ring(("a", "b", "c")))
    world.nodes["d"] = Node("d", world.record, "spare")
    sources = [Lagging(world), Lagging(world)]
    clients = [
        Operations(Core(s, deadline=1.0, timeout=0.1, discard=list, now=world.now), decode=False)
        for s in sources
    ]
    newest: dict[str, bytes] = {}
    changes = [(kind, "d" if kind == "add" else "b")]

    def move(number: int) -> None:
        node = sorted(world.nodes.values(), key=lambda each: each.id)[number % 4]
        node.record = world.record
        serves = node.id in world.record.everybody
        if serves and node.state == "spare":
            node.state = "joining"
        elif not serves:
            node.state = "spare"
            node.data.clear()

    def waited() -> None:
        """Nobody waits for ever: servers and clients hear of the step."""
        for number in range(4):
            move(number)
        for source in sources:
            source.learn()

    world.waited = waited
    for deed, number in script:
        key = f"k{number % 3}"
        client = clients[number % 2]
        world.clock += 2  # no breaker is open any more
        if deed == "write":
            newest[key] = b"%d" % len(world.asked)
            written = world.drive(client.set(key, newest[key], 0))
            assert not written.degraded
        elif deed == "read":
            assert world.drive(client.get(key)) == newest.get(key)
        elif deed == "node":
            move(number)
        elif deed == "client":
            sources[number % 2].learn()
        elif all(world.nodes[n].record == world.record for n in world.record.everybody):
            if world.record.change is not None:
                fill(world)
                for node in world.nodes.values():
                    node.state = "ready" if node.state == "joining" else node.state
                world.record = world.record.advance()
            elif changes:
                change, node_id = changes.pop()
                world.record = world.record.begin(change, node_id, 1)


# Whatever is lost, a value that was acknowledged with two copies is read from each of them, and one
# that was acknowledged with one is recorded beside it.
fates = st.lists(st.sampled_from(["", "", "before", "after"]), min_size=200, max_size=200)
moves = st.lists(
    st.tuples(st.sampled_from(["set", "delete", "incr"]), st.sampled_from(["k", "l", "m"])),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(fates=fates, moves=moves)
def test_what_is_lost_is_recorded(fates: list[str], moves: list[tuple[str, str]]) -> None:
    world = World(new_ring(IDS))
    operations = client(world)
    script = iter(fates)

    def lost(peer: str, commands: list[list[bytes]]) -> str:
        return "" if commands[0][0] == b"RING.OWE" else next(script, "")

    world.lost = lost
    for move, key in moves:
        try:
            if move == "set":
                done = world.drive(operations.set(key, len(world.asked), 0))
            elif move == "delete":
                done = world.drive(operations.delete([key]))
            else:
                done = world.drive(operations.incrby(key, 1))
        except NoHolderReachable:
            continue
        where = operations.where(key)
        versions = {node: world.nodes[node].data.get(key.encode()) for node in where}
        latest = max((entry[1] for entry in versions.values() if entry), default=b"")
        having = [node for node, entry in versions.items() if entry and entry[1] == latest]
        assert done.copies <= len(having)
        for node in set(where) - set(having):
            assert any(world.nodes[other].owed.get((node, key.encode())) for other in having)
        world.clock += 0.3
