"""What changed, as it happens: the classes behind `cache.changes()` and `cache.subscribe()`.

    loader    commit, ring ... commit, commit            ring ...
                       |                                  |
    worker             +-- 5 ms --> look at the log       +-- 5 ms --> ...

The loader rings a bell, the FIFO `PATH.bell`, after a commit, and at most once a millisecond.
Whoever listens looks 5 ms later: what came within them is one Change, and so is a burst. That is
longer than the loader's millisecond, so a commit that had no ring of its own is seen, too; a ring
that comes within the 5 ms leads to a look of its own.

Once a second everybody looks without a ring: a loader may have been killed before it, or the path
may name another FIFO. Without a FIFO (an anonymous cache; none that may be read; another system
than Linux) it is every 50 ms.
No thread is made, and asyncio is not imported before it is needed.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from ._mmapcache import ClosedError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, TimerHandle

    from ._mmapcache import Cache

__all__ = ["Change", "Changes", "Subscription"]

_SETTLE: Final = 0.005  # seconds: what comes within them is one Change
_PATIENCE: Final = 1.0  # seconds without a ring until the next look
_POLL: Final = 0.05  # seconds from look to look without a bell


class Change(NamedTuple):
    """What one step of a cache changed: everything since the Change before it."""

    generation: int
    """The cache's generation now."""
    keys: dict[str, frozenset[Any]] | None
    """The keys that were put or deleted, by collection, as `collection.keys()` gives them; {} when
    only the loader's own state moved, or where documents lie in the file.

    A key is a str, int, float, bool, None, bytes, datetime, UUID, ObjectId (without PyMongo an
    object_id), or the Document that a subdocument is; of MongoDB's rarer types it is PyMongo's
    class (without PyMongo a RareValue). A whole number is an int, whatever type it has in MongoDB.

    None: it is not known which, and any document may have changed. That is so for a collection that
    changed as a whole (dropped, or most of a large one); for a change that is too large for the
    log, or that came too long ago; after the file was replaced; and for a key that only PyMongo's
    `bson` can represent, by a class that no set can hold: a number that only a Decimal128 holds, or
    a subdocument with such a number or a Regex in it."""


class _Log:
    """The change log, from the generation that was seen last."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self._seen, _ = cache._news(None)

    @property
    def generation(self) -> int:
        """The one that was seen last."""
        return self._seen[0]

    def moved(self) -> bool:
        """Whether there is a newer one. Raises ClosedError, CorruptError."""
        return self.cache.generation != self._seen[0]

    def read(self) -> Change | None:
        """What changed since the last call; None: nothing. Raises ClosedError, CorruptError."""
        seen, keys = self.cache._news(self._seen)
        if seen == self._seen:
            return None
        self._seen = seen
        return Change(seen[0], keys)


def _epoll_of(fifo: int) -> Any:
    """A select.epoll that tells when something is put into the FIFO; None: the system has none."""
    if sys.platform == "linux":
        epoll = select.epoll()
        epoll.register(fifo, select.EPOLLIN | select.EPOLLET)
        return epoll
    else:  # noqa: RET505 - mypy looks at one of the two
        return None


class _Bell:
    """The FIFO that the loader rings, heard by a descriptor of this process alone.

    The FIFO always holds a byte, which nobody takes: `epoll` tells when another one is put in.
    """

    def __init__(self, place: bytes | None) -> None:
        """place: of the cache file; None: it has none."""
        self._place = place
        self._epoll: Any = None
        self._fifo = -1
        self._pid = 0
        self._found: tuple[int, int] | None = None  # device and inode
        self._looked_at: float | None = None
        self.again = False  # whether it may have rung since the ring that led to the last look

    def listen(self) -> int | None:
        """The descriptor to wait for, made now when it is missing; None: there is no bell."""
        if self._pid != os.getpid():  # a child shares the parent's: it would take its rings
            self.close()
            self._pid, self._looked_at = os.getpid(), None
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at >= _PATIENCE:
            self._looked_at = now
            self._open()
        return None if self._epoll is None else int(self._epoll.fileno())

    def _open(self) -> None:
        """Opens the FIFO, unless it is the one that is open."""
        if self._place is None:
            return
        path = self._place + b".bell"
        try:
            there = os.lstat(path)
            if self._found == (there.st_dev, there.st_ino):
                return
            self.close()
            owners = (0, os.geteuid(), os.lstat(self._place).st_uid)
            if not stat.S_ISFIFO(there.st_mode) or there.st_uid not in owners:
                return
            self._fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            self._epoll = _epoll_of(self._fifo)
            opened = os.fstat(self._fifo)
            if self._epoll is None or not stat.S_ISFIFO(opened.st_mode):
                self.close()
                return
            self._found = (opened.st_dev, opened.st_ino)
            self.rang()  # the byte that is in it
            self.again = True  # it may have rung before
        except OSError:  # none, not ours to read, no descriptors left: looking does without
            self.close()

    def rang(self) -> bool:
        """Whether it rang since the last call."""
        return self._epoll is not None and bool(self._epoll.poll(0, 1))

    def close(self) -> None:
        """Gives the descriptors back."""
        epoll, fifo = self._epoll, self._fifo
        self._epoll, self._fifo, self._found = None, -1, None
        if epoll is not None:
            epoll.close()
        if fifo >= 0:
            os.close(fifo)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be ending
            self.close()


class _Watch:
    """Waits in an event loop, in whose thread everything here runs, for one look at a time."""

    def __init__(self, loop: AbstractEventLoop, bell: _Bell, look: Callable[[], None]) -> None:
        self._loop = loop
        self._bell = bell
        self._look = look
        self._fd: int | None = None
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        """Has look() called once: soon after the next ring, or when time is over."""
        fd = self._bell.listen()
        if fd is None:
            delay = _POLL
        elif self._bell.again:
            delay = _SETTLE
        else:
            delay = _PATIENCE
            self._loop.add_reader(fd, self._ring)
            self._fd = fd
        self._timer = self._loop.call_later(delay, self._fire)

    def settle(self) -> None:
        """Has look() called once: when what is coming just now has come."""
        self._bell.rang()
        self._timer = self._loop.call_later(_SETTLE, self._fire)

    def stop(self) -> None:
        """look() is not called any more, until the next start()."""
        timer, fd = self._timer, self._fd
        self._timer = self._fd = None
        if timer is not None:
            timer.cancel()
        if fd is not None and not self._loop.is_closed():
            self._loop.remove_reader(fd)

    def _ring(self) -> None:
        self.stop()
        self.settle()

    def _fire(self) -> None:
        self.stop()
        self._bell.again = self._bell.rang()
        self._look()


@final
class Changes:
    """What changes from the moment it was made on: an iterator and an async iterator of Change.

    Made by `cache.changes()`. `for` blocks the thread until the next Change, `async for` waits in
    the running event loop. A Change has everything since the one before, however long that took to
    be asked for. Both end when the cache is closed: a waiting one within a second. CorruptError
    passes to the caller, who may go on.

    For one thread or task: others make their own. A forked child may go on with its own copy, which
    then goes its own way.
    """

    def __init__(self, cache: Cache, place: bytes | None) -> None:
        self._log = _Log(cache)
        self._bell = _Bell(place)
        self._waiting = False

    def __iter__(self) -> Changes:
        return self

    def __next__(self) -> Change:
        try:
            while True:
                self._log.cache.wait(self._log.generation)
                time.sleep(_SETTLE)
                change = self._log.read()
                if change is not None:
                    return change
        except ClosedError:
            raise StopIteration from None

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> Change:
        if self._waiting:
            raise RuntimeError(
                "another task waits for these changes: have each task call cache.changes() itself"
            )
        self._waiting = True
        try:
            return await self._next()
        except ClosedError:
            self._bell.close()
            raise StopAsyncIteration from None
        finally:
            self._waiting = False

    async def _next(self) -> Change:
        import asyncio  # a worker that only reads does without

        loop = asyncio.get_running_loop()
        while True:
            done: Future[None] = loop.create_future()
            watch = _Watch(loop, self._bell, lambda done=done: _finish(done))  # type: ignore[misc]
            self._bell.listen()
            if self._log.moved():
                watch.settle()
            else:
                watch.start()
            try:
                await done
            finally:
                watch.stop()
            change = self._log.read()
            if change is not None:
                return change


def running_loop() -> AbstractEventLoop | None:
    """The event loop that runs in this thread."""
    import asyncio  # a worker that only reads does without

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _finish(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@final
class Subscription:
    """A callback that an event loop calls after each change, until `close()`.

    Made by `cache.subscribe(callback, loop=None)`, in the loop's thread, in another one, or before
    the loop runs. callback(change) runs in the loop's thread, one call at a time. What it raises
    goes to the loop's exception handler, and the next change is told again; so does CorruptError,
    once for each time that it begins. The loop keeps the subscription: nobody else has to.

    It ends by `close()`, when the cache is closed (within a second), and with the loop. In a forked
    child it is over: a child subscribes itself, in a loop of its own.
    """

    def __init__(
        self,
        cache: Cache,
        place: bytes | None,
        callback: Callable[[Change], object],
        loop: AbstractEventLoop | None,
    ) -> None:
        import inspect

        if not callable(callback):
            raise TypeError(f"a callback is called: {type(callback).__name__!r} cannot be")
        if inspect.iscoroutinefunction(callback):
            raise TypeError(
                "a coroutine function cannot be the callback: use `async for change in "
                "cache.changes()` in a task"
            )
        chosen = running_loop() if loop is None else loop
        if chosen is None:
            raise RuntimeError(
                "no event loop runs in this thread: call subscribe() in a coroutine, or give loop="
            )
        self._log = _Log(cache)
        self._bell = _Bell(place)
        self._callback = callback
        self._loop = chosen
        self._watch = _Watch(chosen, self._bell, self._look)
        self._pid = os.getpid()
        self._closed = False
        self._failed = False
        self._in_loop(self._begin)

    @property
    def closed(self) -> bool:
        """Whether the callback is called no more."""
        return self._closed or self._pid != os.getpid() or self._loop.is_closed()

    def close(self) -> None:
        """No call of the callback begins after this; harmless twice.

        In any thread; outside the loop's, one that has begun may still be running.
        """
        if self._closed:
            return
        self._closed = True
        if self._pid != os.getpid() or self._loop.is_closed():
            self._bell.close()  # a child's loop is the parent's, too, in the kernel
            return
        self._in_loop(self._end)

    def _in_loop(self, step: Callable[[], None]) -> None:
        """Calls step() now, or hands it over to the loop when that runs in another thread."""
        if self._loop.is_running() and running_loop() is not self._loop:
            self._loop.call_soon_threadsafe(step)
        else:
            step()

    def _begin(self) -> None:
        if not self._closed:
            self._watch.start()

    def _end(self) -> None:
        self._watch.stop()
        self._bell.close()

    def _look(self) -> None:
        if self._closed or self._pid != os.getpid():
            return
        try:
            change = self._read()
            if change is not None:
                self._call(change)
        finally:
            if not self._closed:
                self._watch.start()

    def _read(self) -> Change | None:
        try:
            change = self._log.read()
        except ClosedError:
            self.close()
            return None
        except Exception as error:  # it is told, and a later look may succeed
            if not self._failed:
                self._failed = True
                self._tell("a change of the cache cannot be read", error)
            return None
        self._failed = False
        return change

    def _call(self, change: Change) -> None:
        try:
            self._callback(change)
        except Exception as error:  # the loop's handler decides
            self._tell("a callback of cache.subscribe() failed", error)

    def _tell(self, message: str, error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "subscription": self}
        )
