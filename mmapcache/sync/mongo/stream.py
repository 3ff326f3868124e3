"""One database's change stream, read by a thread of its own: which documents changed, and when.

An event says no more here than "the document with this _id changed at that time". What a document
is now is read by its _id (lookup.py), with the filter and projection of the full read: so one way
is right for every filter, and an event weighs little. What it carries otherwise is left out by the
server.

A position that is of no use any more is `PositionLostError`; a connection that breaks is not: the
position stays, and PyMongo or the loader goes on from it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import mmapcache
from mmapcache.sync.errors import (
    NoStreamsError,
    PositionLostError,
    SourceAwayError,
    SyncError,
)
from mmapcache.sync.mongo import element, moment
from mmapcache.sync.mongo.errors import UNAUTHORIZED, server_text, translated
from mmapcache.sync.mongo.pace import Pace

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo.change_stream import DatabaseChangeStream
    from pymongo.client_session import ClientSession

    from mmapcache.sync.mongo.client import Client
    from mmapcache.sync.mongo.reply import Change

AWAIT = 1.0  # seconds that the server waits for an event before it says that there is none
_WIRE_VERSION = 8  # MongoDB 4.2: startAfter and postBatchResumeToken
_QUEUED = 5_000  # events that wait for their reader before the stream is read more slowly
_BATCH = 1000  # events in a reply
# The answers of servers without change streams: standalone, another vendor's, an old cluster.
_NO_STREAMS = frozenset({40573, 40324, 59, 238, 115, 303})
_NO_STREAMS_AT_FIRST = _NO_STREAMS | {2, 9, 14, 40415}  # said of a stream without a position
_TIMELESS = "its replies lack a resume token or operation time"
_LOST = {
    286: "history_lost",  # ChangeStreamHistoryLost
    136: "history_lost",  # CappedPositionLost
    280: "history_lost",  # ChangeStreamFatalError: the token was not found
    40585: "history_lost",  # the same, of MongoDB 4.0
    222: "history_lost",  # CloseChangeStream
    234: "refused",  # RetryChangeStream without end
    260: "bad_token",  # InvalidResumeToken
    10334: "oversized",  # BSONObjectTooLarge
    17280: "oversized",  # KeyTooLong
}
_BAD_TOKEN = frozenset({2, 9, 14, 40415, 40647, 40649, 50811, 50795, 51091, 72})
_CHANGES = frozenset({"insert", "update", "replace", "delete"})
_SILENT = frozenset({"create", "createIndexes", "dropIndexes", "modify", "shardCollection"})
_NAMELESS = frozenset({b"\x06", b"\x0c"})  # undefined and DBPointer: no query or key asks for one
_ENDS = {
    "drop": "dropped",
    "dropDatabase": "dropped",
    "rename": "renamed",
    "invalidate": "invalidated",
}


@dataclass(frozen=True, slots=True)
class Changes:
    """Documents changed.

    :param changes: of each its collection; its _id as BSON, type and value; when, as a number that
        grows with the server's (seconds, count); whether it was not part of a transaction; and
        whether it was deleted
    :param token: of the newest
    """

    database: str
    changes: Sequence[Change]
    token: Any


@dataclass(frozen=True, slots=True)
class Heard:
    """The server said that there is nothing more.

    :param token: None when it gave none
    :param time: everything up to there has been said; as in `Changes`
    :param moment: when, by `time.monotonic`
    """

    database: str
    token: Any
    time: int
    moment: float


Post = Callable[[object], None]


class Stream:
    """One stream.

    :param client: a client of the server
    :param where: the server, as shown to people
    :param database: the database's name
    :param collections: those of interest; None: all but system collections
    """

    def __init__(
        self, client: Client, where: str, database: str, collections: Iterable[str] | None
    ) -> None:
        self.database = database
        self._client = client
        self._where = where
        self._pipeline = _pipeline(collections)
        self._cancelled = False
        self.session_times: tuple[Any, Any] = (None, None)  # cluster time, operation time
        self.posted = 0  # changes

    @property
    def server_time(self) -> float:
        """The server's time at its last reply, in seconds; 0 before the first."""
        return moment.seconds(moment.if_known(self.session_times[1]))

    def begin(self) -> bytes:
        """Opens a stream at the server's present, and closes it: the position.

        :raises NoStreamsError: the server or the user's role has none
        :raises SyncError: it cannot be said now
        """
        from pymongo.errors import ConfigurationError, OperationFailure

        with translated(self._where):
            try:
                hello = self._client.admin.command("hello")
                if "setName" not in hello and hello.get("msg") != "isdbgrid":
                    raise NoStreamsError(self._none("it is no replica set"))
                if hello.get("maxWireVersion", 0) < _WIRE_VERSION:
                    raise NoStreamsError(self._none("it is older than MongoDB 4.2"))
                with self._client.start_session(causal_consistency=False) as session:
                    # Events that came at once would come without the token that is before them.
                    with self._open(session, None, batch_size=0) as stream:
                        token = stream.resume_token
                    self.session_times = (session.cluster_time, session.operation_time)
            except OperationFailure as error:
                if error.code is None and "operationTime" in str(error):  # PyMongo found none
                    raise NoStreamsError(self._none(_TIMELESS)) from None
                if error.code in _NO_STREAMS_AT_FIRST or error.code == UNAUTHORIZED:
                    code = str(error.code)
                    raise NoStreamsError(self._none(server_text(error)), code=code) from None
                raise
            except ConfigurationError as error:  # no sessions
                raise NoStreamsError(self._none(str(error))) from None
        if token is None or None in self.session_times:
            raise NoStreamsError(self._none(_TIMELESS))
        return bytes(cast("RawBSONDocument", token).raw)

    def _none(self, why: str) -> str:
        return f"no change stream of {self.database} at {self._where}: {why}"

    def run(self, token: bytes, post: Post, waiting: Callable[[], int], pace: Pace) -> None:
        """Posts what happens after the position, until `cancel` or until it ends: Changes, Heard,
        and at last the SyncError that ended it.

        :param token: the position
        :param waiting: how many of the posted changes nobody has taken yet
        :param pace: how often to ask
        """
        from bson.raw_bson import RawBSONDocument
        from pymongo.errors import OperationFailure

        try:
            with translated(self._where):
                try:
                    with self._client.start_session(causal_consistency=False) as session:
                        self._follow(session, RawBSONDocument(token), post, waiting, pace)
                except OperationFailure as error:
                    raise _lost(error) or error from None
        except SyncError as error:
            post(error)
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            post(SourceAwayError(f"{self._where}: {detail}"))

    def start(self, token: bytes, post: Post, waiting: Callable[[], int], pace: Pace) -> None:
        """`run` in a thread of its own; a daemon, as it may wait for a server that hangs."""
        threading.Thread(
            target=self.run,
            args=(token, post, waiting, pace),
            name=f"mmapcache-stream-{self.database}",
            daemon=True,
        ).start()

    def cancel(self) -> None:
        """The thread ends at the server's next reply."""
        self._cancelled = True

    def _open(
        self, session: ClientSession, token: Any, batch_size: int
    ) -> DatabaseChangeStream[Any]:
        from mmapcache.sync.mongo.reply import Reply

        options = self._client.codec_options.with_options(document_class=Reply)
        return self._client.get_database(self.database, codec_options=options).watch(
            self._pipeline,
            session=session,
            start_after=token,
            max_await_time_ms=int(AWAIT * 1000),
            batch_size=batch_size,
        )

    def _follow(
        self,
        session: ClientSession,
        token: Any,
        post: Post,
        waiting: Callable[[], int],
        pace: Pace,
    ) -> None:
        with self._open(session, token, _BATCH) as stream:
            while not self._cancelled:
                event = stream.try_next()
                before = self.session_times[1]
                self.session_times = (session.cluster_time, session.operation_time)
                if event is not None:
                    count = self._say(event, post)
                    if count == 1 and self.session_times[1] is before:
                        pace.event()
                    elif (pause := pace.reply(time.monotonic(), count)) > 0:
                        time.sleep(pause)
                    while waiting() > _QUEUED and not self._cancelled:
                        time.sleep(0.005)
                elif stream.alive:
                    reached = moment.if_known(session.operation_time)
                    post(Heard(self.database, stream.resume_token, reached, time.monotonic()))
                else:
                    raise PositionLostError(
                        "invalidated", f"the change stream of {self.database} was ended"
                    )

    def _say(self, event: Any, post: Post) -> int:
        """Posts the changes of a reply's next events, or of an event; how many events these were.

        :raises PositionLostError: it is one that no single document can follow from
        """
        from mmapcache.sync.mongo.reply import Run

        if isinstance(event, Run):
            self._post(event.changes, event.token, post)
            return len(event.changes)
        try:
            document = mmapcache.Document(event.raw)
            kind = document["operationType"]
            if kind in _CHANGES:
                _id = element.of_document(document["documentKey"].raw)
                if _id[:1] in _NAMELESS:
                    raise ValueError("an _id of a type that is out of use")
                alone = "txnNumber" not in document
                at = moment.number(document["clusterTime"])
                change = (document["ns"]["coll"], _id, at, alone, kind == "delete")
                self._post([change], event["_id"], post)
            elif kind not in _SILENT:
                raise PositionLostError(
                    _ENDS.get(kind, "refused"), f"{_namespace(document)}: {_past(kind)}"
                )
        except (KeyError, TypeError, AttributeError, ValueError, mmapcache.MmapCacheError) as error:
            raise PositionLostError(
                "refused",
                f"{self._where}: a change event that makes no sense "
                f"({type(error).__name__}: {error})",
            ) from None
        return 1

    def _post(self, changes: Sequence[Change], token: Any, post: Post) -> None:
        self.posted += len(changes)
        post(Changes(self.database, changes, token))


def _pipeline(collections: Iterable[str] | None) -> list[dict[str, Any]]:
    """Lets the server leave out what nobody here asks for."""
    ends = {"operationType": {"$in": ["dropDatabase", "invalidate"]}}
    if collections is None:
        match: dict[str, Any] = {"ns.coll": {"$not": {"$regex": "^system\\."}}}
    else:
        names = sorted(collections)
        match = {"$or": [{"ns.coll": {"$in": names}}, {"to.coll": {"$in": names}}, ends]}
    unused = ("fullDocument", "fullDocumentBeforeChange", "updateDescription", "lsid")
    more = ("collectionUUID", "wallTime")
    return [{"$match": match}, {"$project": dict.fromkeys((*unused, *more), 0)}]


def _namespace(document: mmapcache.Document) -> str:
    names: Any = document.get("ns", {})
    return f"{names.get('db')}.{names['coll']}" if "coll" in names else f"{names.get('db')}"


def _past(kind: str) -> str:
    words = {"drop": "dropped", "dropDatabase": "the database was dropped", "rename": "renamed"}
    return words.get(kind, f"a change event of the kind {kind!r}")


def _lost(error: Any) -> PositionLostError | NoStreamsError | None:
    """What a server's refusal means for a stream that has a position."""
    text, code = server_text(error), error.code
    if code in _LOST:
        return PositionLostError(_LOST[code], f"the change stream ended: {text}", code=str(code))
    if code in _BAD_TOKEN:
        return PositionLostError(
            "bad_token", f"the server does not take the position: {text}", code=str(code)
        )
    if code in _NO_STREAMS or code == UNAUTHORIZED:
        return NoStreamsError(f"no change stream any more: {text}", code=str(code))
    if error.has_error_label("NonResumableChangeStreamError"):
        return PositionLostError("refused", f"the change stream ended: {text}", code=str(code))
    return None
