"""--verify-every and SIGHUP: whether the cache is what the source has, and nothing was missed.

1. everything is read, and compared with the cache: what differs is suspect, as it may be a
   change that the stream has not brought yet
2. the stream is followed to the time at which the reading ended
3. the suspects are read once more; what still differs is put right, and counted
4. the stream is followed to the time of 3: a suspect of which it brings a change up to then
   was only changed meanwhile, and is not counted
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import mmapcache
from mmapcache.sync.absence import some_of
from mmapcache.sync.identity import mark
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.pump import Pump
from mmapcache.sync.shaping import Made, Shaping, as_they_are
from mmapcache.sync.source import Feed, Source, Suspect
from mmapcache.sync.watch import Watch


class Verification:
    """One comparison; `moment` is when it ended, a time of the source's.

    :param stale: collections that keep their last content, which the source has no longer
    """

    def __init__(self, stale: Collection[str] = ()) -> None:
        self._stale = stale
        self.suspects: dict[Feed, set[bytes]] = {}
        self.documents = 0
        self.moment = 0
        self.duplicates: dict[str, int] = {}  # see `Reporting`
        self.differing: set[Suspect] = set()  # documents that were put right
        self.explained: set[Suspect] = set()  # of which a change came

    def compare(
        self,
        writer: mmapcache.Writer,
        source: Source,
        inbox: Inbox,
        shaping: Shaping,
        watch: Watch,
    ) -> None:
        """Reads everything.

        :param watch: see `Pump`
        :raises StopError: a signal ended the loader
        :raises SyncError: the source failed
        """
        with writer.reader(front_bytes=0) as cache:
            known = frozenset(cache)
            with Pump(
                source,
                inbox,
                known,
                estimate=False,
                follow=True,
                which="followed",
                watch=watch,
            ) as pump:
                for feed in pump.feeds():
                    if feed.name in self._stale:
                        for _ in pump.buffers():
                            pass
                        continue
                    shaper = shaping.of(feed.name)
                    made = as_they_are if shaper is None else shaper.made
                    documents = (d for buffer in pump.buffers() for d in made(buffer))
                    self._compare(cache.collection(feed.name), feed, documents, source)
        self.moment = source.moment

    def finish(self) -> int:
        """Says what came out; how many documents differed though nothing changed them."""
        differed = len(self.differing - self.explained)
        level = log.warning if differed else log.info
        level(
            "verified: %s documents compared, %s differed and were put right%s",
            f"{self.documents:,}",
            f"{differed:,}",
            f"; not compared, as it is stale: {some_of(sorted(self._stale))}"
            if self._stale
            else "",
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
        larger: dict[int, bytes] = {}  # than what is cached, which another one of their _id may be
        put = 0
        for document, key, cached in documents:
            self.documents += 1
            if cached is None:
                continue
            put += 1
            known, one = collection.get_raw(key), mark(key)
            if known == cached:
                larger.pop(one, None)
            elif known is None or cached < known:
                suspects.add(source.identify(document))
            elif one not in seen:
                larger[one] = source.identify(document)
            seen.add(one)
        suspects.update(larger.values())
        if put > len(seen):
            self.duplicates[feed.name] = put - len(seen)
        if len(seen) != len(collection) or suspects:
            for key in collection:
                raw = None if mark(key) in seen else collection.get_raw(key)
                if raw is not None:
                    suspects.add(source.identify(raw))
        if suspects:
            self.suspects[feed] = suspects
