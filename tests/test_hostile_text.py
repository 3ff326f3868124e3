"""Names, keys, states and errors that a terminal or a log would obey: shown, never obeyed."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.loader import Loader, load_once

import mmapcache
from mmapcache.printing import json_text, printable
from mmapcache.sync.logs import JsonFormatter, TextFormatter

# Clears the screen, begins a line, retitles the window (C1), turns the direction of text, deletes.
EVIL = "\x1b[2Jname\nINFO all is well\r\x9d0;title\x9c\u202egnirts\u2028\x7f\x00\tend"
SHOWN = r"\x1b[2Jname\nINFO all is well\r\x9d0;title\x9c\u202egnirts\u2028\x7f\x00\tend"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
NAME = EVIL.replace("\x00", "")


@pytest.fixture
def hostile(cache_path: Path) -> Path:
    """A cache with such names and keys, whose loader has reported such texts."""
    with mmapcache.Writer(cache_path, max_size="16MiB") as writer:
        with writer.batch() as batch:
            batch.put(NAME, EVIL, {"_id": EVIL, EVIL.replace("\x00", ""): EVIL})
            batch.put(NAME, 1, {"_id": 1})
        texts = {key: f"{key} {NAME}" for key in ("state", "error", "source")}
        writer.report(**texts)  # type: ignore[arg-type]
    return cache_path


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mmapcache", *map(str, arguments)],
        capture_output=True,
        timeout=60,
        env=os.environ | environment,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def test_printable() -> None:
    assert printable(EVIL) == SHOWN
    plain = "Köln 東京 \U0001f600 a\\nb \u05d0\u05d1 \u200d"
    assert printable(plain) == plain
    assert printable("/tmp/\udcff") == r"/tmp/\udcff"


def test_json_text_is_the_same_value() -> None:
    value = {EVIL: [EVIL, "Köln \U0001f600"], "bytes": "\udcff"}
    for indent in (None, 2):
        for ascii_only in (False, True):
            text = json_text(value, indent=indent, ascii_only=ascii_only)
            assert json.loads(text) == value
            assert not UNSAFE.search(text)
            assert text.isascii() or not ascii_only
            assert text.count("\n") == (0 if indent is None else 6)


@pytest.mark.parametrize(
    "command",
    [
        ("ls", []),
        ("ls", [NAME]),
        ("stat", []),
        ("stat", ["--quick"]),
        ("check", []),
        ("watch", ["--count=0"]),
        ("get", [NAME, json.dumps(EVIL)]),
        ("get", [NAME, "1"]),
        ("dump", []),
        ("dump", [NAME]),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_commands(hostile: Path, command: tuple[str, list[str]], flags: list[str]) -> None:
    done = run(command[0], hostile, *command[1], *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert not UNSAFE.search(done.stdout), done.stdout
    lines = done.stdout.splitlines()
    assert not any(line.startswith("INFO") for line in lines)
    if flags:
        assert all(json.loads(line) is not None for line in lines)
        ascii_only = run(command[0], hostile, *command[1], *flags, PYTHONIOENCODING="ascii")
        assert ascii_only.returncode == 0, ascii_only.stderr
        # `age` moves.
        if command[0] != "stat":
            assert list(map(json.loads, ascii_only.stdout.splitlines())) == list(
                map(json.loads, lines)
            )


def test_stat_shows_what_the_loader_reported(hostile: Path) -> None:
    shown = printable(NAME)
    text = run("stat", hostile).stdout
    assert f"state {shown}"[:30] in text  # a state is cut at its field's length
    for key in ("error", "source"):
        assert f"{key} {shown}" in text
    (facts,) = [json.loads(line) for line in run("stat", hostile, "--json").stdout.splitlines()]
    assert facts["status"]["error"] == f"error {NAME}"
    assert facts["collections"][NAME]["documents"] == 2


def test_watch_names_what_changed(hostile: Path) -> None:
    for flags in ([], ["--json"]):
        with subprocess.Popen(
            [sys.executable, "-m", "mmapcache", "watch", hostile, "--count=1", *flags],
            stdout=subprocess.PIPE,
        ) as watch:
            assert watch.stdout is not None
            printed = watch.stdout.readline()
            with mmapcache.Writer(hostile) as writer, writer.batch() as batch:
                batch.put(NAME, f"{EVIL}{flags}", {"_id": 1})
            printed += watch.stdout.read()
        assert not UNSAFE.search(printed.decode()), printed
        assert b"\nINFO" not in printed
        assert b"gnirts" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "PATH", NAME + "x"],
        ["dump", "PATH", NAME + "x"],
        ["get", "PATH", NAME + "x", "1"],
        ["get", "PATH", NAME, NAME + "x"],
        ["get", "PATH", NAME, "1", "--pluck", NAME],
        ["get", "PATH", NAME, '{"$oid": "' + NAME + '"}'],
        ["stat", NAME],
        ["check", NAME],
        ["stat", "PATH", "--timeout", NAME],
        ["stat", "PATH", "--" + NAME],
        [NAME],
        ["sync", "PATH", "--interval", NAME],
        ["sync", "PATH", "--uri", "mongodb://h/", "--collection", NAME],
        ["sync", "PATH", "--uri", "mongodb://h/", "--collection", "a.b=" + NAME * 9],
        ["sync", "PATH", "--uri", "mongodb://h/", "--database", NAME],
        ["sync", "PATH", "--source", "file:" + NAME],
        ["sync", "PATH", "--source", "file:" + NAME + ".json", "--once", "--timeout=0"],
        ["sync", "PATH", "--config", NAME],
        ["sync", "PATH", "--uri-file", NAME, "--database", "d"],
    ],
    ids=lambda words: " ".join(words)[:30].encode("unicode_escape").decode(),
)
def test_what_was_typed_is_shown_in_errors(hostile: Path, arguments: list[str]) -> None:
    done = run(*(str(hostile) if word == "PATH" else word for word in arguments))
    assert done.returncode in (1, 2)
    assert done.stderr
    assert not UNSAFE.search(done.stderr), done.stderr
    assert "\nINFO" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_loaders_log(cache_path: Path, tmp_path: Path) -> None:
    evil = tmp_path / f"{NAME}.json"
    evil.write_text('{"_id": 1}')
    for style in ("text", "json"):
        flags = ["--source", f"file:{tmp_path}", "--log-level=debug", "--log-format", style]
        status, output = load_once(cache_path, [*flags, "--progress"])
        assert status == 0, output
        evil.write_text("[")
        status, output = load_once(cache_path, [*flags, "--timeout=0"])
        assert status == 1, output
        evil.write_text('{"_id": 1}')
        assert not UNSAFE.search(output.replace("\r", "")), output  # the bar returns to its start
        lines = output.splitlines()
        if style == "json":
            assert any(NAME in json.loads(line)["message"] for line in lines)
        else:
            assert all(re.match(r"\d{4}-\d\d-\d\dT", line) for line in lines), output
    with mmapcache.open(cache_path) as cache:
        assert not UNSAFE.search(str(cache.status()["error"]) + str(cache.status()["source"]))


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_tracebacks_in_a_log(formatter: logging.Formatter) -> None:
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "f", 1, "%s", (EVIL,), (ValueError, error, error.__traceback__)
        )
    first, *rest = formatter.format(record).split("\n")
    assert not UNSAFE.search(first + "".join(rest))
    assert all(line.startswith("  ") for line in rest)
    if isinstance(formatter, JsonFormatter):
        assert EVIL in json.loads(first)["traceback"]


def test_a_file_name_that_is_no_text_is_refused(cache_path: Path, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"sites\xff.json")).write_text('{"_id": 1}')
    with Loader(cache_path, ["--source", f"file:{tmp_path}", "--once"]) as loader:
        assert loader.wait() == 1
        assert r"sites\udcff" in loader.output
        assert "cannot be a collection's name" in loader.output
        assert "Traceback" not in loader.output
