"""Forked workers that touch every document, and what they weigh together.

    python -m benchmarks.touch KIND PATH WORKERS   prints their proportional set size, bytes

A lean process of its own: what the parent has imported is shared with its children, and a page that
one child shares with its parent counts half, one that eight share eight ninths, so that the weight
of a fat parent would be taken for that of its workers.

Kinds: `get_raw`, `get`, and `twice`, two rounds of `get` (PATH is a cache), `lmdb`, and `dict` and
`preloaded`, a dict of decoded documents that each worker makes for itself, or that is made before
the fork (PATH is a BSON dump).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Touch = Callable[[], None]


def _ours(method: str, path: str, rounds: int = 1) -> Touch:
    import mmapcache

    settings = mmapcache.open(path)["settings"]

    def touch() -> None:
        get = getattr(settings, method)
        for _ in range(rounds):
            for key in settings:
                get(key)

    return touch


def _lmdb(path: str) -> Touch:
    import lmdb

    kept: list[object] = []

    def touch() -> None:
        environment = lmdb.open(path, subdir=False, readonly=True, lock=False)
        with environment.begin() as transaction:
            for key in transaction.cursor().iternext(values=False):
                transaction.get(key)
        kept.append(environment)

    return touch


def _dict(path: str, *, preloaded: bool) -> Touch:
    import bson

    def load() -> dict[str, dict[str, Any]]:
        with Path(path).open("rb") as file:
            return {document["_id"]: document for document in bson.decode_file_iter(file)}

    before = load() if preloaded else None
    kept: list[object] = []

    def touch() -> None:
        documents = load() if before is None else before
        for key in documents:
            _ = documents[key]["limits"]["qps"]
        kept.append(documents)

    return touch


def _pss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(text.split("Pss:")[1].split()[0]) * 1024


def together(touch: Touch, workers: int) -> int:
    """The proportional set size of `workers` children after each called `touch`."""
    done_read, done_write = os.pipe()
    end_read, end_write = os.pipe()
    gc.collect()
    gc.freeze()
    pids = []
    for _ in range(workers):
        pid = os.fork()
        if pid == 0:
            os.close(end_write)
            touch()
            os.write(done_write, b"x")
            os.read(end_read, 1)  # until the parent closes its end
            os._exit(0)
        pids.append(pid)
    os.close(done_write)
    for _ in pids:
        if not os.read(done_read, 1):
            raise RuntimeError("a worker died")
    total = sum(map(_pss, pids))
    os.close(end_write)
    for pid in pids:
        os.waitpid(pid, 0)
    return total


def main() -> None:
    """Print one figure."""
    kind, path, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if kind == "lmdb":
        touch = _lmdb(path)
    elif kind in ("dict", "preloaded"):
        touch = _dict(path, preloaded=kind == "preloaded")
    else:
        touch = _ours("get", path, 2) if kind == "twice" else _ours(kind, path)
    print(together(touch, workers))


if __name__ == "__main__":
    main()
