"""The price of an index: bytes, a load, a commit of one document, and a lookup by another field."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mmapcache
from benchmarks import data
from benchmarks.commits import COMMITS, Each
from benchmarks.harness import Context, Row, interleave, row_of, seconds, timed
from benchmarks.peers import put_all

# Of one text for each document; of 1,000 numbers, which an update changes.
FIELDS = {"unique": "_id", "multi": "limits.qps"}


def _writer(context: Context, kind: str, count: int) -> mmapcache.Writer:
    writer = mmapcache.Writer(str(context.path(f"index-{kind}")), max_size=count * 800 + (64 << 20))
    if kind in FIELDS:
        with writer.batch() as batch:
            batch.index("settings", FIELDS[kind], unique=kind == "unique")
    return writer


def _load(context: Context, kind: str, raw: list[bytes], used: dict[str, int]) -> float:
    """Seconds of a load into a new file; notes the bytes that are in use then."""
    with _writer(context, kind, len(raw)) as writer:

        def load() -> None:
            with writer.batch() as batch, batch.replace("settings") as full:
                for buffer in data.batches(raw):
                    full.put_raw(buffer)

        spent = seconds(load)
        used[kind] = writer.stats()["bytes_used"]
    return spent


def loads(context: Context) -> Iterator[Row]:
    """Bytes and seconds of a load with one index, and without."""
    raw = data.documents(context.size(1_000_000, 100_000))
    used: dict[str, int] = {}

    def loading(kind: str) -> Callable[[], float]:
        return lambda: _load(context, kind, raw, used)

    kinds = ("none", *FIELDS)
    figures = interleave({kind: loading(kind) for kind in kinds}, context.size(5, 3))
    for kind, field in FIELDS.items():
        extra = (used[kind] - used["none"]) / len(raw)
        yield Row(
            name=f"bytes_{kind}",
            measure=f"bytes of an index ({kind}, of {field}) for each document",
            ours=extra,
            unit="B",
            note=f"{len(raw):,} documents of {used['none'] / len(raw):.0f} B in use",
        )
        yield row_of(
            figures,
            f"load_{kind}",
            f"a load with an index ({kind}, of {field})",
            unit="s",
            ours=kind,
            peer="none",
            peer_name="without",
            target=None,
        )


def commits(context: Context) -> Iterator[Row]:
    """A commit of one document: with an index whose field changes, one elsewhere, none."""
    raw = data.documents(context.size(200_000, 50_000))
    writers: dict[str, mmapcache.Writer] = {}
    for kind in ("none", "multi", "other"):
        writers[kind] = writer = _writer(context, kind, len(raw))
        put_all(writer, raw)
        if kind == "other":
            with writer.batch() as batch:
                batch.index("other", "_id")
    turns = dict.fromkeys(writers, 0)

    def committing(kind: str) -> Callable[[], float]:
        def made() -> list[tuple[str, bytes]]:
            turns[kind] += 1
            return [
                (data.key(index), data.document(index, turns[kind]))
                for index in range(0, len(raw), len(raw) // COMMITS)
            ]

        put = writers[kind].put
        return Each(lambda key, document: put("settings", key, document), made)

    figures = interleave({kind: committing(kind) for kind in writers})
    for kind, text in (("multi", "an index whose field changes"), ("other", "one elsewhere")):
        yield row_of(
            figures,
            f"commit_{kind}",
            f"a commit of one document, with {text}",
            unit="ns",
            ours=kind,
            peer="none",
            peer_name="without",
            target=None,
        )
    for writer in writers.values():
        writer.close()


def reads(context: Context) -> Iterator[Row]:
    """A lookup by a unique index against one by the key, of documents that the process has."""
    raw = data.documents(10_000)
    with _writer(context, "unique", len(raw)) as writer, writer.reader() as cache:
        put_all(writer, raw)
        keys = data.keys(len(raw))
        collection = cache["settings"]
        by = collection.by(FIELDS["unique"])
        figures = interleave(
            {
                "by": timed("read[key]", lambda: keys, read=by),
                "get": timed("read[key]", lambda: keys, read=collection),
            }
        )
    yield row_of(
        figures,
        "read_unique",
        "a lookup by a unique index",
        unit="ns",
        ours="by",
        peer="get",
        peer_name="by the key",
        target=None,
    )


BENCHES = (loads, commits, reads)
