"""A replica set of one that speaks change streams, in the test's process and at its word.

    with ReplicaSet({"shop.sites": [{"_id": 1}]}) as server:
        server.update("shop.sites", 1, {"v": 2})         the data and the oplog
        server.script("await", failing(286, "Lost"))     the next answer of that kind

What is written appends entries to an oplog; streams read it, from a token or a time, filtered by
their own pipelines. `script` takes the kinds "open" (a stream's aggregate), "await" (its getMore)
and any command's name. Faults are those of `ScriptedServer`, `Delay`, `Edit`, and functions that
are given the request and give a fault.

    write ──> oplog: [ entry | entry | … ] <── streams        truncate() forgets its beginning
              │ one clock: the entries' times, operationTime, $clusterTime
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import bson
from bson.timestamp import Timestamp

from support.matching import UnsupportedError, matches, project, run_stages, same
from support.oplog import EVENT, INVALIDATE, MARK, SECOND, Entry, Key, key_of, token
from support.scripted_server import Request, ScriptedServer, failing

RESUMABLE = "ResumableChangeStreamError"
LOST = failing(286, "ChangeStreamHistoryLost") | {"errorLabels": ["NonResumableChangeStreamError"]}
_HEARTBEATS = ("hello", "isMaster", "ismaster")
_EXPANDED = {"create", "createIndexes", "modify"}  # told only where showExpandedEvents asks
_ENDS_COLLECTION = {"drop", "rename", "dropDatabase"}


@dataclass(frozen=True)
class Delay:
    """A fault: the right answer, but late."""

    seconds: float


@dataclass(frozen=True)
class Edit:
    """A fault: the right answer, changed in place by a function."""

    change: Callable[[dict[str, Any]], object]


@dataclass
class _Stream:
    number: int
    database: str
    collection: str | None  # None: the whole database; "" as the database: everything
    options: Mapping[str, Any]
    stages: list[Mapping[str, Any]]
    at: Key  # all before is looked through
    sent: Key  # the last that the client has
    over: bool = False
    ready: deque[tuple[Key, dict[str, Any]]] = field(default_factory=deque)


class _RefusedError(Exception):
    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(str(reply))
        self.reply = reply


class ReplicaSet(ScriptedServer):
    """A primary without secondaries.

    :param collections: namespace -> documents, there before anything is in the oplog
    :param name: the set's name
    """

    def __init__(self, collections: dict[str, list[dict[str, Any]]], name: str = "rs0") -> None:
        super().__init__(deepcopy(collections), self._scripted)
        self.name = name
        self.primary = True
        self.omit: set[str] = set()  # of operationTime, $clusterTime, postBatchResumeToken
        self.noops = 1.0  # seconds without a write after which the clock moves by itself
        self.lookup: Callable[[Any], Any] = lambda found: found  # fullDocument of an update
        self.streams: dict[int, _Stream] = {}
        self.heartbeats = 0
        self.opened: list[Request] = []  # each stream's aggregate, as it came
        self.changed = threading.Condition(threading.RLock())
        self._faults: defaultdict[str, deque[Any]] = defaultdict(deque)
        self._always: dict[str, Any] = {}
        self._silent = threading.Event()
        self._frozen: tuple[Timestamp, dict[str, list[dict[str, Any]]]] | None = None
        self._together: Entry | None = None
        self._ids = itertools.count(500_000)
        self.oplog = [Entry(int(time.time()), 1)]
        self._moved = time.monotonic()
        self.handlers |= {
            "aggregate": self._aggregate,
            "find": self._filtered_find,
            "getMore": self._next_batch,
        }

    @property
    def uri(self) -> str:
        host, port = self._server.server_address[:2]
        return f"mongodb://{host!s}:{port}/?replicaSet={self.name}"

    # --- writing ----------------------------------------------------------------------------------

    def insert(self, namespace: str, *documents: dict[str, Any], oversized: bool = False) -> None:
        """Adds documents."""
        for document in documents:
            with self.changed:
                made = deepcopy(document)
                assert self._index(namespace, made["_id"]) is None
                self.collections[namespace] = [*self.collections.get(namespace, ()), made]
                self._log("insert", namespace, made["_id"], oversized, fullDocument=made)

    def update(
        self, namespace: str, identity: Any, fields: dict[str, Any], *, oversized: bool = False
    ) -> None:
        """Sets fields of a document."""
        with self.changed:
            made = self._put(namespace, identity, fields, whole=False)
            described = {"updatedFields": deepcopy(fields), "removedFields": []}
            described["truncatedArrays"] = []
            identity = made["_id"]
            self._log("update", namespace, identity, oversized, updateDescription=described)

    def replace(self, namespace: str, identity: Any, document: dict[str, Any]) -> None:
        """Replaces a document, all but its _id."""
        with self.changed:
            made = self._put(namespace, identity, document, whole=True)
            self._log("replace", namespace, made["_id"], fullDocument=made)

    def delete(self, namespace: str, identity: Any) -> None:
        """Deletes a document."""
        with self.changed:
            index = self._index(namespace, identity)
            assert index is not None, f"{namespace} has no {identity!r}"
            documents = list(self.collections[namespace])
            gone = documents.pop(index)
            self.collections[namespace] = documents
            self._log("delete", namespace, gone["_id"])

    def create(self, namespace: str) -> None:
        """Makes an empty collection."""
        with self.changed:
            self.collections.setdefault(namespace, [])
            self._log("create", namespace)

    def drop(self, namespace: str) -> None:
        """Drops a collection; cursors over it end short."""
        with self.changed:
            super().drop(namespace)
            self._log("drop", namespace)

    def rename(self, namespace: str, to: str) -> None:
        """Renames a collection; what had the new name is dropped."""
        with self.changed:
            documents = self.collections[namespace]
            super().drop(namespace)
            if to in self.collections:
                self.drop(to)
            self.collections[to] = documents
            database, _, collection = to.partition(".")
            self._log("rename", namespace, to={"db": database, "coll": collection})

    def drop_database(self, database: str) -> None:
        """Drops all of its collections, then the database itself."""
        with self.changed:
            for namespace in [n for n in self.collections if n.startswith(database + ".")]:
                self.drop(namespace)
            self._log("dropDatabase", database)

    def noop(self) -> None:
        """Moves the clock, as servers do that have nothing to write."""
        with self.changed:
            self.oplog.append(self._entry())
            self.changed.notify_all()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written meanwhile has one time, and is visible at once."""
        with self.changed:
            self._together = self._entry()
            try:
                yield
            finally:
                self._together = None

    def truncate(self, before: int | None = None) -> None:
        """Forgets the oplog: whoever has not read up to now has lost the thread.

        :param before: only what is older than this, in seconds
        """
        with self.changed:
            if before is not None:
                self.oplog = [entry for entry in self.oplog if entry.seconds >= before]
                return
            self.noop()
            self.oplog = [self._entry()]  # later than the position of any stream
            self.changed.notify_all()

    def _index(self, namespace: str, identity: Any) -> int | None:
        documents = self.collections.get(namespace, ())
        found = (i for i, document in enumerate(documents) if same(document["_id"], identity))
        return next(found, None)

    def _put(
        self, namespace: str, identity: Any, fields: dict[str, Any], *, whole: bool
    ) -> dict[str, Any]:
        index = self._index(namespace, identity)
        assert index is not None, f"{namespace} has no {identity!r}"
        documents = list(self.collections[namespace])
        before = documents[index]
        kept = {"_id": before["_id"]} if whole else before
        documents[index] = kept | deepcopy(fields)
        self.collections[namespace] = documents
        return documents[index]

    def _entry(self) -> Entry:
        last = self.oplog[-1]
        now = int(time.time())
        self._moved = time.monotonic()
        if now > last.seconds:
            return Entry(now, 1)
        return Entry(last.seconds, last.increment + 1)

    def _log(
        self,
        operation: str,
        namespace: str,
        identity: Any = None,
        oversized: bool = False,
        **fields: Any,
    ) -> None:
        database, _, collection = namespace.partition(".")
        event: dict[str, Any] = {"operationType": operation}
        event["ns"] = {"db": database} | ({"coll": collection} if collection else {})
        if operation in ("insert", "update", "replace", "delete"):
            event["documentKey"] = {"_id": identity}
        entry = self._entry()
        if self._together is not None:
            entry = self._together
            self._together = Entry(entry.seconds, entry.increment, entry.index + 1)
        entry.event, entry.oversized = deepcopy(event | fields), oversized
        self.oplog.append(entry)
        self.changed.notify_all()

    # --- the clock --------------------------------------------------------------------------------

    @property
    def time(self) -> Timestamp:
        """The newest entry's time."""
        return self.oplog[-1].time

    def _stamped(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        with self.changed:
            if time.monotonic() - self._moved > self.noops:
                self.noop()
            now = self.time
        signature = {"hash": b"\0" * 20, "keyId": bson.Int64(1)}
        stamps = {
            "operationTime": now,
            "$clusterTime": {"clusterTime": now, "signature": signature},
        }
        return {**reply, **{key: value for key, value in stamps.items() if key not in self.omit}}

    # --- faults -----------------------------------------------------------------------------------

    def script(self, kind: str, *faults: Any) -> None:
        """The next answers of a kind, in this order; None is the right one."""
        with self.changed:
            self._faults[kind].extend(faults)
            self.changed.notify_all()  # streams that wait answer now, so that the fault is next

    def idle(self, kind: str) -> bool:
        """Whether all that was scripted for a kind has been said."""
        with self.changed:
            return not self._faults[kind]

    def always(self, kind: str, fault: Any) -> None:
        """Every answer of a kind from now on; None ends that."""
        with self.changed:
            self._always[kind] = fault
            self.changed.notify_all()

    def silence(self) -> None:
        """Only heartbeats are answered until `speak`."""
        self._silent.set()

    def speak(self) -> None:
        """Ends the silence."""
        with self.changed:
            self._silent.clear()
            self.changed.notify_all()

    def step_down(self) -> None:
        """No longer the primary, and without its connections; `primary = True` elects it anew."""
        with self.changed:
            self.primary = False
            self.changed.notify_all()
        self.disconnect()

    def freeze_reads(self) -> None:
        """Finds that ask for no later time answer from the data as it is now, as a secondary that
        lags does; streams go on."""
        with self.changed:
            self._frozen = (self.time, {n: list(d) for n, d in self.collections.items()})

    def kind(self, command: str, request: Request) -> str:
        """What `script` calls a request."""
        if command == "aggregate" and "$changeStream" in (request["pipeline"] or [{}])[0]:
            return "open"
        if command == "getMore" and int(request["getMore"]) in self.streams:
            return "await"
        return command

    def _scripted(self, command: str, request: Request, _: int) -> Any:
        if command in _HEARTBEATS:
            self.heartbeats += 1
            return None
        while self._silent.is_set() and not self._over.wait(0.02):
            pass
        kind = self.kind(command, request)
        with self.changed:
            fault = self._faults[kind].popleft() if self._faults[kind] else self._always.get(kind)
        if callable(fault):
            fault = fault(request)
        if isinstance(fault, Delay):
            self._over.wait(fault.seconds)
            return None
        if isinstance(fault, Edit):
            reply = deepcopy(dict(self.right(command, request)))
            fault.change(reply)
            return reply
        if isinstance(fault, Mapping) and "ok" in fault:
            return self._stamped(fault)
        return fault

    # --- answers ----------------------------------------------------------------------------------

    def right(self, command: str, request: Request) -> Mapping[str, Any]:
        if not self.primary and command not in _HEARTBEATS:
            return self._stamped(
                failing(10107, "NotWritablePrimary") | {"errorLabels": [RESUMABLE]}
            )
        try:
            reply = super().right(command, request)
        except _RefusedError as refused:
            reply = refused.reply
        except UnsupportedError as error:
            reply = failing(40324, f"the tests' server does not know {error}")
        return self._stamped(reply)

    def _hello(self, request: Request) -> dict[str, Any]:
        host, port = self._server.server_address[:2]
        me = f"{host!s}:{port}"
        return (
            super()._hello(request)
            | {
                "isWritablePrimary": self.primary,
                "ismaster": self.primary,
                "secondary": not self.primary,
                "setName": self.name,
                "setVersion": 1,
                "hosts": [me],
                "me": me,
                "logicalSessionTimeoutMinutes": 30,
            }
            | ({"primary": me} if self.primary else {})
        )

    def _filtered_find(self, request: Request) -> dict[str, Any]:
        namespace = f"{request['$db']}.{request['find']}"
        after = request.get("readConcern", {}).get("afterClusterTime")
        with self.changed:
            data = self.collections
            if self._frozen is not None and (after is None or after <= self._frozen[0]):
                data = self._frozen[1]
            documents = list(data.get(namespace, ()))
        query = request.get("filter", {})
        documents = [document for document in documents if matches(document, query)]
        if request.get("projection"):
            documents = [project(document, request["projection"]) for document in documents]
        if request.get("limit"):
            documents = documents[: abs(int(request["limit"]))]
        size = max(1, int(request.get("batchSize", 101)))
        batches = [documents[i : i + size] for i in range(0, len(documents), size)]
        return self.cursor_reply(namespace, iter(batches))

    # --- streams ----------------------------------------------------------------------------------

    def _aggregate(self, request: Request) -> dict[str, Any]:
        stages = list(request["pipeline"])
        if not stages or "$changeStream" not in stages[0]:
            raise UnsupportedError("an aggregate that opens no stream")
        given = stages.pop(0)["$changeStream"]
        run_stages([], _without_split(stages))  # a stage that nobody knows is refused at once
        target = request["aggregate"]
        with self.changed:
            at = self._start(given)
            self.opened.append(request)
            stream = _Stream(
                next(self._ids),
                "" if given.get("allChangesForCluster") else request["$db"],
                target if isinstance(target, str) else None,
                given,
                stages,
                at,
                at,
            )
            return self._batch(stream, "firstBatch", request.get("cursor", {}).get("batchSize"))

    def _start(self, given: Mapping[str, Any]) -> Key:
        resume = given.get("resumeAfter", given.get("startAfter"))
        if resume is None:
            start = given.get("startAtOperationTime")
            if start is None:
                last = self.oplog[-1]
                return (last.seconds, last.increment + 1, 0, MARK)
            at: Key = (start.time, start.inc, 0, MARK)
        else:
            parsed = key_of(resume)
            if parsed is None:
                raise _RefusedError(failing(50811, "Location50811"))
            if parsed[3] == INVALIDATE and "resumeAfter" in given:
                raise _RefusedError(failing(260, "InvalidResumeToken"))
            at = parsed
        if self.oplog[0].key(MARK) > at:
            raise _RefusedError(LOST)
        if at[3] != MARK and not any(entry.key(at[3]) == at for entry in self.oplog):
            raise _RefusedError(failing(280, "ChangeStreamFatalError"))
        return at

    def _next_batch(self, request: Request) -> dict[str, Any]:
        with self.changed:
            stream = self.streams.pop(int(request["getMore"]), None)
            if stream is None:
                return super()._get_more(request)
            end = time.monotonic() + request.get("maxTimeMS", 1000) / 1000
            while self.primary and not (self._scan(stream) or stream.over):
                left = end - time.monotonic()
                if left <= 0 or self._over.is_set():
                    break
                self.streams[stream.number] = stream  # killCursors may end the wait
                self.changed.wait(min(left, 0.1))
                if self.streams.pop(stream.number, None) is None:
                    return failing(237, "CursorKilled")
                if self._faults["await"] or self._always.get("await") or self._silent.is_set():
                    return self._batch(stream, "nextBatch", 0)  # what is new is the fault's
            return self._batch(stream, "nextBatch", request.get("batchSize"))

    def _kill_cursors(self, request: Request) -> dict[str, Any]:
        with self.changed:
            for number in request["cursors"]:
                self.streams.pop(int(number), None)
            self.changed.notify_all()
        return super()._kill_cursors(request)

    def _batch(self, stream: _Stream, which: str, size: Any) -> dict[str, Any]:
        if time.monotonic() - self._moved > self.noops:
            self.noop()
        self._scan(stream)
        batch: list[dict[str, Any]] = []
        while stream.ready and len(batch) < (1000 if size is None else size):
            stream.sent, event = stream.ready.popleft()
            batch.append(event)
        if not batch and not stream.ready:
            stream.sent = stream.at
        over = stream.over and not stream.ready
        if not over:
            self.streams[stream.number] = stream
        cursor: dict[str, Any] = {
            "id": bson.Int64(0 if over else stream.number),
            "ns": f"{stream.database or 'admin'}.{stream.collection or '$cmd.aggregate'}",
            which: batch,
        }
        if "postBatchResumeToken" not in self.omit:
            cursor["postBatchResumeToken"] = token(stream.sent)
        return {"ok": 1.0, "cursor": cursor}

    def _scan(self, stream: _Stream) -> bool:
        """Looks through what is new; whether there is an event."""
        if self.oplog[0].key(MARK) > stream.at:
            raise _RefusedError(failing(136, "CappedPositionLost"))
        for entry in self._after(stream.at):
            if stream.over:
                break
            self._add(stream, entry)
        return bool(stream.ready)

    def _after(self, at: Key) -> list[Entry]:
        new = itertools.takewhile(lambda entry: entry.key(INVALIDATE) > at, reversed(self.oplog))
        return list(new)[::-1]

    def _add(self, stream: _Stream, entry: Entry) -> None:
        start = stream.at
        stream.at = max(stream.at, (entry.seconds, entry.increment, 0, MARK))
        event = entry.event
        if event is None or not _concerns(stream, event):
            return
        operation = event["operationType"]
        if operation in _EXPANDED and not stream.options.get("showExpandedEvents"):
            return
        shown = dict(event)
        if operation == "update" and stream.options.get("fullDocument") == "updateLookup":
            namespace = "{db}.{coll}".format(**event["ns"])
            index = self._index(namespace, event["documentKey"]["_id"])
            found = None if index is None else self.collections[namespace][index]
            shown["fullDocument"] = self.lookup(found)
        made = {"_id": token(entry.key(EVENT)), **shown, "clusterTime": entry.time}
        self._show(stream, entry, made, start)
        ending = {"dropDatabase"} if stream.collection is None else _ENDS_COLLECTION
        if operation in ending and stream.database and start < entry.key(INVALIDATE):
            stream.over = True
            made = {"_id": token(entry.key(INVALIDATE)), "operationType": "invalidate"}
            self._offer(stream, entry.key(INVALIDATE), made | {"clusterTime": entry.time})
            stream.at = entry.key(INVALIDATE)

    def _show(self, stream: _Stream, entry: Entry, made: dict[str, Any], start: Key) -> None:
        if not entry.oversized:
            if start < entry.key(EVENT):
                self._offer(stream, entry.key(EVENT), made)
            return
        shown = run_stages([made], _without_split(stream.stages))
        if not shown or start >= entry.key(SECOND):
            return
        if len(_without_split(stream.stages)) == len(stream.stages):
            raise _RefusedError(failing(10334, "BSONObjectTooLarge"))
        first = {k: v for k, v in shown[0].items() if k == "operationType"}
        second = {k: v for k, v in shown[0].items() if k not in ("_id", "operationType")}
        for number, fields in enumerate((first, second)):
            key = entry.key(EVENT + number)
            if start < key:
                split = {"splitEvent": {"fragment": number + 1, "of": 2}}
                stream.ready.append((key, {"_id": token(key)} | split | fields))
                stream.at = key

    def _offer(self, stream: _Stream, key: Key, made: dict[str, Any]) -> None:
        for shown in run_stages([made], _without_split(stream.stages)):
            stream.ready.append((key, shown))
            stream.at = max(stream.at, key)

    def __enter__(self) -> ReplicaSet:
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._over.set()
        with self.changed:
            self.changed.notify_all()
        super().__exit__(*exception)


def _without_split(stages: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [stage for stage in stages if "$changeStreamSplitLargeEvent" not in stage]


def _concerns(stream: _Stream, event: Mapping[str, Any]) -> bool:
    namespace = event["ns"]
    if stream.database not in ("", namespace["db"]):
        return False
    if stream.collection is None or "coll" not in namespace:
        return True
    return stream.collection in (namespace["coll"], event.get("to", {}).get("coll"))
