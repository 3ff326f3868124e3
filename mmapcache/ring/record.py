"""The record of the ring: who belongs to it, and the change of one node that is under way.

    {"version": 1, "epoch": 7, "nodes": ["a", "b"], "change": null}

Only the operator's commands and the agent that finishes a change write it, by compare-and-set. What
they read may come from anybody who can write to ZooKeeper, so everything is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from mmapcache.ring.errors import RingError

MOST_NODES = 128
MOST_BYTES = 64 * 1024  # of a record; 128 ids of 64 characters are 9 KiB
_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}")
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>\d{1,5})")
_TEXT = re.compile(r"[A-Za-z0-9._-]{0,128}")
_MOST_EPOCH = 2**53


class RecordError(RingError):
    """A record that cannot be used; the message is one sentence."""


def check_id(text: object) -> str:
    """
    :raises RecordError: it cannot be the id of a node
    """
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise RecordError(
            f"{text!r} cannot be the id of a node: 1 to 64 characters of A-Z a-z 0-9 . _ -"
        )
    return text


def check_address(text: object) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPv6]:PORT`.

    :raises RecordError: it is no address
    """
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None or not 0 < int(match["port"]) < 65536:
        raise RecordError(f"{text!r} is no address: it must be HOST:PORT, as 10.0.0.7:6379")
    return match["host"].strip("[]"), int(match["port"])


@dataclass(frozen=True, slots=True)
class Change:
    """One node is being added or drained.

    :param since: when it began, milliseconds since 1970
    :param clean: writes go to the new pair alone, and what nodes hold no more is being removed
    :param abort: it is given up: the members stay as they were
    """

    kind: Literal["add", "drain"]
    node: str
    since: int
    clean: bool = False
    abort: bool = False

    def plain(self) -> dict[str, Any]:
        """As it stands in the record."""
        made: dict[str, Any] = {self.kind: self.node, "since": self.since}
        made |= {"clean": True} if self.clean else {}
        return {**made, "abort": True} if self.abort else made


@dataclass(frozen=True, slots=True)
class Record:
    """Members of the ring at an epoch: placement depends on nothing else."""

    epoch: int
    nodes: tuple[str, ...]
    change: Change | None = None

    @property
    def step(self) -> Literal["filling", "switched", "cleaning", "complete"]:
        """How far the change is."""
        change = self.change
        if change is None:
            return "complete"
        if change.clean:
            return "cleaning"
        return "switched" if (change.node in self.nodes) == (change.kind == "add") else "filling"

    @property
    def other(self) -> tuple[str, ...] | None:
        """The other ring of which the holders are, too; None: there is none."""
        if self.change is None or self.change.clean:
            return None
        node = self.change.node
        if node in self.nodes:
            return tuple(each for each in self.nodes if each != node)
        return (*self.nodes, node)

    @property
    def everybody(self) -> tuple[str, ...]:
        """All nodes that serve: those of both rings."""
        change = self.change
        if change is None or change.clean or change.node in self.nodes:
            return self.nodes
        return (*self.nodes, change.node)

    def begin(self, kind: Literal["add", "drain"], node: str, now: int) -> Record:
        """The record with which a change begins.

        :raises RecordError: it cannot
        """
        check_id(node)
        if self.change is not None:
            raise RecordError(
                f"the ring is not done with the last change ({self.change.kind} "
                f"{self.change.node}, {self.step}): one node is changed at a time"
            )
        if kind == "add" and node in self.nodes:
            raise RecordError(f"{node} is in the ring already")
        if kind == "add" and len(self.nodes) >= MOST_NODES:
            raise RecordError(f"a ring has {MOST_NODES} nodes at most")
        if kind == "drain" and node not in self.nodes:
            raise RecordError(f"{node} is not in the ring: it has {', '.join(self.nodes)}")
        if kind == "drain" and len(self.nodes) == 1:
            raise RecordError(f"{node} is the only node: a ring keeps one")
        return Record(self.epoch + 1, self.nodes, Change(kind, node, now))

    def give_up(self, kind: Literal["add", "drain"], node: str) -> Record:
        """The same step of a change that is given up. Its epoch is the same: servers take no other
        notice of it, and the agent moves them on when all of them are there.

        :raises RecordError: it cannot
        """
        change = self.change
        if change is None or (change.kind, change.node) != (kind, node):
            raise RecordError(f"{kind} {node} is not under way")
        if self.step != "filling" and not change.abort:
            raise RecordError(
                f"{kind} {node} is {self.step}: the new ring is read, and it is completed; "
                f"{'drain' if kind == 'add' else 'add'} {node} afterwards"
            )
        return Record(self.epoch, self.nodes, replace(change, abort=True))

    def advance(self) -> Record:
        """The record of the next step. One that is given up is cleaned up at once: the old pair,
        which is read until the ring is switched, has everything."""
        change = self.change
        if change is None:
            raise RecordError("no change is under way")
        if self.step == "filling" and not change.abort:
            assert self.other is not None
            return Record(self.epoch + 1, self.other, change)
        if self.step in ("filling", "switched"):
            return Record(self.epoch + 1, self.nodes, replace(change, clean=True))
        return Record(self.epoch, self.nodes)

    def plain(self) -> dict[str, Any]:
        """The JSON object."""
        change = None if self.change is None else self.change.plain()
        return {"version": 1, "epoch": self.epoch, "nodes": list(self.nodes), "change": change}

    def text(self) -> bytes:
        """The bytes that stand in ZooKeeper."""
        return json.dumps(self.plain()).encode()


@dataclass(frozen=True, slots=True)
class Member:
    """What a server says of itself.

    :param run_id: another one in another life of the server
    :param state: such as "ready"; "unknown": it has not been asked yet
    :param since: when it came into that state, milliseconds since 1970
    """

    id: str
    address: str
    run_id: str = ""
    state: str = "unknown"
    since: int = 0

    def plain(self) -> dict[str, Any]:
        """The JSON object, without the id."""
        return {
            "address": self.address,
            "run_id": self.run_id,
            "state": self.state,
            "since": self.since,
        }


def new_ring(ids: Iterable[str]) -> Record:
    """The first record of a ring.

    :raises RecordError: it cannot be one
    """
    nodes = tuple(check_id(each) for each in ids)
    _check_nodes(nodes)
    return Record(1, nodes)


def parse_record(data: bytes) -> Record:
    """
    :raises RecordError: the bytes are no record of a ring
    """
    value = _object(data, "the record of the ring")
    version = value.get("version")
    if not _is_count(version) or version != 1:  # True is no count
        raise RecordError(f"the record of the ring has version {version!r}; this program knows 1")
    return record_of(value)


def record_of(value: Mapping[str, Any]) -> Record:
    """
    :raises RecordError: the values are no record of a ring
    """
    epoch, nodes, change = value.get("epoch"), value.get("nodes"), value.get("change")
    if not _is_count(epoch) or not epoch:
        raise RecordError(f"the record of the ring has no epoch: {epoch!r}")
    if not isinstance(nodes, (list, tuple)):
        raise RecordError("the record of the ring has no list of nodes")
    _check_nodes(tuple(check_id(each) for each in nodes))
    made = Record(cast(int, epoch), tuple(nodes), None if change is None else _change(change))
    if len(made.everybody) > MOST_NODES:
        raise RecordError(f"the record of the ring has more than {MOST_NODES} nodes")
    if made.other == ():
        raise RecordError("the record of the ring drains its only node")
    return made


def parse_member(node: str, data: bytes) -> Member:
    """
    :raises RecordError: the bytes say nothing of a node
    """
    return member_of(node, _object(data, f"what node {node} says of itself"))


def member_of(node: str, value: Mapping[str, Any]) -> Member:
    """
    :raises RecordError: the values say nothing of a node
    """
    address, run_id = value.get("address"), value.get("run_id", "")
    state, since = value.get("state"), value.get("since", 0)
    check_address(address)
    if not isinstance(run_id, str) or not _TEXT.fullmatch(run_id):
        raise RecordError(f"node {node} has no usable run_id")
    if not isinstance(state, str) or not _TEXT.fullmatch(state) or not _is_count(since):
        raise RecordError(f"node {node} has no usable state")
    return Member(check_id(node), cast(str, address), run_id, state, since)


def parse_members(text: str) -> tuple[Member, ...]:
    """`ID=HOST:PORT,…`, as `--members` has it.

    :raises RecordError: it is not that
    """
    found = []
    for word in text.split(","):
        node, equals, address = word.strip().partition("=")
        if not equals:
            raise RecordError(f"{word.strip()!r} is no member: it must be ID=HOST:PORT")
        check_address(address)
        found.append(Member(check_id(node), address))
    _check_nodes(tuple(member.id for member in found))
    return tuple(found)


def _check_nodes(nodes: tuple[str, ...]) -> None:
    if not 1 <= len(nodes) <= MOST_NODES:
        raise RecordError(f"a ring has 1 to {MOST_NODES} nodes, not {len(nodes)}")
    if len(set(nodes)) != len(nodes):
        raise RecordError("an id stands twice in the ring")


def _change(value: object) -> Change:
    if isinstance(value, Mapping):
        kinds = [kind for kind in ("add", "drain") if kind in value]
        since, clean = value.get("since", 0), value.get("clean", False)
        abort = value.get("abort", False)
        if len(kinds) == 1 and _is_count(since) and isinstance(clean, bool):
            kind = cast(Literal["add", "drain"], kinds[0])
            return Change(kind, check_id(value[kind]), since, clean, abort is True)
    raise RecordError("the record of the ring has a change that is none")


def _object(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > MOST_BYTES:
        raise RecordError(f"{what} is too long: {len(data)} bytes")
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()  # halves of a character are refused
    except (ValueError, RecursionError):
        raise RecordError(f"{what} is no JSON") from None
    if not isinstance(value, dict) or b"\\u0000" in data:  # a text with a NUL ends there in C
        raise RecordError(f"{what} is no JSON object")
    return value


def _number(text: str) -> float:
    """JSON has one kind of numbers, of any length: 7.0 is 7, for the servers' module, too."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST_EPOCH
