"""What the documents cost in memory, measured in forked processes.

    python -m demo.memory --cache PATH          -> one JSON object on stdout, bytes

Each group forks some workers, measures the sum of the proportional set sizes (PSS: a page that n
processes share counts 1/n in each) of them and their parent, lets every worker touch every document
and measures again. The parent counts, since it has opened the cache, too, and shares its pages.

    one     1 worker on the mapping
    eight   8 workers on the mapping
    bare    8 workers on the mapping without their front caches
    dicts   8 workers with a private dict of decoded documents

Nobody else may have the file open, or part of its pages would be counted there.
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
    """Proportional set size of some processes in bytes: the cache file's pages, and all others."""

    mapped: int
    private: int


def pss(pids: Sequence[int], path: str) -> Pss:
    """The sum over the processes `pids`; `path` is the cache file."""
    total = sum(_field(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss:") for pid in pids)
    mapped = sum(_mapped(Path(f"/proc/{pid}/smaps").read_text(), path) for pid in pids)
    return Pss(mapped, total - mapped)


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
    """The file's pages in `count` forked workers after `work`, and what it added otherwise."""
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
        before = pss([os.getpid(), *pids], path)
        os.write(begin_write, b"x" * count)
        _await(done_read, count)
        after = pss([os.getpid(), *pids], path)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for end in (begin_read, begin_write, done_read, done_write):
            os.close(end)
    return Pss(after.mapped, after.private - before.private)


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


def _decode(path: str) -> dict[str, dict[Any, dict[str, Any]]]:
    """A private dict of everything."""
    private: dict[str, dict[Any, dict[str, Any]]] = {}
    with mmapcache.open(path, front_entries=0) as cache:
        for name in cache:
            collection = cache[name]
            private[name] = {key: bson.decode(collection.get_raw(key) or b"") for key in collection}
    return private


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the groups and prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m demo.memory")
    parser.add_argument("--cache", required=True)
    path = parser.parse_args(argv).cache
    with mmapcache.open(path) as cache:
        groups = {
            "one": _group(1, path, lambda: _touch(cache)),
            "eight": _group(_WORKERS, path, lambda: _touch(cache)),
        }
    with mmapcache.open(path, front_entries=0) as cache:
        groups["bare"] = _group(_WORKERS, path, lambda: _touch(cache))
    groups["dicts"] = _group(_WORKERS, path, lambda: _decode(path))
    figures = {name: group._asdict() for name, group in groups.items()}
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
