"""What is said of how the loader does: in the file's status, in the log, to a service manager.

Loads and following share it: the trouble of one is over when the other succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmapcache.sync.absence import some_of
from mmapcache.sync.logs import log
from mmapcache.sync.redaction import public_text
from mmapcache.sync.service import Service
from mmapcache.sync.source import Source
from mmapcache.sync.tally import Tally
from mmapcache.sync.target import Target
from mmapcache.sync.watch import SILENCE, Watch


class Reporting:
    """Knows what was said last, and says what is new.

    `told`: the trouble that was logged last; `trouble`: why the last load was not the whole content
    of the source; `noted`: what is odd about its documents, but no trouble, or why there is
    polling. `duplicates`: how many documents of a collection have an _id that another one has.

    :param target: has the file that takes it
    :param tally: counts that each report has with it
    :param service: hears of each report, too
    """

    def __init__(self, target: Target, tally: Tally, source: Source, service: Service) -> None:
        self._target = target
        self._tally = tally
        self._source = source
        self._service = service
        self.told = ""
        self.trouble = ""
        self.noted = ""
        self._polls = ""
        self.duplicates: Mapping[str, int] = {}

    def report(self, **values: object) -> None:
        """Into the file's status, with the counts; see `Writer.report`."""
        self._target.report(**values, **self._tally.values())
        self._service.tell(values, self._target.generation)

    def recovered(self) -> None:
        """There is no trouble any more."""
        if self.told:
            log.info("recovered")
        self.told = ""

    def polls(self, why: str) -> None:
        """Why collections are read again and again: the next `note` has it.

        :param why: a sentence; empty: they are not, or all of them are
        """
        self._polls = public_text(why)

    def note(self, duplicates: Mapping[str, int]) -> None:
        """What an operator may want to know, though it is no trouble."""
        self.duplicates = duplicates
        odd = ""
        if duplicates:
            some = some_of([f"{name} ({count:,})" for name, count in sorted(duplicates.items())])
            odd = public_text(
                f"documents whose _id another one has: {some}; of those with one _id the smallest, "
                "by its bytes, is in the cache"
            )
        if odd and odd not in self.noted:
            log.warning("%s", odd, extra={"fields": {"duplicates": duplicates}})
        self.noted = "; ".join(filter(None, (self._polls, odd)))

    def watch(self) -> Watch:
        """Says what becomes of a load to which the source says nothing."""
        label = public_text(self._source.label)
        before: dict[str, object] = {}

        def hangs() -> None:
            before.update(self._target.said())
            self._tally.error("silence")
            text = f"nothing was heard from {label} for {SILENCE:g} s: it or the network hangs"
            log.warning("%s", text)
            self.report(state="degraded", error=text)

        def goes_on() -> None:
            log.info("%s is heard again", label)
            self.report(**before)

        def answers() -> None:
            log.info("waiting for documents; %s answers meanwhile", label)

        return Watch(self._source.answers, hangs, answers, goes_on)
