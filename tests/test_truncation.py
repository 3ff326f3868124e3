"""A cache file truncated or overwritten under its readers: a right answer or an error, no signal.

Each reader is a process of its own that reads in every way without pause while the file goes away
under it. Documents verify themselves, so whatever comes out is judged:

    right    the document that was put under this key, by one of the two files involved
    error    CorruptError, NotReadyError, SnapshotExpired: the reader knows that it does not know
    wrong    anything else: never right; but a reader that runs while the kernel is zeroing the rest
             of a page may see the one entry in which the file ends from now on in pieces. That is
             counted.

A file that was written by write() has small pages, one that a loader grew has huge ones where the
kernel makes them, and the kernel truncates the two differently: both are tried.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmapcache

bson = pytest.importorskip("bson")

DOCUMENTS = 1500
PAGE = 4096

# Commands come on stdin, one per line; each is answered by one line of JSON.
READER = """
import json, random, select, sys, time
import mmapcache

DOCUMENTS = int(sys.argv[1])
BLURB = {k: (str(k) + "/") * (k % 90) for k in range(DOCUMENTS)}

def judge(key, document):
    try:
        got = document.to_dict()
        ok = got == {"_id": key, "flavour": got["flavour"], "text": BLURB[key]}
        return "right" if ok and got["flavour"] in ("one", "two") else "wrong"
    except Exception:
        return "wrong"

def sweep(cache, keys):
    how = random.randrange(4)
    if how == 0:
        for key in keys:
            try:
                yield judge(key, cache["sites"][key])
            except KeyError:
                yield "wrong"
    elif how == 1:
        found = cache["sites"].get_many(keys)
        for key in keys:
            yield judge(key, found[key]) if key in found else "wrong"
    elif how == 2:
        for key, document in cache["sites"].items():
            yield judge(key, document)
    else:
        with cache.snapshot() as snapshot:
            for key in keys:
                yield judge(key, snapshot["sites"].get(key))

def once(cache, counts):
    keys = random.sample(range(DOCUMENTS), 200)
    try:
        for verdict in sweep(cache, keys):
            counts[verdict] = counts.get(verdict, 0) + 1
    except mmapcache.MmapCacheError as error:
        name = type(error).__name__
        counts[name] = counts.get(name, 0) + 1
    except (KeyError, RuntimeError):       # no collection "sites"; changed under an iteration
        counts["wrong"] = counts.get("wrong", 0) + 1

cache = None
counts = {}
while True:
    if cache is None or select.select([sys.stdin], [], [], 0)[0]:
        command, _, argument = sys.stdin.readline().rstrip("\\n").partition(" ")
        if command == "open":
            # Nothing may be answered from the front cache: the map is what is tested.
            cache = mmapcache.open(argument, front_entries=0)
            counts = {}
            once(cache, counts)
        elif command == "counts":
            counts["after"] = {}
            for _ in range(8):
                once(cache, counts["after"])
            print(json.dumps(counts), flush=True)
            counts = {}
            continue
        elif command == "serving":         # how long until all four ways give right answers
            began = time.monotonic()
            good = 0
            while good < 8 and time.monotonic() - began < 20:
                now = {}
                once(cache, now)
                good = good + 1 if set(now) == {"right"} else 0
            print(json.dumps({"seconds": time.monotonic() - began, "good": good}), flush=True)
            continue
        else:
            break
        print(json.dumps(counts), flush=True)
    once(cache, counts)
"""


class Reader:
    """The process, and what it answers."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", READER, str(DOCUMENTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Sends a command; the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            _, said = self.process.communicate()
            pytest.fail(f"the reader ended with {self.process.returncode}: {said}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


def build(path: Path, flavour: str = "one", documents: int = DOCUMENTS) -> None:
    """A cache file with `documents` documents, in place of whatever is there."""
    with (
        mmapcache.Writer(path, max_size="16MiB", recreate=True) as writer,
        writer.batch() as batch,
        batch.replace("sites") as sites,
    ):
        for key in range(documents):
            text = f"{key}/" * (key % 90)
            sites.put(key, {"_id": key, "flavour": flavour, "text": text})


@pytest.fixture
def original(cache_path: Path) -> bytes:
    build(cache_path)
    return cache_path.read_bytes()


def fresh(path: Path, content: bytes) -> None:
    """The content under another inode, which is renamed over the path."""
    other = path.with_name("fresh")
    other.write_bytes(content)
    other.rename(path)


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


ERRORS = {"CorruptError", "NotReadyError", "SnapshotExpired"}


def cut_rounds(reader: Reader, path: Path, content: bytes, sizes: list[int]) -> Counter[str]:
    """Truncates files with small pages under the running reader, once per size; what it saw."""
    seen: Counter[str] = Counter()
    for size in sizes:
        fresh(path, content)
        seen += cut_once(reader, path, size)
    return seen


def cut_once(reader: Reader, path: Path, size: int) -> Counter[str]:
    """What the reader saw while the file was truncated and afterwards."""
    assert set(reader.ask(f"open {path}")) == {"right"}
    cut(path, size)
    answer = reader.ask("counts")
    after: Counter[str] = Counter(answer.pop("after"))
    counts: Counter[str] = Counter(answer)
    assert set(counts) <= ERRORS | {"right", "wrong"}, (size, counts, after)
    assert set(after) <= ERRORS | {"right"}, (size, counts, after)
    assert not counts["wrong"] or size % PAGE, (size, counts, after)
    return counts + after


def used(content: bytes) -> int:
    """Where the last byte of the file that is not zero lies."""
    return len(content.rstrip(b"\0"))


def test_to_page_boundaries(reader: Reader, cache_path: Path, original: bytes) -> None:
    end = used(original)
    sizes = list(range(0, end + 2 * PAGE, PAGE))
    seen = cut_rounds(reader, cache_path, original, sizes)
    print(f"{len(sizes)} sizes, {dict(seen)}")
    assert seen["wrong"] == 0
    assert seen["CorruptError"] > len(sizes)


def test_to_random_sizes(reader: Reader, cache_path: Path, original: bytes) -> None:
    seed = random.randrange(1 << 32)
    sizes = [random.Random(seed).randrange(used(original)) for _ in range(1000)]
    print(f"seed {seed}")
    seen = cut_rounds(reader, cache_path, original, sizes)
    print(f"{len(sizes)} sizes, {dict(seen)}")
    assert seen["CorruptError"] > len(sizes)


def test_within_huge_pages(reader: Reader, cache_path: Path) -> None:
    """Cut off within a huge page, the rest reads as zeros, and there may never be a fault."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    build(cache_path)
    with mmapcache.open(cache_path) as cache:
        stats = cache.stats()
    if not stats["huge_bytes"]:
        pytest.skip("the kernel made no huge page of this file: it needs tmpfs and Linux 6.1")
    seen: Counter[str] = Counter()
    pages = range(2, stats["bytes_used"] // PAGE)
    sizes = [chance.choice(pages) * PAGE + chance.randrange(1, PAGE) for _ in range(200)]
    for size in sizes:
        cache_path.unlink()
        build(cache_path)
        seen += cut_once(reader, cache_path, size)
    print(f"seed {seed}, {len(sizes)} sizes, {dict(seen)}")
    assert seen["CorruptError"] > len(sizes)


@pytest.mark.parametrize("how", ["another cache", "shorter", "noise", "text", "empty"])
def test_copied_over(reader: Reader, cache_path: Path, original: bytes, how: str) -> None:
    """`cp` truncates the very file that is mapped, and fills it again."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    other = cache_path.with_name("other")
    if how == "another cache":
        build(other, "two")
    elif how == "shorter":
        other.write_bytes(original[: used(original) // 2 // PAGE * PAGE])
    elif how == "noise":
        other.write_bytes(random.Random(seed).randbytes(len(original)))
    elif how == "text":
        other.write_text("not a cache\n" * 100_000)
    else:
        other.touch()
    seen: Counter[str] = Counter()
    for _ in range(10):
        fresh(cache_path, original)
        assert set(reader.ask(f"open {cache_path}")) == {"right"}
        subprocess.run(["cp", str(other), str(cache_path)], check=True)
        counts = reader.ask("counts")
        seen.update(counts.pop("after"))
        seen.update(counts)
    print(dict(seen))
    assert set(seen) <= ERRORS | {"right", "wrong"}
    if how in ("shorter", "empty"):
        assert seen["wrong"] == 0


@pytest.mark.parametrize("size", [0, PAGE, 64 * PAGE])
def test_recreated(reader: Reader, cache_path: Path, original: bytes, size: int) -> None:
    """Readers serve again within about a second of the loader's recreation, unasked."""
    del original
    build(cache_path)
    assert set(reader.ask(f"open {cache_path}")) == {"right"}
    cut(cache_path, size)
    assert ERRORS & set(reader.ask("counts")["after"])
    build(cache_path)
    answer = reader.ask("serving")
    assert answer["good"] == 8
    assert answer["seconds"] < 2.5
    assert "wrong" not in reader.ask("counts")


def test_restored_by_copying(reader: Reader, cache_path: Path, original: bytes) -> None:
    """The operator who notices and copies the file back, in place: a new loader opens it."""
    backup = cache_path.with_name("backup")
    backup.write_bytes(original)
    reader.ask(f"open {cache_path}")
    cut(cache_path, 0)
    reader.ask("counts")
    shutil.copy(backup, cache_path)
    build(cache_path)
    seen = reader.ask("counts")
    assert "wrong" not in {**seen, **seen["after"]}, seen


FAULTS = """
import ctypes, faulthandler, mmap, os, sys, tempfile
if sys.argv[2] == "before":
    faulthandler.enable()
import mmapcache
cache = mmapcache.open(sys.argv[1], front_entries=0)
sites = cache["sites"]
assert sites[1]["_id"] == 1
if sys.argv[2] == "after":
    faulthandler.enable()
if sys.argv[3] == "ours":
    os.truncate(sys.argv[1], 0)
    for _ in range(2):
        try:
            sites[2]
        except mmapcache.CorruptError:
            print("corrupt")
if sys.argv[3] == "foreign":
    with tempfile.TemporaryFile() as file:
        file.truncate(4096)
        page = mmap.mmap(file.fileno(), 4096)
        file.truncate(0)
        page[0]
if sys.argv[3] == "raised":
    import signal
    os.kill(os.getpid(), signal.SIGBUS)
"""


def faults(path: Path, when: str, whose: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FAULTS, str(path), when, whose],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_foreign_faults_reach_faulthandler(cache_path: Path, when: str) -> None:
    build(cache_path, documents=3)
    result = faults(cache_path, when, "foreign")
    assert result.returncode == -signal.SIGBUS, result
    assert ("Fatal Python error: Bus error" in result.stderr) == (when != "never")
    assert result.stderr.count("Fatal Python error") <= 1


@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_our_faults_are_survived(cache_path: Path, when: str) -> None:
    """Enabled later, faulthandler comes first: it reports, steps aside, and the read goes on."""
    build(cache_path, documents=3)
    result = faults(cache_path, when, "ours")
    assert result.returncode == 0, result
    assert result.stdout == "corrupt\ncorrupt\n"


@pytest.mark.parametrize("when", ["before", "never"])
def test_a_signal_that_is_sent_still_kills(cache_path: Path, when: str) -> None:
    build(cache_path, documents=3)
    result = faults(cache_path, when, "raised")
    assert result.returncode == -signal.SIGBUS, result
