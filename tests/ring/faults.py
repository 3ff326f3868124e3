"""Shows that each deliberate fault of the module (redis_module/fault.h) is seen by a test.

    python tests/ring/faults.py [NUMBER...]

Builds the module with each fault by itself and runs the test that is to fail with it; ends with 1
when one does not, or when a fault of the sources is not in the table.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "redis_module"

COMMANDS = "test_module_commands.py::test_"
FENCE = "test_module_fence.py::test_"
MEMORY = "test_module_memory.py::test_"
OWED = "test_module_owed.py::test_"
RECORD = "test_module_record.py::test_"
ZOOKEEPER = "test_module_zookeeper.py::test_"

TRIES = 4  # a server may be stopped where a fault shows, or beside it

# Number -> what is wrong, and the test that sees it.
FAULTS = {
    1: ("the fence comes after the command", FENCE + "nothing_that_a_busy"),
    2: ("versions are not compared", COMMANDS + "higher_version_stays"),
    3: ("no flush at the start", FENCE + "old_data_is_never_served"),
    4: ("a flush at a new session", ZOOKEEPER + "expired_session"),
    5: ("FILL overwrites", COMMANDS + "fill_takes_what_is_newer"),
    6: ("tombstones are too short", COMMANDS + "deleted_key_does_not_come_back"),
    7: ("the epoch is not looked at", COMMANDS + "epochs"),
    8: ("any node takes any key", COMMANDS + "only_holders_take_a_key"),
    9: ("a miss is final while the node is filled", FENCE + "server_that_is_killed"),
    10: ("emptied by hand, and still ready", FENCE + "emptied_by_hand"),
    11: ("connections live on from life to life", FENCE + "nothing_that_waited"),
    12: ("a write may come however late", COMMANDS + "late_and_far_ahead"),
    13: ("a full server keeps the older value", MEMORY + "full_server_says_so"),
    14: ("misses are final beside eviction", MEMORY + "eviction_makes_no_miss_final"),
    15: ("a node that is added again brings leftovers", RECORD + "spare_serves_nothing"),
    16: ("a miss is final at who is only written", COMMANDS + "holders_of_both_rings"),
    17: ("filled is who was so in another life", COMMANDS + "ready_is_for_this_life"),
    18: ("two servers with one id take turns", ZOOKEEPER + "second_server"),
    19: ("what ended before its write is forgotten", COMMANDS + "what_has_ended"),
    20: ("a lost session is tried for ever", ZOOKEEPER + "zookeeper_killed_and_back"),
    21: ("a holder drops its own keys", COMMANDS + "drop_removes_what_is_held_no_more"),
    23: ("two full holders lose a counter", MEMORY + "full_server_loses_no_counter"),
    25: ("a child outlives a killed server", FENCE + "killed_while_it_writes"),
    24: ("messages are handed over without a fence", "test_module_threads.py::test_no_race"),
    26: ("a node that missed a step goes on", ZOOKEEPER + "node_that_missed_a_step"),
    27: ("what is older than what has passed stays", COMMANDS + "fill_with_what_has_passed"),
    28: ("one that is refused holds up a fill", MEMORY + "full_server_keeps_no_older"),
    29: ("what is replayed begins a life", FENCE + "swap_that_is_replayed"),
    30: ("a replaced server joins again", ZOOKEEPER + "replaced_server_joins"),
    31: ("one that stood still goes on", FENCE + "fence_is_300_ms"),
    22: ("owed keys are forgotten without a word", OWED + "overflow_is_said"),
}


def is_seen(number: int) -> bool:
    """Whether the test fails with the fault. It passes without it, or that would show nothing."""
    file, _, name = FAULTS[number][1].partition("::")
    module = MODULE / "build" / f"fault-{number}" / "ring.so"
    subprocess.run(["make", "-s", "-C", str(MODULE), str(module)], check=True, timeout=300)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *(str(ROOT / "tests" / "ring" / file), "-k", f"{name} and not valkey"),
        ],
        cwd=ROOT,
        env={**os.environ, "RING_MODULE": str(module), "RING_FAULT": str(number), "EVERY": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if run.returncode not in (0, 1):
        raise SystemExit(f"fault {number}: pytest ended with {run.returncode}\n{run.stdout}")
    return run.returncode == 1


def main() -> None:
    sources = "".join(path.read_text() for path in MODULE.glob("*.c"))
    there = {int(number) for number in re.findall(r"RING_FAULT_IS\((\d+)\)", sources)}
    if there != set(FAULTS):
        raise SystemExit(f"the table has not the faults of the sources: {there ^ set(FAULTS)}")

    def look(number: int) -> bool:
        seen = any(is_seen(number) for _ in range(TRIES))
        print(f"fault {number}, {FAULTS[number][0]}: {'seen' if seen else 'NOT SEEN'}", flush=True)
        return seen

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = list(pool.map(look, map(int, sys.argv[1:] or FAULTS)))
    print(f"faults of the module: {sum(seen)} of {len(seen)} seen")
    raise SystemExit(0 if all(seen) else 1)


if __name__ == "__main__":
    main()
