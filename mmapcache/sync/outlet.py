"""Text for a descriptor that may block: a thread of its own writes it, so that nobody else waits.

    log lines ──┐
                ├──> at most CAPACITY bytes ──> writer thread ──> descriptor
    bar ────────┘           └─ full: the new text is dropped, and a line says so later

A terminal that was stopped with Ctrl-S, or a pipe whose reader sleeps, then costs lines and no
refresh. The thread writes to the descriptor itself: a thread that slept inside Python's stream
would hold its lock, at which the interpreter stumbles when it ends.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

CAPACITY = 1 << 20
PATIENCE = 2.0  # seconds that `close` waits for a descriptor that takes nothing


class Outlet:
    """Takes text from any thread at any time; `close` gives what is left a little time.

    :param descriptor: where to write
    :param notice: makes the line that says how many lines were dropped
    """

    def __init__(self, descriptor: int, notice: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._notice = notice
        self._changed = threading.Condition()
        self._pending: deque[tuple[bytes, int]] = deque()  # with the lines that it stands for
        self._bytes = 0
        self._dropped = 0
        self._written = 0  # pieces, failed ones too: whether anything moves
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="mmapcache-log", daemon=True)
        self._thread.start()

    def write(self, text: str, *, lines: int = 1) -> None:
        """Takes the text, or drops it when too much waits already; returns at once.

        :param lines: how many lines are lost when it is dropped; 0 for a bar
        """
        data = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._closed or self._bytes + len(data) > CAPACITY:
                self._dropped += lines
                return
            self._confess()
            self._append(data, lines)

    def close(self, patience: float = PATIENCE) -> None:
        """Waits until everything is written, or nothing was for `patience` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        seen, end = -1, 0.0
        while self._thread.is_alive():
            if self._written != seen:
                seen, end = self._written, time.monotonic() + patience
            elif time.monotonic() >= end:
                return  # the thread is a daemon: the process ends without it
            self._thread.join(0.05)

    def _append(self, data: bytes, lines: int) -> None:
        self._pending.append((data, lines))
        self._bytes += len(data)
        self._changed.notify()

    def _confess(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._append(self._notice(dropped).encode("utf-8", "backslashreplace"), dropped)

    def _run(self) -> None:
        fine = True
        while True:
            with self._changed:
                if not self._pending and fine:
                    self._confess()
                while not self._pending:
                    if self._closed:
                        return
                    self._changed.wait()
                data, lines = self._pending[0]
            fine = _write_all(self._descriptor, data)
            with self._changed:
                self._pending.popleft()
                self._bytes -= len(data)
                self._written += 1
                if not fine:
                    self._dropped += lines


def _write_all(descriptor: int, data: bytes) -> bool:
    """False when the descriptor refuses: it is closed, its disk is full, its reader is gone."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody made the other end non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll(1000)
        except OSError:
            return False
    return True


class BarFile:
    """What tqdm takes for a file: its drawing goes through the outlet."""

    encoding = "utf-8"

    def __init__(self, outlet: Outlet, descriptor: int) -> None:
        self._outlet = outlet
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        """Draws, unless nobody takes it."""
        self._outlet.write(text, lines=0)

    def flush(self) -> None:
        """Nothing is kept here."""

    def fileno(self) -> int:
        """The terminal, for its width."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is one."""
        return os.isatty(self._descriptor)
