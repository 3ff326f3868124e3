"""The acts of the ring's demo, one after the other; each adds its figures to the page.

calm           load, and no fault
kill           SIGKILL to a node, which stays away
hang           SIGSTOP to a node, and SIGCONT when others have gone on
empty          SIGKILL to a node, which comes back without data
old_dump       SIGKILL to a node, which comes back with a dump that is older than what was written
zookeeper      SIGKILL to ZooKeeper and to a node; both come back
add            a sixth node, under load
drain          one node less, under load

A node is a server of the ring and a plain one beside it, which have everything done to them at
once.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from redis.exceptions import RedisError

from demo.page import count
from demo.processes import WORKERS, DemoError, Probes, directory, wait_until
from demo.ring.installed import KINDS, any_server, module_path, zookeeper_missing
from demo.ring.judge import COPIES
from demo.ring.load import KEYS
from demo.ring.world import FENCE, IDS, SPARE, World
from demo.story import Story, arguments, tell
from mmapcache.ring import RingError

Counts = dict[str, dict[str, Any]]  # by store

_ANEW_SECONDS: Final = 10.0  # until a node that goes on knows that it stood still, at most
_KEPT: Final = ("zookeeper", "add", "drain")  # the acts that need ZooKeeper
_ACTS: Final = ("calm", "kill", "hang", "empty", "old_dump", *_KEPT)
_LEGEND: Final = """\
Clients read a value, or write one every fourth time, and know what their keys must show.
reads    p99 and slowest: how long the store took for one, whichever worker was asked
lost     reads that found no value, though all copies of one had been acknowledged
wrong    reads that found an older value than the last one with all copies
writes   1 copy: those of them that only one of the two holders has acknowledged
failed   reads and writes that got an error
at rest  in the end each of the {keys} keys is read once more: how many do not show the value
         that was acknowledged last""".splitlines()
_STORES: Final = {
    "ring": "mmapcache.ring: two copies",
    "naive": "two copies by consistent hashing; the second is read when the first gives an error",
    "nutcracker": "a proxy before the servers of naive; one copy",
}


class Pace(NamedTuple):
    """Seconds before a fault, of it and after it; and how many HTTP clients each store has."""

    before: float
    fault: float
    after: float
    clients: int


_FULL: Final = Pace(before=1.0, fault=2.0, after=1.0, clients=6)
_QUICK: Final = Pace(before=0.3, fault=1.5, after=0.3, clients=3)


class Demo(Story):
    """One run: its world and its page."""

    def __init__(self, world: World, pace: Pace) -> None:
        super().__init__("mmapcache.ring, servers killed and stopped under load: measured live")
        self.world = world
        self.pace = pace
        self.results: list[tuple[str, Counts]] = []

    # ---- acts ----

    def start(self, notes: Sequence[str]) -> None:
        """Everything up."""
        world, page = self.world, self.page
        world.start()
        self.say(f"{len(IDS)} nodes are ready, and the agent has published the ring")
        world.start_workers()
        self.say(f"{WORKERS} forked Tornado workers answer on http://127.0.0.1:{world.port}")
        page.line(
            f"{len(IDS)} nodes, each a {world.server_name()} with the module and one without it, "
            "killed together;"
        )
        clients = self.pace.clients
        page.line(f"{WORKERS} forked Tornado workers, and {clients} HTTP clients of each store")
        sessions = 0 if world.keeper is None else world.keeper.sessions()
        if sessions:
            page.line(f"ZooKeeper has {sessions} sessions, of {len(IDS)} servers and the agent")
        for note in notes:
            page.line(note)
        page.lines.append("")
        for line in _LEGEND:
            page.line(line.format(keys=self.pace.clients * KEYS))
        page.lines.append("")
        for store in world.stores:
            page.line(f"{store:10}  {_STORES[store]}")
        if sessions:
            page.promise(
                f"no worker has a session with ZooKeeper: all {WORKERS} read the agent's file",
                sessions <= len(IDS) + 1,
            )

    def calm(self) -> None:
        """Nothing happens."""

        def fault() -> list[str]:
            time.sleep(self.pace.fault)
            return []

        self.act("no fault", "Nothing happens", fault)

    def kill(self) -> None:
        """A node is killed and stays away."""
        world, victim = self.world, "a"

        def fault() -> list[str]:
            key = self.probe(victim)
            killed = time.monotonic()
            world.kill(victim)
            took = self.time_read(key)
            wait_until("until the agent knows", lambda: world.states()[victim] == "gone")
            known = time.monotonic() - killed
            time.sleep(self.pace.fault)
            return [
                f"the next read of a key of it took {took:.1f} ms; the agent knew of the kill "
                f"{known:.1f} s after it",
            ]

        self.act("kill -9", f"Node {victim} killed with SIGKILL; it stays away", fault, victim)
        self.say(f"node {victim} comes back")
        world.start_nodes(victim)
        world.settle()

    def hang(self) -> None:
        """A node stands still for longer than its fence, and goes on."""
        world, victim = self.world, "b"
        lives: list[str] = []

        def fault() -> list[str]:
            key = self.probe(victim)
            lives.append(world.lives()[victim])
            with world.stopped(victim):
                began = time.monotonic()
                first, second = self.time_read(key), self.time_read(key)
                time.sleep(self.pace.fault)
                stood = time.monotonic() - began
            lives.append(self.next_life(victim, lives[0]))
            ready = world.settle()
            return [
                f"it stood still for {stood:.1f} s: the next read of a key of it took "
                f"{first:.0f} ms, the one after it {second:.1f} ms",
                f"it was ready again {ready:.1f} s after SIGCONT, with what the others had",
            ]

        self.act("hang", f"Node {victim} stopped with SIGSTOP, then SIGCONT", fault, victim)
        self.page.promise(
            f"after more than {FENCE:g} s it began anew: nothing that had waited in its sockets "
            "was executed",
            lives[0] != lives[1],
        )

    def empty(self) -> None:
        """A node is killed and comes back without data."""
        world, victim = self.world, "c"

        def fault() -> list[str]:
            world.kill(victim)
            return [self.returned(victim)]

        self.act(
            "empty restart", f"Node {victim} killed; it comes back without data", fault, victim
        )

    def old_dump(self) -> None:
        """A node is killed and comes back with what it had some time ago."""
        world, victim = self.world, "d"

        def fault() -> list[str]:
            world.save(victim)
            saved = time.monotonic()
            time.sleep(self.pace.fault)
            world.kill(victim)
            age = time.monotonic() - saved
            facts = [f"the dump was {age:.1f} s old", self.returned(victim)]
            world.forget(victim)
            return facts

        self.act("old dump", f"Node {victim} killed; it comes back with an old dump", fault, victim)

    def zookeeper(self) -> None:
        """ZooKeeper is killed, a node too, and both come back."""
        world, victim = self.world, "e"
        keeper = world.keeper
        assert keeper is not None

        def fault() -> list[str]:
            keeper.kill()
            began = time.monotonic()
            time.sleep(self.pace.fault / 2)
            world.kill(victim)
            time.sleep(self.pace.fault)
            with Probes(world.port) as probes:
                ages = [float(answer["age"]) for answer in probes.all("/healthz")]
            keeper.start()
            away = time.monotonic() - began
            world.start_nodes(victim)
            ready = world.settle()
            return [
                f"ZooKeeper was away for {away:.1f} s, node {victim} was killed meanwhile; the "
                f"{WORKERS} workers saw",
                f"that what they knew of the ring was up to {max(ages):.1f} s old; all was ready "
                f"{ready:.1f} s after both were back",
            ]

        title = f"ZooKeeper killed, then node {victim}; both come back"
        self.act("ZooKeeper killed", title, fault, victim, stores=["ring"])

    def add(self) -> None:
        """A sixth node."""
        world = self.world

        def fault() -> list[str]:
            world.make(SPARE)
            world.start_nodes(SPARE)
            world.list_naive((*IDS, SPARE))
            said = world.command("add", SPARE)
            held = world.keys()
            total = sum(held.values())
            return [
                f"complete after {said['seconds']:.1f} s; it holds {count(held[SPARE])} of "
                f"{count(total)} copies, {held[SPARE] / total:.1%}",
            ]

        title = f"`mmapcache ring add {SPARE}`: a sixth node"
        self.act("add a node", title, fault, stores=["ring", "naive"])

    def drain(self) -> None:
        """One node less, which is killed when the command says that it may be."""
        world, victim = self.world, "b"

        def fault() -> list[str]:
            left = [name for name in world.nodes if name != victim]
            world.list_naive(left)
            said = world.command("drain", victim)
            world.kill(victim)
            return [f"complete after {said['seconds']:.1f} s; then its servers were killed"]

        title = f"`mmapcache ring drain {victim}`: five again"
        self.act("drain a node", title, fault, victim, stores=["ring", "naive"])

    def sum_up(self) -> None:
        """All acts in one table."""
        stores = self.world.stores
        self.page.title("All acts: requests that were lost, wrong or failed, of all")
        rows: list[tuple[str, ...]] = [("", *stores)]
        for name, counts in self.results:
            rows.append((name, *(_bad(counts.get(store)) for store in stores)))
        self.page.table(rows)

    # ---- what acts have in common ----

    def act(
        self,
        name: str,
        title: str,
        fault: Callable[[], list[str]],
        victim: str = "",
        *,
        stores: Sequence[str] = (),
    ) -> None:
        """Load, with a fault in it; `fault` returns what is to be said of it.

        :param victim: the node that may begin anew
        """
        world, pace, page = self.world, self.pace, self.page
        self.say(title)
        before = world.lives()
        with world.load(name.replace(" ", "-"), stores or world.stores, pace.clients) as load:
            time.sleep(pace.before)
            facts = fault()
            time.sleep(pace.after)
            world.settle()
            counts = load.rest()
        after = world.lives()
        anew = [
            node
            for node, life in after.items()
            if node != victim and before.get(node, life) != life
        ]
        page.title(title)
        for fact in facts:
            page.line(fact)
        if anew:
            page.line(f"{', '.join(anew)}: began anew, too: the machine was too busy")
        page.table(_table(counts))
        ours = counts["ring"]
        page.promise(
            "ring: no value was lost, none was wrong",
            not ours["lost"] + ours["wrong"] + ours["rest_bad"],
        )
        page.promise("ring: no read and no write failed", not ours["failed"])
        if ours["error"]:
            page.line(f"        {ours['error']}")
        self.results.append((name, counts))

    def next_life(self, victim: str, before: str) -> str:
        """The run_id, as soon as it is another one."""
        end = time.monotonic() + _ANEW_SECONDS
        while (life := self.world.lives()[victim]) == before and time.monotonic() < end:
            time.sleep(0.02)
        return life

    def probe(self, victim: str) -> str:
        """A key whose first holder is `victim`, written and read by this process."""
        ring = self.world.ring
        key = next(
            key for key in (f"probe:{n}" for n in range(10_000)) if ring.where(key)[0] == victim
        )
        ring.set(key, "here")
        ring.get(key)
        return key

    def time_read(self, key: str) -> float:
        """Milliseconds of one read in this process.

        :raises DemoError: it has not found the value
        """
        began = time.perf_counter()
        value = self.world.ring.get(key)
        took = (time.perf_counter() - began) * 1e3
        if value != b"here":
            raise DemoError(f"the ring has lost {key}: {value!r}")
        return took

    def returned(self, victim: str) -> str:
        """Starts it; what is to be said of that."""
        self.world.start_nodes(victim)
        ready = self.world.settle()
        keys = self.world.keys()[victim]
        return f"ready {ready:.1f} s after its start, with {count(keys)} keys from the other nodes"


def _table(counts: Counts) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            *("", "reads", "lost", "wrong", "p99", "slowest"),
            *("writes", "1 copy", "failed", "at rest"),
        )
    ]
    for store, its in counts.items():
        reads, lost, wrong, writes, partly, failed, rest = (
            count(int(its[name]))
            for name in ("reads", "lost", "wrong", "writes", "partly", "failed", "rest_bad")
        )
        p99, slowest = f"{its['p99']:.0f} ms", f"{its['worst']:.0f} ms"
        if COPIES[store] == 1:
            partly = "-"
        rows.append((store, reads, lost, wrong, p99, slowest, writes, partly, failed, rest))
    return rows


def _bad(its: dict[str, Any] | None) -> str:
    if its is None:
        return "-"
    bad = its["lost"] + its["wrong"] + its["failed"]
    return f"{count(int(bad))} of {count(int(its['reads'] + its['writes']))}"


# ---- what the machine has ----


def _servers(kind: str | None) -> tuple[str, str]:
    """Paths of the server and of the module.

    :raises DemoError: something is not installed; what to install
    """
    binary, no_binary = any_server(KINDS if kind is None else (kind,))
    try:
        module, no_module = module_path()
    except (subprocess.SubprocessError, OSError) as error:
        module, no_module = "", f"the module cannot be built: {error}"
    if lacking := [why for why in (no_binary, no_module) if why]:
        raise DemoError("\n  ".join(["something is missing", *lacking]))
    return binary, module


@contextlib.contextmanager
def _world(args: argparse.Namespace, *, kept: bool, nutcracker: str) -> Iterator[World]:
    binary, module = _servers(args.kind)
    world = World(directory(), binary, module, kept=kept, nutcracker=nutcracker)
    try:
        yield world
    finally:
        world.close()


def _tell(args: argparse.Namespace) -> int:
    """The acts in order; the exit status."""
    notes = []
    why = "--fixed was given" if args.fixed else zookeeper_missing()
    if why:
        notes.append(f"a fixed ring, without the acts of ZooKeeper, add and drain: {why}")
    nutcracker = shutil.which("nutcracker") or ""
    if not nutcracker:
        notes.append("without nutcracker, which is not installed: apt install nutcracker")
    pace = _QUICK if args.quick else _FULL
    with _world(args, kept=not why, nutcracker=nutcracker) as world:
        demo = Demo(world, pace)
        demo.start(notes)
        for name in args.act or _ACTS:
            if not why or name not in _KEPT:
                getattr(demo, name)()
        demo.sum_up()
        return demo.close(args.readme)


def _story(args: argparse.Namespace) -> int:
    """:raises DemoError: the ring or a server has failed this process"""
    try:
        return _tell(args)
    except (RingError, RedisError) as error:
        raise DemoError(f"{type(error).__name__}: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo: 0 when every promise was kept, 1 when one was broken or nothing could run."""
    parser = arguments("python -m demo.ring")
    parser.add_argument("--fixed", action="store_true", help="without ZooKeeper")
    parser.add_argument("--kind", choices=KINDS, help="of the servers (default: what is there)")
    parser.add_argument("--act", action="append", choices=_ACTS, help="only this one, or these")
    args = parser.parse_args(argv)
    return tell(lambda: _story(args))


if __name__ == "__main__":
    sys.exit(main())
