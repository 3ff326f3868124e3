"""The pictures of the documentation: docs/pictures/.

    python tools/pictures.py                    all of them
    python tools/pictures.py status-page.png    this one

one-map.svg and timeline.svg are drawn, watch.svg is recorded: a loader, `mmapcache watch` beside
it, documents that change and a kill, each line at the moment at which it was printed. All are dark
where the reader's system is, and need no script. status-page.png is a screenshot by Chromium,
which has to be installed, of `mmapcache serve`, which needs the extra `serve`: page_picture.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import NamedTuple

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
STYLE = """
  svg { --ground: #fbfbfa; --ink: #22272e; --soft: #667; --line: #8a93a0; --box: #fff;
        --data: #2f7d6b; --data-soft: #d5ece5; --bad: #b3382c; --bad-soft: #f6dcd8;
        --old: #d9dde3; }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #1b1f24; --ink: #e6e8eb; --soft: #a3abb6; --line: #75808e; --box: #262b32;
          --data: #5fc4ab; --data-soft: #234a42; --bad: #f0877b; --bad-soft: #4d2a27;
          --old: #3a414b; }
  }
  text { font: 15px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); }
  .title { font-size: 19px; font-weight: 600; }
  .small { font-size: 13px; fill: var(--soft); }
  .mid { text-anchor: middle; }
  .end { text-anchor: end; }
  .ground { fill: var(--ground); }
  .box { fill: var(--box); stroke: var(--line); stroke-width: 1.5; }
  .data { fill: var(--data-soft); stroke: var(--data); stroke-width: 1.5; }
  .old { fill: var(--old); stroke: var(--line); stroke-width: 1.5; }
  .half { fill: var(--bad-soft); stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 5 4; }
  .line { fill: none; stroke: var(--line); stroke-width: 1.5; }
  .flow { fill: none; stroke: var(--data); stroke-width: 2; }
  .bad { fill: none; stroke: var(--bad); stroke-width: 3.5; stroke-linecap: round; }
  .says-bad { fill: var(--bad); font-weight: 600; }
  .dot { fill: var(--data); }
  .tip { fill: var(--line); } .flow-tip { fill: var(--data); }
"""
MARKERS = """<defs>
  <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"
    orient="auto-start-reverse"><path class="tip" d="M0 0 8 4 0 8z"/></marker>
  <marker id="flow-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6"
    orient="auto-start-reverse"><path class="flow-tip" d="M0 0 8 4 0 8z"/></marker>
</defs>"""


def picture(width: int, height: int, says: str, parts: Iterable[str]) -> str:
    """A whole SVG, whose text says to a screen reader what it shows."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-label="{escape(says)}">',
            f"<style>{STYLE}</style>",
            MARKERS,
            f'<rect class="ground" width="{width}" height="{height}" rx="10"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Text from x on, or around it with `mid`."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "box") -> str:
    """A rectangle with round corners."""
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"/>'
    )


def line(points: str, kind: str = "line", tip: str = "") -> str:
    """A path, with an arrow's head where `tip` names one."""
    end = f' marker-end="url(#{tip})"' if tip else ""
    return f'<path class="{kind}" d="{points}"{end}/>'


def database(x: float, y: float) -> list[str]:
    """MongoDB: a cylinder around x, 130 wide and 56 high."""
    left, right = x - 65, x + 65
    body = f"M{left} {y + 8}v40a65 9 0 0 0 130 0v-40"
    return [
        f'<path class="box" d="{body}"/>',
        f'<ellipse class="box" cx="{x}" cy="{y + 8}" rx="{right - x}" ry="9"/>',
        text(x, y + 39, "MongoDB", "mid"),
    ]


def one_map() -> str:
    """Eight workers with a dict each, beside eight workers on one map."""
    parts = [
        text(220, 36, "A dict in each worker", "title mid"),
        text(690, 36, "mmapcache", "title mid"),
        line("M455 24V432"),
        *database(220, 62),
        *database(690, 62),
    ]
    for number in range(8):  # left: each reads MongoDB for itself
        x = 35 + number * 47
        parts += [
            line(f"M220 129L{x + 19} 238", "line", "tip"),
            box(x, 244, 38, 124),
            box(x + 5, 278, 28, 84, "data"),
            text(x + 19, 266, str(number + 1), "mid"),
        ]
    parts += [
        text(220, 395, "eight copies, eight refreshes,", "mid"),
        text(220, 416, "eight answers that differ for a while", "mid"),
        line("M690 127V150", "flow", "flow-tip"),
        box(585, 152, 210, 34),
        text(690, 174, "loader: mmapcache sync", "mid"),
        line("M690 186V210", "flow", "flow-tip"),
        box(505, 212, 370, 62, "data"),
        text(690, 238, "one file in shared memory", "mid"),
        text(690, 260, "settings.mmc, mapped by all, written by one", "small mid"),
    ]
    for number in range(8):
        place = 505 + number * 47.4
        parts += [
            line(f"M{place + 19:g} 276V312", "line", "tip"),
            box(place, 318, 38, 50),
            text(place + 19, 349, str(number + 1), "mid"),
        ]
    parts += [
        text(690, 395, "one copy, one change stream, one answer;", "mid"),
        text(690, 416, "reading takes no lock and asks nobody", "mid"),
    ]
    says = (
        "Left: eight workers that each hold a dict with a copy of MongoDB's documents and "
        "refresh it. Right: one loader follows MongoDB and writes one file in shared memory, which "
        "eight workers map and read."
    )
    return picture(920, 444, says, parts)


def timeline() -> str:
    """Write, commit, read; a kill between the second write and its commit."""
    lanes = {"MongoDB": 92, "loader": 164, "the file": 236, "a worker": 316}
    parts = [text(24, 40, "A write, its commit, a kill, and what a worker reads", "title")]
    for name, y in lanes.items():
        parts += [text(24, y + 5, name), line(f"M112 {y}H920")]
    # MongoDB: two writes
    for x, value in ((170, 50), (420, 80)):
        parts += [
            f'<circle class="dot" cx="{x}" cy="92" r="7"/>',
            text(x, 76, f"write: qps = {value}", "mid"),
            line(f"M{x} 101L{x + 34} 147", "flow", "flow-tip"),
        ]
    # the loaders
    parts += [
        box(118, 148, 364, 32),
        text(290, 169, "follows the change stream", "mid"),
        line("M474 150l28 28M502 150l-28 28", "bad"),
        text(512, 143, "SIGKILL", "says-bad"),
        box(640, 148, 280, 32),
        text(780, 169, "a new one goes on", "mid"),
    ]
    # the file's generations, with the half-written next one
    parts += [
        box(118, 218, 142, 36, "old"),
        text(189, 241, "generation 6", "mid"),
        box(260, 218, 460, 36, "data"),
        text(350, 241, "generation 7", "mid"),
        box(450, 224, 190, 24, "half"),
        text(545, 241, "half written", "small mid"),
        box(720, 218, 200, 36, "data"),
        text(820, 241, "generation 8", "mid"),
        line("M260 182V214", "flow", "flow-tip"),
        text(268, 203, "commit: one word", "small"),
        line("M720 182V214", "flow", "flow-tip"),
        text(728, 203, "commit", "small"),
    ]
    # reads, each from what is committed then
    for x, value in (
        (140, 20), (190, 20), (240, 20), (290, 50), (340, 50), (390, 50), (440, 50), (490, 50),
        (540, 50), (590, 50), (640, 50), (690, 50), (745, 80), (800, 80), (855, 80), (905, 80),
    ):  # fmt: skip
        parts += [
            line(f"M{x} 257V305", "line"),
            f'<circle class="dot" cx="{x}" cy="316" r="5"/>',
            text(x, 342, str(value), "small mid"),
        ]
    parts += [
        text(
            112,
            376,
            "Each read is of a whole generation. None waits, none fails, and none sees what",
        ),
        text(
            112, 398, "was half written: nothing refers to it, and the next loader writes over it."
        ),
    ]
    says = (
        "Time runs to the right. A write to MongoDB is committed by the loader as generation 7. "
        "After a second write the loader is killed before its commit. A worker goes on reading "
        "generation 7. A new loader goes on from the position in the file and commits generation 8."
    )
    return picture(944, 420, says, parts)


class Line(NamedTuple):
    """One line of a terminal, and when it was printed: seconds since the command was typed."""

    at: float
    words: str


SITES = {
    "9f3c": {"limits": {"qps": 20}},
    "77aa": {"limits": {"qps": 5}},
    "b21e": {"limits": {"qps": 100}},
}


def _put_file(folder: Path, sites: dict[str, object]) -> None:
    lines = [json.dumps({"_id": key, **dict(fields)}) for key, fields in sites.items()]  # type: ignore[call-overload]
    (folder / "next").write_text("\n".join(lines))
    (folder / "next").rename(folder / "data" / "sites.json")


def record() -> list[Line]:
    """What `mmapcache watch` prints while things happen to a cache."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "mmapcache"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "data").mkdir()
        sites: dict[str, object] = dict(SITES)
        _put_file(folder, sites)

        def loader() -> subprocess.Popen[bytes]:
            flags = ["settings.mmc", "--source", "file:data", "--interval", "3600"]
            return subprocess.Popen(
                [*command, "sync", *flags], cwd=place, env=environment, stderr=subprocess.DEVNULL
            )

        lines: list[Line] = []
        running = loader()
        subprocess.run(
            [*command, "stat", "settings.mmc", "--timeout", "60", "--quick"],
            cwd=place, env=environment, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        begun = time.monotonic()
        watch = subprocess.Popen(
            [*command, "watch", "settings.mmc"],
            cwd=place, env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

        def listen() -> None:
            assert watch.stdout is not None
            for words in watch.stdout:
                lines.append(Line(time.monotonic() - begun, words.rstrip()))

        listener = threading.Thread(target=listen)
        listener.start()

        def until(holds: Callable[[], bool]) -> None:
            for _ in range(600):
                if holds():
                    return
                time.sleep(0.1)
            raise SystemExit(f"this did not happen within a minute; so far: {lines}")

        def change(**put: object) -> None:
            seen = len(lines)
            for key, fields in put.items():
                if fields is None:
                    del sites[key]
                else:
                    sites[key] = fields
            _put_file(folder, sites)
            running.send_signal(signal.SIGHUP)
            until(lambda: len(lines) > seen)
            time.sleep(1.4)

        until(lambda: bool(lines))
        time.sleep(1.2)
        change(**{"9f3c": {"limits": {"qps": 50}}})
        change(c40d={"limits": {"qps": 8}}, d7f2={"limits": {"qps": 1}})
        change(**{"77aa": None, "b21e": {"limits": {"qps": 120}}})
        running.kill()
        running.wait()
        until(lambda: "dead" in lines[-1].words)
        time.sleep(1.6)
        running = loader()
        until(lambda: "alive" in lines[-1].words)
        time.sleep(1.2)
        change(**{"9f3c": {"limits": {"qps": 60}}})
        for process in (watch, running):
            process.terminate()
            process.wait()
        listener.join()
    return lines


def terminal(lines: list[Line], typed: str) -> str:
    """A terminal in which the lines come one by one, again and again; all at once for whoever has
    asked for less motion."""
    height = 92 + 22 * len(lines)
    whole = lines[-1].at + 4.0
    rules = [
        ".screen { fill: #14181d; } .bar { fill: #2a3038; } .knob { fill: #5a6470; }",
        'text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; '
        "fill: #d7dce2; white-space: pre; }",
        ".prompt { fill: #7fb4ff; } .plus { fill: #7ad19a; } .change { fill: #e7c46a; }",
        ".minus, .dead { fill: #ff8f84; } .alive { fill: #7ad19a; } .head { font-weight: 600; }",
        "@media (prefers-reduced-motion: no-preference) {",
        f"  .line {{ animation-duration: {whole:.1f}s; animation-iteration-count: infinite; }}",
    ]
    shown = []
    for number, (at, words) in enumerate(lines):
        share = 100 * at / whole
        rules.append(f"  @keyframes l{number} {{ 0%, {share:.2f}% {{ opacity: 0 }} "
                     f"{share + 0.01:.2f}%, 100% {{ opacity: 1 }} }}")  # fmt: skip
        rules.append(f"  .l{number} {{ animation-name: l{number}; }}")
        y = 84 + 22 * number
        shown.append(
            f'<text class="line l{number}" x="18" y="{y}" xml:space="preserve">'
            f"{_coloured(words)}</text>"
        )
    rules.append("}")
    says = "A terminal. " + ". ".join([typed, *(words.strip() for _, words in lines)])
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" width="640" '
            f'height="{height}" role="img" aria-label="{escape(says)}">',
            "<style>",
            *rules,
            "</style>",
            f'<rect class="screen" width="640" height="{height}" rx="9"/>',
            '<path class="bar" d="M0 30V9a9 9 0 0 1 9-9h622a9 9 0 0 1 9 9v21z"/>',
            *(f'<circle class="knob" cx="{x}" cy="15" r="5.5"/>' for x in (18, 37, 56)),
            f'<text x="18" y="60"><tspan class="prompt">$ </tspan>{escape(typed)}</text>',
            *shown,
            "</svg>\n",
        ]
    )


def _coloured(words: str) -> str:
    if words.startswith("loader"):
        kind = "dead" if "dead" in words else "alive"
        return f'<tspan class="{kind}">{escape(words)}</tspan>'
    if words.startswith("generation"):
        return f'<tspan class="head">{escape(words)}</tspan>'
    name, colon, rest = words.partition(": ")
    kinds = {"+": "plus", "~": "change", "-": "minus"}
    parts = [
        f'<tspan class="{kinds.get(part[:1], "")}">{escape(part)}</tspan>'
        for part in rest.split(", ")
    ]
    return f"{escape(name + colon)}{', '.join(parts)}"


def status_page() -> bytes:
    """The screenshot."""
    from page_picture import ROOT, shoot

    sys.path.insert(0, str(ROOT / "tests"))
    from support.browser import browser, executable

    if executable() is None:
        raise SystemExit("status-page.png needs Chromium: apt-get install chromium")
    with browser() as page:
        return shoot(page)


MADE: dict[str, Callable[[], bytes]] = {
    "one-map.svg": lambda: one_map().encode(),
    "timeline.svg": lambda: timeline().encode(),
    "watch.svg": lambda: terminal(record(), "mmapcache watch settings.mmc").encode(),
    "status-page.png": status_page,
}


def main() -> None:
    """Writes all, or those that are named."""
    names = sys.argv[1:] or list(MADE)
    if unknown := set(names) - set(MADE):
        raise SystemExit(f"no picture is called {unknown.pop()}; there are: {', '.join(MADE)}")
    for name in names:
        (PICTURES / name).write_bytes(MADE[name]())
        print(f"docs/pictures/{name}")


if __name__ == "__main__":
    main()
