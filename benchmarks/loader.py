"""The loader of `mmapcache sync`, run round by round from a benchmark.

Nothing of it is replaced but where it sleeps: between two rounds it waits for the benchmark, so
that a round can be timed while a plain cursor is drained between rounds.
"""

from __future__ import annotations

import threading
from pathlib import Path

import mmapcache
from mmapcache.sync.errors import StopError
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.loader import Loader
from mmapcache.sync.mongo.source import MongoSource
from mmapcache.sync.options import CollectionOptions, Options


class _SteppedInbox(Inbox):
    """Sleeps until it is told to go on; counts the rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Semaphore(0)
        self.done = threading.Semaphore(0)
        self.stopping = False

    def sleep(self, seconds: float) -> bool:
        """One round is over; wait for the next to be wanted."""
        self.done.release()
        self.go.acquire()
        if self.stopping:
            raise StopError("the benchmark ended")
        return False


class SteppedLoader:
    """A loader of one collection in a thread; each `round` is one load or refresh, whole."""

    def __init__(self, path: Path, uri: str, origin: str, max_size: int) -> None:
        """Prepare to load `origin` ("db.collection") into the collection `settings` of `path`."""
        database, collection = origin.split(".")
        options = Options(
            path=str(path),
            uri=uri,
            collections=(CollectionOptions(database, collection, "settings"),),
            max_size=str(max_size),
            progress=False,
        )
        self.path = path
        self._inbox = _SteppedInbox()
        loader = Loader(options, MongoSource(options), self._inbox, bar=False)
        self._thread = threading.Thread(target=loader.run, daemon=True)

    def round(self) -> None:
        """The first load, or a refresh; returns when it is published."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._inbox.go.release()
        while not self._inbox.done.acquire(timeout=0.5):
            if not self._thread.is_alive():
                raise RuntimeError("the loader ended; its log says why")

    def check(self, documents: int) -> int:
        """The generation of the cache, which must hold so many documents and no error."""
        with mmapcache.open(str(self.path)) as cache:
            error, found = cache.status()["error"], len(cache["settings"])
            if error or found != documents:
                raise AssertionError(f"{found} documents instead of {documents}; {error}")
            return cache.generation

    def close(self) -> None:
        """End the loader and wait for it."""
        self._inbox.stopping = True
        self._inbox.go.release()
        if self._thread.ident is not None:
            self._thread.join(30)
