"""Rivals that are servers, or live in one: Redis, memcached, and the cache of uWSGI.

The cache of uWSGI is in the processes of uWSGI alone. So the same loops run there, in a process
that uWSGI starts, which is told by lines on a Unix socket what to do: see `_serve`.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.harness import Context, Timed, timed

READS = 2_000  # a read is a message there and one back
SOCKET = "MMAPCACHE_BENCH_UWSGI"
ITEMS, BLOCK = 131_072, 512
Pairs = list[tuple[str, bytes]]


def newer() -> Callable[[], bytes]:
    """Documents that differ from the one before."""
    made = [data.document(index, 1) for index in range(1000)]
    turn = iter(range(1 << 30))
    return lambda: made[next(turn) % len(made)]


def _program(name: str) -> str:
    """Where a program is: FileNotFoundError when it is not installed."""
    own = Path(sys.executable).with_name(name)
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"no program {name}")
    return found


def _start(command: list[str], ready: Callable[[], object], **environment: str) -> Any:
    """A server that answers: what `ready` gives without OSError is returned beside its process."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | environment,
    )
    end = time.monotonic() + 30
    while True:
        try:
            return process, ready()
        except Exception:
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                process.wait()
                raise
            time.sleep(0.02)


class _Server:
    """A server that a client in Python asks over a Unix socket."""

    reads = READS
    get: Callable[[Any], Any]
    put: Callable[[Any, bytes], object]
    _process: subprocess.Popen[bytes]

    def timing(self, expression: str, keys: list[str]) -> Timed:
        """A loop over the keys."""
        names = {"get": self.get} if expression == "get(key)" else {"put": self.put, "of": newer()}
        return timed(expression, lambda: keys, **names)

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()


class Redis(_Server):
    """Redis by redis-py, with hiredis where it is installed."""

    name = "Redis"

    def __init__(self, context: Context) -> None:
        """Start a server that keeps everything in memory."""
        redis = importlib.import_module("redis")
        path = context.path("rival.redis")
        command = [_program("redis-server"), "--port", "0", "--unixsocket", str(path)]
        command += ["--save", "", "--appendonly", "no", "--dir", str(context.scratch)]
        self._client = redis.Redis(unix_socket_path=str(path))
        self._process, _ = _start(command, self._client.ping)
        self.get, self.put = self._client.get, self._client.set

    def clear(self) -> None:
        """Empty it."""
        self._client.flushall()

    def load(self, pairs: Pairs) -> None:
        """Some thousand in a message."""
        for start in range(0, len(pairs), 5_000):
            self._client.mset(dict(pairs[start : start + 5_000]))


class Memcached(_Server):
    """memcached by pymemcache."""

    name = "memcached"

    def __init__(self, context: Context) -> None:
        """Start a server with room for everything."""
        pymemcache = importlib.import_module("pymemcache")
        path = context.path("rival.memcached")
        command = [_program("memcached"), "-s", str(path), "-m", "256", "-t", "1"]
        command += ["-u", "root"] if os.geteuid() == 0 else []
        self._client = pymemcache.Client(str(path), no_delay=True)
        self._process, _ = _start(command, self._client.version)
        self.get = self._client.get
        self.put = lambda key, document: self._client.set(key, document, noreply=False)

    def clear(self) -> None:
        """Empty it."""
        self._client.flush_all(noreply=False)

    def load(self, pairs: Pairs) -> None:
        """Some thousand in a message, and one answer at the end."""
        for start in range(0, len(pairs), 5_000):
            self._client.set_many(dict(pairs[start : start + 5_000]), noreply=True)
        self._client.version()


class _Asked:
    """A measurement that is made in uWSGI's process."""

    def __init__(self, ask: Callable[..., Any], expression: str, keys: list[str]) -> None:
        """Send the keys there."""
        self._ask = ask
        self._number = ask("prepare", expression, keys)

    def __call__(self) -> float:
        """Nanoseconds each."""
        return float(self._ask("run", self._number))

    def tail(self) -> float:
        """The 99th percentile."""
        return float(self._ask("tail", self._number))


class Uwsgi:
    """The shared cache of uWSGI, read in a process of uWSGI's."""

    name = "uWSGI cache2"
    reads = 100_000

    def __init__(self, context: Context) -> None:
        """Start uWSGI with this file as its program."""
        path = context.path("rival.uwsgi")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen(1)
        listening.settimeout(30)
        cache = f"name=settings,items={ITEMS},blocksize={BLOCK},hashsize={ITEMS}"
        command = [_program("uwsgi"), "--virtualenv", sys.prefix, "--cache2", cache]
        command += ["--disable-logging", "--pyrun", __file__]
        root = str(Path(__file__).resolve().parent.parent)

        def accepted() -> socket.socket:
            return listening.accept()[0]

        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process, connection = _start(
            command, accepted, **{SOCKET: str(path), "PYTHONPATH": paths}
        )
        listening.close()
        self._lines = connection.makefile("rw", encoding="utf-8")
        self._made = False

    def _ask(self, *request: Any) -> Any:
        print(json.dumps(request), file=self._lines, flush=True)
        return json.loads(self._lines.readline())

    def clear(self) -> None:
        """Empty it."""
        self._ask("clear")

    def load(self, pairs: Pairs) -> None:
        """The same documents, which that process makes by itself in the round that is no sample."""
        if not self._made:
            self._made = True
            self._ask("make", len(pairs))
        self._ask("load")

    def timing(self, expression: str, keys: list[str]) -> Timed:
        """A loop over the keys, there."""
        return _Asked(self._ask, expression, keys)

    def close(self) -> None:
        """End uWSGI."""
        self._lines.close()
        self._process.kill()
        self._process.wait()


def _serve() -> None:
    """In uWSGI: load, prepare a loop, run one, as the lines say."""
    uwsgi = importlib.import_module("uwsgi")
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ[SOCKET])
    lines = connection.makefile("rw", encoding="utf-8")
    loops: list[Any] = []
    made: Pairs = []

    def answer(what: str, *given: Any) -> Any:
        if what == "make":
            made[:] = list(zip(data.keys(given[0]), data.documents(given[0]), strict=True))
        elif what == "load":
            for key, document in made:
                uwsgi.cache_update(key, document)
        elif what == "clear":
            uwsgi.cache_clear()
        elif what == "prepare":
            expression, keys = given
            names = {"put": uwsgi.cache_update, "of": newer()}
            names = {"get": uwsgi.cache_get} if "get" in expression else names
            loops.append(timed(expression, lambda: keys, **names))
            return len(loops) - 1
        else:
            loop = loops[given[0]]
            return loop() if what == "run" else loop.tail()
        return None

    for line in lines:
        print(json.dumps(answer(*json.loads(line))), file=lines, flush=True)


if __name__ == "__main__" and SOCKET in os.environ:
    _serve()
