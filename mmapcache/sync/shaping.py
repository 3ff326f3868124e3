"""Between the source and the cache: --transform and --key, for a full load and for a change.

    raw documents ──> transform ──> key ──> batch          none of both: no Shaper, and the buffers
                        None: left out                     go into the cache as they came

A change names a document by its `_id`, and so does what tells whether it is still there. Hence the
cached document keeps its `_id`, whatever its key: the table from `_id` to key can be made of the
cached collection, after a restart or after a failure.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import mmapcache
from mmapcache.sync.errors import ShapeError
from mmapcache.sync.identity import identity
from mmapcache.sync.options import CollectionOptions, Options
from mmapcache.sync.source import Found, split
from mmapcache.sync.transform import Transform

_SHOWN = 80  # characters of an _id or a key in a message
_MISSING = object()
_CANNOT = (mmapcache.InvalidDocument, mmapcache.LimitError, TypeError, ValueError)


class Made(NamedTuple):
    """What becomes of a document.

    :param document: as it came
    :param key: under which it is cached
    :param cached: the BSON there; None when it is left out
    """

    document: bytes
    key: Any
    cached: bytes | None


class DuplicateError(ShapeError):
    """Two documents would have one key."""


class Shaping:
    """The shapers of a loader's collections.

    :raises UsageError: a transform cannot be imported
    """

    def __init__(self, options: Options) -> None:
        self._own = {c.name: c for c in options.collections}
        self._defaults = options.defaults
        self._shapers: dict[str, Shaper | None] = {}
        texts = {c.transform for c in (*options.collections, options.defaults)} - {None}
        self._transforms = {text: Transform(text) for text in sorted(filter(None, texts))}

    def of(self, name: str) -> Shaper | None:
        """The collection's shaper; None when its documents are taken as they are.

        :param name: the collection in the cache
        """
        if name not in self._shapers:
            options = self._own.get(name, self._defaults)
            self._shapers[name] = self._made(name, options)
        return self._shapers[name]

    def fingerprint(self) -> str:
        """What tells one setting of all this from another; empty when there is nothing."""
        every = {name: self._identified(c) for name, c in self._own.items()}
        every[""] = self._identified(self._defaults)
        told = {name: what for name, what in every.items() if what is not None}
        return json.dumps(told, sort_keys=True) if told else ""

    def apply(self, writer: mmapcache.Writer, batch: mmapcache.Batch, found: Found) -> bool:
        """`Shaper.apply` to the writer's open batch, if the collection has a shaper."""
        shaper = self.of(found.name)
        if shaper is None:
            return False
        if shaper.keyed:
            with writer.reader(front_bytes=0) as cache:
                shaper.apply(batch, cache.get(found.name), found.missing, found.buffer)
        else:
            shaper.apply(batch, None, found.missing, found.buffer)
        return True

    def forget(self) -> None:
        """The cache is another one now."""
        for shaper in filter(None, self._shapers.values()):
            shaper.forget()

    def committed(self) -> None:
        """What the shapers did has been published."""
        for shaper in filter(None, self._shapers.values()):
            shaper.committed()

    def abandoned(self) -> None:
        """What the shapers did since the last commit has not been published."""
        for shaper in filter(None, self._shapers.values()):
            shaper.abandoned()

    def _made(self, name: str, options: CollectionOptions) -> Shaper | None:
        if options.transform is None and options.key is None:
            return None
        transform = None if options.transform is None else self._transforms[options.transform]
        return Shaper(name, transform, options.key)

    def _identified(self, options: CollectionOptions) -> list[str | None] | None:
        if options.transform is None and options.key is None:
            return None
        digest = None if options.transform is None else self._transforms[options.transform].digest
        return [options.transform, digest, options.key]


class Shaper:
    """One collection's documents, transformed and with their keys.

    :param name: the collection in the cache
    :param transform: what is made of a document
    :param field: the key's field, a dotted path; None for `_id`
    """

    def __init__(self, name: str, transform: Transform | None, field: str | None) -> None:
        self._name = name
        self._transform = transform
        self._field = field
        self._keys: dict[Any, Any] | None = None  # identity of the _id -> key, as published
        self._loaded: dict[Any, Any] | None = None  # the same for the load under way
        self._changed: dict[Any, Any] = {}  # and what apply has changed since
        self._holders: dict[Any, Any] = {}  # identity of a key -> its document's _id, since then
        self.count = 0  # documents that the load under way has put

    @property
    def keyed(self) -> bool:
        """Whether another field than _id is the key."""
        return self._field is not None

    # --- a full load ------------------------------------------------------------------------------

    def begin(self, batch: mmapcache.Batch, full: mmapcache.Replace) -> Callable[[bytes], int]:
        """A full load begins: what to call with each buffer instead of `full.put_raw`.

        It puts what becomes of the buffer's documents, gives how many documents it had, and raises
        `ShapeError` when one cannot be shaped.
        """
        self.forget()  # not two tables at a time
        self._loaded = {}
        return functools.partial(self._load, batch, full)

    def _load(self, batch: mmapcache.Batch, full: mmapcache.Replace, buffer: bytes) -> int:
        read = 0
        kept: list[bytes] = []
        for document in _documents(buffer):
            read += 1
            shaped = self._shaped(document)
            if shaped is None:
                continue
            self.count += 1
            if self._field is None:
                kept.append(shaped.raw)
            else:
                self._put(batch, full, shaped)
        if kept:
            full.put_raw(b"".join(kept))
        return read

    def _put(
        self, batch: mmapcache.Batch, full: mmapcache.Replace, document: mmapcache.Document
    ) -> None:
        assert self._loaded is not None
        one, key = identity(document["_id"]), self._key(document)
        if one in self._loaded:
            raise self._twice(document)
        duplicates = batch.duplicates
        try:
            full.put(key, document)
        except _CANNOT as error:
            raise self._unusable(document, error) from None
        if batch.duplicates != duplicates:
            same = (i for i, k in self._loaded.items() if identity(k) == identity(key))
            raise self._duplicate(_plain(next(same)), document, key)
        self._loaded[one] = key

    # --- changes ----------------------------------------------------------------------------------

    def apply(
        self,
        batch: mmapcache.Batch,
        served: mmapcache.Collection | None,
        missing: Iterable[Any],
        buffer: bytes,
    ) -> tuple[int, int]:
        """Applies to an open batch what reading some documents by their `_id` has given: deletes
        first, then puts. Until `committed`, nothing of it counts.

        :param served: the collection as it was before the batch, which only keys of their own need;
            None when there was none
        :param missing: the `_id` of each that was not found; found ones may be among them
        :param buffer: those that were found
        :return: how many were deleted and put
        :raises DuplicateError: a document's key is another one's, perhaps only because that one has
            changed, too, and has not been read yet: a full load tells
        :raises ShapeError: a document cannot be shaped
        """
        before = {identity(_id): self._key_before(served, _id) for _id in missing}
        after: dict[Any, tuple[Any, mmapcache.Document]] = {}
        for document in _documents(buffer):
            shaped = self._shaped(document)
            one = identity(document["_id"])
            before[one] = self._key_before(served, document["_id"])
            if shaped is None:
                continue
            if one in after:  # the smallest stays, as of a load
                if self._field is not None:
                    raise self._twice(shaped)
                if after[one][1].raw <= shaped.raw:
                    continue
            after[one] = (self._key(shaped), shaped)
        deleted = 0
        for one, key in before.items():
            if key is _MISSING or (one in after and identity(key) == identity(after[one][0])):
                continue
            deleted += batch.delete(self._name, key)
            self._changed[one] = _MISSING
            self._holders[identity(key)] = None
        for one, (key, shaped) in after.items():
            self._hold(served, key, one, shaped)
            try:
                batch.put(self._name, key, shaped)
            except _CANNOT as error:
                raise self._unusable(shaped, error) from None
            self._changed[one] = key
        return deleted, len(after)

    def _key_before(self, served: mmapcache.Collection | None, _id: Any) -> Any:
        """The key that a document has in the cache, or _MISSING; its _id, if it is there."""
        if self._field is None:
            return _id
        one = identity(_id)
        if one in self._changed:
            return self._changed[one]
        if self._keys is None:
            items = () if served is None else served.items()
            self._keys = {identity(document["_id"]): key for key, document in items}
        return self._keys.get(one, _MISSING)

    def _hold(
        self,
        served: mmapcache.Collection | None,
        key: Any,
        one: Any,
        document: mmapcache.Document,
    ) -> None:
        """Notes whose key it is now, unless it is another document's."""
        if self._field is None:
            return
        name = identity(key)
        if name not in self._holders:
            try:
                there = None if served is None else served.get(key)
            except _CANNOT as error:
                raise self._unusable(document, error) from None
            self._holders[name] = None if there is None else there["_id"]
        holder = self._holders[name]
        if holder is not None and identity(holder) != one:
            raise self._duplicate(holder, document, key)
        self._holders[name] = document["_id"]

    def committed(self) -> None:
        """What was loaded or applied has been published."""
        if self._loaded is not None:
            self._keys, self._loaded = (self._loaded if self._field else None), None
        if self._keys is not None:
            for one, key in self._changed.items():
                if key is _MISSING:
                    self._keys.pop(one, None)
                else:
                    self._keys[one] = key
        self._settle()

    def forget(self) -> None:
        """The cached collection is another one now, as after a drop."""
        self.abandoned()
        self._keys = None

    def abandoned(self) -> None:
        """What was loaded or applied has not been published."""
        self._loaded = None
        self._settle()
        self.count = 0

    def _settle(self) -> None:
        self._changed.clear()
        self._holders.clear()

    # --- one document -----------------------------------------------------------------------------

    def try_out(self, buffer: bytes) -> None:
        """Shapes the documents of a buffer, for what is wrong with them.

        :raises ShapeError: one of them cannot be shaped
        """
        for _ in self.made(buffer):
            pass

    def made(self, buffer: bytes) -> Iterator[Made]:
        """What becomes of each of a buffer's documents.

        :raises ShapeError: one of them cannot be shaped
        """
        for document in _documents(buffer):
            shaped = self._shaped(document)
            if shaped is None:
                yield Made(document.raw, None, None)
            else:
                yield Made(document.raw, self._key(shaped), shaped.raw)

    def _shaped(self, document: mmapcache.Document) -> mmapcache.Document | None:
        before = document.get("_id", _MISSING)
        if before is _MISSING:
            raise ShapeError(
                "a document comes without its _id, by which changes find it: a projection (or a "
                "view) must not leave it out"
            )
        if self._transform is None:
            return document
        result = self._transform(document, _show(before))
        if result is None or result is document:
            return result
        after = result.get("_id", _MISSING)
        if after is _MISSING or identity(after) != identity(before):
            did = "removed it" if after is _MISSING else f"made {_show(after)} of it"
            raise ShapeError(
                f"the transform {self._transform.text} must leave _id as it is, by which changes "
                f"find the document: of _id {_show(before)} it has {did}"
                + (" (--key can name another field as the key)" if self._field is None else "")
            )
        return result

    def _key(self, document: mmapcache.Document) -> Any:
        if self._field is None:
            return document["_id"]
        key = document.pluck(self._field, _MISSING)
        if key is _MISSING:
            raise ShapeError(
                f"the document with _id {_show(document['_id'])} has no {self._field!r}, which is "
                f"the key (--key {self._name}={self._field})"
            )
        return key

    def _unusable(self, document: mmapcache.Document, error: Exception) -> ShapeError:
        what = "_id" if self._field is None else self._field
        return ShapeError(
            f"the document with _id {_show(document['_id'])} cannot be stored with {what!r} as its "
            f"key: {error}"
        )

    def _twice(self, document: mmapcache.Document) -> ShapeError:
        return ShapeError(
            f"two documents have the _id {_show(document['_id'])}: with another key (--key "
            f"{self._name}={self._field}) a change could not tell them apart"
        )

    def _duplicate(self, other: Any, document: mmapcache.Document, key: Any) -> DuplicateError:
        return DuplicateError(
            f"the documents with _id {_show(other)} and {_show(document['_id'])} have one key, "
            f"{self._field} = {_show(key)} (--key {self._name}={self._field})"
        )


def _plain(one: Any) -> Any:
    """For a message: the value in an identity."""
    return one[-1] if isinstance(one, tuple) else one


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def as_they_are(buffer: bytes) -> Iterator[Made]:
    """`Shaper.made` where there is no shaper."""
    for document in _documents(buffer):
        yield Made(document.raw, document["_id"], document.raw)


def _documents(buffer: bytes) -> Iterator[mmapcache.Document]:
    return map(mmapcache.Document, split(buffer))
