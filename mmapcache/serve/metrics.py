"""What the file says, for Prometheus. Names begin with `mmapcache_`, units are base units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from mmapcache.serve.observer import Observer

_OPEN = "application/openmetrics-text; version=1.0.0"
# name, HELP, unit, where it is in the facts
_STATUS = (
    ("generation", "The current generation; it never goes back.", "", "generation"),
    ("published_timestamp", "When the generation was published.", "seconds", "published_at"),
    (
        "confirmed_timestamp",
        "When the data was last known to be current.",
        "seconds",
        "confirmed_at",
    ),
    (
        "position_timestamp",
        "The moment of the source that the data has reached.",
        "seconds",
        "position_at",
    ),
    ("age", "Seconds since the data was last known to be current.", "seconds", "age"),
    ("lag", "The age while the loader follows the source's changes.", "seconds", "lag"),
)
_STATS = (
    ("collections", "Collections in the cache.", "", "collections"),
    ("documents", "Documents in all collections.", "", "documents"),
    ("used", "Bytes that the generation occupies.", "bytes", "bytes_used"),
    ("free", "Bytes that the loader could allocate at once.", "bytes", "bytes_free"),
    ("largest_free", "The largest free block.", "bytes", "largest_free"),
    ("file", "Size of the file.", "bytes", "file_size"),
    ("max", "The limit of the file's size.", "bytes", "max_size"),
    ("huge", "Bytes of the file in huge pages.", "bytes", "huge_bytes"),
)


class Collector:
    """A collector of prometheus_client that looks at the file when it is asked."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def collect(self) -> Iterator[Metric]:
        """The metrics of now; of a file that cannot be read, that alone."""
        facts = self._observer.numbers()
        status, stats = facts.get("status"), facts["stats"]
        ready = facts["ready"] and stats is not None
        yield _gauge("ready", "Whether a generation can be read: 1 or 0.", value=float(ready))
        if status is None or stats is None:
            return
        yield _gauge("loader_up", "Whether a loader is alive.", value=status["loader"] == "alive")
        yield _gauge("loader_error", "Whether the loader reports an error.", value=status["error"])
        for name, text, unit, key in _STATUS:
            if status[key] is not None:
                yield _gauge(name, text, unit, value=status[key])
        yield from _counters(status)
        for name, text, unit, key in _STATS:
            yield _gauge(name, text, unit, value=stats[key])
        retired = stats["file_size"] - stats["bytes_used"] - stats["bytes_free"]
        yield _gauge("retired", "Bytes of past generations.", "bytes", value=max(0, retired))
        yield from _collections(facts["collections"])


def _gauge(name: str, text: str, unit: str = "", *, value: Any) -> GaugeMetricFamily:
    number = value if isinstance(value, (int, float)) else bool(value)
    return GaugeMetricFamily(f"mmapcache_{name}", text, value=float(number), unit=unit)


def _counters(status: dict[str, Any]) -> Iterator[Metric]:
    """Over the life of the file: a new file begins at 0, as a process does that was restarted."""
    yield CounterMetricFamily("mmapcache_events", "Changes that came.", value=status["events"])
    yield CounterMetricFamily(
        "mmapcache_disconnects", "Lost connections to the source.", value=status["disconnects"]
    )
    loads = CounterMetricFamily("mmapcache_loads", "Times all was read.", labels=["reason"])
    for reason, count in status["loads"].items():
        loads.add_metric([reason], count)
    yield loads
    errors = CounterMetricFamily("mmapcache_errors", "Failures of the loader.", labels=["name"])
    for name, count in status["errors"].items():
        errors.add_metric([name], count)
    yield errors


def _collections(collections: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    documents = GaugeMetricFamily(
        "mmapcache_collection_documents", "Documents in a collection.", labels=["collection"]
    )
    size = GaugeMetricFamily(
        "mmapcache_collection_content",
        "Bytes of a collection's keys and values.",
        labels=["collection"],
        unit="bytes",
    )
    changed = GaugeMetricFamily(
        "mmapcache_collection_changed_generation",
        "The last generation that changed a collection.",
        labels=["collection"],
    )
    for name, entry in sorted(collections.items()):
        documents.add_metric([name], entry["documents"])
        size.add_metric([name], entry["bytes"])
        changed.add_metric([name], entry["changed"])
    yield from (documents, size, changed)


class Exposition:
    """What `/metrics` answers."""

    def __init__(self, observer: Observer) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Collector(observer))

    def render(self, accept: str) -> tuple[str, bytes]:
        """Content type and text: OpenMetrics where the client takes it, else Prometheus' own."""
        encoder, kind = choose_encoder(_OPEN if _OPEN.partition(";")[0] in accept else "")
        return kind, encoder(self._registry)
