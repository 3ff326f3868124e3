"""Nodes of a ring in memory, as docs/ring.md has their commands, for tests of the clients' core.

What a real server does is shown by the tests that start one; here a test can stop a node between
any two commands, lose a reply, and look at what each of them holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmapcache.ring import _ring
from mmapcache.ring.record import Member, Record
from mmapcache.ring.together import Steps
from mmapcache.ring.view import Peer
from mmapcache.ring.wire import Lost
from ring import twin


class Refused(Exception):  # noqa: N818 - what a node does
    """An error reply."""


def unpack(data: bytes) -> list[list[bytes]]:
    """The commands in a packet."""
    commands = []
    while data:
        head, _, data = data.partition(b"\r\n")
        assert head[:1] == b"*"
        command = []
        for _ in range(int(head[1:])):
            size, _, data = data.partition(b"\r\n")
            assert size[:1] == b"$"
            length = int(size[1:])
            command.append(data[:length])
            assert data[length : length + 2] == b"\r\n"
            data = data[length + 2 :]
        commands.append(command)
    return commands


@dataclass
class Node:
    """One server.

    :param final: it has dropped nothing in this life
    :param most: keys that it notes for another node
    """

    id: str
    record: Record
    state: str = "ready"
    final: bool = True
    full: bool = False
    data: dict[bytes, tuple[int, bytes, int, bytes]] = field(default_factory=dict)
    owed: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    most: int = 100_000
    overflow: dict[str, int] = field(default_factory=dict)
    overflows: int = 0
    now: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    def run(self, command: list[bytes]) -> Any:
        """
        :raises Refused: an error reply
        """
        name = command[0].decode().removeprefix("RING.").lower()
        if name not in ("hello", "dump"):
            if self.state not in ("ready", "joining"):
                raise Refused(f"STOPPED the node is {self.state}")
            epoch = int(command[1])
            if epoch != self.record.epoch:
                raise Refused(
                    f"{'EPOCH' if epoch < self.record.epoch else 'BEHIND'} {self.record.epoch}"
                )
        result: Any = getattr(self, f"_{name}")(*command[2:])
        return result

    def _mine(self, key: bytes) -> None:
        other = self.record.other or self.record.nodes
        if self.id not in twin.holders(self.record.nodes, other, key):
            raise Refused("NOTMINE the key has other holders")

    def _there(self, key: bytes) -> tuple[int, bytes, int, bytes] | None:
        """The entry, if it is a value or a tombstone that has not ended."""
        entry = self.data.get(key)
        if entry is None or (entry[0] == _ring.VALUE and 0 < entry[2] <= self.now()):
            return None
        return entry

    def _found(self, key: bytes) -> tuple[int, bytes, int, bytes] | None:
        self._mine(key)
        entry = self._there(key)
        read = self.id in twin.pair(self.record.nodes, key)
        if entry is None and not (self.state == "ready" and self.final and read):
            raise Refused(f"MAYBE {'dropped' if self.state == 'ready' and read else 'joining'}")
        return entry if entry is not None and entry[0] == _ring.VALUE else None

    def _get(self, key: bytes) -> bytes | None:
        entry = self._found(key)
        return None if entry is None else entry[3]

    def _mget(self, *keys: bytes) -> list[Any]:
        values: list[Any] = []
        for key in keys:
            try:
                values.append(self._get(key))
            except Refused as error:
                values.append(error)
        return values

    def _meta(self, key: bytes) -> list[Any] | None:
        entry = self._found(key)
        return None if entry is None else [entry[0], entry[1], entry[2], len(entry[3])]

    def _put(self, key: bytes, kind: int, version: bytes, end: int, value: bytes) -> None:
        self._mine(key)
        milliseconds = int.from_bytes(version[:6], "big")
        if milliseconds < self.now() - 5000:
            raise Refused(f"LATE {self.now()}")
        before = self.data.get(key)
        if before is not None and before[1] > version:
            raise Refused(f"NEWER {before[1].hex()}")
        if before is not None and before[1] == version:
            return
        if not self._has_room(key, kind):
            raise Refused("FULL no memory")
        self.data[key] = (kind, version, end, value)

    def _has_room(self, key: bytes, kind: int) -> bool:
        """Whether it can be taken; if not, nothing older stays."""
        if self.full and (kind == _ring.VALUE or key not in self.data):
            self.data.pop(key, None)
            self.final = False
            return False
        return True

    def _change(self, key: bytes, version: bytes, end: int, value: bytes) -> list[Any]:
        """What is changed where it is: if there is no room the older one stays."""
        before = self.data.get(key)
        if self.full and (before is None or before[1] < version):
            raise Refused("FULL nothing was changed")
        self._put(key, _ring.VALUE, version, end, value)
        return [1, _ring.encode(_ring.VALUE, version, end, value)]

    def _set(self, key: bytes, entry: bytes) -> bytes:
        kind, version, end, value = _ring.decode(entry)
        self._put(key, kind, version, end, value)
        return b"OK"

    def _del(self, version: bytes, key: bytes) -> int:
        entry = self._there(key)
        end = int.from_bytes(version[:6], "big") + _ring.TOMBSTONE_MS
        self._put(key, _ring.TOMBSTONE, version, end, b"")
        return int(entry is not None and entry[0] == _ring.VALUE)

    def _incr(self, version: bytes, key: bytes, delta: bytes) -> list[Any]:
        entry = self._there(key)
        if entry is None:
            self._found(key)
        live = entry is not None and entry[0] == _ring.VALUE
        number = int(delta) + (int(entry[3]) if entry is not None and live else 0)
        end = entry[2] if entry is not None and live else 0
        return [number, *self._change(key, version, end, b"%d" % number)[1:]]

    def _expire(self, version: bytes, key: bytes, end: bytes) -> list[Any]:
        entry = self._found(key)
        if entry is None:
            return [0, None]
        return self._change(key, version, int(end), entry[3])

    def _has_passed(self, entry: tuple[int, bytes, int, bytes]) -> bool:
        written = int.from_bytes(entry[1][:6], "big")
        return entry[2] > 0 and max(entry[2], written) + 10_000 <= self.now()

    def _fill(self, *words: bytes) -> int:
        taken, full = 0, False
        for key, entry in zip(words[::2], words[1::2], strict=True):
            self._mine(key)
            decoded = _ring.decode(entry)
            before = self.data.get(key)
            if self._has_passed(decoded):
                if before is not None and before[1] < decoded[1]:
                    del self.data[key]
            elif before is None or before[1] < decoded[1]:
                if self._has_room(key, decoded[0]):
                    self.data[key] = decoded
                    taken += 1
                else:
                    full = True
        if full:
            raise Refused("FULL no memory")
        return taken

    def _owe(self, node: bytes, key: bytes, version: bytes) -> bytes:
        self._mine(key)
        other = node.decode()
        noted = [place for place in self.owed if place[0] == other]
        if (other, key) not in noted and len(noted) >= self.most:
            for place in noted:
                del self.owed[place]
            self.overflows += 1
            self.overflow[other] = self.overflows
        self.owed[other, key] = max(version, self.owed.get((other, key), b""))
        return b"OK"


class World:
    """A ring of nodes, as the source that a core reads, and what drives its operations.

    `lost(peer, commands)`: says whether these do not arrive (`"before"`), their reply does not
    (`"after"`), or all is well (empty).
    """

    path = "in memory"

    def __init__(self, record: Record, *, state: str = "ready") -> None:
        self.generation = 1
        self.record = record
        self.nodes = {node: Node(node, record, state) for node in record.everybody}
        self.told: dict[str, Member] = {}
        self.clock = 1000.0
        self.asked: list[tuple[str, list[bytes]]] = []
        self.lost: Callable[[str, list[list[bytes]]], str] = lambda peer, commands: ""
        self.waited: Callable[[], object] = lambda: None  # an operation waits
        self.tell()

    def tell(self) -> None:
        """Publishes the record and the states as they are."""
        self.generation += 1
        self.told = {
            node.id: Member(node.id, f"{node.id}:1", "life", node.state, 1)
            for node in self.nodes.values()
        }

    def read(self) -> tuple[int, Record, Mapping[str, Member]]:
        return self.generation, self.record, self.told

    def now(self) -> float:
        return self.clock

    def drive(self, steps: Steps[Any]) -> Any:
        """The operation's result."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, tuple):
                    step = steps.send([self._answer(*ask) for ask in step])
                else:
                    self.clock += step
                    self.waited()
                    step = next(steps)
        except StopIteration as end:
            return end.value

    def _answer(self, peer: Peer, data: bytes, count: int) -> Any:
        commands = unpack(data)
        assert len(commands) == count
        self.asked += [(peer.id, command) for command in commands]
        fate = self.lost(peer.id, commands)
        if fate == "before":
            self.clock += 0.1
            return Lost("refused", slow=True)
        replies: list[Any] = []
        for command in commands:
            try:
                replies.append(self.nodes[peer.id].run(command))
            except Refused as error:
                replies.append(error)
        if fate == "after":
            self.clock += 0.1
            return Lost("timed out", slow=True)
        return replies if count > 1 else replies[0]
