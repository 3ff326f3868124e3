"""What others run where the ring would be: nutcracker, and Redis Cluster; where installed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.ring_world import MissingError
from demo import tied
from demo.processes import HOST, Process, wait_until
from demo.ring.installed import any_server, free_port, server_words
from demo.ring.stores import PROXY_OPTIONS
from demo.ring.world import write_nutcracker_config

_SERVERS = 5
_MASTERS = 3
_NODE_TIMEOUT_MS = 2000  # by default it is 15 s
_PATIENCE = 30.0  # seconds


class Peers:
    """Servers of a peer, and a client of redis-py for them."""

    def __init__(self) -> None:
        self.client: Any = None
        self.processes: dict[int, Process] = {}  # of servers, by their ports
        self.proxy: Process | None = None

    @property
    def pids(self) -> list[int]:
        """Of all that runs."""
        proxy = [] if self.proxy is None else [self.proxy.pid]
        return proxy + [process.pid for process in self.processes.values()]


def _binary() -> str:
    found, missing = any_server()
    if not found:
        raise MissingError(missing)
    return found


@contextlib.contextmanager
def _kept(peers: Peers, folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        if peers.client is not None:
            peers.client.close()
        for process in (*peers.processes.values(), peers.proxy):
            if process is not None:
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _start(peers: Peers, folder: Path, *more: str) -> None:
    import redis

    port = free_port()
    words = server_words(_binary(), port, folder / str(port))
    process = Process(f"server {port}", tied.program([*words, *more]), folder / f"{port}.log")
    peers.processes[port] = process
    with redis.Redis(port=port) as probe:
        wait_until("starting a server", lambda: _pongs(probe), [process])


def _answers(client: Any) -> bool:
    import redis

    with contextlib.suppress(redis.RedisError, OSError):
        return bool(client.set("probe", "1"))
    return False


@contextlib.contextmanager
def nutcracker(folder: Path, timeout: int) -> Iterator[Peers]:
    """Five plain servers behind the proxy.

    :param timeout: milliseconds that it waits for a server
    :raises MissingError: it is not installed
    """
    import redis

    program = shutil.which("nutcracker") or shutil.which("nutcracker", path="/usr/sbin")
    if program is None:
        raise MissingError("nutcracker is not installed: apt install nutcracker")
    peers = Peers()
    with _kept(peers, folder):
        for _ in range(_SERVERS):
            _start(peers, folder)
        port, config = free_port(), folder / "nutcracker.yml"
        write_nutcracker_config(
            config, port, {str(each): each for each in peers.processes}, timeout
        )
        words = [program, "--conf-file", str(config), "--stats-addr", HOST]
        words += ["--stats-port", str(free_port()), "--output", str(folder / "proxy.log")]
        peers.proxy = Process("nutcracker", tied.program(words), folder / "proxy.out")
        client = peers.client = redis.Redis(port=port, socket_timeout=10, **PROXY_OPTIONS)
        wait_until("starting nutcracker", lambda: _answers(client), [peers.proxy])
        yield peers


@contextlib.contextmanager
def cluster(folder: Path, timeout: int) -> Iterator[Peers]:
    """Redis Cluster: three masters, each with a replica.

    :param timeout: milliseconds that its client waits for a server
    :raises MissingError: it cannot be made here
    """
    import redis
    from redis import cluster as rediscluster

    peers = Peers()
    with _kept(peers, folder):
        for _ in range(2 * _MASTERS):
            options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
            options += ["--cluster-node-timeout", str(_NODE_TIMEOUT_MS)]
            _start(peers, folder, *options, "--repl-diskless-sync-delay", "0")
        nodes: list[Any] = [redis.Redis(port=port) for port in peers.processes]
        ids = [str(node.execute_command("CLUSTER MYID").decode()) for node in nodes]
        for node in nodes[1:]:
            bus = node.config_get("cluster-port")["cluster-port"]
            port = node.get_connection_kwargs()["port"]
            nodes[0].execute_command("CLUSTER MEET", HOST, port, bus)
        for number, node in enumerate(nodes[:_MASTERS]):
            first, last = (16384 * n // _MASTERS for n in (number, number + 1))
            node.execute_command("CLUSTER ADDSLOTSRANGE", first, last - 1)
        for number, node in enumerate(nodes[_MASTERS:]):
            _until(lambda node=node, it=ids[number]: _replicates(node, it))
        _until(lambda: all(_is_whole(node) for node in nodes))
        for node in nodes:
            node.close()
        untyped: Any = rediscluster
        startup = [untyped.ClusterNode(HOST, port) for port in peers.processes]
        peers.client = untyped.RedisCluster(startup_nodes=startup, socket_timeout=timeout / 1000)
        yield peers


def _pongs(client: Any) -> bool:
    import redis

    with contextlib.suppress(redis.RedisError, OSError):
        return bool(client.ping())
    return False


def _replicates(node: Any, master: str) -> bool:
    import redis

    with contextlib.suppress(redis.RedisError):
        return bool(node.execute_command("CLUSTER REPLICATE", master))
    return False


def _is_whole(node: Any) -> bool:
    said = node.info("replication")
    linked = said.get("master_link_status") == "up" or said["connected_slaves"] == 1
    state = node.execute_command("CLUSTER INFO")  # a dict, of some versions of redis-py
    text = str(state["cluster_state"] if isinstance(state, dict) else state)
    return bool(linked) and "ok" in text.split("cluster_state:")[-1][:4]


def _until(done: Any) -> None:
    end = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > end:
            raise MissingError("a Redis Cluster could not be made")
        time.sleep(0.05)
