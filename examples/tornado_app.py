"""Tornado: the cache is opened once, and two workers are forked.

CACHE_PATH=/run/mmapcache/settings.mmc python -m examples.tornado_app 8000
"""

from __future__ import annotations

import asyncio
import sys

import tornado.web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.process import fork_processes

from examples.service import METRICS_TYPE, Service
from mmapcache.tornado import CacheMixin


class Base(CacheMixin, tornado.web.RequestHandler):
    """Says who answered."""

    service: Service

    def initialize(self, service: Service) -> None:
        """Called by Tornado for each request."""
        self.service = service

    def prepare(self) -> None:
        """Before each request."""
        for name, value in self.service.answered().items():
            self.set_header(name, value)


class Site(Base):
    """One document; whatever else the request reads is of the same generation."""

    def get(self, key: str) -> None:
        """Its JSON."""
        site = self.snapshot["sites"].get(key)
        if site is None:
            raise tornado.web.HTTPError(404)
        self.finish(site)


class Health(Base):
    """For load balancers."""

    def get(self) -> None:
        """Its JSON."""
        status, body = self.service.health()
        self.set_status(status)
        self.finish(body)


class Metrics(Base):
    """For Prometheus."""

    def get(self) -> None:
        """Of all workers together."""
        self.set_header("Content-Type", METRICS_TYPE)
        self.finish(self.service.metrics())


def application(service: Service) -> tornado.web.Application:
    """The application of one worker."""
    given = {"service": service}
    routes = [(r"/sites/(.+)", Site, given), ("/healthz", Health, given)]
    return tornado.web.Application(
        [*routes, ("/metrics", Metrics, given)],
        mmapcache=service.cache,
        log_function=lambda handler: None,
    )


def main() -> None:
    """Binds, opens the cache, forks, serves."""
    sockets = bind_sockets(int(sys.argv[1]), "127.0.0.1")
    service = Service()
    fork_processes(2)

    async def serve() -> None:
        HTTPServer(application(service)).add_sockets(sockets)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
