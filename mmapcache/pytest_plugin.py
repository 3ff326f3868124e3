"""The fixture that pytest finds by itself where mmapcache is installed.

`pytest -p no:mmapcache` does without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mmapcache.testing import TestCache


@pytest.fixture
def mmapcache_test() -> Iterator[TestCache]:
    """An empty mmapcache.testing.TestCache of this test alone."""
    from mmapcache import testing

    with testing.cache() as test:
        yield test
