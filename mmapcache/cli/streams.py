"""Standard streams that are closed, full, or whose reader has gone.

A command that cannot print says so and exits with 1; one that cannot even say so exits with the
same status as if it had. None ends with a traceback, or with the status 120 of an interpreter whose
last flush fails.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO


class StdoutError(Exception):
    """What was to be printed could not be; the text is a sentence."""


def occupy() -> None:
    """Makes sure that the descriptors 0 to 2 are taken, and that there is a stdout and a stderr.

    A file that is opened later would get one of them, and a message for standard error would be
    written into it. Standard input and output are taken the wrong way round: using them still
    fails, as it should for a closed stream.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # the lowest that is free, which is this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def say(text: str) -> None:
    """Writes to stderr; when that is impossible there is nobody to tell."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        abandon(sys.stderr)


def show(text: str) -> None:
    """Writes to stdout.

    :raises StdoutError: it is closed or full
    :raises BrokenPipeError: whoever read it has gone
    """
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from None


def show_bytes(data: bytes) -> None:
    """As `show`."""
    try:
        sys.stdout.buffer.write(data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from None


def flush() -> None:
    """As `show`: what was written is with the system, or it was not."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from None


def abandon(stream: TextIO) -> None:
    """What could not be written goes nowhere, or the interpreter's last flush would fail, too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _unwritable(error: OSError) -> StdoutError:
    why = "it is closed" if error.errno == errno.EBADF else str(error.strerror)
    return StdoutError(f"cannot write to standard output: {why}")
