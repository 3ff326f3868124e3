"""What the tests of the loader share: the loader as a process, waiting, and a scripted server."""

from __future__ import annotations

import os
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import bson

import mmapcache

PATIENCE = 30.0  # seconds; far more than anything here takes


def wait_for(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Polls until the condition is true, and gives its value."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{condition} stayed false for {timeout} s")
        time.sleep(0.01)
    return value


def confirmed_at(cache: mmapcache.Cache) -> float:
    """When the loader last confirmed the data; 0 before it ever did."""
    return cache.status()["confirmed_at"] or 0.0


class Loader:
    """`mmapcache sync` as a process; all that it writes goes into one file.

    :param path: the cache file
    :param arguments: the flags
    :param environment: variables besides those of the tests
    """

    def __init__(
        self, path: Path, arguments: Sequence[str], environment: dict[str, str] | None = None
    ) -> None:
        self._log = path.with_name(f"loader-{time.monotonic_ns()}.log")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MMAPCACHE_")}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mmapcache", "sync", str(path), *arguments],
                stdout=log,
                stderr=log,
                env=inherited | (environment or {}),
            )

    @property
    def output(self) -> str:
        return self._log.read_text("utf-8")

    def expect(self, pattern: str, timeout: float = PATIENCE) -> None:
        """Waits until the output has a match."""
        try:
            wait_for(lambda: re.search(pattern, self.output) or self.process.poll() is not None)
            assert re.search(pattern, self.output)
        except AssertionError:
            raise AssertionError(f"no {pattern!r} in:\n{self.output}") from None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status; a negative one is a signal."""
        return self.process.wait(timeout)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if kind is not None:
            sys.stderr.write(f"--- output of the loader\n{self.output}---\n")


def load_once(
    path: Path, arguments: Sequence[str], environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Runs the loader with --once: exit status and output."""
    with Loader(path, [*arguments, "--once"], environment) as loader:
        status = loader.wait()
        return status, loader.output


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
