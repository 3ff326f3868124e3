"""What tests of a loader's phases share: each phase is tried, and a disk is full.

For loaders that stand in a phase see `support/hold.py`.
"""

from __future__ import annotations

import contextlib
import subprocess
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

AT_A_TIME = 3  # phases


def at_each(place: Path, phases: Iterable[str], check: Callable[[Path, str], None]) -> None:
    """Runs the check with a path of its own in each phase, some at a time: most of it is waiting
    for processes. A failure names its phase."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        running = {}
        for number, phase in enumerate(phases):
            directory = place / str(number)
            directory.mkdir()
            running[phase] = pool.submit(check, directory / "cache", phase)
    failures = []
    for phase, future in running.items():
        try:
            future.result()
        except Exception:
            failures.append(f"--- {phase}\n{traceback.format_exc()}")
    assert not failures, "\n".join(failures)


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no file system can be mounted here, which takes root: {error}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def fill(path: Path) -> None:
    """Takes all the room that is left."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
