"""One connection of an event loop to one node, on which many operations are under way at once.

Replies come in the order of the commands. When one does not come in time, the connection is closed
at once, and all that wait for something on it are told so.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Any

from redis import exceptions

from mmapcache.ring import connecting
from mmapcache.ring.connecting import HELLO, Settings
from mmapcache.ring.view import Peer
from mmapcache.ring.wire import Lost

_GRACE = 0.005  # seconds: the loop may have been busy, with the reply in the socket already


class Line:
    """
    :param connection: of redis.asyncio, connected and greeted
    :param timeout: seconds that a reply is waited for
    """

    def __init__(self, connection: Any, timeout: float) -> None:
        self.alive = True
        self.used = False  # a reply has come
        self._connection = connection
        self._writer = connection._writer
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, int, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._suspect: asyncio.Future[Any] | None = None
        connection.socket_timeout = None
        self._listener = self._loop.create_task(self._listen())

    def ask(self, data: bytes, count: int) -> asyncio.Future[Any]:
        """The reply, a list of several, or `Lost`; never an exception."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self.alive or self._writer.transport.is_closing():
            future.set_result(Lost("the server closed the connection"))
            return future
        self._waiting.append((self._loop.time(), count, future))
        self._writer.write(data)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._look)
        return future

    def close(self, lost: Lost | None = None) -> None:
        """At once: what is not sent is not sent. Harmless twice."""
        if not self.alive:
            return
        self.alive = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._listener is not asyncio.current_task():
            self._listener.cancel()
        self._connection._writer = self._connection._reader = None
        self._writer.transport.abort()
        lost = lost or Lost("the connection was closed")
        while self._waiting:
            future = self._waiting.popleft()[2]
            if not future.done():
                future.set_result(lost)

    def let_go(self) -> None:
        """In a forked child: closes this process's copy of the socket, behind the back of the
        parent's event loop, whose selector both processes share. While a copy is open, the parent
        could not close the connection at once."""
        self.alive = False
        inner = getattr(self._writer.get_extra_info("socket"), "_sock", None)
        if inner is not None and inner.fileno() >= 0:
            os.close(inner.detach())

    async def _listen(self) -> None:
        waiting = self._waiting
        try:
            while True:
                reply = await _receive(self._connection)
                if not waiting:
                    raise exceptions.ConnectionError("a reply that nobody has asked for")
                count = waiting[0][1]
                if count > 1:
                    reply = [reply, *[await _receive(self._connection) for _ in range(count - 1)]]
                future = waiting.popleft()[2]
                self.used = True
                if not future.done():
                    future.set_result(reply)
        except exceptions.RedisError as error:
            self.close(Lost(str(error)))
        except Exception as error:
            self.close(Lost(f"{type(error).__name__}: {error}"))

    def _look(self) -> None:
        """Whether the oldest has been waiting for too long."""
        self._timer = None
        if not self._waiting:
            return
        began, _, future = self._waiting[0]
        left = began + self._timeout - self._loop.time()
        if left <= 0:
            if self._suspect is future:
                self.close(Lost(f"no reply within {self._timeout:g} s", slow=True))
                return
            self._suspect = future
            left = _GRACE
        self._timer = self._loop.call_later(left, self._look)


async def connect(kind: Any, settings: Settings, peer: Peer) -> Line:
    """
    :param kind: of redis.asyncio's connections
    :raises Lost: the node cannot be reached, or does not serve
    """
    if not peer.address:
        raise Lost("its address is not known")
    connection = kind(**settings.arguments(kind, peer))
    try:
        await connection.connect()
        connecting.close_at_once(connection._writer.get_extra_info("socket"))
        connection._writer.write(HELLO)
        connecting.check_greeting(peer, await _receive(connection))
    except exceptions.RedisError as error:
        _abort(connection)
        raise connecting.lost_by(error) from None
    except BaseException:
        _abort(connection)
        raise
    return Line(connection, settings.timeout)


async def _receive(connection: Any) -> Any:
    """
    :raises redis.ConnectionError: it is lost
    """
    try:
        return await connection.read_response(disconnect_on_error=False)
    except exceptions.ResponseError as error:
        return error


def _abort(connection: Any) -> None:
    """Closes without sending what is not sent: its own `disconnect` would go on trying that."""
    writer, connection._writer = connection._writer, None
    connection._reader = None
    if writer is not None:
        writer.transport.abort()
