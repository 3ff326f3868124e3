"""256 workers on one file: each is woken in its own loop, once, and reads what it was told of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.processes import run_script

import mmapcache

WORKERS = 256
PATIENCE = 500.0  # seconds for what takes two: so many processes take long on a busy machine

# Forks from a small process: each fork of one like pytest's takes longer than all that it does.
WORKING = """
import asyncio, contextlib, gc, os, sys
import mmapcache
from mmapcache import changes

changes._PATIENCE = 3600.0  # seconds: nobody looks by himself, only the bell wakes
path, workers, patience = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])


async def work(ready, out):
    cache = mmapcache.open(path)
    given = []
    woken = asyncio.Event()

    def hear(change):
        given.append(change)
        woken.set()

    with contextlib.closing(cache.subscribe(hear)):
        before = cache["sites"]["a"]["n"]
        os.write(ready, b".")
        await asyncio.wait_for(woken.wait(), patience)
        after = cache["sites"]["a"]["n"]
    told = [(change.generation, sorted(change.keys["sites"])) for change in given]
    os.write(out, f"{told} {before} {after}\\n".encode())


out, into = os.pipe()
ready, said = os.pipe()
gc.freeze()
for _ in range(workers):
    if os.fork() == 0:
        try:
            asyncio.run(work(said, into))
        except BaseException as error:
            os.write(into, f"{error!r}\\n".encode())
        finally:
            os._exit(0)
os.close(into)
os.close(said)
began = 0
while began < workers:
    here = os.read(ready, workers)
    if not here:  # all have ended
        break
    began += len(here)
with mmapcache.Writer(path) as writer, writer.batch() as batch:
    for key in ("a", "b"):
        batch.put("sites", key, {"_id": key, "n": 2})
with os.fdopen(out) as lines:
    sys.stdout.write(lines.read())
for _ in range(workers):
    os.wait()
"""


@pytest.mark.timeout(600)
def test_every_worker_is_woken_once(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer, writer.batch() as batch:
        batch.put("sites", "a", {"_id": "a", "n": 1})
    said = run_script(WORKING, str(cache_path), str(WORKERS), str(PATIENCE), timeout=PATIENCE)
    assert Counter(said.splitlines()) == {"[(2, ['a', 'b'])] 1 2": WORKERS}
