"""How often a stream is asked for events that come one by one.

A server answers as soon as there is one event, so that 200 evenly spread changes a second would be
200 replies, 200 finds and 200 commits. Up to so many a second go on at once, as somebody waits for
each; what keeps coming faster is asked for once in the longest time that a burst may take.
"""

from __future__ import annotations

_RATE = 50.0  # events a second that go on at once
_CREDIT = 100.0  # events above that rate before anybody waits; and below it before nobody does
_CROWD = 100  # events in a reply that is worth its cost
# Events a second: more than a server finds in its oplog, and than the loader applies. What is read
# faster only waits, and so much at once would pass for a change of everything, which is a load.
_FASTEST = 100_000.0


class Pace:
    """Of one stream: a token bucket of events.

    :param longest: how long a burst may take, in seconds
    :param now: the time by `time.monotonic`
    """

    def __init__(self, longest: float, now: float) -> None:
        self._longest = longest
        self._credit = _CREDIT
        self._at = self._due = now
        self._events = 0

    def event(self) -> None:
        """One more event of the same reply."""
        self._events += 1

    def reply(self, now: float, count: int = 1) -> float:
        """A reply's first event, or so many of it, are there: seconds to wait before there may be
        another reply."""
        events, self._events = self._events, count
        before, self._at = self._at, now
        credit = self._credit + (now - before) * _RATE - events
        self._credit = min(_CREDIT, max(-_CREDIT, credit))
        if count >= _CROWD:
            self._due = max(self._due, before) + count / _FASTEST
            return max(0.0, self._due - now)
        return self._longest if self._credit < 0 and events < _CROWD else 0.0
