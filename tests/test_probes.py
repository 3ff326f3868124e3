"""What tells an operator the truth: `stat` as a probe, its JSON, and a loader's first failure."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.loader import Loader, load_once, wait_for

import mmapcache
from mmapcache.cli import _COMMANDS, main
from mmapcache.sync.parsing import bytes_of

SECRET = "hunter2secret"
UNREACHABLE = f"mongodb://ann:{SECRET}@127.0.0.1:1/?serverSelectionTimeoutMS=100"


class Said:
    """What a command answered."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def facts(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        assert self.out.count("\n") == 1, self.out
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def stat(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs ``mmapcache stat ARGUMENTS`` in this process."""

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        try:
            status = main(["stat", *map(str, arguments)])
        except SystemExit as end:
            status = int(str(end.code))
        return Said(status, *capfd.readouterr())

    return run


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """``mmapcache ARGUMENTS`` as a process."""
    command = [sys.executable, "-m", "mmapcache", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def publish(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})


# ---- the probe ----


def test_a_probe_of_age_and_loader(cache_path: Path, stat: Callable[..., Said]) -> None:
    both = ("--max-age", 60, "--require-loader")
    with mmapcache.Writer(cache_path, max_size="8MiB") as writer:
        publish(writer)
        writer.report(state="streaming", confirmed=time.time())
        said = stat(cache_path, *both)
        assert (said.status, said.err) == (0, "")
        assert "sites" in said.out
        writer.report(state="degraded", error="no route\x1b[7m", confirmed=time.time() - 100)
        said = stat(cache_path, *both)
        assert said.status == 1
        assert said.err.count("\n") == 1
        for words in ("is 1 min 40 s, more than 60 s", "is running", r"no route\x1b[7m", "cache:"):
            assert words in said.err
        assert "1 min 40 s" in said.out
        assert stat(cache_path, "--max-age", 1000, "--require-loader").status == 0
        assert stat(cache_path, "--require-loader").status == 0
        assert stat(cache_path).status == 0, "without the flags it is no probe"
    said = stat(cache_path, *both)
    assert (said.status, "the last one has ended: start" in said.err) == (1, True)
    assert stat(cache_path, "--max-age", 1000).status == 0, "who asks for the age gets the age"
    facts = stat(cache_path, *both, "--json").facts
    assert "has ended" in facts["failed"]
    assert facts["status"]["error"].startswith("no route")


def test_a_probe_of_a_killed_loader(cache_path: Path, stat: Callable[..., Said]) -> None:
    program = f"""
import mmapcache, os, signal
writer = mmapcache.Writer({str(cache_path)!r}, max_size="8MiB")
with writer.batch() as batch:
    batch.put("sites", 1, {{"_id": 1}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    said = stat(cache_path, "--require-loader")
    assert (said.status, "was killed" in said.err) == (1, True)
    said = stat(cache_path, "--max-age", 0)
    assert (said.status, "the loader was killed" in said.err) == (1, True)


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "soon"])
def test_a_probe_takes_seconds(cache_path: Path, stat: Callable[..., Said], wrong: str) -> None:
    said = stat(cache_path, f"--max-age={wrong}")
    assert said.status == 2
    assert "--max-age: it must be seconds, 0 or more" in said.err


# ---- JSON, whatever happens ----


def _unpublished(path: Path) -> None:
    with mmapcache.Writer(path, max_size="8MiB") as writer:
        writer.report(state="degraded", error="the\x1b[7m reason", source="mongodb://h")


def _content(content: bytes) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.write_bytes(content)
        path.chmod(0o640)

    return put


def _damaged(offset: int, content: bytes) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        with mmapcache.Writer(path, max_size="8MiB") as writer:
            publish(writer)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    return put


def _truncated(path: Path) -> None:
    _damaged(0, b"")(path)
    os.truncate(path, 4096)


def _everybodys(path: Path) -> None:
    _damaged(0, b"")(path)
    path.chmod(0o666)


def _forbidden(path: Path) -> None:
    _damaged(0, b"")(path)
    path.chmod(0)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "there is no cache at"),
    "unpublished": (_unpublished, r"It says why: the\x1b[7m reason"),
    "empty": (_content(b""), "too short"),
    "foreign": (_content(b"#!/bin/sh\n" * 10_000), "not a cache file"),
    "directory": (Path.mkdir, "not a regular file"),
    "link": (lambda path: path.symlink_to("/nowhere"), "symbolic link"),
    "fifo": (os.mkfifo, "not a regular file"),
    "another version": (_damaged(8, b"\x63"), "format version 99"),
    "another byte order": (_damaged(12, b"\1\2\3\4"), "byte order"),
    "a damaged superblock": (_damaged(40, b"\0" * 32), "superblock is damaged"),
    "a damaged root": (_damaged(16384, b"\1" * 1024), "root of generation 1 is damaged"),
    "truncated": (_truncated, "truncated"),
    "writable for all": (_everybodys, "writable for everybody"),
    "forbidden": (_forbidden, os.strerror(errno.EACCES)),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_json_of_what_cannot_be_read(
    cache_path: Path, stat: Callable[..., Said], kind: str
) -> None:
    if kind == "forbidden" and os.geteuid() == 0:
        pytest.skip("root may open every file")
    make, words = UNREADABLE[kind]
    make(cache_path)
    for probe in ((), ("--max-age", 60, "--require-loader")):
        said = stat(cache_path, "--json", *probe)
        assert said.status == 1
        facts = said.facts
        assert set(facts) == {"status", "stats", "problem", "collections", "failed"}
        assert words in facts["failed"]
        assert str(cache_path) in facts["failed"]
        assert said.err == f"mmapcache stat: {facts['failed']}\n"
    if kind == "unpublished":
        assert facts["status"] == {
            "path": str(cache_path),
            "generation": 0,
            "loader": "none",
            "state": "degraded",
            "error": "the\x1b[7m reason",
            "source": "mongodb://h",
        }
    else:
        assert facts["status"] is None


def test_json_of_wrong_usage(cache_path: Path, stat: Callable[..., Said]) -> None:
    said = stat(f"mongodb://ann:{SECRET}@h/", "--json")
    assert (said.status, SECRET in said.out + said.err) == (2, False)
    assert "must be the path of a file" in said.facts["failed"]
    with mmapcache.Writer(cache_path, max_size="8MiB") as writer:
        publish(writer)
        said = stat(cache_path, "--json", "--owner", "nobody-of-that-name")
        assert (said.status, "nobody-of-that-name" in said.facts["failed"]) == (2, True)
        facts = stat(cache_path, "--json").facts
        assert (facts["failed"], facts["problem"]) == (None, None)


# ---- a loader that has never loaded says why ----


def test_a_first_failure_is_told(cache_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pymongo")
    flags = ["--uri", UNREACHABLE, "--collection", "shop.sites", "--timeout", "0"]
    status, output = load_once(cache_path, flags)
    assert status == 1
    why = output.splitlines()[-1].split("error   ")[1]
    assert "127.0.0.1:1" in why
    with pytest.raises(mmapcache.NotReadyError) as caught:
        mmapcache.open(cache_path)
    error = caught.value
    text = "the loader has not published anything yet (it has ended). It says why: "
    assert str(error) == text + str(error.error)
    assert (error.loader, error.state) == ("none", "degraded")
    assert str(error.source).startswith("mongodb://127.0.0.1:1")
    assert str(error.error)[:200] == why[:200]
    for command, *rest in (["get", "s", "1"], ["ls"], ["dump"], ["stat"], ["check"], ["watch"]):
        capfd.readouterr()
        assert main([command, str(cache_path), *rest]) == 1
        shown = "".join(capfd.readouterr())
        assert text in shown
        assert SECRET not in shown + str(error) + output


def test_a_loader_that_tries_and_one_that_was_killed(
    cache_path: Path, stat: Callable[..., Said]
) -> None:
    pytest.importorskip("pymongo")
    with Loader(cache_path, ["--uri", UNREACHABLE, "--collection", "shop.sites"]) as loader:
        running = "(it is running). It says why: "
        wait_for(lambda: running in stat(cache_path).err)
        loader.signal(signal.SIGKILL)
        loader.wait()
    assert "(it was killed). It says why: " in stat(cache_path).err
    assert stat(cache_path, "--json").facts["status"]["loader"] == "dead"


def test_the_attributes_are_there_without_a_file(cache_path: Path) -> None:
    with pytest.raises(mmapcache.NotReadyError) as caught:
        mmapcache.open(cache_path)
    error = caught.value
    assert (error.loader, error.state, error.error, error.source) == (None,) * 4
    assert mmapcache.NotReadyError("mine").loader is None


# ---- errors that teach ----


# Of each command, what it cannot do without, and a flag of its own that is easily mistyped.
MISTYPED = {
    "get": (["a", "b", "c"], "--timeot", "--timeout"),
    **{name: (["a"], "--timeot", "--timeout") for name in ("ls", "dump", "stat", "check", "watch")},
    "serve": (["a", "--http=localhost:0"], "--max-ago", "--max-age"),
    "sync": (["a"], "--timeot", "--timeout"),
    "ring status": (["a"], "--jsno", "--json"),
    "ring add": (["a", "--zookeeper=h:1/r"], "--detahc", "--detach"),
    "completion": (["bash"], "--hepl", "--help"),
}


def test_each_command_is_mistyped() -> None:
    assert {command.split()[0] for command in MISTYPED} == set(_COMMANDS)


@pytest.mark.parametrize("command", MISTYPED)
def test_an_unknown_flag_shows_the_usage_of_its_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needed, flag, meant = MISTYPED[command]
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), *needed, f"{flag}=3", "--zzz"])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"usage: mmapcache {command} ")
    assert f"unrecognized arguments: {flag}=3 (did you mean {meant}?) --zzz\n" in err


@pytest.mark.parametrize(
    "size",
    [
        *("1.5GiB", "0.5GiB", "2097153", "3 MiB", "2.5 gib", "64mb", "10.25MB", "4096k", "0.1T"),
        "0.031457281GB",  # which no double is
    ],
)
def test_a_size_is_the_same_everywhere(size: str) -> None:
    extent = 2 << 20
    with mmapcache.Writer.anonymous(max_size=size, collapse=False) as writer:
        assert writer.stats()["max_size"] == -(-bytes_of(size) // extent) * extent


def wrong_paths(directory: Path) -> dict[str, Path]:
    """By what is wrong, a path at which no cache can be."""
    program = directory / "program"
    program.write_text("#!/bin/sh\nexit 0\n" * 100)
    (directory / "folder").mkdir()
    (directory / "link").symlink_to(program)
    return {
        "not a cache file": program,
        "not a regular file": directory / "folder",
        "symbolic link": directory / "link",
        "there is no directory for": directory / "none" / "cache",
    }


def test_sync_into_a_wrong_path_leaves_nothing(cache_path: Path) -> None:
    directory = cache_path.parent
    source = directory / "sites.json"
    source.write_text('[{"_id": 1}]')
    paths = wrong_paths(directory)
    before = sorted(directory.rglob("*"))
    for words, path in paths.items():
        for recreate in (False, True):
            if recreate and words in ("not a cache file", "symbolic link"):
                continue  # which --recreate replaces
            with pytest.raises((mmapcache.FormatError, OSError)) as caught:
                mmapcache.Writer(path, recreate=recreate)
            assert words in str(caught.value)
            assert sorted(directory.rglob("*")) == before
    done = run("sync", directory / "program", "--source", f"file:{source}", "--once")
    assert (done.returncode, "not a cache file" in done.stderr) == (1, True), done.stderr
    assert sorted(directory.rglob("*")) == before
