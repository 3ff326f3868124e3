"""--verify-every and SIGHUP: whether the cache is what the source has, and nothing was missed.

1. everything is read, and compared with the cache: what differs is suspect, as it may be a
   change that the stream has not brought yet
2. the stream is followed to the time at which the reading ended
3. the suspects are read once more; what still differs is put right, and counted
4. the stream is followed to the time of 3: a suspect of which it brings a change up to then
   was only changed meanwhile, and is not counted
"""

from __future__ import annotations

from collections.abc import Iterator

import mmapcache
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.pump import Pump
from mmapcache.sync.shaping import Made, Shaping, as_they_are
from mmapcache.sync.source import Feed, Source


class Verification:
    """One comparison; `moment` is when it ended, a time of the source's."""

    def __init__(self) -> None:
        self.suspects: dict[Feed, set[bytes]] = {}
        self.documents = 0
        self.moment = 0
        self.differed = 0  # documents that were put right

    def compare(
        self, writer: mmapcache.Writer, source: Source, inbox: Inbox, shaping: Shaping
    ) -> None:
        """Reads everything.

        :raises StopError: a signal ended the loader
        :raises SyncError: the source failed
        """
        with writer.reader(front_bytes=0) as cache:
            known = frozenset(cache)
            with Pump(source, inbox, known, estimate=False, follow=True) as pump:
                for feed in pump.feeds():
                    shaper = shaping.of(feed.name)
                    made = as_they_are if shaper is None else shaper.made
                    documents = (d for buffer in pump.buffers() for d in made(buffer))
                    self._compare(cache.collection(feed.name), feed, documents, source)
        self.moment = source.moment

    def finish(self, explained: int) -> int:
        """Says what came out; how many documents differed though nothing changed them."""
        differed = max(0, self.differed - explained)
        level = log.warning if differed else log.info
        level(
            "verified: %s documents compared, %s differed and were put right",
            f"{self.documents:,}",
            f"{differed:,}",
            extra={"fields": {"documents": self.documents, "differed": differed}},
        )
        return differed

    def _compare(
        self,
        collection: mmapcache.Collection,
        feed: Feed,
        documents: Iterator[Made],
        source: Source,
    ) -> None:
        suspects: set[bytes] = set()
        seen: set[int] = set()
        for document, key, cached in documents:
            self.documents += 1
            if cached is not None:
                seen.add(hash(key))
                if collection.get_raw(key) != cached:
                    suspects.add(source.identify(document))
        if len(seen) != len(collection) or suspects:
            for key in collection:
                raw = collection.get_raw(key) if hash(key) not in seen else None
                if raw is not None:
                    suspects.add(source.identify(raw))
        if suspects:
            self.suspects[feed] = suspects
