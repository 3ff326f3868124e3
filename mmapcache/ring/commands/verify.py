"""`mmapcache ring verify` and `repair`: whether all copies are alike, and making them so."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from mmapcache.cli.output import DONE, FAILED, CommandError, emit, emit_json
from mmapcache.ring.commands.nodes import greetings, named, read_ring, settings_of, zookeeper_of
from mmapcache.ring.commands.showing import Bar
from mmapcache.ring.connecting import SERVING
from mmapcache.ring.link import Link, Links
from mmapcache.ring.record import Member, Record
from mmapcache.ring.sweep import Pace, Sweep, TooSlowError
from mmapcache.ring.wire import version_of

_TRIES = 3  # looks at a copy that differs: a write may be under way
_BETWEEN = 0.3  # seconds between them
_MOST_ODD = 10_000  # keys that differ, which are looked at again together
_PACKET = 500
_EXAMPLES = 10


@dataclass(slots=True)
class Found:
    """What was seen, in keys.

    :param missing: a holder has nothing; `differ`: two holders have other versions
    :param leftover: copies on nodes that do not hold the key
    """

    keys: int = 0
    alike: int = 0
    missing: int = 0
    differ: int = 0
    leftover: int = 0
    brought: int = 0
    removed: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Every holder has the same."""
        return not (self.missing or self.differ or self.leftover)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 when copies differ, and were not repaired."""
    repair = args.ring_command == "repair" and not args.dry_run
    settings = settings_of(args)
    with zookeeper_of(args) as zookeeper:
        record, members = read_ring(zookeeper)
    links = Links(settings)
    try:
        nodes = _nodes(record, members, links)
        found = look(record, nodes, rate=args.rate, repair=repair, shown=sys.stderr.isatty())
    except TooSlowError:
        raise CommandError(
            "it takes longer than deletions are remembered: a higher --rate"
        ) from None
    finally:
        links.close()
    if args.json:
        emit_json({**found.plain(), "whole": found.whole, "repaired": repair})
    else:
        _show(found, repair)
    return DONE if repair or found.whole else FAILED


def _nodes(record: Record, members: dict[str, Member], links: Links) -> dict[str, Link]:
    """All nodes, which must all be there.

    :raises CommandError: one is not
    """
    found = {}
    for name, said in greetings(record, members, links).items():
        if name not in record.everybody:
            continue
        if isinstance(said, str):
            raise CommandError(f"{named(name, said)}; all nodes must be there")
        if said.get("state") not in SERVING or said.get("epoch") != record.epoch:
            raise CommandError(
                f"{name} is {said.get('state')} at epoch {said.get('epoch')}; all nodes must serve "
                f"at epoch {record.epoch}"
            )
        found[name] = links.to(name, members[name].address)
    return found


def look(
    record: Record, nodes: dict[str, Link], *, rate: float, repair: bool, shown: bool = False
) -> Found:
    """Compares, and (`repair`) brings every copy to the highest version and removes leftovers.

    :raises Lost: a node was lost meanwhile
    :raises TooSlowError: it takes too long
    """
    found = Found()
    total = sum(int(link.call("DBSIZE")) for link in nodes.values())
    bar = Bar("repair" if repair else "verify", shown=shown)

    def pause(seconds: float) -> None:
        bar.at("", sweep.looked_at, total)
        time.sleep(seconds)

    sweep = Sweep(record, nodes, Pace(rate), pause)
    odd: dict[bytes, None] = {}
    try:
        for source in nodes:
            for keys in sweep.keys(source):
                odd.update(dict.fromkeys(_compare(sweep, source, keys, found)))
                _leftovers(sweep, source, keys, found, repair)
                if len(odd) >= _MOST_ODD:
                    _settle(sweep, odd, found, repair)
        _settle(sweep, odd, found, repair)
    finally:
        bar.close()
    return found


def _compare(sweep: Sweep, source: str, keys: list[bytes], found: Found) -> list[bytes]:
    """Those of the keys whose copies differ. A key is counted where its primary has it."""
    holders = sweep.whose.holders
    mine = [key for key in keys if source in holders(key)]
    odd = []
    for key, there in _copies(sweep, mine).items():
        if not _alike(there, holders(key)):
            odd.append(key)
        elif holders(key)[0] == source:
            found.keys += 1
            found.alike += 1
    return odd


def _settle(sweep: Sweep, odd: dict[bytes, None], found: Found, repair: bool) -> None:
    """Counts, and repairs, keys that still differ when a write that was under way has ended."""
    holders = sweep.whose.holders
    for begin in range(0, len(odd), _PACKET):
        left = list(odd)[begin : begin + _PACKET]
        for attempt in range(_TRIES):
            copies = _copies(sweep, left)
            found.keys += len(left)
            left = [key for key in left if not _alike(copies[key], holders(key))]
            found.keys -= len(left)
            if not left or attempt == _TRIES - 1:
                break
            time.sleep(_BETWEEN)
        wanted: dict[str, list[tuple[bytes, bytes]]] = {}
        for key in left:
            there = copies[key]
            found.keys += 1
            _note(found, key, there, holders(key))
            best = max(there.values(), key=version_of)
            for name in holders(key):
                if there.get(name) != best:
                    wanted.setdefault(name, []).append((key, best))
        if repair:
            for name, entries in wanted.items():
                found.brought += sweep.fill(name, entries)
    found.alike = found.keys - found.missing - found.differ
    odd.clear()


def _leftovers(sweep: Sweep, source: str, keys: list[bytes], found: Found, repair: bool) -> None:
    holders = sweep.whose.holders
    strange = [key for key in keys if source not in holders(key)]
    if not strange:
        return
    entries = sweep.dump(source, strange)
    found.leftover += len(entries)
    if repair:
        wanted: dict[str, list[tuple[bytes, bytes]]] = {}
        for key, entry in entries.items():
            for name in holders(key):
                wanted.setdefault(name, []).append((key, entry))
        for name, some in wanted.items():
            found.brought += sweep.fill(name, some)
        found.removed += sweep.drop(source, entries)


def _copies(sweep: Sweep, keys: list[bytes]) -> dict[bytes, dict[str, bytes]]:
    """What each holder has of the keys."""
    copies: dict[bytes, dict[str, bytes]] = {key: {} for key in keys}
    asked: dict[str, list[bytes]] = {}
    for key in keys:
        for name in sweep.whose.holders(key):
            asked.setdefault(name, []).append(key)
    for name, some in asked.items():
        for key, entry in sweep.dump(name, some).items():
            copies[key][name] = entry
    return copies


def _alike(there: dict[str, bytes], holders: tuple[str, ...]) -> bool:
    """Whether all have the same; or nobody anything, as it ended meanwhile."""
    return not there or (len(there) == len(holders) and len(set(there.values())) == 1)


def _note(found: Found, key: bytes, there: dict[str, bytes], holders: tuple[str, ...]) -> None:
    if len(there) < len(holders):
        found.missing += 1
    else:
        found.differ += 1
    if len(found.examples) < _EXAMPLES:
        found.examples.append(key.decode("utf-8", "backslashreplace"))


def _show(found: Found, repair: bool) -> None:
    emit(
        f"{found.keys:,} keys: {found.alike:,} alike, {found.missing:,} without a copy, "
        f"{found.differ:,} with copies that differ; {found.leftover:,} leftovers"
    )
    if found.examples:
        emit("such as: " + ", ".join(found.examples))
    if repair:
        emit(f"{found.brought:,} copies were brought, {found.removed:,} leftovers removed")
