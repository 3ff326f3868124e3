"""Where a request's settings come from: the shape of a source, and the shared cache as one.

`CacheSettings` reads the shared mapping: no I/O, one snapshot per request, so that a site and its
customer's limits always belong together. `mongodb.MongoSettings` asks MongoDB on every request and
is here to be compared with. Both return mappings: no handler knows which one it talks to.

Collections:  sites   site key -> settings of one captcha widget, with its customer's number
              limits  customer's number -> rate limits of the plan that was bought
              flags   name -> feature flag with the percentage of sites that have it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol, TypedDict, TypeVar

import mmapcache

_T = TypeVar("_T")
Document = Mapping[str, Any]

# A request holds its snapshot for microseconds and the loader keeps what it replaces for about a
# second: only a worker that was stopped in between ever gets to the second attempt.
_ATTEMPTS: Final = 5


class Challenge(NamedTuple):
    """What the decision about one captcha needs, all from one generation."""

    site: Document
    limits: Document
    flags: Mapping[str, Document]


class Health(TypedDict):
    """How fresh the settings are; `status` is ``ok``, ``stale`` or ``unavailable``."""

    status: str
    source: str
    generation: int
    age: float | None
    loader: str
    state: str
    error: str


def make_health(status: str, source: str, error: str = "") -> Health:
    """A Health without a generation."""
    return {
        "status": status,
        "source": source,
        "generation": 0,
        "age": None,
        "loader": "none",
        "state": "",
        "error": error,
    }


class Settings(Protocol):
    """A source of settings. `generation` is 0 for a source that has none."""

    async def site(self, key: str) -> tuple[int, Document | None]:
        """The generation and one site's settings; None for an unknown site."""

    async def challenge(self, key: str) -> tuple[int, Challenge | None]:
        """The generation and everything about one site; None for an unknown site."""

    def health(self) -> Health:
        """How fresh the settings are; must not block."""

    def metrics(self) -> Iterable[tuple[str, float]]:
        """Names and values for monitoring."""


class CacheSettings:
    """Settings from the mapping that all workers share. `stale_after` is in seconds."""

    def __init__(self, cache: mmapcache.Cache, stale_after: float) -> None:
        self._cache = cache
        self._stale_after = stale_after

    async def site(self, key: str) -> tuple[int, Document | None]:
        """One document; nothing to await, since nothing leaves the process."""
        return self._read(lambda snap: snap["sites"][key])

    async def challenge(self, key: str) -> tuple[int, Challenge | None]:
        """Three collections, one generation."""

        def read(snap: mmapcache.Snapshot) -> Challenge:
            site = snap["sites"][key]
            limits = snap["limits"][site["customer"]]
            return Challenge(site, limits, snap["flags"].get_many(site["flags"]))

        return self._read(read)

    def _read(self, read: Callable[[mmapcache.Snapshot], _T]) -> tuple[int, _T | None]:
        left = _ATTEMPTS
        while True:
            left -= 1
            try:
                with self._cache.snapshot() as snap:
                    try:
                        return snap.generation, read(snap)
                    except KeyError:
                        return snap.generation, None
            except mmapcache.SnapshotExpired:
                if not left:
                    raise

    def health(self) -> Health:
        """Old settings are served on: being stale is for monitoring, not for refusing requests."""
        try:
            status = self._cache.status()
        except mmapcache.MmapCacheError as error:
            return make_health("unavailable", "cache", error=str(error))
        age = status["age"]
        fresh = age is not None and age <= self._stale_after
        return {
            "status": "unavailable" if not status["generation"] else "ok" if fresh else "stale",
            "source": "cache",
            "generation": status["generation"],
            "age": age,
            "loader": status["loader"],
            "state": status["state"],
            "error": status["error"] or "",
        }

    def metrics(self) -> Iterable[tuple[str, float]]:
        """Freshness and the front cache of this worker, named as mmapcache.prometheus does."""
        status, stats = self._cache.status(), self._cache.stats()
        yield "mmapcache_generation", status["generation"]
        yield "mmapcache_age_seconds", status["age"] if status["age"] is not None else float("nan")
        yield "mmapcache_loader_alive", float(status["loader"] == "alive")
        yield "mmapcache_used_bytes", stats["bytes_used"]
        front = stats["front_cache"]
        yield "mmapcache_front_cache_bytes", front["bytes"]
        yield "mmapcache_front_cache_hits_total", front["hits"]
        yield "mmapcache_front_cache_misses_total", front["misses"]
