"""The examples of the frameworks, each with two workers of a real server.

All of them answer the same: a document with everything that JSON does not know of itself, from
both workers; their health; and the metrics of both together, nothing counted twice.
"""

from __future__ import annotations

import datetime
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.caches import fill
from support.loader import wait_for
from support.servers import Server, started

import mmapcache

bson = pytest.importorskip("bson")
pytest.importorskip("prometheus_client")
pytestmark = [pytest.mark.slow, pytest.mark.once]

ROOT = Path(__file__).resolve().parent.parent
SITE = {
    "_id": "9f3c",
    "owner": bson.ObjectId("65a1b2c3d4e5f60718293a4b"),
    "plan": {"price": bson.Decimal128("9.90"), "since": datetime.datetime(2026, 1, 2, 3, 4, 5)},
    "hosts": ["a.example", {"name": "b.example"}],
    "key": b"\xff\x00",
}
ANSWER = {
    "_id": "9f3c",
    "owner": "65a1b2c3d4e5f60718293a4b",
    "plan": {"price": "9.90", "since": "2026-01-02T03:04:05Z"},
    "hosts": ["a.example", {"name": "b.example"}],
    "key": "/wA=",
}
GUNICORN = (
    *(sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", "127.0.0.1:{port}"),
    *("--no-control-socket", "--graceful-timeout", "5", "--config", "examples/gunicorn_conf.py"),
)
UVICORN = (
    *(sys.executable, "-m", "uvicorn", "--workers", "2", "--host", "127.0.0.1"),
    *("--port", "{port}", "--log-level", "warning"),
)
UWSGI = (
    *(str(Path(sys.executable).with_name("uwsgi")), "--http-socket", "127.0.0.1:{port}"),
    *("--virtualenv", sys.prefix, "--master", "--processes", "2", "--need-app", "--die-on-term"),
    *("--skip-atexit-teardown", "--disable-logging", "--enable-threads"),
)


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("tornado", (sys.executable, "-m", "examples.tornado_app", "{port}")),
        ("starlette", (*UVICORN, "examples.starlette_app:app")),
        ("fastapi", (*UVICORN, "examples.fastapi_app:app")),
        ("flask", (*GUNICORN, "examples.flask_app:app")),
        ("flask", (*GUNICORN, "--preload", "examples.flask_app:app")),
        ("flask", (*UWSGI, "--module", "examples.flask_app:app")),
        ("django", (*GUNICORN, "--preload", "examples.django_app:app")),
    ],
    ids=["tornado", "starlette", "fastapi", "flask", "preload", "uwsgi", "django"],
)
def test_example(
    writer: mmapcache.Writer,
    cache_path: Path,
    tmp_path: Path,
    package: str,
    command: tuple[str, ...],
) -> None:
    pytest.importorskip(package)
    if not Path(command[0]).exists():
        pytest.skip("uWSGI is not installed: pip install uwsgi (a C compiler builds it)")
    fill(writer, "sites", SITE)
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    environment = {"CACHE_PATH": str(cache_path), "PROMETHEUS_MULTIPROC_DIR": str(metrics)}
    with started(
        tmp_path / "log", *command, cwd=ROOT, environment=environment, kind=Server
    ) as server:
        workers: Counter[str | None] = Counter()
        while len(workers) < 2:
            answer = server.get("/sites/9f3c")
            assert answer.status == 200, server.log()
            assert answer.headers.get_content_type() == "application/json"
            assert json.loads(answer.body) == ANSWER
            workers[answer.headers["X-Worker-Pid"]] += 1
        assert str(server.process.pid) not in workers
        assert server.get("/sites/unknown").status == 404
        if package == "fastapi":
            assert json.loads(server.get("/fast/9f3c").body) == ANSWER
            assert server.get("/fast/unknown").status == 404
        health = server.get("/healthz")
        assert (health.status, json.loads(health.body)["status"]) == (200, "ok")
        wait_for(lambda: check_metrics(server), 30)


def test_celery(writer: mmapcache.Writer, cache_path: Path, tmp_path: Path) -> None:
    """Two processes of a worker's pool, over a broker of files; the metrics are at a port."""
    celery = pytest.importorskip("celery")
    serialization = pytest.importorskip("kombu.serialization")
    fill(writer, "sites", SITE)
    for name in ("metrics", "sent", "queue", "results", "control", "own"):
        (tmp_path / name).mkdir()
    options = {
        "data_folder_in": str(tmp_path / "queue"),
        "data_folder_out": str(tmp_path / "sent"),
        "control_folder": str(tmp_path / "control"),
        "polling_interval": 0.05,
    }
    results = f"file://{tmp_path / 'results'}"
    environment = {
        "CACHE_PATH": str(cache_path),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        "METRICS_PORT": "{port}",
        "BROKER": "filesystem://",
        "BROKER_OPTIONS": json.dumps(options),
        "RESULTS": results,
        "C_FORCE_ROOT": "1",
    }
    serialization.register(
        "documents", json.dumps, json.loads, "application/x-documents+json", "utf-8"
    )
    client = celery.Celery("client", broker="filesystem://", backend=results)
    client.conf.update(
        broker_transport_options={**options, "control_folder": str(tmp_path / "own")},
        result_accept_content=["json", "documents"],
    )

    def ask(task: str, *arguments: str) -> Any:
        result = client.send_task(task, arguments)
        for message in (tmp_path / "sent").iterdir():  # the worker takes what is half written
            message.rename(tmp_path / "queue" / message.name)
        return result.get(timeout=90, interval=0.05)

    command = (
        *(sys.executable, "-m", "celery", "-A", "examples.celery_app", "worker"),
        *("--concurrency", "2", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        *("--loglevel", "warning"),
    )
    with started(
        tmp_path / "log",
        *command,
        cwd=ROOT,
        environment=environment,
        kind=Server,
        stop=signal.SIGKILL,  # its orderly end takes seconds
    ) as server:
        pids: set[int] = set()
        while len(pids) < 2:
            answer = ask("site", "9f3c")
            assert answer["site"] == ANSWER
            pids.add(answer["pid"])
        assert server.process.pid not in pids
        assert ask("site", "unknown")["site"] is None
        assert ask("health")["status"] == "ok"
        wait_for(lambda: check_metrics(server), 30)


def check_metrics(server: Server) -> bool:
    """Whether both workers' front caches are in the sums; everything else is there once."""
    samples: dict[str, list[Any]] = {}
    answer = server.get("/metrics")
    assert answer.headers.get_content_type() == "text/plain"
    for line in answer.body.decode().splitlines():
        if line.startswith("mmapcache_"):
            name, value = line.rsplit(" ", 1)
            samples.setdefault(name, []).append(float(value))
    assert samples["mmapcache_up"] == [1]
    assert samples["mmapcache_generation"] == [1]
    assert samples['mmapcache_documents{collection="sites"}'] == [1]
    (misses,) = samples["mmapcache_front_cache_misses_total"]
    (entries,) = samples["mmapcache_front_cache_entries"]
    return bool(entries >= 2 and misses >= 2)
