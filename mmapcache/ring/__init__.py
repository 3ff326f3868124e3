"""Short-lived state on several Redis servers, in two copies, without a proxy.

    ring = mmapcache.ring.Ring("/run/mmapcache/ring.mmc")      # before or after a fork
    ring.set("answer:9f3c", "42", ex=120)                      # Written(copies=2, degraded=False)
    ring.get("answer:9f3c")                                    # b"42"

`pip install 'mmapcache[ring]'`. The file is written by `mmapcache ring agent`, one on each host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmapcache.ring.errors import (
    HoldersFull,
    NoHolderReachable,
    RingError,
    RingNotReady,
    Unsupported,
)
from mmapcache.ring.written import Changed, Number, Written

if TYPE_CHECKING:
    from mmapcache.ring.aio import AsyncPipeline, AsyncRing
    from mmapcache.ring.blocking import Pipeline, Ring

_CLIENTS = {
    "AsyncPipeline": "aio",
    "AsyncRing": "aio",
    "Pipeline": "blocking",
    "Ring": "blocking",
}


def __getattr__(name: str) -> Any:
    """The clients, which need redis-py, when they are asked for."""
    module = _CLIENTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise ModuleNotFoundError(
            f"mmapcache.ring.{name} needs redis: pip install 'mmapcache[ring]'", name="redis"
        ) from None


__all__ = [
    "AsyncPipeline",
    "AsyncRing",
    "Changed",
    "HoldersFull",
    "NoHolderReachable",
    "Number",
    "Pipeline",
    "Ring",
    "RingError",
    "RingNotReady",
    "Unsupported",
    "Written",
]
