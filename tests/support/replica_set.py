"""A loader that follows a server's change streams, and what both have."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmapcache
from support import live
from support.loader import Loader, wait_for
from support.mongodb_server import Server

if TYPE_CHECKING:
    from pymongo.collection import Collection
    from pymongo.database import Database


# A loader to which few changes are as many as others think 20,000 to be.
FEW = """
import mmapcache.sync.following
mmapcache.sync.following._BEHIND = 50
"""
# And so few events in a reply, and ahead of those that are applied.
FEW_AT_ONCE = (
    FEW
    + """
import mmapcache.sync.mongo.stream
mmapcache.sync.mongo.stream._BATCH = mmapcache.sync.mongo.stream._QUEUED = 10
"""
)


def patched(directory: Path, code: str) -> dict[str, str]:
    """The environment of a loader in which some code has run before its own.

    :param directory: made here; also where the code finds its files, as `here`
    """
    directory.mkdir()
    head = "import pathlib\nhere = pathlib.Path(__file__).parent\n"
    (directory / "sitecustomize.py").write_text(head + code)
    path = os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path}


@contextmanager
def database_of(server: Server, cache_path: Path) -> Iterator[Database[dict[str, Any]]]:
    """A database of the test's own."""
    from pymongo import MongoClient

    with MongoClient[dict[str, Any]](server.uri) as client:
        database = client[cache_path.parent.name.replace("-", "_")]
        yield database
        client.drop_database(database.name)


@contextmanager
def following(
    path: Path,
    server: Server,
    *flags: str,
    environment: dict[str, str] | None = None,
    state: str = "streaming",
) -> Iterator[tuple[Loader, mmapcache.Cache]]:
    """A loader that has reached a state, and its cache."""
    usual = ["--reload-spread=0"]
    with live.following(
        path, server.uri, *flags, state=state, usual=usual, environment=environment
    ) as both:
        yield both


def cached(cache: mmapcache.Cache, name: str) -> list[bytes]:
    """One generation of a collection, byte for byte, in the order of the bytes."""
    with cache.snapshot() as snapshot:
        if name not in snapshot:
            return []
        return sorted(snapshot[name].get_raw(key) or b"" for key in snapshot[name])


def stored(
    collection: Collection[dict[str, Any]], query: Mapping[str, Any] | None = None
) -> list[bytes]:
    """The same of the server's collection."""
    found = [bytes(d.raw) for d in collection.with_options(_raw()).find(query or {})]
    return sorted(found)


def _raw() -> Any:
    from bson.codec_options import CodecOptions
    from bson.raw_bson import RawBSONDocument

    return CodecOptions(document_class=RawBSONDocument)


def equal(
    cache: mmapcache.Cache,
    collection: Collection[dict[str, Any]],
    query: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
) -> None:
    """Waits until the cache has what the server has now.

    :param query: what the loader's filter lets through
    :param name: the collection's in the cache, if it is another one
    """
    expected = stored(collection, query)
    try:
        wait_for(lambda: cached(cache, name or collection.name) == expected)
    except AssertionError:
        found = cached(cache, name or collection.name)
        extra, missing = set(found) - set(expected), set(expected) - set(found)
        raise AssertionError(
            f"{collection.name}: {len(found)} documents, not {len(expected)}; {len(extra)} that "
            f"the server has not: {list(extra)[:3]}; {len(missing)} that it has: "
            f"{list(missing)[:3]}; {cache.status()}"
        ) from None


def settled(cache: mmapcache.Cache, still: float = 0.5) -> int:
    """The generation, when there has been no other one for some seconds."""
    generation, since = cache.generation, time.monotonic()
    while time.monotonic() - since < still:
        if cache.wait(generation, 0.05):
            generation, since = cache.generation, time.monotonic()
    return generation


@contextmanager
def repeatedly(work: Callable[[int], object]) -> Iterator[threading.Thread]:
    """Calls `work(0)`, `work(1)`, … in a thread; what it raises is raised at the end."""
    over = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        number = 0
        try:
            while not over.is_set():
                work(number)
                number += 1
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]
