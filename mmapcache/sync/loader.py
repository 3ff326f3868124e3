"""Loads and refreshes: every round reads all collections and publishes them in one commit.

    starting ──> loading ──────────────> polling <──────────┐
                    │  refused: exit 1      │ a round fails │ a round succeeds
                    └─ away: back off       └──> degraded ──┘

A round that fails, whatever the reason, publishes nothing: the batch is abandoned by the exception
that ends it, and the generation before stays as it was. What ends the loader itself, other than a
signal, is written into the file's status before the file is closed.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import mmapcache
from mmapcache.sync.absence import absent, kept_sentence, some_of, vanished
from mmapcache.sync.backoff import Backoff
from mmapcache.sync.errors import (
    ShapeError,
    SourceAwayError,
    SourceRefusedError,
    StopError,
    SyncError,
)
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.options import Options
from mmapcache.sync.progress import Progress
from mmapcache.sync.pump import Pump
from mmapcache.sync.redaction import public_text
from mmapcache.sync.shaping import Shaping
from mmapcache.sync.source import Feed, Source
from mmapcache.sync.target import Target

DONE, FAILED = 0, 1


@dataclass(slots=True)
class Round:
    """What one round did.

    `kept`: collections that came back empty and keep their last content; `refused`: why others keep
    theirs, having a document that no cache can hold. `duplicates`: how many documents of a
    collection had an _id that another one had, too.
    """

    generation: int | None = None
    documents: int = 0
    puts: int = 0
    deletes: int = 0
    kept: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    duplicates: dict[str, int] = field(default_factory=dict)


class Loader:
    """Keeps one cache file up to date from one source.

    :param options: what the user asked for
    :param source: where the documents come from
    :param inbox: where signals and buffers arrive
    :param bar: whether the first load draws a progress bar
    :param shaping: what is made of the documents
    :param dice: see `Backoff`
    """

    def __init__(
        self,
        options: Options,
        source: Source,
        inbox: Inbox,
        *,
        bar: bool,
        shaping: Shaping | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self._options = options
        self._source = source
        self._inbox = inbox
        self._bar = bar
        self._shaping = Shaping(options) if shaping is None else shaping
        self._target = Target(options, inbox)
        self._backoff = Backoff(dice=dice)
        self._deadline = time.monotonic() + options.timeout
        self._loaded = False  # a round has succeeded in this process
        self._told = ""  # the trouble that was logged last
        self._noted = ""  # and what was odd, but no trouble

    def run(self) -> int:
        """Until stopped, or (`once`) until loaded; the exit status."""
        log.info("%s -> %s", self._source.label, self._options.path)
        try:
            while True:
                self._inbox.clear()
                delay = self._attempt()
                if delay is None:
                    return DONE
                self._inbox.sleep(delay)
        except StopError as stop:
            log.info("%s", stop)
            return FAILED if self._options.once else DONE
        except _FatalError as error:
            self._target.report(state="degraded", error=public_text(str(error)))
            log.error("%s", error)
            return FAILED
        except BaseException as error:
            text = f"the loader ended unexpectedly: {type(error).__name__}: {error}"
            self._target.report(state="degraded", error=public_text(text))
            raise
        finally:
            self._source.close()
            self._target.close()

    # --- one round and what follows from it -------------------------------------------------------

    def _attempt(self) -> float | None:
        """One round; seconds until the next, or None when there is none to come."""
        began = time.monotonic()
        try:
            outcome = self._round()
        except SourceAwayError as error:
            if error.__cause__ is not None:
                log.debug("what the source raised", exc_info=error.__cause__)
            return self._failed(error, self._backoff.next(), retry=True)
        except SourceRefusedError as error:
            if not self._loaded:
                raise _FatalError(str(error)) from None
            return self._failed(error, max(self._interval(), self._backoff.next()))
        except mmapcache.CorruptError as error:
            self._target.discard(error)
            return self._failed(error, self._backoff.next(), retry=True)
        except mmapcache.FullError as error:
            return self._failed(SyncError(_full(error)), self._interval())
        except (mmapcache.InvalidDocument, mmapcache.LimitError, ShapeError) as error:
            if error.__cause__ is not None:
                log.debug("what the transform raised", exc_info=error.__cause__)
            return self._failed(error, self._interval())
        except (mmapcache.MmapCacheError, OSError, SyncError) as error:
            if not self._loaded:
                raise _FatalError(str(error)) from None
            return self._failed(error, self._backoff.next())
        self._backoff.reset()
        return self._succeeded(outcome, time.monotonic() - began)

    def _succeeded(self, outcome: Round, seconds: float) -> float | None:
        self._loaded = True
        fields = {
            "generation": outcome.generation,
            "documents": outcome.documents,
            "puts": outcome.puts,
            "deletes": outcome.deletes,
            "seconds": round(seconds, 3),
        }
        if outcome.generation is None:
            log.log(
                logging.INFO if self._options.once else logging.DEBUG,
                "nothing changed: %s documents in %.2f s",
                f"{outcome.documents:,}",
                seconds,
                extra={"fields": fields},
            )
        else:
            log.info(
                "generation %d: %s documents read, %s put, %s deleted in %.2f s",
                outcome.generation,
                f"{outcome.documents:,}",
                f"{outcome.puts:,}",
                f"{outcome.deletes:,}",
                seconds,
                extra={"fields": fields},
            )
        trouble = outcome.refused + ([kept_sentence(outcome.kept)] if outcome.kept else [])
        if trouble:
            return self._failed(SyncError("; ".join(trouble)), self._interval())
        if self._told:
            log.info("recovered")
        self._told = ""
        noted = public_text(_duplicates(outcome.duplicates))
        if noted and noted != self._noted:
            log.warning("%s", noted, extra={"fields": {"duplicates": outcome.duplicates}})
        self._noted = noted
        # When the round began, by the clock as it is now: it may have been set meanwhile.
        confirmed = time.time() - seconds
        self._target.report(state="polling", error=noted, confirmed=confirmed)
        return None if self._options.once else self._interval()

    def _failed(self, error: Exception, delay: float, *, retry: bool = False) -> float:
        """Says what is wrong, in the log and in the status.

        :param delay: seconds until the next round
        :param retry: whether `--once` tries again too, until its time is over
        :raises _FatalError: `--once` ends here
        """
        text = public_text(str(error) or type(error).__name__)
        self._target.report(state="degraded", error=text)
        if self._options.once:
            left = self._deadline - time.monotonic()
            if not retry or left <= 0:
                raise _FatalError(text)
            delay = min(delay, left)
        level = log.debug if text == self._told else log.warning
        level("%s (next try in %.1f s)", text, delay, extra={"fields": {"retry_in": delay}})
        self._told = text
        return delay

    def _interval(self) -> float:
        return self._backoff.interval(self._options.interval)

    # --- the round itself -------------------------------------------------------------------------

    def _round(self) -> Round:
        writer = self._target.writer()
        state = "degraded" if self._told else "polling" if self._loaded else "loading"
        # What the loader before complained of is no longer news; our own trouble is.
        error = None if self._told or self._noted else ""
        writer.report(state=state, error=error, source=public_text(self._source.label))
        outcome = Round()
        with writer.reader() as cache:
            known = frozenset(name for name in cache if len(cache.collection(name)))
            present = frozenset(cache)
        estimate = self._bar and not self._loaded
        with (
            Pump(self._source, self._inbox, known, estimate=estimate) as pump,
            writer.batch() as batch,
        ):
            seen = set()
            for feed in pump.feeds():
                seen.add(feed.name)
                self._load(batch, feed, pump.buffers(), outcome, had=feed.name in known)
            self._absent(batch, present - seen, known, outcome)
            packed = self._target.pack_state(self._source.scope)
            if packed != writer.state:
                batch.state = packed
        self._shaping.committed()
        outcome.generation = batch.generation
        outcome.puts, outcome.deletes = batch.puts, batch.deletes
        return outcome

    def _load(
        self,
        batch: mmapcache.Batch,
        feed: Feed,
        buffers: Iterator[bytes],
        outcome: Round,
        *,
        had: bool,
    ) -> None:
        """One collection, whole; or untouched when it came back empty and must not, or when it has
        a document that no cache can hold: whoever can write one must not stop the others.
        """
        first = next(buffers, None)
        shaper = self._shaping.of(feed.name)
        if first is None:
            if had and not feed.allow_empty:
                outcome.kept.append(feed.name)
                return
            with batch.replace(feed.name) as full:
                if shaper is not None:
                    shaper.begin(batch, full)
            return
        shown = not self._loaded
        duplicates = batch.duplicates
        progress = Progress(feed.name, feed.expected, shown=shown, bar=self._bar)
        try:
            with batch.replace(feed.name) as full:
                put = full.put_raw if shaper is None else shaper.begin(batch, full)
                for buffer in itertools.chain((first,), buffers):
                    progress.add(put(buffer))
                if had and not feed.allow_empty and shaper is not None and not shaper.count:
                    raise _EmptiedError
        except (mmapcache.InvalidDocument, ShapeError) as error:
            raise type(error)(_after(feed, progress, error)) from error.__cause__
        except _EmptiedError:
            outcome.kept.append(feed.name)
        except mmapcache.LimitError as error:
            outcome.refused.append(_after(feed, progress, error))
            for _ in buffers:  # the next collection comes after what is left of this one
                pass
        else:
            outcome.documents += progress.count
        finally:
            progress.close()
        if batch.duplicates > duplicates:
            outcome.duplicates[feed.name] = batch.duplicates - duplicates

    def _absent(
        self,
        batch: mmapcache.Batch,
        names: frozenset[str],
        known: frozenset[str],
        outcome: Round,
    ) -> None:
        """Collections in the cache that the source did not deliver."""
        before = self._target.state().get("scope")
        kept, dropped = absent(self._options, self._source, before, names, known)
        for name in dropped:
            batch.drop(name)
        outcome.kept += kept
        outcome.dropped += dropped
        if outcome.dropped:
            gone = vanished(self._source, before)
            why = "gone from the source" if gone else "no longer asked for"
            log.info("dropping %s: %s", some_of(outcome.dropped), why)


class _EmptiedError(Exception):
    """A transform left every document out: as good as a collection that came back empty."""


class _FatalError(Exception):
    """Ends the loader with status 1; the text is the sentence that says why."""


def _after(feed: Feed, progress: Progress, error: Exception) -> str:
    return f"{feed.origin}, after {progress.count:,} documents: {error}"


def _duplicates(found: dict[str, int]) -> str:
    if not found:
        return ""
    some = some_of([f"{name} ({count:,})" for name, count in sorted(found.items())])
    return (
        f"documents whose _id another one has: {some}; of those with one _id the smallest, by its "
        "bytes, is in the cache"
    )


def _full(error: mmapcache.FullError) -> str:
    """FullError's own sentence has the numbers; this adds what a loader's operator can do.

    Nothing where the file system is full: the sentence then names that, and not max_size.
    """
    limited = "max_size" in str(error)
    return f"{error} (restart the loader with a larger --max-size)" if limited else str(error)
