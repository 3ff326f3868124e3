"""What `/metrics` of an agent says of the ring, beside what it says of the agent's file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mmapcache.printing import printable
from mmapcache.ring.fill import Doing, Known
from mmapcache.ring.view import GONE


class RingMetrics(Collector):
    """Asks the agent at each scrape; any thread may.

    :param look: what the agent knows, None before it knows a ring; and what it does
    """

    def __init__(self, look: Callable[[], tuple[Known | None, Doing]]) -> None:
        self._look = look

    def describe(self) -> list[Metric]:
        """Nothing: that would need a ring."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The values of now."""
        known, doing = self._look()
        if known is None:
            return
        record = known.record
        yield GaugeMetricFamily(
            "mmapcache_ring_epoch", "Of the ring's members.", value=float(record.epoch)
        )
        states = Counter({"ready": 0, "joining": 0, GONE: 0})
        for name in record.everybody:
            member = known.members.get(name)
            states[GONE if member is None else member.state] += 1
        nodes = GaugeMetricFamily(
            "mmapcache_ring_nodes", "Nodes of the ring, by state.", labels=("state",)
        )
        for state, count in states.items():
            nodes.add_metric((printable(state),), count)
        yield nodes
        for name, text, value in (
            ("changing", "1 while a node is being added or drained.", record.change is not None),
            ("leading", "1 when this agent is the one that fills.", known.leads),
            (
                "owed",
                "Keys of which a node missed a write that could not be brought yet.",
                doing.owed,
            ),
            ("owed_lag_seconds", "Since all that is owed was brought.", doing.lag),
        ):
            yield GaugeMetricFamily(f"mmapcache_ring_{name}", text, value=float(value))
        for name, text, value in (
            (
                "losses",
                "How often nodes began anew together: what they alone held is lost.",
                doing.lost,
            ),
            ("filled_keys", "Copies that this agent brought to nodes that joined.", doing.filled),
            ("paid_keys", "Writes that a node had missed, and this agent brought.", doing.paid),
        ):
            yield CounterMetricFamily(f"mmapcache_ring_{name}", text, value=float(value))
