"""The operations as users call them, without doing any: arguments in, steps of the core, results.

Both clients have these; see blocking.py and aio.py for what they promise.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from mmapcache.ring import _ring
from mmapcache.ring.core import METAS, Core
from mmapcache.ring.errors import RingError
from mmapcache.ring.together import Steps, together
from mmapcache.ring.wire import pack
from mmapcache.ring.written import Changed, Number, Written

Key = str | bytes | bytearray | memoryview | int | float  # a bool is none
Value = Key
Seconds = int | timedelta
Moment = int | datetime

MOST_KEY = 64 * 1024  # bytes
_SHORT = MOST_KEY // 4  # characters: a str with so many cannot be too long
_MOST_AT_ONCE = 2000  # keys of an mget: a server that is busy for long is taken for one that hangs
_LEAST_VERSION = bytes(15) + b"\1"
# A counter that begins: 0, older than every write.
_BEGINNING = _ring.encode(_ring.VALUE, _LEAST_VERSION, 0, b"0")


def encode(value: Value, what: str = "a value") -> bytes:
    """As redis-py does: text is UTF-8, a number its decimal text.

    :raises TypeError: it is something else
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if type(value) is not bool and isinstance(value, (int, float)):
        return repr(value).encode()
    raise TypeError(f"{what} must be str, bytes, int or float, not {type(value).__name__}")


def encode_key(key: Key) -> bytes:
    """
    :raises TypeError: it cannot be a key
    :raises ValueError: it is too long
    """
    data = key.encode() if isinstance(key, str) else encode(key, "a key")
    if len(data) > MOST_KEY:
        raise ValueError(f"a key has {MOST_KEY} bytes at most, not {len(data)}")
    return data


def _milliseconds(value: Seconds, unit: int, name: str) -> int:
    if isinstance(value, timedelta):
        return round(value.total_seconds() * 1000)
    if type(value) is not bool and isinstance(value, int):
        return value * unit
    raise TypeError(f"{name} must be an int or a timedelta, not {type(value).__name__}")


def _moment(value: Moment, unit: int, name: str) -> int:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if type(value) is not bool and isinstance(value, int):
        return value * unit
    raise TypeError(f"{name} must be an int or a datetime, not {type(value).__name__}")


def end_of(ex: Seconds | None, px: Seconds | None, exat: Moment | None, pxat: Moment | None) -> int:
    """When a value ends, in milliseconds since 1970; 0: never.

    :raises ValueError: more than one is given, or one that is not above 0
    """
    given = [value is not None for value in (ex, px, exat, pxat)]
    if sum(given) > 1:
        raise ValueError("only one of ex, px, exat and pxat may be given")
    if not any(given):
        return 0
    if exat is not None or pxat is not None:
        end = _moment(exat, 1000, "exat") if exat is not None else 0
        end = _moment(pxat, 1, "pxat") if pxat is not None else end
        lasts = end
    else:
        lasts = _milliseconds(ex, 1000, "ex") if ex is not None else 0
        lasts = _milliseconds(px, 1, "px") if px is not None else lasts
        end = lasts + _now()
    if not 0 < lasts <= end <= _ring.MAX_TIME:
        raise ValueError("ex, px, exat and pxat must be above 0, and end before the year 10000")
    return end


def _now() -> int:
    return time.time_ns() // 1_000_000


def listed(keys: Any, more: tuple[Key, ...]) -> list[Key]:
    """The keys of `mget(a, b)` or `mget([a, b])`."""
    if isinstance(keys, (str, bytes, bytearray, memoryview, int, float)):
        return [keys, *more]
    return [*keys, *more]


class Operations:
    """Makes the steps of each operation. What is written is checked before the first step.

    :param decode: whether values are str
    """

    def __init__(self, core: Core, *, decode: bool) -> None:
        self.core = core
        self._decode = decode

    def _value(self, data: Any) -> Any:
        return data.decode() if self._decode and isinstance(data, bytes) else data

    def get(self, key: Key) -> Steps[Any]:
        value, _ = yield from self.core.read(b"RING.GET", encode_key(key))
        return value.decode() if self._decode and value is not None else value

    def get_with_source(self, key: Key) -> Steps[tuple[Any, str]]:
        value, peer = yield from self.core.read(b"RING.GET", encode_key(key))
        return self._value(value), peer.id

    def mget(self, keys: Iterable[Key]) -> Steps[list[Any]]:
        names = [
            key.encode() if type(key) is str and len(key) <= _SHORT else encode_key(key)
            for key in keys
        ]
        if not names:
            return []
        found: list[bytes | None] = []
        for begin in range(0, len(names), _MOST_AT_ONCE):
            found += yield from self.core.read_many(names[begin : begin + _MOST_AT_ONCE])
        return [self._value(value) for value in found] if self._decode else found

    def set(self, key: Key, value: Value, end: int) -> Steps[Written]:
        return self._set(encode_key(key), encode(value), end)

    def _set(self, name: bytes, data: bytes, end: int) -> Steps[Written]:
        def command(epoch: bytes, version: bytes) -> bytes:
            entry = _ring.encode(_ring.VALUE, version, end, data)
            return pack((b"RING.SET", epoch, name, entry))

        copies, degraded, _ = yield from self.core.write(name, command)
        return Written(copies, degraded)

    def mset(self, values: Mapping[Any, Value], end: int) -> Steps[Written]:
        if not values:
            raise ValueError("mset needs at least one key")
        steps = [self.set(key, value, end) for key, value in values.items()]
        each = yield from together(steps)
        return Written(min(w.copies for w in each), any(w.degraded for w in each))

    def _delete(self, key: Key) -> Steps[Changed]:
        name = encode_key(key)

        def command(epoch: bytes, version: bytes) -> bytes:
            return pack((b"RING.DEL", epoch, version, name))

        copies, degraded, replies = yield from self.core.write(name, command)
        return Changed(copies, degraded, any(reply == 1 for reply in replies))

    def delete(self, keys: Sequence[Key]) -> Steps[Changed]:
        if len(keys) == 1:
            return (yield from self._delete(keys[0]))
        each = yield from together([self._delete(key) for key in keys])
        if not each:
            raise ValueError("delete needs at least one key")
        return Changed(
            min(w.copies for w in each),
            any(w.degraded for w in each),
            any(w.existed for w in each),
        )

    def _meta(self, key: Key) -> Steps[tuple[int, int] | None]:
        """When it ends (0: never) and its bytes; None: there is no value."""
        reply, _ = yield from self.core.read(b"RING.META", encode_key(key), METAS)
        if reply is None:
            return None
        try:
            kind, version, end, length = reply[:4]
            self.core.clock.learn(bytes(memoryview(version)))
            end = int(end)
        except (TypeError, ValueError):
            raise RingError(f"a server answered RING.META with {str(reply)[:200]}") from None
        if kind != _ring.VALUE or 0 < end <= _now():
            return None
        return end, length

    def exists(self, keys: Iterable[Key]) -> Steps[int]:
        found = yield from together([self._meta(key) for key in keys])
        return sum(each is not None for each in found)

    def pttl(self, key: Key) -> Steps[int]:
        found = yield from self._meta(key)
        if found is None:
            return -2
        return max(0, found[0] - _now()) if found[0] else -1

    def ttl(self, key: Key) -> Steps[int]:
        left = yield from self.pttl(key)
        return (left + 500) // 1000 if left > 0 else left

    def expire(self, key: Key, seconds: Seconds) -> Steps[Changed]:
        return self._expire(encode_key(key), _milliseconds(seconds, 1000, "the time"))

    def _expire(self, name: bytes, lasts: int) -> Steps[Changed]:
        if lasts <= 0:
            return (yield from self._delete(name))
        text = b"%d" % (_now() + lasts)

        def command(epoch: bytes, version: bytes) -> bytes:
            return pack((b"RING.EXPIRE", epoch, version, name, text))

        item, degraded, copies = yield from self.core.change(name, command, create=None)
        return Changed(copies, degraded, item == 1)

    def incrby(self, key: Key, amount: int) -> Steps[Number]:
        if type(amount) is bool or not isinstance(amount, int):
            raise TypeError(f"the amount must be an int, not {type(amount).__name__}")
        return self._incrby(encode_key(key), b"%d" % amount)

    def _incrby(self, name: bytes, delta: bytes) -> Steps[Number]:
        def command(epoch: bytes, version: bytes) -> bytes:
            return pack((b"RING.INCR", epoch, version, name, delta))

        number, degraded, copies = yield from self.core.change(name, command, create=_BEGINNING)
        return Number(int(number), copies, degraded)

    # What the client says of the ring.

    @property
    def epoch(self) -> int:
        return self.core.view().epoch

    @property
    def nodes(self) -> dict[str, tuple[str, str]]:
        return {peer.id: (peer.address, peer.state) for peer in self.core.view().peers}

    def where(self, key: Key) -> tuple[str, ...]:
        return tuple(peer.id for peer in self.core.view().pair(encode_key(key)))
