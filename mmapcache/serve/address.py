"""Where the pages are served, and who may ask for them."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

_TOKEN_LEAST = 16  # characters
_TOKEN_MOST = 4096
_BACKLOG = 64
_SOCKET_MODE = 0o660


class AddressError(Exception):
    """An address or a token that cannot be used; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Address:
    """`ADDR:PORT` or `unix:PATH`, as it was given and taken apart.

    :param path: of a Unix socket; empty for TCP
    :param loopback: nobody outside of this host can connect
    """

    text: str
    host: str = ""
    port: int = 0
    path: str = ""
    loopback: bool = True


def parse(text: str) -> Address:
    """
    :raises AddressError: it is no address
    """
    wrong = AddressError(
        f"--http must be ADDR:PORT, as 127.0.0.1:9099 or [::1]:9099, or unix:PATH, not {text!r}"
    )
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise wrong
        return Address(text, path=path)
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise wrong
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise wrong
    return Address(text, host, int(port), loopback=_is_loopback(host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may lead anywhere


def read_token(path: str | None, address: Address) -> str | None:
    """The token that every request must have; None: none.

    :param path: of the file that has it in its first line
    :raises AddressError: there is none, and the address can be reached from elsewhere
    :raises OSError: the file cannot be read
    """
    if path is None:
        if address.loopback:
            return None
        raise AddressError(
            f"{address.text} can be reached from other hosts: give --token-file FILE, whose first "
            "line is a secret of 16 characters or more that every request must have"
        )
    with Path(path).open("rb") as file:
        line = file.readline(_TOKEN_MOST + 1).strip()
    token = line.decode("ascii", "replace")
    if not _TOKEN_LEAST <= len(line) <= _TOKEN_MOST or not token.isprintable() or " " in token:
        raise AddressError(
            f"{path}: the first line must be a secret of at least {_TOKEN_LEAST} ASCII characters "
            "without spaces"
        )
    return token


def is_token(given: str, token: str) -> bool:
    """In a time that says nothing about the token."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def is_own_host(header: str | None, address: Address) -> bool:
    """Whether a request to a loopback address names that, and not a name of somebody's who made it
    lead to here, so that a page of theirs could read the answer (DNS rebinding)."""
    if address.path or not address.loopback:
        return True
    if header is None:
        return False
    host = header.strip()
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return _is_loopback(host.lower())


def listen(address: Address) -> socket.socket:
    """A socket that listens there.

    :raises OSError: it cannot be had
    """
    if address.path:
        return _listen_unix(address.path)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    host = "127.0.0.1" if address.host == "localhost" else address.host
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, address.port))
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _listen_unix(path: str) -> socket.socket:
    """In the place of a socket that nobody listens to any more; nothing else is removed."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).lstat().st_mode) and _is_deserted(path):
            Path(path).unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(path)
        os.chmod(path, _SOCKET_MODE)  # noqa: PTH101 - before anybody can connect
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _is_deserted(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def url(address: Address, listening: socket.socket) -> str:
    """Where to look, with the port that was found for port 0."""
    if address.path:
        return f"unix:{address.path}"
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
