"""Errors that name the thing and say what to do: wrong files, impossible times."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from support.caches import make_cache

import mmapcache


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"x" * 8192, "not a cache file of mmapcache"), (b"x", "too short"), (b"", "too short")],
    ids=["another file", "a byte", "nothing"],
)
def test_a_file_of_another_kind_is_named_with_the_cure(
    cache_path: Path, content: bytes, what: str
) -> None:
    deep = cache_path.parent / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    for path in (cache_path, deep / "cache"):
        path.write_bytes(content)
        for attempt in (mmapcache.open, mmapcache.Writer):
            with pytest.raises(mmapcache.FormatError) as caught:
                attempt(path)
            text = str(caught.value)
            assert what in text
            assert "--recreate" in text
            assert "recreate=True" in text
            assert str(path) in text or len(str(path)) > 300
            assert str(path)[:100] in text
        with mmapcache.Writer(path, max_size="2MiB", recreate=True) as writer:
            assert writer.generation == 0


def test_a_truncated_cache_is_named(cache_path: Path) -> None:
    make_cache(cache_path, {"_id": 1})
    with cache_path.open("r+b") as file:
        file.truncate(8192)
    for attempt in (mmapcache.open, mmapcache.Writer):
        with pytest.raises(mmapcache.CorruptError, match=rf"truncated.*{cache_path.name}"):
            attempt(cache_path)


@pytest.mark.parametrize("seconds", [-1, -0.001, -math.inf, math.nan])
def test_an_impossible_time_is_refused(cache_path: Path, seconds: float) -> None:
    make_cache(cache_path, {"_id": 1})
    with pytest.raises(
        ValueError, match=r"timeout is .*: give seconds from 0 on, or None for ever"
    ):
        mmapcache.open(cache_path, timeout=seconds)
    with pytest.raises(
        ValueError, match=r"timeout is .*: give seconds from 0 on, or None for ever"
    ):
        mmapcache.Writer(cache_path, timeout=seconds)
    with pytest.raises(ValueError, match=r"retention is .*: give seconds from 0 on"):
        mmapcache.Writer(cache_path, retention=seconds)


def test_times_that_are_possible(cache_path: Path) -> None:
    make_cache(cache_path, {"_id": 1})
    for seconds in (0, -0.0, 5, math.inf, None):
        with mmapcache.open(cache_path, timeout=seconds) as cache:
            assert len(cache["sites"]) == 1
    cache = mmapcache.open(cache_path)
    left = -time.monotonic()  # what is left of a time may be less than nothing
    assert cache.wait(cache.generation, timeout=left) is False
