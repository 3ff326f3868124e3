"""The commands of the README, and of the page on writing, do what is said there: each marked block
is run, in order, in one place.

A block is marked by a comment above its fence, ``<!-- test: KIND -->``: `daemon` is started and
must serve until SIGTERM, `shell` must succeed under `set -e`, `python` likewise. What only the
reader's machine has is replaced: the MongoDB server, its database, and the directory
/run/mmapcache.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mmapcache

pytestmark = pytest.mark.once

pytest.importorskip("pymongo")

if TYPE_CHECKING:
    from pymongo.database import Database

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs/reference/writing.md")
BLOCK = re.compile(r"<!-- test: (\w+) -->\n```\w+\n(.*?)```", re.S)


def blocks() -> list[tuple[str, str]]:
    """Kind and text of each marked block."""
    return [(match[1], match[2]) for page in PAGES for match in BLOCK.finditer(page.read_text())]


def test_blocks_of_each_kind_are_there() -> None:
    assert {kind for kind, _ in blocks()} == {"daemon", "shell", "python"}
    assert len(blocks()) == 4


def test_every_command_of_the_readme(
    database: Database[dict[str, Any]], mongodb_uri: str, cache_path: Path, tmp_path: Path
) -> None:
    database["sites"].insert_many([{"_id": key, "limits": {"qps": 20}} for key in ("9f3c", "77aa")])
    directory = cache_path.parent
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for kind, text in blocks():
            text = text.replace("mongodb://localhost:27017", mongodb_uri)
            text = text.replace("captcha.sites", f"{database.name}.sites")
            text = text.replace("/run/mmapcache", str(directory))
            program = [sys.executable, "-c", text]
            if kind != "python":
                run = f"exec {text}" if kind == "daemon" else f"set -e\n{text}"
                program = ["bash", "-c", run]
            if kind == "daemon":
                daemons.append(subprocess.Popen(program, cwd=tmp_path, env=environment))
                with mmapcache.open(str(directory / "settings.mmc"), timeout=30) as cache:
                    assert len(cache["sites"]) == 2
            else:
                done = subprocess.run(
                    program, cwd=tmp_path, env=environment, capture_output=True, text=True
                )
                assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
                assert done.stdout
        for daemon in daemons:
            assert daemon.poll() is None
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(timeout=20) == 0
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.wait()
