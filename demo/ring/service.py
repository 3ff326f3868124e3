"""Eight forked Tornado workers, each with the same stores.

    GET /STORE/KEY    the value; 404: there is none; 503: the store has no answer
    PUT /STORE/KEY    writes the body; how many copies were taken
    POST /STORE       writes one value to many keys, {"value", "keys"}; the fewest copies of one
    GET /healthz      what this worker knows of the ring

    python -m demo.ring.service --port 0 --workers 8 --ring FILE --naive FILE [--nutcracker PORT]

`X-Milliseconds` is how long the store took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import tornado.web

from demo.processes import HOST
from demo.ring.stores import FAILURES, NaiveStore, ProxyStore, RingStore, Store
from examples.tornado_service import workers

_T = TypeVar("_T")


class _Handler(tornado.web.RequestHandler):
    stores: Mapping[str, Store]

    def initialize(self, number: int, stores: Mapping[str, Store]) -> None:
        """Called by Tornado for each request."""
        self.stores = stores
        self.set_header("X-Worker", str(number))

    async def timed(self, operation: Awaitable[_T]) -> _T:
        """What the store says; 503 when it does not.

        :raises tornado.web.Finish: the answer has been given
        """
        began = time.perf_counter()
        try:
            return await operation
        except FAILURES as error:
            self.set_status(503)
            self.finish(f"{type(error).__name__}: {error}\n")
            raise tornado.web.Finish from None
        finally:
            self.set_header("X-Milliseconds", f"{(time.perf_counter() - began) * 1e3:.3f}")


class _Key(_Handler):
    async def get(self, store: str, key: str) -> None:
        value = await self.timed(self.stores[store].get(key))
        if value is None:
            self.set_status(404)
        else:
            self.write(value)

    async def put(self, store: str, key: str) -> None:
        copies = await self.timed(self.stores[store].set(key, self.request.body))
        self.write(f"{copies}")


class _Many(_Handler):
    async def post(self, store: str) -> None:
        body = json.loads(self.request.body)
        one, value = self.stores[store], body["value"].encode()
        copies = [await self.timed(one.set(key, value)) for key in body["keys"]]
        self.write(f"{min(copies)}")


class _Health(tornado.web.RequestHandler):
    def initialize(self, number: int, ring: RingStore) -> None:
        """Called by Tornado for each request."""
        self.number, self.ring = number, ring.ring

    def get(self) -> None:
        states = {name: state for name, (_, state) in self.ring.nodes.items()}
        self.write(
            {
                "worker": self.number,
                "pid": os.getpid(),
                "age": self.ring.age,
                "epoch": self.ring.epoch,
                "states": states,
            }
        )


async def _serve(place: workers.Place, ring: RingStore, others: dict[str, Store]) -> None:
    stores: dict[str, Store] = {"ring": ring, **others}
    names = "|".join(stores)
    context = {"number": place.number, "stores": stores}
    application = tornado.web.Application(
        [
            (r"/healthz", _Health, {"number": place.number, "ring": ring}),
            (rf"/({names})/([^/]+)", _Key, context),
            (rf"/({names})", _Many, context),
        ],
        # One line per request would cost more than answering it.
        log_function=lambda handler: None,
    )
    await workers.serve(place, application)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo.ring.service")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--ring", type=Path, required=True, help="the agent's file")
    parser.add_argument("--naive", type=Path, required=True, help="members of the naive client")
    parser.add_argument("--nutcracker", type=int, help="its port, where it runs")
    args = parser.parse_args(argv)
    workers.quit_on_signals()
    # Before the fork, as a service would do it: the workers share the mapping.
    ring = RingStore(args.ring)
    others: dict[str, Store] = {"naive": NaiveStore(args.naive)}
    if args.nutcracker is not None:
        others["nutcracker"] = ProxyStore(args.nutcracker)
    place = workers.fork(HOST, args.port, args.workers)
    asyncio.run(_serve(place, ring, others))
    return 0


if __name__ == "__main__":
    sys.exit(main())
