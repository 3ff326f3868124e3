"""HTTP with limits, on the standard library's server: one request for each connection.

A request's head has to be there within a few seconds and kilobytes, its answer has to be taken
within a few seconds, connections and streams of events are bounded in number, and a connection ends
with its answer. Nothing that a client sends is logged or stored.
"""

from __future__ import annotations

import contextlib
import io
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

CONNECTIONS = 64  # at once
STREAMS = 16  # of them, that stay open
HEAD_MOST = 8192  # bytes
HEAD_SECONDS = 5.0
SEND_SECONDS = 10.0
_BREATH = 0.1

_COMMON = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A GET or HEAD.

    :param query: the first value of each name
    """

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered: a body, or chunks that are sent as they come."""

    status: HTTPStatus = HTTPStatus.OK
    kind: str = "text/plain; charset=utf-8"
    body: bytes = b""
    chunks: Iterator[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: HTTPStatus, sentence: str, **headers: str) -> Response:
    """An answer that is one sentence."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, body=sentence.encode() + b"\n", headers=named)


class Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """Answers what comes to a listening socket, each connection in a thread of its own.

    :param listening: closed by `close`
    :param answer: called in any of these threads
    :param say: told, in one sentence, of what went wrong in here
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listening: socket.socket,
        answer: Callable[[Request], Response],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(("", 0), _Handler)
        self.answer = answer
        self.say = say
        self.streams = threading.Semaphore(STREAMS)
        self._listening = listening
        self._room = threading.Semaphore(CONNECTIONS)

    def fileno(self) -> int:
        return self._listening.fileno()

    def get_request(self) -> tuple[Any, Any]:
        try:
            connection, address = self._listening.accept()
        except OSError:
            time.sleep(_BREATH)  # no descriptor is left, say: it waits still
            raise
        connection.settimeout(SEND_SECONDS)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be had
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_WR)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.say(f"an HTTP connection failed: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Ends `serve_forever`, from another thread, and closes the socket."""
        self.shutdown()
        self._listening.close()


class _Writer(io.BufferedIOBase):
    """All of what is written is sent, or the connection has failed."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._connection.sendall(data)
        return len(data)


class _Handler(BaseHTTPRequestHandler):
    """One request: read with a deadline, parsed by the standard library."""

    server: Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.connection: socket.socket = self.request
        self.rfile: Any = io.BytesIO(_head(self.connection))
        self.wfile = _Writer(self.connection)
        self.close_connection = True

    def finish(self) -> None:
        """Nothing is buffered."""

    def handle(self) -> None:
        self.raw_requestline = self.rfile.readline(HEAD_MOST)
        if not self.raw_requestline or not self.parse_request():
            return
        self.close_connection = True
        if self.command not in ("GET", "HEAD"):
            self._send(
                refusal(
                    HTTPStatus.METHOD_NOT_ALLOWED,
                    "only GET and HEAD are answered",
                    Allow="GET, HEAD",
                )
            )
            return
        try:
            target = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(target.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
        except ValueError:
            self._send(refusal(HTTPStatus.BAD_REQUEST, "the address makes no sense"))
            return
        try:
            response = self.server.answer(Request(target.path, query, headers))
        except Exception as error:
            self.server.say(
                f"an HTTP request could not be answered: {type(error).__name__}: {error}"
            )
            response = refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "this could not be answered")
        self._send(response)

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.kind)
        if response.chunks is None:
            self.send_header("Content-Length", str(len(response.body)))
        for name, value in (_COMMON | dict(response.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if getattr(self, "command", None) == "HEAD":
            return
        if response.chunks is None:
            self.wfile.write(response.body)
        elif self.server.streams.acquire(blocking=False):
            try:
                for chunk in response.chunks:
                    self.wfile.write(chunk)
            finally:
                self.server.streams.release()
        else:
            self.wfile.write(b"retry: 30000\n\n")  # too many others: later

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request is told so, and not repeated."""
        self.request_version = "HTTP/1.1"
        self._send(refusal(HTTPStatus(code), "this is no request that is answered"))

    def version_string(self) -> str:
        """Not which one: that is nobody's business."""
        return "mmapcache"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
        """Addresses have tokens in them: nothing is logged."""


def _head(connection: socket.socket) -> bytes:
    """A request up to its empty line, or what there is of it in time; too much is nothing."""
    end = time.monotonic() + HEAD_SECONDS
    head = b""
    try:
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            left = end - time.monotonic()
            if left <= 0 or len(head) >= HEAD_MOST:
                return b""
            connection.settimeout(left)
            more = connection.recv(HEAD_MOST - len(head))
            if not more:
                return b""
            head += more
    except OSError:
        return b""
    connection.settimeout(SEND_SECONDS)
    return head
