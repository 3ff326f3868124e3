"""Application servers as processes: started on a free port, asked over HTTP, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from support.processes import free_port

PATIENCE = 60.0  # seconds


class Answer(NamedTuple):
    """Of one request."""

    status: int
    headers: Message
    body: bytes


class Server:
    """One running server.

    :param process: its master, which leads a process group of its own
    :param port: on 127.0.0.1
    :param log: the file with what it says
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self._port, self._log = process, port, log

    def get(self, path: str = "/") -> Answer:
        """One request on a connection of its own; it is repeated while workers come and go."""
        end = time.monotonic() + PATIENCE
        url = f"http://127.0.0.1:{self._port}{path}"
        while True:
            try:
                with urllib.request.urlopen(url, timeout=10) as response:
                    return Answer(response.status, response.headers, response.read())
            except urllib.error.HTTPError as error:
                with error:
                    return Answer(error.code, error.headers, error.read())
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    pytest.fail(f"no answer\n{self.log()}")
                time.sleep(0.05)

    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text()


_Server = TypeVar("_Server", bound=Server)


@contextmanager
def started(
    log: Path,
    *command: str,
    cwd: Path,
    environment: Mapping[str, str],
    kind: type[_Server],
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[_Server]:
    """Starts a server, stops it with all its workers; command and environment may name {port}."""
    port = free_port()
    settings = {name: value.replace("{port}", str(port)) for name, value in environment.items()}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [part.format(port=port) for part in command],
            cwd=cwd,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **settings},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield kind(process, port, log)
        process.send_signal(stop)
        process.wait(PATIENCE)
        said = log.read_text()
        assert "Traceback" not in said, said
        assert "Fatal Python error" not in said, said
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
