"""The loader as a process, and waiting for what it does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmapcache
from support import warm

PATIENCE = 30.0  # seconds; far more than anything here takes


def wait_for(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Polls until the condition is true, and gives its value."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{condition} stayed false for {timeout} s")
        time.sleep(0.01)
    return value


def confirmed_at(cache: mmapcache.Cache) -> float:
    """When the loader last confirmed the data; 0 before it ever did."""
    return cache.status()["confirmed_at"] or 0.0


class Loader:
    """`mmapcache sync` as a process; all that it writes goes into one file.

    :param path: the cache file
    :param arguments: the flags
    :param environment: variables besides those of the tests
    :param program: what the interpreter runs
    """

    # Whether they are forked where nothing depends on a start from nothing: `warm_loaders`.
    warm = False

    def __init__(
        self,
        path: Path,
        arguments: Sequence[str],
        environment: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "mmapcache"),
    ) -> None:
        self._log = path.with_name(f"loader-{time.monotonic_ns()}.log")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MMAPCACHE_")}
        variables = inherited | (environment or {})
        command = [*program, "sync", str(path), *arguments]
        self.process: subprocess.Popen[bytes] | warm.ForkedProcess
        with self._log.open("wb") as log:
            if self.warm and warm.can_start(command, variables):
                self.process = warm.ForkedProcess(command, log, variables)
            else:
                self.process = subprocess.Popen(
                    [sys.executable, *command], stdout=log, stderr=log, env=variables
                )

    @property
    def output(self) -> str:
        return self._log.read_text("utf-8")

    def expect(self, pattern: str, timeout: float = PATIENCE) -> None:
        """Waits until the output has a match."""
        try:
            wait_for(lambda: re.search(pattern, self.output) or self.process.poll() is not None)
            assert re.search(pattern, self.output)
        except AssertionError:
            raise AssertionError(f"no {pattern!r} in:\n{self.output}") from None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status; a negative one is a signal."""
        return self.process.wait(timeout)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if kind is not None:
            sys.stderr.write(f"--- output of the loader\n{self.output}---\n")


def load_once(
    path: Path, arguments: Sequence[str], environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Runs the loader with --once: exit status and output."""
    with Loader(path, [*arguments, "--once"], environment) as loader:
        status = loader.wait()
        return status, loader.output
