"""Types of the dicts that mmapcache returns, for annotations; nothing else imports this module."""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = ["CheckReport", "CollectionReport", "FrontCacheStats", "Stats", "Status"]


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


class CollectionReport(TypedDict):
    """One collection in CheckReport."""

    documents: int
    bytes: int
    """Of keys and values."""


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
