"""A scripted MongoDB server in a thread: it answers, or misbehaves as it is told."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import bson

Answer = Callable[[str, dict[str, Any], int], Any]
CLOSE = object()  # an answer: the connection ends instead
HALF = object()  # an answer: half of a reply, then the connection ends
HANG = object()  # an answer: none, for as long as the server lives


class ScriptedServer:
    """Speaks enough of MongoDB's OP_MSG to be asked for collections, and misbehaves as told.

    :param collections: namespace -> documents
    :param answer: called with (command, its document, how many of it came before); a document is
        sent instead of the right reply, CLOSE, HALF or HANG are done, None means the right reply
    """

    def __init__(
        self, collections: dict[str, list[dict[str, Any]]], answer: Answer | None = None
    ) -> None:
        self.collections = collections
        self.answer = answer
        self.seen: Counter[str] = Counter()
        self._cursors: dict[int, tuple[str, list[dict[str, Any]], int]] = {}
        self._over = threading.Event()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._serve(self.request)

        socketserver.ThreadingTCPServer.daemon_threads = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self._server.server_address[1]}/?directConnection=true"

    def _serve(self, connection: socket.socket) -> None:
        try:
            while not self._over.is_set():
                header = self._receive(connection, 16)
                length, request, _, opcode = struct.unpack("<iiii", header)
                body = self._receive(connection, length - 16)
                if opcode == 2004:  # the first greeting still comes as OP_QUERY
                    document = bson.decode(body[body.index(b"\0", 4) + 9 :])
                    reply = bson.encode(self._right(next(iter(document)), document))
                    rest = struct.pack("<iqii", 8, 0, 0, 1) + reply
                    opcode = 1
                else:
                    document = bson.decode(body[5:])
                    command = next(iter(document))
                    reply = self._reply(command, document)
                    if reply is HANG:
                        self._over.wait()
                        return
                    if reply is CLOSE:
                        return
                    half = reply is HALF
                    reply = bson.encode(self._right(command, document) if half else reply)
                    rest = struct.pack("<IB", 0, 0) + reply
                    opcode = 2013
                    if half:
                        head = struct.pack("<iiii", 16 + len(rest), 0, request, opcode)
                        connection.sendall((head + rest)[: (16 + len(rest)) // 2])
                        return
                head = struct.pack("<iiii", 16 + len(rest), 0, request, opcode)
                connection.sendall(head + rest)
        except OSError:
            pass

    @staticmethod
    def _receive(connection: socket.socket, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = connection.recv(length - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def _reply(self, command: str, document: dict[str, Any]) -> Any:
        before = self.seen[command]
        self.seen[command] += 1
        told = self.answer(command, document, before) if self.answer else None
        return self._right(command, document) if told is None else told

    def _right(self, command: str, document: dict[str, Any]) -> dict[str, Any]:
        if command.lower() in ("hello", "ismaster"):
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
        if command == "listCollections":
            names = [n.partition(".")[2] for n in self.collections]
            batch: list[dict[str, Any]] = [{"name": n, "type": "collection"} for n in names]
            namespace = f"{document['$db']}.$cmd.listCollections"
            return {"ok": 1.0, "cursor": {"id": 0, "ns": namespace, "firstBatch": batch}}
        if command == "find":
            namespace = f"{document['$db']}.{document['find']}"
            left = list(self.collections.get(namespace, ()))
            return self._batch(namespace, left, int(document.get("batchSize", 101)), "firstBatch")
        if command == "getMore":
            namespace, left, size = self._cursors.pop(int(document["getMore"]))
            return self._batch(namespace, left, size, "nextBatch")
        return {"ok": 1.0}

    def _batch(
        self, namespace: str, left: list[dict[str, Any]], size: int, which: str
    ) -> dict[str, Any]:
        cursor = 0
        if len(left) > size:
            cursor = 1000 + len(self._cursors) + sum(self.seen.values())
            self._cursors[cursor] = (namespace, left[size:], size)
        return {
            "ok": 1.0,
            "cursor": {"id": bson.Int64(cursor), "ns": namespace, which: left[:size]},
        }

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
