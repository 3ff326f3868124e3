"""The ring for code that waits: `Ring`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from redis import exceptions
from redis.connection import Connection, SSLConnection

from mmapcache.ring import connecting, refused
from mmapcache.ring.client import Client
from mmapcache.ring.collecting import Collected
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
_MOST_IDLE = 64  # connections to one node that are kept


class Ring(Client):
    """A client of the ring that the file at `path` says.

    Made before or after a fork; any number of threads. Each process has connections of its own.
    Keys are str or bytes; values too, and numbers, which are stored as their decimal text.

    :param path: of the file that `mmapcache ring agent` writes; it may come later
    :param timeout: seconds that one node is waited for
    :param deadline: seconds after which an operation gives up
    :param ssl: True, or a mapping of what redis.SSLConnection takes
    :param decode_responses: values are str, not bytes
    :param owner: the agent's user, where it is neither root nor oneself
    """

    _kinds = (Connection, SSLConnection)

    # Reading.

    @overload
    def get(self, key: Key, with_source: Literal[False] = False) -> Any: ...
    @overload
    def get(self, key: Key, with_source: Literal[True]) -> tuple[Any, str]: ...
    def get(self, key: Key, with_source: bool = False) -> Any:
        """The value, None for a miss; `with_source`: with the id of the node that said so.

        :raises NoHolderReachable: no holder has answered within the deadline
        """
        if with_source:
            return self._run(self._operations.get_with_source(key))
        return self._run(self._operations.get(key))

    def mget(self, keys: Key | Iterable[Key], *more: Key) -> list[Any]:
        """The values of several keys, None for each miss."""
        return self._run(self._operations.mget(listed(keys, more)))

    def exists(self, *keys: Key) -> int:
        """How many of the keys have a value."""
        return self._run(self._operations.exists(keys))

    def ttl(self, key: Key) -> int:
        """Seconds until the value ends; -1: never; -2: there is none."""
        return self._run(self._operations.ttl(key))

    def pttl(self, key: Key) -> int:
        """The same in milliseconds."""
        return self._run(self._operations.pttl(key))

    # Writing. Each wants two copies and says how many there are.

    def set(
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
        """Writes a value, which ends after `ex` seconds or `px` milliseconds, or at the Unix time
        `exat` (seconds) or `pxat` (milliseconds).

        :raises NoHolderReachable: no holder has answered within the deadline
        :raises HoldersFull: no holder has memory for it
        """
        refused.refuse_options(options)
        return self._run(self._operations.set(key, value, end_of(ex, px, exat, pxat)))

    def mset(
        self,
        values: Mapping[Any, Value],
        ex: Seconds | None = None,
        px: Seconds | None = None,
        *,
        exat: Moment | None = None,
        pxat: Moment | None = None,
    ) -> Written:
        """Writes several, each for itself; the copies of the one that has fewest."""
        return self._run(self._operations.mset(values, end_of(ex, px, exat, pxat)))

    def delete(self, *keys: Key) -> Changed:
        """Removes values; `existed`: whether there was one."""
        return self._run(self._operations.delete(keys))

    def expire(self, key: Key, time: Seconds) -> Changed:
        """Makes a value end after `time` seconds; `existed`: whether there is one."""
        return self._run(self._operations.expire(key, time))

    def incr(self, key: Key, amount: int = 1) -> Number:
        """Adds to a number, which begins at 0. Not exactly once: see the documentation."""
        return self._run(self._operations.incrby(key, amount))

    def incrby(self, key: Key, amount: int = 1) -> Number:
        """The same."""
        return self.incr(key, amount)

    def decr(self, key: Key, amount: int = 1) -> Number:
        """The same, down."""
        return self.incr(key, -amount)

    def pipeline(self) -> Pipeline:
        """Collects operations on keys of their own, to be sent together."""
        return Pipeline(self)

    def close(self) -> None:
        """Closes this process's connections and lets go of the file."""
        self._discard(self._core.drop_pools())
        self._published.close()

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # How it is done.

    def _run(self, steps: Steps[_T]) -> _T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, tuple):
                    step = steps.send(self._exchange(step))
                else:
                    time.sleep(step)
                    step = next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result

    def _exchange(self, asks: tuple[Ask, ...]) -> list[Any]:
        """Sends to all of them, then reads from all of them."""
        if len(asks) == 1:
            peer, data, count = asks[0]
            return [self._finish(peer, self._send(peer, data), data, count)]
        sent: list[Any] = [None] * len(asks)
        finished = 0
        replies: list[Any] = []
        try:
            later = []
            for index, (peer, data, _) in enumerate(asks):
                if peer.pool:
                    sent[index] = self._send(peer, data)
                else:
                    later.append(index)
            for index in later:  # what has to be connected first keeps nobody waiting
                peer, data, _ = asks[index]
                sent[index] = self._send(peer, data)
            for index, (peer, data, count) in enumerate(asks):
                line = sent[index]
                finished = index + 1
                replies.append(self._finish(peer, line, data, count))
        except BaseException:
            self._discard(
                each for each in sent[finished:] if not isinstance(each, (Lost, type(None)))
            )
            raise
        return replies

    def _send(self, peer: Peer, data: bytes) -> Any:
        """The connection that it was sent on, or Lost."""
        while peer.pool:
            try:
                line = peer.pool.pop()
            except IndexError:  # another thread was faster
                break
            try:
                line.send_packed_command((data,))
                return line
            except exceptions.TimeoutError as error:
                return connecting.lost_by(error)
            except exceptions.RedisError:  # the server was started anew: the others are as dead
                self._discard(peer.take_idle())
        return self._send_anew(peer, data)

    def _send_anew(self, peer: Peer, data: bytes) -> Any:
        try:
            line = self._connect(peer)
        except Lost as lost:
            return lost
        try:
            line.send_packed_command((data,))
        except exceptions.RedisError as error:
            return connecting.lost_by(error)
        return line

    def _finish(self, peer: Peer, line: Any, data: bytes, count: int) -> Any:
        """The reply, or the list of replies."""
        if isinstance(line, Lost):
            return line
        used = getattr(line, "ring_used", False)
        try:
            reply = _receive(line, count)
        except exceptions.RedisError as error:  # one of them: what came is no reply at all
            line.disconnect()
            lost = connecting.lost_by(error)
            if not used or lost.slow:
                return lost
            # Idle until now, and closed by the server: perhaps it was only started anew.
            self._discard(peer.take_idle())
            again = self._send_anew(peer, data)
            return self._finish(peer, again, data, count)
        except BaseException:
            line.disconnect()
            raise
        if not used:
            line.ring_used = True
        if len(peer.pool) < _MOST_IDLE:
            peer.pool.append(line)
        else:
            line.disconnect()
        return reply

    def _connect(self, peer: Peer) -> Any:
        """
        :raises Lost: the node cannot be reached, or does not serve
        """
        if not peer.address:
            raise Lost("its address is not known")
        try:
            line, greeting = connecting.greet(self._kind, self._settings, peer)
        except exceptions.RedisError as error:
            raise connecting.lost_by(error) from None
        try:
            connecting.check_greeting(peer, greeting)
        except BaseException:
            line.disconnect()
            raise
        return line

    @staticmethod
    def _discard(lines: Iterable[Any]) -> None:
        for line in lines:
            line.disconnect()

    def _leave(self, lines: list[Any]) -> None:
        self._discard(lines)  # the parent's stay open


class Pipeline(Collected):
    """Operations on keys of their own, which `execute` sends together; the results come in the
    order in which they were added. None happens before, and each succeeds or fails for itself."""

    def __init__(self, ring: Ring) -> None:
        super().__init__(ring._operations)
        self._ring = ring

    def execute(self) -> list[Any]:
        """Sends all of it.

        :raises RingError: an operation failed, the first of those that did; the others have ended
        """
        return self._ring._run(self.take())

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


def _receive(line: Any, count: int) -> Any:
    """
    :raises redis.ConnectionError: it is lost
    """
    if count == 1:
        return connecting.receive(line)
    return [connecting.receive(line) for _ in range(count)]


__all__ = ["Pipeline", "Ring"]
