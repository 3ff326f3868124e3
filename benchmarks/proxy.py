"""Counts the bytes between a loader and its server, from outside both.

    python -m benchmarks.proxy HOST:PORT     prints its own port; for each line on standard input,
                                             how many bytes have passed in both directions

What a client asks the server for its name would lead it past this: it needs directConnection=true.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import subprocess
import sys
import threading
from urllib.parse import urlsplit

_PIECE = 1 << 20


class _Handler(socketserver.BaseRequestHandler):
    """One connection: two threads that copy."""

    server: _Proxy

    def handle(self) -> None:
        """Copy until either side goes."""
        with socket.create_connection(self.server.target) as there:
            back = threading.Thread(target=self._copy, args=(there, self.request), daemon=True)
            back.start()
            self._copy(self.request, there)
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                with self.server.lock:
                    self.server.passed += len(piece)
                target.sendall(piece)
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        """Listen on a free port for connections to `host` and `port`."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = (host, port)
        self.lock = threading.Lock()
        self.passed = 0


class CountingProxy:
    """The proxy in a process of its own."""

    def __init__(self, uri: str) -> None:
        """Stand before the server at `uri`."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.proxy", urlsplit(uri).netloc],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.uri = f"mongodb://127.0.0.1:{self._answer()}/?directConnection=true"

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def bytes(self) -> int:
        """How many have passed so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        return self._answer()

    def close(self) -> None:
        """End it, and the connections through it."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Serve until standard input is closed."""
    host, port = sys.argv[1].rsplit(":", 1)
    proxy = _Proxy(host, int(port))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    print(proxy.server_address[1], flush=True)
    for _ in sys.stdin:
        print(proxy.passed, flush=True)


if __name__ == "__main__":
    main()
