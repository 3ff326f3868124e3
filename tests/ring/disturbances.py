"""What is done to the processes of a ring and to what connects them.

Each method is one, with a node that it may use; `choices` are those that a soak takes from. When it
returns, what was stopped goes on and what was killed has been started again; the nodes need not be
ready.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kazoo.client import KazooClient
from ring.history import Stand
from ring.ring_servers import Server, ZooKeeper, eventually, ring_record
from ring.rings import Agent, KeptRing, TestRing
from ring.wires import Wire
from ring.workers import COLD, HOT, Workers

from mmapcache.ring.sweep import Whose
from mmapcache.ring.view import PROBE

FENCE = 1.0  # seconds
LEAST = 3  # nodes of the ring
TIMEOUT = 0.1  # seconds, of a client
_SURE = 0.02  # seconds in which a signal has come
_SAVES = 2_000  # microseconds a key, so that a dump takes seconds

Disturbance = Callable[[str], object]


@dataclass
class Place:
    """What there is, and what has been done to it.

    :param others: agents of other hosts
    :param kills: node -> when it was killed or began to lose keys, in seconds since 1970
    """

    ring: TestRing
    workers: Workers
    zookeeper: ZooKeeper | None = None
    others: Sequence[Agent] = ()
    kills: dict[str, list[float]] = field(default_factory=dict)
    stands: list[Stand] = field(default_factory=list)

    def server(self, name: str) -> Server:
        return self.ring.servers[name]

    def any_server(self, dice: random.Random) -> str:
        return dice.choice(sorted(self.ring.servers))

    def loses(self, name: str) -> None:
        """From now on it may be without what it held."""
        self.kills.setdefault(name, []).append(time.time())

    def kill(self, name: str) -> None:
        self.loses(name)
        self.server(name).kill()

    def tell(self, name: str, *words: str | int) -> None:
        """A command of the server's own."""
        with contextlib.closing(self.server(name).connect(hello=False)) as connection:
            connection(*words)

    def another(self, name: str, dice: random.Random) -> str:
        return dice.choice([each for each in self.ring.members() if each != name])


class OfProcesses:
    """Nodes, agents and clients are killed and stopped; nodes get old data, or no memory."""

    def __init__(self, place: Place, dice: random.Random) -> None:
        self._place = place
        self._ring = place.ring
        self._dice = dice
        self.choices: Sequence[Disturbance] = (
            self.kill,
            self.kill_while_it_saves,
            self.old_dump,
            self.short_stop,
            self.long_stop,
            self.long_stop_beside_a_stopped_agent,
            self.flush,
            self.full,
            self.evicts,
            self.agent_is_killed,
            self.agent_stands_still,
            self.client_is_killed,
            self.kill_two_in_a_row,
            self.kill_and_stop_another,
            self.kill_and_halt_the_agent,
            self.kill_beside_a_stopped_client,
        )

    def kill(self, name: str) -> None:
        self._place.kill(name)
        time.sleep(self._dice.random())
        self._place.server(name).start()

    def kill_while_it_saves(self, name: str) -> None:
        """The child that writes the dump lives on for some time, with the server's sockets."""
        self._place.tell(name, "CONFIG", "SET", "rdb-key-save-delay", _SAVES)
        self._place.tell(name, "BGSAVE")
        time.sleep(self._dice.random() * 0.2)
        self.kill(name)

    def kill_two_in_a_row(self, name: str) -> None:
        """The second as soon as the first one says that it is ready."""
        second = self._place.another(name, self._dice)
        self._place.kill(name)
        self._place.server(name).start()
        eventually(f"{name} is ready", lambda: not self._joins(name))
        self.kill(second)

    def _joins(self, name: str) -> bool:
        """Whether it runs, and is to be filled before it is ready."""
        return name in self._ring.members() and self._place.server(name).state() != "ready"

    def kill_and_stop_another(self, name: str) -> None:
        """Which has what the first one is filled with."""
        self._place.kill(name)
        self._start_and_stop_another(name)

    def _start_and_stop_another(self, name: str) -> None:
        self._place.server(name).start()
        other = self._place.another(name, self._dice)
        while self._joins(name):
            self.short_stop(other)
            time.sleep(self._dice.random() * 0.5)

    def kill_and_halt_the_agent(self, name: str) -> None:
        """While it fills the node: what it has read may be old when it writes it."""
        self._place.kill(name)
        self._place.server(name).start()
        while self._joins(name):
            with self._ring.agent.stopped():
                time.sleep(self._dice.random() * 0.5)
            time.sleep(self._dice.random() * 0.02)

    def kill_beside_a_stopped_client(self, name: str) -> None:
        """It goes on with what it was doing when the node is ready again."""
        with self._place.workers.stopped(self._place.workers.any(self._dice)):
            self.kill(name)
            self._ring.wait_ready()

    def old_dump(self, name: str) -> None:
        """And another one does not always say that it has what is newer."""
        self._place.tell(name, "SAVE")
        time.sleep(self._dice.random())
        self._place.kill(name)
        self._start_and_stop_another(name)
        (self._place.server(name).folder / "dump.rdb").unlink()

    def short_stop(self, name: str) -> None:
        with self._place.server(name).stopped():
            time.sleep(self._dice.random() * FENCE * 0.6)

    def long_stop(self, name: str) -> None:
        self._stand(name, FENCE * (1.2 + self._dice.random()))

    def long_stop_beside_a_stopped_agent(self, name: str) -> None:
        """Nobody tells the clients that the node is dead: it goes on as they ask it again."""
        with self._ring.agent.stopped():
            self._stand(name, PROBE + TIMEOUT * (1 + self._dice.random()))

    def _stand(self, name: str, seconds: float) -> None:
        """It counts as dead: whatever is written meanwhile is newer than what it had."""
        before = self._ring.record()
        with self._place.server(name).stopped():
            time.sleep(_SURE)
            began = time.monotonic()
            time.sleep(seconds - _SURE)
            ended = time.monotonic()
            alone = self._ring.record() == before and before.change is None
        if alone:
            pair = Whose(before).pair
            keys = frozenset(key for key in (*HOT, *COLD) if name in pair(key.encode()))
            self._place.stands.append(Stand(began, ended, keys))

    def flush(self, name: str) -> None:
        self._place.tell(name, "FLUSHALL")

    def full(self, name: str) -> None:
        """It takes nothing for a while; then it has what it missed."""
        with self._memory(name, "noeviction"):
            time.sleep(self._dice.random() * 2)
        eventually(f"nothing is owed to {name}", lambda: not self._is_owed(name))

    def _is_owed(self, name: str) -> bool:
        """Whether a node has noted what this one is without."""
        said = [self._place.server(each).info() for each in self._ring.members() if each != name]
        return any(not each.get(f"owed_{name}", "keys=0,").startswith("keys=0,") for each in said)

    def evicts(self, name: str) -> None:
        """It throws keys away, and is started anew to have them again."""
        self._place.loses(name)
        with self._memory(name, "allkeys-random"):
            time.sleep(self._dice.random() * 2)
        self.kill(name)

    @contextlib.contextmanager
    def _memory(self, name: str, policy: str) -> Iterator[None]:
        """Too little, and what is done about it."""
        self._place.tell(name, "CONFIG", "SET", "maxmemory-policy", policy)
        self._place.tell(name, "CONFIG", "SET", "maxmemory", 1)
        try:
            yield
        finally:
            self._place.tell(name, "CONFIG", "SET", "maxmemory", 0)

    def agent_is_killed(self, name: str) -> None:
        self._ring.agent.end()
        time.sleep(self._dice.random())
        self._ring.agent.start()

    def agent_stands_still(self, name: str) -> None:
        with self._ring.agent.stopped():
            time.sleep(self._dice.random() * 3)

    def client_is_killed(self, name: str) -> None:
        """In the middle of a write, perhaps: one holder has it, and nobody has noted that."""
        self._place.workers.replace(self._place.workers.any(self._dice))


class OfWires:
    """Wires are cut: for everybody but who is behind it, it is as if it hung, but it goes on."""

    def __init__(self, place: Place, dice: random.Random) -> None:
        self._place = place
        self._dice = dice
        self.choices: Sequence[Disturbance] = (
            self.cut,
            self.cut,
            self.client_is_cut_off,
            self.client_is_cut_off_from_one,
            self.agent_is_cut_off,
            *((self.zookeeper_is_cut_off,) if place.zookeeper else ()),
        )

    def cut(self, name: str) -> None:
        self._cut(self._place.ring.wires[name])

    def client_is_cut_off(self, name: str) -> None:
        self._cut(self._place.workers.any(self._dice).wire)

    def client_is_cut_off_from_one(self, name: str) -> None:
        wire = self._place.workers.any(self._dice).wire
        assert wire is not None
        with wire.cut_from(self._place.ring.wires[name]):
            time.sleep(self._dice.random() * 3)

    def agent_is_cut_off(self, name: str) -> None:
        self._cut(self._place.ring.agent.wire)

    def zookeeper_is_cut_off(self, name: str) -> None:
        assert self._place.zookeeper is not None
        self._cut(self._place.zookeeper.wire)

    def _cut(self, wire: Wire | None) -> None:
        assert wire is not None
        with wire.cut():
            time.sleep(self._dice.random() * 3)


class OfMembers:
    """ZooKeeper fails, and nodes come and go."""

    def __init__(self, place: Place, dice: random.Random, processes: OfProcesses) -> None:
        assert isinstance(place.ring, KeptRing)
        assert place.zookeeper is not None
        self._place = place
        self._kept = place.ring
        self._zookeeper = place.zookeeper
        self._dice = dice
        self._processes = processes
        self.choices: Sequence[Disturbance] = (
            self.zookeeper_stops,
            self.zookeeper_is_killed,
            self.change,
            self.change,
            self.change_and_kill,
            self.change_and_kill_at_a_step,
            self.change_and_give_up,
            self.change_beside_a_host_left_behind,
            *((self.drained_while_it_is_cut_off,) if place.ring.wires else ()),
        )

    def zookeeper_stops(self, name: str) -> None:
        with self._zookeeper.stopped():  # longer than the servers' sessions last
            time.sleep(2 + self._dice.random())

    def zookeeper_is_killed(self, name: str) -> None:
        self._zookeeper.kill()
        time.sleep(self._dice.random() * 3)
        self._zookeeper.start()

    def change(self, name: str) -> tuple[str, str]:
        """A node that is in is drained, and one that is out is added. Three stay: of two, one may
        be killed before the other has everything."""
        inside = self._kept.members()
        if name in inside and len(inside) <= LEAST:
            name = next(each for each in self._kept.servers if each not in inside)
        kind = "drain" if name in inside else "add"
        self._kept.command(kind, name, "--detach")
        return kind, name

    def change_and_give_up(self, name: str) -> None:
        """If it is not too late for that; a node that is added may have died."""
        kind, node = self.change(name)
        time.sleep(self._dice.random() * 1.5)
        dies = kind == "add" and self._dice.random() < 0.5
        if dies:
            self._place.kill(node)
        self._kept.command(kind, node, "--abort", "--detach", check=False)
        if dies:
            self._place.server(node).start()

    def change_and_kill(self, name: str) -> None:
        self.change(name)
        time.sleep(self._dice.random() * 2)
        victim = self._place.any_server(self._dice)
        self._processes.kill(victim)
        if self._dice.random() < 0.5:
            self._processes.agent_is_killed(victim)

    def change_and_kill_at_a_step(self, name: str) -> None:
        """As soon as a step is taken, perhaps before the nodes have heard of it."""
        step = self._dice.choice(("filling", "switched", "cleaning", "complete"))
        before = self._kept.record().epoch
        self.change(name)
        self._until(step, before)
        victim = self._place.any_server(self._dice)
        self._place.kill(victim)
        self._place.server(victim).start()

    def _until(self, step: str, before: int) -> None:
        def is_there() -> bool:
            record = self._kept.record()
            return record.step == step and record.epoch > before

        eventually(f"the change is {step}", is_there)

    def change_beside_a_host_left_behind(self, name: str) -> None:
        """Its clients go on with the old ring: what they write must be refused, or be right."""
        behind = self._dice.choice(self._place.others)
        before = self._kept.record().epoch
        with behind.stopped():
            time.sleep(1.5)  # its session is over: nobody waits for it
            self.change(name)
            self._until("complete", before)
            time.sleep(self._dice.random())

    def drained_while_it_is_cut_off(self, name: str) -> None:
        """Nobody can remove what it holds; then it comes back into the ring."""
        inside = self._kept.members()
        if len(inside) <= LEAST:
            return
        name = name if name in inside else inside[0]
        before = self._kept.record().epoch
        self._kept.command("drain", name, "--detach")
        self._until("switched", before)
        with self._kept.wires[name].cut():
            self._until("complete", before)
        self._kept.wait_ready()
        eventually(f"{name} is a spare", lambda: self._place.server(name).state() == "spare")
        self._kept.command("add", name, "--detach")

    def two_leave_at_once(self, name: str) -> None:
        """What no command does: what only they held is lost. For a deliberate fault."""
        record = self._kept.record()
        stay = record.nodes[2:]
        if len(stay) < 2:
            return
        client = KazooClient(self._zookeeper.address)
        client.start(timeout=30)
        try:
            client.set(f"{self._kept.root}/ring", ring_record(record.epoch + 1, stay).encode())
        finally:
            client.stop()
            client.close()
        eventually("the ring is smaller", lambda: self._kept.members() == stay)
