"""A MongoDB server that answers as it is told: right replies, wrong ones, half ones, none.

    with ScriptedServer({"shop.sites": [{"_id": 1}]}) as server:
        ... server.uri ...
        server.answer = lambda command, request, before: CLOSE if command == "getMore" else None

Each request goes through `answer`, and with None to `handlers`, which know the right reply:

    request ──> answer ──┬─ None ─> handlers[command] ──> reply ──> connection
                         ├─ a document, Raw, Message ──────────────────┘
                         └─ CLOSE, HALF, Cut, HANG

A command more is a handler more: `server.handlers["aggregate"] = lambda request: ...`. What a
cursor delivers is any iterator of batches, see `cursor_reply`.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import socketserver
import struct
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import bson

Request = dict[str, Any]
Handler = Callable[[Request], Mapping[str, Any]]
Answer = Callable[[str, Request, int], Any]
Batches = Iterator[Sequence[Mapping[str, Any]]]

CLOSE = object()  # an answer: the connection ends instead
HALF = object()  # an answer: half of the right reply, then the connection ends
HANG = object()  # an answer: none, for as long as the server lives

_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_HEADER = struct.Struct("<iiii")  # length, request, response to, code


@dataclass(frozen=True)
class Raw:
    """An answer: an OP_MSG whose one document is these bytes, BSON or not."""

    document: bytes


@dataclass(frozen=True)
class Message:
    """An answer: a message with what is given here in the place of what is right.

    :param body: all that follows the header
    :param length: what the header claims
    :param code: the header's operation code; 2012 is a compressed message
    """

    body: bytes
    length: int | None = None
    code: int = _OP_MSG


@dataclass
class Cut:
    """An answer: the first bytes of the right reply, then the connection ends.

    :param size: how many bytes, those of the header included
    :param whole: set when it is sent: how many bytes the reply has
    """

    size: int
    whole: int = 0


@dataclass
class _Cursor:
    number: int
    namespace: str
    batches: Batches
    waits: bool


def failing(code: int | None, name: str) -> dict[str, Any]:
    """A reply that says no; without a code when that is None."""
    reply = {"ok": 0.0, "codeName": name, "errmsg": f"scripted {name}"}
    return reply if code is None else reply | {"code": code}


class ScriptedServer:
    """Speaks OP_MSG on a port of its own, a thread for each connection.

    :param collections: namespace -> documents; may be replaced while it runs
    :param answer: called with (command, request, how many of that command came before)
    """

    def __init__(
        self, collections: dict[str, list[dict[str, Any]]], answer: Answer | None = None
    ) -> None:
        self.collections = collections
        self.answer = answer
        self.seen: Counter[str] = Counter()
        self.requests: list[tuple[str, Request]] = []
        self.tells_uuids = True  # in listCollections
        self.handlers: dict[str, Handler] = {
            "count": self._count,
            "find": self._find,
            "getMore": self._get_more,
            "hello": self._hello,
            "isMaster": self._hello,
            "ismaster": self._hello,
            "killCursors": self._kill_cursors,
            "listCollections": self._list_collections,
        }
        self._cursors: dict[int, _Cursor] = {}
        self._numbers = itertools.count(1000)
        self._incarnations: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._connections: set[socket.socket] = set()
        outer = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._serve(self.request)

        socketserver.ThreadingTCPServer.daemon_threads = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self._server.server_address[1]}/?directConnection=true"

    def drop(self, namespace: str) -> None:
        """As a server without locks does it: open cursors end early, and without an error."""
        with self._lock:
            self.collections.pop(namespace, None)
            self._incarnations[namespace] += 1
            for cursor in self._cursors.values():
                if cursor.namespace == namespace:
                    cursor.batches = iter(())

    def disconnect(self) -> None:
        """Cuts all connections; new ones are welcome."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def cursor_reply(
        self, namespace: str, batches: Batches, *, waits: bool = False
    ) -> dict[str, Any]:
        """The reply that opens a cursor over `batches`; `getMore` takes one at a time.

        :param waits: nothing is taken ahead, so that a batch may block until there is something to
            say; otherwise the cursor is over together with its last batch
        """
        with self._lock:
            number = next(self._numbers)
        return self._batch_reply(_Cursor(number, namespace, batches, waits), "firstBatch")

    # --- what is right ----------------------------------------------------------------------------

    def right(self, command: str, request: Request) -> Mapping[str, Any]:
        """The reply that a server in its right mind gives."""
        handler = self.handlers.get(command)
        return {"ok": 1.0} if handler is None else handler(request)

    def _hello(self, request: Request) -> dict[str, Any]:
        return {
            "ok": 1.0,
            "isWritablePrimary": True,
            "ismaster": True,
            "helloOk": True,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "maxBsonObjectSize": 16 << 20,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
        }

    def _list_collections(self, request: Request) -> dict[str, Any]:
        entries = []
        for namespace in list(self.collections):
            database, _, name = namespace.partition(".")
            if database != request["$db"]:
                continue
            entry: dict[str, Any] = {"name": name, "type": "collection"}
            if self.tells_uuids and not request.get("nameOnly"):
                identity = f"{namespace} {self._incarnations[namespace]}"
                made = uuid.uuid5(uuid.NAMESPACE_OID, identity)
                entry["info"] = {"readOnly": False, "uuid": bson.Binary.from_uuid(made)}
            entries.append(entry)
        return self.cursor_reply(f"{request['$db']}.$cmd.listCollections", iter([entries]))

    def _count(self, request: Request) -> dict[str, Any]:
        namespace = f"{request['$db']}.{request['count']}"
        return {"ok": 1.0, "n": len(self.collections.get(namespace, ()))}

    def _find(self, request: Request) -> dict[str, Any]:
        namespace = f"{request['$db']}.{request['find']}"
        documents = list(self.collections.get(namespace, ()))
        size = int(request.get("batchSize", 101))
        batches = [documents[i : i + size] for i in range(0, len(documents), size)]
        return self.cursor_reply(namespace, iter(batches))

    def _get_more(self, request: Request) -> dict[str, Any]:
        number = int(request["getMore"])
        with self._lock:
            cursor = self._cursors.pop(number, None)
        if cursor is None:
            return failing(43, "CursorNotFound")
        return self._batch_reply(cursor, "nextBatch")

    def _kill_cursors(self, request: Request) -> dict[str, Any]:
        with self._lock:
            for number in request["cursors"]:
                self._cursors.pop(int(number), None)
        return {"ok": 1.0}

    def _batch_reply(self, cursor: _Cursor, which: str) -> dict[str, Any]:
        batch = next(cursor.batches, None)
        over = batch is None
        if not over and not cursor.waits:
            following = next(cursor.batches, None)
            over = following is None
            if following is not None:
                cursor.batches = itertools.chain((following,), cursor.batches)
        if not over:
            with self._lock:
                self._cursors[cursor.number] = cursor
        described = {"id": bson.Int64(0 if over else cursor.number), "ns": cursor.namespace}
        return {"ok": 1.0, "cursor": described | {which: list(batch or ())}}

    # --- the wire ---------------------------------------------------------------------------------

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)
        try:
            while not self._over.is_set():
                length, request, _, code = _HEADER.unpack(_receive(connection, _HEADER.size))
                body = _receive(connection, length - _HEADER.size)
                if not self._reply(connection, request, code, body):
                    return
        except OSError:
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)

    def _reply(self, connection: socket.socket, number: int, code: int, body: bytes) -> bool:
        """Answers one request; whether the connection goes on."""
        if code == _OP_QUERY:  # the first greeting still comes that way
            request = bson.decode(body[body.index(b"\0", 4) + 9 :])
            reply = bson.encode(self.right(next(iter(request)), request))
            _send(connection, number, _OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + reply)
            return True
        request = bson.decode(body[5:])
        command = next(iter(request))
        with self._lock:
            before = self.seen[command]
            self.seen[command] += 1
            self.requests.append((command, request))
        answer = self.answer(command, request, before) if self.answer else None
        if answer is HANG:
            self._over.wait()
        if answer is HANG or answer is CLOSE:
            return False
        if isinstance(answer, Message):
            _send(connection, number, answer.code, answer.body, answer.length)
            return True
        if isinstance(answer, Raw):
            encoded = answer.document
        elif answer is None or answer is HALF or isinstance(answer, Cut):
            encoded = bson.encode(self.right(command, request))
        else:
            encoded = bson.encode(answer)
        message = struct.pack("<IB", 0, 0) + encoded
        if answer is HALF:
            half = message[: (len(message) - _HEADER.size) // 2]
            _send(connection, number, _OP_MSG, half, _HEADER.size + len(message))
            return False
        if isinstance(answer, Cut):
            answer.whole = _HEADER.size + len(message)
            whole = _HEADER.pack(answer.whole, 0, number, _OP_MSG) + message
            connection.sendall(whole[: answer.size])
            return False
        _send(connection, number, _OP_MSG, message)
        return True

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _receive(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def _send(
    connection: socket.socket, request: int, code: int, body: bytes, length: int | None = None
) -> None:
    claimed = _HEADER.size + len(body) if length is None else length
    connection.sendall(_HEADER.pack(claimed, 0, request, code) + body)
