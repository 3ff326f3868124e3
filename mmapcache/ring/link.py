"""A connection of the agent's, or of an operator's command, to one node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from redis import exceptions
from redis.connection import Connection, SSLConnection

from mmapcache.ring import connecting
from mmapcache.ring.connecting import Settings
from mmapcache.ring.errors import RingError
from mmapcache.ring.view import Peer
from mmapcache.ring.wire import pack, pairs

_SCAN = 1000  # keys that the server is asked to look at in one go


class RefusedError(RingError):
    """An error reply; `word` is its first word."""

    def __init__(self, node: str, text: str) -> None:
        super().__init__(f"{node}: {text}")
        self.word = text.partition(" ")[0]
        self.text = text


class Link:
    """One thread's. It connects when it is used, and again after it was lost.

    :param address: HOST:PORT of the node
    """

    def __init__(self, node: str, address: str, settings: Settings) -> None:
        self.node = node
        self.address = address
        self._settings = settings
        self._peer = Peer(node, address)
        self._line: Any = None

    def call(self, *command: bytes | str | int) -> Any:
        """The reply.

        :raises Lost: none came
        :raises RefusedError: it is an error
        """
        (reply,) = self.calls([command])
        if isinstance(reply, Exception):
            raise RefusedError(self.node, str(reply))
        return reply

    def calls(self, commands: Iterable[Sequence[bytes | str | int]]) -> list[Any]:
        """The replies to several; an error among them is an exception in its place.

        :raises Lost: not all came
        """
        packed = [pack(tuple(command)) for command in commands]
        try:
            line = self._connected()
            line.send_packed_command((b"".join(packed),))
            replies = [connecting.receive(line) for _ in packed]
        except exceptions.RedisError as error:
            self.close()
            raise connecting.lost_by(error, f"{self._peer}: {error}") from None
        except BaseException:
            self.close()
            raise
        if any(isinstance(each, Exception) and _is_fence(each) for each in replies):
            self.close()  # the next one says HELLO
        return replies

    def hello(self) -> dict[str, object]:
        """What the node says of itself.

        :raises Lost: nothing came
        :raises RefusedError: it has not the module
        """
        try:
            return pairs(self.call("RING.HELLO"))
        except RefusedError as error:
            if connecting.is_unknown(Exception(error.text)):
                raise RefusedError(self.node, connecting.NO_MODULE) from None
            raise

    def scan(self) -> Iterator[list[bytes]]:
        """All keys that are there from the beginning to the end, in lists; some twice.

        :raises Lost: the node was lost
        """
        cursor: int | bytes = b"0"
        while True:
            cursor, keys = self.call("SCAN", cursor, "COUNT", _SCAN, "TYPE", "string")
            if keys:
                yield keys
            if int(cursor) == 0:
                return

    def close(self) -> None:
        """Harmless twice."""
        line, self._line = self._line, None
        if line is not None:
            line.disconnect()

    def _connected(self) -> Any:
        if self._line is None:
            kind: Any = Connection if self._settings.ssl is None else SSLConnection
            # Whatever state it is in.
            self._line, _ = connecting.greet(kind, self._settings, self._peer)
        return self._line


def _is_fence(error: Exception) -> bool:
    return str(error).startswith("STOPPED")


class Links:
    """Links to the nodes of a ring, by id; one thread's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._links: dict[str, Link] = {}

    def to(self, node: str, address: str) -> Link:
        """The link to a node at this address."""
        link = self._links.get(node)
        if link is None or link.address != address:
            if link is not None:
                link.close()
            link = self._links[node] = Link(node, address, self._settings)
        return link

    def close(self) -> None:
        """All of them."""
        for link in self._links.values():
            link.close()
        self._links.clear()
