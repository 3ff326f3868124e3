"""Looking through what nodes hold, and bringing copies where they belong.

Everything here is safe to do twice, late, or beside another one who does it: an entry that is
brought to a node is taken only when its version is higher than what is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmapcache.ring import _ring
from mmapcache.ring.link import Link, RefusedError
from mmapcache.ring.record import Record
from mmapcache.ring.uptime import uptime
from mmapcache.ring.wire import version_of

# A sweep that takes longer begins anew: a deletion is remembered for this long, and what was read
# before it would come back.
LONGEST = _ring.TOMBSTONE_MS / 1000 - 600
_PACKET = 1 << 20  # bytes of entries that are sent at once
_MOST = 500  # keys likewise
_FEW = 20  # keys that are read at once while nobody knows how large values are; or tried with
_FULL = ("FULL", "OOM", "command")  # redis-py takes the first word off what the server says
_ALIEN = "TYPE"  # something that the ring did not write is at a key
_PARTLY = (*_FULL, _ALIEN)  # all others were taken
_ENDED = 1  # ms since 1970
_PASSED = 10_000  # ms after a write until nothing may be left of it at its holders
_NOTED = 100_000  # keys that a node notes for another one
_LONGEST_REST = 60.0  # seconds


class TooSlowError(Exception):
    """A sweep has taken longer than deletions are remembered."""


def rest(took: float) -> float:
    """Seconds until a node is brought again what it had no memory for, after a try that took so
    long: not much of the time goes into what is refused, and room is not overlooked for long."""
    return min(20 * took, _LONGEST_REST)


class Pace:
    """Holds back so that no more than `rate` keys a second are moved; 0: no limit."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = time.monotonic()  # when the next key may be moved

    def take(self, keys: int) -> float:
        """Counts keys that are moved now; how many seconds to wait before the next."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        self._free = max(self._free, now) + keys / self._rate
        return self._free - now


class Whose:
    """Who holds a key according to a record."""

    def __init__(self, record: Record) -> None:
        self._placement = _ring.Placement(record.nodes, record.other)
        self._ids = self._placement.ids

    def holders(self, key: bytes) -> tuple[str, ...]:
        """The pair, then who is in the other ring's pair alone."""
        ids = self._ids
        return tuple([ids[index] for index in self._placement.holders(key)])

    def pair(self, key: bytes) -> tuple[str, ...]:
        """Who is read."""
        ids = self._ids
        return tuple([ids[index] for index in self._placement.pair(key)])


class Sweep:
    """Goes through the keys of nodes.

    :param links: to the nodes that take part, by id
    :param pause: called between two packets with the seconds to wait; raises to end the sweep
    """

    def __init__(
        self,
        record: Record,
        links: Mapping[str, Link],
        pace: Pace,
        pause: Callable[[float], object],
    ) -> None:
        self.record = record
        self.whose = Whose(record)
        self._links = links
        self._pace = pace
        self._pause = pause
        self._epoch = b"%d" % record.epoch
        self._began = uptime()  # deletions end while the machine sleeps, too
        self._at_once = _FEW  # keys that are read with one command
        self.looked_at = 0
        self.refused = 0  # keys of packets that a node did not take, mostly for want of memory
        self.moved = 0

    def keys(self, source: str) -> Iterator[list[bytes]]:
        """All keys of a node, in lists of a packet's size.

        :raises TooSlowError: it takes too long
        """
        for found in self._links[source].scan():
            for begin in range(0, len(found), _MOST):
                self._check()
                some = found[begin : begin + _MOST]
                self.looked_at += len(some)
                yield some
                self._pause(self._pace.take(len(some)))

    def _check(self) -> None:
        if uptime() - self._began > LONGEST:
            raise TooSlowError

    def spread(self, source: str, wants: Callable[[bytes], Iterable[str]]) -> None:
        """Brings what `source` holds to those that `wants` names for a key. What one of them has no
        memory for it is owed from now on.

        :raises Lost: a node was lost
        :raises RefusedError: a node does not take it
        :raises TooSlowError: it takes too long
        """
        for keys in self.keys(source):
            targets: dict[str, list[bytes]] = {}
            for key in keys:
                for node in wants(key):
                    if node != source and node in self._links:
                        targets.setdefault(node, []).append(key)
            wanted = sorted(set().union(*targets.values())) if targets else []
            entries = self.dump(source, wanted)
            for node, some in targets.items():
                found = [(key, entries[key]) for key in some if key in entries]
                if not self.fill_what_fits(node, found):
                    self._owe(source, node, found)

    def _owe(self, source: str, target: str, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Notes at `source` what `target` is without. If `source` is no holder itself, a change is
        under way, and what it has stays there until the holders have it.

        :raises RefusedError: it cannot be noted
        """
        words = [("RING.OWE", self._epoch, target, key, version_of(e)) for key, e in entries]
        for reply in self._links[source].calls(words):
            if isinstance(reply, Exception) and not str(reply).startswith("NOTMINE"):
                raise RefusedError(source, str(reply))

    def fill_what_fits(self, target: str, entries: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether the node has them all, or something newer. If not, that is counted: its misses
        are not final then, or whoever asks for the key is told.

        :raises RefusedError: it does not take any
        """
        try:
            self.fill(target, entries)
        except RefusedError as error:
            if error.word not in _PARTLY:
                raise
            self.refused += len(entries)
            return False
        return True

    def dump(self, source: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Entries by key, without those that the node has not.

        A node must not be busy with one command for long: that is a hang, of which it is fenced.
        So few keys are asked for at once when values are large.
        """
        entries: dict[bytes, bytes] = {}
        begin = 0
        while begin < len(keys):
            some = keys[begin : begin + self._at_once]
            begin += len(some)
            found = self._links[source].call("RING.DUMP", *some)
            size = 1
            for key, entry in zip(some, found, strict=True):
                if isinstance(entry, bytes):
                    entries[key] = entry
                    size += len(entry)
            likely = _PACKET * len(some) // size
            self._at_once = max(1, min(likely, 4 * self._at_once, _MOST))
        return entries

    def fill(self, target: str, entries: Sequence[tuple[bytes, bytes]]) -> int:
        """How many the node had not, or older. One that is refused holds up none of the others.

        :raises RefusedError: it does not take all of them
        :raises TooSlowError: they were read too long ago
        """
        self._check()
        taken = 0
        refused: RefusedError | None = None
        link = self._links[target]
        for packet in _packets(entries):
            words: list[bytes] = [word for pair in packet for word in pair]
            try:
                taken += link.call("RING.FILL", self._epoch, *words)
            except RefusedError as error:
                if error.word not in _PARTLY:
                    raise
                refused = error
        self.moved += taken
        if refused is not None:
            raise refused
        return taken

    def drop(self, source: str, entries: Mapping[bytes, bytes]) -> int:
        """Removes from a node what it does not hold at this epoch, if it is no newer than this."""
        words = [word for key, entry in entries.items() for word in (key, version_of(entry))]
        return int(self._links[source].call("RING.DROP", self._epoch, *words)) if words else 0


def _packets(entries: Sequence[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    packet: list[tuple[bytes, bytes]] = []
    size = 0
    for entry in entries:
        packet.append(entry)
        size += len(entry[1])
        if size >= _PACKET or len(packet) >= _MOST:
            yield packet
            packet, size = [], 0
    if packet:
        yield packet


@dataclass(slots=True)
class Full:
    """That a node had no memory for what is owed to it by another one.

    :param left: keys that were owed then
    :param at_once: with how many it is tried whether there is memory again
    :param again: when it is brought all of them again, by Owed's clock
    """

    left: int = 0
    at_once: int = _FEW
    again: float = 0.0


class Owed:
    """Brings writes to the nodes that missed them.

    A full node is tried with a few keys. All that it is owed is brought only now and then, so that
    it keeps no older values of what was noted since.

    :param links: to the nodes that can be reached, by id
    :param full: what is known of full nodes, by who owes and who is owed; kept for the next one
    """

    AT_ONCE = 1000  # keys of one node for another

    def __init__(
        self,
        record: Record,
        links: Mapping[str, Link],
        full: dict[tuple[str, str], Full] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._links = links
        self._full = {} if full is None else full
        self._now = now
        self._sweep = Sweep(record, links, Pace(0), lambda seconds: None)
        self.left = 0  # keys that are known to be owed still
        self.more = False  # there may be more, which could be brought now

    def apply(self, source: str) -> int:
        """What is noted at `source`; how many keys were struck off. `left` counts what could not
        be brought.

        :raises Lost: a node was lost
        """
        targets = {
            node: full.at_once if (full := self._full.get((source, node))) else self.AT_ONCE
            for node in self._record.everybody
            if node != source
        }
        commands = [("RING.OWED", node, count) for node, count in targets.items()]
        replies = self._links[source].calls(commands)
        paid = 0
        for (node, count), reply in zip(targets.items(), replies, strict=True):
            if isinstance(reply, Exception):
                if str(reply).startswith("OVERFLOW"):
                    paid += self._settle(source, node, str(reply).split(" ")[1])
            elif node not in self._links:
                self.left += len(reply) // 2
            elif reply:
                paid += self._bring(source, node, reply, count)
            else:
                self._full.pop((source, node), None)
        return paid

    def _bring(self, source: str, node: str, owed: list[bytes], count: int) -> int:
        """How many were struck off. What is left comes first in the next round.

        :param owed: those that come first, `count` of them if there are so many
        """
        struck = self._pay(source, node, owed)
        if struck is None:
            return self._bring_all(source, node, owed)
        full = self._full.get((source, node))
        if len(owed) // 2 < count:
            self._full.pop((source, node), None)
        else:
            self.more = True
            if full is not None:
                full.at_once = min(4 * full.at_once, self.AT_ONCE)
                full.left = max(0, full.left - struck)
        return struck

    def _bring_all(self, source: str, node: str, owed: list[bytes]) -> int:
        """To a node that is full, if it is time for that; how many were struck off all the same.

        :param owed: those that come first, which it has just refused
        """
        full = self._full.setdefault((source, node), Full())
        full.at_once = _FEW
        began = self._now()
        paid = 0
        if began >= full.again:
            full.left = len(owed) // 2
            while owed := self._links[source].call("RING.OWED", node, self.AT_ONCE, owed[-2]):
                struck = self._pay(source, node, owed)
                paid += struck or 0
                full.left += len(owed) // 2 if struck is None else 0
            full.again = self._now() + rest(self._now() - began)
        self.left += full.left
        return paid

    def _pay(self, source: str, node: str, owed: list[bytes]) -> int | None:
        """How many were struck off; None: the node does not take all of them."""
        keys = owed[::2]
        mine = [key for key in keys if node in self._sweep.whose.holders(key)]
        versions = dict(zip(keys, owed[1::2], strict=True))
        entries = self._sweep.dump(source, mine)
        # What has ended since, or was deleted more than an hour ago, is nobody's any more; but the
        # node may have an older value of it. Of a later one, and where the source is no holder any
        # more, nothing is known.
        now = time.time_ns() // 1_000_000
        for key in mine:
            time_of = int.from_bytes(versions[key][:6], "big")
            if (
                key not in entries
                and time_of + _PASSED < now
                and source in self._sweep.whose.holders(key)
            ):
                entries[key] = _ring.encode(_ring.VALUE, versions[key], _ENDED, b"")
        try:
            self._sweep.fill(node, list(entries.items()))
        except RefusedError as error:
            if error.word != _ALIEN:
                return None
        words: list[bytes] = []  # what is newer than what was noted was brought, too
        for key, version in versions.items():
            entry = entries.get(key)
            words += (key, version if entry is None else max(version, version_of(entry)))
        return int(self._links[source].call("RING.PAID", node, *words))

    def _settle(self, source: str, node: str, number: str) -> int:
        """All that `source` holds for `node`, which is more than could be noted. What `node` has no
        memory for is noted anew; 1 if that was not too much again, and the overflow is struck off.
        """
        self.left += _NOTED
        full = self._full.get((source, node))
        began = self._now()
        if node not in self._links or (full is not None and began < full.again):
            return 0
        whose = self._sweep.whose
        before = self._sweep.refused
        self._sweep.spread(source, lambda key: [node] if node in whose.holders(key) else [])
        refused = self._sweep.refused - before
        if refused:
            again = self._now() + rest(self._now() - began)
            self._full[source, node] = Full(left=refused, again=again)
        else:
            self._full.pop((source, node), None)
        struck = int(self._links[source].call("RING.PAID", node, number))
        if struck:
            self.left += refused - _NOTED
        return struck
