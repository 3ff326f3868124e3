"""The ring for asyncio, and Tornado: `AsyncRing`. What is promised is the same as for `Ring`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from redis.asyncio.connection import Connection, SSLConnection

from mmapcache.ring import refused
from mmapcache.ring.client import Client
from mmapcache.ring.collecting import Collected
from mmapcache.ring.line import Line, connect
from mmapcache.ring.operations import (
    Key,
    Moment,
    Seconds,
    Value,
    end_of,
    listed,
)
from mmapcache.ring.together import Ask, Steps
from mmapcache.ring.view import Peer
from mmapcache.ring.wire import Lost
from mmapcache.ring.written import Changed, Number, Written

_T = TypeVar("_T")


class AsyncRing(Client):
    """A client of the ring for one event loop at a time. Made before or after a fork.

    The parameters are those of `mmapcache.ring.Ring`.
    """

    _kinds = (Connection, SSLConnection)

    _loop: asyncio.AbstractEventLoop | None = None
    _connecting: dict[Peer, asyncio.Task[Line | Lost]]  # of that loop

    # Reading.

    @overload
    async def get(self, key: Key, with_source: Literal[False] = False) -> Any: ...
    @overload
    async def get(self, key: Key, with_source: Literal[True]) -> tuple[Any, str]: ...
    async def get(self, key: Key, with_source: bool = False) -> Any:
        """See `Ring.get`."""
        if with_source:
            return await self._run(self._operations.get_with_source(key))
        return await self._run(self._operations.get(key))

    async def mget(self, keys: Key | Iterable[Key], *more: Key) -> list[Any]:
        """See `Ring.mget`."""
        return await self._run(self._operations.mget(listed(keys, more)))

    async def exists(self, *keys: Key) -> int:
        """See `Ring.exists`."""
        return await self._run(self._operations.exists(keys))

    async def ttl(self, key: Key) -> int:
        """See `Ring.ttl`."""
        return await self._run(self._operations.ttl(key))

    async def pttl(self, key: Key) -> int:
        """See `Ring.pttl`."""
        return await self._run(self._operations.pttl(key))

    # Writing.

    async def set(
        self,
        key: Key,
        value: Value,
        ex: Seconds | None = None,
        px: Seconds | None = None,
        *,
        exat: Moment | None = None,
        pxat: Moment | None = None,
        **options: object,
    ) -> Written:
        """See `Ring.set`."""
        refused.refuse_options(options)
        return await self._run(self._operations.set(key, value, end_of(ex, px, exat, pxat)))

    async def mset(
        self,
        values: Mapping[Any, Value],
        ex: Seconds | None = None,
        px: Seconds | None = None,
        *,
        exat: Moment | None = None,
        pxat: Moment | None = None,
    ) -> Written:
        """See `Ring.mset`."""
        return await self._run(self._operations.mset(values, end_of(ex, px, exat, pxat)))

    async def delete(self, *keys: Key) -> Changed:
        """See `Ring.delete`."""
        return await self._run(self._operations.delete(keys))

    async def expire(self, key: Key, time: Seconds) -> Changed:
        """See `Ring.expire`."""
        return await self._run(self._operations.expire(key, time))

    async def incr(self, key: Key, amount: int = 1) -> Number:
        """See `Ring.incr`."""
        return await self._run(self._operations.incrby(key, amount))

    async def incrby(self, key: Key, amount: int = 1) -> Number:
        """See `Ring.incr`."""
        return await self.incr(key, amount)

    async def decr(self, key: Key, amount: int = 1) -> Number:
        """See `Ring.decr`."""
        return await self.incr(key, -amount)

    def pipeline(self) -> AsyncPipeline:
        """See `Ring.pipeline`; `execute` is to be awaited."""
        return AsyncPipeline(self)

    async def close(self) -> None:
        """Closes this process's connections and lets go of the file."""
        self._discard(self._core.drop_pools())
        self._published.close()
        await asyncio.sleep(0)  # transports close in the loop's next round

    aclose = close

    async def __aenter__(self) -> AsyncRing:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # How it is done.

    async def _run(self, steps: Steps[_T]) -> _T:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._moves_to(loop)
        try:
            step = next(steps)
            while True:
                if isinstance(step, tuple):
                    step = steps.send(await self._exchange(step))
                else:
                    await asyncio.sleep(step)
                    step = next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result

    async def _exchange(self, asks: tuple[Ask, ...]) -> list[Any]:
        """Sends to all of them, then waits for all of them."""
        lines = [peer.pool[0] if peer.pool else None for peer, _, _ in asks]
        futures = [
            self._connected(*ask) if line is None else line.ask(ask[1], ask[2])
            for line, ask in zip(lines, asks, strict=True)
        ]
        replies = [await futures[0]] if len(asks) == 1 else await asyncio.gather(*futures)
        for index, (line, ask) in enumerate(zip(lines, asks, strict=True)):
            reply = replies[index]
            if isinstance(reply, Lost) and line is not None:
                _drop(ask[0], line)
                if line.used and not reply.slow:  # perhaps it was only started anew
                    replies[index] = await self._connected(*ask)
        return replies

    async def _connected(self, peer: Peer, data: bytes, count: int) -> Any:
        """The reply on a new connection, one for all that want it now."""
        task = self._connecting.get(peer)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._connect(peer))
            self._connecting[peer] = task
        line = await asyncio.shield(task)
        if isinstance(line, Lost):
            return line
        reply = await line.ask(data, count)
        if isinstance(reply, Lost):
            _drop(peer, line)
        return reply

    async def _connect(self, peer: Peer) -> Line | Lost:
        try:
            if not peer.pool:
                peer.pool.append(await connect(self._kind, self._settings, peer))
            line: Line = peer.pool[0]
            return line
        except Lost as lost:
            return lost
        except Exception as error:
            return Lost(f"{type(error).__name__}: {error}")
        finally:
            del self._connecting[peer]

    def _moves_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connections are one loop's. Those of one that is closed are closed when collected."""
        idle = self._core.drop_pools()
        if self._loop is not None and not self._loop.is_closed():
            _graveyard.append(idle)
        self._connecting = {}
        self._loop = loop

    @staticmethod
    def _discard(lines: Iterable[Any]) -> None:
        for line in lines:
            line.close()

    def _leave(self, lines: list[Any]) -> None:
        self._loop = None
        for line in lines:
            line.let_go()
        _graveyard.append(lines)


class AsyncPipeline(Collected):
    """See `mmapcache.ring.Pipeline`."""

    def __init__(self, ring: AsyncRing) -> None:
        super().__init__(ring._operations)
        self._ring = ring

    async def execute(self) -> list[Any]:
        """See `Pipeline.execute`."""
        return await self._ring._run(self.take())

    async def __aenter__(self) -> AsyncPipeline:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.clear()


def _drop(peer: Peer, line: Line) -> None:
    line.close()
    if line in peer.pool:
        peer.pool.remove(line)


# Connections of a loop that is not this one's, as the parent's, whose selector a child shares: to
# collect them would take from that what it still waits for.
_graveyard: list[Any] = []

__all__ = ["AsyncPipeline", "AsyncRing"]
