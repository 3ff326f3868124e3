"""Deliberate faults of clients and agents, and whether the soak sees each of them.

    PYTHONPATH=tests python -m ring.client_faults [NAME…]

The module's own are in faults.py. Ends with 1 when one is not seen.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmapcache.ring import core, fill
from mmapcache.ring.core import Core
from mmapcache.ring.sweep import Sweep
from mmapcache.ring.together import Steps
from mmapcache.ring.view import Peer
from mmapcache.ring.wire import pack

SECONDS = 15.0


def _maybe_is_a_miss() -> None:
    def read(
        self: Core, name: bytes, key: bytes, shape: frozenset[object] = core._VALUES
    ) -> Steps[tuple[Any, Peer]]:
        view = self.view()
        peer = view.first(key)
        (reply,) = yield ((peer, pack((name, view.epoch_text, key)), 1),)
        if isinstance(reply, Exception):
            if str(reply).startswith("MAYBE"):
                return None, peer
            return (yield from self._read(name, key, {peer: reply}, shape))
        return reply, peer

    Core.read = read  # type: ignore[method-assign]


def _silence_is_a_miss() -> None:
    core._is_open = lambda verdicts: False


def _nothing_is_noted() -> None:
    def owe(*arguments: Any) -> Steps[None]:
        yield from ()

    Core._owe = owe  # type: ignore[method-assign, assignment]


def _one_copy() -> None:
    """The second copy is written when the first could not be."""
    spread = Core._spread

    def one(
        self: Core, key: bytes, command: Any, version: bytes, taken: Any, since: float
    ) -> Steps[Any]:
        view = self.view()
        peer = view.first(key)
        (reply,) = yield ((peer, command(view.epoch_text, version), 1),)
        if isinstance(reply, Exception):
            return (yield from spread(self, key, command, version, taken, since))
        return 2, False, [reply]

    Core._spread = one  # type: ignore[method-assign]


def _ready_without_a_fill() -> None:
    Sweep.spread = lambda *arguments: None  # type: ignore[method-assign]


def _a_change_waits_for_nobody() -> None:
    fill.Filler._is_level = lambda *arguments: True  # type: ignore[method-assign]
    fill.Filler._agree = lambda *arguments: True  # type: ignore[method-assign]
    Sweep.fill = lambda *arguments: 0  # type: ignore[method-assign]


# Name -> what is done, of whom, what is done to nodes meanwhile, and whether there is ZooKeeper.
FAULTS: dict[str, tuple[Callable[[], None], str, str, bool]] = {
    "maybe-is-a-miss": (_maybe_is_a_miss, "client", "kill", False),
    "silence-is-a-miss": (_silence_is_a_miss, "client", "kill_and_stop_another", False),
    "nothing-is-noted": (_nothing_is_noted, "client", "short_stop", False),
    "one-copy": (_one_copy, "client", "kill", False),
    "ready-without-a-fill": (_ready_without_a_fill, "agent", "kill", False),
    "a-change-waits-for-nobody": (_a_change_waits_for_nobody, "agent", "change", True),
}


def of(name: str, who: str) -> None:
    """Makes this process faulty, if it is one of those."""
    if name and FAULTS[name][1] == who:
        FAULTS[name][0]()


def main() -> int:
    from ring.soak import soak

    unseen = []
    names = sys.argv[1:] or [*FAULTS]
    for name in names:
        with tempfile.TemporaryDirectory(prefix="soak-ring-") as folder:
            _, _, only, keep = FAULTS[name]
            try:
                wrong = soak("redis", Path(folder), SECONDS, 1, keep=keep, fault=name, only=only)
                text = f"{wrong} wrong"
            except AssertionError as error:
                wrong, text = 1, str(error).splitlines()[-1]
        print(f"{name}: {'seen' if wrong else 'NOT SEEN'}, {text}", flush=True)
        unseen += [] if wrong else [name]
    print(f"faults of clients and agents: {len(names) - len(unseen)} of {len(names)} seen")
    return int(bool(unseen))


if __name__ == "__main__":
    sys.exit(main())
