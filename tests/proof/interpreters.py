#!/usr/bin/env python3
"""pytest on every other CPython that the project supports: `make interpreters`.

    tests/proof/interpreters.py                3.10 to 3.15, but the version that runs this
    tests/proof/interpreters.py 3.14 3.15      these alone
    tests/proof/interpreters.py --whole        the loader's tests, too, on each of them

An interpreter is one of this machine or, where it is newer than those, of Debian's unstable suite,
with that suite's compiler and libraries: tools/debian.py puts its /usr in the place of this one's,
for these processes alone. One that cannot be had today is named in the table and fails nothing.

What differs between interpreters is the binding and Python's own surface, so each shows these. The
loader and the command line are Python: the oldest and the newest show them, and 3.14 and 3.15, as
their libraries are newer. Tests that are marked `once` were shown by `make test`. The last line
says what passed and what was not to be had.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import debian

ROOT = Path(__file__).resolve().parent.parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
# Debian's unstable suite has them, with headers; older ones leave it.
UNSTABLE = ("3.14", "3.15")
PACKAGES = (
    "gcc libc6-dev make dash bash coreutils findutils grep sed mawk mount util-linux procps tzdata"
)

# Of the loader and the command line, written in Python.
LOADER = (
    *("test_sync*.py", "test_live_*.py", "test_cli*.py", "test_streams.py", "test_secrets.py"),
    *("test_service.py", "test_servers.py", "test_serve.py", "test_deploy.py", "test_probes.py"),
    *("test_hostile_text.py", "test_duplicates.py", "test_undecodable_path.py", "test_share.py"),
    *("test_damaged_names.py", "test_status_counts.py", "test_truncated_writer.py", "test_host.py"),
    *("ring/test_clients.py", "ring/test_agent.py"),
)
# About the tests' own tools, what `make wheels` shows, and the ring's module, which no interpreter
# runs: the same everywhere.
TOOLS = (
    *("ring/test_module_*.py", "ring/test_checker.py"),
    "test_packaging.py",
    "test_wire_proxy.py",
    "test_gap_judge.py",
    "test_scripted_oplog.py",
    "test_warm.py",
)

PROBE = """
import os, platform, sys, sysconfig
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
if platform.python_implementation() == "CPython" and os.path.exists(header):
    print("%d.%d" % sys.version_info[:2], platform.python_version(), sys.executable)
"""


@dataclass(frozen=True)
class Interpreter:
    """A CPython with its headers; `root` is where tools/debian.py has unpacked it, if it has."""

    version: str
    release: str
    path: str
    root: Path | None = None

    @property
    def origin(self) -> str:
        return "Debian unstable" if self.root is not None else "this machine"

    def command(self, *command: str) -> list[str]:
        """The command where this interpreter is."""
        return list(command) if self.root is None else debian.inside(self.root, command)


def probe(path: str, root: Path | None = None) -> Interpreter | None:
    """The interpreter at a path, or None: not there, no CPython, or without headers."""
    command = [path, "-c", PROBE]
    command = command if root is None else debian.inside(root, command)
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    except OSError:
        return None
    return Interpreter(said[0], said[1], said[2], root) if len(said) == 3 else None


def of_this_machine() -> Iterator[Interpreter]:
    """The usable interpreters of this machine, on PATH and of pyenv."""
    pyenv = sorted(Path.home().glob(".pyenv/versions/*/bin/python"))
    for path in [*(f"python{version}" for version in VERSIONS), *map(str, pyenv)]:
        if (found := probe(path)) is not None:
            yield found


def of_unstable() -> Path:
    """Where Debian's unstable suite is unpacked; raises debian.NotAvailableError."""
    pythons = [f"python{version}-{part}" for version in UNSTABLE for part in ("dev", "venv")]
    return debian.unpack(ROOT / ".venv" / "unstable", "sid", [*pythons, *PACKAGES.split()])


def arguments(whole: bool) -> str:
    """What pytest is told, as the Makefile's ARGS."""
    ignored = [*TOOLS, *(() if whole else LOADER)]
    words = ["-m", "not once", *(f"--ignore-glob=*/{pattern}" for pattern in ignored)]
    return shlex.join(words)


def run(interpreter: Interpreter, whole: bool) -> tuple[bool, str]:
    """pytest on one interpreter, in an environment of its own; whether it passed, its last line."""
    mine = ("MAKE", "PYTHONPATH")  # of the make that runs this
    env = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    env["MMAPCACHE_WERROR"] = "1"
    if interpreter.root is not None:  # `cc` is a link that no package brings
        env["CC"] = "gcc"
    if interpreter.version in UNSTABLE:  # the tests' server has no wheel for it
        env.setdefault("MMAPCACHE_TEST_SERVER_PYTHON", sys.executable)
    settings = [f"PYTHON={interpreter.path}", f"VENV=.venv/{interpreter.version}", "EXTRAS=test"]
    targets = ["threads", "THREADS=headers", "pytest"]  # without a GIL, from 3.13 on; then with one
    make = ["make", "--no-print-directory", *targets, *settings, f"ARGS={arguments(whole)}"]
    last = ""
    command = interpreter.command(*make)
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.strip():
                last = line.strip().strip("= ")
    return process.returncode == 0, last


def find(wanted: Sequence[str]) -> tuple[dict[str, Interpreter], dict[str, str]]:
    """The interpreters of the wanted versions; and why the others are not to be had."""
    found: dict[str, Interpreter] = {}
    for interpreter in of_this_machine():
        if interpreter.version in wanted:
            found.setdefault(interpreter.version, interpreter)
    missing = [version for version in wanted if version not in found]
    why = dict.fromkeys(missing, "not on this machine")
    if unstable := [version for version in missing if version in UNSTABLE]:
        try:
            root = of_unstable()
        except debian.NotAvailableError as error:
            return found, {**why, **dict.fromkeys(unstable, str(error))}
        for version in unstable:
            if (of_debian := probe(f"/usr/bin/python{version}", root)) is not None:
                found[version] = of_debian
                del why[version]
            else:
                why[version] = "it does not start in Debian's unstable suite"
    return found, why


def main() -> None:
    """Runs all; exits with 1 when one failed, 0 when none did, had or not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("versions", nargs="*", metavar="VERSION")
    parser.add_argument("--whole", action="store_true", help="the loader's tests, too, on each")
    given = parser.parse_args()
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if unknown := set(given.versions) - set(VERSIONS):
        parser.error(f"{min(unknown)} is none of {' '.join(VERSIONS)}")
    wanted = given.versions or [version for version in VERSIONS if version != own]
    found, why = find(wanted)
    rows: list[tuple[str, str, str, str, str]] = []
    passed: list[str] = []
    failed: list[str] = []
    ends = {min(found, key=VERSIONS.index), max(found, key=VERSIONS.index)} if found else set()
    for version in sorted(found, key=VERSIONS.index):
        interpreter, begun = found[version], time.monotonic()
        whole = given.whole or version in ends.union(UNSTABLE)
        print(f"\npytest on {interpreter.release} ({interpreter.origin})", flush=True)
        good, last = run(interpreter, whole)
        (passed if good else failed).append(interpreter.release)
        what = "with loader" if whole else "binding"
        took = f"{time.monotonic() - begun:.0f} s"
        rows.append((interpreter.release, interpreter.origin, what, took, last))
    rows += [(version, "not to be had", "", "", reason) for version, reason in why.items()]
    print()
    for release, origin, what, took, last in rows:
        print(f"{release:9}{origin:17}{what:12}{took:>7}  {last}")
    said = [f"passed on CPython {' '.join(passed) or 'none'}"]
    said += [f"failed on {' '.join(failed)}"] if failed else []
    said += [f"not to be had today: {' '.join(why)}"] if why else []
    print("interpreters: " + "; ".join(said))
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
