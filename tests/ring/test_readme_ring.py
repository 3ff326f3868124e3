"""The ring's section of the README does what it says: its commands, in a shell, then its Python.

What only the reader's machine has is replaced: the ports, the server, the module, the directory.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ring.ring_servers import PATIENCE, ROOT, eventually, free_port, module_path, server_binary
from support.tools import lacking

pytest.importorskip("redis", reason="redis-py is not installed: pip install 'mmapcache[ring]'")

from mmapcache.ring import Ring, RingNotReady

pytestmark = pytest.mark.once

BLOCK = re.compile(r"<!-- ring test: (\w+) -->\n```\w+\n(.*?)```", re.S)


def ready(ring: Ring) -> bool | None:
    try:
        return all(state == "ready" for _, state in ring.nodes.values()) or None
    except RingNotReady:
        return None


def test_the_readme_starts_a_ring_and_uses_it(tmp_path: Path) -> None:
    server, missing = server_binary("redis")
    if not server:
        server, missing = server_binary("valkey")
    module, no_module = module_path()
    if not server or not module:
        lacking(missing if not server else no_module)
    (first, daemons), (second, python) = BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
    assert (first, second) == ("daemons", "python")
    assert daemons in (ROOT / "docs/ring.md").read_text("utf-8")
    ports = {port: str(free_port()) for port in ("6401", "6402", "6403")}
    daemons = re.sub(r"\b640[123]\b", lambda port: ports[port[0]], daemons)
    daemons = daemons.replace("redis-server", server).replace("redis_module/build/ring.so", module)
    daemons = daemons.replace(" id=", " fence=30000 id=")  # a busy machine stands still for longer
    *starts, status = daemons.replace("/run/mmapcache", str(tmp_path)).splitlines()
    assert len(starts) == 4
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": tools, "PYTHONPATH": str(ROOT)}
    started = []
    try:
        with (tmp_path / "log").open("w") as log:
            for line in starts:
                words = f"exec {line.removesuffix('&')}".replace("exec mmapcache", MMAPCACHE)
                started.append(
                    subprocess.Popen(
                        ["bash", "-c", words], stdout=log, stderr=log, cwd=tmp_path, env=environment
                    )
                )
        ring = Ring(str(tmp_path / "ring.mmc"))
        eventually(f"the ring is ready: {tmp_path / 'log'}", lambda: ready(ring))
        program = python.replace("/run/mmapcache", str(tmp_path))
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("2 False\n(b'42', '")
        done = subprocess.run(
            ["bash", "-c", status.replace("mmapcache", MMAPCACHE.removeprefix("exec "), 1)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(" ready ") == 3
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)


# The command, wherever the tests' interpreter has it.
MMAPCACHE = f"exec {sys.executable} -m mmapcache"
