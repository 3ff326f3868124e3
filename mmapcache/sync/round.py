"""One load: everything that the source has, into one batch."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import mmapcache
from mmapcache.sync.absence import absent, kept_sentence, some_of, vanished
from mmapcache.sync.errors import ShapeError
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.options import Options
from mmapcache.sync.position import Position
from mmapcache.sync.progress import Progress
from mmapcache.sync.pump import Pump
from mmapcache.sync.shaping import Shaping
from mmapcache.sync.source import Feed, Source
from mmapcache.sync.target import Target
from mmapcache.sync.watch import Watch

_SAID = 5  # collections whose refusals are told whole


@dataclass(slots=True)
class Outcome:
    """What one load did.

    `kept`: collections that came back empty and keep their last content; `refused`: why others keep
    theirs, having a document that no cache can hold, by name. `duplicates`: how many documents of a
    collection had an _id that another one had, too.
    """

    generation: int | None = None
    position: Position | None = None
    documents: int = 0
    puts: int = 0
    deletes: int = 0
    bytes: int = 0
    kept: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    duplicates: dict[str, int] = field(default_factory=dict)

    def trouble(self) -> str:
        """Why it is not the whole content of the source; empty when it is."""
        parts = list(self.refused.values())[:_SAID]
        if rest := list(self.refused)[_SAID:]:
            parts.append(f"{len(rest):,} more collections are refused: {some_of(rest)}")
        if self.kept:
            parts.append(kept_sentence(self.kept))
        return "; ".join(parts)

    def stale(self, polled: Collection[str] = ()) -> dict[str, str]:
        """The collections whose content is not the source's, and what a load for one is called.

        :param polled: those that are read again in any case
        """
        stale = dict.fromkeys(self.kept, "dropped") | dict.fromkeys(self.refused, "refused")
        return {name: reason for name, reason in stale.items() if name not in polled}


class Round:
    """One load, of everything or of what is polled alone; `run` it once.

    :param options: which collections may be empty
    :param shaping: what is made of the documents
    :param follow: whether the source notes a position, which the commit takes along
    :param first: whether nothing was loaded before in this process: progress is shown
    :param bar: as a bar
    :param watch: see `Pump`
    """

    def __init__(
        self,
        options: Options,
        source: Source,
        target: Target,
        inbox: Inbox,
        shaping: Shaping,
        *,
        follow: bool,
        first: bool,
        bar: bool,
        watch: Watch,
    ) -> None:
        self._options = options
        self._source = source
        self._target = target
        self._inbox = inbox
        self._shaping = shaping
        self._follow = follow
        self._first = first
        self._bar = bar
        self._watch = watch

    def run(self, writer: mmapcache.Writer, polled: Position | None = None) -> Outcome:
        """Reads and publishes.

        :param polled: only what `Source.polled` names, in a commit with this position, up to which
            the rest was followed
        :raises StopError: a signal ended the loader
        :raises NoStreamsError: the source cannot be followed; nothing was read
        :raises PositionLostError: what was polled can be followed now
        :raises SyncError: the source failed
        :raises mmapcache.LimitError: two documents have one value in a unique index
        :raises mmapcache.MmapCacheError: the cache cannot take it
        """
        outcome = Outcome()
        with writer.reader() as cache:
            known = frozenset(name for name in cache if len(cache.collection(name)))
            present = frozenset(cache)
        if polled is not None:
            present = present.intersection(self._source.polled)
        with (
            Pump(
                self._source,
                self._inbox,
                known,
                estimate=self._bar and self._first,
                follow=self._follow,
                which="all" if polled is None else "polled",
                watch=self._watch,
            ) as pump,
            writer.batch() as batch,
        ):
            indexed = self._target.index(batch)
            seen = set()
            for feed in pump.feeds():
                seen.add(feed.name)
                self._load(batch, feed, pump.buffers(), outcome, had=feed.name in known)
            self._absent(batch, present - seen, known, outcome)
            scope, position = self._source.scope, polled or self._source.position
            if position is not None and polled is None:
                position = replace(position, stale=outcome.stale(self._source.polled))
            changed = batch.puts or batch.deletes or outcome.dropped or indexed
            if changed or not self._target.says(scope):
                self._target.note(batch, scope, position)
        self._shaping.committed()
        outcome.position = position
        outcome.generation = batch.generation
        unnoted = polled is None and batch.generation is None
        if position is not None and unnoted and not self._target.mark(position):
            with writer.batch() as again:
                self._target.note(again, scope, position)
        outcome.puts, outcome.deletes = batch.puts, batch.deletes
        return outcome

    def _load(
        self,
        batch: mmapcache.Batch,
        feed: Feed,
        buffers: Iterator[bytes],
        outcome: Outcome,
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
        duplicates = batch.duplicates
        progress = Progress(feed.name, feed.expected, shown=self._first, bar=self._bar)
        try:
            with batch.replace(feed.name) as full:
                put = full.put_raw if shaper is None else shaper.begin(batch, full)
                for buffer in itertools.chain((first,), buffers):
                    outcome.bytes += len(buffer)
                    progress.add(put(buffer))
                if had and not feed.allow_empty and shaper is not None and not shaper.count:
                    raise _EmptiedError
        except (mmapcache.InvalidDocument, ShapeError) as error:
            raise type(error)(_after(feed, progress, error)) from error.__cause__
        except _EmptiedError:
            outcome.kept.append(feed.name)
        except mmapcache.LimitError as error:
            outcome.refused[feed.name] = _after(feed, progress, error)
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
        outcome: Outcome,
    ) -> None:
        """Collections in the cache that the source did not deliver."""
        before = self._target.state().get("scope")
        kept, dropped = absent(self._options, self._source, before, names, known)
        for name in dropped:
            batch.drop(name)
        outcome.kept += kept
        outcome.dropped += dropped
        if dropped:
            gone = vanished(self._source, before)
            why = "gone from the source" if gone else "no longer asked for"
            log.info("dropping %s: %s", some_of(dropped), why)


class _EmptiedError(Exception):
    """A transform left every document out: as good as a collection that came back empty."""


def _after(feed: Feed, progress: Progress, error: Exception) -> str:
    return f"{feed.origin}, after {progress.count:,} documents: {error}"
