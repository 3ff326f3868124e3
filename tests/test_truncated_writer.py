"""A cache file truncated under its loader: CorruptError, whatever it was doing, and a new file.

The file is cut by another process while the loader is in a call, or between two calls. Every call
ends, with what it is for or with CorruptError; nothing is published after that, and a Writer that
recreates the file goes on.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.loader import Loader, wait_for

import mmapcache

bson = pytest.importorskip("bson")

PAGE = 4096
DOCUMENTS = 3000

# Cuts the file that is named once, at a random moment after it is asked to.
CUTTER = """
import os, sys, time
for line in sys.stdin:
    delay, size = line.split()
    print(flush=True)
    time.sleep(float(delay))
    os.truncate(sys.argv[1], int(size))
    print(flush=True)
"""


def raw(turn: int, documents: int = DOCUMENTS) -> bytes:
    return b"".join(
        bson.encode({"_id": n, "turn": turn, "pad": "x" * (n % 90)}) for n in range(documents)
    )


BUFFERS = [raw(turn) for turn in range(4)]


def put_raw(writer: mmapcache.Writer, turn: int) -> None:
    with writer.batch() as batch:
        batch.put_raw("sites", BUFFERS[turn % 4])


def replace(writer: mmapcache.Writer, turn: int) -> None:
    with writer.batch() as batch, batch.replace("sites") as sites:
        sites.put_raw(BUFFERS[turn % 4][: len(BUFFERS[0]) if turn % 2 else 0])


def put_and_delete(writer: mmapcache.Writer, turn: int) -> None:
    with writer.batch() as batch:
        for key in range(200):
            batch.put("flags", key, {"_id": key, "turn": turn})
        for key in range(0, 200, 2):
            batch.delete("flags", key)
        batch.state = b"turn %d" % turn


def drop(writer: mmapcache.Writer, turn: int) -> None:
    with writer.batch() as batch:
        batch.drop("sites")
        batch.put(f"table {turn % 50}", 1, {"_id": turn})


def look(writer: mmapcache.Writer, turn: int) -> None:
    del turn
    writer.report(state="polling")
    assert writer.state is not None
    assert writer.generation >= 0
    writer.status()
    writer.stats()
    with writer.reader() as cache:
        assert cache.generation >= 0
        assert cache["sites"].get(1) is None or cache["sites"][1]["_id"] == 1


def checkpoint(writer: mmapcache.Writer, turn: int) -> None:
    del turn
    writer.checkpoint()


CALLS: list[Callable[[mmapcache.Writer, int], None]] = [
    put_raw,
    replace,
    put_and_delete,
    drop,
    look,
    checkpoint,
]
ERRORS = (mmapcache.CorruptError, mmapcache.NotReadyError, mmapcache.SnapshotExpired)


def open_anew(path: Path) -> mmapcache.Writer:
    """A new file in the place of whatever is there, with some documents."""
    path.unlink(missing_ok=True)
    writer = mmapcache.Writer(path, max_size="32MiB")
    put_raw(writer, 0)
    put_and_delete(writer, 0)
    return writer


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_during_a_call(cache_path: Path, call: Callable[[mmapcache.Writer, int], None]) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    outcomes: Counter[str] = Counter()
    with subprocess.Popen(
        [sys.executable, "-c", CUTTER, str(cache_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as cutter:
        assert cutter.stdin is not None
        assert cutter.stdout is not None
        for _ in range(25):
            with open_anew(cache_path) as writer:
                size = chance.randrange(cache_path.stat().st_size)
                size -= chance.choice([0, size % PAGE])
                cutter.stdin.write(f"{chance.random() * 0.02} {size}\n")
                cutter.stdin.flush()
                cutter.stdout.readline()
                try:
                    for turn in range(1, 100_000):
                        call(writer, turn)
                except ERRORS as error:
                    outcomes[type(error).__name__] += 1
                else:
                    outcomes["unnoticed"] += 1
                cutter.stdout.readline()
            with mmapcache.Writer(cache_path, recreate=True) as writer:
                put_raw(writer, 1)
                with writer.reader() as cache:
                    cache.check()
        cutter.stdin.close()
    print(dict(outcomes))
    assert outcomes["CorruptError"] > 0
    assert outcomes["unnoticed"] == 0


AFTERWARDS: dict[str, Callable[[mmapcache.Writer, Any], Any]] = {
    "state": lambda writer, _: writer.state,
    "checkpoint": lambda writer, _: writer.checkpoint(),
    "reader": lambda writer, _: writer.reader(),
    "stats": lambda writer, _: writer.stats(),
    "status": lambda writer, _: writer.status(),
    "put": lambda _, batch: [batch.put("sites", n, {"_id": n, "n": 1}) for n in range(DOCUMENTS)],
    "put_raw": lambda _, batch: batch.put_raw("sites", BUFFERS[1]),
    "delete": lambda _, batch: [batch.delete("sites", n) for n in range(DOCUMENTS)],
    "drop": lambda _, batch: batch.drop("sites"),
}


@pytest.mark.parametrize("what", AFTERWARDS)
def test_each_call_afterwards(cache_path: Path, what: str) -> None:
    """The first call after the truncation is this one."""
    with (
        open_anew(cache_path) as writer,
        pytest.raises(mmapcache.CorruptError) as raised,
        writer.batch() as batch,
    ):
        os.truncate(cache_path, 0)
        AFTERWARDS[what](writer, batch)
    print(raised.value)
    began = time.monotonic()
    with mmapcache.Writer(cache_path, recreate=True) as writer:
        put_raw(writer, 0)
    assert time.monotonic() - began < 10


def test_a_batch_without_changes_is_no_success(cache_path: Path) -> None:
    with open_anew(cache_path) as writer:
        os.truncate(cache_path, 0)
        with pytest.raises(mmapcache.CorruptError), writer.batch():
            pass


@pytest.mark.parametrize("size", [0, PAGE, 64 * PAGE, 2 * PAGE + 100])
def test_a_running_loader_makes_the_file_anew(tmp_path: Path, cache_path: Path, size: int) -> None:
    """Though nothing has changed at the source."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "sites.json").write_text("".join(f'{{"_id": {n}}}\n' for n in range(1000)))
    with Loader(cache_path, ["--source", f"file:{source}", "--interval", "0.1"]) as loader:
        loader.expect("generation 1")
        with mmapcache.open(cache_path) as cache:
            os.truncate(cache_path, size)
            loader.expect("is corrupt and is made anew")
            wait_for(lambda: serves(cache))
        with mmapcache.open(cache_path) as cache:
            cache.check()
    assert "Traceback" not in loader.output
    assert "SystemError" not in loader.output


def serves(cache: mmapcache.Cache) -> bool:
    try:
        return len(cache["sites"]) == 1000
    except ERRORS:
        return False
