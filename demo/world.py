"""The processes of the demo, each started and stopped here; nothing survives the demo.

    MongoDB server <- TCP - loader (`mmapcache sync`) -> cache file <- service (eight workers)

The server is SecantusDB, a replica set of one member with change streams, which stores in the
WiredTiger engine.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from demo import tied
from demo.documents import DATABASE
from demo.processes import (
    HOST,
    DemoError,
    Process,
    end,
    logged_port,
    start_service,
    wait_until,
)


class World:
    """Server, loader and services of one demo, and the counters that it reads."""

    def __init__(self, root: Path) -> None:
        from pymongo import MongoClient

        self.root = root
        self.cache_path = root / "settings.mmc"
        # The database belongs on a disk, the cache into shared memory.
        self.database_path = Path(tempfile.mkdtemp(prefix="mmapcache-demo-db-"))
        words = ["secantus", "--host", HOST, "--port", "0"]
        words += ["--storage-path", str(self.database_path)]
        self.server = Process("the MongoDB server", tied.command(words), root / "server.log")
        port = logged_port(self.server, r"listening on .*:(\d+)")
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
        self.loader = Process("the loader", tied.command(self._sync()), self.root / "loader.log")

    def start_standby(self) -> None:
        """One more, which takes over when the first has gone; returns when it waits for that."""
        standby = self.standby = Process(
            "the standby", tied.command([*self._sync(), "--standby"]), self.root / "standby.log"
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
        log = self.root / f"service-{name}.log"
        service, port = start_service(
            f"the service ({name})", "examples.tornado_service", arguments, log
        )
        self.services.append(service)
        return port

    def stop_service(self) -> None:
        """Ends the service that was started last."""
        self.services.pop().stop()

    def operations(self) -> int:
        """Reads that the MongoDB server has answered so far, by its own counters."""
        counters = self.client.admin.command("serverStatus")["opcounters"]
        return int(counters["query"]) + int(counters["getmore"])


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
        end(process)
