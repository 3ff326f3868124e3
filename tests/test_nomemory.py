"""Every allocation of the binding fails in turn: MemoryError or the right answer, and no leak."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from nomemory import run

pytest.importorskip("bson")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_allocation_of_every_operation_fails(capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler for tests/nomemory/hook.c")
    every = bool(os.environ.get("EVERY"))
    seed = random.randrange(1 << 32)
    print(f"every operation: {every}, seed {seed}")
    outcomes = run.run("", os.cpu_count() or 1, 1.0 if every else 0.2, seed)
    if not every:  # the core allocates in few of them: a sample may be without one
        outcomes += run.run("Writer.anonymous", 1)
    said = run.summary(outcomes)
    with capsys.disabled():
        print(f"\n{said.splitlines()[-1]}")
    assert len(outcomes) > (200 if every else 40)
    assert not [outcome.name for outcome in outcomes if outcome.faults], said
    if run.preloadable():
        assert sum(outcome.cases["core"] for outcome in outcomes) > (100 if every else 0)
    else:
        print("the core's own allocations did not fail: something else stands before malloc")


BROKEN = {
    "wrong answer": "the answer 0",
    "leak": "blocks: ",
    "another exception": "ValueError",
    "crash": "ended with -",
    "useless afterwards": "and afterwards, with memory, the answer 5",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_fault_is_seen(cache_path: Path, name: str) -> None:
    directory = cache_path.parent
    env = run.build(directory)
    outcome = run.try_one(f"broken: {name}", directory, env, "nomemory.broken")
    assert any(BROKEN[name] in fault for fault in outcome.faults), outcome
