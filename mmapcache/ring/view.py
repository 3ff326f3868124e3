"""The ring as an operation sees it: peers with their breakers, and who holds a key.

A view is compiled once for each generation of the file; peers live on from one to the next, with
their connections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmapcache.ring._ring import Placement
from mmapcache.ring.record import Member, Record, check_address

GONE = "gone"  # the state of a node that is not registered
PROBE = 1.0  # seconds until a node that did not answer is asked again, at most
_FIRST = 0.05  # the same after the first refusal
_SERVING = {"ready": 0, "unknown": 0, "joining": 1, "leaving": 2}


class Peer:
    """One server, and what this process knows of it.

    `good`: it is to be asked without further thought. `pool`: idle connections, the driver's.

    The breaker is open while `failures` is not 0 and `retry_at` is to come. Threads race for its
    fields harmlessly: a probe more, or one less.
    """

    __slots__ = (
        "address",
        "failures",
        "good",
        "host",
        "id",
        "life",
        "pool",
        "port",
        "rank",
        "retry_at",
        "state",
    )

    def __init__(self, node: str, address: str) -> None:
        self.id = node
        self.address = address
        self.host, self.port = check_address(address) if address else ("", 0)
        self.life = ("", 0)
        self.state = GONE
        self.rank = 3
        self.failures = 0
        self.retry_at = 0.0  # by Core.now
        self.pool: list[Any] = []
        self.good = False

    def __repr__(self) -> str:
        return f"{self.id} at {self.address}" if self.address else f"{self.id} (no address known)"

    def told(self, member: Member | None) -> None:
        """What the file says; another life or state closes the breaker."""
        life = ("", 0) if member is None else (member.run_id, member.since)
        state = GONE if member is None else member.state
        if (life, state) != (self.life, self.state):
            self.life, self.state = life, state
            self.failures = 0
            self.rank = _SERVING.get(state, 3)
        self._judge()

    def admits(self, now: float) -> bool:
        """Whether it may be asked; when the breaker is open, once for each window."""
        if not self.failures:
            return True
        if now < self.retry_at:
            return False
        self.retry_at = now + PROBE
        return True

    def failed(self, now: float, *, slow: bool) -> None:
        """It did not answer.

        :param slow: finding that out took a timeout
        """
        self.failures += 1
        window = PROBE if slow else min(PROBE, _FIRST * 2.0 ** min(self.failures, 16))
        self.retry_at = now + window
        self.good = False

    def answered(self) -> None:
        """It does answer."""
        self.failures = 0
        self._judge()

    def take_idle(self) -> list[Any]:
        """The idle connections, which are the caller's from now on."""
        pool, self.pool = self.pool, []
        return pool

    def _judge(self) -> None:
        self.good = self.rank == 0 and not self.failures


class View:
    """The ring of one generation. `pair(key)`: whom to read from, in order; `holders(key)`: whom
    to write to; `primaries(keys)`: for each of `peers`, the indexes of the keys whose primary it
    is."""

    __slots__ = (
        "_holders",
        "_pair",
        "epoch",
        "epoch_text",
        "generation",
        "peers",
        "primaries",
        "record",
    )

    def __init__(self, generation: int, record: Record, peers: Mapping[str, Peer]) -> None:
        other = record.other
        self.generation = generation
        self.record = record
        self.epoch = record.epoch
        self.epoch_text = b"%d" % record.epoch
        placement = Placement(record.nodes, other)
        self._pair: Callable[[bytes], tuple[int, ...]] = placement.pair
        self._holders: Callable[[bytes], tuple[int, ...]] = (
            placement.pair if other is None else placement.holders
        )
        self.primaries: Callable[[Sequence[bytes]], list[list[int]]] = placement.primaries
        self.peers = tuple([peers[node] for node in placement.ids])

    def pair(self, key: bytes) -> tuple[Peer, ...]:
        """The first is the one to ask."""
        peers = self.peers
        return tuple([peers[index] for index in self._pair(key)])

    def others(self, key: bytes) -> tuple[Peer, ...]:
        """Holders that are not of the pair: while a node comes or goes there may be one."""
        if self.record.other is None:
            return ()
        peers = self.peers
        return tuple([peers[index] for index in self._holders(key)[len(self._pair(key)) :]])

    def first(self, key: bytes) -> Peer:
        """The primary."""
        return self.peers[self._pair(key)[0]]

    def holders(self, key: bytes) -> tuple[Peer, ...]:
        """One to three."""
        peers = self.peers
        return tuple([peers[index] for index in self._holders(key)])


def compile_view(
    generation: int, record: Record, members: Mapping[str, Member], before: Mapping[str, Peer]
) -> tuple[View, dict[str, Peer]]:
    """A view, and the peers of it: those of `before` that are still the same server."""
    peers = {}
    for node in record.everybody:
        member = members.get(node)
        known = before.get(node)
        address = member.address if member is not None else known.address if known else ""
        peer = known if known is not None and known.address == address else Peer(node, address)
        peer.told(member)
        peers[node] = peer
    return View(generation, record, peers), peers
