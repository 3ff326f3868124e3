"""How a connection to a node is made, for both clients: what redis-py is told, and the greeting.

A new connection says RING.HELLO and waits for the answer before anything else is sent. It is closed
without waiting (SO_LINGER 0): what is still in it is not to reach the server later.
"""

from __future__ import annotations

import inspect
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import exceptions

from mmapcache.ring.view import Peer
from mmapcache.ring.wire import Lost, pack, pairs

HELLO = pack((b"RING.HELLO",))
SERVING = ("ready", "joining")
NO_MODULE = "it knows no RING.HELLO: the ring's module is not loaded there"
_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Settings:
    """
    :param timeout: seconds that a connection waits for its server
    :param ssl: None: no TLS; else what redis.SSLConnection is told, without it the defaults
    """

    timeout: float
    username: str | None = None
    password: str | None = None
    ssl: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {self.timeout!r}")

    def arguments(self, kind: type, peer: Peer) -> dict[str, Any]:
        """For a connection of redis-py.

        :param kind: its class: what it can be told depends on the version of redis-py
        """
        made: dict[str, Any] = {
            "host": peer.host,
            "port": peer.port,
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
            "socket_keepalive": True,
            "username": self.username,
            "password": self.password,
            "protocol": 2,
            "socket_read_size": 65536,
        }
        known = _known(kind)
        if "driver_info" in known:
            made["driver_info"] = None
        else:  # an older redis-py; each name that it tells a server is a round trip
            made.update(dict.fromkeys(known & {"lib_name", "lib_version"}))
        return made | dict(self.ssl or {})


def _known(kind: type) -> set[str]:
    names: set[str] = set()
    for each in kind.__mro__[:-1]:
        if "__init__" in vars(each):
            names |= inspect.signature(each).parameters.keys()
    return names


def tls(ssl: bool | Mapping[str, Any]) -> Mapping[str, Any] | None:
    """`Settings.ssl` of what the user gave.

    :raises TypeError: it is neither a bool nor a mapping
    """
    if isinstance(ssl, bool):
        return {} if ssl else None
    if isinstance(ssl, Mapping):
        return dict(ssl)
    raise TypeError(
        "ssl must be True, False, or a mapping of what redis.SSLConnection takes, as "
        '{"ssl_ca_certs": PATH}'
    )


def close_at_once(sock: socket.socket) -> None:
    """Makes the socket forget what it has not sent when it is closed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)


def greet(kind: Any, settings: Settings, peer: Peer) -> tuple[Any, Any]:
    """A new connection that waits, and what the server answers to the greeting.

    :param kind: of redis-py's connections
    :raises redis.RedisError: it cannot be reached
    """
    line = kind(**settings.arguments(kind, peer))
    try:
        line.connect()
        close_at_once(line._sock)
        line.send_packed_command((HELLO,))
        return line, receive(line)
    except BaseException:
        line.disconnect()
        raise


def receive(line: Any) -> Any:
    """A reply; an error reply is an exception in its place.

    :raises redis.ConnectionError: it is lost
    """
    try:
        return line.read_response()
    except exceptions.ResponseError as error:
        return error


def lost_by(error: Exception, why: str = "") -> Lost:
    """What redis-py's error is for whoever waits for a reply.

    :param why: in other words than its own
    """
    return Lost(why or str(error), slow=isinstance(error, exceptions.TimeoutError))


def is_unknown(reply: Exception) -> bool:
    """Whether the server has not the command."""
    return str(reply).startswith("unknown command")


def check_greeting(peer: Peer, reply: object) -> None:
    """
    :raises Lost: it is another server, or it does not serve
    """
    if isinstance(reply, Exception):
        raise Lost(NO_MODULE if is_unknown(reply) else str(reply))
    said = pairs(reply)
    if said.get("id") != peer.id:
        raise Lost(f"another node is there: {str(said.get('id'))[:64]!r}")
    if said.get("state") not in SERVING:
        raise Lost(f"it is {str(said.get('state'))[:64]!r}")
