"""Real servers with the ring's module, and a real ZooKeeper; and a client that hides nothing.

Everything listens at a unix socket or at a port of the loopback that was free.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ring.wires import Wire

from demo.ring.installed import (
    LOOPBACK,
    ROOT,
    free_port,
    module_path,
    server_binary,
    zookeeper_missing,
    zookeeper_says,
    zookeeper_words,
)
from mmapcache.ring._ring import VALUE, encode

__all__ = ["ROOT", "free_port", "module_path", "server_binary", "zookeeper_missing"]

_T = TypeVar("_T")

MODULE = ROOT / "redis_module"
PATIENCE = 60.0  # seconds for what a busy machine may take; nothing takes that long
FENCE = 1000  # ms: what tests stop a server for is well above or below it


def eventually(what: str, look: Callable[[], _T | None], patience: float = PATIENCE) -> _T:
    """The first true result.

    :raises AssertionError: there was none in time
    """
    end = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {patience} s: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def stands_still(send: Callable[[int], object]) -> Iterator[None]:
    """Stops meanwhile, by SIGSTOP, the process that `send` sends a signal to."""
    send(signal.SIGSTOP)
    try:
        yield
    finally:
        send(signal.SIGCONT)


# ---- the client ----


class Refused(Exception):  # noqa: N818 - what the server said
    """An error reply: its first word and the rest."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.word, _, self.rest = text.partition(" ")


def packed(arguments: Sequence[bytes | str | int]) -> bytes:
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


class Connection:
    """One connection. Errors within arrays are `Refused` objects, others are raised."""

    def __init__(self, path: str, *, hello: bool = True) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._buffer = self._socket.makefile("rb")
        if hello:
            self.hello()

    def close(self) -> None:
        self._buffer.close()
        self._socket.close()

    def send(self, *arguments: bytes | str | int) -> None:
        self._socket.sendall(packed(arguments))

    def receive(self) -> Any:
        reply = self._parse()
        if isinstance(reply, Refused):
            raise reply
        return reply

    def __call__(self, *arguments: bytes | str | int) -> Any:
        self.send(*arguments)
        return self.receive()

    def refused(self, *arguments: bytes | str | int) -> str:
        """The first word of the error that the command must end with."""
        self.send(*arguments)
        reply = self._parse()
        assert isinstance(reply, Refused), f"{arguments} was taken: {reply!r}"
        return reply.word

    def hello(self) -> dict[str, Any]:
        flat = self("RING.HELLO")
        return {
            name.decode(): value.decode() if isinstance(value, bytes) else value
            for name, value in zip(flat[::2], flat[1::2], strict=True)
        }

    def _parse(self) -> Any:
        line = self._buffer.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return Refused(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._buffer.read(int(rest) + 2)[:-2]
        assert kind == b"*", line
        return None if rest == b"-1" else [self._parse() for _ in range(int(rest))]


def put(
    epoch: int, version: bytes, end: int, key: bytes | str, value: bytes
) -> tuple[bytes | str | int, ...]:
    """The words of RING.SET."""
    return ("RING.SET", epoch, key, encode(VALUE, version, end, value))


# ---- servers ----


def clock_library() -> str:
    """Path of what sets the clock of one process; empty: it is not installed. A server that has
    jemalloc, as Debian's Redis has, does not start with it."""
    return next(map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), "")


class Server:
    """A server with the module.

    :param arguments: of the module, beside id and fence
    :param config: lines of the server's configuration
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        *,
        id_: str = "a",
        fence: int | None = FENCE,
        arguments: Sequence[str] = (),
        config: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.folder = folder
        self.socket = str(folder / "s")
        self.log = folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        given = [f"id={id_}", *([] if fence is None else [f"fence={fence}"]), *arguments]
        lines = ["port 0", f"unixsocket {self.socket}", f"dir {folder}", 'save ""', *config]
        lines.append(f"loadmodule {module_path()[0]} {' '.join(given)}")
        (folder / "conf").write_text("".join(f"{line}\n" for line in lines))
        self.wrap: Sequence[str] = ()  # what it is started by
        self.ahead = 0  # seconds, of its host's clock
        self.process: subprocess.Popen[bytes] | None = None
        self._open: list[Connection] = []

    def start(self, *, wait: bool = True) -> Server:
        environment = {**os.environ}
        if "/asan/" in module_path()[0]:
            runtime = subprocess.run(
                ["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
            )
            environment["LD_PRELOAD"] = runtime.stdout.strip()
            environment["ASAN_OPTIONS"] = "detect_leaks=0:abort_on_error=1"
        if self.ahead:
            environment |= {
                "LD_PRELOAD": clock_library(),
                "FAKETIME": f"{self.ahead:+}s",
                "DONT_FAKE_MONOTONIC": "1",
            }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrap, server_binary(self.kind)[0], str(self.folder / "conf")],
                stdout=log,
                stderr=log,
                env=environment,
            )
        if wait:
            try:
                eventually(f"the server runs: {self.log}", self._runs)
            except BaseException:
                self.kill()
                raise
        return self

    def _runs(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            connection = Connection(self.socket, hello=False)
        except (OSError, ConnectionResetError):
            return False
        with contextlib.closing(connection):
            try:
                return bool(connection.hello()["state"] != "starting")
            except (Refused, OSError):  # it is loading
                return False

    def connect(self, *, hello: bool = True) -> Connection:
        connection = Connection(self.socket, hello=hello)
        self._open.append(connection)
        return connection

    def state(self) -> str:
        with contextlib.closing(Connection(self.socket, hello=False)) as connection:
            return str(connection.hello()["state"])

    def info(self) -> dict[str, str]:
        """INFO ring, names without the prefix."""
        with contextlib.closing(Connection(self.socket, hello=False)) as connection:
            lines = connection("INFO", "ring").decode().splitlines()
        return dict(line.removeprefix("ring_").split(":", 1) for line in lines if ":" in line)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        return stands_still(self.signal)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """Its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self.process is None:
            return 0
        self.signal(number)
        self.signal(signal.SIGCONT)
        code = self.process.wait(PATIENCE)
        if self.ahead:  # by the library, when the server is killed
            for left in Path("/dev/shm").glob(f"*faketime*_{self.process.pid}"):
                left.unlink(missing_ok=True)
        self.process = None
        for connection in self._open:
            connection.close()
        self._open.clear()
        return code


# ---- the ring as a test needs it ----

Change = dict[str, Any] | None


def ring_record(epoch: int, nodes: Sequence[str], change: Change = None) -> str:
    return json.dumps({"version": 1, "epoch": epoch, "nodes": list(nodes), "change": change})


def make_ready(connection: Connection) -> None:
    said = connection.hello()
    assert connection("RING.READY", said["run_id"], said["epoch"]) == "OK"


# ---- ZooKeeper ----


class ZooKeeper:
    """A server of one process whose sessions end a second after their client is gone.

    :param wire: to the network namespace that it is in
    """

    def __init__(self, folder: Path, wire: Wire | None = None) -> None:
        self.folder = folder
        self.wire = wire
        self.port = free_port()
        self._host = LOOPBACK if wire is None else wire.address
        self.address = f"{self._host}:{self.port}"
        self.root = "/ring"
        self.process: subprocess.Popen[bytes] | None = None
        self._words = zookeeper_words(self.port, folder, self._host)
        if wire is not None:
            self._words[:0] = wire.prefix

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._words,
                stdout=log,
                stderr=log,
            )
        try:
            eventually("ZooKeeper runs", self._runs)
        except BaseException:
            self.kill()
            raise

    def _runs(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return zookeeper_says(self.port, "ruok", self._host) == "imok"
        except OSError:
            return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        return stands_still(self.signal)

    def kill(self, *, forget: bool = False) -> None:
        """
        :param forget: what it has stored, too
        """
        if self.process is not None:
            self.signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None
        if forget:
            shutil.rmtree(self.folder / "data", ignore_errors=True)
