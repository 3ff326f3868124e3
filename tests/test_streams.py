"""Every command with standard streams that are closed, full, or whose reader has gone."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.loader import PATIENCE, wait_for

import mmapcache

PRINTING = {
    "get": ["get", "CACHE", "sites", "1"],
    "get --bson": ["get", "CACHE", "sites", "1", "--bson"],
    "ls": ["ls", "CACHE"],
    "ls keys": ["ls", "CACHE", "sites"],
    "stat": ["stat", "CACHE"],
    "stat --json": ["stat", "CACHE", "--json"],
    "check": ["check", "CACHE"],
    "dump": ["dump", "CACHE"],
    "dump --format bson": ["dump", "CACHE", "sites", "--format=bson"],
    "watch": ["watch", "CACHE"],
    "watch --json": ["watch", "CACHE", "--json"],
    "help": ["--help"],
    "help of sync": ["sync", "--help"],
    "version": ["--version"],
}
LOADING = ["sync", "CACHE", "--source=file:SOURCE", "--interval=3600"]
WITHOUT = ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"]


@pytest.fixture
def source(cache_path: Path) -> Path:
    path = cache_path.with_name("sites.bson")
    path.write_bytes(b"\x19\0\0\0\x10_id\0\x01\0\0\0\x02n\0\x04\0\0\0\xe2\x82\xac\0\0")
    return path


@pytest.fixture
def filled(cache_path: Path, source: Path) -> Path:
    with (
        mmapcache.Writer(str(cache_path), max_size="16MiB") as writer,
        writer.batch() as batch,
    ):
        batch.put("sites", 1, source.read_bytes())
    return cache_path


def shell(
    cache: Path, arguments: list[str], redirections: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """The command with the shell's redirections; what is left of its streams are pipes."""
    places = {"CACHE": str(cache), "SOURCE": str(cache.with_name("sites.bson"))}
    line = " ".join([shlex.quote(sys.executable), "-m", "mmapcache", *arguments, redirections])
    for place, path in places.items():
        line = line.replace(place, path)
    return subprocess.Popen(
        ["bash", "-c", f"exec {line}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )


@pytest.mark.parametrize("stream", [">/dev/full", ">&-", "<&- >&-"])
@pytest.mark.parametrize("command", PRINTING)
def test_what_cannot_be_printed_is_status_1_and_a_sentence(
    filled: Path, command: str, stream: str
) -> None:
    process = shell(filled, PRINTING[command], stream)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    why = "No space left on device" if "full" in stream else "it is closed"
    assert said.startswith("mmapcache")
    assert said.endswith(f": cannot write to standard output: {why}\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("stream", [">/dev/full 2>&1", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", PRINTING)
def test_the_status_is_the_same_when_nothing_can_be_said(
    filled: Path, command: str, stream: str
) -> None:
    process = shell(filled, PRINTING[command], stream)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 1


@pytest.mark.parametrize("stream", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["get"], 2), (["sync", "CACHE"], 2), (["nonsense"], 2), ([], 2), (["ls", "CACHE.not"], 1)],
)
def test_an_error_that_cannot_be_said_keeps_its_status(
    filled: Path, arguments: list[str], status: int, stream: str
) -> None:
    process = shell(filled, arguments, stream)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, printed) == (status, "")


@pytest.mark.parametrize("stream", ["<&-", "2>&-", "<&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize("command", PRINTING)
def test_a_stream_that_is_not_needed_is_not_missed(filled: Path, command: str, stream: str) -> None:
    arguments = [*PRINTING[command], *(["--count=0"] if "watch" in command else [])]
    process = shell(filled, arguments, stream)
    printed, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (0, "")
    assert printed


@pytest.mark.parametrize("command", PRINTING)
def test_a_reader_that_has_gone_is_no_error(filled: Path, command: str) -> None:
    process = shell(filled, PRINTING[command], "")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as said:
        assert said.read() == ""
    assert process.wait(PATIENCE) == 0


def test_an_encoding_without_the_character_is_no_error(filled: Path) -> None:
    """JSON is ASCII then, with the same values."""
    process = shell(filled, PRINTING["dump"], "", {"PYTHONIOENCODING": "latin-1"})
    printed, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (0, "")
    assert printed.isascii()


@pytest.mark.parametrize("streams", WITHOUT)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_loader_runs_and_ends_without_streams(
    cache_path: Path, source: Path, streams: str, number: signal.Signals
) -> None:
    process = shell(cache_path, LOADING, streams)
    with mmapcache.open(cache_path, timeout=PATIENCE) as cache:
        wait_for(lambda: cache.status()["state"] == "polling")
        for descriptor in (0, 1, 2):  # none of them is the cache, its lock or the source
            target = str(Path(f"/proc/{process.pid}/fd/{descriptor}").readlink())
            assert target.startswith(("/dev/null", "/dev/full", "pipe:")), target
        process.send_signal(number)
        printed, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert printed == ""
        assert "Traceback" not in said
        assert ("generation 1:" in said) == ("2>" not in streams)
        assert (cache.status()["loader"], cache.status()["error"]) == ("none", None)
        cache.check()


@pytest.mark.parametrize("streams", WITHOUT)
def test_the_loaders_failures_keep_their_status_without_streams(
    cache_path: Path, streams: str
) -> None:
    process = shell(cache_path, [*LOADING, "--once", "--progress"], streams)
    printed, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, printed) == (1, "")
    assert ("there is no file" in said) == ("2>" not in streams)


def test_a_log_whose_reader_has_gone(cache_path: Path, source: Path) -> None:
    process = shell(cache_path, [*LOADING, "--log-level=debug"], "")
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdout is not None
    process.stdout.close()
    with mmapcache.open(cache_path, timeout=PATIENCE):
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_json_lines_stay_whole(filled: Path) -> None:
    process = shell(filled, ["dump", "CACHE", "--json"], "2>&-")
    printed, _ = process.communicate(timeout=PATIENCE)
    assert json.loads(printed)["document"]["n"] == "\u20ac"
