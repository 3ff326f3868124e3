"""A collection's name that was damaged in the file: said by readers, made anew by the loader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.loader import load_once

import mmapcache

NAME = b"collection-of-sites"
DAMAGE = {
    "not UTF-8": b"collection-of-s\xfftes",
    "another name": b"collection-of-sXtes",  # it lies where nobody looks for it
}


@pytest.fixture(params=DAMAGE.values(), ids=list(DAMAGE))
def damaged(request: pytest.FixtureRequest, cache_path: Path) -> Path:
    """A cache with one byte of the name changed, wherever the name is."""
    with mmapcache.Writer(cache_path, max_size="16MiB") as writer, writer.batch() as batch:
        batch.put(NAME.decode(), 1, {"_id": 1})
    image = cache_path.read_bytes()
    assert NAME in image
    cache_path.write_bytes(image.replace(NAME, request.param))
    return cache_path


def test_names_are_corrupt(damaged: Path) -> None:
    with mmapcache.open(damaged) as cache:
        with pytest.raises(mmapcache.CorruptError, match="catalogue"):
            list(cache)
        for view in (cache.keys, cache.values, cache.items):
            with pytest.raises(mmapcache.CorruptError):
                list(view())
        with pytest.raises(mmapcache.CorruptError, match="the name of a collection"):
            cache.catalogue()
        with pytest.raises(mmapcache.CorruptError):
            cache.check()
        with cache.snapshot() as snapshot, pytest.raises(mmapcache.CorruptError):
            list(snapshot)


@pytest.mark.parametrize(
    "command",
    [("ls",), ("dump",), ("stat",), ("check",), ("watch", "--count=1"), ("get", "sites", "1")],
    ids=lambda words: words[0],
)
def test_commands_say_it_in_a_sentence(damaged: Path, command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmapcache", command[0], str(damaged), *command[1:]],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert str(damaged) in done.stderr
    if command[0] != "check":
        assert "have the loader recreate it" in done.stderr


def test_the_loader_makes_the_file_anew(damaged: Path, tmp_path: Path) -> None:
    source = tmp_path / "sites.json"
    source.write_text('{"_id": 1}')
    status, output = load_once(damaged, ["--source", f"file:{source}"])
    assert status == 0, output
    assert "is corrupt and is made anew (1 so far)" in output
    assert str(damaged) in output
    assert "Traceback" not in output
    with mmapcache.open(damaged) as cache:
        assert list(cache) == ["sites"]
        assert json.loads(cache.state)["recreated"] == 1


@pytest.mark.parametrize(
    "state",
    [
        b'{"version": 1, "scope": "file", "recreated": "x"}',
        b'{"version": 1, "scope": "file", "recreated": null}',
        b'{"version": 1, "scope": "file", "recreated": 1e999}',
        b'{"version": 1, "scope": ["file"], "recreated": -3}',
        b"[" * 50_000,
        b"\xff\xfe",
    ],
    ids=lambda state: repr(state[-24:]),
)
def test_a_state_of_another_making_does_not_end_the_loader(
    cache_path: Path, tmp_path: Path, state: bytes
) -> None:
    with mmapcache.Writer(cache_path, max_size="16MiB") as writer, writer.batch() as batch:
        batch.state = state
    source = tmp_path / "sites.json"
    source.write_text('{"_id": 1}')
    status, output = load_once(cache_path, ["--source", f"file:{source}"])
    assert status == 0, output
    with mmapcache.open(cache_path) as cache:
        assert json.loads(cache.state)["recreated"] == 0
