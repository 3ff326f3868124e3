"""Whether a soak sees each of the deliberate faults that a history must show.

    PYTHONPATH=tests python -m ring.soak_faults [NAME…]

Each is looked for in short soaks of one disturbance, with one seed after the other, until one shows
it; ends with 1 when none does. All of the module's faults are in faults.py, each with the test that
sees it; those in faulty.py are what a history must show.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ring.faulty import FAULTS
from ring.soak import RestError, soak

from demo.ring.installed import ROOT

SECONDS = 8.0
TRIES = 30  # a fault that one soak in four shows is missed in one run of 5,000


def module(number: int) -> str:
    """Path of the module with a fault."""
    path = ROOT / "redis_module" / "build" / f"fault-{number}" / "ring.so"
    subprocess.run(["make", "-s", "-C", str(ROOT / "redis_module"), str(path)], check=True)
    return str(path)


def look(name: str, seed: int) -> str:
    """What was seen of a fault in one short soak; empty: nothing."""
    fault = FAULTS[name]
    with tempfile.TemporaryDirectory(prefix="soak-ring-") as folder:
        try:
            wrong = soak(
                "redis",
                Path(folder),
                SECONDS,
                seed,
                keep=fault.keep,
                fault=name,
                only=fault.only,
            )
        except RestError as error:
            return str(error)
        except AssertionError as error:
            print(f"{name}, seed {seed}: the soak did not end: {error}")
            return ""
    return f"{wrong} wrong" if wrong else ""


def main() -> int:
    unseen = []
    names = sys.argv[1:] or [*FAULTS]
    for name in names:
        fault = FAULTS[name]
        os.environ.pop("RING_MODULE", None)
        if isinstance(fault.who, int):
            os.environ["RING_MODULE"] = module(fault.who)
        seen = next((text for seed in range(TRIES) if (text := look(name, seed))), "")
        print(f"{name}: {'seen' if seen else 'NOT SEEN'}, {seen}", flush=True)
        unseen += [] if seen else [name]
    print(f"faults that a soak is to see: {len(names) - len(unseen)} of {len(names)} seen", *unseen)
    return int(bool(unseen))


if __name__ == "__main__":
    sys.exit(main())
