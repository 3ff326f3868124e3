"""`mmapcache ring init`, `add` and `drain`: the record of the ring, by compare-and-set."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, Literal

from mmapcache.cli.output import DONE, CommandError, complain, emit, emit_json
from mmapcache.ring.commands.nodes import read_ring, zookeeper_of
from mmapcache.ring.commands.showing import Bar
from mmapcache.ring.record import Record, RecordError, new_ring
from mmapcache.ring.sweep import Whose
from mmapcache.ring.zookeeper import AwayError, ZooKeeper

_SAMPLE = 20_000  # keys that are placed to say how much moves
_LOOK = 0.25  # seconds between two looks at a change


def run(args: argparse.Namespace) -> int:
    """The exit status."""
    try:
        with zookeeper_of(args) as zookeeper:
            if args.ring_command == "init":
                return _init(args, zookeeper)
            return _change(args, zookeeper)
    except RecordError as error:
        raise CommandError(str(error)) from None


def _init(args: argparse.Namespace, zookeeper: ZooKeeper) -> int:
    record = new_ring(args.ids)
    if not args.dry_run and not zookeeper.create(record):
        raise CommandError(f"there is a ring at {zookeeper.place.text} already")
    if args.json:
        emit_json({**record.plain(), "dry_run": args.dry_run})
    else:
        would = "would begin" if args.dry_run else "begins"
        emit(f"a ring {would} at {zookeeper.place.text}: {', '.join(record.nodes)}")
    return DONE


def moving(before: Record, after: Record) -> tuple[float, float]:
    """Which part of the copies is written anew, and which part of the keys has another primary."""
    old, new = Whose(before), Whose(after)
    copies = primaries = 0
    for number in range(_SAMPLE):
        key = b"sample:%d" % number
        was, will = old.pair(key), new.pair(key)
        copies += len(set(will) - set(was))
        primaries += was[0] != will[0]
    return copies / _SAMPLE / len(new.pair(b"")), primaries / _SAMPLE


def _change(args: argparse.Namespace, zookeeper: ZooKeeper) -> int:
    record, members = read_ring(zookeeper)
    kind: Literal["add", "drain"] = args.ring_command
    change = record.change
    under_way = change is not None and (change.kind, change.node) == (kind, args.id)
    if args.abort:
        return _abort(args, zookeeper, record.give_up(kind, args.id))
    if under_way:
        complain("ring", f"{kind} {args.id} is under way already: {record.step}")
        changed = record
    else:
        changed = record.begin(kind, args.id, time.time_ns() // 1_000_000)
        if kind == "add" and args.id not in members:
            there = ", ".join(sorted(members.keys() - set(record.nodes))) or "none"
            raise CommandError(
                f"no server with the id {args.id} is registered (spare ones: {there}): start it "
                "first"
            )
    copies, primaries = moving(Record(1, record.nodes), Record(1, _after(changed)))
    said: dict[str, Any] = {
        "change": kind,
        "node": args.id,
        "copies_moved": round(copies, 4),
        "primaries_moved": round(primaries, 4),
        "epoch": changed.epoch,
        "dry_run": args.dry_run,
    }
    if args.dry_run:
        _say(args, said, f"would {kind} {args.id}: {copies:.1%} of all copies would be written")
        return DONE
    if not under_way and not zookeeper.replace(changed, zookeeper.seen.version):
        raise CommandError("the ring was changed by somebody else at the same moment: look again")
    begun = f"{kind} {args.id} has begun: {copies:.1%} of all copies are written"
    seconds = _finish(args, zookeeper, changed, said, begun)
    if seconds is None:
        return DONE
    now = zookeeper.seen.record
    given_up = now is not None and (args.id in now.nodes) == (kind == "drain")
    if given_up:
        raise CommandError(f"{kind} {args.id} was given up meanwhile: the members are as before")
    _say(args, said, f"{kind} {args.id} is complete after {seconds:.1f} s")
    return DONE


def _abort(args: argparse.Namespace, zookeeper: ZooKeeper, changed: Record) -> int:
    what = f"{args.ring_command} {args.id}"
    said: dict[str, Any] = {
        "change": args.ring_command,
        "node": args.id,
        "abort": True,
        "epoch": changed.epoch,
        "dry_run": args.dry_run,
    }
    if args.dry_run:
        _say(args, said, f"would give up {what}")
        return DONE
    if changed != zookeeper.seen.record and not zookeeper.replace(changed, zookeeper.seen.version):
        raise CommandError("the ring was changed by somebody else at the same moment: look again")
    seconds = _finish(args, zookeeper, changed, said, f"{what} is being given up")
    if seconds is not None:
        _say(args, said, f"{what} is given up after {seconds:.1f} s: the members are as before")
    return DONE


def _finish(
    args: argparse.Namespace,
    zookeeper: ZooKeeper,
    changed: Record,
    said: dict[str, Any],
    begun: str,
) -> float | None:
    """Waits for the agents; seconds, None: it is not to be waited for, and `begun` was said."""
    if zookeeper.leader() is None:
        complain("ring", "no agent leads now: the change goes on when one runs")
    if args.detach:
        _say(args, said, begun)
        return None
    seconds = _wait(zookeeper, changed)
    said |= {"epoch": zookeeper.seen.record.epoch if zookeeper.seen.record else 0}
    said |= {"seconds": round(seconds, 3)}
    return seconds


def _after(record: Record) -> tuple[str, ...]:
    """The nodes when the change is complete."""
    assert record.change is not None
    if record.step == "filling":
        return record.other or record.nodes
    return record.nodes


def _wait(zookeeper: ZooKeeper, record: Record) -> float:
    """Until the change is complete, or given up; seconds."""
    began = time.monotonic()
    assert record.change is not None
    mine = (record.change.kind, record.change.node, record.change.since)
    bar = Bar(f"{record.change.kind} {record.change.node}", shown=sys.stderr.isatty())
    try:
        while True:
            zookeeper.refresh()
            now = zookeeper.seen.record
            change = None if now is None else now.change
            if now is not None and (
                change is None or (change.kind, change.node, change.since) != mine
            ):
                return time.monotonic() - began
            for text in _agents(zookeeper):
                if text.get("leads"):
                    step = now.step if now is not None else ""
                    bar.at(step, _count(text, "done"), _count(text, "total"))
            time.sleep(_LOOK)
    except KeyboardInterrupt:
        complain("ring", "not waited for any longer; the agents complete the change")
        raise
    finally:
        bar.close()


def _agents(zookeeper: ZooKeeper) -> list[dict[str, Any]]:
    found = []
    try:
        for data in zookeeper.agents().values():
            text = json.loads(data)
            if isinstance(text, dict):
                found.append(text)
    except (ValueError, AwayError):
        return []
    return found


def _count(text: dict[str, Any], name: str) -> int:
    value = text.get(name)
    return value if isinstance(value, int) else 0


def _say(args: argparse.Namespace, said: dict[str, Any], sentence: str) -> None:
    if args.json:
        emit_json(said)
    else:
        emit(sentence)
