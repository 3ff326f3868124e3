"""The loader's first and last moments.

While its modules are still being imported, the defaults would be wrong: SIGHUP ends a process,
SIGINT prints a traceback. From `hold` on they are noted, until the inbox takes them over.

When it leaves, its threads may be in the middle of anything. Imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

STOPS = (signal.SIGTERM, signal.SIGINT)
CAUGHT = (*STOPS, signal.SIGHUP)
_stop: signal.Signals | None = None


def hold() -> None:
    """Notes SIGTERM, SIGINT and SIGHUP from now on; the second that is to stop ends the process."""
    for number in CAUGHT:
        signal.signal(number, _note)


def stop() -> signal.Signals | None:
    """The signal that came to stop the loader, if one did. A SIGHUP needs nothing: the first
    refresh is still to come."""
    return _stop


def _note(number: int, frame: FrameType | None) -> None:
    global _stop
    if number in STOPS:
        if _stop is not None:
            end(number)
        _stop = signal.Signals(number)


def end(number: int) -> NoReturn:
    """Ends the process at once, with the status that shells give to one that a signal ended."""
    leave(128 + number)


def leave(status: int) -> NoReturn:
    """Ends the process without the interpreter's own end, once everything is written and closed.

    A thread that waits for a server, or makes a client for it, is left where it is. What PyMongo
    does at the interpreter's end takes a monitor that is being made for a whole one, and prints a
    traceback for a loader that ended properly.
    """
    os._exit(status)
