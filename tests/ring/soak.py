"""Workers that read and write a ring while its nodes are killed, stopped and restarted; then the
history is judged.

    PYTHONPATH=tests python -m ring.soak --seconds 60 --kind redis --seed 1 --zookeeper --cuts

The next disturbance comes when all nodes are ready again (disturbances.py). At the end both copies
of every key must be the same, and no node may have a key that is not its own. Prints what was done;
the exit status is 1 when something was wrong. What was read until then is judged, too, when it
cannot go on: a machine may be too busy to start a server.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ring.disturbances import FENCE, Disturbance, OfMembers, OfProcesses, OfWires, Place
from ring.ring_servers import Refused, ZooKeeper, clock_library, eventually
from ring.rings import Agent, KeptRing, TestRing
from ring.wires import Hub
from ring.workers import Workers

from mmapcache.ring.sweep import Whose
from ring import faulty, history, losses, wires

IDS = ("a", "b", "c", "d", "e")
SPARE = "spare"
WORKERS = 4
AHEAD = 30  # seconds that one node's clock is ahead


class RestError(AssertionError):
    """The copies of a key still differ, or a node has one of another's."""


@contextlib.contextmanager
def _ring(
    kind: str, folder: Path, seed: int, *, keep: bool, cuts: bool, clocks: bool, fault: str
) -> Iterator[Place]:
    """A ring and its workers, all running."""
    with contextlib.ExitStack() as stack:
        hub = Hub() if cuts else None
        if hub is not None:
            stack.callback(hub.remove)
        lines = {name: hub.wire() for name in (*IDS, SPARE)} if hub is not None else {}
        options: dict[str, Any] = {"fence": round(FENCE * 1000), "wires": lines}
        ring: TestRing
        zookeeper = None
        others: list[Agent] = []
        if keep:
            zookeeper = ZooKeeper(folder / "zookeeper", hub.wire() if hub is not None else None)
            stack.callback(zookeeper.kill)
            zookeeper.start()
            ring = KeptRing(kind, folder, IDS, zookeeper.address, **options)
            others.append(ring.another_agent("other"))
        else:
            ring = TestRing(kind, folder, IDS, **options)
        for agent in (ring.agent, *others):
            if fault:
                agent.command = (sys.executable, "-m", "ring.faulty_agent", fault)
        if hub is not None:
            ring.agent.wire = hub.wire()
        if clocks:
            ring.servers[IDS[0]].ahead = AHEAD
        stack.callback(ring.stop)
        ring.start()
        if isinstance(ring, KeptRing):
            ring.add_server(SPARE)
        for other in others:
            stack.callback(other.end)
            eventually("the other host knows the ring", other.start().has_published)
        workers = Workers(
            WORKERS,
            [ring.path, *(other.path for other in others)],
            folder,
            seed,
            wires=[hub.wire() for _ in range(WORKERS)] if hub is not None else (),
            prepare=lambda: faulty.begin(fault, "client"),
        )
        stack.callback(workers.kill)
        workers.start()
        yield Place(ring, workers, zookeeper, others)


@dataclass
class Done:
    """What was done to a ring.

    :param times: how often each disturbance came
    :param story: each of them, in words
    :param whole: when all nodes were ready, in seconds since 1970
    """

    times: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def soak(
    kind: str,
    folder: Path,
    seconds: float,
    seed: int,
    *,
    keep: bool,
    cuts: bool = False,
    clocks: bool = False,
    fault: str = "",
    only: str = "",
) -> int:
    """How many things were wrong.

    :param keep: with ZooKeeper, and changes of the members
    :param cuts: with processes in network namespaces, whose wires are cut
    :param clocks: with one node whose clock is ahead
    :param fault: a deliberate one, see faulty.py
    :param only: the one disturbance; empty: all of them
    :raises AssertionError: something was wrong for long
    """
    done = Done()
    ended: AssertionError | None = None
    with _ring(kind, folder, seed, keep=keep, cuts=cuts, clocks=clocks, fault=fault) as place:
        try:
            _disturb(place, random.Random(seed), seconds, only, done)
            place.workers.end()
            _rest(place.ring, 20 if fault else 60)
        except AssertionError as error:
            ended = error
            with contextlib.suppress(AssertionError):
                place.workers.end()
    lost = _lost(place, done.whole)
    events = list(history.load(place.workers.logs))
    wrong = history.wrongs(events, lost, place.stands)
    counts = Counter(event.what for event in events)
    degraded = sum(event.degraded for event in events)
    print(
        f"seed {seed}, {kind}: {dict(counts)}, {degraded} degraded; disturbances {dict(done.times)}"
    )
    print(f"{len(lost)} moments at which two nodes had lost what they held; {len(wrong)} wrong")
    for text in wrong[:20]:
        print(text)
    if wrong and not fault:
        print(*done.story, f"lost: {lost}", _logs(place.ring), sep="\n")
    if ended is not None:
        raise ended
    return len(wrong)


def _disturb(place: Place, dice: random.Random, seconds: float, only: str, done: Done) -> None:
    """One disturbance after the other, each when all nodes are ready again."""
    choices = _choices(place, dice, only)
    turn: list[Disturbance] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        turn = turn or dice.sample(choices, len(choices))  # each comes, in any order
        disturb, name = turn.pop(), place.any_server(dice)
        done.times[disturb.__name__] += 1
        began = time.monotonic()
        disturb(name)
        done.story.append(f"{began:.3f} to {time.monotonic():.3f}: {disturb.__name__} {name}")
        place.ring.wait_ready()
        done.whole.append(time.time())
        time.sleep(dice.random() * (0.5 if only else 2))
        place.ring.wait_ready()  # a busy machine may have stopped one by itself


def _choices(place: Place, dice: random.Random, only: str) -> Sequence[Disturbance]:
    """What can be done here; or the one that is asked for."""
    processes = OfProcesses(place, dice)
    every: list[OfProcesses | OfMembers | OfWires] = [processes]
    if place.zookeeper is not None:
        every.append(OfMembers(place, dice, processes))
    if place.ring.wires:
        every.append(OfWires(place, dice))
    if only:
        return [getattr(each, only) for each in every if hasattr(each, only)]
    return [choice for each in every for choice in each.choices]


def _lost(place: Place, whole: Sequence[float]) -> list[float]:
    """The moments, by the clock of the history, at which two nodes had lost what they held."""
    since_1970 = time.time() - time.monotonic()
    without = {
        name: losses.spans(server.log.read_text(), place.kills.get(name, ()), whole, server.ahead)
        for name, server in place.ring.servers.items()
    }
    return [moment - since_1970 for moment in losses.both(without)]


def _logs(ring: TestRing) -> str:
    """What the agent and the module have logged."""
    lines = [ring.agent.log.read_text()]
    for name, server in ring.servers.items():
        texts = server.log.read_text().splitlines()
        lines += [f"{name}: {text}" for text in texts if "<ring>" in text]
    return "\n".join(lines)


def _rest(ring: TestRing, patience: float) -> None:
    """
    :raises RestError: a ring that nobody writes to does not become what it should be
    """
    try:
        eventually("copies are alike", lambda: _is_at_rest(ring), patience=patience)
    except AssertionError as error:
        raise RestError(*error.args) from None


def _is_at_rest(ring: TestRing) -> bool:
    """Whether both copies of every key are the same, and no member has one of another's; not while
    a node begins anew."""
    found: dict[bytes, list[bytes]] = {}
    whose = Whose(ring.record())
    for name in ring.members():
        try:
            with contextlib.closing(ring.servers[name].connect()) as connection:
                keys = connection("KEYS", "*")
                entries = connection("RING.DUMP", *keys) if keys else []
        except (OSError, Refused):
            return False
        if any(name not in whose.holders(key) for key in keys):
            return False
        for key, entry in zip(keys, entries, strict=True):
            if entry is not None:
                found.setdefault(key, []).append(entry)
    return all(len(copies) == 2 and len(set(copies)) == 1 for copies in found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kind", choices=("redis", "valkey"), default="redis")
    parser.add_argument("--zookeeper", action="store_true", help="and changes of the members")
    parser.add_argument("--cuts", action="store_true", help="and wires that are cut: needs root")
    parser.add_argument(
        "--clocks", action="store_true", help="and one that is 30 s ahead: valkey only"
    )
    parser.add_argument("--only", default="", metavar="NAME", help="of disturbances.py")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    cuts = args.cuts
    if cuts and (why := wires.missing()):
        print(f"no wires are cut: {why}")
        cuts = False
    clocks = args.clocks
    if clocks and (args.kind != "valkey" or not clock_library()):
        print("no clock is ahead: that needs --kind valkey, and apt install faketime")
        clocks = False
    with tempfile.TemporaryDirectory(prefix="soak-ring-") as folder:
        wrong = soak(
            args.kind,
            Path(folder),
            args.seconds,
            args.seed,
            keep=args.zookeeper,
            cuts=cuts,
            clocks=clocks,
            only=args.only,
        )
        return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
