"""The pump between a source and the cache: order, bounds, errors, cancelling, signals."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NoReturn

import pytest
from support.loader import PATIENCE, wait_for

from mmapcache.sync.errors import SourceAwayError, StopError
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.pump import IN_FLIGHT, Pump
from mmapcache.sync.source import Feed, Which


class Script:
    """A source that yields what it is told; a callable among the buffers is called."""

    label, scope, discovers = "script", "collections", False
    identity, position, moment = None, None, 0
    polled: Mapping[str, str] = {}

    def __init__(self, **collections: list[bytes | Callable[[], None]]) -> None:
        self._collections = collections
        self.delivered = 0

    def feeds(
        self,
        known: frozenset[str],
        *,
        estimate: bool,
        follow: bool = False,
        which: Which = "all",
    ) -> Iterable[Feed]:
        for name in self._collections:
            yield Feed(name, name, False)

    def buffers(self, feed: Feed) -> Iterator[bytes]:
        for item in self._collections[feed.name]:
            if callable(item):
                item()
            else:
                self.delivered += 1
                yield item

    def follow(self, *_: object) -> NoReturn:
        raise NotImplementedError

    def identify(self, document: bytes) -> bytes:
        return document

    def answers(self) -> bool:
        return True

    def broken(self) -> tuple[()]:
        return ()

    def close(self) -> None:
        pass


def drain(source: Script, inbox: Inbox) -> list[tuple[str, list[bytes]]]:
    with Pump(source, inbox, frozenset(), estimate=False) as pump:
        return [(feed.name, list(pump.buffers())) for feed in pump.feeds()]


def test_order_is_kept() -> None:
    many: list[bytes | Callable[[], None]] = [b"%d" % i for i in range(50)]
    source = Script(a=[b"1", b"2"], b=[], c=many)
    assert drain(source, Inbox()) == [("a", [b"1", b"2"]), ("b", []), ("c", many)]
    assert drain(Script(), Inbox()) == []


def test_the_source_does_not_run_ahead() -> None:
    source = Script(a=[b"x"] * 20)
    with Pump(source, Inbox(), frozenset(), estimate=False) as pump:
        (feed,) = [next(feeds := pump.feeds())]
        assert feed.name == "a"
        buffers = pump.buffers()
        next(buffers)
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            assert source.delivered <= IN_FLIGHT + 2
            time.sleep(0.01)
        assert source.delivered > IN_FLIGHT  # yet it does fill the room it has
        assert len(list(buffers)) == 19
        assert list(feeds) == []


def test_reading_and_storing_overlap() -> None:
    """While one is stored the next is read; and the next can be stored before more is read."""
    stored = threading.Semaphore(1)
    source = Script(a=[b"x", lambda: assert_acquired(stored)] * 20)
    with Pump(source, Inbox(), frozenset(), estimate=False) as pump:
        for _ in pump.feeds():
            for number, _ in enumerate(pump.buffers(), 1):
                wait_for(partial(reached, source, min(number + 1, 20)))
                stored.release()


def assert_acquired(semaphore: threading.Semaphore) -> None:
    assert semaphore.acquire(timeout=PATIENCE)


def reached(source: Script, delivered: int) -> bool:
    return source.delivered >= delivered


def test_an_error_of_the_source_arrives_after_what_came_before() -> None:
    def fail() -> None:
        raise SourceAwayError("gone")

    got = []
    with (
        pytest.raises(SourceAwayError, match="gone"),
        Pump(Script(a=[b"1", fail, b"2"]), Inbox(), frozenset(), estimate=False) as pump,
    ):
        for _ in pump.feeds():
            for buffer in pump.buffers():
                got.append(buffer)
    assert got == [b"1"]


def test_an_abandoned_pump_ends_and_its_messages_are_ignored() -> None:
    inbox = Inbox()
    source = Script(a=[b"old"] * 100)
    before = threading.active_count()
    with (
        pytest.raises(RuntimeError),
        Pump(source, inbox, frozenset(), estimate=False) as pump,
    ):
        for _ in pump.feeds():
            next(pump.buffers())
            raise RuntimeError
    assert drain(Script(a=[b"new"]), inbox) == [("a", [b"new"])]
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert source.delivered < 20


def test_a_stop_ends_the_load_and_every_wait() -> None:
    inbox = Inbox()
    block = threading.Event()

    def wait() -> None:
        block.wait(10)

    with inbox.signals():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(StopError, match="SIGTERM"):
            drain(Script(a=[b"1", wait]), inbox)
        with pytest.raises(StopError):
            inbox.sleep(10)
    block.set()


def test_a_refresh_cuts_the_wait_short_even_when_it_came_before() -> None:
    inbox = Inbox()
    with inbox.signals():
        os.kill(os.getpid(), signal.SIGHUP)
        began = time.monotonic()
        inbox.sleep(10)
        os.kill(os.getpid(), signal.SIGHUP)
        assert drain(Script(a=[b"1"]), inbox) == [("a", [b"1"])]
        inbox.sleep(10)
        assert time.monotonic() - began < 5
        inbox.sleep(0.05)
        assert time.monotonic() - began >= 0.05


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with Inbox().signals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before
