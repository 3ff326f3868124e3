"""The processes of the ring's demo, and what is done to them.

    ring         servers with the module <- agent -> file <- eight workers    (and ZooKeeper)
    naive        plain servers                            <- the same workers
    nutcracker   the plain servers <- nutcracker          <- the same workers

Each node has a server of the ring and a plain one beside it; both get the same faults.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from demo import tied
from demo.processes import HOST, DemoError, Process, end, start_service, wait_until
from demo.ring.installed import (
    ROOT,
    free_port,
    server_words,
    zookeeper_says,
    zookeeper_words,
)
from demo.ring.stores import PROXY_OPTIONS
from mmapcache.ring import Ring, RingNotReady
from mmapcache.ring.published import Published

IDS: Final = ("a", "b", "c", "d", "e")
SPARE: Final = "f"
FENCE: Final = 1.0  # seconds; more than a busy machine lets a server wait
_COMMAND: Final = ["mmapcache", "ring"]
_COMMAND_SECONDS: Final = 60.0
# As many recommend it; the servers are the plain ones.
_NUTCRACKER: Final = """\
demo:
  listen: 127.0.0.1:{port}
  redis: true
  hash: fnv1a_64
  distribution: ketama
  timeout: {timeout}
  auto_eject_hosts: true
  server_failure_limit: 2
  server_retry_timeout: 2000
  servers:
{servers}
"""


def write_nutcracker_config(
    path: Path, port: int, servers: Mapping[str, int], timeout: int = 100
) -> None:
    """
    :param port: where it listens
    :param servers: their ports, by name
    :param timeout: milliseconds that it waits for one
    """
    lines = "\n".join(f"   - {HOST}:{each}:1 {name}" for name, each in servers.items())
    path.write_text(_NUTCRACKER.format(port=port, servers=lines, timeout=timeout))


class Server:
    """One Redis or Valkey server, which may be killed and started again."""

    def __init__(self, name: str, folder: Path, words: Sequence[str], port: int) -> None:
        self.name = name
        self.port = port
        self.folder = folder
        self.redis = Redis(port=port, socket_timeout=10)
        self._words = list(words)
        self._process: Process | None = None

    def start(self) -> None:
        """Returns at once."""
        self._process = Process(
            self.name, tied.program(self._words), self.folder / f"{self.name}.log"
        )

    def wait(self) -> None:
        """Until it answers, everything loaded."""
        assert self._process is not None
        wait_until(f"starting {self.name}", self._answers, [self._process])

    def signal(self, number: int) -> None:
        """Sends a signal."""
        assert self._process is not None
        self._process.signal(number)

    def kill(self) -> None:
        """SIGKILL; harmless twice."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
        self.redis.close()

    @property
    def runs(self) -> bool:
        """It was started and not killed."""
        return self._process is not None

    def _answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except (RedisError, OSError):
            return False


class Keeper:
    """ZooKeeper."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.place = f"{HOST}:{self.port}/demo/ring"
        self._log = folder / "zookeeper.log"
        self._words = zookeeper_words(self.port, folder / "zookeeper")
        self._process: Process | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self._process = Process("ZooKeeper", tied.program(self._words), self._log)
        wait_until("starting ZooKeeper", self._answers, [self._process])

    def kill(self) -> None:
        """SIGKILL; harmless twice."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def sessions(self) -> int:
        """How many clients have one."""
        return zookeeper_says(self.port, "cons").count("sid=")

    def _answers(self) -> bool:
        try:
            return zookeeper_says(self.port, "ruok") == "imok"
        except OSError:
            return False


class World:
    """
    :param binary: of the servers
    :param module: of the ring
    :param kept: by ZooKeeper; else the ring is a fixed one
    :param nutcracker: its binary; empty: there is none
    :param fence: seconds that a server may stand still
    """

    def __init__(
        self,
        root: Path,
        binary: str,
        module: str,
        *,
        kept: bool,
        nutcracker: str,
        fence: float = FENCE,
    ) -> None:
        self.root = root
        self.path = root / "ring.mmc"
        self._binary = binary
        self._module = module
        self._fence = fence
        self.proxy = nutcracker
        self._members = root / "naive.json"
        self.keeper = Keeper(root) if kept else None
        self.nodes: dict[str, tuple[Server, Server]] = {}  # of the ring, and the plain one
        self.stores = ["ring", "naive", *(["nutcracker"] if nutcracker else [])]
        self._processes: list[Process] = []  # to be ended in this order
        self.published = Published(str(self.path))
        self.ring = Ring(self.path)
        self.port = 0

    def close(self) -> None:
        """Ends all processes and removes all files."""
        for process in self._processes:
            process.stop()
        for node in self.nodes.values():
            for server in node:
                server.kill()
        if self.keeper is not None:
            self.keeper.kill()
        self.published.close()
        shutil.rmtree(self.root, ignore_errors=True)

    # ---- to begin with ----

    def start(self) -> None:
        """Everything but the workers."""
        if self.keeper is not None:
            self.keeper.start()
        for name in IDS:
            self.make(name)
        self.start_nodes(*IDS)
        if self.keeper is not None:
            self.command("init", *IDS)
        self.list_naive(IDS)
        words = [*_COMMAND, "agent", str(self.path), *self._source()]
        self._processes.append(Process("the agent", tied.command(words), self.root / "agent.log"))
        self.settle()

    def _source(self) -> list[str]:
        if self.keeper is not None:
            return ["--zookeeper", self.keeper.place]
        members = [f"{name}={HOST}:{ring.port}" for name, (ring, _) in self.nodes.items()]
        return ["--members", ",".join(members)]

    def start_workers(self) -> None:
        """And nutcracker, if there is one."""
        arguments = ["--ring", str(self.path), "--naive", str(self._members)]
        if self.proxy:
            arguments += ["--nutcracker", str(self._start_nutcracker())]
        service, self.port = start_service(
            "the workers", "demo.ring.service", arguments, self.root / "workers.log"
        )
        self._processes.insert(0, service)

    def _start_nutcracker(self) -> int:
        port = free_port()
        config = self.root / "nutcracker.yml"
        ports = {name: plain.port for name, (_, plain) in self.nodes.items()}
        write_nutcracker_config(config, port, ports)
        words = [self.proxy, "--conf-file", str(config), "--stats-addr", HOST]
        log = self.root / "nutcracker.log"
        words += ["--stats-port", str(free_port()), "--output", str(log)]
        process = Process("nutcracker", tied.program(words), log)
        self._processes.append(process)
        probe = Redis(port=port, socket_timeout=10, **PROXY_OPTIONS)

        def answers() -> bool:
            with contextlib.suppress(RedisError, OSError):
                return bool(probe.set("probe", "1"))
            return False

        wait_until("starting nutcracker", answers, [process])
        probe.close()
        return port

    def make(self, name: str) -> None:
        """A node, not started."""
        arguments = [f"id={name}", f"fence={self._fence * 1e3:.0f}"]
        if self.keeper is not None:
            arguments.append(f"zookeeper={self.keeper.place}")
        servers = []
        for kind, more in (("ring", (self._module, arguments)), ("plain", ())):
            port, folder = free_port(), self.root / f"{kind}-{name}"
            words = server_words(self._binary, port, folder, *more)
            servers.append(Server(f"{kind}-{name}", folder, words, port))
        self.nodes[name] = servers[0], servers[1]

    # ---- faults ----

    def start_nodes(self, *names: str) -> None:
        """Both servers of each node; returns when they answer."""
        servers = [server for name in names for server in self.nodes[name]]
        for server in servers:
            server.start()
        for server in servers:
            server.wait()

    def kill(self, name: str) -> None:
        """SIGKILL to both servers."""
        for server in self.nodes[name]:
            server.kill()

    def save(self, name: str) -> None:
        """Both write a dump, which they load at their next start."""
        for server in self.nodes[name]:
            server.redis.save()

    def forget(self, name: str) -> None:
        """The dumps."""
        for server in self.nodes[name]:
            (server.folder / "dump.rdb").unlink(missing_ok=True)

    @contextlib.contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Both servers stand still."""
        for server in self.nodes[name]:
            server.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for server in self.nodes[name]:
                server.signal(signal.SIGCONT)

    def list_naive(self, names: Sequence[str]) -> None:
        """Tells the naive clients which nodes there are."""
        ports = {name: self.nodes[name][1].port for name in names}
        new = self._members.with_suffix(".new")
        new.write_text(json.dumps(ports))
        new.replace(self._members)

    # ---- what is to be seen ----

    def command(self, *arguments: str) -> Any:
        """What `mmapcache ring … --json` prints.

        :raises DemoError: it has failed
        """
        assert self.keeper is not None
        words = [*_COMMAND, *arguments, "--zookeeper", self.keeper.place, "--json"]
        done = subprocess.run(
            tied.command(words),
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
            start_new_session=True,
        )
        if done.returncode:
            raise DemoError(f"mmapcache ring {arguments[0]} failed: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def info(self, name: str) -> dict[str, Any]:
        """INFO ring of a node's server, names without the prefix."""
        lines = self.nodes[name][0].redis.info("ring")
        return {key.removeprefix("ring_"): value for key, value in lines.items()}

    def states(self) -> dict[str, str]:
        """What the file says of each node."""
        try:
            _, record, members = self.published.read()
        except RingNotReady:
            return {}
        return {
            name: members[name].state if name in members else "gone" for name in record.everybody
        }

    def server_name(self) -> str:
        """What the servers are: ``Redis 7.0.15``."""
        info = self.nodes[IDS[0]][1].redis.info("server")
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info['redis_version']}"

    def keys(self) -> dict[str, int]:
        """How many keys each server of the ring that runs has."""
        return {
            name: int(server.redis.dbsize())
            for name, (server, _) in self.nodes.items()
            if server.runs
        }

    def lives(self) -> dict[str, str]:
        """The run_id of each server of the ring that runs."""
        return {
            name: str(self.info(name)["run_id"])
            for name, (server, _) in self.nodes.items()
            if server.runs
        }

    def settle(self) -> float:
        """Seconds until all that run are ready, the file says so, and nothing is owed to them."""
        began = time.monotonic()
        wait_until("until all nodes of the ring are ready", self._settled)
        return time.monotonic() - began

    def _settled(self) -> bool:
        with contextlib.suppress(RingNotReady):
            if self.published.read()[1].change is not None:
                return False
        states = self.states()
        running = [name for name in states if self.nodes[name][0].runs]
        if not running or any(states[name] != "ready" for name in running):
            return False
        try:
            infos = [self.info(name) for name in running]
        except (RedisError, OSError):
            return False
        owed = [value for info in infos for key, value in info.items() if _owed(key, running)]
        ready = all(info["state"] == "ready" for info in infos)
        return ready and not any(one["keys"] or one["overflow"] for one in owed)

    @contextlib.contextmanager
    def load(self, act: str, stores: Sequence[str], clients: int) -> Iterator[Load]:
        """HTTP clients, while they are needed."""
        one = Load(self.port, act, stores, clients)
        try:
            yield one
        finally:
            one.close()


def _owed(name: str, running: Sequence[str]) -> bool:
    return name.startswith("owed_") and name.removeprefix("owed_") in running


class Load:
    """The HTTP clients, from when all their keys are written."""

    def __init__(self, port: int, act: str, stores: Sequence[str], clients: int) -> None:
        words = ["demo.ring.load", "--port", str(port), "--act", act]
        words += ["--stores", ",".join(stores), "--clients", str(clients)]
        self._process = subprocess.Popen(
            tied.command(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            self._line("ready")
        except BaseException:
            self.close()
            raise

    def rest(self) -> dict[str, dict[str, Any]]:
        """Ends the load; all keys are read once more. The counts of each store."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        counts: dict[str, dict[str, Any]] = json.loads(self._line("{"))
        return counts

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        end(self._process)

    def _line(self, begin: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line.startswith(begin):
            raise DemoError("the HTTP clients failed")
        return line
