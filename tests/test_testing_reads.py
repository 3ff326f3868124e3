"""The read API's own tests, on the cache of a TestCache instead of a file.

All tests of test_cache.py that need no path; `writer` is a TestCache that answers as a Writer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import test_cache

import mmapcache
from mmapcache import testing


class AsWriter:
    """What the tests ask a writer for, from a TestCache."""

    def __init__(self, test: testing.TestCache) -> None:
        self._test = test

    def reader(self, **options: Any) -> mmapcache.Cache:
        return self._test.open(**options) if options else self._test.cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._test.writer, name)


@pytest.fixture
def writer() -> Iterator[AsWriter]:
    with testing.cache(max_size="32MiB") as test:
        yield AsWriter(test)


def reads() -> dict[str, Any]:
    """The tests by name."""
    return {
        name: value
        for name, value in vars(test_cache).items()
        if name.startswith("test_") and "cache_path" not in inspect.signature(value).parameters
    }


globals().update(reads())


def test_there_are_many() -> None:
    assert len(reads()) > 20
