"""What the examples of the frameworks share: the cache, its health and its metrics.

Each of them answers

    GET /sites/KEY   one document as JSON, from one generation
    GET /healthz     how fresh the documents are; 503 only when there is nothing to serve
    GET /metrics     of all workers together, where PROMETHEUS_MULTIPROC_DIR is set

and is told by CACHE_PATH where the cache is. The header X-Worker-Pid says who answered.
"""

from __future__ import annotations

import os
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import mmapcache
import mmapcache.prometheus

METRICS_TYPE: Final = CONTENT_TYPE_LATEST
_OPEN_SECONDS: Final = 30.0
_STALE_SECONDS: Final = 60.0


class Service:
    """One cache; made before the fork or after it."""

    def __init__(self) -> None:
        self.cache = mmapcache.open(os.environ["CACHE_PATH"], timeout=_OPEN_SECONDS)
        self.collector = mmapcache.prometheus.Collector(self.cache)

    def site(self, key: str) -> mmapcache.Document | None:
        """One document. What belongs together is read in one snapshot."""
        with self.cache.snapshot() as snapshot:
            return snapshot["sites"].get(key)

    def health(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and body. Old documents are served on: their age is for the alert."""
        try:
            status = self.cache.status()
        except mmapcache.MmapCacheError as error:
            return 503, {"status": "unavailable", "error": str(error)}
        age = status["age"]
        fresh = age is not None and age <= _STALE_SECONDS
        body = {"status": "ok" if fresh else "stale", "generation": status["generation"]}
        return 200, {**body, "age": age, "loader": status["loader"]}

    def metrics(self) -> bytes:
        """The body of /metrics."""
        return generate_latest(self.collector.registry())

    def answered(self) -> dict[str, str]:
        """After a request: counts it; headers for its answer."""
        self.collector.update()
        return {"X-Worker-Pid": str(os.getpid())}
