"""One generation for a command that reads for long, while a loader reclaims what it reads."""

from __future__ import annotations

import itertools

import pytest
from support.caches import fill

import mmapcache
from mmapcache.cli.reading import counts, steady


def test_what_expires_is_read_again() -> None:
    numbers = itertools.count()
    attempts = 0
    with mmapcache.Writer.anonymous(max_size="2MiB", retention=0.0) as writer:

        def publish() -> None:
            text = str(next(numbers)) * 300
            fill(writer, "sites", *({"_id": n, "v": text} for n in range(300)))

        def read(snap: mmapcache.Snapshot) -> int:
            """Too slow, each time but the last."""
            nonlocal attempts
            attempts += 1
            while attempts < slow:
                publish()
                list(snap["sites"])
            return snap.generation

        publish()
        cache = writer.reader()
        slow = 3
        assert steady(cache, read) == cache.generation
        assert attempts == 3
        attempts, slow = 0, 100
        with pytest.raises(mmapcache.SnapshotExpired):
            steady(cache, read)
        assert attempts == 5
        assert counts(cache) == {"sites": 300}
