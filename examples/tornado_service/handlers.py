"""The routes of the captcha API.

    GET /v1/sites/KEY       one site's settings, from one document
    GET /v1/challenge/KEY   the decision for one captcha, from documents of three collections
    GET /healthz            how fresh the settings are; 503 without any, or stale and ?strict=1
    GET /metrics            this worker's counters, in the text format that Prometheus reads

Each answer names the worker and the generation that it came from in its headers.
"""

from __future__ import annotations

import os
import zlib
from typing import Any, Final

import tornado.web

from examples.tornado_service.settings import Challenge, Document, Settings

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Worker:
    """What one worker process knows: its number, its settings and what it has served."""

    def __init__(self, number: int, settings: Settings) -> None:
        self.number = number
        self.settings = settings
        self.served = 0


class BaseHandler(tornado.web.RequestHandler):
    """Counts, and says who answered."""

    worker: Worker

    def initialize(self, worker: Worker) -> None:
        """Called by Tornado for each request."""
        self.worker = worker

    def set_default_headers(self) -> None:
        """Tornado calls this before `initialize`, and again for an error page."""
        self.set_header("X-Worker-Pid", str(os.getpid()))

    def prepare(self) -> None:
        """Before each request."""
        self.worker.served += 1
        self.set_header("X-Worker", str(self.worker.number))

    def answer(self, generation: int, body: dict[str, Any] | None) -> None:
        """Finishes the request; a `body` of None is an unknown site."""
        self.set_header("X-Generation", str(generation))
        if body is None:
            self.set_status(404)
            body = {"error": "unknown site"}
        self.finish(body)


class SiteHandler(BaseHandler):
    """One site's settings."""

    async def get(self, key: str) -> None:
        """The public part of the document."""
        generation, site = await self.worker.settings.site(key)
        self.answer(generation, None if site is None else _public(key, site))


class ChallengeHandler(BaseHandler):
    """The decision for one captcha."""

    async def get(self, key: str) -> None:
        """Site, limits and flags, from one generation."""
        generation, challenge = await self.worker.settings.challenge(key)
        self.answer(generation, None if challenge is None else _decide(key, challenge))


class HealthHandler(BaseHandler):
    """Staleness for load balancers (without ``strict``) and for alerts (with it)."""

    def get(self) -> None:
        """Stale settings are better than none, so only ``strict`` makes them a failure."""
        health = self.worker.settings.health()
        failing = (
            {"unavailable", "stale"} if self.get_query_argument("strict", "") else {"unavailable"}
        )
        if health["status"] in failing:
            self.set_status(503)
        self.answer(
            health["generation"],
            {**health, "worker": self.worker.number, "pid": os.getpid()},
        )


class MetricsHandler(BaseHandler):
    """This worker's counters: whoever scrapes sums over the label ``worker``."""

    def get(self) -> None:
        """One line per value."""
        label = f'{{worker="{self.worker.number}"}}'
        values = [("captcha_requests_total", float(self.worker.served))]
        values += self.worker.settings.metrics()
        self.set_header("Content-Type", _METRICS_TYPE)
        self.finish("".join(f"{name}{label} {value:g}\n" for name, value in values))


def _public(key: str, site: Document) -> dict[str, Any]:
    limits = site["limits"]
    return {
        "site": key,
        "difficulty": site["difficulty"],
        "theme": site["theme"],
        "domains": list(site["domains"]),
        "qps": limits["qps"],
        "burst": limits["burst"],
        "revision": site["revision"],
    }


def _decide(key: str, challenge: Challenge) -> dict[str, Any]:
    site, limits, flags = challenge
    # The same site is always on the same side of a flag that is rolled out in part.
    percent = zlib.crc32(key.encode()) % 100
    return {
        "site": key,
        "kind": "image" if site["difficulty"] >= 5 else "checkbox",
        "difficulty": site["difficulty"],
        "qps": min(site["limits"]["qps"], limits["per_site_qps"]),
        "daily": limits["daily"],
        "flags": sorted(n for n, f in flags.items() if f["on"] and percent < f["percent"]),
        "revision": site["revision"],
    }


def application(worker: Worker) -> tornado.web.Application:
    """The application of one worker."""
    context = {"worker": worker}
    return tornado.web.Application(
        [
            (r"/v1/sites/([^/]+)", SiteHandler, context),
            (r"/v1/challenge/([^/]+)", ChallengeHandler, context),
            (r"/healthz", HealthHandler, context),
            (r"/metrics", MetricsHandler, context),
        ],
        # One line per request would cost more than answering it.
        log_function=lambda handler: None,
    )
