"""A loader that follows a change stream, what is in its cache, and a reader of each generation."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmapcache
from support.loader import PATIENCE, Loader, wait_for
from support.scripted_oplog import ReplicaSet

Content = dict[str, dict[Any, dict[str, Any]]]  # collection -> _id -> document

# Nothing waits for the rest of a fleet here.
FOLLOW = ["--reload-spread=0", "--interval=0.2", "--batch-size=10"]

# The pauses of PyMongo and of the loader, shortened: thousands of faults in seconds.
IMPATIENT = (
    "-c",
    """
import sys
from pymongo import common
common.MIN_HEARTBEAT_INTERVAL = 0.002
from mmapcache.sync.backoff import Backoff
Backoff.__init__.__defaults__ = (0.01, 0.02, None)
from mmapcache.sync import loader
loader.STREAMS_AGAIN = 1.0
sys.argv[0] = "mmapcache"
from mmapcache.__main__ import main
sys.exit(main())
""",
)


def content(cache: mmapcache.Cache) -> Content:
    """All of one generation, as plain objects."""
    with cache.snapshot() as snapshot:
        return {
            name: {key: document.to_dict() for key, document in snapshot[name].items()}
            for name in snapshot
        }


def truth(server: ReplicaSet, *names: str, database: str = "shop") -> Content:
    """What the server has; of those collections alone when some are named."""
    with server.changed:
        found: Content = {}
        for namespace, documents in server.collections.items():
            where, _, name = namespace.partition(".")
            if where == database and (not names or name in names):
                found[name] = {document["_id"]: dict(document) for document in documents}
        return found


def equal(cache: mmapcache.Cache, wanted: Content, when: str = "in the end") -> None:
    """Waits until the cache has exactly that."""
    try:
        wait_for(lambda: content(cache) == wanted)
    except AssertionError:
        found = content(cache)
        raise AssertionError(f"{when}: {found}, not {wanted}, {cache.status()}") from None


def in_state(cache: mmapcache.Cache, state: str) -> None:
    """Waits for a state; what the status says otherwise is in the failure."""
    try:
        wait_for(lambda: cache.status()["state"] == state)
    except AssertionError:
        raise AssertionError(f"not {state}: {cache.status()}") from None


def well(cache: mmapcache.Cache) -> None:
    """Waits for a loader that streams and has no error: both of one report."""

    def is_well() -> bool:
        status = cache.status()
        return status["state"] == "streaming" and status["error"] is None

    try:
        wait_for(is_well)
    except AssertionError:
        raise AssertionError(f"not well: {cache.status()}") from None


def loads(cache: mmapcache.Cache) -> dict[str, int]:
    """The reasons of the loads so far, those that are 0 left out."""
    return {reason: count for reason, count in cache.status()["loads"].items() if count}


@contextmanager
def following(
    path: Path,
    server: ReplicaSet | str,
    *flags: str,
    state: str = "streaming",
    program: Sequence[str] = ("-m", "mmapcache"),
    usual: Sequence[str] = FOLLOW,
    environment: dict[str, str] | None = None,
) -> Iterator[tuple[Loader, mmapcache.Cache]]:
    """A loader in a state, with the cache that it made; its stream is open.

    :param server: where the data is; or a URI
    :param usual: flags before the others
    """
    uri = server if isinstance(server, str) else server.uri
    with (
        Loader(path, ["--uri", uri, *usual, *flags], environment, program) as loader,
        _opened(loader, path) as cache,
    ):
        in_state(cache, state)
        if state == "streaming" and isinstance(server, ReplicaSet):
            wait_for(lambda: server.streams)
        yield loader, cache
        assert loader.process.poll() in (None, 0, -9), "the loader has ended by itself"
        assert "Traceback" not in loader.output


@contextmanager
def _opened(loader: Loader, path: Path) -> Iterator[mmapcache.Cache]:
    def ready() -> mmapcache.Cache | None:
        if loader.process.poll() is not None:
            raise AssertionError(f"the loader has ended with {loader.process.returncode}")
        try:
            return mmapcache.open(path, timeout=0.2)
        except mmapcache.NotReadyError:
            return None

    with wait_for(ready) as cache:
        yield cache


class Reader:
    """Reads each generation that it can, in a thread of its own: `seen` has them in order."""

    def __init__(self, path: Path) -> None:
        self.seen: list[tuple[int, Content]] = []
        self._cache = mmapcache.open(path, timeout=PATIENCE)
        self._over = False
        self._thread = threading.Thread(target=self._run)
        self._read()

    def _read(self) -> None:
        with self._cache.snapshot() as snapshot:
            generation = snapshot.generation
            found = {
                name: {key: document.to_dict() for key, document in snapshot[name].items()}
                for name in snapshot
            }
        if not self.seen or generation != self.seen[-1][0]:
            self.seen.append((generation, found))

    def _run(self) -> None:
        while not self._over:
            if self._cache.wait(self.seen[-1][0], 0.05):
                self._read()

    def states(self) -> list[Content]:
        """What it saw, without repetitions."""
        found = [self.seen[0][1]]
        for _, state in self.seen[1:]:
            if state != found[-1]:
                found.append(state)
        return found

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over = True
        self._thread.join()
        self._read()
        self._cache.close()


def log_lines(loader: Loader, *words: str) -> list[str]:
    """The lines of its log that have all of the words."""
    return [line for line in loader.output.splitlines() if all(word in line for word in words)]


def json_lines(loader: Loader) -> list[dict[str, Any]]:
    """The same as objects, of a loader with --log-format=json."""
    lines = loader.output.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
