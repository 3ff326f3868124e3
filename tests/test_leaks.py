"""Reads, commits, snapshots and closes by the hundred thousand: memory stays where it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.processes import run_script

pytest.importorskip("bson")

PRELUDE = """
import gc, os, random, sys
import mmapcache
import bson

path = sys.argv[1]

def resident():
    gc.collect()
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("RssAnon"):
                return int(line.split()[1])

def steady(work, rounds, allowed=512):
    '''Runs work(round) until memory has settled, then `rounds` times more: KiB that were added.'''
    for n in range(max(3, rounds // 4)):
        work(n)
    before, blocks = resident(), sys.getallocatedblocks()
    for n in range(rounds):
        work(n)
    grown, more = resident() - before, sys.getallocatedblocks() - blocks
    assert grown <= allowed, f"{grown} KiB more"
    assert more <= 200, f"{more} blocks more"

writer = mmapcache.Writer(path, max_size="32MiB", retention=0)
buffer = b"".join(bson.encode({"_id": f"key {n}", "limits": {"qps": n}, "list": [1, "a"],
                               "oid": bson.ObjectId()}) for n in range(1000))
with writer.batch() as batch:
    batch.put_raw("sites", buffer)
cache = writer.reader(front_entries=200)
sites = cache["sites"]
keys = [f"key {n}" for n in range(1100)]
"""

WORKS = {
    "reads": """
def work(n):
    for key in keys:
        document = sites.get(key)
        if document is not None:
            document["limits"]["qps"], document["list"], document.get("oid")
        key in sites
        sites.get((key + " ")[:-1], 5)
steady(work, 300)
""",
    "indexes": """
with writer.batch() as batch:
    batch.index("sites", "limits.qps")
    batch.index("sites", "list", unique=False)
qps, list_ = sites.by("limits.qps"), sites.by("list")
def work(n):
    writer.put("sites", "key 1", {"_id": "key 1", "limits": {"qps": 1000 + n % 7}, "list": [n]})
    for number in range(1000):
        qps.get(number), number in qps
    len(list_["a"]), [*list_.items()], [*qps], sites.indexes, writer.indexes
    for wrong in ("typo", "\\ud800"):
        try:
            sites.by(wrong)
        except LookupError:
            pass
    try:
        writer.put("sites", "key 2", {"_id": "key 2", "limits": {"qps": 5}})
    except mmapcache.LimitError:
        pass
steady(work, 40)
""",
    "other reads": """
def work(n):
    sites.get_many(keys)
    sites.get_many([1, b"x", None, bson.ObjectId(), "k" * 3000])
    for key in keys[::7]:
        sites.get_raw(key)
        sites.pluck(key, "limits.qps"), sites.pluck(key, "limits"), sites.pluck(key, "list.1")
    for pair in sites.items():
        pass
    list(sites), list(sites.values())[5].to_dict(), sites.keys() & {"key 1"}
    for wrong in ([1], {1}, object()):
        for call in (sites.get, sites.__getitem__, sites.get_raw, sites.__contains__):
            try:
                call(wrong)
            except TypeError:
                pass
    try:
        sites["nothing"]
    except KeyError:
        pass
steady(work, 60)
""",
    "snapshots": """
def work(n):
    for m in range(300):
        with cache.snapshot() as snap:
            snap["sites"]["key 5"], snap.get("nothing"), len(snap), list(snap), snap.items()
            snap.collection("sites").get_many(["key 6"])
    cache.status(), cache.stats(), cache.check(), cache.state, list(cache.items())
steady(work, 60)
""",
    "commits": """
def work(n):
    for m in range(20):
        with writer.batch() as batch:
            batch.put("sites", f"key {m}", {"_id": m, "v": "x" * random.randrange(500)})
            batch.delete("sites", f"key {m + 50}")
            batch.state = b"s" * random.randrange(500)
            with batch.replace("flags") as full:
                full.put(m, {"_id": m, "n": n})
        try:
            with writer.batch() as batch:
                batch.put("sites", 1, {"_id": 1})
                full = batch.replace("sites")
                full.__enter__()
                batch.put("sites", 2, b"garbage")
        except mmapcache.InvalidDocument:
            pass
        sites.get(f"key {m}"), sites.get("nothing"), cache.snapshot()["flags"].get(m)
    with writer.batch() as batch:
        batch.put_raw("sites", buffer)
steady(work, 40, allowed=2048)
""",
    "changes": """
news = cache.changes()
def work(n):
    for m in range(20):
        seen = cache.changes()._log._seen
        with writer.batch() as batch:
            for key in (m, f"key {m}", b"x", None, 2.5):
                batch.put("changed", key, {"n": [n, m]})
            batch.put("sites", "key 1", {"_id": 1, "n": [n, m]})
        assert len(cache._news(seen)[1]) == 2
        try:
            cache._news((seen[0], "x"))
        except TypeError:
            pass
    with writer.batch() as batch:
        batch.drop("changed")
    assert next(news).keys is None
steady(work, 40, allowed=2048)
""",
    "opening and closing": """
writer.close()
def work(n):
    for m in range(5):
        with mmapcache.Writer(path) as writer:
            with writer.batch() as batch:
                batch.put("more", 1, {"_id": 1, "n": (n, m)})
            with writer.reader() as mine:
                mine["sites"].get("key 1"), mine.snapshot(), writer.status()
        other = mmapcache.open(path, codec_options=None, front_bytes=100000)
        handles = [other.collection(f"c{x}") for x in range(20)]
        other["sites"].get_many(keys)
        with mmapcache.Writer.anonymous(max_size="2MiB") as writer:
            with writer.batch() as batch:
                batch.put("more", 1, {"_id": 1})
            writer.reader()["more"][1]
        for wrong in ({"path": path, "front_bytes": "x"}, {"path": path + "x"},
                      {"path": path, "codec_options": 5}, {}):
            try:
                mmapcache.open(**wrong)
            except (ValueError, TypeError, mmapcache.NotReadyError):
                pass
steady(work, 40, allowed=1024)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WORKS)
def test_memory_stays_where_it_is(cache_path: Path, what: str) -> None:
    run_script(PRELUDE + WORKS[what], str(cache_path), timeout=110)


def test_reference_counts_are_steady_in_a_debug_build(cache_path: Path) -> None:
    script = (
        PRELUDE
        + """
if not hasattr(sys, "gettotalrefcount"):
    print("no debug build")
    sys.exit()
def work():
    for key in keys[:100]:
        sites.get(key), sites.get_many([key]), sites.get_raw(key), key in sites
    list(sites.items()), cache.status(), cache.stats()
    with cache.snapshot() as snap:
        snap["sites"].get("key 1")
for _ in range(5):
    work()
before = sys.gettotalrefcount()
for _ in range(50):
    work()
assert abs(sys.gettotalrefcount() - before) < 50, sys.gettotalrefcount() - before
"""
    )
    if run_script(script, str(cache_path)) == "no debug build\n":
        pytest.skip("this interpreter was not built --with-pydebug: no sys.gettotalrefcount")
