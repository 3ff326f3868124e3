"""How often a stream is asked for events that come one by one.

A server answers as soon as there is one event, so that 200 evenly spread changes a second would be
200 replies, 200 finds and 200 commits. What comes now and then goes on at once; what keeps coming
is asked for once in the longest time that a burst may take.
"""

from __future__ import annotations

_AT_ONCE = 10  # replies with few events after which nobody waits; one more each `longest`
_CROWD = 100  # events in a reply that is worth its cost


class Pace:
    """Of one stream.

    :param longest: how long a burst may take, in seconds
    :param now: the time by `time.monotonic`
    """

    def __init__(self, longest: float, now: float) -> None:
        self._longest = longest
        self._credit = float(_AT_ONCE)
        self._at = now
        self._events = 0

    def event(self) -> None:
        """One more event of the same reply."""
        self._events += 1

    def reply(self, now: float) -> float:
        """A reply's first event is there: seconds to wait before there may be another reply."""
        crowd = self._events >= _CROWD
        self._events = 1
        if self._longest > 0:
            self._credit = min(_AT_ONCE, self._credit + (now - self._at) / self._longest)
        self._at = now
        if crowd:
            return 0.0
        self._credit -= 1
        return max(0.0, -self._credit * self._longest)
