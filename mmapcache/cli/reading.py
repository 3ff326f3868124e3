"""Reading a whole cache from one generation, also while a loader replaces it.

A loader reclaims what a superseded generation used after about a second, so printing a large
collection straight from a snapshot would often end in SnapshotExpired. `gather` therefore copies
first and prints later: one pass over the map, repeated on a newer generation if it was too slow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import mmapcache
from mmapcache.cli.output import CommandError

_ATTEMPTS: Final = 5  # at a generation that the loader reclaims while it is read
_T = TypeVar("_T")


class Gathered(NamedTuple):
    """Documents of some collections, all from `generation`; each is (key, BSON bytes)."""

    generation: int
    collections: dict[str, list[tuple[object, bytes]]]


def gather(cache: mmapcache.Cache, names: Sequence[str] | None = None) -> Gathered:
    """Every document of the collections `names` (all of them for None), copied out of the map.

    Needs as much private memory as the documents are long. Raises CommandError for a collection
    that is not there and SnapshotExpired when the loader was faster `_ATTEMPTS` times.
    """

    def read(snap: mmapcache.Snapshot) -> Gathered:
        wanted = sorted(snap) if names is None else list(names)
        for name in wanted:
            require_collection(snap, name, cache.path)
        return Gathered(snap.generation, {name: _documents(snap[name]) for name in wanted})

    return steady(cache, read)


def counts(cache: mmapcache.Cache) -> dict[str, int]:
    """How many documents each collection has, all of one generation, by sorted names."""
    return steady(cache, lambda snap: {name: len(snap[name]) for name in sorted(snap)})


def steady(cache: mmapcache.Cache, read: Callable[[mmapcache.Snapshot], _T]) -> _T:
    """What `read` gives of one generation.

    Raises SnapshotExpired when the loader was faster `_ATTEMPTS` times.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(mmapcache.SnapshotExpired), cache.snapshot() as snap:
            return read(snap)
    with cache.snapshot() as snap:
        return read(snap)


def _documents(collection: mmapcache.Collection) -> list[tuple[object, bytes]]:
    found: list[tuple[object, bytes]] = []
    for key in collection:
        raw = collection.get_raw(key)
        if raw is not None:
            found.append((key, raw))
    return found


def require_collection(
    names: mmapcache.Cache | mmapcache.Snapshot, name: str, path: str | None
) -> None:
    """Raises CommandError, naming the collections that there are, unless `name` is one."""
    if name not in names:
        there = ", ".join(sorted(names)) or "none"
        raise CommandError(f"{path}: there is no collection {name!r} (there are: {there})")
