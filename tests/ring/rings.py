"""A whole ring for tests of the clients: servers at ports, the agent's command, and its file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ring.ring_servers import PATIENCE, ROOT, Server, eventually, free_port, stands_still
from ring.wires import Wire

from demo.ring.installed import LOOPBACK

pytest.importorskip("redis", reason="redis-py is not installed: pip install 'mmapcache[ring]'")

from mmapcache.ring import AsyncRing, Ring, RingNotReady
from mmapcache.ring.published import Published
from mmapcache.ring.record import Record

__all__ = ["FENCE", "Agent", "AsyncRing", "KeptRing", "Ring", "TestRing", "command", "forked"]
FENCE = 3000  # ms: more than a busy machine lets a server wait
DEFAULTS = {"maxmemory": "0", "maxmemory-policy": "noeviction"}
COMMAND = (sys.executable, "-m", "mmapcache", "ring")


def server_at(
    kind: str,
    folder: Path,
    name: str,
    port: int,
    arguments: Sequence[str] = (),
    host: str = LOOPBACK,
    **options: Any,
) -> Server:
    """A server with the module, at a port of the loopback."""
    config = [f"bind {host}", "protected-mode no"]
    if tls := options.pop("tls", ()):
        config += [f"tls-port {port}", *tls]
    else:
        config += [f"port {port}"]
    return Server(kind, folder, id_=name, config=config, arguments=arguments, **options)


def command(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`mmapcache ring …`, to its end."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


class Agent:
    """`mmapcache ring agent`, in a process of its own. `wire`: to its network namespace."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.path = path
        self.log = path.with_suffix(".log")
        self._arguments = arguments
        self.command: Sequence[str] = (*COMMAND, "agent")
        self.wire: Wire | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Agent:
        prefix = () if self.wire is None else self.wire.prefix
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *self.command, str(self.path), *self._arguments],
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        return self

    def record(self) -> Record:
        """What its file says of the ring."""
        file = Published(str(self.path))
        try:
            return file.read()[1]
        finally:
            file.close()

    def has_published(self) -> bool:
        try:
            self.record()
        except RingNotReady:
            return False
        return True

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        assert self.process is not None
        return stands_still(self.process.send_signal)

    def end(self, number: int = signal.SIGKILL) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        return process.wait(PATIENCE)


class TestRing:
    """A fixed ring of some nodes on one host, with its agent.

    :param kind: of the servers: redis or valkey
    :param agent: more of its arguments
    :param wires: to the nodes that are in a network namespace
    """

    __test__ = False

    def __init__(
        self,
        kind: str,
        folder: Path,
        ids: Sequence[str],
        *,
        agent: Sequence[str] = (),
        wires: Mapping[str, Wire] | None = None,
        **options: Any,
    ) -> None:
        self.folder = folder
        self.wires = wires or {}
        self.kind = kind
        self._options = {"fence": FENCE, **options}
        self.ports: dict[str, int] = {}
        self.servers: dict[str, Server] = {}
        for name in ids:
            self._make_server(name)
        members = ",".join(f"{name}={self._host(name)}:{port}" for name, port in self.ports.items())
        self.path = folder / "ring.mmc"
        self.agent = Agent(self.path, "--members", members, *agent)

    def _host(self, name: str) -> str:
        return self.wires[name].address if name in self.wires else LOOPBACK

    def _make_server(self, name: str) -> Server:
        self.ports[name] = free_port()
        server = server_at(
            self.kind,
            self.folder / name,
            name,
            self.ports[name],
            host=self._host(name),
            **self._options,
        )
        if name in self.wires:
            server.wrap = self.wires[name].prefix
        self.servers[name] = server
        return server

    def start(self) -> TestRing:
        for server in self.servers.values():
            server.start(wait=False)
        for server in self.servers.values():
            eventually("the server runs", server._runs)
        self.agent.start()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Until every node of the ring is ready, the file says so, and no change is under way."""
        file = Published(str(self.path))

        def ready() -> bool:
            try:
                _, record, members = file.read()
                states = {self.servers[name].state() for name in record.everybody}
                said = {members[name].state for name in record.everybody if name in members}
                return record.change is None and states == said == {"ready"}
            except (RingNotReady, OSError):
                return False

        try:
            eventually("all nodes are ready", ready)
        except AssertionError:
            raise AssertionError(self.agent.log.read_text()) from None
        finally:
            file.close()

    def recover(self) -> None:
        """Whatever a test has done to the nodes; what they hold stays."""
        for server in self.servers.values():
            if server.process is None:
                server.start()
            with contextlib.closing(server.connect(hello=False)) as connection:
                for name, value in DEFAULTS.items():
                    connection("CONFIG", "SET", name, value)
        self.wait_ready()

    def stop(self) -> None:
        self.agent.end()
        for server in self.servers.values():
            server.kill()

    def record(self) -> Record:
        """What the file says of the ring."""
        return self.agent.record()

    def members(self) -> tuple[str, ...]:
        """The ids of those that are in the ring."""
        return self.record().nodes

    def copies(self, key: str | bytes) -> dict[str, bytes]:
        """What each node of the ring has of a key."""
        found = {}
        for name in self.members():
            server = self.servers[name]
            with contextlib.closing(server.connect()) as connection:
                (entry,) = connection("RING.DUMP", key)
                if entry is not None:
                    found[name] = entry
        return found


@contextlib.contextmanager
def forked(work: Any) -> Iterator[Any]:
    """Runs `work` in a child; `result()` gives what it returned, as JSON."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            os.write(write, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)

    def result() -> Any:
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the child ended with {status}"
        return json.loads(data)

    yield result


class KeptRing(TestRing):
    """A ring that ZooKeeper keeps.

    :param zookeeper: its address
    """

    def __init__(
        self, kind: str, folder: Path, ids: Sequence[str], zookeeper: str, **options: Any
    ) -> None:
        self.root = "/test/ring"
        self.place = f"{zookeeper}{self.root}"
        arguments = [f"zookeeper={self.place}"]
        super().__init__(kind, folder, ids, arguments=arguments, **options)
        self.agent = self.another_agent("ring")

    def another_agent(self, name: str, *arguments: str) -> Agent:
        """For a file of this name."""
        path = self.folder / f"{name}.mmc"
        return Agent(path, "--zookeeper", self.place, *arguments)

    def start(self) -> KeptRing:
        self.command("init", *self.servers)
        super().start()
        return self

    def add_server(self, name: str) -> Server:
        """A spare one, running."""
        return self._make_server(name).start()

    def command(self, name: str, *arguments: str, check: bool = True) -> Any:
        """What `mmapcache ring NAME … --json` prints."""
        words = [name, *arguments, "--zookeeper", self.place, "--json"]
        done = command(*words, check=check)
        return json.loads(done.stdout) if done.stdout else done.stderr
