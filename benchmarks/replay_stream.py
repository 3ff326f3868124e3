"""A MongoDB server that replays a change stream at wire speed, and the documents that belong to it.

It stands on replay_server.py and looks like a replica set of one. Its history is a pure function:

    event e is the update of document e % COUNT to version 1 + e // COUNT
    token e means: everything before event e has been seen

Nobody sees an event before it is released, and what a stream sends is made before that, for the
streams that are open then. A released event's document is what `find` answers from that moment on,
for the whole collection or for a list of `_id`s. What the benchmark says to it are commands:

    {"benchPrepare": n}   make the replies for the next n events
    {"benchRelease": n}   the next n events happen

A stream's pipeline may project the events' fields; everything else in it is taken to let all events
pass. Run in a process of its own:

    python -m benchmarks.replay_stream COUNT [MANY]    prints its URI, ends with its standard input

The database `bench` has the collection `settings` of COUNT documents; the database `many` has MANY
collections of ten, in which nothing happens.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import struct
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import bson
import pymongo
from bson.timestamp import Timestamp

from benchmarks import data, harness
from benchmarks.replay_server import HELLO, Batch, Handler, Replay, ReplayServer

DATABASE, COLLECTION = "bench", "settings"
MANY = "many"
BYTES = 274  # of a document
SET = "replay"
_BATCH = 16 << 20
_PER_SECOND = 1_000_000  # events between two seconds of the server's clock
_TICK = 10  # seconds between the no-ops that move an idle stream's position
_AWAIT = 1000  # milliseconds that a getMore waits unless it says

Query = Mapping[str, Any]


def document(index: int, version: int) -> bytes:
    """Document `index` in one of its versions."""
    return data.sized_document(index, BYTES, version)


class _Kind:
    """The events as one pipeline shows them, a template with three holes."""

    _TOKEN, _INCREMENT, _KEY = "f" * 24, 0x01020304, "k" * data.KEY_LENGTH

    def __init__(self, base: int, stream: Query, stages: Iterable[Query]) -> None:
        """Take a $changeStream stage and those that follow it."""
        self._base = base
        self._lookup = stream.get("fullDocument") not in (None, "default")
        event: dict[str, Any] = {
            "_id": {"_data": self._TOKEN},
            "operationType": "update",
            "clusterTime": Timestamp(base, self._INCREMENT),
            "wallTime": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
            "ns": {"db": DATABASE, "coll": COLLECTION},
            "documentKey": {"_id": self._KEY},
            "updateDescription": {
                "updatedFields": {"version": 1},
                "removedFields": [],
                "truncatedArrays": [],
            },
        }
        if self._lookup:
            event["fullDocument"] = {}
        for stage in stages:
            event = _projected(event, stage)
        self._lookup = "fullDocument" in event
        event.pop("fullDocument", None)
        body = bson.encode(event)[4:-1]
        self._head, rest = body.split(self._TOKEN.encode())
        self._middle, rest = rest.split(struct.pack("<II", self._INCREMENT, base))
        self._before, self._after = rest.split(self._KEY.encode())

    def event(self, number: int, count: int) -> bytes:
        """Event `number` of a history of `count` documents."""
        index = number % count
        stamp = stamp_of(self._base, number)
        pieces = [
            self._head,
            token_of(number + 1).encode(),
            self._middle,
            struct.pack("<II", stamp.inc, stamp.time),
            self._before,
            data.key(index).encode(),
            self._after,
        ]
        if self._lookup:
            pieces += [b"\x03fullDocument\x00", document(index, 1 + number // count)]
        body = b"".join(pieces)
        return struct.pack("<i", len(body) + 5) + body + b"\x00"


def _projected(event: dict[str, Any], stage: Query) -> dict[str, Any]:
    """What a $project or $unset leaves of the event's own fields."""
    if "$unset" in stage:
        names = stage["$unset"]
        gone = {names} if isinstance(names, str) else set(names)
        return {name: value for name, value in event.items() if name not in gone}
    fields = stage.get("$project")
    if not fields:
        return event
    tops = {name.partition(".")[0] for name, shown in fields.items() if shown}
    if tops - {"_id"}:
        return {name: value for name, value in event.items() if name in tops | {"_id"}}
    hidden = {name for name, shown in fields.items() if not shown}
    return {name: value for name, value in event.items() if name not in hidden}


def token_of(position: int, tick: int = 0) -> str:
    """The resume token's text of a position; `tick` makes it differ while nothing happens."""
    return f"{position:016x}{tick:08x}"


def stamp_of(base: int, number: int) -> Timestamp:
    """The cluster time of event `number`."""
    return Timestamp(base + number // _PER_SECOND, number % _PER_SECOND + 1)


class _Stream:
    """An open change stream."""

    def __init__(self, kind: str, size: int, position: int) -> None:
        """Begin at a position."""
        self.kind, self.size, self.position = kind, size, position


class LiveReplay(Replay):
    """The collections, the history, and the open streams."""

    def __init__(self, count: int, many: int) -> None:
        """Make the documents in their first version."""
        self.base = int(time.time()) - 1
        self.count = count
        self.documents = [document(index, 0) for index in range(count)]
        self.index = {data.key(index): index for index in range(count)}
        self.released = 0
        self._moved = threading.Condition()
        self._ready: list[tuple[int, bytes]] = []  # documents of the prepared events
        self._kinds: dict[str, _Kind] = {}
        self._streams: dict[int, _Stream] = {}
        self._cuts: dict[tuple[str, int, int], tuple[Batch, int]] = {}
        self._streams_made = itertools.count(1 << 40)
        self._few = {f"c{number:04d}": self.documents[:10] for number in range(many)}
        super().__init__({COLLECTION: self.documents, **self._few})

    # --- what the benchmark asks for

    def prepare(self, number: int) -> None:
        """Make what the next `number` events need, and the collection as it is now."""
        start, end = self.released, self.released + number
        self._ready = []
        for event in range(start, end):
            index = event % self.count
            self._ready.append((index, document(index, 1 + event // self.count)))
        self._cuts.clear()
        for stream in list(self._streams.values()):
            position = max(stream.position, start)
            while position < end:
                position = self._cut(stream, position, end)[1]

    def release(self, number: int) -> None:
        """The next events happen."""
        if len(self._ready) != number:
            self.prepare(number)
        with self._moved:
            for index, raw in self._ready:
                self.documents[index] = raw
            self._ready = []
            self._batches.clear()
            self.released += number
            self._moved.notify_all()

    # --- what clients ask for

    def find(self, database: str, command: dict[str, Any]) -> list[bytes]:
        """A cursor over a collection, or the documents with some `_id`s in one reply."""
        wanted = _ids(command.get("filter"))
        if wanted is None or command["find"] != COLLECTION:
            return super().find(database, command)
        found = []
        for each in wanted:
            index = self.index.get(each)
            if index is not None:
                found.append(self.documents[index])
        return self._reply(b"firstBatch", 0, database, COLLECTION, [Batch(found)], 0)

    def names(self, database: str) -> list[str]:
        """The collections of a database."""
        return list(self._few) if database == MANY else [COLLECTION]

    def watch(self, database: str, command: dict[str, Any]) -> tuple[int, list[bytes]]:
        """Open a stream; its number and the reply's pieces."""
        first, *rest = command["pipeline"]
        stream = first["$changeStream"]
        position = self._start(stream)
        kind = repr((stream.get("fullDocument"), rest))
        with self._moved:
            if kind not in self._kinds:
                self._kinds[kind] = _Kind(self.base, stream, rest)
            number = next(self._streams_made)
            size = command.get("cursor", {}).get("batchSize", 0)
            self._streams[number] = opened = _Stream(kind, size, position)
        space = f"{database}.{command['aggregate']}"
        # Nothing in the first batch: as mongod, which answers before it has looked for events.
        return number, self._events(b"firstBatch", number, space, Batch([]), opened.position)

    def _start(self, stream: Query) -> int:
        for name in ("resumeAfter", "startAfter"):
            if name in stream:
                return int(stream[name]["_data"][:16], 16)
        at = stream.get("startAtOperationTime")
        if at is None:
            return self.released
        event: int = (at.time - self.base) * _PER_SECOND + at.inc - 1
        return min(self.released, max(0, event))

    def get_more(self, database: str, command: dict[str, Any]) -> list[bytes]:
        """Go on with a cursor or a stream; the latter waits for events."""
        number = command["getMore"]
        stream = self._streams.get(number)
        if stream is None:
            return super().get_more(database, command)
        stream.size = command.get("batchSize", stream.size)
        with self._moved:
            self._moved.wait_for(
                lambda: self.released > stream.position or number not in self._streams,
                command.get("maxTimeMS", _AWAIT) / 1000,
            )
            end = self.released
        batch = Batch([])
        if end > stream.position:
            batch, stream.position = self._cut(stream, stream.position, end)
        space = f"{database}.{command['collection']}"
        return self._events(b"nextBatch", number, space, batch, stream.position)

    def kill(self, cursors: list[int]) -> None:
        """Close cursors and streams."""
        super().kill(cursors)
        with self._moved:
            for number in cursors:
                self._streams.pop(number, None)
            self._moved.notify_all()

    def _cut(self, stream: _Stream, start: int, end: int) -> tuple[Batch, int]:
        """The next batch of a stream and the position behind it; made once for each start."""
        name = (stream.kind, stream.size, start)
        made = self._cuts.get(name)
        if made is None or made[1] > end:
            kind, events, room = self._kinds[stream.kind], [], _BATCH - 4096
            last = min(end, start + stream.size) if stream.size else end
            for number in range(start, last):
                event = kind.event(number, self.count)
                room -= len(event) + 8
                if room < 0:
                    break
                events.append(event)
            made = self._cuts[name] = (Batch(events), start + len(events))
        return made

    def _events(
        self, field: bytes, cursor: int, space: str, batch: Batch, position: int
    ) -> list[bytes]:
        """Pieces of a stream's reply, which has a postBatchResumeToken."""
        tick = int(time.time() - self.base) // _TICK if position == self.released else 0
        after = bson.encode(
            {
                "id": bson.Int64(cursor),
                "ns": space,
                "postBatchResumeToken": {"_data": token_of(position, tick)},
            }
        )[4:]
        opening = b"\x04" + field + b"\x00"
        return self.wrapped(opening, batch.encoded, after)

    def clock(self) -> dict[str, Any]:
        """The fields of a reply that say what the time is."""
        # That of the newest event, as the stamps of those to come are made before they happen.
        now = stamp_of(self.base, self.released - 1)
        signature = {"hash": b"\x00" * 20, "keyId": bson.Int64(0)}
        return {
            "operationTime": now,
            "$clusterTime": {"clusterTime": now, "signature": signature},
        }

    def signature(self) -> bytes:
        """The clock, encoded, as it follows `ok`."""
        return bson.encode(self.clock())[4:-1]


def _ids(query: Any) -> list[Any] | None:
    """The `_id`s that a filter lists, wherever in it; None when it does not."""
    if isinstance(query, Mapping):
        ids = query.get("_id")
        if isinstance(ids, Mapping) and "$in" in ids:
            return list(ids["$in"])
        if "_id" in query and not isinstance(ids, Mapping):
            return [ids]
        parts = query.get("$and", ())
        return next((found for found in map(_ids, parts) if found is not None), None)
    return None


class _Handler(Handler):
    """One connection."""

    server: _LiveServer

    def setup(self) -> None:
        """Know the streams that are opened here."""
        super().setup()
        self.streams: list[int] = []

    def finish(self) -> None:
        """The client has gone, and nobody needs to prepare anything for its streams."""
        self.server.live.kill(self.streams)

    def answer(self, command: dict[str, Any]) -> list[bytes]:
        """The reply's document in pieces."""
        replay, database, verb = self.server.live, command["$db"], next(iter(command))
        reply: dict[str, Any] = {"ok": 1.0}
        if verb == "aggregate" and "$changeStream" in command["pipeline"][0]:
            number, pieces = replay.watch(database, command)
            self.streams.append(number)
            return pieces
        if verb == "benchPrepare":
            replay.prepare(command[verb])
        elif verb == "benchRelease":
            replay.release(command[verb])
        elif verb == "listCollections":
            found = [{"name": name, "type": "collection"} for name in replay.names(database)]
            space = f"{database}.$cmd.listCollections"
            reply = {"cursor": {"id": 0, "ns": space, "firstBatch": found}, "ok": 1.0}
        else:
            pieces = super().answer(command)
            if len(pieces) > 1:
                return pieces
            reply = bson.decode(pieces[0])
        return [bson.encode(reply | replay.clock())]


class _LiveServer(ReplayServer):
    """Says that it is the primary of a replica set."""

    request_queue_size = 64

    def __init__(self, live: LiveReplay) -> None:
        """Listen, and know the own address."""
        super().__init__(live, _Handler)
        self.live = live
        own = f"127.0.0.1:{self.server_address[1]}"
        names = {"setName": SET, "setVersion": 1, "hosts": [own], "primary": own, "me": own}
        self.hello = HELLO | names | {"secondary": False}


class ReplayStream:
    """The server in a process of its own, and the commands of the benchmark."""

    def __init__(self, count: int, many: int = 0) -> None:
        """Start it and wait until it answers."""
        self.process, self.uri = harness.served(
            ["-m", "benchmarks.replay_stream", str(count), str(many)],
            "the replaying server did not start",
        )
        self.count = count
        self.released = 0
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(self.uri)

    def prepare(self, number: int) -> None:
        """See `LiveReplay.prepare`."""
        self._client.admin.command("benchPrepare", number)

    def release(self, number: int) -> None:
        """See `LiveReplay.release`."""
        self._client.admin.command("benchRelease", number)
        self.released += number

    def expected(self, index: int) -> bytes:
        """What document `index` is now."""
        full, rest = divmod(self.released, self.count)
        return document(index, full + (index < rest))

    @property
    def last(self) -> int:
        """The document that the newest event changed."""
        return (self.released - 1) % self.count

    def close(self) -> None:
        """End it."""
        self._client.close()
        self.process.kill()
        self.process.wait()


def main() -> None:
    """Serve until standard input is closed."""
    sys.setswitchinterval(0.0005)
    server = _LiveServer(LiveReplay(int(sys.argv[1]), int(sys.argv[2])))
    print(f"mongodb://127.0.0.1:{server.server_address[1]}/", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()


if __name__ == "__main__":
    main()
