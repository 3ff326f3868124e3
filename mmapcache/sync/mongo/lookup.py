"""Documents by their _id: what those that changed are now.

Reads are majority reads in one causally consistent session, which is advanced to the time of the
newest event before each read: so the answer is not older than the event, nor than any answer
before, whichever member of the replica set gives it; and what it says cannot be rolled back.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mmapcache.sync.mongo.errors import translated
from mmapcache.sync.mongo.hold import Hold
from mmapcache.sync.mongo.together import Together
from mmapcache.sync.source import Found

if TYPE_CHECKING:
    from pymongo.collection import Collection

    from mmapcache.sync.mongo.client import Client


class Lookup:
    """Reads by `_id`, in one session; one thread.

    :param client: a client of the server
    :param where: the server, as shown to people
    :param queries: filter and projection of collections, by their names in the cache
    """

    def __init__(
        self, client: Client, where: str, queries: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._client = client
        self._where = where
        self._queries = queries
        self._session = client.start_session(causal_consistency=True)
        self._together = Together()

    @property
    def time(self) -> int:
        """What is read next is not older than this, a time as in `stream.Change`."""
        moment = self._session.operation_time
        return 0 if moment is None else int(moment.time << 32 | moment.inc)

    def advance(self, times: tuple[Any, Any]) -> None:
        """What is read from now on is not older than this cluster time and operation time."""
        cluster, operation = times
        if cluster is not None:
            self._session.advance_cluster_time(cluster)
        if operation is not None:
            self._session.advance_operation_time(operation)

    def reach(self, moment: int) -> None:
        """What is read from now on is not older than this, a time as in `stream.Change`."""
        from bson.timestamp import Timestamp

        self._session.advance_operation_time(Timestamp(moment >> 32, moment & 0xFFFFFFFF))

    def read(
        self, collection: Collection[Any], name: str, elements: Iterable[bytes]
    ) -> Iterator[Found]:
        """What the documents with these _ids are now.

        :param collection: with its read preference
        :param name: its name in the cache
        :param elements: type and value of each _id
        :raises SyncError: they cannot be read
        """
        query = self._queries.get(name, {})
        some: list[bytes] = []
        with translated(self._where):
            for element in elements:
                some.append(element)
                if len(some) >= self._together.count:
                    yield from self._find(collection, name, query, some)
                    some = []
            if some:
                yield from self._find(collection, name, query, some)

    def held(self, hold: Hold) -> bool:
        """Whether the marker is there."""
        with translated(self._where):
            return hold.present(self._client, self._session)

    def close(self) -> None:
        """Gives the session back."""
        self._session.end_session()

    def _find(
        self,
        collection: Collection[Any],
        name: str,
        query: Mapping[str, Any],
        elements: list[bytes],
    ) -> Iterator[Found]:
        from bson.raw_bson import RawBSONDocument

        chosen: Any = RawBSONDocument(_one_of(elements))
        if query.get("filter"):
            chosen = {"$and": [query["filter"], chosen]}
        began = time.perf_counter()
        with _majority(collection).find_raw_batches(
            chosen,
            query.get("projection"),
            session=self._session,
            batch_size=len(elements) + 1,
        ) as cursor:
            buffers = [bytes(buffer) for buffer in cursor if buffer]
        seconds = time.perf_counter() - began
        self._together.took(len(elements), seconds, sum(map(len, buffers)))
        missing = _missing(elements, buffers)
        if missing:
            yield Found(name, missing, b"")
        for buffer in buffers:
            yield Found(name, (), buffer)


def _majority(collection: Collection[Any]) -> Collection[Any]:
    from pymongo.read_concern import ReadConcern

    return collection.with_options(read_concern=ReadConcern("majority"))


def _one_of(elements: list[bytes]) -> bytes:
    """`{"_id": {"$in": […]}}` as BSON; the values as they are, whatever they are."""
    array = _document(
        b"".join(
            element[:1] + b"%d\0" % number + element[1:] for number, element in enumerate(elements)
        )
    )
    return _document(b"\x03_id\0" + _document(b"\x04$in\0" + array))


def _document(content: bytes) -> bytes:
    return struct.pack("<i", len(content) + 5) + content + b"\0"


def _missing(elements: list[bytes], buffers: list[bytes]) -> tuple[Any, ...]:
    """The _ids that no document of the buffers has.

    Some that are there may be among them, where MongoDB writes one number in two ways: they are
    taken away and put again in one commit.
    """
    import bson
    from bson.codec_options import CodecOptions, DatetimeConversion
    from bson.raw_bson import RawBSONDocument

    options = CodecOptions(
        document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO
    )
    left = dict.fromkeys(elements)
    lengths = {len(element) for element in elements}
    for buffer in buffers:
        start = 0
        while start < len(buffer):
            # MongoDB keeps the _id as a document's first field. No value is another's beginning.
            kind, value = buffer[start + 4 : start + 5], start + 9
            for length in lengths:
                left.pop(kind + buffer[value : value + length - 1], None)
            start += struct.unpack_from("<i", buffer, start)[0]
    return tuple(
        bson.decode(_document(element[:1] + b"_id\0" + element[1:]), options)["_id"]
        for element in left
    )
