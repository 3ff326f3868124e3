"""From changes to documents: gathers what a burst changed, and reads it by `_id`.

    stream threads ── Changes, Heard ─> follower thread ── Part, Part, Caught ──> inbox
                                            │    (a part: documents and missing _ids)
                                            └── find by _id (lookup.py)

A burst ends when nothing has come for the shorter of the two settle times, or when its first event
is as old as the longer one. A single event after a quiet time goes on at once: nobody waits for
what most often is alone. `Caught` says up to which position everything before it is applied.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mmapcache
from mmapcache.sync import watch
from mmapcache.sync.errors import PositionLostError, SourceAwayError, SyncError
from mmapcache.sync.identity import mark
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.mongo import element, moment
from mmapcache.sync.mongo.hold import Hold
from mmapcache.sync.mongo.lookup import Lookup
from mmapcache.sync.mongo.pace import Pace
from mmapcache.sync.mongo.stream import AWAIT, Changes, Heard, Stream
from mmapcache.sync.options import CollectionOptions
from mmapcache.sync.parsing import Settle
from mmapcache.sync.position import Position
from mmapcache.sync.source import (
    Caught,
    Feed,
    Found,
    Given,
    Held,
    Late,
    Suspect,
    Verified,
    split,
)

if TYPE_CHECKING:
    from pymongo import collection as pymongo_collection

SILENCE = watch.SILENCE  # seconds without a reply after which a stream counts as broken
_LATE = 2.0  # seconds behind the server's time, which has whole ones
_IN_FLIGHT = 4  # parts that the main thread has not applied yet
_MANY = 32  # events of a burst after which more are expected


@dataclass(frozen=True, slots=True)
class _Message:
    sender: MongoFollower
    content: Given | BaseException


class MongoFollower:
    """Follows the streams from a position; a context manager, which ends the threads.

    :param streams: one for each database of the position
    :param lookup: reads by _id; closed at the end
    :param targets: what is loaded from a namespace
    :param read: the collection to read from
    :param same: whether a collection is still the one that was loaded
    :param position: where to begin
    :param settle: how long a burst may take
    :param inbox: where the consumer waits
    :param limit: so many changed documents at once, or changes that the stream is behind, are
        slower than a load
    :param hold: nothing is given while its marker is there
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        lookup: Lookup,
        targets: Callable[[str, str], Sequence[CollectionOptions]],
        read: Callable[[CollectionOptions], pymongo_collection.Collection[Any]],
        same: Callable[[CollectionOptions], bool],
        position: Position,
        settle: Settle,
        inbox: Inbox,
        limit: int,
        hold: Hold | None,
    ) -> None:
        self._streams = {stream.database: stream for stream in streams}
        self._lookup = lookup
        lookup.late = self._is_late
        self._targets = targets
        self._read = read
        self._same = same
        self._begin = position
        self._at = position.at
        self._tokens: dict[str, Any] = dict(position.tokens)
        self._settle = settle
        self._inbox = inbox
        self._limit = limit
        self._hold = hold
        self._arrivals: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._room = threading.Semaphore(_IN_FLIGHT)
        self._cancelled = False
        self._holding = False  # the marker was there when it was last looked for
        self._released: int | None = None  # it was gone then, and changes may be under way still
        self._missing: dict[str, int] = {}  # by database: for how many quiet replies, see _held
        self._heard = dict.fromkeys(self._streams, time.monotonic())
        self._progress = time.monotonic()  # when the server was last heard, by any thread
        self._burst: dict[tuple[str, str], dict[bytes, bool]] = {}  # by _id: whether deleted
        self._events = self._size = 0
        self._taken = 0  # changes that were posted
        self._late = 0  # events since the stream was last up to date, or nearly
        self._newest: dict[str, int] = {}  # time of the newest event; none: no more is behind it
        self._latest = 0  # the same, of all that ever came
        self._answers: dict[bytes, int] = {}  # when a document was read by its _id, see _place
        self._answered = 0  # and the newest of these times
        self._flushed = 0.0  # when the last burst ended
        self._reached = dict.fromkeys(self._streams, 0)  # everything up to there has been delivered
        self._suspects: Mapping[Feed, Collection[bytes]] = {}  # to be read once more
        self._suspected = 0  # when everything up to here has been delivered
        self._explained: set[Suspect] = set()  # of those, have a change that was under way then
        self._checked: dict[tuple[str, str, int], list[Suspect]] = {}  # when they have been read
        self._checked_at = 0  # at that time
        self._thread = threading.Thread(target=self._run, name="mmapcache-follower", daemon=True)

    def __enter__(self) -> MongoFollower:
        for database, stream in self._streams.items():
            # A stream that is not asked for longer than a server waits would pass for a silent one.
            pace = Pace(min(self._settle.longest, AWAIT), time.monotonic())
            stream.start(self._tokens[database], self._arrivals.put, self._waiting, pace)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._cancelled = True
        for stream in self._streams.values():
            stream.cancel()
        self._arrivals.put(None)
        self._room.release()

    def verify(
        self, suspects: Mapping[Feed, Collection[bytes]], until: int, explained: set[Suspect]
    ) -> None:
        """Has documents read once more, when everything up to a time has been delivered; before
        the threads run.

        :param suspects: type and value of their _ids
        :param until: a time, as in `stream.Changes`
        :param explained: is added to until `Verified`
        """
        self._suspects, self._suspected, self._explained = suspects, until, explained
        if not suspects:
            self._checked_at = until  # and all is well when the stream is there

    def messages(self) -> Iterator[Given]:
        """Parts and what ends them, in turn; taking the next part makes room for one more. Ends
        when somebody asks for more (SIGHUP).

        :raises StopError: a signal ended the loader
        :raises PositionLostError: the streams end here
        :raises SyncError: the server cannot be read
        """
        inside = False  # a burst of which parts were given
        while True:
            if self._inbox.refresh and not inside:
                return
            message = self._inbox.receive(SILENCE / 2)
            if message is None and time.monotonic() - self._progress > SILENCE:
                raise self._silence()
            if not isinstance(message, _Message) or message.sender is not self:
                continue
            if isinstance(message.content, BaseException):
                raise message.content
            found = isinstance(message.content, Found)
            inside = found or (inside and isinstance(message.content, Late))
            yield message.content
            if found:
                self._room.release()

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._gather() and self._flush():
                pass
        except SyncError as error:
            self._post(error)
        except BaseException as error:
            away = SourceAwayError(f"following failed: {type(error).__name__}: {error}")
            away.__cause__ = error
            self._post(away)
        finally:
            for stream in self._streams.values():
                stream.cancel()
            self._lookup.close()

    def _gather(self) -> bool:
        """Takes what arrives, until it is to be read and published: a burst, or word that there is
        nothing. False: nobody wants it any more."""
        first = 0.0
        wait = AWAIT
        while True:
            if not first and self._arrivals.empty() and self._silent():
                raise self._silence()  # perhaps of one stream, while the others go on
            try:
                arrival = self._next(wait)
            except queue.Empty:
                if self._size or wait < AWAIT:
                    return True
                continue
            if self._cancelled:
                return False
            self._progress = now = time.monotonic()
            if isinstance(arrival, Changes):
                self._add(arrival)
                if not first:
                    first = now
                wait = self._patience(first, now, alone=arrival.changes[0][3])
                if wait < -self._settle.longest or (wait <= 0 and 2 * self._size > self._limit):
                    return True  # there is more, and there may always be
                self._refuse_too_many()
            elif isinstance(arrival, Heard):
                self._hear(arrival)
                if not first:
                    return True
                wait = min(wait, first + self._settle.longest - now)
            elif isinstance(arrival, SyncError):
                raise arrival

    def _next(self, wait: float) -> object:
        """What arrives within so many seconds.

        :raises queue.Empty: nothing does
        """
        if wait > 0 and self._arrivals.empty():
            if self._events < _MANY or wait > AWAIT:
                return self._arrivals.get(timeout=wait)
            # In a burst one sleep for all that come meanwhile: to be woken for each of them costs
            # both threads more than what is done with it.
            time.sleep(wait)
        return self._arrivals.get_nowait()

    def _patience(self, first: float, now: float, *, alone: bool) -> float:
        """Seconds that the burst waits for another event."""
        # Whoever waits the shorter time after each event gathers none that come more slowly.
        quiet = first - self._flushed > self._settle.shortest
        if quiet and self._events == 1 and alone:
            return 0.0  # the rest of the same reply would have come with it
        return min(self._settle.shortest, first + self._settle.longest - now)

    def _add(self, more: Changes) -> None:
        database, last = more.database, more.changes[-1][2]
        self._tokens[database] = more.token
        self._heard[database] = self._progress
        self._newest[database] = last
        self._reached[database] = last - 1
        if self._released is not None and last > self._released:
            self._missing.pop(database, None)
        self._events += len(more.changes)
        self._taken += len(more.changes)
        if self._checked:
            self._explain(more)
        latest, answered = self._latest, self._answered
        known, size = None, self._size
        for collection, one, at, _, gone in more.changes:
            if collection != known:
                known, place = collection, _place(database, collection)
                elements = self._burst.get((database, collection))
            if at > latest:
                latest = at
            if at <= answered and self._answers.get(place + one, 0) >= at:
                continue  # what was read by its _id since is its outcome, or a later change's
            if elements is None:
                elements = self._burst[database, collection] = {}
            if one not in elements:
                size += 1
            elements[one] = gone
        self._latest, self._size = latest, size
        if latest > answered:
            self._answers.clear()

    def _refuse_too_many(self) -> None:
        """:raises PositionLostError: the burst has more documents than can be read by their _id in
        the time of a load"""
        if self._size > self._limit:
            raise PositionLostError(
                "behind", f"more than {self._limit:,} documents changed: a load is quicker"
            )

    def _explain(self, more: Changes) -> None:
        """Takes note of the changes that were under way when suspects were read once more."""
        for collection, one, at, _, _ in more.changes:
            if at <= self._checked_at:
                names = self._checked.pop((more.database, collection, element.mark_of(one)), ())
                self._explained.update(names)

    def _waiting(self) -> int:
        """How many changes have been posted that this thread has not taken."""
        return sum(stream.posted for stream in self._streams.values()) - self._taken

    def _hear(self, heard: Heard) -> None:
        self._heard[heard.database] = heard.moment
        if heard.token is not None:
            self._tokens[heard.database] = heard.token
        self._reached[heard.database] = heard.time
        self._newest.pop(heard.database, None)
        if self._missing.get(heard.database):
            self._missing[heard.database] -= 1
            if not self._missing[heard.database]:
                del self._missing[heard.database]

    def _flush(self) -> bool:
        """Reads what the burst changed, and posts it with the position. False as `_gather`."""
        heard = min(self._heard.values())
        for stream in self._streams.values():
            self._lookup.advance(stream.session_times)
        if self._latest:  # the replies' own times say as much, where a reply has one
            self._lookup.reach(self._latest)
        if self._held():
            return True
        asked = self._lookup.time
        if self._hold is None:
            parts: Iterable[Found] = self._parts()
        else:
            parts = list(self._parts())
            if self._held():  # what was read may be half of something
                return True
        for found in parts:
            if not self._give(found):
                return False
        for names, some in self._burst.items():
            self._answers.update(dict.fromkeys(map(_place(*names).__add__, some), asked))
        self._answered = max(self._answered, asked)
        if len(self._answers) > self._limit:  # to read one of them again is no harm
            self._answers.clear()
        caught = self._caught(heard)
        self._late = self._late + self._events if caught.behind > _LATE else 0
        if self._late > self._limit:
            raise PositionLostError(
                "behind", f"{self._late:,} changes, and still {caught.behind:.0f} s behind"
            )
        self._post(caught)
        self._burst = {}
        if self._events:
            self._flushed = time.monotonic()
        self._events = self._size = 0
        return self._verified(heard)

    def _parts(self) -> Iterator[Found]:
        """What the documents of the burst are now."""
        for (database, collection), elements in self._burst.items():
            for options in self._targets(database, collection):
                if options.name in self._begin.stale:
                    reason = self._begin.stale[options.name]
                    raise PositionLostError(reason, f"{options.origin} has changed")
                missing = 0
                for found in self._lookup.read(self._read(options), options.name, elements):
                    missing += len(found.missing)
                    yield found
                if missing > sum(elements.values()) and not self._same(options):
                    # Not these documents are gone, but all: as the stream is about to say.
                    raise PositionLostError("dropped", f"{options.origin} was dropped")

    def _caught(self, heard: float) -> Caught:
        # The database that is furthest behind counts, for both.
        self._at = max(self._at, moment.seconds(min(self._reached.values())))
        server = max(stream.server_time for stream in self._streams.values())
        oldest = min(self._newest.values(), default=None)
        behind = 0.0 if oldest is None else max(0.0, server - moment.seconds(oldest))
        tokens = {name: _raw(token) for name, token in self._tokens.items()}
        position = replace(self._begin, at=self._at, tokens=tokens)
        return Caught(position, self._events, heard, behind)

    def _held(self) -> bool:
        """Whether the marker is there, or not all has come of what changed before it went; then
        everything gathered stays for later."""
        if self._hold is None:
            return False
        if self._lookup.held(self._hold):
            self._holding, self._released = True, None
        elif self._holding and self._released is None:
            self._released = self._lookup.time
            # A quiet reply may be to a question that was asked before: the one after it is not.
            self._missing = dict.fromkeys(self._streams, 2)
        elif not self._missing:
            self._holding = False
        if not self._holding:
            return False
        self._refuse_too_many()
        self._post(Held(self._hold.why))
        return True

    def _verified(self, heard: float) -> bool:
        """Reads the suspects when it is time, and later says how many are innocent."""
        reached = min(self._reached.values())
        if self._suspects and reached >= self._suspected:
            for feed, elements in self._suspects.items():
                database, _, collection = feed.origin.partition(".")
                for options in self._targets(database, collection):
                    if options.name == feed.name:
                        read = self._lookup.read(self._read(options), feed.name, elements)
                        if not all(map(self._give, _one_by_one(list(read)))):
                            return False
                for suspect in map(element.mark_of, elements):
                    names = self._checked.setdefault((database, collection, suspect), [])
                    names.append((feed.name, suspect))
            # Not earlier than what has been read: that may be newer than it had to be.
            self._checked_at, self._suspects = self._lookup.time, {}
            self._post(self._caught(heard))
        elif self._checked_at and reached >= self._checked_at:
            self._post(Verified())
            self._checked_at = 0
            self._checked.clear()
        return True

    def _give(self, found: Found) -> bool:
        """Posts a part when there is room for it. False: nobody wants it any more."""
        self._room.acquire()
        self._progress = time.monotonic()
        if not self._cancelled:
            self._post(found)
        return not self._cancelled

    def _is_late(self, why: str, code: str) -> None:
        """The server cannot answer yet, but has said so: it does not hang."""
        if self._cancelled:
            raise SourceAwayError(why, code=code)
        self._progress = time.monotonic()
        self._post(Late(why, code))

    def _post(self, content: Given | BaseException) -> None:
        self._inbox.post(_Message(self, content))

    def _silent(self) -> bool:
        """Whether nothing was heard of one of the databases for too long."""
        return time.monotonic() - min(self._heard.values()) > SILENCE

    def _silence(self) -> SourceAwayError:
        return SourceAwayError(
            f"nothing was heard from the server for {SILENCE:g} s: its change stream hangs",
            code="silence",
        )


def _one_by_one(parts: Sequence[Found]) -> Iterator[Found]:
    """Each document, with those of its _id, and each missing _id alone, with the suspect that it is
    of; but what is missing only as it was written before is there: to take it away and put it again
    would be a change."""
    there: dict[int, list[bytes]] = {}
    for found in parts:
        for document in split(found.buffer):
            there.setdefault(mark(mmapcache.Document(document)["_id"]), []).append(document)
    for found in parts:
        for key in found.missing:
            if (suspect := element.mark_of(element.of_value(key))) not in there:
                yield Found(found.name, (key,), b"", suspect)
    for suspect, documents in there.items():
        yield Found(parts[0].name, (), b"".join(documents), suspect, len(documents) - 1)


def _place(database: str, collection: str) -> bytes:
    """A namespace, as what is put before an _id."""
    return f"{database}\0{collection}\0".encode()


def _raw(token: Any) -> bytes:
    return token if isinstance(token, bytes) else bytes(token.raw)
