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
@pytest.mark.parametrize("beside", ["nothing", "zookeeper", "cuts"])
def test_soak(kind: str, beside: str, tmp_path: Path) -> None:
    missing = {"nothing": lambda: "", "zookeeper": zookeeper_missing, "cuts": wires.missing}
    if why := missing[beside]():
        if beside == "cuts":  # who is root may not be allowed it, either
            pytest.skip(why)
        lacking(why)
    seed = random.randrange(1 << 30)
    keep, cuts = beside == "zookeeper", beside == "cuts"
    wrong = soak(kind, tmp_path, SECONDS, seed, keep=keep, cuts=cuts)
    assert wrong == 0, f"seed {seed}"
