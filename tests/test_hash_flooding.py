"""Keys made so that their hashes collide: what was possible for everybody, and what is left."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.loader import load_once
from support.system import only_linux

import mmapcache

bson = pytest.importorskip("bson")

K1, K2 = 0xD1B54A32D192ED03, 0xABC98388FB8FAC03  # of the hash of format 2
SECRETS = struct.Struct("<4Q")
SECRETS_OFFSET = 40
TOP_BIT = 1 << 63
MOST = 853  # keys of one hash that a collection holds at most; how they came to be decides


def old_attack(count: int) -> Iterator[bytes]:
    """Binary keys of which all had one hash in every file of format 2."""
    for i in range(count):  # subtype | 7 bytes, K1: the product is 0; the tail is always the same
        yield i.to_bytes(7, "little") + struct.pack("<Q", K1) + bytes(16)


def old_attack_in_the_other_lane(count: int) -> Iterator[bytes]:
    for i in range(count):
        yield bytes(15) + struct.pack("<QQ", i, K2) + bytes(16)


def colliding(path: Path) -> list[bytes]:
    """1,024 binary keys of one hash, which takes somebody who has read the file's secrets.

    A factor of 1 leaves of x a sum 2 x + 1, which does not have x's top bit any more.
    """
    with path.open("rb") as file:
        file.seek(SECRETS_OFFSET)
        secrets = SECRETS.unpack(file.read(SECRETS.size))
    words = []
    for _ in range(5):  # of 32 bytes, the first of which is the subtype, 0
        for secret in secrets[2:]:
            words.append([struct.pack("<QQ", word, secret ^ 1) for word in (0, TOP_BIT)])
    return [b"".join(parts)[1:] + bytes(16) for parts in itertools.product(*words)]


def documents(keys: list[bytes]) -> bytes:
    return b"".join(bson.encode({"_id": key, "n": n}) for n, key in enumerate(keys))


def test_words_that_cancelled_the_state_once_make_no_collisions(cache_path: Path) -> None:
    keys = [*old_attack(2000), *old_attack_in_the_other_lane(2000)]
    with mmapcache.Writer(cache_path, max_size="16MiB") as writer:
        with writer.batch() as batch:
            assert batch.put_raw("sites", documents(keys)) == len(keys)
        with writer.reader() as cache:
            assert cache["sites"][keys[1999]]["n"] == 1999
            cache.check()


def test_too_many_equal_hashes_are_refused_by_name(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="16MiB") as writer:
        keys = colliding(cache_path)
        assert len(set(keys)) == len(keys) > MOST
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1})
            with pytest.raises(mmapcache.LimitError) as caught:
                batch.put_raw("sites", documents(keys))
            text = str(caught.value)
            assert "collection sites:" in text
            assert text.isprintable()
            assert "\\x00\\x00" in text
            with pytest.raises(mmapcache.LimitError):
                batch.put("sites", keys[-1], {"_id": keys[-1]})
            batch.put("sites", 2, {"_id": 2})
            batch.put("limits", 3, {"_id": 3})
        with writer.reader() as cache:
            stored = len(cache["sites"]) - 2
            assert 800 < stored <= MOST
            assert f"the hash of {stored} others" in text
            assert cache["sites"][keys[0]]["n"] == 0
            assert cache["limits"][3] == {"_id": 3}
            cache.check()


def test_a_collection_that_cannot_be_stored_does_not_stop_the_others(
    cache_path: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("first", "flooded", "last"):
        (source / f"{name}.bson").write_bytes(bson.encode({"_id": 1, "v": 1}))
    arguments = ["--source", f"file:{source}", "--max-size", "16MiB"]
    assert load_once(cache_path, arguments)[0] == 0
    for name in ("first", "last"):
        (source / f"{name}.bson").write_bytes(bson.encode({"_id": 1, "v": 2}))
    keys = colliding(cache_path)
    flood = bson.encode({"_id": 1, "v": 2}) + documents(keys)
    (source / "flooded.bson").write_bytes(flood + documents([b"%d" % i for i in range(50_000)]))
    status, output = load_once(cache_path, arguments)
    assert status == 1
    assert "flooded.bson" in output
    assert "collection flooded: the key" in output
    with mmapcache.open(cache_path) as cache:
        assert [cache[name][1]["v"] for name in ("first", "flooded", "last")] == [2, 1, 2]
        assert len(cache["flooded"]) == 1
        assert "collection flooded: the key" in str(cache.status()["error"])
        cache.check()
    (source / "flooded.bson").write_bytes(bson.encode({"_id": 1, "v": 3}))
    assert load_once(cache_path, arguments)[0] == 0
    with mmapcache.open(cache_path) as cache:
        assert cache["flooded"][1]["v"] == 3


@only_linux("ages are by the wall clock where the boot is not known")
def test_age_is_never_negative(cache_path: Path) -> None:
    """As after the wall clock was set back by an hour since the confirmation."""
    with mmapcache.Writer(cache_path, max_size="2MiB") as writer:
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1})
        writer.report(confirmed=time.time() + 3600)
        with writer.reader() as cache:
            first = float(str(cache.status()["age"]))
            assert first >= 0
            time.sleep(0.02)
            assert float(str(cache.status()["age"])) >= first + 0.02
            writer.report(confirmed=time.time() - 100)
            assert 100 <= float(str(cache.status()["age"])) < 160
