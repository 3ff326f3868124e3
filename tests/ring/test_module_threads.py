"""The module's thread for ZooKeeper hands over without a race: seen by ThreadSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ring.ring_servers import MODULE, ROOT, ZooKeeper
from support.tools import lacking

pytest.importorskip("kazoo", reason="kazoo is not installed: pip install kazoo")

from kazoo.client import KazooClient

SOURCES = [ROOT / "tests" / "ring" / "membership_threads.c", MODULE / "membership.c"]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    if not Path("/usr/include/zookeeper/zookeeper.h").exists():
        lacking("the module cannot be built: apt install libzookeeper-mt-dev")
    built = tmp_path / "membership_threads"
    fault = os.environ.get("RING_FAULT")
    done = subprocess.run(
        [
            *("gcc", "-std=c11", "-O1", "-g", "-fsanitize=thread", "-Wall", "-Wextra", "-Werror"),
            *(f"-I{ROOT / 'ring'}", f"-I{MODULE}", *([f"-DRING_FAULT={fault}"] if fault else [])),
            *(*map(str, SOURCES), "-lzookeeper_mt", "-o", str(built)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "libtsan" in done.stderr:
        lacking("the compiler has no ThreadSanitizer")
    assert done.returncode == 0, done.stderr
    return built


@pytest.mark.every
def test_no_race(program: Path, zookeeper: ZooKeeper, tmp_path: Path) -> None:
    client = KazooClient(hosts=zookeeper.address)
    client.start(timeout=60)
    client.ensure_path("/ring/ring")
    # Where addresses are laid out at random, the sanitizer may find no room for its own.
    still = ["setarch", "-R"] if shutil.which("setarch") else []
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [*still, str(program), f"{zookeeper.address}/ring", "3"], stdout=said, stderr=said
        )
    number = 0
    while process.poll() is None:
        client.set("/ring/ring", b"%d" % number)
        number += 1
    text = (tmp_path / "said").read_text()
    assert "WARNING: ThreadSanitizer" not in text, text
    assert process.returncode == 0, text
    assert int(text.split()[0]) > 0, text
    assert client.exists("/ring/live/a") is None
    client.stop()
    client.close()
