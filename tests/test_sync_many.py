"""More collections than a cache can have, from a loader's source."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.loader import load_once

import mmapcache

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

ONE = b"\x0e\0\0\0\x10_id\0\x01\0\0\0\0"  # {"_id": 1}


def test_those_past_the_limit_are_refused_and_named(cache_path: Path) -> None:
    """The others are published; and what is said of thousands of them is short."""
    source = cache_path.with_name("source")
    source.mkdir()
    first, most = source / "c00000.bson", mmapcache.MAX_COLLECTIONS
    first.write_bytes(ONE)
    for number in range(1, most + 8):
        (source / f"c{number:05}.bson").hardlink_to(first)
    status, output = load_once(cache_path, ["--source", f"file:{source}"])
    assert status == 1
    assert f"c{most}.bson, after 0 documents: a cache has at most {most} collections; " in output
    assert f"3 more collections are refused: c{most + 5}, c{most + 6}, c{most + 7}\n" in output
    with mmapcache.open(cache_path) as cache:
        assert sorted(cache) == [f"c{number:05}" for number in range(most)]
        assert f"at most {most} collections" in str(cache.status()["error"])
        assert cache.status()["state"] == "degraded"
