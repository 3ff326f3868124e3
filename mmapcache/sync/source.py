"""What the loader asks of a source of documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


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

    def feeds(self, known: frozenset[str], *, estimate: bool) -> Iterable[Feed]:
        """What there is to load now.

        :param known: collections with content in the cache: one of them may be missing at the
            source without being a wrong name
        :param estimate: ask for the number of documents too
        """

    def buffers(self, feed: Feed) -> Iterator[bytes]:
        """The collection's documents as buffers of concatenated BSON, none of them empty."""

    def close(self) -> None:
        """Gives connections back; harmless twice."""
