"""What both clients' pipelines collect."""

from __future__ import annotations

from typing import Any, TypeVar

from mmapcache.ring import refused
from mmapcache.ring.errors import Unsupported
from mmapcache.ring.operations import (
    Key,
    Moment,
    Operations,
    Seconds,
    Value,
    encode_key,
    end_of,
)
from mmapcache.ring.together import Steps, together

_Pipeline = TypeVar("_Pipeline", bound="Collected")


class Collected:
    """Operations, each on a key of its own. One thread's, or task's."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._keys: set[bytes] = set()
        self._steps: list[Steps[Any]] = []

    def get(self: _Pipeline, key: Key) -> _Pipeline:
        """See `Ring.get`."""
        return self._add(key, self._operations.get(key))

    def set(
        self: _Pipeline,
        key: Key,
        value: Value,
        ex: Seconds | None = None,
        px: Seconds | None = None,
        *,
        exat: Moment | None = None,
        pxat: Moment | None = None,
        **options: object,
    ) -> _Pipeline:
        """See `Ring.set`."""
        refused.refuse_options(options)
        return self._add(key, self._operations.set(key, value, end_of(ex, px, exat, pxat)))

    def delete(self: _Pipeline, key: Key) -> _Pipeline:
        """See `Ring.delete`."""
        return self._add(key, self._operations.delete((key,)))

    def exists(self: _Pipeline, key: Key) -> _Pipeline:
        """See `Ring.exists`."""
        return self._add(key, self._operations.exists((key,)))

    def expire(self: _Pipeline, key: Key, time: Seconds) -> _Pipeline:
        """See `Ring.expire`."""
        return self._add(key, self._operations.expire(key, time))

    def ttl(self: _Pipeline, key: Key) -> _Pipeline:
        """See `Ring.ttl`."""
        return self._add(key, self._operations.ttl(key))

    def pttl(self: _Pipeline, key: Key) -> _Pipeline:
        """See `Ring.pttl`."""
        return self._add(key, self._operations.pttl(key))

    def incr(self: _Pipeline, key: Key, amount: int = 1) -> _Pipeline:
        """See `Ring.incr`."""
        return self._add(key, self._operations.incrby(key, amount))

    incrby = incr

    def decr(self: _Pipeline, key: Key, amount: int = 1) -> _Pipeline:
        """See `Ring.decr`."""
        return self.incr(key, -amount)

    def clear(self) -> None:
        """Forgets all of it."""
        self._steps.clear()
        self._keys.clear()

    def take(self) -> Steps[list[Any]]:
        """The steps of all of it, which is empty then."""
        steps, self._steps = self._steps, []
        self._keys.clear()
        return together(steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __getattr__(self, name: str) -> Any:
        return refused.refusal(name)

    def _add(self: _Pipeline, key: Key, steps: Steps[Any]) -> _Pipeline:
        """
        :raises Unsupported: the key is in it already
        """
        name = encode_key(key)
        if name in self._keys:
            raise Unsupported(
                f"a pipeline's operations are independent, and {key!r} is in it already: they may "
                "run in any order; execute() this one and begin another"
            )
        self._keys.add(name)
        self._steps.append(steps)
        return self
