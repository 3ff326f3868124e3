"""The example service, started for real: both ways to open the cache, and MongoDB behind it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mmapcache

pytest.importorskip("tornado")

if TYPE_CHECKING:
    from pymongo.database import Database

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
PROGRAM = [sys.executable, "-m", "examples.tornado_service"]
START = [*PROGRAM, "--port", "0", "--workers", str(WORKERS)]
DOCUMENTS: dict[str, list[dict[str, Any]]] = {
    "sites": [
        {
            "_id": "9f3c",
            "customer": 7,
            "difficulty": 6,
            "theme": "dark",
            "domains": ["shop.example"],
            "limits": {"qps": 100, "burst": 400},
            "flags": ["half", "off", "on"],
            "revision": 0,
        }
    ],
    "limits": [{"_id": 7, "per_site_qps": 50, "daily": 1000}],
    "flags": [
        {"_id": "on", "on": True, "percent": 100},
        {"_id": "half", "on": True, "percent": 0},
        {"_id": "off", "on": False, "percent": 100},
    ],
}


class Service:
    """A running service."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            is_json = "json" in (answer.getheader("Content-Type") or "")
            headers = dict(answer.getheaders())
            return answer.status, headers, json.loads(body) if is_json else body.decode()
        finally:
            connection.close()

    def until_all_workers(self, path: str) -> dict[int, Any]:
        """The answers of all workers to the same question."""
        answers: dict[int, Any] = {}
        end = time.monotonic() + 20
        while len(answers) < WORKERS:
            assert time.monotonic() < end, f"only {sorted(answers)} answer"
            _, headers, body = self.get(path)
            answers[int(headers["X-Worker"])] = body
        return answers


@contextmanager
def serving(*arguments: str) -> Iterator[Service]:
    """The service with two workers; afterwards it must end by itself on SIGTERM."""
    process = subprocess.Popen(
        [*START, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)", first)
        assert match, first
        yield Service(process, int(match[1]))
        process.terminate()
        assert process.wait(timeout=10) == 0
        # The workers hold the other end of this pipe: its end is their end.
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def writer(writer: mmapcache.Writer) -> mmapcache.Writer:
    """A loader that is alive in this process, with the service's settings."""
    with writer.batch() as batch:
        for name, documents in DOCUMENTS.items():
            for document in documents:
                batch.put(name, document["_id"], document)
    return writer


@pytest.mark.parametrize("variant", ["before the fork", "after the fork"])
def test_the_cache_answers(writer: mmapcache.Writer, variant: str) -> None:
    extra = ["--open-after-fork"] if variant == "after the fork" else []
    with serving("--cache", writer.path, *extra) as service:
        answers = service.until_all_workers("/v1/sites/9f3c")
        assert all(body["qps"] == 100 for body in answers.values())
        status, headers, decision = service.get("/v1/challenge/9f3c")
        assert status == 200
        assert headers["X-Generation"] == "1"
        assert decision["qps"] == 50
        assert decision["flags"] == ["on"]
        assert service.get("/v1/sites/nobody")[0] == 404
        assert service.get("/v1/challenge/nobody")[0] == 404

        site = {**DOCUMENTS["sites"][0], "revision": 1}
        with writer.batch() as batch:
            batch.put("sites", "9f3c", site)
        answers = service.until_all_workers("/v1/sites/9f3c")
        assert [body["revision"] for body in answers.values()] == [1] * WORKERS


def test_health_and_metrics(writer: mmapcache.Writer) -> None:
    with serving("--cache", writer.path, "--stale-after", "1.5") as service:
        writer.report(state="polling", error="", confirmed=True)  # now: it may take long to start
        status, _, health = service.get("/healthz")
        assert (status, health["status"], health["loader"]) == (200, "ok", "alive")
        text = service.get("/metrics")[2]
        assert re.search(r'^mmapcache_generation\{worker="\d"\} 1$', text, re.M)
        assert re.search(r'^captcha_requests_total\{worker="\d"\} [1-9]', text, re.M)
        writer.report(state="degraded", error="MongoDB is away")
        time.sleep(1.6)
        status, _, health = service.get("/healthz")
        assert (status, health["status"]) == (200, "stale"), "stale settings are served"
        assert (health["state"], health["error"]) == ("degraded", "MongoDB is away")
        assert service.get("/healthz?strict=1")[0] == 503
        assert service.get("/v1/sites/9f3c")[0] == 200
        writer.close()
        assert service.get("/healthz")[2]["loader"] == "none"


def test_a_killed_worker_is_forked_again(writer: mmapcache.Writer) -> None:
    with serving("--cache", writer.path) as service:
        before = {n: body["pid"] for n, body in service.until_all_workers("/healthz").items()}
        os.kill(before[0], signal.SIGKILL)
        # Connections that the kernel gave to the killed worker wait for the new one.
        assert [service.get("/v1/sites/9f3c")[0] for _ in range(20)] == [200] * 20
        after = {n: body["pid"] for n, body in service.until_all_workers("/healthz").items()}
        assert after[0] != before[0]
        assert after[1] == before[1]


def test_workers_end_with_a_killed_parent(writer: mmapcache.Writer) -> None:
    process = subprocess.Popen(
        [*START, "--cache", writer.path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "serving on" in process.stdout.readline()
    process.kill()
    process.wait()
    assert process.stdout.read() == "", "no worker holds the pipe any more"
    process.stdout.close()


def test_the_same_from_mongodb(database: Database[dict[str, Any]], mongodb_uri: str) -> None:
    for name, documents in DOCUMENTS.items():
        database[name].insert_many(documents)
    arguments = ("--source", "mongodb", "--uri", mongodb_uri, "--database", database.name)
    with serving(*arguments) as service:
        assert service.get("/v1/sites/9f3c")[2]["qps"] == 100
        assert service.get("/v1/challenge/9f3c")[2]["flags"] == ["on"]
        assert service.get("/v1/sites/nobody")[0] == 404
        assert service.get("/v1/challenge/nobody")[0] == 404
        assert service.get("/healthz")[2]["source"] == "mongodb"


def test_usage() -> None:
    for arguments in ([], ["--source", "mongodb"]):
        done = subprocess.run(
            [*PROGRAM, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "needs --" in done.stderr
