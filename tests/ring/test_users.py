"""What somebody meets who has used redis-py, or who has set up something wrongly."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ring.ring_servers import PATIENCE, eventually, free_port, server_binary
from ring.rings import Agent, AsyncRing, Ring, command
from support.tools import lacking

import mmapcache.ring
from mmapcache.ring import NoHolderReachable, Unsupported

redis = pytest.importorskip("redis")

DONE = frozenset({
    "close", "decr", "delete", "exists", "expire", "get", "incr", "incrby", "mget", "mset",
    "pipeline", "pttl", "set", "ttl",
})  # fmt: skip


def public(of: type) -> set[str]:
    """What its users call."""
    return {name for name in dir(of) if not name.startswith("_") and callable(getattr(of, name))}


@pytest.mark.parametrize("kind", [Ring, AsyncRing])
def test_everything_of_redis_py_is_there_or_refused_by_name(kind: Any, tmp_path: Path) -> None:
    ring = kind(str(tmp_path / "none.mmc"))
    names = public(redis.Redis) | public(redis.asyncio.Redis)
    assert len(names) > 250
    for name in sorted(names - DONE - {"aclose"}):
        with pytest.raises(Unsupported, match=rf"^{name} is not for a ring: \w.*"):
            getattr(ring, name)("key")
    assert all(callable(getattr(ring, name)) for name in DONE - {"close"})
    with pytest.raises(AttributeError, match="hgetal"):
        _ = ring.hgetal
    assert "none.mmc" in repr(ring)
    assert repr(ring).startswith(f"<mmapcache.ring.{kind.__name__} ")


def test_a_pipeline_refuses_likewise(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="hset is not for a ring"):
        Ring(str(tmp_path / "none.mmc")).pipeline().hset("key", "field", "1")
    with pytest.raises(Unsupported, match="mget is not for a ring: a pipeline's operations"):
        Ring(str(tmp_path / "none.mmc")).pipeline().mget(["a", "b"])


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[int]:
    """The port of a server without the module."""
    found, missing = server_binary("redis")
    if not found:
        lacking(missing)
    port = free_port()
    words: list[str] = [
        found,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(tmp_path),
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        try:
            eventually("the server answers", lambda: answers(port))
            yield port
        finally:
            process.kill()


def answers(port: int) -> bool | None:
    try:
        return bool(redis.Redis(port=port).ping()) or None
    except redis.ConnectionError:
        return None


def test_a_server_without_the_module_is_said_to_be_one(plain: int, tmp_path: Path) -> None:
    path = tmp_path / "ring.mmc"
    agent = Agent(path, "--members", f"a=127.0.0.1:{plain}").start()
    try:
        eventually("the ring is published", lambda: path.exists() or None)
        ring = Ring(str(path))
        eventually("it can be read", lambda: readable(ring))
        with pytest.raises(NoHolderReachable, match="the ring's module is not loaded there"):
            ring.get("key")
        said = command("status", str(path)).stdout
        assert "a: it knows no RING.HELLO: the ring's module is not loaded there\n" in said
        assert "1 node, as the agent knew it" in said
    finally:
        agent.end()
    assert "the ring's module is not loaded there" in agent.log.read_text()


def test_metrics_of_the_agent_say_how_the_ring_is(plain: int, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="pip install 'mmapcache[serve]'")
    page = f"127.0.0.1:{free_port()}"
    members = f"a=127.0.0.1:{plain},b=127.0.0.1:{free_port()}"
    agent = Agent(tmp_path / "r.mmc", "--members", members, "--http", page, "--epoch", "7").start()

    def values() -> dict[str, float] | None:
        try:
            with urllib.request.urlopen(f"http://{page}/metrics", timeout=PATIENCE) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return None
        pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("mmapcache_ring_"))
        return {name: float(value) for name, value in pairs} or None

    try:
        found = eventually("the metrics are there", values)
    finally:
        agent.end()
    assert found["mmapcache_ring_epoch"] == 7
    assert sum(v for name, v in found.items() if name.startswith("mmapcache_ring_nodes{")) == 2
    assert found['mmapcache_ring_nodes{state="ready"}'] == 0
    assert (found["mmapcache_ring_changing"], found["mmapcache_ring_leading"]) == (0, 1)
    assert {"mmapcache_ring_owed", "mmapcache_ring_owed_lag_seconds"} <= found.keys()
    assert {"mmapcache_ring_filled_keys_total", "mmapcache_ring_paid_keys_total"} <= found.keys()


def readable(ring: Ring) -> bool | None:
    try:
        return bool(ring.nodes)
    except mmapcache.ring.RingNotReady:
        return None


def test_a_file_of_certificates_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.mmc"
    done = command("status", str(path), "--tls", "--tls-ca", "nowhere.pem", check=False)
    assert done.returncode == 1
    assert "nowhere.pem: No such file or directory" in done.stderr
