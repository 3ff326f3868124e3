"""`make ring-demo`: what it judges by, and the demo itself, shortened."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ring.ring_servers import PATIENCE, ROOT, eventually
from support.tools import lacking

from demo.ring.installed import any_server, module_path

pytest.importorskip("redis", reason="redis-py is not installed: pip install 'mmapcache[ring]'")
pytest.importorskip("tornado")

from demo.ring.circle import Circle
from demo.ring.judge import Judge, Verdict

pytestmark = pytest.mark.once
COMMAND = [sys.executable, "-m", "demo.ring", "--quick"]


@pytest.fixture
def servers() -> None:
    for found, missing in (any_server(), module_path()):
        if not found:
            lacking(missing)


def test_a_value_with_all_copies_must_be_read() -> None:
    judge = Judge(["k"], copies=2)
    assert judge.verdict("k", 0) is Verdict.RIGHT
    assert judge.verdict("k", None) is Verdict.LOST
    assert judge.begin("k") == 1
    assert judge.verdict("k", 0) is judge.verdict("k", 1) is Verdict.RIGHT  # it is under way
    assert judge.acknowledged("k", 1, copies=2)
    assert judge.verdict("k", 0) is Verdict.WRONG
    assert judge.verdict("k", 2) is Verdict.WRONG, "nobody has written it"


def test_one_copy_must_be_read_when_all_is_at_rest() -> None:
    judge = Judge(["k"], copies=2)
    assert not judge.acknowledged("k", judge.begin("k"), copies=1)
    assert judge.verdict("k", 0) is Verdict.RIGHT
    assert judge.verdict("k", 0, at_rest=True) is Verdict.WRONG
    assert judge.verdict("k", 1, at_rest=True) is Verdict.RIGHT


def test_the_naive_copy_is_at_the_next_node() -> None:
    circle, smaller = Circle(["a", "b", "c"]), Circle(["a", "b"])
    pairs = [circle.pair(b"%d" % number) for number in range(300)]
    assert {node for pair in pairs for node in pair} == {0, 1, 2}
    for number, (first, second) in enumerate(pairs):
        assert first != second
        if first == 2:  # when c is gone, the copy's holder is the first one
            assert smaller.pair(b"%d" % number)[0] == second


def test_it_says_what_to_install() -> None:
    done = subprocess.run(
        [*COMMAND, "--kind", "redis"],
        cwd=ROOT,
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert "redis-server is not installed: apt install redis-server" in done.stderr


@pytest.fixture
def demo(servers: None) -> Iterator[subprocess.Popen[str]]:
    """Under way, with a fixed ring; two of its servers will be stopped."""
    process = subprocess.Popen(
        [*COMMAND, "--fixed", "--act", "hang"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background jobs ignore it, and what they start.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def state(pid: int) -> str:
    """As /proc has it: T is stopped, Z waits for its parent; empty: it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def children(pid: int) -> list[int]:
    """Of a process, and their children."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, found) for each in (child, *children(child))]


@pytest.mark.every
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(demo: subprocess.Popen[str], number: int) -> None:
    assert demo.stdout is not None
    for line in demo.stdout:
        if "SIGSTOP" in line:
            break
    eventually(
        "two servers stand still",
        lambda: [state(child) for child in children(demo.pid)].count("T") == 2,
    )
    all_of_them = children(demo.pid)
    words = b" ".join(Path(f"/proc/{child}/cmdline").read_bytes() for child in all_of_them)
    found = re.search(rb"[^ \0]+/ring\.mmc", words)
    assert found, words
    folder = Path(os.fsdecode(found[0])).parent
    assert folder.exists()
    demo.send_signal(number)
    status = demo.wait(PATIENCE)
    eventually(
        "all its processes end", lambda: {state(child) for child in all_of_them} <= {"", "Z"}
    )
    if number == signal.SIGINT:
        assert status == 130
        assert not folder.exists()
    else:
        shutil.rmtree(folder)


@pytest.mark.every
@pytest.mark.timeout(600)
def test_the_story_is_told(servers: None) -> None:
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, timeout=580)
    page = done.stdout.partition("=====")[2]
    assert done.returncode in (0, 1), done.stderr
    assert "Node a killed with SIGKILL" in page, done.stdout + done.stderr
    for act in page.split("\n\n")[1:]:
        if re.search("began anew, too", act):
            continue  # two nodes at once: this machine stood still
        assert "BROKEN  ring: no value was lost" not in act, page
        assert "BROKEN  after more than" not in act, page
    assert re.search("ring +[0-9,]+ +0 +0 ", page), page
