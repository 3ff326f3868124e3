"""Makes a virtual environment with pip in it: `python tools/make_venv.py DIRECTORY`.

Uses the standard library's venv. Debian's Python comes without ensurepip unless python3-venv is
installed; then virtualenv does the same, fetched into a directory of its own with whatever pip
there is. Also says what else is missing for building the extension, before anything is downloaded.
Only the standard library, and nothing newer than what Python 3.7 reads: it has to be able to say
that a Python is too old.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

OLDEST = (3, 10)


def missing() -> list[str]:
    """What this machine lacks, one sentence for each thing; empty when all is there."""
    lacks = []
    if sys.version_info < OLDEST:
        lacks.append(
            f"{sys.executable} is Python {sys.version.split()[0]}, too old by now:"
            " say `make PYTHON=python3.11 ...`, or any other from 3.10 on"
        )
    if sys.platform not in ("linux", "darwin"):
        lacks.append(
            f"mmapcache runs on Linux, and on macOS for development: this is {sys.platform}"
        )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        lacks.append(f"{header} is missing: on Debian and Ubuntu `apt install python3-dev`")
    compiler = os.environ.get("CC", "cc").split()[0]
    if shutil.which(compiler) is None and shutil.which("gcc") is None:
        lacks.append(f"no C compiler {compiler}: on Debian and Ubuntu `apt install gcc libc6-dev`")
    if find_spec("ensurepip") is None and find_spec("pip") is None:
        lacks.append("neither ensurepip nor pip: on Debian and Ubuntu `apt install python3-venv`")
    return lacks


def make(directory: Path) -> None:
    """Makes the environment afresh; raises CalledProcessError when a step fails."""
    shutil.rmtree(directory, ignore_errors=True)
    if find_spec("ensurepip") is not None:
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        return
    print("This Python has no ensurepip: making the environment with virtualenv instead")
    with tempfile.TemporaryDirectory() as scratch:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", scratch]
        subprocess.run([*install, "virtualenv"], check=True)
        subprocess.run(
            [sys.executable, "-m", "virtualenv", "--quiet", str(directory)],
            check=True,
            env={**os.environ, "PYTHONPATH": scratch},
        )


def main() -> None:
    """Checks, then makes the environment; exits with 2 when something is missing."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    lacks = missing()
    for sentence in lacks:
        print(f"make_venv: {sentence}", file=sys.stderr)
    if lacks:
        raise SystemExit(2)
    make(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
