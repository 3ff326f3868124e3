"""Prometheus metrics of a cache, for services of one process and of many: `mmapcache[prometheus]`.

    collector = mmapcache.prometheus.Collector(cache)       # once, before or after the fork
    registry = collector.registry()                         # once
    body = prometheus_client.generate_latest(registry)      # at each scrape
    collector.update()                                      # after a request, with many workers

What is shared and what is a worker's own is kept apart, so that nothing is counted twice:

    the file (age, documents, loads, ...)  the same for all: read when the scrape comes, by the
                                           process that answers it, and given once
    the front cache (hits, entries, ...)   each process has its own: given by a service of one
                                           process; summed over the workers, by prometheus_client's
                                           own files, where PROMETHEUS_MULTIPROC_DIR is set

A forked child's front cache goes on from its parent's counts; here it starts at 0.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, cast

try:
    import prometheus_client
    from prometheus_client import CollectorRegistry, multiprocess
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector as AbstractCollector
except ImportError as missing:
    raise ImportError(
        "mmapcache.prometheus needs prometheus_client: pip install 'mmapcache[prometheus]'"
    ) from missing

import mmapcache
from mmapcache.printing import printable
from mmapcache.sync.redaction import public_text
from mmapcache.types import CatalogueEntry, FrontCacheStats, Stats, Status

__all__ = ["Collector"]

# A cache, or what gives it at each scrape: one that is opened late, or opened again.
Source: TypeAlias = "mmapcache.Cache | Callable[[], mmapcache.Cache]"

_UPDATE_SECONDS: Final = 1.0
_UNREADABLE: Final = (mmapcache.MmapCacheError, OSError)


class _Gauge(NamedTuple):
    """Metric name, help, and where its value is in Status or Stats."""

    name: str
    help: str
    key: str


_STATUS: Final = (
    _Gauge("generation", "Number of the generation that readers see; 0: none yet.", "generation"),
    _Gauge("age_seconds", "Time since the data was last known to be current.", "age"),
    _Gauge(
        "lag_seconds",
        "How far the data is behind its source at most; absent while no changes are followed.",
        "lag",
    ),
    _Gauge("published_timestamp_seconds", "When the generation was published.", "published_at"),
    _Gauge(
        "confirmed_timestamp_seconds",
        "When the loader last knew the data to be current.",
        "confirmed_at",
    ),
    _Gauge(
        "position_timestamp_seconds",
        "The moment of the source that the data has reached.",
        "position_at",
    ),
)
_STATS: Final = (
    _Gauge("collections", "Collections in the cache.", "collections"),
    _Gauge("used_bytes", "Bytes of the file that are in use.", "bytes_used"),
    _Gauge("free_bytes", "Bytes of the file that are free.", "bytes_free"),
    _Gauge("largest_free_bytes", "The largest block that is free without growing.", "largest_free"),
    _Gauge("file_bytes", "Size of the file.", "file_size"),
    _Gauge("max_bytes", "What the file may grow to.", "max_size"),
    _Gauge("huge_page_bytes", "Bytes of the file that are in huge pages.", "huge_bytes"),
)
_FRONT_GAUGES: Final = (
    _Gauge("front_cache_entries", "Documents and absent keys that front caches keep.", "entries"),
    _Gauge("front_cache_bytes", "Bytes of what front caches keep.", "bytes"),
)
_FRONT_COUNTERS: Final = (
    _Gauge("front_cache_hits", "Reads answered from a front cache.", "hits"),
    _Gauge("front_cache_misses", "Reads that went to the file.", "misses"),
    _Gauge(
        "front_cache_revalidations",
        "Documents kept after a commit because they had not changed.",
        "revalidations",
    ),
    _Gauge("front_cache_evictions", "Documents dropped to make room.", "evictions"),
)


class Collector(AbstractCollector):
    """Gives the metrics of a cache, or of several, to `prometheus_client`.

    Make one for all caches of a process, and keep it. Threads may scrape at once. It may be made
    before a fork and used in all children.

    :param source: a Cache; or a function that gives one, asked at each scrape; or a mapping of
        names to either, whose metrics then have the label `cache`
    :param front_cache: whether the process's front cache is included; None, the default: yes
    :raises ImportError: `prometheus_client` is not installed (when the module is imported)

    A cache that cannot be read (closed, damaged, not there yet) is `mmapcache_up 0` and no error.
    """

    def __init__(
        self, source: Source | Mapping[str, Source], *, front_cache: bool | None = None
    ) -> None:
        named = isinstance(source, Mapping) and not isinstance(source, mmapcache.Cache)
        self._labels = ("cache",) if named else ()
        sources = cast("Mapping[str, Source]", source) if named else {"": cast("Source", source)}
        self._members = tuple(
            _Member((printable(name),) if named else (), given) for name, given in sources.items()
        )
        front = front_cache is not False
        self._shared = _Shared(self._labels) if front and _multiprocess() else None
        self._own = front and self._shared is None  # each process says what its own has done
        self._lock = threading.Lock()
        self._updated = -_UPDATE_SECONDS
        self._registry: CollectorRegistry | None = None
        _collectors.add(self)

    def registry(self) -> CollectorRegistry:
        """The registry to answer scrapes from: the same one at each call.

        With one process it is `prometheus_client.REGISTRY`, in which the collector is registered.
        With PROMETHEUS_MULTIPROC_DIR it is a new one, with the sums over all workers' metrics and,
        once, what the caches' files say.
        """
        if self._registry is None:
            if _multiprocess():
                registry = CollectorRegistry()
                multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            else:
                registry = prometheus_client.REGISTRY
            registry.register(self)
            self._registry = registry
        return self._registry

    def update(self) -> None:
        """Adds what this worker's front cache did to the sums over all workers.

        Call it after a request. It does its work once a second at most, and nothing at all without
        PROMETHEUS_MULTIPROC_DIR. It never raises for a cache that cannot be read.
        """
        now = time.monotonic()
        if self._shared is not None and now - self._updated >= _UPDATE_SECONDS:
            self._updated = now
            with self._lock:
                self._share(self._shared)

    def describe(self) -> Iterable[Metric]:
        """The metrics without values, by which a registry refuses a second collector."""
        return _Families(self._labels, self._own).all()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        with self._lock:
            families = self._families()
        yield from families.all()

    def _families(self) -> _Families:
        families = _Families(self._labels, self._own)
        for member in self._members:
            try:
                cache = member.cache()
                status, stats = cache.status(), cache.stats()
                catalogue = cache.catalogue()
            except _UNREADABLE:
                families.up.add_metric(member.labels, 0)
                continue
            families.add(member.labels, status, stats, catalogue)
            front = stats["front_cache"]
            if self._own:
                families.add_front(member.labels, member.counted(cache, front))
            elif self._shared is not None:
                self._shared.add(member, member.counted(cache, front))
        return families

    def _share(self, shared: _Shared) -> None:
        for member in self._members:
            try:
                cache = member.cache()
                front = cache.stats()["front_cache"]
            except _UNREADABLE:
                continue
            shared.add(member, member.counted(cache, front))

    def _forked(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it
        for member in self._members:
            member.forked()
        self._updated = -_UPDATE_SECONDS


class _Member:
    """One cache of a Collector, and what its front cache had counted when this process began."""

    def __init__(self, labels: tuple[str, ...], source: Source) -> None:
        self.labels = labels
        self.shared: dict[str, int] = {}  # what of it the sums over all workers have
        self._source = source
        self._seen = source if isinstance(source, mmapcache.Cache) else None
        self._before: dict[str, int] = {}

    def cache(self) -> mmapcache.Cache:
        source = self._source
        return source if isinstance(source, mmapcache.Cache) else source()

    def counted(self, cache: mmapcache.Cache, front: FrontCacheStats) -> dict[str, int]:
        """`front` of this process alone."""
        if cache is not self._seen:  # opened again: it counts from 0
            self._seen, self._before, self.shared = cache, {}, {}
        values = cast("dict[str, int]", front)
        return {key: values[key] - self._before.get(key, 0) for key in values}

    def forked(self) -> None:
        """In a child, before anything else: what is counted so far is the parent's."""
        self.shared = {}
        if self._seen is None:
            return
        try:
            front = cast("dict[str, int]", self._seen.stats()["front_cache"])
        except _UNREADABLE:
            return
        self._before = {counter.key: front[counter.key] for counter in _FRONT_COUNTERS}


class _Families:
    """The metrics of one scrape, each with a value for each cache.

    :param labels: names of the labels that tell caches apart
    :param front: whether the process's own front cache is among them
    """

    def __init__(self, labels: tuple[str, ...], front: bool) -> None:
        self.up = _gauge("up", "Whether the cache can be read.", labels)
        self._gauges = {
            gauge.name: _gauge(gauge.name, gauge.help, labels) for gauge in (*_STATUS, *_STATS)
        }
        self._info = _gauge(
            "info", "What is read here; always 1.", (*labels, "path", "file_id", "source")
        )
        self._alive = _gauge("loader_alive", "Whether a loader has the file open.", labels)
        self._failing = _gauge("loader_failing", "Whether the loader reports an error.", labels)
        self._state = _gauge(
            "loader_state", "1 for the state that the loader is in.", (*labels, "state")
        )
        self._documents = _gauge(
            "documents", "Documents of each collection.", (*labels, "collection")
        )
        self._content = _gauge(
            "collection_content_bytes",
            "Bytes of each collection's keys and values.",
            (*labels, "collection"),
        )
        self._events = _counter("source_events", "Changes that the source sent.", labels)
        self._disconnects = _counter(
            "source_disconnects", "Connections to the source that were lost.", labels
        )
        self._loads = _counter(
            "loads", "How often everything was read, by reason.", (*labels, "reason")
        )
        self._errors = _counter(
            "loader_errors", "How often the loader failed, by name.", (*labels, "error")
        )
        gauges, counters = (_FRONT_GAUGES, _FRONT_COUNTERS) if front else ((), ())
        self._front_gauges = {g.key: _gauge(g.name, g.help, labels) for g in gauges}
        self._front_counters = {c.key: _counter(c.name, c.help, labels) for c in counters}

    def add(
        self,
        labels: tuple[str, ...],
        status: Status,
        stats: Stats,
        catalogue: Mapping[str, CatalogueEntry],
    ) -> None:
        """What the file of one cache says."""
        self.up.add_metric(labels, 1)
        for gauges, values in ((_STATUS, cast(Any, status)), (_STATS, cast(Any, stats))):
            for gauge in gauges:
                if values[gauge.key] is not None:
                    self._gauges[gauge.name].add_metric(labels, values[gauge.key])
        known = (public_text(status["path"]), status["file_id"], public_text(status["source"]))
        self._info.add_metric((*labels, *known), 1)
        self._alive.add_metric(labels, status["loader"] == "alive")
        self._failing.add_metric(labels, status["error"] is not None)
        if status["state"]:
            self._state.add_metric((*labels, public_text(status["state"])), 1)
        self._events.add_metric(labels, status["events"])
        self._disconnects.add_metric(labels, status["disconnects"])
        for family, counts in (
            (self._documents, {name: entry["documents"] for name, entry in catalogue.items()}),
            (self._content, {name: entry["bytes"] for name, entry in catalogue.items()}),
            (self._loads, status["loads"]),
            (self._errors, status["errors"]),
        ):
            for name, count in _by_printable_name(counts).items():
                family.add_metric((*labels, name), count)

    def add_front(self, labels: tuple[str, ...], counted: Mapping[str, int]) -> None:
        """This process's front cache."""
        families: Mapping[str, Any] = {**self._front_gauges, **self._front_counters}
        for key, family in families.items():
            family.add_metric(labels, counted[key])

    def all(self) -> Iterator[Metric]:
        """All of them, those without a value too."""
        yield from (self.up, self._info, *self._gauges.values())
        yield from (self._documents, self._content, self._alive, self._failing, self._state)
        yield from (self._events, self._disconnects, self._loads, self._errors)
        yield from (*self._front_gauges.values(), *self._front_counters.values())


class _Shared:
    """The front caches' metrics in prometheus_client's files, of which a scrape gives the sums.

    They are in no registry: the files are read by MultiProcessCollector.
    """

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._gauges = [
            (
                gauge.key,
                prometheus_client.Gauge(
                    f"mmapcache_{gauge.name}",
                    gauge.help,
                    labels,
                    registry=None,
                    multiprocess_mode="livesum",
                ),
            )
            for gauge in _FRONT_GAUGES
        ]
        self._counters = [
            (
                counter.key,
                prometheus_client.Counter(
                    f"mmapcache_{counter.name}", counter.help, labels, registry=None
                ),
            )
            for counter in _FRONT_COUNTERS
        ]

    def add(self, member: _Member, counted: dict[str, int]) -> None:
        """What is not in the sums yet."""
        labels = member.labels
        for key, gauge in self._gauges:
            (gauge.labels(*labels) if labels else gauge).set(counted[key])
        for key, counter in self._counters:
            fresh = counted[key] - member.shared.get(key, 0)
            member.shared[key] = counted[key]
            if fresh > 0:
                (counter.labels(*labels) if labels else counter).inc(fresh)


def _gauge(name: str, text: str, labels: Iterable[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mmapcache_{name}", text, labels=tuple(labels), unit=_unit(name))


def _counter(name: str, text: str, labels: Iterable[str]) -> CounterMetricFamily:
    return CounterMetricFamily(f"mmapcache_{name}", text, labels=tuple(labels))


def _unit(name: str) -> str:
    """What OpenMetrics is told of it."""
    last = name.rpartition("_")[2]
    return last if last in {"seconds", "bytes"} else ""


def _by_printable_name(counts: Mapping[str, int]) -> Tally[str]:
    """Names of others made safe to print; should two become one, their sum."""
    tally: Tally[str] = Tally()
    for name, count in counts.items():
        tally[printable(name)] += count
    return tally


def _multiprocess() -> bool:
    """As prometheus_client decides it."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


_collectors: weakref.WeakSet[Collector] = weakref.WeakSet()


def _after_fork() -> None:
    for collector in tuple(_collectors):
        collector._forked()


os.register_at_fork(after_in_child=_after_fork)
