"""Celery: the cache is opened once, and the worker's pool is forked.

CACHE_PATH=/run/mmapcache/settings.mmc PROMETHEUS_MULTIPROC_DIR=/run/metrics METRICS_PORT=9100 \
    celery -A examples.celery_app worker --concurrency 2

Its metrics are at METRICS_PORT, of all processes of the pool together.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

from celery import Celery
from celery.signals import task_postrun, worker_process_shutdown, worker_ready
from kombu import serialization
from prometheus_client import multiprocess, start_http_server

import mmapcache
from examples.service import Service

# Results are plain JSON with documents in it.
serialization.register(  # type: ignore[no-untyped-call]
    "documents",
    functools.partial(json.dumps, default=mmapcache.json_default),
    json.loads,
    content_type="application/x-documents+json",
    content_encoding="utf-8",
)
app = Celery(
    "examples",
    broker=os.environ.get("BROKER", "amqp://localhost"),
    backend=os.environ.get("RESULTS", "rpc://"),
)
app.conf.update(
    result_serializer="documents",
    result_accept_content=["json", "documents"],
    broker_transport_options=json.loads(os.environ.get("BROKER_OPTIONS", "{}")),
    broker_connection_retry_on_startup=True,
)
service = Service()


@app.task(name="site")  # type: ignore[untyped-decorator]
def site(key: str) -> dict[str, Any]:
    """One document, or None, and who read it."""
    return {"site": service.site(key), "pid": os.getpid()}


@app.task(name="health")  # type: ignore[untyped-decorator]
def health() -> dict[str, Any]:
    """How fresh the documents are."""
    return service.health()[1]


@task_postrun.connect  # type: ignore[untyped-decorator]
def answered(**_: object) -> None:
    """In a process of the pool, after each task."""
    service.answered()


@worker_ready.connect  # type: ignore[untyped-decorator]
def ready(**_: object) -> None:
    """In the process that forks the pool and runs no task."""
    if port := os.environ.get("METRICS_PORT"):
        start_http_server(int(port), "127.0.0.1", service.collector.registry())


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def ended(pid: int, **_: object) -> None:
    """In a process of the pool that ends: entries and bytes of its front cache are gone."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
