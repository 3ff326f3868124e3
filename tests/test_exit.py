"""The interpreter ends while objects, threads and children are in every state that they can be in.

Each script must end with its own status and say nothing: no crash, no message of an ignored
exception, no hang. Names of the module go in an order that CPython chooses; so each object is kept
in a global, in a cycle, by an atexit handler, and by a thread that still uses it.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

OBJECTS = {
    "cache": "mmapcache.open(path)",
    "collection": "mmapcache.open(path)['sites']",
    "snapshot": "mmapcache.open(path).snapshot()",
    "iterator": "iter(mmapcache.open(path)['sites'].items())",
    "view": "mmapcache.open(path)['sites'].values()",
    "map": "built(mmapcache.open(path)['sites'].map(lambda site: [site]))",
    "index": "built(mmapcache.open(path)['sites'].by('limits.qps'))",
    "changes": "mmapcache.open(path).changes()",
    "document": "mmapcache.open(path)['sites'][1]",
    "nested": "mmapcache.open(path)['sites'][1]['limits']",
    "array": "mmapcache.open(path)['sites'][1]['hosts']",
    "fields": "iter(mmapcache.open(path)['sites'][1])",
    "document_view": "mmapcache.open(path)['sites'][1].items()",
    "writer": "mmapcache.Writer(path)",
    "batch": "begun(mmapcache.Writer(path).batch())",
    "replace": "begun(begun(mmapcache.Writer(path).batch()).replace('sites'))",
    "anonymous": "mmapcache.Writer.anonymous(max_size='4MiB')",
}
KEPT = {
    "global": "kept = {object}",
    "cycle": "class Node: pass\nnode = Node(); node.self = node; node.kept = {object}; del node",
    "module": "sys.kept = {object}",
    "atexit": "import atexit\nkept = {object}\natexit.register(lambda: repr(kept))",
    "type": "class Kept: kept = {object}",
    "default": "def function(kept={object}): pass",
    "frame": (
        "def generator():\n    kept = {object}\n    yield\nrunning = generator(); next(running)"
    ),
    "exception": (
        "try:\n    kept = {object}; 1 / 0\nexcept ZeroDivisionError as error:\n    sys.kept = error"
    ),
}
START = """
import sys
import mmapcache
path = sys.argv[1]
def begun(manager):
    return manager.__enter__()
def built(mapping):
    next(iter(mapping.items()))
    return mapping
with mmapcache.Writer(path, max_size="4MiB") as writer, writer.batch() as batch:
    batch.index("sites", "limits.qps")
    for key in range(20):
        batch.put("sites", key, {"_id": key, "limits": {"qps": key}, "hosts": [1, 2, {"a": 1}]})
del writer, batch
"""


def ends(script: str, path: Path, status: int = 0) -> None:
    """Runs a script to its end: this status, and not a word."""
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", START + script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = result.stdout + result.stderr
    assert (result.returncode, said) == (status, ""), f"{result.returncode}\n{said}\n{script}"


@pytest.mark.parametrize("kept", KEPT)
def test_whatever_is_kept_and_wherever(kept: str, cache_path: Path) -> None:
    for index, made in enumerate(OBJECTS.values()):
        ends(KEPT[kept].format(object=made), cache_path.with_name(f"cache-{index}"))


@pytest.mark.parametrize("first", OBJECTS)
def test_two_objects_in_either_order(first: str, cache_path: Path) -> None:
    """All pairs in one process each, let go by name in the order given, the rest at the end."""
    lines = ["kept = {}", "start = path"]
    for index, (name, made) in enumerate(OBJECTS.items()):
        lines.append(f"path = start + '-{index}'")
        if name != "anonymous":
            lines.append(
                "with mmapcache.Writer(path, max_size='4MiB') as writer, writer.batch() as batch:\n"
                "    batch.index('sites', 'limits.qps')\n"
                "    batch.put('sites', 1, {'_id': 1, 'limits': {'qps': 1}, 'hosts': [1]})"
            )
        lines.append(f"kept[{name!r}] = {made}")
    lines.append(f"del kept[{first!r}]")
    lines.append("sys.modules.pop('mmapcache'); sys.modules.pop('mmapcache._mmapcache')")
    ends("\n".join(lines), cache_path)


THREADS = {
    "reading": "while True: sites[3]['limits']['qps']; sites.get_many(range(20))",
    "iterating": "while True: list(sites.items())",
    "waiting": "cache.wait(cache.generation, 30)",
    "opening": "while True: open(path).close()",
    "writing": (
        "while True:\n"
        "        with writer.batch() as batch:\n"
        "            batch.put('sites', 1, {'_id': 1, 'hosts': [1] * 500})"
    ),
}


@pytest.mark.parametrize(
    ("threads", "leave"),
    list(
        itertools.product(
            [*((name,) for name in THREADS), tuple(THREADS)],
            ["pass", "cache.close()", "del cache, sites", "raise SystemExit(7)"],
        )
    ),
    ids=str,
)
def test_daemon_threads_are_still_at_work(
    threads: tuple[str, ...], leave: str, cache_path: Path
) -> None:
    script = (
        "import threading, time\n"
        "cache = mmapcache.open(path)\nsites = cache['sites']\nwriter = mmapcache.Writer(path)\n"
        "def quietly(work):\n    try: work()\n    except Exception: pass\n"
    )
    for name in threads:
        script += (
            f"def {name}(cache=cache, sites=sites, writer=writer, open=mmapcache.open):\n"
            f"    {THREADS[name]}\n"
            f"threading.Thread(target=quietly, args=({name},), daemon=True).start()\n"
        )
    ends(script + f"time.sleep(0.2)\n{leave}\n", cache_path, 7 if "SystemExit" in leave else 0)


def test_a_child_ends_in_every_way(cache_path: Path) -> None:
    """A forked child falls off its end, or exits at once; the parent goes on as if nothing was."""
    for way in ("pass", "os._exit(0)", "sys.exit(0)", "del cache, sites, document, snapshot"):
        ends(
            "import os\n"
            "cache = mmapcache.open(path); sites = cache['sites']; document = sites[1]\n"
            "snapshot = cache.snapshot(); writer = mmapcache.Writer(path)\n"
            "batch = begun(writer.batch()); batch.put('sites', 99, {'_id': 99})\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            f"    {way}\n"
            "else:\n"
            "    assert os.waitpid(child, 0)[1] == 0\n"
            "    batch.__exit__(None, None, None)\n"
            "    assert 99 in sites and 99 not in snapshot['sites']\n"
            "    cache.check()\n",
            cache_path.with_name(f"cache-{abs(hash(way))}"),
        )
