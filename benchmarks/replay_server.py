"""A MongoDB server that replays prepared replies at wire speed.

A real server needs longer to produce a document than a loader to take it, so it hides what the
loader costs. This one answers `find` and `getMore` with bytes made before the clock starts:

    [header 16 B][flags, kind 5 B][{cursor: {nextBatch: [ ... ],  |  id, ns}, ok: 1}]
     per request                   prepared, up to 16 MiB            per request

Batches are cut as mongod cuts them: as many documents as the client's batch size says, without one
101 first and then as many as there are, never more than fit into 16 MiB. Collections: `settings`;
`changed`, the same with one document in a hundred changed; and `turning`, which is the one and the
other in turn, a refresh's change each time. Run in a process of its own:

    python -m benchmarks.replay_server COUNT      prints its URI, ends with its standard input
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Sequence
from typing import Any

import bson

from benchmarks import data, harness

MAX_BATCH = 16 << 20
FIRST_BATCH = 101
TURNING = "turning"
_HEADER = struct.Struct("<iiii")
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_INDEX = [str(number).encode() for number in range(200_000)]


class Batch:
    """A BSON array of documents, prepared, without the reply around it."""

    def __init__(self, documents: Sequence[bytes]) -> None:
        """Encode the array."""
        pieces = [b"\x03" + _INDEX[i] + b"\x00" + raw for i, raw in enumerate(documents)]
        body = b"".join(pieces)
        self.encoded = struct.pack("<i", len(body) + 5) + body + b"\x00"


def cut(documents: list[bytes], size: int) -> list[Batch]:
    """The batches of a cursor over `documents`: of `size` documents, 0 when none is given."""
    made: list[Batch] = []
    position = 0
    while position < len(documents) or not made:
        wanted = size or (len(documents) if made else FIRST_BATCH)
        room, end = MAX_BATCH - 1024, position
        while end < min(len(documents), position + wanted):
            room -= len(documents[end]) + 2 + len(_INDEX[end - position])
            if room < 0:
                break
            end += 1
        made.append(Batch(documents[position:end]))
        position = end
    return made


class Replay:
    """The collections and their open cursors."""

    def __init__(self, collections: dict[str, list[bytes]]) -> None:
        """Take the collections; replies are prepared at the first cursor of each batch size."""
        self.collections = collections
        self._batches: dict[tuple[str, int], list[Batch]] = {}
        self._turn = itertools.cycle(("settings", "changed"))
        self._cursors: dict[int, tuple[str, str, list[Batch], int]] = {}
        self._ids = itertools.count(1 << 33)
        self._lock = threading.Lock()

    def find(self, database: str, command: dict[str, Any]) -> list[bytes]:
        """Open a cursor; the reply's pieces."""
        name = command["find"]
        content = name
        if name == TURNING:
            with self._lock:
                content = next(self._turn)
        batches = self._prepared(content, command.get("batchSize", 0))
        with self._lock:
            cursor = next(self._ids)
        return self._reply(b"firstBatch", cursor, database, name, batches, 0)

    def signature(self) -> bytes:
        """What follows `ok` in every reply: the encoded fields of a server that has a clock."""
        return b""

    def _prepared(self, name: str, size: int) -> list[Batch]:
        """The batches of a collection, made once."""
        if (name, size) not in self._batches:
            self._batches[name, size] = cut(self.collections.get(name, []), size)
        return self._batches[name, size]

    def get_more(self, database: str, command: dict[str, Any]) -> list[bytes]:
        """Go on with a cursor; the reply's pieces."""
        cursor = command["getMore"]
        with self._lock:
            state = self._cursors.pop(cursor, None)
        if state is None:
            return [bson.encode({"ok": 0.0, "code": 43, "errmsg": f"cursor {cursor} not found"})]
        database, name, batches, position = state
        return self._reply(b"nextBatch", cursor, database, name, batches, position)

    def kill(self, cursors: list[int]) -> None:
        """Close cursors."""
        with self._lock:
            for cursor in cursors:
                self._cursors.pop(cursor, None)

    def _reply(
        self,
        field: bytes,
        cursor: int,
        database: str,
        name: str,
        batches: list[Batch],
        position: int,
    ) -> list[bytes]:
        """Pieces of `{cursor: {field: [...], id, ns}, ok: 1}` around a prepared array."""
        last = position + 1 >= len(batches)
        if not last:
            with self._lock:
                self._cursors[cursor] = (database, name, batches, position + 1)
        array = batches[position].encoded
        space = f"{database}.{name}".encode() + b"\x00"
        rest = (
            b"\x12id\x00"
            + struct.pack("<q", 0 if last else cursor)
            + b"\x02ns\x00"
            + struct.pack("<i", len(space))
            + space
            + b"\x00"
        )
        return self.wrapped(b"\x04" + field + b"\x00", array, rest)

    def wrapped(self, opening: bytes, array: bytes, rest: bytes) -> list[bytes]:
        """The pieces of `{cursor: { … array … }, ok: 1}`."""
        inner = 4 + len(opening) + len(array) + len(rest)
        ending = b"\x01ok\x00" + struct.pack("<d", 1.0) + self.signature() + b"\x00"
        label = b"\x03cursor\x00"
        head = struct.pack("<i", 4 + len(label) + inner + len(ending)) + label
        return [head + struct.pack("<i", inner) + opening, array, rest + ending]


HELLO: dict[str, Any] = {
    "helloOk": True,
    "ismaster": True,
    "isWritablePrimary": True,
    "maxBsonObjectSize": 16 << 20,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "logicalSessionTimeoutMinutes": 30,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "readOnly": True,
    "ok": 1.0,
}


class Handler(socketserver.BaseRequestHandler):
    """One connection."""

    server: ReplayServer

    def setup(self) -> None:
        """Prefer large socket buffers and no delay."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)

    def handle(self) -> None:
        """Answer requests until the client goes away."""
        with contextlib.suppress(ConnectionError):  # or is killed
            self._serve()

    def _serve(self) -> None:
        while header := self._read(_HEADER.size):
            length, request, _, code = _HEADER.unpack(header)
            body = self._read(length - _HEADER.size)
            if code == _OP_QUERY:
                reply = [struct.pack("<iqii", 8, 0, 0, 1), bson.encode(self.server.hello)]
                self._send(request, _OP_REPLY, reply)
            elif code == _OP_MSG:
                pieces = self.answer(_command(body))
                self._send(request, _OP_MSG, [b"\x00" * 5, *pieces])
            else:
                return

    def answer(self, command: dict[str, Any]) -> list[bytes]:
        """The reply's document in pieces."""
        replay, database, verb = self.server.replay, command["$db"], next(iter(command))
        if verb == "find":
            return replay.find(database, command)
        if verb == "getMore":
            return replay.get_more(database, command)
        if verb == "killCursors":
            replay.kill(command["cursors"])
        if verb in ("hello", "ismaster", "isMaster"):
            return [bson.encode(self.server.hello)]
        if verb == "count":
            return [
                bson.encode({"n": len(replay.collections.get(command["count"], [])), "ok": 1.0})
            ]
        if verb == "listCollections":
            found = [
                {"name": name, "type": "collection"} for name in (*replay.collections, TURNING)
            ]
            cursor = {"id": 0, "ns": f"{database}.$cmd.listCollections", "firstBatch": found}
            return [bson.encode({"cursor": cursor, "ok": 1.0})]
        if verb in ("ping", "endSessions", "killCursors", "buildInfo"):
            return [bson.encode({"version": "7.0.0", "ok": 1.0})]
        return [bson.encode({"ok": 0.0, "code": 59, "errmsg": f"no such command: {verb}"})]

    def _read(self, length: int) -> bytes:
        """Exactly `length` bytes, or none when the client has gone."""
        pieces = []
        while length:
            piece = self.request.recv(length)
            if not piece:
                return b""
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)

    def _send(self, request: int, code: int, pieces: list[bytes]) -> None:
        """Send a message made of pieces without joining them."""
        length = _HEADER.size + sum(map(len, pieces))
        views = [memoryview(each) for each in (_HEADER.pack(length, 0, request, code), *pieces)]
        while views:
            sent = self.request.sendmsg(views)
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if views:
                views[0] = views[0][sent:]


def _command(body: bytes) -> dict[str, Any]:
    """The command in the first section of an OP_MSG."""
    (length,) = struct.unpack_from("<i", body, 5)
    return bson.decode(body[5 : 5 + length])


class ReplayServer(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, replay: Replay, handler: type[Handler] = Handler) -> None:
        """Listen on a free port of the loopback interface."""
        super().__init__(("127.0.0.1", 0), handler)
        self.replay = replay
        self.hello = HELLO


class ReplayProcess:
    """The replay server in a process of its own."""

    def __init__(self, count: int) -> None:
        """Start it with `count` documents and wait until it answers."""
        self.process, self.uri = harness.served(
            ["-m", "benchmarks.replay_server", str(count)], "the replay server did not start"
        )

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def main() -> None:
    """Serve until standard input is closed."""
    count = int(sys.argv[1])
    unchanged = data.documents(count)
    changed = [data.document(i, 1) if i % 100 == 0 else raw for i, raw in enumerate(unchanged)]
    server = ReplayServer(Replay({"settings": unchanged, "changed": changed}))
    print(f"mongodb://127.0.0.1:{server.server_address[1]}/", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
