"""``mmapcache watch PATH``: each new generation and what changed in it, as it happens.

    wait(generation) -> walk the new one -> compare with the digests of the one before -> print

A digest is one 64-bit hash of a document's bytes, so that comparing needs neither the documents of
the generation before nor its snapshot, which the loader may have reclaimed. Generations that follow
each other faster than a walk takes are reported as one step, with how many it spans; a loader that
leaves no time for any walk is reported without what changed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import select
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import mmapcache
from mmapcache.cli import streams
from mmapcache.cli.extjson import dumps, key_text, key_to_extended
from mmapcache.cli.output import DONE, add_opening, ago_text, emit, emit_json, open_cache
from mmapcache.cli.reading import steady
from mmapcache.last_change import changed_before

_POLL_SECONDS: Final = 0.5
_Digests = dict[str, dict[object, "_Digest"]]


class _Digest(NamedTuple):
    key: object
    content: int


@dataclass
class _Change:
    """The keys of one collection that differ between two generations."""

    added: list[object] = field(default_factory=list)
    changed: list[object] = field(default_factory=list)
    removed: list[object] = field(default_factory=list)
    appeared: bool = False
    vanished: bool = False

    def __bool__(self) -> bool:
        keys = self.added or self.changed or self.removed
        return bool(keys or self.appeared or self.vanished)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("path", help="the cache file")
    parser.add_argument("--json", action="store_true", help="one JSON object per event")
    parser.add_argument("--count", type=int, metavar="N", help="end after N new generations")
    parser.add_argument(
        "--keys", type=int, default=5, metavar="N", help="name at most N keys per kind of change"
    )
    add_opening(parser)


def run(args: argparse.Namespace) -> int:
    """Prints until --count generations were seen, a signal comes or nobody reads any more."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with open_cache(args) as cache:
            _watch(cache, args)
    except KeyboardInterrupt:
        pass
    return DONE


def _nobody_reads() -> bool:
    """True when stdout is a pipe whose other end was closed (`mmapcache watch ... | head -3`)."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _watch(cache: mmapcache.Cache, args: argparse.Namespace) -> None:
    generation, before = _digests(cache)
    loader = cache.status()["loader"]
    _print_start(cache, generation, before, loader, args.json)
    seen = 0
    while args.count is None or seen < args.count:
        if cache.wait(generation, _POLL_SECONDS):
            now, after = _digests(cache)
            if now != generation:
                changes = None if before is None or after is None else _compare(before, after)
                _print_step(generation, now, changes, args)
                seen += 1
            generation, before = now, after if after is not None else before
        current = cache.status()["loader"]
        if current != loader:
            _print_loader(current, args.json)
            loader = current
        if _nobody_reads():
            return


def _digests(cache: mmapcache.Cache) -> tuple[int, _Digests | None]:
    """The current generation and a digest of each of its documents; None when it was too fast."""
    generation = 0
    digests = None

    def read(snap: mmapcache.Snapshot) -> _Digests:
        nonlocal generation
        generation = snap.generation
        return {name: _digest(snap[name]) for name in snap}

    with contextlib.suppress(mmapcache.SnapshotExpired):
        digests = steady(cache, read)
    return generation, digests


def _digest(collection: mmapcache.Collection) -> dict[object, _Digest]:
    # Out of the map first: nothing else may take time while the loader can reclaim it.
    get_raw = collection.get_raw
    hashes = [(key, hash(get_raw(key))) for key in collection]
    return {_identity(key): _Digest(key, content) for key, content in hashes}


def _identity(key: object) -> object:
    """A hashable stand-in for `key`; unlike in a dict, 1 and True are two keys in MongoDB."""
    if type(key) in (str, int):
        return key
    return type(key).__name__, dumps(key_to_extended(key))


def _compare(before: _Digests, after: _Digests) -> dict[str, _Change]:
    changes: dict[str, _Change] = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, {}), after.get(name, {})
        change = _Change(
            added=[new[i].key for i in new.keys() - old.keys()],
            changed=[d.key for i, d in new.items() if i in old and old[i].content != d.content],
            removed=[old[i].key for i in old.keys() - new.keys()],
            appeared=name not in before,
            vanished=name not in after,
        )
        if change:
            changes[name] = change
    return changes


def _print_start(
    cache: mmapcache.Cache,
    generation: int,
    digests: _Digests | None,
    loader: str,
    as_json: bool,
) -> None:
    counts = {name: len(found) for name, found in sorted((digests or {}).items())}
    if as_json:
        event: dict[str, Any] = {"event": "start", "generation": generation}
        emit_json({**event, "loader": loader, "collections": counts})
    else:
        when = _changed(cache) if counts else {}
        held = ", ".join(f"{n} {count:,}{when.get(n, '')}" for n, count in counts.items())
        held = held or "nothing yet"
        emit(f"generation {generation}: {held}; loader {loader}")
    streams.flush()


def _changed(cache: mmapcache.Cache) -> dict[str, str]:
    """When each collection last changed, in parentheses; nothing when the loader is too fast."""
    try:
        entries, now = cache.catalogue(), time.time()
        before = changed_before(cache, entries)
    except mmapcache.SnapshotExpired:
        return {}
    return {
        name: f" (changed {ago_text(entry['changed_at'], before.get(name), now)})"
        for name, entry in entries.items()
    }


def _print_loader(loader: str, as_json: bool) -> None:
    if as_json:
        emit_json({"event": "loader", "loader": loader})
    else:
        emit(f"loader {loader}")
    streams.flush()


def _print_step(
    old: int, new: int, changes: dict[str, _Change] | None, args: argparse.Namespace
) -> None:
    if args.json:
        emit_json(
            {
                "event": "generation",
                "generation": new,
                "previous": old,
                "changes": None
                if changes is None
                else {name: _json_change(c, args.keys) for name, c in changes.items()},
            }
        )
    else:
        steps = f" ({new - old} generations in one step)" if new - old > 1 else ""
        emit(f"generation {new}{steps}{'' if changes else _nothing(changes)}")
        for name, change in (changes or {}).items():
            emit(f"  {name}: {_text_change(change, args.keys)}")
    streams.flush()


def _nothing(changes: dict[str, _Change] | None) -> str:
    return ": replaced before it was read" if changes is None else ": the same documents"


def _json_change(change: _Change, limit: int) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for kind in ("added", "changed", "removed"):
        keys: list[object] = getattr(change, kind)
        shown[kind] = {"count": len(keys), "keys": [key_to_extended(k) for k in keys[:limit]]}
    return {**shown, "appeared": change.appeared, "vanished": change.vanished}


def _text_change(change: _Change, limit: int) -> str:
    parts = []
    if change.appeared:
        parts.append("new collection")
    if change.vanished:
        parts.append("collection dropped")
    for sign, keys in (("+", change.added), ("~", change.changed), ("-", change.removed)):
        if keys:
            parts.append(f"{sign}{len(keys):,} {_named(keys, limit)}".rstrip())
    return ", ".join(parts)


def _named(keys: list[object], limit: int) -> str:
    if limit <= 0:
        return ""
    shown: Iterable[str] = map(key_text, itertools.islice(keys, limit))
    return "(" + " ".join(shown) + (" ..." if len(keys) > limit else "") + ")"
