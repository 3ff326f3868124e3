"""Several documents with one _id, while their changes are followed: the smallest stays, counted."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.int64 import Int64
from support.live import content, following, loads
from support.loader import Loader, wait_for
from support.replica_set import patched
from support.scripted_oplog import ReplicaSet

import mmapcache
from mmapcache.sync.mongo import element, lookup
from mmapcache.sync.shaping import Shaper
from mmapcache.sync.source import smallest
from mmapcache.sync.transform import Transform

pytest.importorskip("pymongo")

pytestmark = pytest.mark.usefixtures("warm_loaders")

# What is smallest of what comes is not what is smallest of what becomes of it.
SHAPE = """
def turned(document):
    return {"_id": document["_id"], "v": "zyxwvu"["abcdef".index(document["v"])]}
"""


def verified(loader: Loader) -> list[tuple[str, str]]:
    return re.findall(r"verified: (\d+) documents compared, (\d+) differed", loader.output)


@pytest.mark.parametrize(
    ("transform", "first", "then"), [((), "b", "a"), (("--transform=shape_of:turned",), "w", "u")]
)
def test_while_following_the_smallest_stays(
    cache_path: Path, transform: Sequence[str], first: str, then: str
) -> None:
    environment = patched(cache_path.with_name("patched"), "")
    (cache_path.with_name("patched") / "shape_of.py").write_text(SHAPE)
    sites = [{"_id": 1, "v": "b"}, {"_id": 1, "v": "d"}, {"_id": 2, "v": "a"}]

    values = iter("bcde")

    def value() -> Any:
        return content(cache)["sites"][1]["v"]

    def settled() -> dict[str, Any]:
        """After a change of another document, behind everything before it."""
        generation = cache.generation
        server.update("shop.sites", 2, {"v": next(values)})
        wait_for(lambda: cache.generation > generation)
        return dict(cache.status())

    flags = ["--collection=shop.sites", *transform]
    with (
        ReplicaSet({"shop.sites": sites}) as server,
        following(cache_path, server, *flags, environment=environment) as (loader, cache),
    ):
        assert value() == first
        assert "sites (1)" in str(cache.status()["error"])
        for _ in range(2):
            generation, count = cache.generation, len(verified(loader))
            loader.signal(signal.SIGHUP)
            wait_for(lambda: len(verified(loader)) > count)  # noqa: B023
            assert verified(loader)[-1] == ("3", "0")
            status = settled()
            assert cache.generation == generation + 1, "that of the other document"
            assert "differed" not in status["errors"]
        server.update("shop.sites", 1, {"v": "a"})  # the first of the two
        server.collections["shop.sites"][1]["v"] = "f"
        wait_for(lambda: value() == then)
        server.collections["shop.sites"] = [*server.collections["shop.sites"], {"_id": 2, "v": "f"}]
        settled()
        loader.signal(signal.SIGHUP)
        wait_for(lambda: "sites (2)" in str(cache.status()["error"]))
        wait_for(lambda: verified(loader)[-1] == ("4", "0"))
        server.delete("shop.sites", 2)
        server.delete("shop.sites", 1)
        wait_for(lambda: value() == ("u" if transform else "f"))
        server.delete("shop.sites", 1)
        wait_for(lambda: 1 not in content(cache)["sites"])
        loader.signal(signal.SIGHUP)
        wait_for(lambda: cache.status()["error"] is None)
        assert loads(cache)["initial"] == 1
        assert loader.output.count("whose _id another one has: sites (1)") == 1


def test_one_number_is_one_id_however_it_is_written() -> None:
    documents: list[dict[str, Any]] = [
        {"_id": 7.0, "v": 1},
        {"_id": 8, "v": 1},
        {"_id": Int64(7), "v": 0},
    ]
    raw = [bson.encode(document) for document in documents]
    assert lookup._count({element.of_document(one) for one in raw}) == 2
    assert lookup._count({element.of_value(one) for one in ("a", "b", 7, None)}) == 4
    assert lookup._count({element.of_value(one) for one in (True, 1, 2)}) == 3
    assert smallest(b"".join(raw)) == raw[0] + raw[1]
    assert smallest(b"".join(reversed(raw))) == raw[0] + raw[1]


def test_with_a_key_of_its_own_they_are_refused_as_by_a_load(cache_path: Path) -> None:
    raw = b"".join(bson.encode({"_id": 1, "k": key}) for key in "ab")
    with mmapcache.Writer(cache_path) as writer, writer.batch() as batch:
        shaper = Shaper("sites", None, "k")
        with pytest.raises(mmapcache.sync.errors.ShapeError, match="two documents have the _id 1"):
            shaper.apply(batch, None, (), raw)


def test_of_what_a_transform_makes_the_smallest_stays(cache_path: Path) -> None:
    raw = [bson.encode({"_id": 1, "v": v}) for v in "abc"]
    for order in (raw, raw[::-1]):
        with mmapcache.Writer(cache_path) as writer:
            with writer.batch() as batch:
                Shaper("sites", _Turned(), None).apply(batch, None, (), b"".join(order))
            with writer.reader() as cache:
                assert cache["sites"][1]["v"] == "x"


class _Turned(Transform):
    """Leaves "a" out, and turns the others round."""

    def __init__(self) -> None:
        self.text = self.digest = "turned"

    def __call__(self, document: mmapcache.Document, shown: str) -> mmapcache.Document | None:
        if document["v"] == "a":
            return None
        return mmapcache.Document(bson.encode({"_id": 1, "v": {"b": "y", "c": "x"}[document["v"]]}))
