"""A load that waits: whether its source hangs, or only takes long.

How long a query takes before its first documents come nobody can say, so silence alone proves
nothing. When nothing has come for a while the source is asked something small, by a thread of its
own. An answer shows that it is alive, and the load is patient; without one it hangs, which is said.
Either way the load goes on waiting: to ask a source that hangs for the same once more helps nobody,
and the connection has a limit of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

SILENCE = 10.0  # seconds without a word after which a source counts as hanging
LOOK = 0.1  # of these, between two looks


@dataclass
class Watch:
    """Over one load; one thread, which is the load's consumer.

    :param ask: returns whether the source has answered something small; may take for ever
    :param hangs: called when it counts as hanging
    :param answers: called when the load waits, but the source answers; once
    :param goes_on: called after `hangs`, when something came
    :param clock: seconds, never going back
    """

    ask: Callable[[], bool]
    hangs: Callable[[], None]
    answers: Callable[[], None]
    goes_on: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    _since: float = 0.0  # when something was heard last, or waiting began
    _asking: bool = False
    _answered: float = 0.0  # when the thread had its last answer
    _hanging: bool = False
    _patient: bool = False

    @property
    def every(self) -> float:
        """Seconds between two calls of `look`."""
        return SILENCE * LOOK

    def waits(self) -> None:
        """The load begins to wait for the source's next word."""
        self._since = self.clock()

    def look(self) -> None:
        """Nothing has come yet."""
        heard = max(self._since, self._answered)
        silent = self.clock() - heard
        if silent >= SILENCE / 2 and not self._asking:
            self._asking = True
            # A daemon: it may wait for a source that hangs.
            threading.Thread(target=self._ask, name="mmapcache-ask", daemon=True).start()
        if silent >= SILENCE and not self._hanging:
            self._hanging = True
            self.hangs()
        elif silent < SILENCE / 2 and heard > self._since:
            self.heard()
            if not self._patient:
                self._patient = True
                self.answers()

    def heard(self) -> None:
        """Something came."""
        if self._hanging:
            self._hanging = False
            self.goes_on()

    def _ask(self) -> None:
        try:
            if self.ask():
                self._answered = self.clock()
        finally:
            self._asking = False
