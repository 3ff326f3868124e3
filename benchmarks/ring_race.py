"""Clients side by side: the same operations by turns, and what each costs client and servers.

A client that waits for its server is as fast as both together, and on a machine that has other work
to do its rate says more about that than about it. So beside the rate there is the processor time of
the client's thread and of its servers; with MMAPCACHE_BENCH_CLOCK=cpu the rate is that of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import Row, no_gc, now

BY_CPU = now is time.thread_time_ns


def cpu_of(pids: Sequence[int]) -> int:
    """Nanoseconds that the main threads of these processes have had so far."""
    stats = [Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii") for pid in pids]
    return sum(int(text.split()[0]) for text in stats)


@dataclass
class Side:
    """One client.

    :param run: does all operations of a round
    :param pids: of its servers
    """

    name: str
    run: Callable[[], object]
    pids: Sequence[int]
    wall: list[float] = field(default_factory=list)  # seconds of a round
    client: list[float] = field(default_factory=list)
    servers: list[float] = field(default_factory=list)

    def measure(self) -> tuple[float, float, float]:
        """Seconds on the wall, of this thread, and of the servers."""
        servers, client, wall = cpu_of(self.pids), time.thread_time(), time.perf_counter()
        self.run()
        ended = time.perf_counter(), time.thread_time(), cpu_of(self.pids)
        return ended[0] - wall, ended[1] - client, (ended[2] - servers) / 1e9

    def keep(self, spent: tuple[float, float, float]) -> None:
        """One round."""
        for kept, value in zip((self.wall, self.client, self.servers), spent, strict=True):
            kept.append(value)

    def rates(self, count: int) -> list[float]:
        """Operations a second, of each round."""
        if BY_CPU:
            return [count / sum(both) for both in zip(self.client, self.servers, strict=True)]
        return [count / spent for spent in self.wall]

    def cost(self, count: int) -> str:
        """Microseconds of processor time of an operation."""
        least = 0.25 if BY_CPU else 0.5
        client, servers = (
            sorted(spent)[int(len(spent) * least)] / count * 1e6
            for spent in (self.client, self.servers)
        )
        return f"{client:.3g} + {servers:.3g}"


def _typical(rates: list[float]) -> float:
    """The median; of processor time the upper quartile, as other work can only add to it."""
    return statistics.quantiles(rates, n=4)[2] if BY_CPU else statistics.median(rates)


def race(
    name: str,
    measure: str,
    sides: Sequence[Side],
    count: int,
    targets: Sequence[float | None],
    repeats: int,
) -> Iterator[Row]:
    """The first side beside each of the others.

    :param count: operations in a round: so many that servers which have just been idle do not
        count, and so few that a round is over before the machine has other work to do
    :param targets: what the rate of the first is to be of theirs, at least
    """
    with no_gc():
        for turn in range(repeats + 1):
            for side in sides:
                spent = side.measure()
                if turn:
                    side.keep(spent)
    ours, *others = sides
    mine = ours.rates(count)
    for number, (other, target) in enumerate(zip(others, targets, strict=True)):
        theirs = other.rates(count)
        yield Row(
            name=name if number == 0 else f"{name}_{other.name.replace(' ', '_').lower()}",
            measure=measure + (", by processor time" if BY_CPU else ""),
            ours=_typical(mine),
            unit="/s",
            peer=_typical(theirs),
            peer_name=other.name,
            ratio=_typical(mine) / _typical(theirs),
            target=target,
            at_least=True,
            note=f"µs of the client + of the servers: {ours.cost(count)}; {other.cost(count)}",
            samples={
                "ours": [round(rate) for rate in mine],
                "peer": [round(rate) for rate in theirs],
            },
        )
