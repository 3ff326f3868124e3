"""Deliberate faults of clients, agents and the module that a history must show.

soak_faults.py looks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmapcache.ring import core, fill
from mmapcache.ring.core import Core
from mmapcache.ring.sweep import Sweep
from mmapcache.ring.together import Steps
from mmapcache.ring.view import Peer
from mmapcache.ring.wire import pack


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


def _leftovers_stay() -> None:
    Sweep.drop = lambda *arguments: 0  # type: ignore[method-assign]


def _nothing() -> None:
    """The operator's: the disturbance is the fault."""


@dataclass(frozen=True)
class Fault:
    """
    :param who: is faulty: client, agent or operator; or the number of one of the module's
    :param only: what is done meanwhile, see disturbances.py
    """

    who: str | int
    only: str
    keep: bool = False
    begin: Callable[[], None] = _nothing


FAULTS = {
    "maybe-is-a-miss": Fault("client", "kill", begin=_maybe_is_a_miss),
    "silence-is-a-miss": Fault("client", "kill_and_stop_another", begin=_silence_is_a_miss),
    "nothing-is-noted": Fault("client", "short_stop", begin=_nothing_is_noted),
    "one-copy": Fault("client", "kill", begin=_one_copy),
    "ready-without-a-fill": Fault("agent", "kill", begin=_ready_without_a_fill),
    "a-change-waits-for-nobody": Fault("agent", "change", True, begin=_a_change_waits_for_nobody),
    "leftovers-stay": Fault("agent", "change", True, begin=_leftovers_stay),
    "two-leave-at-once": Fault("operator", "two_leave_at_once", True),
    "versions-not-compared": Fault(2, "short_stop"),
    "old-dump-is-served": Fault(3, "old_dump"),
    "flush-at-a-new-session": Fault(4, "zookeeper_stops", True),
    "fill-overwrites": Fault(5, "kill_and_halt_the_agent"),
    "short-tombstones": Fault(6, "short_stop"),
    "epoch-not-looked-at": Fault(7, "change_beside_a_host_left_behind", True),
    "final-misses-while-filled": Fault(9, "kill_and_stop_another"),
    "stands-still-and-goes-on": Fault(31, "long_stop"),
}


def begin(name: str, who: str) -> None:
    """Makes this process faulty, if it is one of those."""
    if name and FAULTS[name].who == who:
        FAULTS[name].begin()
