"""The loader's log and bar on a standard error that nobody reads: no refresh waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.loader import PATIENCE, wait_for

import mmapcache
from mmapcache.sync import outlet as outlets
from mmapcache.sync.outlet import Outlet

bson = pytest.importorskip("bson")
F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)


def blocked_pipe() -> tuple[int, int]:
    """A pipe in which there is no room."""
    read, write = os.pipe()
    fcntl.fcntl(write, F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"." * 512)
    os.set_blocking(write, True)
    return read, write


def catches(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether the process has a handler for the signal by now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (mask,) = re.findall(r"^SigCgt:\t(\w+)$", status, re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def drain(descriptor: int, until: str) -> str:
    """Reads until the text is there."""
    text = b""
    end = time.monotonic() + PATIENCE
    while until.encode() not in text:
        assert time.monotonic() < end, text
        text += os.read(descriptor, 65536)
    return text.decode()


@contextlib.contextmanager
def started(path: Path, source: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A loader of a file whose standard error is a pipe that is full; its reading end."""
    read, write = blocked_pipe()
    flags = (f"--source=file:{source}", "--interval=0.05", "--log-level=debug", *flags)
    process = subprocess.Popen(
        [sys.executable, "-m", "mmapcache", "sync", str(path), *flags], stderr=write
    )
    os.close(write)
    try:
        yield process, read
    finally:
        process.kill()
        process.wait()
        os.close(read)


def store(source: Path, value: int) -> None:
    fresh = source.with_suffix(".new")
    fresh.write_bytes(bson.encode({"_id": 1, "value": value}))
    fresh.rename(source)


@pytest.mark.parametrize("flags", [[], ["--log-json"], ["--progress"]])
def test_refreshes_go_on_while_nobody_reads(cache_path: Path, flags: list[str]) -> None:
    source = cache_path.with_name("sites.bson")
    store(source, 0)
    with (
        started(cache_path, source, *flags) as (process, _),
        mmapcache.open(cache_path, timeout=PATIENCE) as cache,
    ):
        for value in range(1, 6):
            store(source, value)
            wait_for(lambda: cache["sites"][1]["value"] == value)  # noqa: B023
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert cache.status()["loader"] == "none"


def test_what_was_written_meanwhile_is_whole_when_it_is_read_at_last(cache_path: Path) -> None:
    source = cache_path.with_name("sites.bson")
    store(source, 0)
    with started(cache_path, source, "--log-json") as (process, read):
        with mmapcache.open(cache_path, timeout=PATIENCE):
            pass
        text = drain(read, '"generation": 1')
        process.send_signal(signal.SIGTERM)
        text += drain(read, "stopped by SIGTERM")
        assert process.wait(PATIENCE) == 0
    for line in text.lstrip(".").splitlines():
        json.loads(line)


def lines_of(descriptor: int) -> list[str]:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode().lstrip(".").splitlines()


def test_the_queue_is_bounded_and_says_what_it_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlets, "CAPACITY", 100)
    read, write = blocked_pipe()
    outlet = Outlet(write, lambda count: f"lost {count}\n")
    for number in range(30):
        outlet.write(f"line {number:4}\n")
    outlet.write("bar", lines=0)
    drained: list[str] = []
    reader = threading.Thread(target=lambda: drained.extend(lines_of(read)))
    reader.start()
    wait_for(lambda: not outlet._pending)
    outlet.write("after\n")
    outlet.close()
    os.close(write)
    reader.join()
    assert drained == [*(f"line {number:4}" for number in range(10)), "lost 20", "after"]


def test_a_descriptor_that_refuses_is_tried_again_with_the_next_line(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    outlet = Outlet(full, lambda count: f"lost {count}\n")
    for number in range(3):
        outlet.write(f"{number}\n")
    wait_for(lambda: not outlet._pending)
    time.sleep(0.1)
    written = outlet._written
    assert written <= 5  # it does not try for ever by itself
    target = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(target, full)
    outlet.write("well\n")
    outlet.close()
    os.close(full)
    os.close(target)
    assert (tmp_path / "log").read_text() == "lost 3\nwell\n"


def test_a_pipe_that_does_not_block_loses_nothing() -> None:
    read, write = blocked_pipe()
    os.set_blocking(write, False)
    outlet = Outlet(write, lambda count: f"lost {count}\n")
    outlet.write("x" * 10_000 + "\n")
    drained: list[str] = []
    reader = threading.Thread(target=lambda: drained.extend(lines_of(read)))
    reader.start()
    outlet.close()
    os.close(write)
    reader.join()
    assert drained == ["x" * 10_000]


def test_closing_does_not_wait_for_a_reader_that_sleeps() -> None:
    read, write = blocked_pipe()
    outlet = Outlet(write, str)
    outlet.write("never read\n")
    began = time.monotonic()
    outlet.close(patience=0.2)
    assert time.monotonic() - began >= 0.2
    os.read(read, 65536)  # lets the thread end
    wait_for(lambda: not outlet._thread.is_alive())
    os.close(read)
    os.close(write)


def test_a_usage_error_that_cannot_be_written_ends_with_the_second_signal(
    cache_path: Path,
) -> None:
    read, write = blocked_pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "mmapcache", "sync", str(cache_path)], stderr=write
    )
    os.close(write)
    try:
        wait_for(lambda: catches(process, signal.SIGTERM))
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # two that are pending at the same time would be one
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        os.close(read)


ASIDE = """
import logging, sys
from mmapcache.sync import logs

finish = logs.configure(sys.argv[1], "text")
try:
    raise OSError("mongodb://user:secret@host: gone\\nTraceback")
except OSError:
    logging.getLogger("pymongo.client").exception("a background task encountered an error:")
finish()
"""


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_pymongo_complains_of_is_a_line_at_most(level: str) -> None:
    """Its logger would write a traceback to standard error, whoever reads that."""
    command = [sys.executable, "-c", ASIDE, level]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "secret" not in said
    assert said.count("\n") == (level == "debug")
    assert ("background task encountered an error: mongodb" in said) == (level == "debug")
