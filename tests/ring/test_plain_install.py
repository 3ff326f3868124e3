"""Without the packages of the extra, the ring says in one sentence what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Imports of these fail as they do where they are not installed.
WITHOUT = """
import sys
sys.modules.update(redis=None, kazoo=None)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("redis", "kazoo", "hiredis"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
del sys.modules["redis"], sys.modules["kazoo"]
sys.meta_path.insert(0, Finder())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "words", ["agent F --members a=h:1", "status F", "init a --zookeeper h:1/r"]
)
def test_the_commands(words: str) -> None:
    done = run(f"from mmapcache.cli import main; sys.exit(main(['ring', *{words.split()!r}]))")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip().endswith("pip install 'mmapcache[ring]'")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["Ring", "AsyncRing"])
def test_the_clients(name: str) -> None:
    done = run(f"import mmapcache.ring as r\ntry:\n r.{name}\nexcept ImportError as e:\n print(e)")
    assert done.stdout == f"mmapcache.ring.{name} needs redis: pip install 'mmapcache[ring]'\n"


def test_what_needs_nothing() -> None:
    done = run("from mmapcache.ring import RingError, Written; print(Written(2, False))")
    assert done.stdout == "Written(copies=2, degraded=False)\n", done.stderr
