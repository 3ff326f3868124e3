"""The stores that a worker has, all asked in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

from redis.exceptions import RedisError

from demo.ring.naive import Naive, client
from mmapcache.ring import AsyncRing, RingError

FAILURES: Final = (RingError, RedisError, OSError)
_TIMEOUT: Final = 0.1  # seconds that one server is waited for
_PROXY_TIMEOUT: Final = 2.0  # more than the proxy itself waits
# A proxy knows neither HELLO nor CLIENT, and closes the connection.
PROXY_OPTIONS: Final[dict[str, Any]] = {"protocol": 2, "lib_name": None, "lib_version": None}
_LIFE: Final = 600  # seconds that a value lives


class Store(Protocol):
    """Raises one of FAILURES when it has no answer."""

    async def get(self, key: str) -> bytes | None:
        """The value."""

    async def set(self, key: str, value: bytes) -> int:
        """How many copies were taken."""


class RingStore:
    """The ring."""

    def __init__(self, path: Path) -> None:
        self.ring = AsyncRing(path, timeout=_TIMEOUT)

    async def get(self, key: str) -> Any:
        return await self.ring.get(key)

    async def set(self, key: str, value: bytes) -> int:
        return (await self.ring.set(key, value, ex=_LIFE)).copies


class NaiveStore:
    """The naive client."""

    def __init__(self, members: Path) -> None:
        self._naive = Naive(members, _TIMEOUT)

    async def get(self, key: str) -> Any:
        return await self._naive.get(key)

    async def set(self, key: str, value: bytes) -> int:
        return await self._naive.set(key, value, _LIFE)


class ProxyStore:
    """nutcracker."""

    def __init__(self, port: int) -> None:
        self._redis = client(port, _PROXY_TIMEOUT, **PROXY_OPTIONS)

    async def get(self, key: str) -> Any:
        return await self._redis.get(key)

    async def set(self, key: str, value: bytes) -> int:
        await self._redis.set(key, value, ex=_LIFE)
        return 1
