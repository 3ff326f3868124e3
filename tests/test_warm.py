"""The processes that the loaders of other tests are: as if the interpreter had started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import warm
from support.loader import PATIENCE, wait_for

pytest.importorskip("pymongo")

SAYS = """
import json, os, signal, sys, threading
import beside
print(json.dumps({
    "arguments": sys.argv[1:],
    "variables": {name: os.environ.get(name) for name in ("WARM", "PATH", "GONE")},
    "descriptors": len(os.listdir("/proc/self/fd")),
    "threads": len(os.listdir("/proc/self/task")),
    "warm": "pymongo" in sys.modules,
    "own": [name for name in sys.modules if name.split(".")[0] in ("mmapcache", "support")],
    "default": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
    "beside": beside.VALUE,
    "main": __name__,
}))
print("said", file=sys.stderr)
sys.exit(7)
"""


def started(code: str, log: Path, *arguments: str, **variables: str) -> warm.ForkedProcess:
    with log.open("wb") as output:
        environment = {**os.environ, **variables}
        environment.pop("GONE", None)
        return warm.ForkedProcess(["-c", code, *arguments], output, environment)


def test_a_process_has_what_it_was_given_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GONE", "here, not there")
    (tmp_path / "beside.py").write_text("VALUE = 5")
    log = tmp_path / "log"
    others = [started("import time; time.sleep(1000)", tmp_path / "other") for _ in range(2)]
    process = started(SAYS, log, "a", "\u20ac", WARM="1", PYTHONPATH=str(tmp_path))
    assert process.wait(PATIENCE) == process.poll() == 7
    said, error = sorted(log.read_text().splitlines(), key=len, reverse=True)
    found: dict[str, Any] = json.loads(said)
    assert found == {
        "arguments": ["a", "\u20ac"],
        "variables": {"WARM": "1", "PATH": os.environ["PATH"], "GONE": None},
        "descriptors": 4,  # with the one that lists them
        "threads": 1,
        "warm": True,
        "own": [],
        "default": True,
        "beside": 5,
        "main": "__main__",
    }
    assert error == "said"
    for other, number in zip(others, [signal.SIGTERM, signal.SIGKILL], strict=True):
        assert other.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.01)
        other.send_signal(number)
        assert other.wait(PATIENCE) == -number
        other.kill()  # has ended: nothing happens
        with pytest.raises(ProcessLookupError):
            os.kill(other.pid, 0)


def test_what_it_raises_is_a_traceback_and_status_1(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert started("def f(): raise ValueError('no')\nf()", log).wait(PATIENCE) == 1
    assert log.read_text().endswith("ValueError: no\n")
    assert started("", log).wait(PATIENCE) == 0
    stopped = started("import time; time.sleep(1000)", log)
    stopped.send_signal(signal.SIGSTOP)
    wait_for(lambda: ") T " in Path(f"/proc/{stopped.pid}/stat").read_text())
    assert stopped.poll() is None
    stopped.kill()
    assert stopped.wait(PATIENCE) == -signal.SIGKILL


def test_what_needs_a_start_from_nothing_is_not_forked(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "with" / "sitecustomize.py").touch()
    same = dict(os.environ)
    assert warm.can_start(["-m", "mmapcache"], same)
    assert warm.can_start(["-c", ""], same | {"MMAPCACHE_URI": "x", "PYTHONPATH": str(tmp_path)})
    assert not warm.can_start(["program.py"], same)
    assert not warm.can_start(["-m", "m"], same | {"PYTHONPATH": f"x:{tmp_path / 'with'}"})
    for name in ("PYTHONIOENCODING", "LC_ALL", "LANG", "LD_PRELOAD"):
        assert not warm.can_start(["-m", "mmapcache"], same | {name: "another"})
