#!/usr/bin/env python3
"""Part of `make portable`: the binding as macOS gets it, tested on Linux.

    tests/proof/portable.py                       the test files of CHOSEN
    tests/proof/portable.py --whole               all of them: minutes
    tests/proof/portable.py tests/test_keys.py    these; any of pytest's flags may follow

Builds the package with MMAPCACHE_PORTABLE=1 into build/portable, and runs pytest from there. CHOSEN
is what concerns files, maps, locks, waiting and forks; the rest asks nothing of the system. Needs
the packages of the extra `test` in the interpreter that runs this.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "portable"
LIB = BUILD / "lib"
CHOSEN = (
    *("changes_api", "fork", "fork_threads", "host", "lifecycle", "limits", "owners", "probes"),
    *("streams", "thread_stress", "threads", "truncated_writer", "truncation", "undecodable_path"),
    *("warm", "writer"),
)


# They start programs as a user would, which find the tree's own build; and the ring asks nothing of
# the system, so it is built the same.
LEFT_OUT = ("test_frameworks.py", "test_service.py", "ring")


def main() -> int:
    """Builds, sees that the build is the portable one, runs pytest; its exit status."""
    # The build comes first; the rest of the tree has what some tests import.
    path = os.pathsep.join([str(LIB), str(ROOT)])
    env = {**os.environ, "MMAPCACHE_PORTABLE": "1", "PYTHONPATH": path}
    places = [f"--build-lib={LIB}", f"--build-temp={BUILD / 'temp'}"]
    build = [sys.executable, "setup.py", "--quiet", "build", *places]
    subprocess.run(build, cwd=ROOT, check=True, env=env)
    script = "import mmapcache._mmapcache as m; print(m.SYSTEM, m.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", script],
        cwd=BUILD,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if not said.startswith(f"posix {LIB}"):
        raise SystemExit(f"portable: {said.strip()} is not the portable build")
    arguments = [word for word in sys.argv[1:] if word != "--whole"]
    chosen = [str(ROOT / word) if (ROOT / word).exists() else word for word in arguments]
    if not any((ROOT / word).exists() for word in arguments):
        files = [f"tests/test_{name}.py" for name in CHOSEN]
        files = ["tests"] if "--whole" in sys.argv else files
        chosen += [str(ROOT / name) for name in files]
        chosen += [f"--ignore={ROOT}/tests/{name}" for name in LEFT_OUT]
    pytest = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml")]
    pytest += [f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    pytest += ["-n", "4", "--dist", "loadfile", *chosen]
    return subprocess.run(pytest, cwd=BUILD, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
