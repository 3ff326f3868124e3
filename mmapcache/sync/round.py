"""One load: everything that the source has, into one batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import mmapcache
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.options import Options
from mmapcache.sync.progress import Progress
from mmapcache.sync.pump import Pump
from mmapcache.sync.source import Feed, Source
from mmapcache.sync.target import Target

_NAMED = 5  # collections that a status text names before it counts the rest


@dataclass(slots=True)
class Outcome:
    """What one load did.

    `kept`: collections that came back empty and keep their last content; `refused`: why others keep
    theirs, having a document that no cache can hold, by name. `duplicates`: how many documents of a
    collection had an _id that another one had, too.
    """

    generation: int | None = None
    documents: int = 0
    puts: int = 0
    deletes: int = 0
    kept: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    duplicates: dict[str, int] = field(default_factory=dict)

    def trouble(self) -> str:
        """Why it is not the whole content of the source; empty when it is."""
        parts = list(self.refused.values())
        if self.kept:
            parts.append(
                f"came back empty, kept with its last content: {_names(self.kept)} "
                "(--allow-empty publishes an empty collection)"
            )
        return "; ".join(parts)

    def oddities(self) -> str:
        """What an operator may want to know, though it is no trouble."""
        if not self.duplicates:
            return ""
        some = _names([f"{name} ({count:,})" for name, count in sorted(self.duplicates.items())])
        return (
            f"documents whose _id another one has: {some}; of those with one _id the smallest, by "
            "its bytes, is in the cache"
        )

    def stale(self) -> dict[str, str]:
        """The collections whose content is not the source's, and what a load for one is called."""
        return dict.fromkeys(self.kept, "dropped") | dict.fromkeys(self.refused, "refused")


class Round:
    """One load; `run` it once.

    :param options: which collections may be empty
    :param follow: whether the source notes a position, which the commit takes along
    :param first: whether nothing was loaded before in this process: progress is shown
    :param bar: as a bar
    """

    def __init__(
        self,
        options: Options,
        source: Source,
        target: Target,
        inbox: Inbox,
        *,
        follow: bool,
        first: bool,
        bar: bool,
    ) -> None:
        self._options = options
        self._source = source
        self._target = target
        self._inbox = inbox
        self._follow = follow
        self._first = first
        self._bar = bar

    def run(self) -> Outcome:
        """Reads and publishes everything.

        :raises StopError: a signal ended the loader
        :raises NoStreamsError: the source cannot be followed; nothing was read
        :raises SyncError: the source failed
        :raises mmapcache.MmapCacheError: the cache cannot take it
        """
        writer = self._target.writer()
        outcome = Outcome()
        with writer.reader() as cache:
            known = frozenset(name for name in cache if len(cache.collection(name)))
            present = frozenset(cache)
        with (
            Pump(
                self._source,
                self._inbox,
                known,
                estimate=self._bar and self._first,
                follow=self._follow,
            ) as pump,
            writer.batch() as batch,
        ):
            seen = set()
            for feed in pump.feeds():
                seen.add(feed.name)
                self._load(batch, feed, pump.buffers(), outcome, had=feed.name in known)
            self._absent(batch, present - seen, known, outcome)
            changed = batch.puts or batch.deletes or outcome.dropped
            position = self._source.position
            if changed or not self._target.says(self._source.scope, outcome.stale()):
                batch.state = self._target.pack_state(self._source.scope, position, outcome.stale())
        if position is not None and batch.generation is None:
            self._target.mark(position)
        outcome.generation = batch.generation
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
        if first is None:
            if had and not feed.allow_empty:
                outcome.kept.append(feed.name)
                return
            with batch.replace(feed.name):
                pass
            return
        duplicates = batch.duplicates
        progress = Progress(feed.name, feed.expected, shown=self._first, bar=self._bar)
        try:
            with batch.replace(feed.name) as full:
                for buffer in itertools.chain((first,), buffers):
                    progress.add(full.put_raw(buffer))
        except mmapcache.InvalidDocument as error:
            raise type(error)(_after(feed, progress, error)) from None
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
        """Collections in the cache that the source did not deliver.

        With the scope of the commit before they have vanished, which counts as coming back empty.
        With another scope the operator no longer asks for them. What no loader put there stays.
        """
        before = self._target.state().get("scope")
        if before is None:
            return
        vanished = self._source.discovers and before == self._source.scope
        own = {c.name: c.allow_empty for c in self._options.collections}
        for name in sorted(names):
            if vanished and name in known and not own.get(name, self._options.allow_empty):
                outcome.kept.append(name)
            else:
                batch.drop(name)
                outcome.dropped.append(name)
        if outcome.dropped:
            why = "gone from the source" if vanished else "no longer asked for"
            log.info("dropping %s: %s", _names(outcome.dropped), why)


def _after(feed: Feed, progress: Progress, error: Exception) -> str:
    return f"{feed.origin}, after {progress.count:,} documents: {error}"


def _names(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
