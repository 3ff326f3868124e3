"""--standby: a loader that waits for another one's end, however that comes, and goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.loader import Loader, wait_for
from support.one_file import ONE, flags

import mmapcache

pytestmark = pytest.mark.usefixtures("warm_loaders")

STANDING_BY = "another loader holds .*: standing by"
TOOK_OVER = r"took over .* after [0-9.]+ s: it was without a loader for at most ([0-9.]+) s"
TWO = b"\x0e\0\0\0\x10_id\0\x02\0\0\0\0"


@contextlib.contextmanager
def first(cache_path: Path, source: Path, *more: str) -> Iterator[Loader]:
    """A loader that has loaded."""
    with Loader(cache_path, flags(source, *more)) as loader:
        loader.expect("generation 1:")
        yield loader


@contextlib.contextmanager
def standby(cache_path: Path, source: Path, *more: str) -> Iterator[Loader]:
    """A loader that stands by."""
    with Loader(cache_path, flags(source, "--standby", *more)) as loader:
        loader.expect(STANDING_BY)
        yield loader


def took_over(loader: Loader) -> bool:
    return re.search(TOOK_OVER, loader.output) is not None


def end(loader: Loader, number: signal.Signals) -> None:
    loader.signal(number)
    loader.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_goes_on_where_the_first_one_ended(
    cache_path: Path, source: Path, number: signal.Signals
) -> None:
    with (
        first(cache_path, source) as killed,
        standby(cache_path, source) as second,
        mmapcache.open(cache_path) as cache,
    ):
        end(killed, number)
        second.expect(TOOK_OVER)
        gap = re.search(TOOK_OVER, second.output)
        assert gap is not None
        assert float(gap[1]) < 5  # a tenth of a second on a machine that has time
        wait_for(lambda: cache.status()["loader"] == "alive")
        # The same content again: no generation, for nothing has changed.
        wait_for(lambda: cache.status()["state"] == "polling")
        assert cache.generation == 1
        source.write_bytes(ONE + TWO)
        second.signal(signal.SIGHUP)
        wait_for(lambda: len(cache["sites"]) == 2)


def test_it_waits_longer_than_its_timeout(cache_path: Path, source: Path) -> None:
    with (
        first(cache_path, source) as killed,
        standby(cache_path, source, "--timeout=0.2") as second,
        Loader(cache_path, flags(source, "--timeout=0.2")) as impatient,
    ):
        assert impatient.wait() == 1
        assert "another loader holds" in impatient.output
        time.sleep(0.3)
        assert second.process.poll() is None
        end(killed, signal.SIGKILL)
        second.expect(TOOK_OVER)


def test_a_stop_ends_it_while_it_waits(cache_path: Path, source: Path) -> None:
    with (
        first(cache_path, source) as undisturbed,
        standby(cache_path, source) as second,
        mmapcache.open(cache_path) as cache,
    ):
        second.signal(signal.SIGHUP)  # nothing to refresh yet
        time.sleep(0.2)
        assert second.process.poll() is None
        second.signal(signal.SIGTERM)
        assert second.wait() == 0
        assert "stopped by SIGTERM" in second.output
        assert not took_over(second)
        assert undisturbed.process.poll() is None
        assert cache.status()["loader"] == "alive"


def test_without_another_loader_it_is_one(cache_path: Path, source: Path) -> None:
    with Loader(cache_path, flags(source, "--standby")) as loader:
        loader.expect("generation 1:")
        assert "standing by" not in loader.output
        assert not took_over(loader)


@pytest.mark.parametrize(
    "environment", [{}, {"MMAPCACHE_ONCE": "yes"}, {"MMAPCACHE_STANDBY": "yes"}]
)
def test_once_and_standby_contradict_each_other(
    cache_path: Path, source: Path, environment: dict[str, str]
) -> None:
    more = [
        f"--{name}"
        for name in ("once", "standby")
        if f"MMAPCACHE_{name.upper()}" not in environment
    ]
    with Loader(cache_path, flags(source, *more), environment) as loader:
        assert loader.wait() == 2
        assert "--once and --standby do not go together" in loader.output
    assert not cache_path.exists()


def test_one_of_two_takes_over_and_the_other_goes_on_waiting(
    cache_path: Path, source: Path
) -> None:
    with (
        first(cache_path, source) as killed,
        standby(cache_path, source) as one,
        standby(cache_path, source) as two,
        mmapcache.open(cache_path) as cache,
    ):
        end(killed, signal.SIGKILL)
        wait_for(lambda: took_over(one) or took_over(two))
        winner, other = (one, two) if took_over(one) else (two, one)
        time.sleep(0.3)  # three tries of the other
        assert not took_over(other)
        assert other.process.poll() is None
        end(winner, signal.SIGKILL)
        other.expect(TOOK_OVER)
        wait_for(lambda: cache.status()["state"] == "polling")
        assert cache.generation == 1


def test_the_file_is_removed_meanwhile(cache_path: Path, source: Path) -> None:
    with first(cache_path, source) as killed, standby(cache_path, source) as second:
        cache_path.unlink()
        time.sleep(0.3)  # three tries: the lock is held
        assert not took_over(second)
        end(killed, signal.SIGKILL)
        second.expect(TOOK_OVER)
        second.expect("generation 1:")
        with mmapcache.open(cache_path) as cache:
            assert len(cache["sites"]) == 1
            assert cache.status()["loader"] == "alive"


def test_the_file_and_its_lock_are_removed_meanwhile(cache_path: Path, source: Path) -> None:
    with first(cache_path, source), standby(cache_path, source) as second:
        cache_path.unlink()
        cache_path.with_name("cache.lock").unlink()
        # What the first one has is no longer at the path, and nobody will find it there.
        second.expect(TOOK_OVER)
        with mmapcache.open(cache_path, timeout=30) as cache:
            assert len(cache["sites"]) == 1


def test_the_file_is_replaced_meanwhile(cache_path: Path, source: Path) -> None:
    with (
        first(cache_path, source, "--max-size=32MiB") as killed,
        standby(cache_path, source) as last,
        standby(cache_path, source, "--max-size=64MiB") as larger,
        mmapcache.open(cache_path) as cache,
    ):
        before = cache_path.stat().st_ino
        last.signal(signal.SIGSTOP)
        end(killed, signal.SIGKILL)
        larger.expect(TOOK_OVER)
        wait_for(lambda: cache_path.stat().st_ino != before)
        wait_for(lambda: cache.status()["loader"] == "alive")
        last.signal(signal.SIGCONT)
        time.sleep(0.3)
        assert not took_over(last)
        end(larger, signal.SIGKILL)
        last.expect(TOOK_OVER)
        wait_for(lambda: cache.status()["loader"] == "alive")
        assert cache.stats()["max_size"] == 64 << 20
        assert len(cache["sites"]) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_the_file_is_given_to_another_user_meanwhile(cache_path: Path, source: Path) -> None:
    with first(cache_path, source) as killed, standby(cache_path, source) as second:
        second.signal(signal.SIGSTOP)
        os.chown(cache_path, 12345, 12345)
        end(killed, signal.SIGKILL)
        second.signal(signal.SIGCONT)
        assert second.wait() == 1
        assert "12345" in second.output
        assert not took_over(second)
