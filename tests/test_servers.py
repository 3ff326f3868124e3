"""Real application servers: the cache opened before their forks and after, and nothing to call.

Each server is started on a free port of the loopback with the application below, asked, given a
new generation while it runs, made to replace its workers, and stopped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.caches import fill
from support.loader import wait_for
from support.servers import PATIENCE, Server, started

import mmapcache

pytest.importorskip("bson")
pytestmark = pytest.mark.slow

# As a user would write it. `early` is opened at import: before the fork where a server preloads.
APPLICATION = """
import json, os, sys
import mmapcache

PATH = os.environ["CACHE_PATH"]
early = mmapcache.open(PATH)
sites = early["sites"]
imported_in, at_import = os.getpid(), sites["a"]["n"]
late = None

def answer():
    global late
    if late is None:
        late = mmapcache.open(PATH)
    with early.snapshot() as snapshot:
        seen = {sites["a"]["n"], late["sites"]["a"]["n"], snapshot["sites"]["a"]["n"],
                *(document["n"] for document in late["sites"].values()),
                *(document["n"] for document in sites.get_many(["a", "b"]).values())}
    return json.dumps({
        "pid": os.getpid(),
        "imported_in": imported_in,
        "at_import": at_import,
        "seen": sorted(seen),
        "generations": [early.generation, late.generation],
        "interpreter": id(sys.modules),
        "same": sites["a"] is sites["a"],
    }).encode()

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [answer()]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": answer()})
"""


class Asked(Server):
    """A server with the application above."""

    def ask(self, path: str = "/") -> dict[str, Any]:
        """What it answers to one request."""
        answer = self.get(path)
        if answer.status != 200:
            pytest.fail(f"status {answer.status}\n{self.log()}")
        body: dict[str, Any] = json.loads(answer.body)
        return body

    def expect(self, value: int, requests: int = 24, path: str = "/") -> list[dict[str, Any]]:
        """Many requests, each of which must see `value` everywhere and nothing else."""
        answers = [self.ask(path) for _ in range(requests)]
        for answer in answers:
            assert answer["seen"] == [value], answer
            assert answer["generations"] == [value, value], answer
            assert answer["same"], answer
        return answers

    def until_workers(self, known: set[int], value: int) -> list[dict[str, Any]]:
        """Asks until a worker that was not `known` has answered; all answers."""
        answers: list[dict[str, Any]] = []
        end = time.monotonic() + PATIENCE
        while not any(answer["pid"] not in known for answer in answers):
            assert time.monotonic() < end, self.log()
            answers += self.expect(value, 4)
        return answers


@pytest.fixture
def writer(writer: mmapcache.Writer) -> mmapcache.Writer:
    publish(writer, 1)
    return writer


def publish(writer: mmapcache.Writer, value: int) -> None:
    assert fill(writer, "sites", *({"_id": key, "n": value} for key in "ab")) == value


@contextmanager
def serving(cache: Path, directory: Path, *command: str) -> Iterator[Asked]:
    """Starts a server, whose command may name {port}, and stops it with all its workers."""
    (directory / "application.py").write_text(APPLICATION)
    environment = {"CACHE_PATH": str(cache)}
    with started(
        directory / "log", *command, cwd=directory, environment=environment, kind=Asked
    ) as server:
        yield server


def pids(answers: list[dict[str, Any]]) -> set[int]:
    return {answer["pid"] for answer in answers}


def test_uwsgi(writer: mmapcache.Writer, cache_path: Path, tmp_path: Path) -> None:
    """Two applications in one process are two sub-interpreters; workers are forked from both."""
    uwsgi = Path(sys.executable).with_name("uwsgi")
    if not uwsgi.exists():
        pytest.skip("uWSGI is not installed: pip install uwsgi (a C compiler builds it)")
    with serving(
        cache_path,
        tmp_path,
        *(str(uwsgi), "--http-socket", "127.0.0.1:{port}", "--virtualenv", sys.prefix),
        *("--master", "--processes", "2", "--need-app", "--die-on-term", "--manage-script-name"),
        *("--mount", "/one=application.py", "--mount", "/two=application.py"),
        # uWSGI ends Python without ending its sub-interpreters first, whatever they imported
        *("--skip-atexit-teardown", "--disable-logging"),
        *("--max-requests", "60", "--min-worker-lifetime", "0", "--max-worker-lifetime", "3600"),
        # One that SIGTERM meets just forked takes it for the master's, and stays
        *("--worker-reload-mercy", "10"),
    ) as server:
        one, two = server.expect(1, path="/one"), server.expect(1, path="/two")
        master = {answer["imported_in"] for answer in one + two}
        assert master == {server.process.pid}
        assert master.isdisjoint(pids(one + two))
        assert {answer["interpreter"] for answer in one}.isdisjoint(
            answer["interpreter"] for answer in two
        )
        publish(writer, 2)
        known = pids(server.expect(2, path="/one") + server.expect(2, path="/two") + one + two)
        os.kill(max(known), signal.SIGKILL)
        seen: set[int] = set()
        end = time.monotonic() + PATIENCE
        while len(seen - known) < 3:  # one replaces the killed worker, two those past 60 requests
            assert time.monotonic() < end, seen
            seen |= pids(server.expect(2, 8, "/one") + server.expect(2, 8, "/two"))
        publish(writer, 3)
        last = server.expect(3, path="/one") + server.expect(3, path="/two")
        assert {answer["at_import"] for answer in last} == {1}  # the master imported it


def test_gunicorn(writer: mmapcache.Writer, cache_path: Path, tmp_path: Path) -> None:
    """--preload opens the cache in the master; workers end after max_requests."""
    pytest.importorskip("gunicorn")
    with serving(
        cache_path,
        tmp_path,
        *(sys.executable, "-m", "gunicorn", "application:application", "--preload"),
        *("--graceful-timeout", "5"),
        *("--workers", "2", "--max-requests", "10", "--bind", "127.0.0.1:{port}"),
        *("--worker-tmp-dir", str(tmp_path), "--no-control-socket"),
    ) as server:
        first = server.expect(1, 4)
        assert {answer["imported_in"] for answer in first} == {server.process.pid}
        assert server.process.pid not in pids(first)
        publish(writer, 2)
        later = server.until_workers(pids(first), 2)
        known = pids(first + later)
        os.kill(later[-1]["pid"], signal.SIGKILL)
        last = server.until_workers(known, 2)
        publish(writer, 3)
        last = server.expect(3)
        assert {answer["at_import"] for answer in last} == {1}


def test_gunicorn_without_preload(
    writer: mmapcache.Writer, cache_path: Path, tmp_path: Path
) -> None:
    """Threads in workers that import the application themselves."""
    pytest.importorskip("gunicorn")
    with serving(
        cache_path,
        tmp_path,
        *(sys.executable, "-m", "gunicorn", "application:application", "--threads", "4"),
        *("--graceful-timeout", "5"),
        *("--workers", "2", "--bind", "127.0.0.1:{port}", "--worker-tmp-dir", str(tmp_path)),
        "--no-control-socket",
    ) as server:
        first = server.expect(1)
        assert all(answer["imported_in"] == answer["pid"] for answer in first)
        publish(writer, 2)
        os.kill(server.expect(2)[0]["pid"], signal.SIGKILL)
        # The other worker may be as new to us, and have imported it before.
        wait_for(lambda: any(answer["at_import"] == 2 for answer in server.expect(2, 4)))


def test_uvicorn(writer: mmapcache.Writer, cache_path: Path, tmp_path: Path) -> None:
    """Spawned workers, which its supervisor replaces when they are killed."""
    pytest.importorskip("uvicorn")
    with serving(
        cache_path,
        tmp_path,
        *(sys.executable, "-m", "uvicorn", "application:asgi", "--workers", "2"),
        *("--host", "127.0.0.1", "--port", "{port}", "--app-dir", str(tmp_path)),
        *("--log-level", "warning"),
    ) as server:
        first = server.expect(1)
        assert all(answer["imported_in"] == answer["pid"] for answer in first)
        publish(writer, 2)
        later = server.expect(2)
        os.kill(later[-1]["pid"], signal.SIGKILL)
        known = pids(first + later)
        answers = server.until_workers(known, 2)
        assert {a["at_import"] for a in answers if a["pid"] not in known} == {2}
