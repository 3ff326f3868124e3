"""HTTP load from a process of its own, so that measuring does not slow down what is measured.

    python -m demo.load --port 8000 --path /v1/sites/ --seconds 6    -> one JSON object on stdout

Each of the clients keeps one connection open, asks one question at a time and moves to a new
connection after some, which spreads them over the workers. A request whose connection is reset
before its answer came (a worker was killed) is sent again on a new connection, as every HTTP client
may do with a GET (RFC 9110, 9.2.2): that is counted in `resets`. A request counts in `failed` when
no attempt brought an answer, or when the answer is not status 200 with the right site in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from demo.documents import SITES, site_key

_REQUESTS_PER_CONNECTION: Final = 25
_ATTEMPTS: Final = 8
_PATIENCE: Final = 10.0
_PAUSE: Final = 0.05


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[tuple[bytes, bytes]] | None = None
        self.buffer = b""
        self.used = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("closed by the server"))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, body = self.buffer.partition(b"\r\n\r\n")
        if not mark or self.answer is None or self.answer.done():
            return
        length = int(header(head, b"Content-Length") or b"0")
        if len(body) >= length:
            self.buffer = b""
            self.answer.set_result((head, body))

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer to `request`; OSError when the connection breaks."""
        if self.transport is None:
            raise ConnectionResetError("closed by the server")
        self.answer = asyncio.get_running_loop().create_future()
        self.used += 1
        self.transport.write(request)
        return await self.answer

    def close(self) -> None:
        """Gives the connection back."""
        if self.transport is not None:
            self.transport.abort()


async def connect(port: int) -> Connection:
    """A new one to the loopback."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    return connection


def header(head: bytes, name: bytes) -> bytes:
    """One header of an answer; empty: it is not there."""
    _, found, rest = head.partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0] if found else b""


class Load:
    """Some clients that ask for random sites until a deadline."""

    def __init__(self, port: int, path: str, clients: int) -> None:
        self.port = port
        self.clients = clients
        self.keys = [site_key(number).encode() for number in range(SITES)]
        random.shuffle(self.keys)
        head = f"GET {path}%b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self.requests = [head % key for key in self.keys]
        self.workers: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.resets = 0
        self.failed = 0
        self.under_way: dict[Connection, float] = {}

    async def run(self, seconds: float) -> dict[str, object]:
        """Asks for `seconds`; returns what was counted."""
        begin = time.perf_counter()
        end = begin + seconds
        watchdog = asyncio.create_task(self._watchdog())
        await asyncio.gather(*(self._client(number, end) for number in range(self.clients)))
        took = time.perf_counter() - begin
        watchdog.cancel()
        ordered = sorted(self.seconds)
        return {
            "seconds": took,
            "requests": len(ordered) + self.failed,
            "answered": len(ordered),
            "failed": self.failed,
            "resets": self.resets,
            "errors": dict(self.errors.most_common(5)),
            "workers": dict(sorted(self.workers.items(), key=lambda item: int(item[0]))),
            "median_ms": quantile(ordered, 0.5) * 1e3,
            "p99_ms": quantile(ordered, 0.99) * 1e3,
            "worst_ms": quantile(ordered, 1.0) * 1e3,
        }

    async def _client(self, number: int, end: float) -> None:
        connection: Connection | None = None
        at = number * len(self.keys) // self.clients
        while time.perf_counter() < end:
            at = (at + 1) % len(self.keys)
            if connection is not None and connection.used >= _REQUESTS_PER_CONNECTION:
                connection.close()
                connection = None
            connection = await self._request(at, connection)
        if connection is not None:
            connection.close()

    async def _request(self, at: int, connection: Connection | None) -> Connection | None:
        """One request with its retries; returns the connection to go on with."""
        start = time.perf_counter()
        for attempt in range(_ATTEMPTS):
            try:
                if connection is None:
                    connection = await connect(self.port)
                self.under_way[connection] = time.perf_counter()
                head, body = await connection.ask(self.requests[at])
            except OSError as error:
                reset = connection is not None
                self._gone(connection)
                connection = None
                if attempt == _ATTEMPTS - 1 or time.perf_counter() - start > _PATIENCE:
                    self._fail(type(error).__name__)
                    return None
                self.resets += reset
                if not reset or attempt:
                    await asyncio.sleep(_PAUSE)
                continue
            self.under_way.pop(connection, None)
            status = head[9:12]
            if status != b"200" or self.keys[at] not in body:
                self._fail(status.decode("ascii", "replace"))
            else:
                self.seconds.append(time.perf_counter() - start)
                self.workers[header(head, b"X-Worker").decode()] += 1
            return connection
        return None

    async def _watchdog(self) -> None:
        """Breaks connections whose answer is overdue, so that the client sees an error."""
        while True:
            await asyncio.sleep(0.5)
            overdue = time.perf_counter() - _PATIENCE
            for connection in [c for c, since in self.under_way.items() if since < overdue]:
                connection.close()

    def _gone(self, connection: Connection | None) -> None:
        if connection is not None:
            self.under_way.pop(connection, None)
            connection.close()

    def _fail(self, why: str) -> None:
        self.failed += 1
        self.errors[why] += 1


def quantile(ordered: Sequence[float], part: float) -> float:
    """Of values in their order; NaN when there are none."""
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the load that the arguments describe and prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m demo.load")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/sites/", help="a random site key is appended")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=6.0)
    args = parser.parse_args(argv)
    result = asyncio.run(Load(args.port, args.path, args.clients).run(args.seconds))
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
