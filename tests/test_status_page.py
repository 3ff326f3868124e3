"""The status page in a browser: what it shows, of whom, and on which screen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import Browser, browser, executable
from support.loader import wait_for
from support.tools import tool

import mmapcache

pytest.importorskip("prometheus_client")

from mmapcache.serve.address import parse
from mmapcache.serve.running import Pages

pytestmark = [
    pytest.mark.once,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

READY = "document.documentElement.dataset.ready == 'yes'"
SECRET = "in-a-document-only"
HOSTILE = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    if executable() is None:
        tool("chromium", "apt-get install chromium")
    with browser() as made:
        yield made


@contextlib.contextmanager
def served(path: Path, token: str | None = None) -> Iterator[str]:
    said: list[str] = []
    pages = Pages(
        str(path),
        parse("127.0.0.1:0"),
        token=token,
        max_age=None,
        say=said.append,
        tell=said.append,
    )
    url = pages.open()
    pages.start()
    try:
        yield url
    finally:
        pages.stop()
    assert said == []


def fill(writer: mmapcache.Writer) -> None:
    for name in ("sites", HOSTILE):
        with writer.batch() as batch:
            for number in range(50):
                batch.put(name, f"{SECRET}-{number}", {"_id": number, "text": SECRET * 10})
    writer.record("initial", seconds=2.0, put=100, bytes=5000)
    writer.record("follow", seconds=1.0, error=f"{HOSTILE} is away", rounds=7)
    writer.report(
        state="streaming",
        source="mongodb://db1:27017",
        error="",
        confirmed=True,
        following=True,
        errors={HOSTILE: 1},
    )


def test_what_it_shows_of_a_live_file(page: Browser, writer: mmapcache.Writer) -> None:
    fill(writer)
    with served(Path(writer.path)) as url:
        page.open(url, width=1200, height=1400)
        page.until(f"{READY} && document.querySelectorAll('#blocks .bar').length")
        text = page.value("document.body.innerText")
        assert page.value("document.getElementById('word').innerText") == "Live"
        assert "good" in page.value("document.getElementById('verdict').className")
        for words in (writer.path, "mongodb://db1:27017", "sites", HOSTILE, f"{HOSTILE} is away"):
            assert words in text, words
        assert SECRET not in page.value("document.documentElement.outerHTML")
        assert page.value("document.title") == "Live \u00b7 mmapcache"
        # by itself: another generation, and another state
        for number in range(3):
            with writer.batch() as batch:
                batch.put("sites", "one more", {"_id": "one more", "n": number})
        page.until("document.getElementById('figures').innerText.includes('generation\\n5')")
        writer.report(state="degraded", error="db1 does not answer")
        page.until("document.getElementById('word').innerText == 'Degraded'")
        page.until("document.getElementById('sentence').innerText.includes('does not answer')")
        page.until("document.getElementById('verdict').className.includes('warn')")
        assert page.problems == []


def test_screens_and_readers_of_screens(page: Browser, writer: mmapcache.Writer) -> None:
    fill(writer)
    backs = []
    with served(Path(writer.path)) as url:
        for width, dark in ((390, False), (1200, False), (1200, True)):
            page.open(url, width=width, height=900, dark=dark)
            page.until(READY)
            # nothing is wider than the screen, but what may be moved by itself
            assert page.value("document.documentElement.scrollWidth") <= width
            backs.append(page.value("getComputedStyle(document.body).backgroundColor"))
            assert len(page.screenshot()) > 10_000  # it is drawn
        assert backs[0] == backs[1] != backs[2]
        unnamed = page.value(
            "[...document.querySelectorAll('svg')].filter(s => !s.ariaLabel).length"
        )
        pictures = page.until("document.querySelectorAll('svg[role=img]').length == 3 && 3")
        assert (pictures, unnamed) == (3, 0)
        label = page.value("document.querySelector('#map svg').ariaLabel")
        assert "sites" in label and "free in the file" in label and "KiB" in label
        assert page.value("document.documentElement.lang") == "en"
        assert page.value("document.getElementById('sentence').ariaLive") == "polite"
        heads = "document.querySelectorAll('th:not([scope=col]), table:not(:has(caption))').length"
        assert page.value(heads) == 0
        assert page.problems == []


def test_a_file_that_is_not_there_and_a_token(page: Browser, cache_path: Path) -> None:
    token = "0123456789abcdef"
    with served(cache_path, token) as url:
        page.open(f"{url}?token={token}", width=600, height=900)
        page.until("document.getElementById('word').innerText == 'No data'")
        assert str(cache_path) in page.value("document.getElementById('sentence').innerText")
        with mmapcache.Writer(cache_path, max_size="2MiB") as writer:
            fill(writer)
            page.until("document.getElementById('word').innerText == 'Live'")
        page.until("document.getElementById('word').innerText == 'No loader'")
    content = cache_path.read_bytes()
    cache_path.write_bytes(content.replace(SECRET.encode() * 10, b"x" * 10 * len(SECRET), 1))
    with served(cache_path) as url:
        page.open(url, width=600, height=900)
        page.until("document.getElementById('word').innerText == 'Damaged'")
        assert "checksum" in page.value("document.getElementById('sentence').innerText")
        assert page.problems == []
        page.open("about:blank", width=600, height=900)
    wait_for(lambda: page.value("location.href") == "about:blank")
