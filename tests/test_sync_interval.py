"""When the loader refreshes: at once, then at intervals that no two loaders share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

import mmapcache
from mmapcache.sync.backoff import Backoff
from mmapcache.sync.errors import StopError
from mmapcache.sync.files import FileSource
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.loader import Loader
from mmapcache.sync.options import Options

ONE = b"\x0e\0\0\0\x10_id\0\x01\0\0\0\0"


class Sleepless(Inbox):
    """Notes how long the loader wants to wait, and does not."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> bool:
        self.waits.append(seconds)
        if len(self.waits) == self.rounds:
            raise StopError("enough")
        return False


def waits(path: Path, content: Sequence[bytes | None], seed: int | None) -> list[float]:
    """What a loader waits after each of its refreshes of a file with that content in turn."""
    source = path.with_name("sites.bson")
    inbox = Sleepless(len(content))
    options = Options(path=str(path), source=str(source), interval=10.0, max_size="16MiB")

    class Turning(FileSource):
        def feeds(self, known, *, estimate, **_):  # type: ignore[no-untyped-def]
            now = content[len(inbox.waits)]
            source.write_bytes(b"x" if now is None else now)
            return super().feeds(known, estimate=estimate)

    dice = None if seed is None else random.Random(seed)
    turning = Turning(str(source), allow_empty=False)
    assert Loader(options, turning, inbox, bar=False, dice=dice).run() == 0
    return inbox.waits


def test_an_interval_is_up_to_a_tenth_shorter_than_asked_for(cache_path: Path) -> None:
    found = waits(cache_path, [ONE] * 50, seed=1)
    assert all(9.0 <= seconds <= 10.0 for seconds in found)
    assert max(found) - min(found) > 0.5
    assert len(set(found)) == 50
    with mmapcache.open(cache_path) as cache:  # the first refresh came before the first wait
        assert cache.generation == 1


def test_loaders_that_start_together_drift_apart(cache_path: Path) -> None:
    hosts = [waits(cache_path, [ONE] * 10, seed=None) for _ in range(2)]
    assert hosts[0] != hosts[1]


@pytest.mark.parametrize("trouble", [b"", None], ids=["kept", "refused"])
def test_what_is_tried_again_at_the_next_interval_has_the_jitter_too(
    cache_path: Path, trouble: bytes | None
) -> None:
    first, *found = waits(cache_path, [ONE, *[trouble] * 5], seed=2)
    assert 9.0 <= first <= 10.0
    assert len(set(found)) == 5
    # The backoff of a refused source may by now be longer than the interval.
    assert all(9.0 <= seconds <= (10.0 if trouble == b"" else 16.0) for seconds in found)


def test_the_dice_are_the_callers() -> None:
    same = [Backoff(dice=random.Random(5)).interval(100.0) for _ in range(2)]
    assert same[0] == same[1]
