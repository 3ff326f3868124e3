"""docs/pictures/status-page.png: the status page of a file with an hour behind it.

The page, `mmapcache serve` and the browser are the real ones; what the loader did in the hour is
made up, with the same numbers each time.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import mmapcache

if TYPE_CHECKING:
    from support.browser import Browser

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 1000, 1180
# Documents and the bytes of text in each.
_COLLECTIONS = {
    "sites": (9000, 440),
    "translations": (900, 1900),
    "customers": (6000, 190),
    "limits": (4000, 90),
    "rates": (1700, 90),
    "flags": (100, 250),
}
_AWAY = range(33, 37)  # minutes ago, when the source did not answer


def shoot(page: Browser) -> bytes:
    """A PNG of WIDTH x HEIGHT.

    :param page: needs Chromium; it is at an empty page afterwards
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.mmc"
        with mmapcache.Writer(path, max_size="64MiB") as writer:
            _an_hour(writer)
            serving = subprocess.Popen(
                [sys.executable, "-m", "mmapcache", "serve", path.name, "--http=127.0.0.1:0"],
                cwd=folder, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            with serving:
                try:
                    return _shown(page, writer, serving)
                finally:
                    page.leave()
                    serving.terminate()


def _shown(page: Browser, writer: mmapcache.Writer, serving: subprocess.Popen[str]) -> bytes:
    assert serving.stdout is not None
    found = re.search(r"http://\S+", serving.stdout.readline())
    if found is None:
        raise SystemExit("mmapcache serve did not begin")
    page.call("Emulation.setScrollbarsHidden", hidden=True)
    page.open(found[0], width=WIDTH, height=HEIGHT)
    page.until("document.querySelectorAll('#blocks .bar').length")
    page.until("document.getElementById('link').textContent == 'live'")
    writer.report(confirmed=True)
    page.until("document.getElementById('word').textContent == 'Live'")
    return page.screenshot()


def _an_hour(writer: mmapcache.Writer) -> None:
    """What a loader leaves in the file in that time."""
    rng = random.Random(4)
    now = time.time()
    for name, (documents, size) in _COLLECTIONS.items():
        with writer.batch() as batch:
            for key in range(documents):
                batch.put(name, key, {"_id": key, "text": "x" * size})
    writer.record("initial", started=now - 3550, seconds=3.2, put=21700, bytes=9_100_000)
    for minute in range(58, -1, -1):
        began = now - 60 * minute - 30
        if minute in _AWAY:
            writer.record("follow", started=began, error="db1.internal:27017 does not answer")
            continue
        commits = rng.randrange(5, 60)
        for _ in range(commits):
            with writer.batch() as batch:
                for name in ("limits", "rates", "flags")[: rng.choice((1, 1, 1, 2, 3))]:
                    batch.put(name, rng.randrange(100), {"_id": 0, "now": rng.random()})
        if minute % 20 == 5:
            writer.record("verify", started=began, seconds=3.1, bytes=9_100_000)
        writer.record(
            "follow", started=began, seconds=29.0, rounds=commits, put=commits, bytes=90 * commits
        )
    writer.report(
        state="streaming",
        source="mongodb://db1.internal:27017 (rs0), shop.*",
        confirmed=True,
        following=True,
        events=18234,
        disconnects=2,
        loads={"initial": 1, "verify": 3},
        errors={"AutoReconnect": 2},
    )
