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
from collections.abc import Iterator, Mapping

import mmapcache
from mmapcache.cli.output import moment_text
from mmapcache.sync.absence import some_of
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
)
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.options import Options
from mmapcache.sync.position import Position
from mmapcache.sync.redaction import public_text
from mmapcache.sync.round import Outcome, Round
from mmapcache.sync.shaping import Shaping
from mmapcache.sync.source import Caught, Found, Given, Held, Late, Source
from mmapcache.sync.tally import Tally
from mmapcache.sync.target import Target
from mmapcache.sync.verification import Verification
from mmapcache.sync.watch import SILENCE, Watch

DONE, FAILED = 0, 1
STREAMS_AGAIN = 60.0  # seconds until a source without change streams is asked for them again
HELD_AGAIN = 1.0  # seconds until a marker is looked for again, if it keeps a load from beginning
_MARK = 5.0  # seconds between two positions of a stream in which nothing happens
_MARK_ALONE = 300.0  # the same of one that is too long for that: each is a generation
# So many changes, at least, and so many for each document in the cache, before a load is thought to
# be quicker: to follow a change takes some ten times as long as to read a document with all others.
_BEHIND, _SHARE = 20_000, 0.1
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
        self._backoff = Backoff(dice=self._dice)
        self._verify_backoff = Backoff(dice=self._dice)  # following resets the other one
        self._deadline = time.monotonic() + options.timeout
        self._loaded = False  # a load or a burst has succeeded in this process
        self._opened: mmapcache.Writer | None = None  # the writer whose file was looked at
        self._position: Position | None = None  # where to go on; None: a load is next
        self._why = "initial"  # that load
        self._streams_again = 0.0  # by time.monotonic
        self._marked = 0.0  # likewise
        self._noted_at = 0.0  # likewise: when a commit had a position
        self._verify_at = self._next_verification()  # likewise
        self._verification: Verification | None = None  # under way
        self._loaded_at = 0.0  # likewise
        self._followed = True  # something was heard of the streams since
        self._told = ""  # the trouble that was logged last
        self._trouble = ""  # why the last load was not the whole content of the source
        self._noted = ""  # and what was odd, but no trouble
        self._unfollowed = ""  # why there is polling, if single collections are the reason
        self._began = 0.0  # the attempt under way, by time.monotonic
        self._compared = 0.0  # seconds that reading everything to verify it took

    def run(self) -> int:
        """Until stopped, or (`once`) until loaded; the exit status."""
        log.info("%s -> %s", self._source.label, self._options.path)
        try:
            while True:
                self._inbox.clear()
                delay = self._attempt()
                if delay is None:
                    return DONE
                if delay > 0 and self._inbox.sleep(delay) and self._position is not None:
                    self._verify_at = time.monotonic()  # a SIGHUP; a load needs none
        except StopError as stop:
            log.info("%s", stop)
            return FAILED if self._options.once else DONE
        except _FatalError as error:
            self._report(state="degraded", error=public_text(str(error)))
            self._failure(public_text(str(error)))
            log.error("%s", error)
            return FAILED
        except BaseException as error:
            text = f"the loader ended unexpectedly: {type(error).__name__}: {error}"
            self._report(state="degraded", error=public_text(text))
            self._failure(public_text(text))
            raise
        finally:
            self._diary.flush()
            self._source.close()
            self._target.close()

    # --- one attempt and what follows from it -----------------------------------------------------

    def _attempt(self) -> float | None:
        """One load, or following until it ends; seconds until the next attempt, or None when there
        is none to come."""
        self._shaping.abandoned()
        self._began = time.monotonic()
        try:
            self._look()
            return self._follow() if self._position is not None else self._load()
        except PositionLostError as error:
            self._verification = None
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
            if not self._loaded:
                raise _FatalError(str(error)) from None
            return self._failed(error, max(self._interval(), self._backoff.next()))
        except mmapcache.CorruptError as error:
            self._target.discard(error)
            self._opened = None
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
        finally:
            self._tally.broken(self._source.broken())

    def _look(self) -> None:
        """What a file says that was just opened: the counts of its life, and a position."""
        writer = self._target.writer()
        if writer is self._opened:
            return
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
            self._position = position
        else:
            self._position, self._why = None, "initial"

    def _follows(self) -> bool:
        return (
            self._options.follow != "poll"
            and self._source.identity is not None
            and time.monotonic() >= self._streams_again
        )

    def _lost(self, error: PositionLostError) -> float:
        """The position is of no use: a load is next, not at the same moment on all hosts."""
        self._tally.error(error.code)
        stale = self._position is not None and self._position.stale
        self._position, self._why = None, error.reason
        delay = self._dice.uniform(0.0, self._options.reload_spread)
        if stale:
            # Content that the source has not got is waited for, but not by loading all the time.
            delay = max(delay, self._loaded_at + self._interval() - time.monotonic())
        elif not self._followed:  # not once since the load before: the oplog may be too short
            delay = max(delay, self._backoff.next())
        log.warning(
            "%s: everything is read again (%s) in %.1f s",
            error,
            error.reason,
            delay,
            extra={"fields": {"reason": error.reason, "retry_in": delay}},
        )
        # Until then the content ages, and nothing follows it.
        self._report(state="degraded", error=public_text(str(error)), following=False)
        self._diary.failed("follow", public_text(str(error)))
        return delay

    def _without_streams(self, error: NoStreamsError) -> float:
        """Everything is read again each interval, and streams are asked for now and then."""
        if self._position is None and not self._follows():  # nor did anybody ask for them
            return self._failed(error, self._backoff.next(), retry=True)
        self._tally.error(error.code)
        self._position = None
        self._unfollowed = str(error) if isinstance(error, UnfollowableError) else ""
        if self._options.follow == "stream":
            refused = error.insisted()
            if not self._loaded:
                raise _FatalError(str(refused))
            return self._failed(refused, max(self._interval(), self._backoff.next()))
        if not self._streams_again:
            log.info("%s: reading everything every %g s", error, self._options.interval)
        self._streams_again = time.monotonic() + max(STREAMS_AGAIN, self._options.interval)
        if self._loaded:
            self._why = "poll"
        return 0.0

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
        text = public_text(str(error) or type(error).__name__)
        self._report(state="degraded", error=text)
        if self._options.once:
            left = self._deadline - time.monotonic()
            if not retry or left <= 0:
                raise _FatalError(text)
            delay = min(delay, left)
        if not known:
            self._failure(text)
        level = log.debug if text == self._told else log.warning
        level("%s (next try in %.1f s)", text, delay, extra={"fields": {"retry_in": delay}})
        self._told = text
        return delay

    def _failure(self, text: str) -> None:
        """Into the history: a load that failed, or following that ended."""
        if self._position is None:
            self._diary.failed(self._why, text, time.monotonic() - self._began)
        else:
            self._diary.failed("follow", text)

    def _recovered(self) -> None:
        if self._told:
            log.info("recovered")
        self._told = ""

    def _interval(self) -> float:
        return self._backoff.interval(self._options.interval)

    def _report(self, **values: object) -> None:
        self._target.report(**values, **self._tally.values())

    # --- a load -----------------------------------------------------------------------------------

    def _load(self) -> float | None:
        """Reads everything; seconds until the next attempt, or None when there is none to come."""
        began = time.monotonic()
        state = "degraded" if self._told else "polling" if self._why == "poll" else "loading"
        # What the loader before complained of is no longer news; our own trouble is.
        error = None if self._told or self._noted else ""
        self._tally.position_at = 0.0
        self._report(
            state=state, error=error, source=public_text(self._source.label), following=False
        )
        load = Round(
            self._options,
            self._source,
            self._target,
            self._inbox,
            self._shaping,
            follow=self._follows(),
            first=not self._loaded,
            bar=self._bar,
            watch=self._watched(),
        )
        outcome = load.run()
        self._succeeded(outcome, time.monotonic() - began)
        if self._options.once:
            return None
        return self._interval() if self._position is None else 0.0

    def _succeeded(self, outcome: Outcome, seconds: float) -> None:
        """Says what was loaded, and what follows from it."""
        self._loaded_at = self._noted_at = time.monotonic()
        self._followed = False
        self._tally.loads[self._why] += 1
        self._remember(outcome, seconds)
        self._position = outcome.position
        self._tally.position_at = self._position.at if self._position else 0.0
        if self._why in _LOADING or self._position is None:
            self._backoff.reset()
        self._why = "poll"
        self._loaded = True
        _tell(outcome, seconds, level=logging.INFO if self._options.once else logging.DEBUG)
        self._trouble = public_text(outcome.trouble())
        if self._trouble:
            self._failed(SyncError(self._trouble), self._interval(), known=True)
            self._report(following=self._position is not None)
            return
        self._recovered()
        self._note(outcome)
        # When the load began, by the clock as it is now: it may have been set meanwhile.
        self._report(
            state="polling" if self._position is None else "streaming",
            error=self._noted,
            confirmed=time.time() - seconds,
            following=self._position is not None,
        )

    def _remember(self, outcome: Outcome, seconds: float) -> None:
        """Into the history."""
        error = public_text(outcome.trouble())
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

    def _note(self, outcome: Outcome) -> None:
        odd = public_text(outcome.oddities())
        if odd and odd not in self._noted:
            log.warning("%s", odd, extra={"fields": {"duplicates": outcome.duplicates}})
        why = "" if self._position is not None else public_text(self._unfollowed)
        self._noted = "; ".join(filter(None, (why, odd)))

    def _watched(self) -> Watch:
        """Says what becomes of a load to which the source says nothing."""
        label = public_text(self._source.label)
        before: dict[str, object] = {}

        def hangs() -> None:
            before.update(self._target.said())
            self._tally.error("silence")
            text = f"nothing was heard from {label} for {SILENCE:g} s: it or the network hangs"
            log.warning("%s", text)
            self._report(state="degraded", error=text)

        def goes_on() -> None:
            log.info("%s is heard again", label)
            self._report(**before)

        def answers() -> None:
            log.info("waiting for documents; %s answers meanwhile", label)

        return Watch(self._source.answers, hangs, answers, goes_on)

    # --- following --------------------------------------------------------------------------------

    def _follow(self) -> float:
        """Publishes what changes, until a load is asked for."""
        assert self._position is not None
        assert self._opened is not None
        writer = self._opened  # the file may have been replaced since: another has not the data
        self._tally.position_at = self._position.at
        if self._told or self._position.stale:
            self._report(following=True)
        else:
            self._report(
                state="streaming",
                error=self._noted,
                source=public_text(self._source.label),
                following=True,
            )
        limit = max(_BEHIND, int(writer.stats()["documents"] * _SHARE))
        followed = self._source.follow(self._position, self._inbox, limit)
        if self._verification is not None:
            verification = self._verification
            followed.verify(verification.suspects, verification.moment, verification.explained)
        with followed as follower:
            messages = follower.messages()
            held = False
            while True:
                if writer is not self._target.writer():
                    return 0.0  # the file was removed or replaced
                if (given := next(messages, None)) is None:  # SIGHUP
                    self._verify_at = time.monotonic()
                    self._inbox.answered()
                    messages = follower.messages()
                elif held := isinstance(given, Held):
                    self._held(given)
                elif isinstance(given, Late):
                    self._late(given)
                elif isinstance(given, Found):
                    self._caught(self._burst(writer, given, messages))
                elif isinstance(given, Caught):
                    self._caught(given)
                else:
                    self._verified()
                if time.monotonic() >= self._verify_at and not self._verification and not held:
                    break  # what is half changed is not compared
        return self._verify(writer)

    def _verify(self, writer: mmapcache.Writer) -> float:
        """Compares everything, and goes on from where following was, with what is suspect."""
        log.info("reading everything to verify it")
        self._verify_at = self._next_verification()
        assert self._position is not None
        verification = Verification(self._position.stale)
        began = time.monotonic()
        try:
            verification.compare(writer, self._source, self._inbox, self._shaping, self._watched())
        except HeldError:
            self._verify_at = time.monotonic()  # when the marker has gone
            return 0.0
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
        return 0.0

    def _verified(self) -> None:
        assert self._verification is not None
        differed = self._verification.finish()
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
        if self._told != held.why:
            log.info("%s", held.why)
        self._told = held.why
        self._report(state="streaming", error=public_text(held.why), following=True)

    def _late(self, late: Late) -> None:
        """Says that what changed cannot be read yet."""
        text = public_text(late.why)
        if self._told != text:
            self._tally.error(late.code)
            log.warning("%s", text)
        self._told = text
        self._report(state="degraded", error=text, following=True)

    def _burst(self, writer: mmapcache.Writer, first: Found, messages: Iterator[Given]) -> Caught:
        """Publishes a burst."""
        caught = None
        with writer.batch() as batch:
            size = len(first.buffer)
            self._apply(writer, batch, first)
            for more in messages:
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

    def _caught(self, caught: Caught) -> None:
        """Says that everything up to the position is there."""
        now = time.monotonic()
        self._diary.tick()
        self._position = caught.position
        self._loaded = self._followed = True
        self._backoff.reset()
        self._tally.events += caught.events
        self._tally.broken(self._source.broken())
        if now - self._marked >= _MARK:
            self._marked = now
            self._mark(caught.position)
        if caught.position.stale:  # what is not the source's content is not confirmed either
            error = self._incomplete(caught.position.stale)
            self._report(state="degraded", error=error, following=True)
            return
        self._recovered()
        self._report(
            state="streaming",
            error=self._noted,
            confirmed=time.time() - (now - caught.heard) - caught.behind,
            following=True,
        )

    def _mark(self, position: Position) -> None:
        """Stores a position behind which nothing has changed; without a generation if it can be."""
        if not self._target.mark(position):
            if self._marked - self._noted_at < _MARK_ALONE:
                return
            assert self._opened is not None
            with self._opened.batch() as batch:  # whatever is at the path by now: this has the data
                self._target.note(batch, self._source.scope, position)
            self._noted_at = self._marked
        self._tally.position_at = position.at

    def _incomplete(self, names: Mapping[str, str]) -> str:
        """What is wrong although everything up to the position is there."""
        if not self._trouble:  # it was a loader's before this one
            some = some_of(sorted(names))
            self._trouble = public_text(f"kept with its last content, as before: {some}")
        if self._told and self._told != self._trouble:
            log.info("recovered, but %s", self._trouble)
        self._told = self._trouble
        return self._trouble

    def _apply(self, writer: mmapcache.Writer, batch: mmapcache.Batch, found: Found) -> None:
        """Takes away what is missing, and puts the rest.

        :raises PositionLostError: it has a document that no cache can hold: a load knows how to
            publish the other collections without it, or says what is wrong
        """
        before = batch.puts + batch.deletes
        try:
            if not self._shaping.apply(writer, batch, found):
                for key in found.missing:
                    batch.delete(found.name, key)
                if found.buffer:
                    batch.put_raw(found.name, found.buffer)
        except (mmapcache.InvalidDocument, mmapcache.LimitError, ShapeError, TypeError) as error:
            raise PositionLostError("refused", f"{found.name}: {error}") from None
        if found.suspect is not None and batch.puts + batch.deletes != before:
            assert self._verification is not None
            self._verification.differing.add((found.name, found.suspect))


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


def _full(error: mmapcache.FullError) -> str:
    """FullError's own sentence has the numbers; this adds what a loader's operator can do.

    Nothing where the file system is full: the sentence then names that, and not max_size.
    """
    limited = str(error).startswith("the cache is full")
    return f"{error} (restart the loader with a larger --max-size)" if limited else str(error)
