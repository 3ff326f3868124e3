"""Reads again, each interval, the few collections of which nobody tells when they change, while the
others are followed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import mmapcache
from mmapcache.sync.absence import some_of
from mmapcache.sync.backoff import Backoff
from mmapcache.sync.diary import Diary
from mmapcache.sync.errors import (
    HeldError,
    ShapeError,
    SourceAwayError,
    SourceRefusedError,
    SyncError,
    sentence,
)
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.options import Options
from mmapcache.sync.position import Position
from mmapcache.sync.redaction import public_text
from mmapcache.sync.reporting import Reporting
from mmapcache.sync.round import Outcome, Round
from mmapcache.sync.shaping import Shaping
from mmapcache.sync.source import Source
from mmapcache.sync.tally import Tally
from mmapcache.sync.target import Target


class Polling:
    """What `Source.polled` names. `trouble`: why it is not what the source has; empty: it is.

    What fails here degrades the loader, and does not stop it from following the others.

    :param backoff: how long to wait when it fails, if that is more than an interval
    """

    def __init__(
        self,
        options: Options,
        source: Source,
        target: Target,
        inbox: Inbox,
        shaping: Shaping,
        reporting: Reporting,
        tally: Tally,
        diary: Diary,
        backoff: Backoff,
    ) -> None:
        self._options = options
        self._source = source
        self._target = target
        self._inbox = inbox
        self._shaping = shaping
        self._reporting = reporting
        self._tally = tally
        self._diary = diary
        self._backoff = backoff
        self.trouble = ""
        self._began = 0.0  # the last time that all of it was read, by time.monotonic; 0.0: never
        self._next = 0.0  # likewise: when it is read again

    def why(self) -> str:
        """Why something is read again and again, as a sentence; empty: nothing is."""
        return polled_sentence(self._source.polled, self._options.interval)

    def begin(self, began: float, trouble: str) -> None:
        """A load has just read everything.

        :param began: when it began, by time.monotonic
        :param trouble: why what is polled is not what the source has
        """
        self.trouble = trouble
        self._began = began
        self._next = time.monotonic() + self._interval()

    def due(self) -> bool:
        """Whether it is time to read."""
        return bool(self._source.polled) and time.monotonic() >= self._next

    def age(self) -> float | None:
        """Seconds since it was read; 0.0 if there is nothing of the kind, None if it was not read
        in this process."""
        if not self._source.polled:
            return 0.0
        return time.monotonic() - self._began if self._began else None

    def read(self, writer: mmapcache.Writer, position: Position) -> None:
        """Reads it, and publishes what has changed.

        :param writer: of the file that has the rest of the data
        :param position: up to which the others were followed, for the same commit
        :raises StopError: a signal ended the loader
        :raises PositionLostError: one of the collections can be followed now
        :raises mmapcache.CorruptError: the file is to be made anew
        """
        began = time.monotonic()
        load = Round(
            self._options,
            self._source,
            self._target,
            self._inbox,
            self._shaping,
            follow=False,
            first=False,
            bar=False,
            watch=self._reporting.watch(),
        )
        try:
            outcome = load.run(writer, polled=position)
        except HeldError:
            return  # when the marker has gone
        except (
            *(SourceAwayError, SourceRefusedError, ShapeError),
            *(mmapcache.FullError, mmapcache.InvalidDocument, mmapcache.LimitError),
        ) as error:
            self._tally.error(error.code if isinstance(error, SyncError) else type(error).__name__)
            self._failed(sentence(error), time.monotonic() - began)
            return
        self._next = time.monotonic() + self._interval()
        self._tally.loads["poll"] += 1
        self._read(outcome, began)

    def _read(self, outcome: Outcome, began: float) -> None:
        seconds = time.monotonic() - began
        if trouble := public_text(outcome.trouble()):
            self._failed(trouble, seconds)
        else:
            self.trouble = ""
            self._began = began
            self._backoff.reset()
        if outcome.generation is not None:
            self._diary.loaded(
                "poll",
                seconds,
                put=outcome.puts,
                deleted=outcome.deletes,
                bytes_read=outcome.bytes,
                error=trouble,
            )

    def _failed(self, why: str, seconds: float) -> None:
        self._next = time.monotonic() + max(self._interval(), self._backoff.next())
        self.trouble = public_text(why)
        self._diary.failed("poll", self.trouble, seconds)
        level = log.debug if self.trouble == self._reporting.told else log.warning
        level("%s (the other collections are followed)", self.trouble)

    def _interval(self) -> float:
        return self._backoff.interval(self._options.interval)


def polled_sentence(polled: Mapping[str, str], interval: float) -> str:
    """What is said of the collections that `Source.polled` names; empty when there are none.

    :param interval: seconds
    """
    if not polled:
        return ""
    return f"{some_of(list(polled.values()), '; ')}: read again every {interval:g} s"
