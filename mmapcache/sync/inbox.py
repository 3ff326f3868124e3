"""What the loader's main thread waits for: one queue for buffers, the source's end, and signals.

A signal handler runs in the main thread between two bytecodes, perhaps while that thread holds the
lock of an Event or a Queue; only `queue.SimpleQueue.put` is documented as safe there. Hence one
SimpleQueue for everything, and no other primitive between a handler and the loop.
"""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mmapcache.sync.errors import StopError


class Inbox:
    """Messages to the main thread; a stop becomes the exception `StopError` at the next receive."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._stop = False
        self._refresh = False

    def post(self, message: object) -> None:
        """Adds a message; any thread, and signal handlers."""
        self._queue.put(message)

    def receive(self, timeout: float | None = None) -> object:
        """The next message, or None after `timeout` seconds or a SIGHUP.

        :raises StopError: SIGTERM or SIGINT has arrived
        """
        if self._stop:
            raise StopError("stopped")
        try:
            message = self._queue.get(timeout=timeout)
        except queue.Empty:
            return None
        if not isinstance(message, signal.Signals):
            return message
        if message is signal.SIGHUP:
            self._refresh = True
            return None
        self._stop = True
        raise StopError(f"stopped by {message.name}")

    def sleep(self, seconds: float) -> None:
        """Waits, but not past a SIGHUP (even one that came before) nor past a stop.

        :raises StopError: SIGTERM or SIGINT has arrived
        """
        end = time.monotonic() + seconds
        while not self._refresh and (left := end - time.monotonic()) > 0:
            self.receive(left)  # a late message of a cancelled load is dropped here
        self._refresh = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """While open, SIGTERM, SIGINT and SIGHUP are messages; main thread only."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.post(signal.Signals(number))

        caught = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [(number, signal.signal(number, handler)) for number in caught]
        try:
            yield
        finally:
            for number, previous in before:
                signal.signal(number, previous)
