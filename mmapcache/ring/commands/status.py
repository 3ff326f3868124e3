"""`mmapcache ring status`: nodes, state, keys, share of load, what is owed, epoch, agents."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmapcache.cli.output import DONE, emit, emit_json, moment_text, seconds_text, table
from mmapcache.ring.commands.nodes import (
    greetings,
    named,
    read_ring,
    ring_of,
    settings_of,
    zookeeper_of,
)
from mmapcache.ring.link import Links, RefusedError
from mmapcache.ring.record import Member, Record
from mmapcache.ring.sweep import Whose
from mmapcache.ring.wire import Lost

_SAMPLE = 20_000  # keys that are placed to say who has which share
_COUNTED = 1000  # owed keys of one node for another that are counted exactly


def run(args: argparse.Namespace) -> int:
    """The exit status."""
    settings = settings_of(args)
    agents: list[dict[str, Any]] = []
    if args.zookeeper is not None and args.path is None:
        with zookeeper_of(args) as zookeeper:
            record, members = read_ring(zookeeper)
            age: float | None = 0.0
            agents = _agents(zookeeper.agents())
    else:
        record, members, age = ring_of(args)
    links = Links(settings)
    try:
        said = describe(record, members, links)
    finally:
        links.close()
    said |= {"age": age, "agents": agents}
    if args.json:
        emit_json(said)
    else:
        _show(record, said, args.path)
    return DONE


def describe(record: Record, members: Mapping[str, Member], links: Links) -> dict[str, Any]:
    """The ring as JSON."""
    shares = _shares(record)
    rows = []
    for name, greeting in greetings(record, members, links).items():
        member = members.get(name)
        row: dict[str, Any] = {
            "id": name,
            "address": member.address if member else None,
            "state": member.state if member else "gone",
            "since": member.since / 1000 if member and member.since else None,
            "role": "member" if name in record.nodes else "change",
            "share": round(shares.get(name, 0.0), 4),
        }
        if name not in record.everybody:
            row["role"] = row["state"] = "spare"
        if isinstance(greeting, str):
            row["trouble"] = greeting
        else:
            row |= {"state": greeting.get("state"), "epoch": greeting.get("epoch")}
            row |= {"final": greeting.get("final") == 1}
            if member is not None:
                row |= _asked(record, name, member, links)
        rows.append(row)
    return {"epoch": record.epoch, "step": record.step, **record.plain(), "members": rows}


def _asked(record: Record, name: str, member: Member, links: Links) -> dict[str, Any]:
    """Keys, and what is noted there for others."""
    link = links.to(name, member.address)
    others = [each for each in record.everybody if each != name]
    try:
        keys, *owed = link.calls([("DBSIZE",), *[("RING.OWED", n, _COUNTED) for n in others]])
    except (Lost, RefusedError) as error:
        return {"trouble": str(error)}
    notes: dict[str, Any] = {}
    for node, reply in zip(others, owed, strict=True):
        if isinstance(reply, list) and reply:
            notes[node] = len(reply) // 2
        elif str(reply).startswith("OVERFLOW"):
            notes[node] = "more than 100,000"
    return {"keys": keys if isinstance(keys, int) else None, "owed": notes}


def _shares(record: Record) -> dict[str, float]:
    """The part of all reads that each node has when all are there."""
    whose = Whose(record)
    primaries = Counter(whose.pair(b"sample:%d" % number)[0] for number in range(_SAMPLE))
    return {name: primaries[name] / _SAMPLE for name in record.everybody}


def _agents(found: Mapping[str, bytes]) -> list[dict[str, Any]]:
    agents = []
    for name, data in sorted(found.items()):
        try:
            text = json.loads(data)
        except ValueError:
            text = {}
        agents.append({**(text if isinstance(text, dict) else {}), "name": name})
    return agents


def _show(record: Record, said: dict[str, Any], path: str | None) -> None:
    known = "as ZooKeeper has it"
    if path is not None:
        known = f"as the agent knew it {seconds_text(said['age'])} ago"
    nodes = "1 node" if len(record.nodes) == 1 else f"{len(record.nodes)} nodes"
    emit(f"epoch {record.epoch}, {nodes}, {known}")
    if record.change is not None:
        since = moment_text(record.change.since / 1000)
        doing = "is being given up; it began" if record.change.abort else "is under way since"
        emit(f"{record.change.kind} {record.change.node} {doing} {since}: {record.step}")
    rows = []
    for row in said["members"]:
        owed = ", ".join(f"{count} for {node}" for node, count in row.get("owed", {}).items())
        rows.append(
            [
                row["id"],
                row["address"] or "unknown",
                str(row["state"]) + ("" if row["role"] != "change" else " (change)"),
                f"{row['keys']:,}" if isinstance(row.get("keys"), int) else "?",
                f"{row['share']:.1%}",
                str(row.get("epoch", "?")),
                owed or "0",
                seconds_text(time.time() - row["since"]) if row["since"] else "?",
            ]
        )
    head = ["id", "address", "state", "keys", "share", "epoch", "owed to others", "for"]
    for line in table(head, rows):
        emit(line)
    for row in said["members"]:
        if "trouble" in row:
            emit(named(row["id"], row["trouble"]))
    for agent in said["agents"]:
        task = agent.get("task") or "idle"
        leads = "leads" if agent.get("leads") else "stands by"
        emit(f"agent {agent['name']}: {leads}, {task}, lag {agent.get('lag', 0)} s")
    if path is None and not said["agents"]:
        emit("no agent is there: nodes that join stay so, and no change goes on")
