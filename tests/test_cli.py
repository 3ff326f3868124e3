"""The command line as users run it: on live, dead, foreign, missing and corrupt files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

import mmapcache

bson = pytest.importorskip("bson")

SITES: dict[object, dict[str, Any]] = {
    "9f3c": {"_id": "9f3c", "limits": {"qps": 20}, "domains": ["a.example", "b.example"]},
    5: {"_id": 5, "name": "an integer"},
    "5": {"_id": "5", "name": "a string"},
    bson.ObjectId("5f3c5f3c5f3c5f3c5f3c5f3c"): {"_id": bson.ObjectId("5f3c" * 6), "name": "oid"},
    uuid.UUID(int=7): {"_id": bson.Binary.from_uuid(uuid.UUID(int=7)), "name": "uuid"},
}


def run(
    *arguments: str | Path, stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    """``mmapcache ARGUMENTS`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "mmapcache", *map(str, arguments)],
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[Any]:
    """The JSON values that a command printed, one per line; it must have succeeded."""
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one sentence that a command failed with."""
    assert done.returncode == status, (done.stdout, done.stderr)
    assert done.stderr.startswith("mmapcache "), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def fill(writer: mmapcache.Writer) -> None:
    """Two collections, one generation."""
    with writer.batch() as batch:
        for key, document in SITES.items():
            batch.put("sites", key, bson.encode(document))
        for number in range(10):
            batch.put("limits", number, {"_id": number, "qps": number * 10})


@pytest.fixture
def dead_path(cache_path: Path) -> Path:
    """A cache whose loader has closed it."""
    with mmapcache.Writer(str(cache_path), max_size="16MiB") as writer:
        fill(writer)
    return cache_path


@pytest.fixture
def writer(writer: mmapcache.Writer) -> mmapcache.Writer:
    """A loader that is alive in this process, its cache filled."""
    fill(writer)
    return writer


# ---- the command itself ----


def test_help_of_every_command() -> None:
    for command in ("get", "ls", "dump", "stat", "check", "watch", "serve", "sync"):
        done = run(command, "--help")
        assert done.returncode == 0, done.stderr
        assert f"mmapcache {command}" in done.stdout
        assert "Exit status" in done.stdout


def test_version_and_usage() -> None:
    assert run("--version").stdout.startswith("mmapcache ")
    assert run().returncode == 2
    assert run("frobnicate").returncode == 2
    assert run("get").returncode == 2


def test_looking_needs_no_pymongo(dead_path: Path) -> None:
    program = f"""
import sys
sys.modules["bson"] = sys.modules["pymongo"] = None
from mmapcache.cli import main
for words in (["ls"], ["ls", "limits"], ["dump", "limits"], ["get", "sites", "9f3c"]):
    assert main([words[0], {str(dead_path)!r}, *words[1:]]) == 0, words
assert main(["stat", {str(dead_path)!r}]) == main(["check", {str(dead_path)!r}]) == 0
assert main(["ls", {str(dead_path)!r}, "sites"]) == 0
assert main(["get", {str(dead_path)!r}, "sites", '{{"$oid": "{"5f3c" * 6}"}}']) == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- get ----


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("5", "an integer"),
        ("5.0", "an integer"),
        ('{"$numberLong": "5"}', "an integer"),
        ('"5"', "a string"),
        ('{"$oid": "5f3c5f3c5f3c5f3c5f3c5f3c"}', "oid"),
        (f'{{"$uuid": "{uuid.UUID(int=7)}"}}', "uuid"),
    ],
)
def test_get_reads_the_key_as_extended_json(dead_path: Path, key: str, name: str) -> None:
    (document,) = lines(run("get", dead_path, "sites", key, "--json"))
    assert document["name"] == name


def test_get_shapes(writer: mmapcache.Writer) -> None:
    path = writer.path
    plain = run("get", path, "sites", "9f3c")
    assert json.loads(plain.stdout) == SITES["9f3c"]
    assert plain.stdout.count("\n") > 5
    (canonical,) = lines(run("get", path, "sites", "9f3c", "--json", "--canonical"))
    assert canonical["limits"] == {"qps": {"$numberInt": "20"}}
    (plucked,) = lines(run("get", path, "sites", "9f3c", "--json", "--pluck", "domains.1"))
    assert plucked == "b.example"
    raw = subprocess.run(
        [sys.executable, "-m", "mmapcache", "get", path, "sites", "9f3c", "--bson"],
        capture_output=True,
        check=True,
    )
    assert bson.decode(raw.stdout) == SITES["9f3c"]


def test_get_failures_are_sentences(dead_path: Path) -> None:
    assert "no document nobody" in refused(run("get", dead_path, "sites", "nobody"))
    assert "there are: limits, sites" in refused(run("get", dead_path, "sitez", "x"))
    assert "array" in refused(run("get", dead_path, "sites", "[1]"))
    assert "Extended JSON" in refused(run("get", dead_path, "sites", '{"$oid": "short"}'))
    assert "no field" in refused(run("get", dead_path, "sites", "9f3c", "--pluck", "limits.x"))
    with mmapcache.Writer(str(dead_path)) as writer, writer.batch() as batch:
        batch.delete("sites", 5)
    assert "write '\"5\"'" in refused(run("get", dead_path, "sites", "5"))


# ---- ls, dump ----


def test_ls(dead_path: Path) -> None:
    assert lines(run("ls", dead_path, "--json")) == [
        {"collection": "limits", "documents": 10},
        {"collection": "sites", "documents": 5},
    ]
    assert "sites" in run("ls", dead_path).stdout
    assert sorted(lines(run("ls", dead_path, "limits", "--json"))) == list(range(10))
    keys = run("ls", dead_path, "sites").stdout.splitlines()
    assert '"5"' in keys
    assert "9f3c" in keys
    for key in keys:  # what ls prints, get finds
        assert run("get", dead_path, "sites", key).returncode == 0


def test_dump_gives_everything_back(dead_path: Path, tmp_path: Path) -> None:
    documents = lines(run("dump", dead_path, "limits"))
    assert sorted(d["qps"] for d in documents) == [n * 10 for n in range(10)]
    named = lines(run("dump", dead_path))
    assert {d["collection"] for d in named} == {"limits", "sites"}
    assert len(named) == 15
    canonical = lines(run("dump", dead_path, "limits", "--format", "canonical"))
    assert {"$numberInt": "30"} in [d["qps"] for d in canonical]
    out = tmp_path / "out"
    done = run("dump", dead_path, "--format", "bson", "--out", out)
    assert done.returncode == 0
    stored = bson.decode_all((out / "sites.bson").read_bytes())
    assert sorted(map(repr, stored)) == sorted(map(repr, SITES.values()))
    assert "exclude" in refused(run("dump", dead_path, "--format", "bson", "--json"), 2)
    assert "--out" in refused(run("dump", dead_path, "--format", "bson"), 2)


def test_dump_into_a_pipe_that_closes(dead_path: Path) -> None:
    with mmapcache.Writer(str(dead_path)) as writer, writer.batch() as batch:
        for number in range(5000):
            batch.put("limits", number, {"_id": number, "text": "x" * 100})
    command = f"{sys.executable} -m mmapcache dump {dead_path} limits | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["text"]
    assert done.stderr == ""


# ---- stat, check ----


def test_stat(writer: mmapcache.Writer) -> None:
    (facts,) = lines(run("stat", writer.path, "--json"))
    assert facts["status"]["generation"] == 1
    assert facts["status"]["loader"] == "alive"
    assert facts["collections"]["limits"]["documents"] == 10
    assert facts["collections"]["limits"]["bytes"] > 100
    assert facts["stats"]["max_size"] == 32 << 20
    assert sum(int(size) * n for size, n in facts["free_blocks"].items()) > 0
    assert facts["problem"] is None
    (quick,) = lines(run("stat", writer.path, "--json", "--quick"))
    assert quick["collections"] == {"limits": {"documents": 10}, "sites": {"documents": 5}}
    text = run("stat", writer.path).stdout
    for word in ("generation", "age", "loader", "largest block", "limit", "sites", "free block"):
        assert word in text


def test_stat_of_a_dead_file(dead_path: Path) -> None:
    (facts,) = lines(run("stat", dead_path, "--json"))
    assert facts["status"]["loader"] == "none"


def test_stat_names_a_loader_that_was_killed(cache_path: Path) -> None:
    program = f"""
import mmapcache, os, signal
writer = mmapcache.Writer({str(cache_path)!r}, max_size="16MiB")
with writer.batch() as batch:
    batch.put("sites", "x", {{"_id": "x"}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    (facts,) = lines(run("stat", cache_path, "--json"))
    assert facts["status"]["loader"] == "dead"
    assert "dead" in run("stat", cache_path).stdout


def test_check_of_a_clean_file(writer: mmapcache.Writer) -> None:
    done = run("check", writer.path)
    assert done.returncode == 0
    assert "is clean: generation" in done.stdout
    (found,) = lines(run("check", writer.path, "--json"))
    assert found["clean"] is True
    assert found["collections"]["sites"]["documents"] == 5


def test_check_of_a_flipped_document(dead_path: Path) -> None:
    image = bytearray(dead_path.read_bytes())
    at = image.index(b"b.example")
    image[at] ^= 1
    dead_path.write_bytes(image)
    assert refused(run("check", dead_path)).startswith("mmapcache check: ")
    done = run("check", dead_path, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["clean"] is False
    (facts,) = lines(run("stat", dead_path, "--json"))
    assert facts["problem"], "stat shows what it can and names the damage"
    assert facts["collections"]["sites"] == {"documents": 5}
    assert "CORRUPT: " in run("stat", dead_path).stdout


# ---- every command on what is not a cache ----


COMMANDS = [
    ("get", "sites", "x"),
    ("ls",),
    ("dump",),
    ("stat",),
    ("check",),
    ("watch", "--count", "1"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("kind", ["missing", "foreign", "empty", "corrupt", "directory", "link"])
def test_what_is_not_a_cache(dead_path: Path, command: tuple[str, ...], kind: str) -> None:
    path = dead_path.with_name(kind)
    if kind == "foreign":
        path.write_bytes(b"#!/bin/sh\n" * 10_000)
        path.chmod(0o640)
    elif kind == "empty":
        path.touch(0o640)
    elif kind == "corrupt":
        image = bytearray(dead_path.read_bytes())
        image[64:4096] = os.urandom(4096 - 64)
        path.write_bytes(image)
        path.chmod(0o640)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(dead_path)
    sentence = refused(run(command[0], path, *command[1:]))
    assert kind in sentence, "the sentence names the file"


# ---- watch ----


def watching(path: str | Path, *arguments: str) -> subprocess.Popen[str]:
    """``mmapcache watch``, started and past its first line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mmapcache", "watch", str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "generation" in process.stdout.readline()
    return process


def test_watch_names_what_changed(writer: mmapcache.Writer) -> None:
    process = watching(writer.path, "--json", "--count", "2")
    with writer.batch() as batch:
        batch.put("sites", "new", {"_id": "new"})
        batch.put("limits", 3, {"_id": 3, "qps": 1})
        batch.delete("limits", 4)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    with writer.batch() as batch:
        batch.drop("sites")
        batch.put("fresh", True, {"_id": True})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert first["event"] == "generation"
    assert first["changes"]["sites"]["added"] == {"count": 1, "keys": ["new"]}
    assert first["changes"]["limits"]["changed"]["keys"] == [3]
    assert first["changes"]["limits"]["removed"]["keys"] == [4]
    second = json.loads(out)
    assert second["changes"]["sites"]["vanished"] is True
    assert second["changes"]["fresh"]["appeared"] is True


def test_watch_for_people(writer: mmapcache.Writer) -> None:
    process = watching(writer.path, "--count", "1", "--keys", "1")
    with writer.batch() as batch:
        batch.delete("limits", 4)
        batch.delete("limits", 5)
    out, _ = process.communicate(timeout=30)
    assert out.splitlines()[0] == "generation 2"
    assert "  limits: -2 (" in out
    assert "...)" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_ends_on_signals(dead_path: Path, number: signal.Signals) -> None:
    process = watching(dead_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_watch_ends_when_nobody_reads(dead_path: Path) -> None:
    process = watching(dead_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=10) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_watch_says_that_the_loader_went(writer: mmapcache.Writer) -> None:
    process = watching(writer.path, "--json")
    writer.close()
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"event": "loader", "loader": "none"}
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0
