"""A SecantusDB server, on the WiredTiger engine, in a process of its own.

    with Server(directory) as server:        the tests' side: server.uri, server.kill(), …
    python tests/support/mongodb_server.py DIRECTORY PORT [--auth] [--replica-set] [--sync]

SecantusDB is GPL: only that process ever imports it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The interpreter that has SecantusDB, where the one under test is too new for its wheels.
SERVER_PYTHON = os.environ.get("MMAPCACHE_TEST_SERVER_PYTHON", sys.executable)


class Server:
    """One server process; it can be killed and started again on the same port and data.

    :param directory: where its data lives
    :param auth: whether clients must authenticate (there is no exception for local ones: make the
        first user without it, then restart)
    :param replica_set: whether it has change streams
    :param sync: whether what it has acknowledged is there after `kill`
    :param settings: more of SecantusDBServer's own, of TLS for example
    """

    def __init__(
        self,
        directory: Path,
        *,
        auth: bool = False,
        replica_set: bool = False,
        sync: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._directory = directory
        self._auth = auth
        self._flags = ["--replica-set"] * replica_set + ["--sync"] * sync
        self.settings = dict(settings or {})  # for the next start
        self._process: subprocess.Popen[str] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/"

    def start(self, *, auth: bool | None = None) -> None:
        """Starts the process and waits until it listens (under a second, as a rule)."""
        self._auth = self._auth if auth is None else auth
        command = [SERVER_PYTHON, __file__, str(self._directory), str(self.port)]
        self._process = subprocess.Popen(
            command
            + ["--auth"] * self._auth
            + self._flags
            + ["--settings", json.dumps(self.settings)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._process.stdout.close()
        if line.strip() != "ready":
            self.kill()
            raise RuntimeError(
                f"the MongoDB server of the tests did not start: has {SERVER_PYTHON} SecantusDB?"
            )

    def stop(self) -> None:
        """Ends it politely; its data is on disk."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stops it by SIGSTOP: connections stay, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undoes `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()


def serve(
    directory: str,
    port: int,
    *,
    auth: bool,
    replica_set: bool,
    sync: bool,
    settings: Mapping[str, Any],
) -> None:
    """Serves until SIGTERM."""
    from secantus import SecantusDBServer

    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    with SecantusDBServer(
        storage_path=directory,
        port=port,
        require_auth=auth,
        replica_set_name="rs0" if replica_set else None,
        sync_on_commit=sync,
        **settings,
    ):
        print("ready", flush=True)
        parent = os.getppid()
        while not done.wait(0.1) and os.getppid() == parent:
            pass  # a test run that was killed takes its server along


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("port", type=int)
    parser.add_argument("--auth", action="store_true")
    parser.add_argument("--replica-set", action="store_true")
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--settings", type=json.loads, default={})
    given = parser.parse_args()
    serve(
        given.directory,
        given.port,
        auth=given.auth,
        replica_set=given.replica_set,
        sync=given.sync,
        settings=given.settings,
    )
