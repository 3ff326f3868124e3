"""Types of the dicts that mmapcache returns, for annotations; nothing else imports this module."""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = [
    "CatalogueEntry",
    "CheckReport",
    "CollectionReport",
    "FrontCacheStats",
    "RoundReport",
    "Stats",
    "Status",
]


class Status(TypedDict):
    """Cache.status(): how fresh the cache is, and how its loader does."""

    path: str
    """As it was given; empty for an anonymous cache."""
    file_id: str
    """A UUID that changes when the file is replaced."""
    generation: int
    published_at: float | None
    """When the generation was published, Unix seconds; None before the first."""
    confirmed_at: float | None
    """When the loader last knew the data to be current, Unix seconds; None: it never said."""
    age: float | None
    """Seconds since confirmed_at, or since published_at when it was never confirmed."""
    lag: float | None
    """The same while the loader follows the source's changes: how far the data is behind them.
    None while it does not."""
    loader: Literal["alive", "dead", "none"]
    """dead: it ended without closing."""
    state: str
    """What the loader is doing, in its own word, such as "polling"; empty: it never said."""
    error: str | None
    """The loader's last error; None: all is well."""
    source: str
    """Where the data comes from, without secrets; empty: it never said."""
    position_at: float | None
    """The moment of the source that the data has reached, Unix seconds; None: it never said."""
    events: int
    """Changes that the source sent, over the file's life as are all of these counts."""
    disconnects: int
    """Connections to the source that were lost."""
    loads: dict[str, int]
    """How often everything was read, by reason, such as "initial"."""
    errors: dict[str, int]
    """How often the loader failed, by name. Where names find no room, "other" is their sum."""


class FrontCacheStats(TypedDict):
    """This process's front cache, counted since open (a forked child goes on from its parent's)."""

    entries: int
    bytes: int
    hits: int
    misses: int
    revalidations: int
    """Those of the hits for which the file was asked, after a commit to the same collection."""
    evictions: int


class Stats(TypedDict):
    """Cache.stats(): what the cache holds and what it costs. Sizes are bytes."""

    collections: int
    documents: int
    bytes_used: int
    bytes_free: int
    largest_free: int
    file_size: int
    max_size: int
    huge_bytes: int
    """Of the file, in huge pages."""
    front_cache: FrontCacheStats


class CatalogueEntry(TypedDict):
    """One collection in Cache.catalogue()."""

    documents: int
    bytes: int
    """Of keys and values."""
    created: int
    """The generation in which it appeared."""
    changed: int
    """The last generation that changed it."""
    changed_at: float | None
    """When that was published, Unix seconds; None: too many generations ago."""


class CollectionReport(CatalogueEntry):
    """One collection in CheckReport."""

    occupied: int
    """Bytes of the file that its documents and its table take, overhead included."""


class CheckReport(TypedDict):
    """Cache.check(): what was verified."""

    generation: int
    collections: dict[str, CollectionReport]
    entries: int
    pages: int
    nodes: int
    bytes_used: int
    free_blocks: dict[int, int]
    """How many free blocks there are of each size in bytes."""
    largest_free: int
    history: int
    """How many records the history holds."""
    history_damaged: int
    """How many of them count for none: half written by a loader that was killed, as a rule."""


class RoundReport(TypedDict):
    """One record of Cache.history(): what a round of the loader did, or several of one kind."""

    started_at: float
    """Unix seconds."""
    started_boot: float
    """The same moment in seconds since the machine was started, by the clock that nobody sets."""
    seconds: float
    """From the beginning of the first to the end of the last."""
    reason: str
    """Why there was a round: that of a load, such as "initial", or "follow"."""
    rounds: int
    """How many rounds the record stands for: of "follow", commits."""
    put: int
    """Documents, as deleted."""
    deleted: int
    bytes: int
    """Of the documents that came from the source."""
    generation: int
    """The current one when the round had ended."""
    error: str | None
    """What went wrong; None: nothing."""
