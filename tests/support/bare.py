"""An interpreter that has Python's own library and mmapcache, and nothing else: PyMongo is absent.

No environment is made for it: the interpreter that this one's environment was made from is started
without `site`, and finds the package by a link in a folder of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mmapcache

START = """
import importlib.util, sys
sys.path.insert(0, sys.argv.pop(1))
assert not any(map(importlib.util.find_spec, ("bson", "pymongo", "orjson")))
"""


def bare(folder: Path, script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Starts `script` there, with the link in `folder`."""
    link = folder / "bare" / "mmapcache"
    if not link.exists():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(Path(mmapcache.__file__).resolve().parent)
    interpreter: str = getattr(sys, "_base_executable", sys.executable)
    command = [interpreter, "-I", "-S", "-B", "-X", "utf8", "-c", START + script]
    return subprocess.Popen(
        [*command, str(link.parent), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def run_bare(folder: Path, script: str, *arguments: str | Path) -> str:
    """The same to its end, which must be good; what it printed."""
    process = bare(folder, script, *arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, f"exit {process.returncode}\n{out}{err}"
    return out
