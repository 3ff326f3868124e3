"""What the loader's main thread waits for: one queue for buffers, the source's end, and signals.

A signal handler runs in the main thread between two bytecodes, perhaps while that thread holds the
lock of an Event or a Queue; only `queue.SimpleQueue.put` is documented as safe there. Hence one
SimpleQueue for everything, and no other primitive between a handler and the loop.

A signal that arrives when the main thread has looked for signals and does not sleep yet, or that
the system gives to another thread, wakes nobody: its handler would run when the sleep ends. And the
main thread may be stuck where no handler runs (a disk that hangs), when a second SIGTERM or SIGINT
must end the process all the same. So a thread of its own counts them, and wakes the main thread:
the interpreter writes the number of each signal into a pipe, whatever the main thread does.
"""

from __future__ import annotations

import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

from mmapcache.sync import early
from mmapcache.sync.errors import StopError
from mmapcache.sync.service import Service

_WAKE = object()  # a message that only ends a wait


class Inbox:
    """Messages to the main thread; a stop becomes the exception `StopError` at the next receive.

    `meanwhile`: called while it sleeps, now and then: it gives the seconds until the next time.

    :param service: gets a sign of life at each receive, and while that waits
    """

    def __init__(self, service: Service | None = None) -> None:
        self.service = service or Service()
        self.meanwhile: Callable[[], float] = lambda: math.inf
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._stop: signal.Signals | None = None
        self._refresh = False

    def post(self, message: object) -> None:
        """Adds a message; any thread, and signal handlers."""
        self._queue.put(message)

    def receive(self, timeout: float | None = None) -> object:
        """The next message, or None after `timeout` seconds or a signal.

        :raises StopError: SIGTERM or SIGINT has arrived
        """
        self._raise_if_stopped()
        try:
            message = self._get(timeout)
        except queue.Empty:
            return None
        if message is _WAKE:  # the handler has run, or runs now
            return None
        if not isinstance(message, signal.Signals):
            return message
        if message is signal.SIGHUP:
            self._refresh = True
            return None
        self._stop = message
        raise StopError(f"stopped by {message.name}")

    def _get(self, timeout: float | None) -> object:
        """
        :raises queue.Empty: there is none in time
        """
        if self.service.quiet:
            return self._queue.get(timeout=timeout)
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            pause = self.service.beat()
            left = max(0.0, end - time.monotonic())
            try:
                return self._queue.get(timeout=min(left, pause))
            except queue.Empty:
                if time.monotonic() >= end:
                    raise

    @property
    def refresh(self) -> bool:
        """Whether a SIGHUP came that no `sleep` has answered."""
        return self._refresh

    def answered(self) -> None:
        """The SIGHUP that came is answered."""
        self._refresh = False

    def clear(self) -> None:
        """Forgets what cancelled loads have left; between two loads.

        :raises StopError: SIGTERM or SIGINT has arrived
        """
        self._raise_if_stopped()
        while not self._queue.empty():
            self.receive(0)

    def _raise_if_stopped(self) -> None:
        if self._stop is not None:
            raise StopError(f"stopped by {self._stop.name}")

    def sleep(self, seconds: float) -> bool:
        """Waits, but not past a SIGHUP (even one that came before) nor past a stop; whether it was
        a SIGHUP.

        :raises StopError: SIGTERM or SIGINT has arrived
        """
        end = time.monotonic() + seconds
        while not self._refresh and (left := end - time.monotonic()) > 0:
            # A late message of a cancelled load is dropped here.
            self.receive(min(left, self.meanwhile()))
        refresh, self._refresh = self._refresh, False
        return refresh

    @contextmanager
    def signals(self) -> Iterator[None]:
        """While open, SIGTERM, SIGINT and SIGHUP are messages, and a second one that is to stop
        ends the process at once; main thread only."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.post(signal.Signals(number))

        before = [(number, signal.signal(number, handler)) for number in early.CAUGHT]
        self._stop = early.stop()
        try:
            wake = partial(self.post, _WAKE)
            with _second_stop_ends(wake, stops=int(self._stop is not None)):
                yield
        finally:
            for number, previous in before:
                signal.signal(number, previous)


@contextmanager
def _second_stop_ends(wake: Callable[[], None], stops: int) -> Iterator[None]:
    """While open, a thread counts SIGTERM and SIGINT.

    :param wake: called for each signal
    :param stops: how many came before
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def count() -> None:
        seen = stops
        while (number := os.read(read, 1)[0]) != 0:
            seen += number in early.STOPS
            if seen > 1 and number in early.STOPS:
                early.end(number)
            wake()

    counter = threading.Thread(target=count, name="mmapcache-signals", daemon=True)
    counter.start()
    previous = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.write(write, b"\0")
        counter.join()
        os.close(read)
        os.close(write)
