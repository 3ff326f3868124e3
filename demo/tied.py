"""Runs a module as a process that ends with its parent, however that parent ended.

    python -m demo.tied MODULE [ARGUMENT ...]

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


def main() -> None:
    """Asks for the signal and becomes the module's process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])


if __name__ == "__main__":
    main()
