"""What `/metrics` answers: the metrics of `mmapcache.prometheus`, of the file that is served."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector as AbstractCollector

from mmapcache.prometheus import Collector
from mmapcache.serve.observer import Observer

_OPEN = "application/openmetrics-text; version=1.0.0"


class Exposition:
    """Looks at the file when it is asked; any thread may ask."""

    def __init__(self, observer: Observer) -> None:
        self._registry = CollectorRegistry()
        # Nobody reads documents here, so that this process's front cache says nothing.
        self._registry.register(Collector(observer.readable, front_cache=False))

    def add(self, collector: AbstractCollector) -> None:
        """More metrics, beside those of the file; from now on."""
        self._registry.register(collector)

    def render(self, accept: str) -> tuple[str, bytes]:
        """Content type and text: OpenMetrics where the client takes it, else Prometheus' own."""
        encoder, kind = choose_encoder(_OPEN if _OPEN.partition(";")[0] in accept else "")
        return kind, encoder(self._registry)
