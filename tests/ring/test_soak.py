"""Workers that read and write through random faults see nothing that cannot be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from ring.ring_servers import zookeeper_missing
from ring.soak import soak

SECONDS = 60.0


@pytest.mark.every
@pytest.mark.timeout(600)
@pytest.mark.parametrize("keep", [False, True], ids=["fixed", "zookeeper"])
def test_soak(kind: str, keep: bool, tmp_path: Path) -> None:
    if keep and (missing := zookeeper_missing()):
        pytest.skip(missing)
    seed = random.randrange(1 << 30)
    assert soak(kind, tmp_path, SECONDS, seed, keep=keep) == 0, f"seed {seed}"
