"""A cache for tests, in memory: no loader, no MongoDB, no file to clean up.

    with mmapcache.testing.cache({"sites": {"9f3c": {"limits": {"qps": 20}}}}) as test:
        service = Service(test.cache)                          # a real mmapcache.Cache
        test.set("sites", "9f3c", {"limits": {"qps": 50}})     # a new generation
        test.stale(3600)                                       # status()["age"] is an hour

It is the extension's own reader and writer on memory that has no name, so that nothing is left
when a test is killed. With pytest the fixture `mmapcache_test` is an empty one; nothing has to be
imported for it. Files of Extended JSON need PyMongo: `pip install 'mmapcache[mongodb]'`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import mmapcache

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TestCache", "cache"]

# A dict, a Document, or BSON bytes.
Document: TypeAlias = "Mapping[str, Any] | bytes"
# Of one collection: by key, or a list of them, each with its _id; or a file of them.
Documents: TypeAlias = "Mapping[Any, Document] | Iterable[Document] | str | os.PathLike[str]"
# By the collection's name; or a directory with a file for each collection, or one such file.
Content: TypeAlias = "Mapping[str, Documents] | str | os.PathLike[str]"


def cache(
    content: Content | None = None, *, max_size: int | str = "64MiB", codec_options: Any = None
) -> TestCache:
    """A TestCache with that content, in one generation; a context manager.

    Any thread may make one, and each call makes another; what threads and forked children may do
    with it, TestCache says.

    :param content: `{"sites": {"9f3c": {...}}}`, `{"sites": [{"_id": "9f3c", ...}]}` or
        `{"sites": "sites.json"}`; or the path of a file or directory, as
        `mmapcache sync --source file:PATH` reads it: Extended JSON (.json, .jsonl, .ndjson: lines
        or an array) or mongodump's .bson, each the collection of its name
    :param max_size: bytes, or text like "64MiB"; what is not used costs nothing
    :param codec_options: of `.cache`, PyMongo's CodecOptions
    :raises FileNotFoundError: no such file
    :raises ValueError: a file is not what its suffix says, or a document has no _id
    :raises mmapcache.InvalidDocument: a value that BSON does not have
    :raises ValueError: there is Extended JSON and PyMongo is not installed, or it cannot be read
    """
    test = TestCache(max_size=max_size, codec_options=codec_options)
    try:
        if content is not None:
            test.load(content)
    except BaseException:
        test.close()
        raise
    return test


class TestCache:
    """A cache in memory that a test fills and changes; `cache()` makes one.

    Its loader is this process: `status()` says that it is alive and streaming, and each change is
    confirmed at once. A forked child reads it, and sees what its parent changes; only the process
    that made it changes it, one thread at a time. Leaving the `with` closes it.

    :param max_size: bytes, or text like "64MiB"
    :param codec_options: of `.cache`, PyMongo's CodecOptions
    """

    __test__ = False  # its name makes pytest look for tests in it

    cache: mmapcache.Cache
    """What the service under test reads."""
    writer: mmapcache.Writer
    """What is behind it, for what has no method here: `batch()`, `report(error="...")`."""

    def __init__(self, *, max_size: int | str = "64MiB", codec_options: Any = None) -> None:
        self.writer = mmapcache.Writer.anonymous(max_size=max_size, collapse=False)
        self.cache = self.writer.reader(codec_options=codec_options)
        self._opened: list[mmapcache.Cache] = []
        self._confirm()

    def set(self, collection: str, key: Any, document: Document) -> int:
        """Puts one document, in place of the one with that key; the new generation.

        A Mapping without an `_id` gets the key as its `_id`.
        """
        with self._batch() as batch:
            _put(batch, collection, key, document)
        return self.cache.generation

    def delete(self, collection: str, key: Any) -> int:
        """Removes one document; the new generation.

        :raises KeyError: there is none
        """
        with self._batch() as batch:
            if not batch.delete(collection, key):
                raise KeyError(f"the collection {collection!r} has no document {key!r}")
        return self.cache.generation

    def drop(self, collection: str) -> int:
        """Removes a collection with its documents; the new generation.

        :raises KeyError: there is none
        """
        with self._batch() as batch:
            if not batch.drop(collection):
                raise KeyError(f"there is no collection {collection!r}")
        return self.cache.generation

    def load(self, content: Content) -> int:
        """Adds content, all of it in one generation, as `cache()` takes it; the new generation.

        Collections that are there already keep their other documents.
        """
        with self._batch() as batch:
            if isinstance(content, (str, os.PathLike)):
                _put_files(batch, None, content)
            elif isinstance(content, Mapping):
                for name, documents in content.items():
                    _put_all(batch, name, documents)
            else:
                raise TypeError(
                    "the content of a cache is a Mapping of collections, or the path of a file or "
                    f"directory, not {type(content).__name__}"
                )
        return self.cache.generation

    def advance(self) -> int:
        """A new generation with the same content; its number."""
        with self._batch() as batch:
            batch.state = b"%d" % (self.cache.generation + 1)
        return self.cache.generation

    def stale(self, seconds: float) -> None:
        """Makes the data that old: `status()["age"]` is `seconds` and grows, until a change."""
        if seconds < 0:
            raise ValueError(f"stale({seconds}): give the age in seconds, 0 or more")
        self.writer.report(confirmed=time.time() - seconds)

    def open(
        self,
        path: object = None,
        timeout: float | None = 0.0,
        *,
        populate: bool = False,
        codec_options: Any = None,
        front_bytes: int | str = 16777216,
        front_entries: int | str = 16384,
        owner: int | str | None = None,
    ) -> mmapcache.Cache:
        """One more Cache on the same content, to stand for `mmapcache.open` in a test:

            monkeypatch.setattr(mmapcache, "open", test.open)

        `path`, `timeout` and `owner` are not looked at. It is closed with the TestCache.
        """
        opened = self.writer.reader(
            populate=populate,
            codec_options=codec_options,
            front_bytes=front_bytes,
            front_entries=front_entries,
        )
        self._opened.append(opened)
        return opened

    def close(self) -> None:
        """Closes `.cache`, those from `open()`, and the writer. More than once is harmless."""
        for opened in (self.cache, *self._opened):
            opened.close()
        self.writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    @contextmanager
    def _batch(self) -> Iterator[mmapcache.Batch]:
        with self.writer.batch() as batch:
            yield batch
        self._confirm()

    def _confirm(self) -> None:
        self.writer.report(state="streaming", following=True, confirmed=True)


def _put(batch: mmapcache.Batch, name: str, key: Any, document: Document) -> None:
    if isinstance(document, Mapping) and "_id" not in document:
        document = {"_id": key, **document}
    try:
        batch.put(name, key, document)
    except (TypeError, mmapcache.InvalidDocument) as error:
        raise type(error)(f"collection {name!r}, key {key!r}: {error}") from error


def _put_all(batch: mmapcache.Batch, name: str, documents: Documents) -> None:
    if isinstance(documents, (str, os.PathLike)):
        _put_files(batch, name, documents)
        return
    if isinstance(documents, Mapping):
        for key, document in documents.items():
            _put(batch, name, key, document)
        return
    given: object = documents  # whatever its type says
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise TypeError(
            f"collection {name!r}: its documents are a Mapping by key, a list, or the path of a "
            f"file, not {type(given).__name__}"
        )
    for document in documents:
        try:
            fields = document if isinstance(document, Mapping) else mmapcache.Document(document)
            key = fields["_id"]
        except KeyError:
            raise ValueError(
                f"collection {name!r}: a document in a list needs an _id: {document!r}"
            ) from None
        _put(batch, name, key, document)


def _put_files(batch: mmapcache.Batch, name: str | None, given: str | os.PathLike[str]) -> None:
    """What `mmapcache sync --source file:` reads; `name`: of the collection, if not the file's."""
    from mmapcache.sync.errors import SyncError
    from mmapcache.sync.files import FileSource

    path = Path(given)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if name is not None and path.is_dir():
        raise ValueError(f"collection {name!r}: {path} is a directory, not a file of documents")
    try:
        source = FileSource(str(path), allow_empty=False)
        for feed in source.feeds(frozenset(), estimate=False):
            for buffer in source.buffers(feed):
                batch.put_raw(name or feed.name, buffer)
    except SyncError as error:
        raise ValueError(str(error)) from error
