"""The demo itself, shortened: real processes, and its exit status."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

pytest.importorskip("tornado")
pytest.importorskip("pymongo")

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "demo", "--quick"]


def mentioned(directory: str) -> list[str]:
    """Command lines of running processes that name `directory`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if directory in words:
            found.append(words)
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_story_is_told_and_leaves_nothing_behind() -> None:
    process = subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env={**os.environ, "KEEP": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    text = ""
    try:
        for line in process.stdout:
            text += line
            if line.startswith("Ctrl-C"):
                break
        assert "Every promise was kept" in text, text
        assert "requests per worker" in text
        assert re.search("a write is in all 8 workers after [0-9]+ ms", text), text
        assert "kept    the standby follows within 5 s" in text
        assert text.count("no collection was read again") == 2
        stat = re.search(r"mmapcache stat (\S+)", text)
        assert stat, text
        directory = str(Path(stat[1]).parent)
        assert mentioned(directory), "KEEP=1 leaves the service up"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, process.stdout.read()
        assert not Path(directory).exists()
        end = time.monotonic() + 10
        while mentioned(directory):
            assert time.monotonic() < end, mentioned(directory)
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
