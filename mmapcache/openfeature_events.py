"""What `mmapcache.openfeature.CacheProvider` tells by itself, and what makes it look.

    InLoop    after each change, and each second ──┐
    InThread  likewise                             ├──> look ──> News ──> the SDK ──> handlers
    poll()    whenever a service calls it        ──┘

The SDK runs handlers in threads of its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from openfeature.event import ProviderEvent, ProviderEventDetails
from openfeature.exception import ErrorCode

import mmapcache
from mmapcache.changes import Change, Subscription

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

Event: TypeAlias = "tuple[ProviderEvent, ProviderEventDetails]"

_EVERY: Final = 1.0  # seconds from look to look without a change
_SETTLE: Final = 0.005  # seconds: what comes within them is one event, as in changes.py


class News:
    """What is to be told since the look before; for one thread at a time.

    `over`: the cache is closed.

    :param collection: the name of the flags' collection
    :param max_age: of data that is not stale, in seconds; None: of any age
    """

    def __init__(self, cache: mmapcache.Cache, collection: str, max_age: float | None) -> None:
        self.over = False
        self._cache = cache
        self._collection = collection
        self._max_age = max_age
        self._condition = ProviderEvent.PROVIDER_READY
        self._seen: tuple[int, int] | None = None
        self._mark: tuple[int, int] | None = None

    def begin(self) -> str:
        """Changes count from now on; why no flag can be read, if so: the SDK tells that."""
        events = self.look()
        if self._condition is ProviderEvent.PROVIDER_ERROR:
            return str(events[0][1].message)
        self._condition = ProviderEvent.PROVIDER_READY  # as the SDK tells, whatever its age
        return ""

    def look(self) -> list[Event]:
        """What is new, in the order in which it is to be told."""
        try:
            age = 0.0 if self._max_age is None else self._cache.status()["age"]
            ready = self._cache.generation > 0
            changed = self._changed()
        except mmapcache.MmapCacheError as error:
            self.over = isinstance(error, mmapcache.ClosedError)
            return self._became(ProviderEvent.PROVIDER_ERROR, str(error))
        if not ready:
            text = f"{self._cache.path!r}: nothing has been published yet"
            return self._became(ProviderEvent.PROVIDER_ERROR, text)
        if self._max_age is not None and age is not None and age > self._max_age:
            text = f"the data is {age:.1f} s old, more than {self._max_age:g} s"
            return self._became(ProviderEvent.PROVIDER_STALE, text) + changed
        return self._became(ProviderEvent.PROVIDER_READY) + changed

    def _became(self, condition: ProviderEvent, message: str | None = None) -> list[Event]:
        if condition is self._condition:
            return []
        self._condition = condition
        code = ErrorCode.GENERAL if condition is ProviderEvent.PROVIDER_ERROR else None
        return [(condition, ProviderEventDetails(message=message, error_code=code))]

    def _changed(self) -> list[Event]:
        if self._seen is not None and self._cache.generation == self._seen[0]:
            return []
        seen, keys = self._cache._news(self._seen)
        mark, flags = self._mark, None
        if keys is None or self._collection in keys:
            mark = self._marked(seen)
        if keys is None:
            told = self._seen is not None and mark != self._mark
        else:
            flags = sorted(key for key in keys.get(self._collection, ()) if isinstance(key, str))
            told = bool(flags)
            if self._cache.generation != seen[0]:
                mark = self._mark  # the new one may be of what comes next, which is not told yet
        self._seen, self._mark = seen, mark
        if not told:
            return []
        details = ProviderEventDetails(flags_changed=flags, metadata={"generation": seen[0]})
        return [(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, details)]

    def _marked(self, seen: tuple[int, int]) -> tuple[int, int] | None:
        """What differs when the collection or the file is another one than before; None: there is
        no such collection. For when the log does not say which keys changed."""
        entry = self._cache.catalogue().get(self._collection)
        return None if entry is None else (seen[1], entry["changed"])


class InLoop:
    """Calls `look` in an event loop, until `close` or until it gives False; made in any thread."""

    def __init__(
        self, cache: mmapcache.Cache, loop: AbstractEventLoop, look: Callable[[], bool]
    ) -> None:
        self._cache = cache
        self._loop = loop
        self._look = look
        self._closed = False
        self._subscription: Subscription | None = None
        loop.call_soon_threadsafe(self._rest)

    def _rest(self) -> None:
        if self._closed:
            return
        if self._subscription is None:
            with contextlib.suppress(mmapcache.MmapCacheError):  # look() tells it
                self._subscription = self._cache.subscribe(self._told, self._loop)
        self._loop.call_later(_EVERY, self._tick)

    def _told(self, _: Change) -> None:
        if not self._closed:
            self._look()

    def _tick(self) -> None:
        if self._closed or not self._look():
            self.close()  # once more: the subscription may have been made meanwhile
        else:
            self._rest()

    def close(self) -> None:
        """It is not called any more; a call may still be running in the loop's thread."""
        self._closed = True
        if self._subscription is not None:
            self._subscription.close()


class InThread:
    """Calls `look` in a thread of its own, until `close` or until it gives False."""

    def __init__(self, cache: mmapcache.Cache, look: Callable[[], bool]) -> None:
        self._cache = cache
        self._look = look
        self._closed = threading.Event()
        self._generation = 0
        with contextlib.suppress(mmapcache.MmapCacheError):
            self._generation = cache.generation
        threading.Thread(target=self._run, name="mmapcache-flags", daemon=True).start()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                if self._cache.wait(self._generation, _EVERY):
                    time.sleep(_SETTLE)
                self._generation = self._cache.generation
            except mmapcache.MmapCacheError:  # look() tells it
                self._closed.wait(_EVERY)
            if not self._closed.is_set() and not self._look():
                return

    def close(self) -> None:
        """It ends within a second; a call may still be running."""
        self._closed.set()
