"""The status page in a browser: what it shows, of whom, and on which screen."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_picture
import pytest
from support.browser import Browser, browser, executable
from support.tools import tool

import mmapcache
from mmapcache.cli import main

pytest.importorskip("prometheus_client")

from mmapcache.serve import application
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
UNITS = ("B", "KiB", "MiB", "GiB")
# Of each rectangle of the picture: what its title says, from where to where it reaches, its colour.
BOXES = """[...document.querySelectorAll('#map svg rect')].map(box => ({
  says: box.querySelector('title').textContent,
  left: box.x.baseVal.value, top: box.y.baseVal.value, width: box.width.baseVal.value,
  colour: getComputedStyle(box).fill,
}))"""
LIST = "[...document.querySelectorAll('#map-key li')].map(item => item.innerText)"
ROWS = """[...document.querySelectorAll('#collections tbody tr')].map(row =>
  [...row.cells].slice(0, 3).map(cell => cell.innerText))"""
BLOCKS = "[...document.querySelectorAll('#blocks .bars > span')].map(text => text.innerText)"
# The ground of the verdict and its edge, its word's colour and its sentence's.
COLOURS = """(() => {
  const [all, word, rest] = ["verdict", "word", "sentence"]
    .map(id => getComputedStyle(document.getElementById(id)));
  return [all.backgroundColor, all.borderLeftColor, word.color, rest.color];
})()"""


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    if executable() is None:
        tool("chromium", "apt-get install chromium")
    with browser() as made:
        yield made


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status comes more often than every other second: the tests need not wait for it."""
    monkeypatch.setattr(application, "_BEAT", 0.3)


@contextlib.contextmanager
def served(page: Browser, path: Path, token: str | None = None) -> Iterator[str]:
    """Where the pages are, until the browser has left them: then nobody asks who is not there."""
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
        try:
            page.leave()
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
    with served(page, Path(writer.path)) as url:
        page.open(url, width=1200, height=1400)
        page.until(f"{READY} && document.querySelectorAll('#blocks .bar').length")
        text = page.value("document.body.innerText")
        assert page.value("document.getElementById('word').innerText") == "Live"
        assert "good" in page.value("document.getElementById('verdict').className")
        meaning = page.value("document.getElementById('meaning').innerText")
        assert meaning.startswith("Age: how long ago") and " Lag: the same time while" in meaning
        shown = page.value("document.getElementById('figures').innerText").split("\n")
        assert shown[shown.index("age") + 1] == shown[shown.index("lag") + 1]
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
        writer.report(following=False)
        page.until("document.getElementById('figures').innerText.includes('lag\\nnot following')")
        assert page.problems == []


def test_names_are_text(page: Browser, writer: mmapcache.Writer) -> None:
    taken = {f"{kind} <b>{HOSTILE}</b>": 1 for kind in ("load", "error")}
    for name in (HOSTILE, "</title><script>document.title='taken'</script>", '"><i>&lt;'):
        with writer.batch() as batch:
            batch.put(name, 1, {"_id": 1})
    writer.record(f"<b>{HOSTILE}", put=1, error=f"<i>{HOSTILE}")
    writer.report(
        state=f"<u>{HOSTILE}", source=HOSTILE, error=f"<s>{HOSTILE}", loads=taken, errors=taken
    )
    with served(page, Path(writer.path)) as url:
        page.open(url, width=1200, height=1400)
        page.until(f"{READY} && document.querySelectorAll('#map svg rect').length")
        assert page.value("document.querySelectorAll('img, b, i, u, s, body script').length") == 1
        assert page.value("document.title") == "Note \u00b7 mmapcache"
        names = {row[0] for row in page.value(ROWS)}
        assert names == set(writer.reader().catalogue())
        said = " ".join(box["says"] for box in page.value(BOXES))
        label = page.value("document.querySelector('#map svg').ariaLabel")
        for name in names:
            assert name in said and name in label
        assert page.problems == []


def size(count: int) -> str:
    """Bytes as the page writes them."""
    value, unit = float(count), 0
    while value >= 1024:
        value, unit = value / 1024, unit + 1
    text = f"{int(value * 10 + 0.5) / 10}" if unit and value < 100 else f"{int(value + 0.5)}"
    return f"{text} {UNITS[unit]}"


def test_the_picture_shows_what_stat_says(
    page: Browser, writer: mmapcache.Writer, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [f"c{number}" for number in range(10)]
    for number, name in enumerate(names):
        with writer.batch() as batch:
            for key in range(40 * 2**number):
                batch.put(name, key, {"_id": key, "text": "x" * 100})
    with writer.batch() as batch:
        batch.drop("c7")  # which takes room until no reader can be at it
    capfd.readouterr()
    assert main(["stat", writer.path, "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    stats = said["stats"]
    occupied = {n: c["occupied"] for n, c in writer.reader().check()["collections"].items()}
    by_size = sorted(occupied, key=lambda name: -occupied[name])
    retired = stats["file_size"] - stats["bytes_used"] - stats["bytes_free"]
    assert len(occupied) == 9 and retired > occupied["c6"]
    parts = {name: occupied[name] for name in by_size[:8]}
    parts["1 other collections"] = occupied[by_size[8]]
    parts["header, catalogue, change log, history"] = stats["bytes_used"] - sum(occupied.values())
    parts["retired with past generations"] = retired
    parts["free in the file"] = stats["bytes_free"]
    file = {name: bytes_ for name, bytes_ in parts.items() if bytes_}
    limit = file | {"room to the limit (--max-size)": stats["max_size"] - stats["file_size"]}
    with served(page, Path(writer.path)) as url:
        page.open(url, width=1200, height=1400)
        page.until(f"{READY} && document.querySelectorAll('#blocks .bar').length")
        boxes = page.value(BOXES)
        assert boxes[0]["top"] < boxes[-1]["top"] and len({box["top"] for box in boxes}) == 2
        for row, top in ((limit, boxes[0]["top"]), (file, boxes[-1]["top"])):
            drawn = [box for box in boxes if box["top"] == top]
            assert [box["says"] for box in drawn] == [f"{n}: {size(b)}" for n, b in row.items()]
            _is_to_scale(drawn, list(row.values()))
            assert len({box["colour"] for box in drawn}) == len(drawn)
        assert page.value(LIST) == [f"{n} \u00b7 {size(b)}" for n, b in limit.items()]
        assert page.value(ROWS) == [
            [name, f"{part['documents']:,}", size(part["bytes"])]
            for name, part in sorted(said["collections"].items(), key=lambda i: -i[1]["bytes"])
        ]
        blocks = [(int(each), count) for each, count in said["free_blocks"].items()]
        assert len(blocks) > 1
        assert page.value(BLOCKS) == [
            text
            for each, count in sorted(blocks, reverse=True)
            for text in (size(each), f"{count:,} \u00b7 {size(each * count)}")
        ]
        figures = page.value("document.getElementById('figures').innerText")
        assert f"in use\n{size(stats['bytes_used'])} of {size(stats['max_size'])}" in figures
        free = page.value("document.querySelector('#blocks p').innerText")
        assert free.endswith(f"has at once: {size(stats['largest_free'])}.")


def _is_to_scale(drawn: list[dict[str, Any]], sizes: list[int]) -> None:
    """Side by side, each as wide as its share, but for the pixel between two."""
    whole = drawn[-1]["left"] + drawn[-1]["width"] + 1
    left = 0.0
    for box, bytes_ in zip(drawn, sizes, strict=True):
        assert abs(box["left"] - left) < 0.1
        assert abs(box["width"] + 1 - max(bytes_ / sum(sizes) * whole, 1.8)) < 1.1
        left += bytes_ / sum(sizes) * whole


def test_a_change_that_is_older_than_the_file_tells(
    page: Browser, writer: mmapcache.Writer
) -> None:
    for number in range(1100):  # more than there are generations whose times are kept
        with writer.batch() as batch:
            batch.put("busy" if number else "sites", 1, {"_id": 1, "n": number})
    with served(page, Path(writer.path)) as url:
        page.open(url, width=1200, height=900)
        page.until(READY)
        rows = "[...document.querySelectorAll('#collections tbody tr')].map(row => row.innerText)"
        changes = dict(row.split("\t")[::3] for row in page.value(rows))
    assert re.fullmatch(r"more than [\d.]+\s(m?s|min\s\d+\ss)\sago", changes["sites"])
    assert re.fullmatch(r"[\d.]+ (m?s|min \d+ s) ago", changes["busy"])


def test_the_picture_of_the_documents_is_made(page: Browser) -> None:
    committed = (page_picture.ROOT / "docs" / "pictures" / "status-page.png").read_bytes()
    made = page_picture.shoot(page)
    size_of = [image[:8] + image[16:24] for image in (made, committed)]
    assert size_of[0] == size_of[1], "run `python tools/pictures.py status-page.png`"
    assert len(made) > 50_000 and page.problems == []


def test_each_state_in_words_and_colour(page: Browser, cache_path: Path) -> None:
    looks: dict[str, dict[bool, tuple[str, ...]]] = {}

    def see(word: str, kind: str) -> None:
        page.until(f"document.getElementById('word').innerText == {word!r}")
        assert page.value("document.getElementById('verdict').className") == f"card {kind}"
        assert page.value("document.title").startswith(word)
        for dark in (False, True):
            page.scheme(dark=dark)
            ground, edge, *texts = page.value(COLOURS)
            assert all(_contrast(ground, text) >= 4.5 for text in texts), (word, ground, texts)
            assert _contrast(ground, edge) >= 3 and edge == texts[0]
            same = looks.setdefault(kind, {}).setdefault(dark, (ground, *texts))
            assert same == (ground, *texts), word
        page.scheme(dark=False)

    with served(page, cache_path) as url:
        page.open(url, width=800, height=900)
        see("No data", "bad")
        with mmapcache.Writer(cache_path, max_size="2MiB") as writer:
            writer.report(state="degraded", error=f"mongodb://db1: {HOSTILE} does not answer")
            own = f"It says why: mongodb://db1: {HOSTILE} does not answer"
            page.until(f"document.getElementById('sentence').innerText.includes({own!r})")
            see("No data", "bad")
            fill(writer)
            see("Live", "good")
            writer.report(state="polling", confirmed=True)
            see("polling", "good")
            writer.report(state="degraded", error="no route", confirmed=True)
            see("Degraded", "warn")
            writer.report(state="streaming", error="held", confirmed=True)
            see("Note", "warn")
            writer.report(state="streaming", error="", confirmed=time.time() - 1000)
            see("Old", "bad")
        see("No loader", "warn")
        killed = "loader = mmapcache.Writer(sys.argv[1]); os.kill(os.getpid(), signal.SIGKILL)"
        command = [sys.executable, "-c", f"import mmapcache, os, signal, sys; {killed}"]
        assert subprocess.run([*command, cache_path], check=False).returncode == -signal.SIGKILL
        see("Loader dead", "bad")
        assert page.problems == []
    for dark in (False, True):
        assert len({looks[kind][dark][0] for kind in looks}) == 3
        assert len({looks[kind][dark][1] for kind in looks}) == 3
    assert all(look[False] != look[True] for look in looks.values())


def _contrast(one: str, other: str) -> float:
    """Of two colours, by WCAG 2: 1 to 21."""
    lights = sorted(_light(colour) for colour in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _light(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
    assert len(parts) == 3, colour
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_screens_and_readers_of_screens(page: Browser, writer: mmapcache.Writer) -> None:
    fill(writer)
    backs = []
    with served(page, Path(writer.path)) as url:
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
    with served(page, cache_path, token) as url:
        page.open(f"{url}?token={token}", width=600, height=900)
        page.until("document.getElementById('word').innerText == 'No data'")
        assert str(cache_path) in page.value("document.getElementById('sentence').innerText")
        with mmapcache.Writer(cache_path, max_size="2MiB") as writer:
            fill(writer)
            page.until("document.getElementById('word').innerText == 'Live'")
        page.until("document.getElementById('word').innerText == 'No loader'")
    content = cache_path.read_bytes()
    cache_path.write_bytes(content.replace(SECRET.encode() * 10, b"x" * 10 * len(SECRET), 1))
    with served(page, cache_path) as url:
        page.open(url, width=600, height=900)
        page.until("document.getElementById('word').innerText == 'Damaged'")
        assert "checksum" in page.value("document.getElementById('sentence').innerText")
        assert page.problems == []
