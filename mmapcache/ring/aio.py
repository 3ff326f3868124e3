"""The ring for asyncio, and Tornado: `AsyncRing`. What is promised is the same as for `Ring`."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from redis.asyncio.connection import Connection, SSLConnection

from mmapcache.ring import connecting, refused
from mmapcache.ring.collecting import Collected
from mmapcache.ring.connecting import Settings
from mmapcache.ring.core import Core, Counts
from mmapcache.ring.line import Line, connect
from mmapcache.ring.operations import (
    Key,
    Moment,
    Operations,
    Seconds,
    Value,
    end_of,
    listed,
)
from mmapcache.ring.published import Published
from mmapcache.ring.together import Ask, Steps
from mmapcache.ring.view import Peer
from mmapcache.ring.wire import Lost
from mmapcache.ring.written import Changed, Number, Written

_T = TypeVar("_T")


class AsyncRing:
    """A client of the ring for one event loop at a time. Made before or after a fork.

    The parameters are those of `mmapcache.ring.Ring`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 0.1,
        deadline: float = 1.0,
        password: str | None = None,
        username: str | None = None,
        ssl: bool | Mapping[str, Any] = False,
        decode_responses: bool = False,
        owner: int | str | None = None,
    ) -> None:
        self._published = Published(str(Path(path)), owner=owner)
        self._settings = Settings(timeout, username, password, connecting.tls(ssl))
        self._core = Core(self._published, deadline=deadline, timeout=timeout, discard=_close)
        self._operations = Operations(self._core, decode=decode_responses)
        self._kind: Any = Connection if self._settings.ssl is None else SSLConnection
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting: dict[Peer, asyncio.Task[Line | Lost]] = {}
        _clients.add(self)

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

    # The ring itself.

    @property
    def epoch(self) -> int:
        """See `Ring.epoch`."""
        return self._operations.epoch

    @property
    def nodes(self) -> dict[str, tuple[str, str]]:
        """See `Ring.nodes`."""
        return self._operations.nodes

    @property
    def age(self) -> float | None:
        """See `Ring.age`."""
        return self._published.age()

    @property
    def counts(self) -> Counts:
        """See `Ring.counts`."""
        return self._core.counts

    def where(self, key: Key) -> tuple[str, ...]:
        """See `Ring.where`."""
        return self._operations.where(key)

    async def close(self) -> None:
        """Closes this process's connections and lets go of the file."""
        _close(self._core.drop_pools())
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

    def __getattr__(self, name: str) -> Any:
        return refused.refusal(name)

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

    def _after_fork(self) -> None:
        self._published.after_fork()
        self._loop = None
        self._connecting = {}
        idle = self._core.after_fork()
        for line in idle:
            line.let_go()
        _graveyard.append(idle)


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


def _close(lines: Iterable[Any]) -> None:
    for line in lines:
        line.close()


def _after_fork() -> None:
    for ring in list(_clients):
        ring._after_fork()


_clients: weakref.WeakSet[AsyncRing] = weakref.WeakSet()
# Connections of a loop that is not this one's, as the parent's, whose selector a child shares: to
# collect them would take from that what it still waits for.
_graveyard: list[Any] = []
os.register_at_fork(after_in_child=_after_fork)

__all__ = ["AsyncPipeline", "AsyncRing"]
