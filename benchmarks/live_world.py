"""What the figures of the live loader share: the real server, flags, and rows with a limit."""

from __future__ import annotations

import atexit
from typing import Any

import pymongo
from bson.raw_bson import RawBSONDocument

from benchmarks import peers
from benchmarks.harness import Context, Row
from benchmarks.replay_stream import document

Client = pymongo.MongoClient[dict[str, Any]]

STREAM, POLL = ("--follow", "stream"), ("--follow", "poll", "--interval", "1")
SETTINGS = ("--collection", "bench.settings")
PROBED = ("--collection", "bench.probe")


def limit_row(value: float, name: str, limit: float, measure: str, unit: str, **more: Any) -> Row:
    """A row whose target is a quantity and not a peer."""
    return Row(
        name=name,
        measure=measure,
        ours=value,
        unit=unit,
        peer=limit,
        peer_name="allowed",
        ratio=value / limit,
        target=1,
        **more,
    )


def real_server(context: Context) -> peers.MongoServer:
    """A replica set of one that lives as long as this process."""

    def start() -> peers.MongoServer:
        server = peers.MongoServer(replica_set="bench", directory=context.scratch)
        atexit.register(server.close)
        return server

    return context.shared("server", start)


def filled(context: Context) -> int:
    """How many documents the real server has in `bench.settings`; it gets them at first."""
    count = context.size(200_000, 20_000)

    def fill() -> int:
        client: Client = pymongo.MongoClient(real_server(context).uri)
        for start in range(0, count, 5_000):
            made = [RawBSONDocument(document(i, 0)) for i in range(start, start + 5_000)]
            client["bench"]["settings"].insert_many(made)
        client.close()
        return count

    return context.shared("filled", fill)
