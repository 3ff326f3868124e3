"""The ring in a mmapcache file: the agent writes it, every worker of the host reads it.

One collection, `ring`. The document `record` has epoch, nodes and change, as in ZooKeeper; a
document `node/ID` for each server that is known has address, run_id, state and since. How old that
is says the file's own status: the agent confirms it for as long as it hears from ZooKeeper.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import mmapcache
from mmapcache.ring.errors import RingNotReady
from mmapcache.ring.record import Member, Record, RecordError, member_of, record_of

COLLECTION = "ring"
_RECORD = "record"
_NODE = "node/"
_ATTEMPTS = 5  # at a generation that is replaced while it is read


def publish(writer: mmapcache.Writer, record: Record, members: Iterable[Member]) -> bool:
    """Makes the file say this, in one commit; whether that changed anything."""
    documents: dict[str, dict[str, Any]] = {_RECORD: record.plain()}
    documents.update((_NODE + member.id, member.plain()) for member in members)
    with writer.batch() as batch, batch.replace(COLLECTION) as collection:
        for key, document in documents.items():
            collection.put(key, {"_id": key, **document})
    return batch.generation is not None


def read(
    cache: mmapcache.Cache | mmapcache.Snapshot,
) -> tuple[Record, dict[str, Member]] | None:
    """What the file says; None: it has no ring.

    :raises RecordError: it says something else
    """
    collection = cache.get(COLLECTION)
    record = None if collection is None else collection.get(_RECORD)
    if collection is None or record is None:
        return None
    members = {}
    for key in collection:
        if isinstance(key, str) and key.startswith(_NODE):
            node = key.removeprefix(_NODE)
            members[node] = member_of(node, collection[key].to_dict())
    return record_of(record.to_dict()), members


class Published:
    """The ring that a file has now; any thread, before or after a fork.

    :param path: of the agent's file; it may come later
    :param owner: the agent's user, where it is neither root nor oneself
    """

    def __init__(self, path: str, *, owner: int | str | None = None) -> None:
        self.path = path
        self._owner = owner
        self._cache: mmapcache.Cache | None = None
        self._lock = threading.Lock()

    @property
    def generation(self) -> int:
        """Another number when something may have changed; 0: nothing is published."""
        cache = self._cache
        return 0 if cache is None else cache.generation

    def read(self) -> tuple[int, Record, Mapping[str, Member]]:
        """A generation, and what it says.

        :raises RingNotReady: nothing is published
        :raises RecordError: what is published is no ring
        :raises mmapcache.MmapCacheError: the file cannot be used
        """
        cache = self._opened()
        for _ in range(_ATTEMPTS):
            try:
                with cache.snapshot() as snapshot:
                    generation = snapshot.generation
                    found = read(snapshot)
            except mmapcache.SnapshotExpired:
                continue
            if found is None:
                break
            return generation, *found
        raise RingNotReady(_none(self.path))

    def age(self) -> float | None:
        """Seconds since the agent last knew it to be current; None: it never said.

        :raises RingNotReady: nothing is published
        """
        return self._opened().status()["age"]

    def close(self) -> None:
        """Lets go of the file; harmless twice."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    def _opened(self) -> mmapcache.Cache:
        cache = self._cache
        if cache is not None:
            return cache
        with self._lock:
            if self._cache is None:
                try:
                    self._cache = mmapcache.open(self.path, owner=self._owner)
                except (mmapcache.NotReadyError, FileNotFoundError):
                    raise RingNotReady(_none(self.path)) from None
            return self._cache

    def after_fork(self) -> None:
        """In the child: a thread of the parent's may have kept the lock."""
        self._lock = threading.Lock()


def _none(path: str) -> str:
    return f"{path}: no ring is published there; is `mmapcache ring agent {path} …` running?"


__all__ = ["Published", "RecordError", "publish", "read"]
