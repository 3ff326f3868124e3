"""Publishes what changes at the source, from a position on, until a load is asked for.

Every burst is one commit. Where everything is to be verified, following ends for the comparison and
goes on from where it was, with what is suspect.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping

import mmapcache
from mmapcache.sync.absence import some_of
from mmapcache.sync.backoff import Backoff
from mmapcache.sync.diary import Diary
from mmapcache.sync.errors import (
    HeldError,
    PositionLostError,
    ShapeError,
    SourceAwayError,
    SourceRefusedError,
)
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.options import Options
from mmapcache.sync.polling import Polling
from mmapcache.sync.position import Position
from mmapcache.sync.redaction import public_text
from mmapcache.sync.reporting import Reporting
from mmapcache.sync.shaping import Shaping
from mmapcache.sync.source import Caught, Found, Given, Held, Late, Source, smallest
from mmapcache.sync.tally import Tally
from mmapcache.sync.target import Target
from mmapcache.sync.upkeep import Upkeep
from mmapcache.sync.verification import Verification

_MARK = 5.0  # seconds between two positions of a stream in which nothing happens
_MARK_ALONE = 300.0  # the same of one that is too long for that: each is a generation
# So many changes, at least, and so many for each document in the cache, before a load is thought to
# be quicker: to follow a change takes some ten times as long as to read a document with all others.
_BEHIND, _SHARE = 20_000, 0.1


class Following:
    """Follows one source into one cache file, again and again, from where it was.

    `position` is where to go on; None: a load is next. `heard`: something was heard of the streams
    since the last load, or ever if there was none.

    :param shaping: what is made of the documents
    :param upkeep: looks at the file between two bursts
    :param backoff: how long whoever calls waits when something fails; begins anew with each word
        from the source
    :param poll_backoff: the same of what cannot be followed, where only reading it begins anew
    :param verify_backoff: the same of verifications, where only one that succeeds begins anew
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
        upkeep: Upkeep,
        backoff: Backoff,
        *,
        poll_backoff: Backoff,
        verify_backoff: Backoff,
    ) -> None:
        self._options = options
        self._source = source
        self._target = target
        self._inbox = inbox
        self._shaping = shaping
        self._reporting = reporting
        self._tally = tally
        self._diary = diary
        self._upkeep = upkeep
        self._backoff = backoff
        self._verify_backoff = verify_backoff
        self.position: Position | None = None
        self.heard = False
        self._marked = 0.0  # by time.monotonic: when a position was stored
        self._noted_at = 0.0  # likewise: when a commit had a position
        self._verify_at = self._next_verification()  # likewise
        self._verification: Verification | None = None  # under way
        self._compared = 0.0  # seconds that reading everything to verify it took
        self._polling = Polling(
            options, source, target, inbox, shaping, reporting, tally, diary, poll_backoff
        )

    def begin(self, position: Position | None, began: float, trouble: str) -> None:
        """A load was published, just now: goes on from its position, if it has one.

        :param began: when it began, by time.monotonic
        :param trouble: why what is polled is not what the source has
        """
        if position is not None:
            self._reporting.polls(self._polling.why())
            self._polling.begin(began, trouble)
        self.position = position
        self.heard = False
        self._noted_at = time.monotonic()

    def lost(self) -> None:
        """The position is of no use, nor is what was to be compared from there on."""
        self.position = self._verification = None

    def verify_soon(self) -> None:
        """Everything is compared as soon as that can be."""
        self._verify_at = time.monotonic()

    def follow(self, writer: mmapcache.Writer) -> None:
        """Publishes what changes, until everything was compared or the file is another one.

        :param writer: of the file that has the data; its path may get another one meanwhile
        :raises PositionLostError: everything is to be read
        :raises StopError: a signal ended the loader
        :raises SyncError: the source cannot be followed now
        :raises mmapcache.MmapCacheError: the cache cannot take it
        """
        assert self.position is not None
        self._tally.position_at = self.position.at
        self._index(writer)
        limit = max(_BEHIND, int(writer.stats()["documents"] * _SHARE))
        followed = self._source.follow(self.position, self._inbox, limit)
        self._reporting.polls(self._polling.why())
        self._reporting.note(self._reporting.duplicates)
        if self._reporting.told or self.position.stale:
            self._reporting.report(following=True)
        else:
            self._reporting.report(
                state="streaming",
                error=self._reporting.noted,
                source=public_text(self._source.label),
                following=True,
            )
        if self._verification is not None:
            verification = self._verification
            followed.verify(verification.suspects, verification.moment, verification.explained)
        with followed as follower:
            messages = follower.messages()
            held = False
            while True:
                if writer is not self._target.writer():
                    return  # the file was removed or replaced
                if (given := next(messages, None)) is None:  # SIGHUP
                    self.verify_soon()
                    self._inbox.answered()
                    messages = follower.messages()
                elif held := isinstance(given, Held):
                    self._held(given)
                elif isinstance(given, Late):
                    self._late(given)
                elif isinstance(given, Found):
                    self._caught(writer, self._burst(writer, given, messages))
                elif isinstance(given, Caught):
                    self._caught(writer, given)
                else:
                    self._verified()
                if not held:
                    self._upkeep.look()
                # What is half changed is neither compared nor read.
                verify = time.monotonic() >= self._verify_at and not self._verification
                if not held and (verify or self._polling.due()):
                    break
        if verify:
            self._verify(writer)
        else:
            self._polling.read(writer, self.position)

    def _index(self, writer: mmapcache.Writer) -> None:
        """Makes the indexes those asked for: the loader before may have been asked for others.

        :raises PositionLostError: two documents have one value in a unique index; a load tells
            whether they still do
        """
        assert self.position is not None
        if self._target.indexed():
            return
        try:
            with writer.batch() as batch:
                self._target.index(batch)
                self._target.note(batch, self._source.scope, self.position)
        except mmapcache.LimitError as error:
            raise PositionLostError("refused", str(error)) from None
        log.info("generation %s has the indexes that are asked for", batch.generation)

    def _verify(self, writer: mmapcache.Writer) -> None:
        """Compares everything, and goes on from where following was, with what is suspect."""
        log.info("reading everything to verify it")
        self._verify_at = self._next_verification()
        assert self.position is not None
        verification = Verification(self.position.stale)
        began = time.monotonic()
        try:
            watch = self._reporting.watch()
            verification.compare(writer, self._source, self._inbox, self._shaping, watch)
        except HeldError:
            self.verify_soon()  # when the marker has gone
            return
        except (SourceAwayError, SourceRefusedError):
            # The next in turn may be a day away. Not sooner and sooner, as each reads everything.
            self._verify_at = time.monotonic() + self._verify_backoff.next()
            raise
        self._verify_backoff.reset()
        self._tally.loads["verify"] += 1
        self._verification = verification
        self._compared = time.monotonic() - began
        if not verification.suspects:
            self._verified()

    def _verified(self) -> None:
        assert self._verification is not None
        differed = self._verification.finish()
        self._reporting.note(self._verification.duplicates)
        self._verification = None
        if differed:
            self._tally.errors["differed"] += differed
        said = f"{differed:,} documents differed and were put right" if differed else ""
        self._diary.loaded(
            "verify", self._compared, put=differed, deleted=0, bytes_read=0, error=said
        )

    def _next_verification(self) -> float:
        hours = self._options.verify_every
        return time.monotonic() + hours * 3600 if hours else float("inf")

    def _held(self, held: Held) -> None:
        """Says that nothing is published for now, and why."""
        if self._reporting.told != held.why:
            log.info("%s", held.why)
        self._reporting.told = held.why
        self._reporting.report(state="streaming", error=public_text(held.why), following=True)

    def _late(self, late: Late) -> None:
        """Says that what changed cannot be read yet."""
        text = public_text(late.why)
        if self._reporting.told != text:
            self._tally.error(late.code)
            log.warning("%s", text)
        self._reporting.told = text
        self._reporting.report(state="degraded", error=text, following=True)

    def _burst(self, writer: mmapcache.Writer, first: Found, messages: Iterator[Given]) -> Caught:
        """Publishes a burst.

        :raises PositionLostError: two documents would have one value in a unique index, perhaps
            only because one has changed, too, and has not been read yet: a full load tells
        """
        try:
            return self._published(writer, first, messages)
        except mmapcache.LimitError as error:
            raise PositionLostError("refused", str(error)) from None

    def _published(
        self, writer: mmapcache.Writer, first: Found, messages: Iterator[Given]
    ) -> Caught:
        caught = None
        with writer.batch() as batch:
            size = 0
            for more in itertools.chain((first,), messages):
                if isinstance(more, Found):
                    size += len(more.buffer)
                    self._apply(writer, batch, more)
                elif isinstance(more, Late):
                    self._late(more)
                else:
                    break
            assert isinstance(more, Caught), "a burst ends with its position"
            caught = more
            if batch.puts or batch.deletes:
                self._target.note(batch, self._source.scope, caught.position)
        assert caught is not None
        self._shaping.committed()
        log.debug(
            "generation %s: %d events, %d put, %d deleted",
            batch.generation,
            caught.events,
            batch.puts,
            batch.deletes,
        )
        if batch.generation is not None:
            self._diary.followed(batch.puts, batch.deletes, size)
            self._marked = self._noted_at = time.monotonic()
            self._tally.position_at = caught.position.at
        return caught

    def _caught(self, writer: mmapcache.Writer, caught: Caught) -> None:
        """Says that everything up to the position is there."""
        now = time.monotonic()
        self._diary.tick()
        self.position = caught.position
        self.heard = True
        self._backoff.reset()
        self._tally.events += caught.events
        self._tally.broken(self._source.broken())
        if now - self._marked >= _MARK:
            self._marked = now
            self._mark(writer, caught.position)
        trouble = self._trouble(caught.position.stale)
        if trouble:  # what is not the source's content is not confirmed either
            self._reporting.told = trouble
            self._reporting.report(state="degraded", error=trouble, following=True)
            return
        self._reporting.recovered()
        known: dict[str, float] = {}
        polled = self._polling.age()
        if polled is not None:
            age = max(now - caught.heard + caught.behind, polled)
            known["confirmed"] = time.time() - age
        self._reporting.report(
            state="streaming", error=self._reporting.noted, following=True, **known
        )

    def _mark(self, writer: mmapcache.Writer, position: Position) -> None:
        """Stores a position behind which nothing has changed; without a generation if it can be."""
        if not self._target.mark(position):
            if self._marked - self._noted_at < _MARK_ALONE:
                return
            with writer.batch() as batch:  # whatever is at the path by now: this has the data
                self._target.note(batch, self._source.scope, position)
            self._noted_at = self._marked
        self._tally.position_at = position.at

    def _trouble(self, stale: Mapping[str, str]) -> str:
        """What is wrong although everything up to the position is there; empty: nothing."""
        trouble = self._polling.trouble
        if stale:
            if not self._reporting.trouble:  # it was a loader's before this one
                text = f"kept with its last content, as before: {some_of(sorted(stale))}"
                self._reporting.trouble = public_text(text)
            trouble = self._reporting.trouble
        if trouble and self._reporting.told not in {"", trouble}:
            log.info("recovered, but %s", trouble)
        return trouble

    def _apply(self, writer: mmapcache.Writer, batch: mmapcache.Batch, found: Found) -> None:
        """Takes away what is missing, and puts the rest.

        :raises PositionLostError: it has a document that no cache can hold: a load knows how to
            publish the other collections without it, or says what is wrong
        """
        before = batch.puts + batch.deletes
        if found.duplicates > self._reporting.duplicates.get(found.name, 0):
            known = {**self._reporting.duplicates, found.name: found.duplicates}
            self._reporting.note(known)
        try:
            if not self._shaping.apply(writer, batch, found):
                for key in found.missing:
                    batch.delete(found.name, key)
                if found.buffer:
                    buffer = smallest(found.buffer) if found.duplicates else found.buffer
                    batch.put_raw(found.name, buffer)
        except (mmapcache.InvalidDocument, mmapcache.LimitError, ShapeError, TypeError) as error:
            raise PositionLostError("refused", f"{found.name}: {error}") from None
        if found.suspect is not None and batch.puts + batch.deletes != before:
            assert self._verification is not None
            self._verification.differing.add((found.name, found.suspect))
