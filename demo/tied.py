"""Runs a module or a program as a process that ends with its parent, however that parent ended.

    python -m demo.tied MODULE [ARGUMENT ...]
    python -m demo.tied --exec PROGRAM [ARGUMENT ...]

A demo that is killed must not leave a database server behind. The kernel's parent-death signal
outlives the exec, so that nothing of this stays in the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def command(arguments: list[str]) -> list[str]:
    """What to start for ``python -m ARGUMENTS`` to end with this process."""
    return [sys.executable, "-m", "demo.tied", *arguments]


def program(arguments: list[str]) -> list[str]:
    """The same for a program. It gets SIGKILL, which also ends one that SIGSTOP holds."""
    return command(["--exec", *arguments])


def main() -> None:
    """Asks for the signal and becomes the module's process, or the program's."""
    arguments, number = sys.argv[1:], signal.SIGTERM
    if arguments[:1] == ["--exec"]:
        del arguments[0]
        number = signal.SIGKILL
    else:
        arguments[:0] = [sys.executable, "-m"]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    os.execvp(arguments[0], arguments)


if __name__ == "__main__":
    main()
