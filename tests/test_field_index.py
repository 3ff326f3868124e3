"""The index of the fields of a large document: what is found by it is what a walk would find."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import bson
import pytest

import mmapcache

FIELDS = 300
BLOCK = 72  # bytes of the index for each 64 fields


def element(name: str, number: int, size: int = 60) -> bytes:
    """A field with a document of its own as value."""
    return bson.encode({name: {"n": number, "pad": b"x" * size}})[4:-1]


def joined(elements: list[bytes]) -> bytes:
    """The document of these fields, of which some may have equal names."""
    body = b"".join(elements) + b"\0"
    return (len(body) + 4).to_bytes(4, "little") + body


def numbered(count: int, size: int = 60) -> list[bytes]:
    return [element(f"field{i}", i, size) for i in range(count)]


DOCUMENTS = {
    "few fields": joined(numbered(63, 100)),
    "few bytes": joined(numbered(70, 0)),
    "the smallest with an index": joined(numbered(64)),
    "many": joined(numbered(FIELDS)),
    "names that repeat": joined([*numbered(FIELDS), *(element("field7", 1000) for _ in range(3))]),
    "names of other letters": joined([element("größe", 1), element("", 2), *numbered(FIELDS)]),
    "more than an index can have": joined(numbered(8129, 30)),
}


def opened(path: Path) -> mmapcache.Cache:
    """What is read is read in the file each time."""
    return mmapcache.open(path, front_entries=0, front_bytes=0)


def put(path: Path, documents: dict[str, bytes]) -> None:
    with mmapcache.Writer(path, max_size="32MiB") as writer, writer.batch() as batch:
        for key, document in documents.items():
            batch.put("sites", key, mmapcache.Document(document))


def test_every_way_leads_to_the_same_value(cache_path: Path) -> None:
    put(cache_path, DOCUMENTS)
    names = [f"field{i}" for i in (0, 1, 7, 31, 32, 33, 62, 63, 64, 127, 128, 299, 8128)]
    missing = object()
    with opened(cache_path) as cache:
        cache.check()
        sites = cache["sites"]
        for key, raw in DOCUMENTS.items():
            assert sites.get_raw(key) == raw
            walked = mmapcache.Document(raw)  # not from the file: there is no index
            for name in [*names, "größe", "", "field", "nothing"]:
                expected = walked.get(name, missing)
                assert sites[key].get(name, missing) == expected, (key, name)
                assert sites.get_many([key])[key].get(name, missing) == expected, (key, name)
                for path in (name, f"{name}.n", f"{name}.n.n", f"{name}.nothing"):
                    expected = walked.pluck(path, missing)
                    assert sites.pluck(key, path, missing) == expected, (key, path)
                    assert sites[key].pluck(path, missing) == expected, (key, path)
            assert sites[key].to_dict() == walked.to_dict()
        assert sites.pluck("names that repeat", "field7.n") == 7


def test_the_index_follows_its_document(cache_path: Path) -> None:
    """Larger, smaller, gone: the file is whole and a reader finds what is there now."""
    with mmapcache.Writer(cache_path, max_size="16MiB") as writer:
        for count in (10, 300, 64, 63, 200, 1, 128):
            with writer.batch() as batch:
                batch.put("sites", 1, mmapcache.Document(joined(numbered(count, 80))))
            with opened(cache_path) as cache:
                assert cache["sites"].pluck(1, f"field{count - 1}.n") == count - 1
                assert cache["sites"].pluck(1, f"field{count}.n") is None
                cache.check()
        with writer.batch() as batch:
            batch.delete("sites", 1)
        with opened(cache_path) as cache:
            assert 1 not in cache["sites"]
            cache.check()


def flips(start: int, end: int, count: int, seed: int) -> list[tuple[int, int]]:
    chosen = random.Random(seed)
    return [(chosen.randrange(start, end), 1 << chosen.randrange(8)) for _ in range(count)]


def test_damage_leads_to_no_other_value(cache_path: Path) -> None:
    """A field whose own bytes are whole has its value, or is not found, or the reader says so;
    unless another one has become one of its name."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    raw = DOCUMENTS["many"]
    elements = numbered(FIELDS)
    begins = [4 + sum(map(len, elements[:i])) for i in range(FIELDS)]
    put(cache_path, {"1": raw})
    start = cache_path.read_bytes().index(raw)
    index = start + len(raw)
    end = index + (FIELDS + 63) // 64 * BLOCK
    answers: dict[Any, int] = {"right": 0, "absent": 0, "corrupt": 0}
    with opened(cache_path) as cache, cache_path.open("r+b", buffering=0) as file:
        sites = cache["sites"]
        for at, bit in flips(index, end, 300, seed) + flips(start, index, 300, seed):
            file.seek(at)
            old = file.read(1)[0]
            file.seek(at)
            file.write(bytes([old ^ bit]))
            damaged = bytearray(raw + bytes(end - index))
            damaged[at - start] ^= bit
            for number in (0, 31, 32, 150, FIELDS - 1):
                begin = start + begins[number]
                if begin <= at < begin + len(elements[number]):
                    continue
                if damaged.count(b"field%d\0" % number) > 1:
                    continue
                for ask in (sites.pluck, lambda key, path: sites[key].pluck(path)):
                    try:
                        value = ask("1", f"field{number}.n")
                    except mmapcache.CorruptError:
                        answers["corrupt"] += 1
                        continue
                    assert value in {number, None}, (at - start, bit)
                    answers["right" if value == number else "absent"] += 1
            file.seek(at)
            file.write(bytes([old]))
        assert answers["right"] > answers["absent"] > 0 and answers["corrupt"] > 0, answers
        file.seek(index + 20)
        file.write(b"\0")
        with pytest.raises(mmapcache.CorruptError):
            cache.check()
