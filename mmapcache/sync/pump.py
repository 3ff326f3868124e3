"""Reads a source in a thread of its own, so that the wire and the cache are busy at the same time.

    pump thread:  feeds ── buffer ── buffer ── … ── end      main thread:  put_raw (without the GIL)
                      └────────── inbox, at most IN_FLIGHT buffers ──────────┘

PyMongo's receive and the core's put_raw both run without the GIL: on two cores a load takes the
longer of the two instead of their sum. The bound on buffers in flight bounds memory (a batch is up
to 16 MiB) and slows the reading down to what the cache takes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from mmapcache.sync.errors import SourceAwayError, SyncError
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.source import Feed, Source, Which
from mmapcache.sync.watch import Watch

IN_FLIGHT = 3


@dataclass(frozen=True, slots=True)
class _Message:
    """From a pump to its consumer: a feed's start, a buffer, or (failure or not) the end."""

    sender: Pump
    feed: Feed | None = None
    buffer: bytes | None = None
    failure: BaseException | None = None


class Pump:
    """One load's reading; use as a context manager, which ends the thread when the load ends.

    :param source: what to read
    :param inbox: where the consumer waits
    :param known: see `Source.feeds`
    :param estimate: see `Source.feeds`
    :param follow: see `Source.feeds`
    :param which: see `Source.feeds`
    :param watch: is told how long the consumer waits
    """

    def __init__(
        self,
        source: Source,
        inbox: Inbox,
        known: frozenset[str],
        *,
        estimate: bool,
        follow: bool = False,
        which: Which = "all",
        watch: Watch | None = None,
    ) -> None:
        self._source = source
        self._inbox = inbox
        self._watch = watch
        self._known = known
        self._estimate = estimate
        self._follow = follow
        self._which = which
        self._cancelled = False
        self._room = threading.Semaphore(IN_FLIGHT)
        self._ahead: _Message | None = None  # the message that ended the feed before
        # A daemon: a thread that waits for a server must not keep a stopped loader alive.
        self._thread = threading.Thread(target=self._run, name="mmapcache-source", daemon=True)

    def __enter__(self) -> Pump:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._cancelled = True
        self._room.release()

    def _run(self) -> None:
        try:
            for feed in self._source.feeds(
                self._known, estimate=self._estimate, follow=self._follow, which=self._which
            ):
                self._inbox.post(_Message(self, feed=feed))
                for buffer in self._source.buffers(feed):
                    self._room.acquire()
                    if self._cancelled:
                        return
                    self._inbox.post(_Message(self, buffer=buffer))
            self._inbox.post(_Message(self))
        except SyncError as error:
            self._inbox.post(_Message(self, failure=error))
        except BaseException as error:
            self._inbox.post(_Message(self, failure=self._unexpected(error)))

    def _unexpected(self, error: BaseException) -> SourceAwayError:
        """A server's reply without the field that every reply has is a KeyError in PyMongo, and
        so on: whatever it is, the next try may find the source in its right mind."""
        detail = f"{type(error).__name__}: {error}".removesuffix(": ")
        away = SourceAwayError(f"{self._source.label}: an answer that makes no sense ({detail})")
        away.__cause__ = error
        return away

    def _next(self) -> _Message:
        watch = self._watch
        if watch is not None:
            watch.waits()
        while True:
            message = self._inbox.receive(None if watch is None else watch.every)
            if isinstance(message, _Message) and message.sender is self:
                if watch is not None:
                    watch.heard()
                if message.failure is not None:
                    raise message.failure
                return message
            if watch is not None:
                watch.look()

    def feeds(self) -> Iterator[Feed]:
        """The feeds in turn; each must be drained with `buffers` before the next.

        :raises StopError: a signal ended the loader
        :raises SyncError: the source failed; as SourceAwayError whatever it did not expect
        """
        message = self._next()
        while message.feed is not None:
            yield message.feed
            assert self._ahead is not None, "the feed was not drained"
            message, self._ahead = self._ahead, None

    def buffers(self) -> Iterator[bytes]:
        """The current feed's buffers; taking the next one makes room for one more.

        :raises: as `feeds`
        """
        while True:
            message = self._next()
            if message.buffer is None:
                self._ahead = message
                return
            yield message.buffer
            self._room.release()
