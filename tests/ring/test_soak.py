"""Workers that read and write through random faults see nothing that cannot be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from ring.ring_servers import zookeeper_missing
from ring.soak import soak
from support.tools import lacking

from ring import wires

SECONDS = 60.0


@pytest.mark.every
@pytest.mark.timeout(600)
@pytest.mark.parametrize("keep", [False, True], ids=["fixed", "zookeeper"])
@pytest.mark.parametrize("cuts", [False, True], ids=["", "cuts"])
def test_soak(kind: str, keep: bool, cuts: bool, tmp_path: Path) -> None:
    if keep and (why := zookeeper_missing()):
        lacking(why)
    if cuts and (why := wires.missing()):  # who is root may not be allowed it, either
        pytest.skip(why)
    seed = random.randrange(1 << 30)
    wrong = soak(kind, tmp_path, SECONDS, seed, keep=keep, cuts=cuts)
    assert wrong == 0, f"seed {seed}"
