"""Loads, and then follows the source's changes; where it has none, loads again and again.

    starting ──> loading ──────────────> streaming <────────────┐
        │           │ no change streams     │ ^ the connection  │ goes on from
        │           v                       v │ is back         │ the position
        │        polling <──────────────> degraded ─────────────┘
        └── a position in the file: streaming at once;  a position that is lost: loading

Every load reads all collections and publishes them in one commit, with the position from which the
changes go on; every burst of changes is one commit, with the position behind it. What fails, for
whatever reason, publishes nothing: the batch is abandoned by the exception that ends it, and the
generation before stays as it was. What ends the loader itself, other than a signal, is written into
the file's status before the file is closed.
"""

from __future__ import annotations

import logging
import random
import time

import mmapcache
from mmapcache.cli.output import moment_text
from mmapcache.sync.backoff import Backoff
from mmapcache.sync.diary import Diary
from mmapcache.sync.errors import (
    HeldError,
    NoStreamsError,
    PositionLostError,
    ShapeError,
    SourceAwayError,
    SourceRefusedError,
    StopError,
    SyncError,
    UnfollowableError,
    sentence,
)
from mmapcache.sync.following import Following
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.options import Options
from mmapcache.sync.redaction import public_text
from mmapcache.sync.reporting import Reporting
from mmapcache.sync.round import Outcome, Round
from mmapcache.sync.shaping import Shaping
from mmapcache.sync.source import Source
from mmapcache.sync.tally import Tally
from mmapcache.sync.target import Target
from mmapcache.sync.upkeep import Upkeep

DONE, FAILED = 0, 1
STREAMS_AGAIN = 60.0  # seconds until a source without change streams is asked for them again
HELD_AGAIN = 1.0  # seconds until a marker is looked for again, if it keeps a load from beginning
_LOADING = frozenset({"initial", "poll"})  # loads that no lost position is behind


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
        self._dice = dice or random.Random()
        self._target = Target(options, inbox)
        self._tally = Tally()
        self._diary = Diary()
        self._upkeep = Upkeep(options, self._target, inbox, self._diary)
        self._backoff = Backoff(dice=self._dice)
        self._reporting = Reporting(self._target, self._tally, source, inbox.service)
        self._following = Following(
            options,
            source,
            self._target,
            inbox,
            self._shaping,
            self._reporting,
            self._tally,
            self._diary,
            self._upkeep,
            self._backoff,
            poll_backoff=Backoff(dice=self._dice),
            verify_backoff=Backoff(dice=self._dice),  # following resets the other one
        )
        inbox.meanwhile = self._meanwhile
        self._deadline = time.monotonic() + options.timeout
        self._opened: mmapcache.Writer | None = None  # the writer whose file was looked at
        self._why = "initial"  # why a load is next, if one is
        self._streams_again = 0.0  # by time.monotonic
        self._loaded_at = 0.0  # likewise; 0.0: no load has succeeded in this process
        self._began = 0.0  # the attempt under way, or its load, by time.monotonic

    def run(self) -> int:
        """Until stopped, or (`once`) until loaded; the exit status."""
        log.info("%s -> %s", self._source.label, self._options.path)
        self._inbox.service.beat()
        try:
            while True:
                self._inbox.clear()
                delay = self._attempt()
                if delay is None:
                    return DONE
                if delay > 0 and self._inbox.sleep(delay) and self._following.position is not None:
                    self._following.verify_soon()  # a SIGHUP; a load needs none
        except StopError as stop:
            log.info("%s", stop)
            return FAILED if self._options.once else DONE
        except _FatalError as error:
            self._reporting.report(state="degraded", error=public_text(str(error)))
            log.error("%s", error)
            return FAILED
        except BaseException as error:
            text = public_text(f"the loader ended unexpectedly: {type(error).__name__}: {error}")
            self._reporting.report(state="degraded", error=text)
            self._failure(text)
            raise
        finally:
            self._inbox.service.ends()
            self._diary.flush()
            self._source.close()
            self._target.close()

    def _meanwhile(self) -> float:
        """Looks after the file while there is nothing else to do; seconds until the next time."""
        try:
            self._upkeep.look()
        except mmapcache.CorruptError as error:
            self._corrupt(error)
        return self._upkeep.pause

    # --- one attempt and what follows from it -----------------------------------------------------

    def _attempt(self) -> float | None:
        """One load, or following until it ends; seconds until the next attempt, or None when there
        is none to come."""
        self._shaping.abandoned()
        self._began = time.monotonic()
        try:
            writer = self._look()
            if self._following.position is None:
                return self._load()
            self._following.follow(writer)
            return 0.0
        except PositionLostError as error:
            return self._lost(error)
        except HeldError as error:
            return self._failed(error, HELD_AGAIN, retry=True)
        except NoStreamsError as error:
            return self._without_streams(error)
        except SourceAwayError as error:
            if error.__cause__ is not None:
                log.debug("what the source raised", exc_info=error.__cause__)
            return self._failed(error, self._backoff.next(), retry=True)
        except SourceRefusedError as error:
            if not self._has_succeeded:
                raise self._fatal(str(error)) from None
            return self._failed(error, max(self._interval(), self._backoff.next()))
        except mmapcache.CorruptError as error:
            self._corrupt(error)
            return self._failed(error, self._backoff.next(), retry=True)
        except mmapcache.FullError as error:
            return self._failed(SyncError(sentence(error)), self._interval())
        except (mmapcache.InvalidDocument, mmapcache.LimitError, ShapeError) as error:
            if error.__cause__ is not None:
                log.debug("what the transform raised", exc_info=error.__cause__)
            return self._failed(error, self._interval())
        except (mmapcache.MmapCacheError, OSError, SyncError) as error:
            if not self._has_succeeded:
                raise self._fatal(str(error)) from None
            return self._failed(error, self._backoff.next())
        finally:
            self._tally.broken(self._source.broken())

    def _look(self) -> mmapcache.Writer:
        """What a file says that was just opened: the counts of its life, and a position."""
        writer = self._target.writer()
        if writer is self._opened:
            return writer
        self._opened = writer
        self._diary.of(writer)
        self._shaping.forget()
        self._tally.resume(writer)
        goes_on = self._follows() and not self._options.once
        position = self._target.position() if goes_on else None
        if position is not None and position.of == self._source.identity and writer.generation:
            log.info(
                "going on from the position of %s, %.0f s ago",
                moment_text(position.at),
                max(0.0, time.time() - position.at),
                extra={"fields": {"position_at": position.at}},
            )
            self._following.position = position
        else:
            self._following.position, self._why = None, "initial"
        return writer

    @property
    def _has_succeeded(self) -> bool:
        """A load has succeeded in this process, or following from the position in the file."""
        return self._loaded_at > 0.0 or self._following.heard

    def _follows(self) -> bool:
        return (
            self._options.follow != "poll"
            and self._source.identity is not None
            and time.monotonic() >= self._streams_again
        )

    def _lost(self, error: PositionLostError) -> float:
        """The position is of no use: a load is next, not at the same moment on all hosts."""
        self._tally.error(error.code)
        position = self._following.position
        stale = position is not None and position.stale
        self._following.lost()
        self._why = error.reason
        delay = self._dice.uniform(0.0, self._options.reload_spread)
        if stale:
            # Content that the source has not got is waited for, but not by loading all the time.
            delay = max(delay, self._loaded_at + self._interval() - time.monotonic())
        elif self._loaded_at > 0.0 and not self._following.heard:
            # Not once since the load before: the oplog may be too short.
            delay = max(delay, self._backoff.next())
        log.warning(
            "%s: everything is read again (%s) in %.1f s",
            error,
            error.reason,
            delay,
            extra={"fields": {"reason": error.reason, "retry_in": delay}},
        )
        # Until then the content ages, and nothing follows it.
        self._reporting.report(state="degraded", error=public_text(str(error)), following=False)
        self._diary.failed("follow", public_text(str(error)))
        return delay

    def _without_streams(self, error: NoStreamsError) -> float:
        """Everything is read again each interval, and streams are asked for now and then."""
        if self._following.position is None and not self._follows():  # nor did anybody ask for them
            return self._failed(error, self._backoff.next(), retry=True)
        self._tally.error(error.code)
        self._following.position = None
        self._reporting.polls(str(error) if isinstance(error, UnfollowableError) else "")
        if self._options.follow == "stream":
            refused = error.insisted()
            if not self._has_succeeded:
                raise self._fatal(str(refused))
            return self._failed(refused, max(self._interval(), self._backoff.next()))
        if not self._streams_again:
            log.info("%s: reading everything every %g s", error, self._options.interval)
        self._streams_again = time.monotonic() + max(STREAMS_AGAIN, self._options.interval)
        if self._has_succeeded:
            self._why = "poll"
        return 0.0

    def _corrupt(self, error: Exception) -> None:
        """The next attempt begins a file anew."""
        self._target.discard(error)
        self._opened = None

    def _failed(
        self, error: Exception, delay: float, *, retry: bool = False, known: bool = False
    ) -> float:
        """Says what is wrong, in the log and in the status.

        :param delay: seconds until the next attempt
        :param retry: whether `--once` tries again too, until its time is over
        :param known: the history has it
        :raises _FatalError: `--once` ends here
        """
        self._tally.error(error.code if isinstance(error, SyncError) else type(error).__name__)
        text = public_text(sentence(error))
        self._reporting.report(state="degraded", error=text)
        if not known:
            self._failure(text)
        if self._options.once:
            left = self._deadline - time.monotonic()
            if not retry or left <= 0:
                raise _FatalError(text)
            delay = min(delay, left)
        level = log.debug if text == self._reporting.told else log.warning
        level("%s (next try in %.1f s)", text, delay, extra={"fields": {"retry_in": delay}})
        self._reporting.told = text
        return delay

    def _fatal(self, text: str) -> _FatalError:
        """What ends the loader, and is in the history."""
        self._failure(public_text(text))
        return _FatalError(text)

    def _failure(self, text: str) -> None:
        """Into the history: a load that failed, or following that ended."""
        if self._following.position is None:
            self._diary.failed(self._why, text, time.monotonic() - self._began)
        else:
            self._diary.failed("follow", text)

    def _interval(self) -> float:
        return self._backoff.interval(self._options.interval)

    # --- a load -----------------------------------------------------------------------------------

    def _load(self) -> float | None:
        """Reads everything; seconds until the next attempt, or None when there is none to come."""
        self._began = time.monotonic()  # not while another loader's lock was waited for
        told = self._reporting.told
        state = "degraded" if told else "polling" if self._why == "poll" else "loading"
        # What the loader before complained of is no longer news; our own trouble is.
        error = None if told or self._reporting.noted else ""
        self._tally.position_at = 0.0
        self._reporting.report(
            state=state, error=error, source=public_text(self._source.label), following=False
        )
        load = Round(
            self._options,
            self._source,
            self._target,
            self._inbox,
            self._shaping,
            follow=self._follows(),
            first=not self._has_succeeded,
            bar=self._bar,
            watch=self._reporting.watch(),
        )
        outcome = load.run(self._target.writer())
        self._succeeded(outcome, time.monotonic() - self._began)
        if self._options.once:
            return None
        return self._interval() if self._following.position is None else 0.0

    def _succeeded(self, outcome: Outcome, seconds: float) -> None:
        """Says what was loaded, and what follows from it."""
        self._loaded_at = time.monotonic()
        self._tally.loads[self._why] += 1
        self._reporting.trouble = trouble = public_text(outcome.trouble())
        self._remember(outcome, seconds, trouble)
        position = outcome.position
        polled = outcome.stale().keys() & self._source.polled
        self._following.begin(position, self._began, trouble if polled else "")
        self._tally.position_at = position.at if position else 0.0
        if self._why in _LOADING or position is None:
            self._backoff.reset()
        self._why = "poll"
        _tell(outcome, seconds, level=logging.INFO if self._options.once else logging.DEBUG)
        if trouble:
            self._failed(SyncError(trouble), self._interval(), known=True)
            self._reporting.report(following=position is not None)
            return
        self._reporting.recovered()
        self._reporting.note(outcome.duplicates)
        # When the load began, by the clock as it is now: it may have been set meanwhile.
        self._reporting.report(
            state="polling" if position is None else "streaming",
            error=self._reporting.noted,
            confirmed=time.time() - seconds,
            following=position is not None,
        )

    def _remember(self, outcome: Outcome, seconds: float, error: str) -> None:
        """Into the history."""
        if outcome.generation is None and error:
            return self._diary.failed(self._why, error, seconds)
        if outcome.generation is None and self._why == "poll":
            return self._diary.unchanged(self._why, seconds, bytes_read=outcome.bytes)
        return self._diary.loaded(
            self._why,
            seconds,
            put=outcome.puts,
            deleted=outcome.deletes,
            bytes_read=outcome.bytes,
            error=error,
        )


class _FatalError(Exception):
    """Ends the loader with status 1; the text is the sentence that says why."""


def _tell(outcome: Outcome, seconds: float, *, level: int) -> None:
    """One line of the log: what a load did.

    :param level: of a load that changed nothing
    """
    fields = {
        "generation": outcome.generation,
        "documents": outcome.documents,
        "puts": outcome.puts,
        "deletes": outcome.deletes,
        "seconds": round(seconds, 3),
    }
    if outcome.generation is None:
        log.log(
            level,
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
