"""What is done for the file itself while there is nothing to publish.

A file that is nearly full is made longer before a commit needs that. One that was much larger once
is given back: when what is in use stays under a quarter of it, a file that is no longer than needed
takes its place, as one of another size does. Readers move over by themselves.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import mmapcache
from mmapcache.sync.diary import Diary
from mmapcache.sync.errors import sentence
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.options import Options
from mmapcache.sync.redaction import public_text
from mmapcache.sync.target import Target

SHARE = 4  # less than such a part of the file is in use before it is replaced,
SMALLEST = 16 << 20  # bytes: and a file of less stays as it is
AGAIN = 6.0  # times `shrink_after` at least from one attempt to the next
_EACH = 1.0  # seconds from one look at the file to the next
_STEPS = 4  # how often the file is made longer at one look: 2 MiB each
_SHORTEST, _LONGEST = 0.05, 5.0  # seconds that whoever waits lets go by until then
_BEAT = 0.2  # seconds between two signs of life


class Upkeep:
    """Looks at the file that `target` has open, between two commits.

    :param inbox: its service hears that the loader is alive
    :param diary: has a record of each file that was replaced
    :param clock: seconds
    """

    def __init__(
        self,
        options: Options,
        target: Target,
        inbox: Inbox,
        diary: Diary,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._target = target
        self._inbox = inbox
        self._diary = diary
        self._clock = clock
        self._writer: mmapcache.Writer | None = None
        self._size = 0  # bytes of the file
        self._next = 0.0  # by the clock: when all of it is looked at again
        self._more = False  # at once, that is
        self._low: float | None = None  # likewise: since when little of the file is in use
        self._again = 0.0  # likewise: not before this the file is replaced

    @property
    def pause(self) -> float:
        """Seconds until it is to be looked at again."""
        if self._more:
            return _SHORTEST
        return min(_LONGEST, max(_SHORTEST, self._options.shrink_after / 4))

    def look(self) -> None:
        """Does what is due; no batch is open. What fails here is no trouble: it is said, and the
        file stays as it is.

        :raises mmapcache.CorruptError: the file is to be made anew
        """
        writer = self._target.opened
        if writer is None:
            return
        if writer is not self._writer:
            self._writer, self._size, self._low, self._next = writer, 0, None, 0.0
        with contextlib.suppress(mmapcache.MmapCacheError, OSError):  # for who uses it next to say
            self._measure(writer)
        if self._low is None or not self._options.shrink:
            return
        now = self._clock()
        if now - self._low >= self._options.shrink_after and now >= self._again:
            self._again = now + AGAIN * self._options.shrink_after
            self._shrink(writer)

    def _measure(self, writer: mmapcache.Writer) -> None:
        """Notes since when little is in use, and makes the file longer where too little is free."""
        now = self._clock()
        if now >= self._next:
            self._more = all(writer.tidy() for _ in range(_STEPS))
            self._next = now if self._more else now + min(_EACH, self.pause)
            self._size = writer.stats()["file_size"]
        # At each look: what a commit has replaced is in use for a moment.
        if self._size < SMALLEST or writer.in_use * SHARE >= self._size:
            self._low = None
        elif self._low is None:
            self._low = now

    def _shrink(self, writer: mmapcache.Writer) -> None:
        began = self._clock()
        before, in_use = self._size, writer.in_use
        try:
            replaced = self._in_a_thread()
        except mmapcache.CorruptError:
            raise
        except (mmapcache.MmapCacheError, OSError) as error:
            text = public_text(sentence(error))
            log.warning("%s could be smaller, but cannot be replaced: %s", self._options.path, text)
            self._diary.failed("shrink", text, self._clock() - began)
            return
        finally:
            self._low, self._next = None, 0.0
        if not replaced:
            return  # the path has another file: whoever uses it next begins anew
        seconds = self._clock() - began
        self._diary.loaded("shrink", seconds, put=0, deleted=0, bytes_read=0, error="")
        self._size = writer.stats()["file_size"]
        log.info(
            "a file of %s took the place of %s, which had %s and %s in use, in %.2f s",
            _size(self._size),
            self._options.path,
            _size(before),
            _size(in_use),
            seconds,
            extra={
                "fields": {
                    "size": self._size,
                    "size_before": before,
                    "in_use": in_use,
                    "seconds": round(seconds, 3),
                    "generation": writer.generation,
                }
            },
        )

    def _in_a_thread(self) -> bool:
        """`Target.shrink`, while the service hears that the loader is alive: it may take long."""
        failed: list[BaseException] = []
        replaced: list[bool] = []

        def work() -> None:
            try:
                replaced.append(self._target.shrink())
            except BaseException as error:
                failed.append(error)

        worker = threading.Thread(target=work, name="mmapcache-shrink", daemon=True)
        worker.start()
        while worker.is_alive():
            self._inbox.service.beat()
            worker.join(_BEAT)
        if failed:
            raise failed[0]
        return replaced[0]


def _size(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
