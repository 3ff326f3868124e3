"""What the documents cost in memory, measured in forked processes.

    python -m demo.memory --cache PATH          -> one JSON object on stdout, bytes

Each group forks some workers, measures the sum of their proportional set sizes (PSS: a page that n
processes share counts 1/n in each), lets every worker touch every document and measures again. The
difference is what the documents cost. Three groups: one worker on the mapping, eight workers on the
mapping, eight workers with a private dict of decoded documents. Nobody else may have the file open,
or part of its pages would be counted there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import bson

import mmapcache

_WORKERS: Final = 8


class Pss(NamedTuple):
    """Proportional set size of some processes in bytes: all of it, and the cache file's part."""

    total: int
    mapped: int


def pss(pids: Sequence[int], path: str) -> Pss:
    """The sum over the processes `pids`; `path` is the cache file."""
    total = sum(_field(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss:") for pid in pids)
    return Pss(total, sum(_mapped(Path(f"/proc/{pid}/smaps").read_text(), path) for pid in pids))


def _field(text: str, name: str) -> int:
    lines = [line.split() for line in text.splitlines() if line.startswith(name)]
    return sum(int(words[1]) for words in lines) * 1024


def _mapped(smaps: str, path: str) -> int:
    total, inside = 0, False
    for line in smaps.splitlines():
        first = line.split(" ", 1)[0]
        if not first.endswith(":"):
            inside = line.endswith(path)
        elif inside and first == "Pss:":
            total += int(line.split()[1]) * 1024
    return total


def _group(count: int, path: str, work: Callable[[], object]) -> Pss:
    """Forks `count` workers; what `work` adds to their memory while they hold its result."""
    pids: list[int] = []
    begin_read, begin_write = os.pipe()
    done_read, done_write = os.pipe()
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                _worker(begin_read, done_write, work)
            pids.append(pid)
        _await(done_read, count)
        before = pss(pids, path)
        os.write(begin_write, b"x" * count)
        _await(done_read, count)
        after = pss(pids, path)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for end in (begin_read, begin_write, done_read, done_write):
            os.close(end)
    return Pss(after.total - before.total, after.mapped - before.mapped)


def _worker(begin: int, done: int, work: Callable[[], object]) -> None:
    """A child's life: ready, go, done, then it waits to be killed with the result still held."""
    status = 1
    try:
        os.write(done, b"r")
        os.read(begin, 1)
        held = work()
        os.write(done, b"d")
        signal.pause()
        status = 0 if held is not None else 1
    finally:
        # A child that failed says so, or the parent would wait for ever.
        os.write(done, b"!")
        os._exit(status)


def _await(done: int, count: int) -> None:
    for _ in range(count):
        if os.read(done, 1) == b"!":
            raise RuntimeError("a worker of the memory measurement failed")


def _touch(cache: mmapcache.Cache) -> int:
    """Reads one field of every document, as requests would over time."""
    touched = 0
    for name in cache:
        collection = cache[name]
        for key in collection:
            touched += len(collection[key]) > 0
    return touched


def _decode(cache: mmapcache.Cache) -> dict[str, dict[Any, dict[str, Any]]]:
    """A private dict of everything; the mapping is given back."""
    private: dict[str, dict[Any, dict[str, Any]]] = {}
    for name in cache:
        collection = cache[name]
        private[name] = {key: bson.decode(collection.get_raw(key) or b"") for key in collection}
    cache.close()
    return private


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the three groups and prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m demo.memory")
    parser.add_argument("--cache", required=True)
    args = parser.parse_args(argv)
    with mmapcache.open(args.cache) as cache:
        one = _group(1, args.cache, lambda: _touch(cache))
        eight = _group(_WORKERS, args.cache, lambda: _touch(cache))
        dicts = _group(_WORKERS, args.cache, lambda: _decode(cache))
    figures = {"one": one._asdict(), "eight": eight._asdict(), "dicts": dicts._asdict()}
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
