"""Paths that are not UTF-8: every command and every way to open takes them, and shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmapcache

NAME = b"caf\xe9-\xff"
SHOWN = r"caf\udce9-\udcff"


@pytest.fixture
def path(cache_path: Path) -> bytes:
    return os.fsencode(cache_path.parent) + b"/" + NAME


@pytest.fixture
def filled(path: bytes) -> bytes:
    with mmapcache.Writer(path, max_size="16MiB") as writer, writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})
    return path


def run(*arguments: str | bytes) -> subprocess.CompletedProcess[str]:
    words = [os.fsencode(sys.executable), b"-m", b"mmapcache", *map(os.fsencode, arguments)]
    done = subprocess.run(words, capture_output=True, timeout=60)
    return subprocess.CompletedProcess(
        words, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def test_open_takes_bytes_and_text(filled: bytes) -> None:
    text = os.fsdecode(filled)
    for form in (filled, text, Path(text)):
        with mmapcache.open(form) as cache:
            assert cache.path == cache.status()["path"] == text
            assert list(cache["sites"]) == [1]
            assert repr(cache) == f"<mmapcache.Cache {text!r}>"
    with mmapcache.Writer(filled) as writer:
        assert writer.path == text
        with writer.reader() as cache:
            assert list(cache) == ["sites"]


@pytest.mark.parametrize(
    ("command", "names_it"),
    [
        (["ls"], False),
        (["ls", "sites"], False),
        (["get", "sites", "1"], False),
        (["dump"], False),
        (["watch", "--count=0"], False),
        (["stat"], True),
        (["check"], True),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands(filled: bytes, command: list[str], names_it: bool) -> None:
    done = run(command[0], filled, *command[1:])
    assert (done.returncode, done.stderr) == (0, "")
    assert (SHOWN in done.stdout) == names_it
    done = run(command[0], filled, *command[1:], "--json")
    assert (done.returncode, done.stderr) == (0, "")
    for line in done.stdout.splitlines():
        value = json.loads(line)
        if names_it:
            assert value.get("status", value)["path"] == os.fsdecode(filled)


@pytest.mark.parametrize(
    "command", [["ls", "no"], ["get", "sites", "2"], ["get", "no", "2"], ["dump", "no"]]
)
def test_messages_name_it(filled: bytes, command: list[str]) -> None:
    done = run(command[0], filled, *command[1:])
    assert done.returncode == 1
    assert SHOWN in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["ls", "get", "dump", "stat", "check", "watch", "sync"])
def test_a_foreign_file(path: bytes, command: str) -> None:
    Path(os.fsdecode(path)).write_bytes(b"not a cache\n" * 1000)
    Path(os.fsdecode(path)).chmod(0o640)
    rest = {"get": ["sites", "1"], "sync": ["--source=file:/dev/null.json", "--once"]}
    done = run(command, path, *rest.get(command, []))
    assert done.returncode == 1
    assert SHOWN in done.stderr
    assert "not a cache" in done.stderr
    assert "Traceback" not in done.stderr


def test_dump_into_such_a_directory(filled: bytes) -> None:
    directory = filled + b".out"
    assert f"{SHOWN}.out/sites.json" in run("dump", filled, "--out", directory).stdout
    (line,) = run("dump", filled, "--out", directory, "--json").stdout.splitlines()
    assert os.fsencode(json.loads(line)["file"]) == directory + b"/sites.json"


def test_the_loader(path: bytes) -> None:
    directory = Path(os.fsdecode(path + b".source"))
    directory.mkdir()
    (directory / "sites.json").write_text('{"_id": 1}')
    flags = ["--once", "--timeout=0"]
    for _ in range(2):  # a new file, and one that is there
        done = run("sync", path, "--source", f"file:{directory}", *flags)
        assert done.returncode == 0, done.stderr
        assert f"{SHOWN}.source -> " in done.stderr
        (directory / "sites.json").write_text('{"_id": 2}')
    with mmapcache.open(path) as cache:
        assert list(cache["sites"]) == [2]
        assert SHOWN in str(cache.status()["source"])
    for flag in ("--config", "--uri-file"):
        done = run("sync", path, "--database=shop", flag, path + b".no")
        assert done.returncode == 2
        assert f"{SHOWN}.no: No such file or directory" in done.stderr
