"""Full loads and refreshes: the loader against a cursor that is drained and nothing done.

The real server takes longer to produce a document than the loader to take it; the replaying server
(replay_server.py) sends prepared replies, so that what remains is PyMongo's cost and ours. What is
measured is the loader's own code, one load cycle at a time, in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pymongo
from bson.raw_bson import RawBSONDocument

import mmapcache
from benchmarks import data, peers
from benchmarks.harness import (
    Context,
    Row,
    compare,
    interleave,
    now,
    row_of,
    seconds,
    thread_seconds,
)
from benchmarks.loader import SteppedLoader
from benchmarks.replay_server import ReplayProcess
from mmapcache.sync.options import DEFAULT_BATCH_SIZE


def _drain(uri: str, name: str) -> Callable[[], float]:
    """Seconds to iterate a cursor's raw batches and do nothing."""
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(uri)
    collection = client["bench"][name]

    def drain() -> None:
        for _batch in collection.find_raw_batches({}, batch_size=DEFAULT_BATCH_SIZE):
            pass

    return lambda: seconds(drain)


def _full_load(context: Context, uri: str, count: int) -> Callable[[], float]:
    """Seconds of a load of `bench.settings`, of `count` documents, into a file that is new."""

    def load() -> float:
        path = context.path("load")
        loader = SteppedLoader(path, uri, "bench.settings", _room(count))
        try:
            spent = seconds(loader.round)
            loader.check(count)
        finally:
            loader.close()
        return spent

    return load


def _room(count: int) -> int:
    return max(256 << 20, count * 700)


def _refresh(loader: SteppedLoader, count: int, *, changes: bool) -> Callable[[], float]:
    """Seconds of a refresh; fails when it published although nothing changed, or the reverse."""

    def refresh() -> float:
        before = loader.check(count)
        spent = seconds(loader.round)
        if (loader.check(count) != before) != changes:
            raise AssertionError("the refresh did not do what it should")
        return spent

    return refresh


def replayed(context: Context) -> Iterator[Row]:
    """Full load and refreshes from the replaying server."""
    count = context.size(1_000_000, 200_000)
    note = "" if count == 1_000_000 else f"{count:,} documents"
    server = ReplayProcess(count)
    try:
        same = SteppedLoader(context.path("same"), server.uri, "bench.settings", _room(count))
        turning = SteppedLoader(context.path("turn"), server.uri, "bench.turning", _room(count))
        same.round()
        turning.round()
        figures = interleave(
            {
                "drain": _drain(server.uri, "settings"),
                "load": _full_load(context, server.uri, count),
                "refresh": _refresh(same, count, changes=False),
                "changed": _refresh(turning, count, changes=True),
            }
        )
        same.close()
        turning.close()
    finally:
        server.close()
    for side, text, target in (
        ("load", "full load of 1,000,000 documents, replaying server", 1.15),
        ("refresh", "refresh with no change, replaying server", 1.1),
        ("changed", "refresh with 1 % changed, replaying server", 1.4),
    ):
        yield row_of(
            figures,
            f"replay_{side}",
            f"{text} / draining the same cursor",
            unit="s",
            ours=side,
            peer="drain",
            peer_name="drain",
            target=target,
            note=note,
        )


def real_server(context: Context) -> Iterator[Row]:
    """Full load from SecantusDB, a MongoDB-protocol server, in a process of its own."""
    count = context.size(200_000, 10_000)
    server = peers.MongoServer()
    try:
        client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(server.uri)
        collection = client["bench"]["settings"]
        for start in range(0, count, 5_000):
            made = data.documents(5_000, start)
            collection.insert_many([RawBSONDocument(raw) for raw in made])
        client.close()
        yield compare(
            "real_load",
            f"full load of {count:,} documents, real server / draining the same cursor",
            _full_load(context, server.uri, count),
            _drain(server.uri, "settings"),
            unit="s",
            peer_name="drain",
            target=1.05,
            note="smaller" if context.quick else "",
            warmups=0,
        )
    finally:
        server.close()


def put_raw(context: Context) -> Iterator[Row]:
    """`put_raw` of documents in memory against putmulti of py-lmdb, unsorted and sorted."""
    count = context.size(1_000_000, 200_000)
    note = "" if count == 1_000_000 else f"{count:,} documents"
    raw = data.documents(count)
    buffers = list(data.batches(raw))
    pairs = [(data.key(index).encode(), each) for index, each in enumerate(raw)]

    def in_buffers(batch: mmapcache.Batch) -> None:
        for buffer in buffers:
            batch.put_raw("settings", buffer)

    def one_by_one(batch: mmapcache.Batch) -> None:
        put = batch.put
        for key, document in pairs:
            put("settings", key, document)

    def ours(fill: Callable[[mmapcache.Batch], None]) -> float:
        writer = mmapcache.Writer(str(context.path("put")), max_size=max(1 << 28, count * 700))
        start = now()
        with writer.batch() as batch:
            fill(batch)
        spent = (now() - start) / 1e9
        writer.close()
        return spent

    def theirs(pairs: list[tuple[bytes, bytes]], append: bool) -> Callable[[], float]:
        def measure() -> float:
            store = peers.Lmdb(context.path("put.lmdb"), count * 1000 + (64 << 20))
            spent = thread_seconds(lambda: store.putmulti(pairs, append=append))
            store.close()
            return spent

        return measure

    def cdb() -> float:
        return thread_seconds(lambda: peers.make_cdb(context.path("put.cdb"), pairs))

    figures = interleave(
        {
            "ours": lambda: ours(in_buffers),
            "one": lambda: ours(one_by_one),
            "py-lmdb": theirs(pairs, False),
            "append": theirs(sorted(pairs), True),
            "cdbx": cdb,
        }
    )
    for side, peer, text, target in (
        ("ours", "py-lmdb", "py-lmdb putmulti", 0.15),
        ("ours", "append", "py-lmdb putmulti, sorted and append=True", None),
        ("ours", "cdbx", "cdbx", 0.7),
        ("one", "cdbx", "cdbx", 0.7),
    ):
        what = "put_raw" if side == "ours" else "put, one at a time in one commit,"
        yield row_of(
            figures,
            f"{'put_raw' if side == 'ours' else 'put_each'}_{peer}",
            f"{what} of 1,000,000 documents from memory / {text} of the same",
            unit="s",
            ours=side,
            peer=peer,
            peer_name=peer,
            target=target,
            note=note,
        )


BENCHES = (put_raw, replayed, real_server)
