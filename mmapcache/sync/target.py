"""The cache file as the loader sees it: locked, recreated, and still the one at its path."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import mmapcache
from mmapcache.sync.errors import NoStreamsError, SyncError
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.options import Options
from mmapcache.sync.position import Position, unmark, unpack

_LOCK_POLL = 0.1  # seconds between two tries for the lock


class Target:
    """Holds the writer, and opens it again when the file was damaged, replaced or removed.

    The loader's own state, published with each commit, is a small JSON document:
    `{"version": 1, "scope": "collections", "recreated": 0, "position": {…}}`. Scope: see
    `Source.scope`; recreated: how often a loader found its file corrupt and began a new one;
    position: see position.py, or null.

    :param options: path and everything about the file
    :param inbox: where a stop arrives while the lock is waited for
    """

    def __init__(self, options: Options, inbox: Inbox) -> None:
        self._options = options
        self._inbox = inbox
        self._writer: mmapcache.Writer | None = None
        self._inode: tuple[int, int] | None = None
        self._patience = math.inf if options.standby else options.timeout
        self._recreate = options.recreate
        self._discard = False  # the file opens, but reading it has found it corrupt
        self.recreated = 0

    def writer(self) -> mmapcache.Writer:
        """The open writer.

        :raises SyncError: another loader keeps the lock
        :raises mmapcache.MmapCacheError: the file is foreign, or there is no room for it
        :raises OSError: the path cannot be used
        """
        if self._writer is not None and self._inode != _inode(self._options.path):
            log.warning("%s was removed or replaced: beginning anew", self._options.path)
            self.close()
        if self._writer is None:
            self._writer = self._opened()
            self._inode = _inode(self._options.path)
            before = self.state().get("recreated", 0)
            self.recreated = max(self.recreated, before if isinstance(before, int) else 0)
        return self._writer

    @property
    def opened(self) -> mmapcache.Writer | None:
        """The writer, if there is one now."""
        return self._writer

    def shrink(self) -> bool:
        """Puts a file that is no longer than needed in the place of the open one, as
        `Writer.shrink`; False: the path has another one by now, or none.

        :raises mmapcache.MmapCacheError: the file is as before
        :raises OSError: likewise
        """
        if self._writer is None or self._inode != _inode(self._options.path):
            return False
        self._writer.shrink()
        self._inode = _inode(self._options.path)
        return True

    def state(self) -> dict[str, Any]:
        """What the loader before left in the file; empty when there was none."""
        return {} if self._writer is None else unpack_state(self._writer.state)

    def note(self, batch: mmapcache.Batch, scope: str, position: Position | None) -> None:
        """Publishes the state with a batch.

        :raises NoStreamsError: the position has no room there, as that of hundreds of databases
        """
        try:
            batch.state = self.pack_state(scope, position)
        except mmapcache.LimitError as error:
            if position is None:
                raise
            raise NoStreamsError(
                f"the position of {len(position.tokens)} change streams has no room in the file: "
                f"{error}"
            ) from None

    def indexed(self) -> bool:
        """Whether the file has the indexes that were asked for, and no other."""
        return self._writer is not None and self._writer.indexes == self._wanted()

    def index(self, batch: mmapcache.Batch) -> bool:
        """Makes the indexes with a batch those that were asked for; whether one was not there."""
        assert self._writer is not None
        if self.indexed():
            return False
        wanted = self._wanted()
        for name, there in self._writer.indexes.items():
            for field in there.keys() - wanted.get(name, {}).keys():
                batch.drop_index(name, field)
        for name, fields in wanted.items():
            for field, kind in fields.items():
                batch.index(name, field, unique=kind == "unique")
        return True

    def _wanted(self) -> dict[str, dict[str, str]]:
        """As `Writer.indexes` has them."""
        return {
            c.name: dict.fromkeys(c.index, "unique") | dict.fromkeys(c.index_multi, "multi")
            for c in self._options.collections
            if c.index or c.index_multi
        }

    def pack_state(self, scope: str, position: Position | None) -> bytes:
        state = {
            "version": 1,
            "scope": scope,
            "recreated": self.recreated,
            "position": None if position is None else position.packed(),
        }
        return json.dumps(state, separators=(",", ":")).encode()

    def says(self, scope: str) -> bool:
        """Whether the state is the one of this scope already, whatever its position."""
        packed: dict[str, Any] = json.loads(self.pack_state(scope, None))
        return {**self.state(), "position": None} == packed

    def position(self) -> Position | None:
        """Where the loader before was: the mark if the data is still that of its generation."""
        assert self._writer is not None
        return unmark(self._writer.position) or unpack(self.state().get("position"))

    def mark(self, position: Position) -> bool:
        """Notes a position without a generation; False: it is too long for that."""
        assert self._writer is not None
        try:
            self._writer.mark(position.mark())
        except mmapcache.LimitError:
            return False
        return True

    def discard(self, error: Exception) -> None:
        """The open file turned out to be corrupt: the next `writer()` begins a new one."""
        self.close()
        self._note_corrupt(error)
        self._discard = True

    def said(self) -> dict[str, Any]:
        """State and error as they were reported last, to be reported again."""
        if self._writer is None:
            return {}
        status = self._writer.status()
        return {"state": status["state"], "error": status["error"] or ""}

    def report(self, **values: Any) -> None:
        """`Writer.report`, if there is a writer."""
        if self._writer is not None:
            with contextlib.suppress(mmapcache.MmapCacheError, OSError):
                self._writer.report(**values)

    def generation(self) -> int:
        """The one that readers see; 0: none."""
        return 0 if self._writer is None else self._writer.generation

    def close(self) -> None:
        """Gives the lock back; harmless twice."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _note_corrupt(self, error: Exception) -> None:
        self._recreate = True
        self.recreated += 1
        log.error(
            "%s is corrupt and is made anew (%d so far): %s",
            self._options.path,
            self.recreated,
            error,
            extra={"fields": {"recreated": self.recreated}},
        )

    def _opened(self) -> mmapcache.Writer:
        began = time.monotonic()
        refused = 0.0  # when the last try began that found another loader
        while True:
            tried = time.monotonic()
            try:
                writer = self._open()
                if refused and self._options.standby:
                    _say_taken_over(self._options.path, began, refused)
                return writer
            except mmapcache.LockTimeout as error:
                left = self._patience - (tried - began)
                if left <= 0:
                    raise SyncError(
                        f"another loader holds {self._options.path}: one file has one loader; stop "
                        f"that one, or give another PATH ({error})"
                    ) from None
                if not refused:
                    waiting = "standing by" if self._options.standby else "waiting for it"
                    log.info("another loader holds %s: %s", self._options.path, waiting)
                    self._inbox.service.waits(
                        f"another loader holds {self._options.path}: {waiting}",
                        ready=self._options.standby,
                    )
                refused = tried
                self._inbox.sleep(min(left, _LOCK_POLL))
            except mmapcache.CorruptError as error:
                if self._recreate:
                    raise
                self._note_corrupt(error)
            except mmapcache.VersionError as error:
                log.warning("%s is made anew: %s", self._options.path, error)
                self._recreate = True

    def _open(self) -> mmapcache.Writer:
        options = self._options
        arguments: dict[str, Any] = {
            "mode": options.mode,
            "recreate": self._recreate,
            "discard": self._discard,
            "retention": options.retention,
            "collapse": options.collapse,
        }
        if options.max_size is not None:
            arguments["max_size"] = options.max_size
        writer = mmapcache.Writer(options.path, **arguments)
        self._recreate = self._discard = False  # once: a later file is somebody else's
        return writer


def unpack_state(state: bytes) -> dict[str, Any]:
    """A loader's own state; empty for any other."""
    if state:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(state)
            if isinstance(value, dict) and value.get("version") == 1:
                return value
    return {}


def _say_taken_over(path: str, began: float, refused: float) -> None:
    """:param refused: when another loader was last seen: the file had one until then at least"""
    now = time.monotonic()
    log.info(
        "took over %s after %.1f s: it was without a loader for at most %.3f s",
        path,
        now - began,
        now - refused,
        extra={"fields": {"waited": round(now - began, 3), "gap": round(now - refused, 3)}},
    )


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
