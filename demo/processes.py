"""Child processes of a demo, which end with it, and what its eight workers are asked."""

from __future__ import annotations

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
    """One child process, its output in a log file; it dies when the demo does.

    :param command: of tied.command or tied.program
    """

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
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

    def signal(self, number: int) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

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


def logged_port(process: Process, pattern: str) -> int:
    """The port that the process says it listens at; `pattern` finds it in its log."""
    found: list[int] = []

    def ready() -> bool:
        match = re.search(pattern, process.log.read_text(errors="replace"))
        found.extend([int(match[1])] if match else [])
        return bool(found)

    wait_until(f"starting {process.name}", ready, [process])
    return found[0]


def start_service(
    name: str, module: str, arguments: Sequence[str], log: Path
) -> tuple[Process, int]:
    """A module's eight forked Tornado workers, and their port once all of them answer."""
    words = [module, "--port", "0", "--workers", str(WORKERS), *arguments]
    service = Process(name, tied.command(words), log)
    try:
        port = logged_port(service, r"serving on http://[^:]+:(\d+)")
        with Probes(port):
            return service, port
    except BaseException:
        service.stop()
        raise


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


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills it, if it still runs."""
    if process.poll() is None:
        process.kill()
        process.wait()
    stream: IO[bytes] | None = process.stdout
    if stream is not None:
        stream.close()
