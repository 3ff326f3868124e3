"""What the loader asks of a source of documents."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import mmapcache
from mmapcache.sync.identity import identity
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.position import Position


@dataclass(frozen=True, slots=True)
class Feed:
    """One collection that a source will deliver.

    :param name: the collection's name in the cache
    :param origin: where it comes from, as shown to people: `db.collection` or a path
    :param allow_empty: publish it even when it comes back empty
    :param expected: about how many documents, or None when nobody knows
    """

    name: str
    origin: str
    allow_empty: bool
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Some documents of a collection as they are now.

    :param name: the collection's name in the cache
    :param missing: _ids that it has not, or not within its filter; to be taken away first
    :param buffer: documents, concatenated
    :param suspect: this one document was suspect: if it differs from the cache, and nothing changed
        it meanwhile, that is an error of ours; the mark of its _id
    :param duplicates: how many of the documents have an _id that another one of them has, too; of
        those with one _id all are in one buffer, as it is the smallest of what becomes of them that
        stays
    """

    name: str
    missing: tuple[Any, ...]
    buffer: bytes
    suspect: int | None = None
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Caught:
    """Everything up to the position has been delivered.

    :param events: how many changes that stands for
    :param heard: when the source said so, by `time.monotonic`
    :param behind: seconds from the newest change to the source's time then
    """

    position: Position
    events: int
    heard: float
    behind: float


@dataclass(frozen=True, slots=True)
class Held:
    """Changes wait for a marker to go; why, as a sentence."""

    why: str


@dataclass(frozen=True, slots=True)
class Late:
    """What changed cannot be read yet, and is asked for again; why, as a sentence, and under which
    code that is counted."""

    why: str
    code: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared once more has been, and what changed it meanwhile is known."""


Given = Found | Caught | Held | Late | Verified
Which = Literal["all", "followed", "polled"]  # of the collections: see `Source.polled`
Suspect = tuple[str, int]  # a collection's name in the cache, and the mark of an _id


def split(buffer: bytes) -> Iterator[bytes]:
    """The documents of a buffer of concatenated BSON.

    :raises mmapcache.InvalidDocument: it is none
    """
    position, end = 0, len(buffer)
    while position < end:
        length = int.from_bytes(buffer[position : position + 4], "little")
        stop = position + length
        if length < 5 or stop > end:
            raise mmapcache.InvalidDocument(
                f"the document at byte {position} of the buffer claims {length} bytes"
            )
        yield buffer[position:stop]
        position = stop


def smallest(buffer: bytes) -> bytes:
    """Of the buffer's documents with one _id the smallest, as a load keeps it."""
    kept: dict[Any, bytes] = {}
    for document in split(buffer):
        one = identity(mmapcache.Document(document)["_id"])
        kept[one] = min(document, kept.get(one, document))
    return b"".join(kept.values())


class Follower(Protocol):
    """What follows a source from a position; a context manager, which ends its threads."""

    def __enter__(self) -> Follower: ...

    def __exit__(self, *exception: object) -> None: ...

    def verify(
        self, suspects: Mapping[Feed, Collection[bytes]], until: int, explained: set[Suspect]
    ) -> None:
        """Has documents read once more, when everything up to a time has been delivered.

        :param suspects: what `Source.identify` says of them
        :param until: a time of the source's, see `Source.moment`
        :param explained: takes, until `Verified`, those that a change under way is the reason of
        """

    def messages(self) -> Iterator[Given]:
        """What is found, and what ends it, in turn. Ends when somebody asks for more (SIGHUP).

        :raises StopError: a signal ended the loader
        :raises PositionLostError: nothing follows any more: everything is to be read
        :raises SyncError: the source cannot be followed now
        """


class Source(Protocol):
    """A source is read by one thread at a time; `close` may come from another.

    Whatever a source can expect to go wrong it raises as `SourceAwayError` or
    `SourceRefusedError`; anything else counts as the former.
    """

    @property
    def label(self) -> str:
        """Where the data comes from, free of secrets: for logs and `status()`."""

    @property
    def scope(self) -> str:
        """What the source covers; with the same scope a collection that is gone has vanished,
        with another one it is no longer asked for. Kept in the cache's state."""

    @property
    def discovers(self) -> bool:
        """Whether the source finds its collections itself (a whole database, a directory)."""

    @property
    def identity(self) -> str | None:
        """What a position belongs to: other options, another server: another text. None for a
        source that cannot be followed."""

    @property
    def position(self) -> Position | None:
        """Where to go on from what the last `feeds(…, follow=True)` delivers."""

    @property
    def polled(self) -> Mapping[str, str]:
        """Collections that are right only as long as they are read again, as nobody tells when they
        change; by their names in the cache, and why, as a sentence. Known from a load that is to be
        followed, or from `follow`; empty for a source that cannot be followed."""

    def feeds(
        self,
        known: frozenset[str],
        *,
        estimate: bool,
        follow: bool = False,
        which: Which = "all",
    ) -> Iterable[Feed]:
        """What there is to load now.

        :param known: collections with content in the cache: one of them may be missing at the
            source without being a wrong name
        :param estimate: ask for the number of documents too
        :param follow: note the position first, and read nothing that is older
        :param which: only those that are followed, or polled; the latter leave the position alone
        :raises NoStreamsError: the source cannot be followed
        :raises PositionLostError: a collection that was polled can be followed now
        """

    def buffers(self, feed: Feed) -> Iterator[bytes]:
        """The collection's documents as buffers of concatenated BSON, none of them empty."""

    def follow(self, position: Position, inbox: Inbox, limit: int) -> Follower:
        """What happens after the position. A change in what it calls stale ends it: that needs a
        load.

        :param inbox: where it arrives
        :param limit: so many changed documents at once are slower than a load
        :raises SyncError: it cannot be had now
        """

    def identify(self, document: bytes) -> bytes:
        """A document's _id, for `Follower.verify`."""

    @property
    def moment(self) -> int:
        """Its own time, after everything that it has delivered to a load that is followed."""

    def answers(self) -> bool:
        """Asks it something small, over a connection of its own: whether it has answered. May take
        as long as the source hangs; any thread, also while it is read."""

    def broken(self) -> Sequence[str]:
        """What broke connections that are followed, since this was asked last: a code or a name for
        each, also where following went on by itself."""

    def close(self) -> None:
        """Gives connections back; harmless twice."""
