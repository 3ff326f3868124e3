"""Several documents with one _id: the same one stays whatever their order, counted, and named."""

from __future__ import annotations

import itertools
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.loader import PATIENCE, Loader, confirmed_at, load_once, wait_for
from support.scripted_server import ScriptedServer

import mmapcache

pytestmark = pytest.mark.usefixtures("warm_loaders")

bson = pytest.importorskip("bson")

Found = list[dict[str, Any]]
SITES: Found = [{"_id": 1, "v": v} for v in "cab"] + [{"_id": i, "v": "x"} for i in range(2, 9)]


def encoded(documents: Found) -> bytes:
    return b"".join(map(bson.encode, documents))


def load(writer: mmapcache.Writer, documents: Found) -> mmapcache.Batch:
    with writer.batch() as batch, batch.replace("sites") as full:
        assert full.put_raw(encoded(documents)) == len(documents)
    return batch


def test_every_order_is_the_same_content(cache_path: Path) -> None:
    with mmapcache.Writer(str(cache_path), max_size="16MiB") as writer:
        few = SITES[:4]
        for number, order in enumerate(itertools.permutations(few)):
            batch = load(writer, list(order))
            assert batch.generation == (None if number else 1)
            assert batch.duplicates == 2
            assert writer.reader()["sites"][1]["v"] == "a"
            if number:
                assert (batch.puts, batch.unchanged) == (0, 2)
            writer.reader().check()


def test_the_longest_does_not_win_and_equal_ones_are_counted(cache_path: Path) -> None:
    with mmapcache.Writer(str(cache_path), max_size="16MiB") as writer:
        documents = [{"_id": 1, "v": "a" * n} for n in (9, 5, 5, 7)]
        assert load(writer, documents).duplicates == 3
        assert writer.reader()["sites"][1]["v"] == "aaaaa"
        batch = load(writer, [*reversed(documents)])
        assert (batch.generation, batch.duplicates) == (None, 3)


def test_random_loads_against_a_dict(cache_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    with mmapcache.Writer(str(cache_path), max_size="16MiB") as writer:
        cache = writer.reader()
        before: dict[int, bytes] = {}
        for _ in range(300):
            documents = [
                {"_id": dice.randrange(12), "v": dice.randrange(3)}
                for _ in range(dice.randrange(1, 30))
            ]
            expected: dict[int, bytes] = {}
            for document in documents:
                raw = bson.encode(document)
                known = expected.get(document["_id"])
                expected[document["_id"]] = raw if known is None else min(raw, known)
            batch = load(writer, documents)
            assert (batch.generation is None) == (expected == before)
            assert batch.duplicates == len(documents) - len(expected)
            sites = cache["sites"]
            assert {key: sites.get_raw(key) for key in sites} == expected
            before = expected
        cache.check()


def test_put_by_key_still_lets_the_last_one_win(cache_path: Path) -> None:
    with mmapcache.Writer(str(cache_path), max_size="16MiB") as writer:
        for generation in (1, None):
            with writer.batch() as batch, batch.replace("sites") as full:
                for document in SITES[:3]:
                    full.put(1, document)
            assert batch.generation == generation
            assert batch.duplicates == 2
            assert writer.reader()["sites"][1]["v"] == "b"


def test_outside_of_a_replace_nothing_is_a_duplicate(cache_path: Path) -> None:
    with mmapcache.Writer(str(cache_path), max_size="16MiB") as writer:
        with writer.batch() as batch:
            batch.put_raw("sites", encoded(SITES))
        assert batch.duplicates == 0
        assert writer.reader()["sites"][1]["v"] == "b"


def test_the_loader_names_them_and_publishes_nothing(cache_path: Path) -> None:
    pytest.importorskip("pymongo")
    dice = random.Random(7)

    def answer(name: str, request: dict[str, Any], before: int) -> Any:
        if name == "find":  # as the shards' answers come, in any order
            server.collections["shop.sites"] = dice.sample(SITES, len(SITES))
        return None

    with ScriptedServer({"shop.sites": SITES, "shop.fine": [{"_id": 1}]}, answer) as server:
        flags = ["--uri", server.uri, "--database=shop", "--interval=0.05", "--batch-size=3"]
        with (
            Loader(cache_path, flags) as loader,
            mmapcache.open(cache_path, timeout=PATIENCE) as cache,
        ):
            wait_for(lambda: cache.status()["state"] == "polling")
            rounds = server.seen["find"]
            wait_for(lambda: server.seen["find"] > rounds + 20)
            assert cache.generation == 1
            status = cache.status()
            assert status["state"] == "polling"
            assert "sites (2)" in str(status["error"])
            assert "fine" not in str(status["error"])
            assert confirmed_at(cache) > time.time() - PATIENCE
            loader.expect(r"sites \(2\)")
            assert loader.output.count("sites (2)") == 1
            server.answer = None
            server.collections = {"shop.sites": SITES[1:], "shop.fine": [{"_id": 1}]}
            wait_for(lambda: "sites (1)" in str(cache.status()["error"]))
            server.collections = {"shop.sites": SITES[2:], "shop.fine": [{"_id": 1}]}
            wait_for(lambda: cache.status()["error"] is None)
            assert cache["sites"][1]["v"] == "b"
            loader.signal(signal.SIGTERM)
            assert loader.wait() == 0


def test_once_with_duplicates_has_loaded(cache_path: Path) -> None:
    source = cache_path.with_name("sites.bson")
    source.write_bytes(encoded(SITES))
    status, output = load_once(cache_path, [f"--source=file:{source}", "--log-json"])
    assert status == 0
    assert '"duplicates": {"sites": 2}' in output
