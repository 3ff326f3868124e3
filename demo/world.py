"""The processes of the demo, each started and stopped here; nothing survives the demo.

    MongoDB server <- TCP - loader (`mmapcache sync`) -> cache file <- service (eight workers)

The server is SecantusDB, a replica set of one member with change streams, which stores in the
WiredTiger engine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from demo import tied
from demo.documents import DATABASE

HOST: Final = "127.0.0.1"
WORKERS: Final = 8
_START_SECONDS: Final = 60.0


class DemoError(Exception):
    """The demo cannot go on; the message is for people."""


def directory() -> Path:
    """A new private directory, in shared memory when there is room for it."""
    shm = Path("/dev/shm")
    usable = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 48 << 20
    return Path(tempfile.mkdtemp(prefix="mmapcache-demo-", dir=shm if usable else None))


class Process:
    """One child process, its output in a log file; it dies when the demo does."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                tied.command(list(arguments)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demo, which then stops its processes one by one.
                start_new_session=True,
            )
        self.pid = self._process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def require(self) -> None:
        """Raises DemoError, with the end of its log, when it has ended."""
        if not self.alive():
            tail = self.log.read_text(errors="replace")[-2000:].strip()
            raise DemoError(f"{self.name} ended with {self._process.returncode}:\n{tail}")

    def kill(self) -> None:
        """SIGKILL, and waits for it."""
        self._process.kill()
        self._process.wait()

    def stop(self, seconds: float = 10.0) -> None:
        """SIGTERM, then SIGKILL when that is not enough."""
        if not self.alive():
            return
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()


def wait_until(what: str, ready: Callable[[], bool], processes: Sequence[Process] = ()) -> None:
    """Returns when `ready`; DemoError when it takes too long or one of `processes` ends."""
    end = time.monotonic() + _START_SECONDS
    while not ready():
        for process in processes:
            process.require()
        if time.monotonic() > end:
            raise DemoError(f"{what} took longer than {_START_SECONDS:.0f} s")
        time.sleep(0.02)


class World:
    """Server, loader and services of one demo, and the counters that it reads."""

    def __init__(self, root: Path) -> None:
        from pymongo import MongoClient

        self.root = root
        self.cache_path = root / "settings.mmc"
        # The database belongs on a disk, the cache into shared memory.
        self.database_path = Path(tempfile.mkdtemp(prefix="mmapcache-demo-db-"))
        self.server = Process(
            "the MongoDB server",
            ["secantus", "--host", HOST, "--port", "0", "--storage-path", str(self.database_path)],
            root / "server.log",
        )
        port = self._logged_port(self.server, r"listening on .*:(\d+)")
        self.uri = f"mongodb://{HOST}:{port}/"
        self.client: MongoClient[dict[str, Any]] = MongoClient(
            self.uri, serverSelectionTimeoutMS=10_000
        )
        self.loader: Process | None = None
        self.standby: Process | None = None
        self.services: list[Process] = []

    def close(self) -> None:
        """Ends all processes and removes all files."""
        for service in self.services:
            service.stop()
        for loader in (self.standby, self.loader):
            if loader is not None:
                loader.stop()
        self.client.close()
        self.server.stop()
        for path in (self.root, self.database_path):
            shutil.rmtree(path, ignore_errors=True)

    def start_loader(self) -> None:
        """`mmapcache sync` as an operator would start it; returns at once."""
        self.loader = Process("the loader", self._sync(), self.root / "loader.log")

    def start_standby(self) -> None:
        """One more, which takes over when the first has gone; returns when it waits for that."""
        standby = self.standby = Process(
            "the standby", [*self._sync(), "--standby"], self.root / "standby.log"
        )
        wait_until(
            "starting the standby", lambda: "standing by" in standby.log.read_text(), [standby]
        )

    def _sync(self) -> list[str]:
        arguments = ["mmapcache", "sync", str(self.cache_path), "--uri", self.uri]
        for name in ("sites", "limits", "flags"):
            arguments += ["--collection", f"{DATABASE}.{name}"]
        return arguments

    def start_service(self, name: str, arguments: Sequence[str]) -> int:
        """The Tornado service with eight workers; returns its port once all of them answer."""
        service = Process(
            f"the service ({name})",
            ["examples.tornado_service", "--port", "0", "--workers", str(WORKERS), *arguments],
            self.root / f"service-{name}.log",
        )
        self.services.append(service)
        port = self._logged_port(service, r"serving on http://[^:]+:(\d+)")
        with Probes(port):
            return port

    def stop_service(self) -> None:
        """Ends the service that was started last."""
        self.services.pop().stop()

    def operations(self) -> int:
        """Reads that the MongoDB server has answered so far, by its own counters."""
        counters = self.client.admin.command("serverStatus")["opcounters"]
        return int(counters["query"]) + int(counters["getmore"])

    def _logged_port(self, process: Process, pattern: str) -> int:
        found: list[int] = []

        def ready() -> bool:
            match = re.search(pattern, process.log.read_text(errors="replace"))
            found.extend([int(match[1])] if match else [])
            return bool(found)

        wait_until(f"starting {process.name}", ready, [process])
        return found[0]


class Probes:
    """One connection to each worker, to ask all eight of them the same thing."""

    def __init__(self, port: int) -> None:
        self._connections: dict[int, http.client.HTTPConnection] = {}
        end = time.monotonic() + _START_SECONDS
        while len(self._connections) < WORKERS:
            if time.monotonic() > end:
                raise DemoError(f"only workers {sorted(self._connections)} answer on port {port}")
            connection = http.client.HTTPConnection(HOST, port, timeout=10)
            try:
                worker = int(_ask(connection, "/healthz")["worker"])
            except (OSError, http.client.HTTPException):
                connection.close()
                time.sleep(0.05)
                continue
            if worker in self._connections:
                connection.close()
            else:
                self._connections[worker] = connection

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.close()

    def ask(self, worker: int, path: str) -> dict[str, Any]:
        """The JSON answer of one worker, whatever its status."""
        return _ask(self._connections[worker], path)

    def all(self, path: str) -> Iterator[dict[str, Any]]:
        """The answers of all workers."""
        return (self.ask(worker, path) for worker in sorted(self._connections))


def _ask(connection: http.client.HTTPConnection, path: str) -> dict[str, Any]:
    connection.request("GET", path)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer


@contextlib.contextmanager
def load(port: int, path: str, seconds: float) -> Iterator[Callable[[], dict[str, Any]]]:
    """Starts the HTTP clients; calling what this yields waits for them and gives their counts."""
    arguments = ["--port", str(port), "--path", path, "--seconds", f"{seconds:g}"]
    process = subprocess.Popen(
        tied.command(["demo.load", *arguments]), stdout=subprocess.PIPE, start_new_session=True
    )

    def result() -> dict[str, Any]:
        output, _ = process.communicate(timeout=seconds + 60)
        if process.returncode:
            raise DemoError("the HTTP clients failed")
        counts: dict[str, Any] = json.loads(output)
        return counts

    try:
        yield result
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    stream: IO[bytes] | None = process.stdout
    if stream is not None:
        stream.close()
