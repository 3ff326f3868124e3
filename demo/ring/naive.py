"""What people build first: consistent hashing, and a second copy that is read on an error.

The first node of the circle that a key comes to holds it, and the next other one has the copy.
Writes go to both at once. A read asks the first, and the copy when that fails. There are no
versions, and a server that comes back is asked at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from demo.ring.circle import Circle


def client(port: int, timeout: float, **options: Any) -> Redis:
    """redis-py for one server of the loopback, which says at once that it failed."""
    return Redis(
        port=port,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        **options,
    )


class Naive:
    """
    :param members: a file with the port of each node, JSON; another one is seen at the next call
    :param timeout: seconds that one server is waited for
    """

    def __init__(self, members: Path, timeout: float) -> None:
        self._members = members
        self._timeout = timeout
        self._seen = 0
        self._clients: dict[int, Redis] = {}
        self._ports: list[int] = []
        self._circle = Circle(["none", "yet"])

    async def get(self, key: str) -> Any:
        """The value, or None."""
        first, second = self._pair(key)
        try:
            return await first.get(key)
        except (RedisError, OSError):
            return await second.get(key)

    async def set(self, key: str, value: bytes, ex: int) -> int:
        """How many copies were taken.

        :raises RedisError: none
        :raises OSError: likewise
        """
        pair = self._pair(key)
        taken = await asyncio.gather(
            *(holder.set(key, value, ex=ex) for holder in pair), return_exceptions=True
        )
        failed = [one for one in taken if isinstance(one, BaseException)]
        if len(failed) == len(pair):
            raise failed[0]
        return len(pair) - len(failed)

    def _pair(self, key: str) -> tuple[Redis, Redis]:
        changed = self._members.stat().st_mtime_ns
        if changed != self._seen:
            self._seen = changed
            members: Mapping[str, int] = json.loads(self._members.read_text())
            self._ports = list(members.values())
            self._circle = Circle(list(members))
            for port in self._ports:
                if port not in self._clients:
                    self._clients[port] = client(port, self._timeout)
        first, second = self._circle.pair(key.encode())
        return self._clients[self._ports[first]], self._clients[self._ports[second]]
