"""Commands as bytes, and what comes back when no reply does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

_Argument = bytes | str | int | float


def _pack(arguments: tuple[_Argument, ...]) -> bytes:
    """One command of the Redis protocol."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        if isinstance(argument, bytes):
            data = argument
        elif isinstance(argument, str):
            data = argument.encode()
        else:
            data = repr(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


pack: Callable[[tuple[_Argument, ...]], bytes] = _pack
try:
    import hiredis
except ImportError:
    pass
else:
    pack = cast(Callable[[tuple[_Argument, ...]], bytes], hiredis.pack_command)


class Lost(Exception):  # noqa: N818 - no error of the program
    """No reply came: the connection was refused, closed, or too slow.

    :param slow: a timeout passed meanwhile
    """

    def __init__(self, why: str, *, slow: bool = False) -> None:
        super().__init__(why)
        self.slow = slow


def version_of(entry: bytes) -> bytes:
    """The version of a stored value, as RING.DUMP and RING.FILL have it."""
    return entry[4:20]


def pairs(reply: object) -> dict[str, object]:
    """The reply to RING.HELLO: a flat array of names and values. Empty for anything else."""
    if not isinstance(reply, Sequence) or isinstance(reply, (bytes, str)):
        return {}
    found: dict[str, object] = {}
    for name, value in zip(reply[::2], reply[1::2], strict=False):
        if isinstance(name, bytes):
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            found[name.decode("utf-8", "replace")] = text
    return found
