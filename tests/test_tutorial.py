"""The tutorial does what it says, from its own text alone: its blocks in order, in one shell.

A block is marked by a comment above its fence: ``<!-- test: shell -->`` is typed into the shell,
``<!-- test: file NAME -->`` is saved. A ``text`` block is what the commands above it print, where
``...`` stands for anything. Only what the machine decides is replaced: the port, and in an
ordinary run the installation, as this environment has mmapcache already. With EVERY=1 that is done,
too, into an environment with nothing in it: of a wheel that is built from the sdist, as a user's.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.once

pytest.importorskip("bson", reason="the loader reads Extended JSON with PyMongo")

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"(?:<!-- test: (\w+) ?([\w.]*) -->\n)?```(\w+)\n(.*?)^```$", re.M | re.S)


class Step(NamedTuple):
    """What is typed or saved, and what it prints: None where the page does not say."""

    kind: str
    argument: str
    text: str
    printed: str | None


def steps() -> list[Step]:
    found: list[Step] = []
    for kind, argument, language, text in BLOCK.findall(TUTORIAL.read_text("utf-8")):
        if language == "text":
            found[-1] = found[-1]._replace(printed=text)
        else:
            assert kind in ("shell", "file"), f"not marked, so not run: {text}"
            found.append(Step(kind, argument, text, None))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build_wheel(folder: Path) -> Path:
    """The wheel that is made from this tree's sdist; what was made in the tree is not in it."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def script(port: int, wheel: Path | None) -> str:
    """The page as one script, which prints a line before each step; None: it installs nothing."""
    parts = ["set -e"]
    for number, step in enumerate(steps()):
        text = step.text.replace("8000", str(port))
        parts.append(f"echo '@@ {number}'")
        if step.kind == "file":
            parts.append(f"cat > {step.argument} <<'END OF FILE'\n{text}END OF FILE")
        elif step.argument != "install":
            parts.append(text)
        elif wheel is not None:
            assert "'mmapcache[mongodb]'" in text
            parts.append(text.replace("'mmapcache[mongodb]'", f"'{wheel}[mongodb]'"))
    return "\n".join(parts)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("install", [False, pytest.param(True, marks=pytest.mark.every)])
def test_tutorial(install: bool, tmp_path: Path) -> None:
    # As in a new terminal: no settings of this test run, and of this environment only where the
    # page's own installation is left out.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    tools = Path(sys.executable).parent
    path = [part for part in environment["PATH"].split(":") if part != str(tools)]
    if install:
        interpreter = tmp_path / "bin"  # python3 is this one, without its packages
        interpreter.mkdir()
        base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        (interpreter / "python3").symlink_to(base)
        path.insert(0, str(interpreter))
    else:
        path.insert(0, str(tools))
    environment["PATH"] = ":".join(path)
    wheel = build_wheel(tmp_path / "dist") if install else None
    work = tmp_path / "work"
    work.mkdir()
    shell = subprocess.Popen(
        ["bash", "-c", script(free_port(), wheel)],
        cwd=work, env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, complaints = shell.communicate(timeout=550)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # and what the page has started
    assert shell.returncode == 0, out + complaints
    said = re.split(r"^@@ \d+\n", out, flags=re.M)[1:]
    assert len(said) == len(steps()) > 10
    checked = 0
    for step, printed in zip(steps(), said, strict=True):
        if step.printed is not None:
            wanted = re.escape(step.printed.strip()).replace(re.escape("..."), ".*")
            assert re.fullmatch(wanted, printed.strip(), re.S), f"{step.text}\n{printed}"
            checked += 1
    assert checked >= 6
    assert not list(work.glob("settings.mmc*"))
