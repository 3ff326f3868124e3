"""Documents by their _id: what those that changed are now.

Reads are majority reads in one causally consistent session, which is advanced to the time of the
newest event before each read: so the answer is not older than the event, nor than any answer
before, whichever member of the replica set gives it; and what it says cannot be rolled back.

A member that lags has to wait until it has that. It is told to give up before anybody takes it for
one that hangs, and is asked for the same time again, which it will have some day; a newer time each
try it might never have.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from mmapcache._mmapcache import cut_ids
from mmapcache.sync.backoff import Backoff
from mmapcache.sync.mongo import element, moment
from mmapcache.sync.mongo.errors import translated
from mmapcache.sync.mongo.hold import Hold
from mmapcache.sync.mongo.together import Together
from mmapcache.sync.source import Found

if TYPE_CHECKING:
    from pymongo.collection import Collection

    from mmapcache.sync.mongo.client import Client

LATE = 5.0  # seconds after which a member says that it cannot answer yet
_EXPIRED = 50  # MaxTimeMSExpired
_EXACT = b"\x02\x05\x07\x09\x10\x12"  # types of which one value is written in one way
_Answer = TypeVar("_Answer")


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
        self._pause = Backoff(first=0.1, last=1.0)
        self.late: Callable[[str, str], None] = lambda why, code: None
        """Told why an answer has to be asked for again, and under which code that counts."""

    @property
    def time(self) -> int:
        """What is read next is not older than this, a time as in `stream.Changes`."""
        return moment.if_known(self._session.operation_time)

    def advance(self, times: tuple[Any, Any]) -> None:
        """What is read from now on is not older than this cluster time and operation time."""
        cluster, operation = times
        if cluster is not None:
            self._session.advance_cluster_time(cluster)
        if operation is not None:
            self._session.advance_operation_time(operation)

    def reach(self, time: int) -> None:
        """What is read from now on is not older than this, a time as in `stream.Changes`."""
        self._session.advance_operation_time(moment.timestamp(time))

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
            for each in elements:
                some.append(each)
                if len(some) >= self._together.count:
                    yield from self._find(collection, name, query, some)
                    some = []
            if some:
                yield from self._find(collection, name, query, some)

    def held(self, hold: Hold) -> bool:
        """Whether the marker is there."""
        with translated(self._where):
            while True:
                some = self._asked(
                    lambda: hold.present(self._client, self._session, int(LATE * 1000))
                )
                if some is not None:
                    return some

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
        waiting = [elements]
        while waiting:
            some = waiting.pop()
            found = self._asked(lambda: self._found(collection, name, query, some))  # noqa: B023
            if found is not None:
                yield from found
            else:  # it may be the query that takes so long, and not what it waits for
                half = (len(some) + 1) // 2
                waiting += [part for part in (some[half:], some[:half]) if part]

    def _found(
        self,
        collection: Collection[Any],
        name: str,
        query: Mapping[str, Any],
        elements: list[bytes],
    ) -> list[Found]:
        from bson.raw_bson import RawBSONDocument

        chosen: Any = RawBSONDocument(element.one_of(elements))
        if query.get("filter"):
            chosen = {"$and": [query["filter"], chosen]}
        began = time.perf_counter()
        with _majority(collection).find_raw_batches(
            chosen,
            query.get("projection"),
            session=self._session,
            batch_size=len(elements) + 1,
            max_time_ms=int(LATE * 1000),
        ) as cursor:
            buffers = [bytes(buffer) for buffer in cursor if buffer]
        seconds = time.perf_counter() - began
        self._together.took(len(elements), seconds, sum(map(len, buffers)))
        there = list(itertools.chain.from_iterable(map(cut_ids, buffers)))
        distinct = set(there)
        missing = _missing(elements, distinct)
        found = [Found(name, missing, b"")] if missing else []
        if duplicates := len(there) - _count(distinct):  # the last one of them must not win
            return [*found, Found(name, (), b"".join(buffers), duplicates=duplicates)]
        return found + [Found(name, (), buffer) for buffer in buffers]

    def _asked(self, ask: Callable[[], _Answer]) -> _Answer | None:
        """An answer; None: not yet, and the next try asks for nothing newer."""
        from pymongo.errors import OperationFailure

        cluster, operation = self._session.cluster_time, self._session.operation_time
        try:
            answer = ask()
        except OperationFailure as error:
            if error.code != _EXPIRED:
                raise
        else:
            self._pause.reset()
            return answer
        self._session.end_session()  # it has heard of the time of the refusal
        self._session = self._client.start_session(causal_consistency=True)
        self.advance((cluster, operation))
        self.late(
            f"{self._where}: a member has no answer about what changed after {LATE:g} s: it lags, "
            "or is slow; it is asked again",
            str(_EXPIRED),
        )
        time.sleep(self._pause.next())  # some servers say so at once
        return None


def _majority(collection: Collection[Any]) -> Collection[Any]:
    from pymongo.read_concern import ReadConcern

    return collection.with_options(read_concern=ReadConcern("majority"))


def _missing(elements: list[bytes], there: set[bytes]) -> tuple[Any, ...]:
    """The _ids that no document has, of which `there` are those.

    Some that are there may be among them, where MongoDB writes one number in two ways: they are
    taken away and put again in one commit.
    """
    if there.issuperset(elements):
        return ()
    return tuple(element.value(each) for each in elements if each not in there)


def _count(there: set[bytes]) -> int:
    """How many _ids these are. Two documents can have one: those of two shards, say."""
    kinds = {one[0] for one in there}
    if len(kinds) < 2 and kinds.issubset(_EXACT):
        return len(there)
    return len(set(map(element.mark_of, there)))
