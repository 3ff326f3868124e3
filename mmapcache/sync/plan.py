"""--dry-run: what would be loaded, from where, and what would become of the file.

Connects, lists, and reads the first documents of each collection with the load's own code, so that
what refuses the load refuses this in the same words. Writes nothing, and takes no lock.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import mmapcache
from mmapcache.cli.output import DONE, FAILED, complain, emit, moment_text, size_text
from mmapcache.sync import early
from mmapcache.sync.absence import absent, kept_sentence
from mmapcache.sync.errors import NoStreamsError, SourceRefusedError, SyncError
from mmapcache.sync.options import CollectionOptions, Options
from mmapcache.sync.parsing import bytes_of
from mmapcache.sync.polling import polled_sentence
from mmapcache.sync.position import Position, unpack
from mmapcache.sync.redaction import redact
from mmapcache.sync.shaping import Shaping
from mmapcache.sync.source import Feed, Source
from mmapcache.sync.target import unpack_state

_DEFAULT_SIZE = 1 << 30
_STEP = 2 << 20  # a cache's size is a multiple of this
_SAMPLE = 100  # documents of each collection that are read


def sparing(options: Options) -> Options:
    """The options for a source that gives small batches, and soon says that nothing answers."""
    return replace(
        options,
        once=True,
        collections=tuple(_small(c) for c in options.collections),
        defaults=_small(options.defaults),
    )


def _small(options: CollectionOptions) -> CollectionOptions:
    return replace(options, batch_size=min(options.batch_size, _SAMPLE))


def show(options: Options, source: Source, shaping: Shaping) -> int:
    """Prints the plan to standard output, and what would fail to standard error.

    :return: the exit status
    """
    for number in early.STOPS:  # nothing here needs an orderly end
        signal.signal(number, signal.SIG_DFL)
    if (stop := early.stop()) is not None:
        early.end(stop)
    plan = _Plan(options, source, shaping)
    try:
        plan.file()
        plan.source()
    finally:
        source.close()
    return FAILED if plan.failed else DONE


class _Plan:
    def __init__(self, options: Options, source: Source, shaping: Shaping) -> None:
        self._options = options
        self._source = source
        self._shaping = shaping
        self._own = {c.name: c for c in options.collections}
        self._known: frozenset[str] = frozenset()  # collections with content in the cache
        self._present: frozenset[str] = frozenset()
        self._scope: object = None
        self._position: Position | None = None
        self._refusal = ""  # why there are no change streams
        self.failed = False

    def file(self) -> None:
        """What is at the path, and what would become of it."""
        path = self._options.path
        try:
            if self._is_of_another(path):
                return
            with mmapcache.open(path) as cache:
                self._found(cache)
        except mmapcache.NotReadyError as error:
            if Path(path).exists():
                self._say("file", f"{path}: {error}; it would be taken over")
            else:
                self._created(path)
        except mmapcache.VersionError as error:
            self._say("file", f"{path} would be made anew: {error}")
        except mmapcache.FormatError as error:
            if self._options.recreate:
                self._say("file", f"{path} would be replaced: {error}")
            else:
                cure = "" if "--recreate" in str(error) else " (--recreate replaces it)"
                self._complain(f"{path}: {error}{cure}")
        except mmapcache.CorruptError as error:
            self._say("file", f"{path} is corrupt and would be made anew: {error}")
        except OSError as error:
            self._complain(f"{path}: {error.strerror}")

    def _is_of_another(self, path: str) -> bool:
        """Whether the file belongs to another user, which is said."""
        try:
            owner, me = Path(path).stat().st_uid, os.geteuid()
        except FileNotFoundError:
            return False
        if owner == me:
            return False
        if self._options.recreate:
            self._say("file", f"{path} belongs to uid {owner} and would be replaced")
        else:
            self._complain(
                f"{path} belongs to uid {owner}, and this loader runs as uid {me}: run it as the "
                "owner, or remove the file and use a directory that only the loader may write"
            )
        return True

    def _found(self, cache: mmapcache.Cache) -> None:
        path, status, stats = self._options.path, cache.status(), cache.stats()
        self._present = frozenset(cache)
        self._known = frozenset(name for name in cache if len(cache[name]))
        state = unpack_state(cache.state)
        self._scope, self._position = state.get("scope"), unpack(state.get("position"))
        if self._position is not None:  # since then it may have moved on without a generation
            at = max(self._position.at, status["position_at"] or 0.0)
            self._position = replace(self._position, at=at)
        self._say(
            "file",
            f"{path}: generation {status['generation']}, {stats['documents']:,} documents in "
            f"{stats['collections']:,} collections, at most {size_text(stats['max_size'])}",
        )
        size = self._options.max_size
        if size is not None and _bytes(size) != stats["max_size"]:
            self._say("file", f"it would be replaced by one of at most {size}, with its content")
        if status["loader"] == "alive":
            patience = f"for {self._options.timeout:g} s at most"
            if self._options.standby:
                patience = "without limit, as a standby"
            doing = f" ({status['state']})" if status["state"] else ""
            self._say("file", f"another loader{doing} holds it: this one would wait {patience}")

    def _created(self, path: str) -> None:
        directory = Path(path).absolute().parent
        if not directory.is_dir():
            self._complain(f"{path} cannot be created: there is no directory {directory}")
        elif not os.access(directory, os.W_OK | os.X_OK):
            self._complain(f"{path} cannot be created: {directory} cannot be written to")
        else:
            size = self._options.max_size or size_text(_DEFAULT_SIZE)
            mode = f"{self._options.mode:04o}"
            self._say("file", f"{path} would be created: mode {mode}, at most {size}")

    def source(self) -> None:
        """What the source has."""
        self._say("from", self._source.label)
        seen = set()
        try:
            for feed in self._feeds():
                seen.add(feed.name)
                self._collection(feed)
        except SyncError as error:
            self._complain(str(error))
            return
        kept, dropped = absent(
            self._options, self._source, self._scope, self._present - seen, self._known
        )
        if kept:
            self._complain(kept_sentence(kept))
        for name in dropped:
            self._say("drop", f"{name}: in the cache, and not among these")
        if not self._options.once:
            self._say("then", self._afterwards())
        if self._source.position is not None and self._source.polled:
            self._say("then", polled_sentence(self._source.polled, self._options.interval))

    def _feeds(self) -> Iterator[Feed]:
        """The source's collections, with a position for what follows if there can be one."""
        follow = self._options.follow != "poll" and self._source.identity is not None
        try:
            yield from self._source.feeds(self._known, estimate=True, follow=follow)
        except NoStreamsError as error:
            if self._options.follow == "stream":
                raise error.insisted() from None
            self._refusal = f": {error}"
            yield from self._source.feeds(self._known, estimate=True, follow=False)

    def _afterwards(self) -> str:
        if self._source.position is None:
            return f"everything is read again every {self._options.interval:g} s{self._refusal}"
        before = self._position
        if before is None or before.of != self._source.identity:
            return "the change streams are followed"
        moment = moment_text(before.at)
        return f"the change streams are followed from the position in the file, of {moment}"

    def _collection(self, feed: Feed) -> None:
        self._say("load", f"{feed.origin} -> {feed.name}: {self._described(feed)}")
        shaper = self._shaping.of(feed.name)
        try:
            buffers = self._source.buffers(feed)
            first = next(buffers, None)
            if first is None and feed.name in self._known and not feed.allow_empty:
                raise SourceRefusedError(kept_sentence([feed.name]))
            if first is not None and shaper is not None:
                shaper.try_out(first)
        except (SyncError, mmapcache.InvalidDocument) as error:
            where = f"{feed.origin}: " if feed.origin not in str(error) else ""
            self._complain(f"{where}{error}")

    def _described(self, feed: Feed) -> str:
        own = self._own.get(feed.name, self._options.defaults)
        settings = {
            "filter": own.filter,
            "projection": own.projection,
            "transform": own.transform,
            "key": own.key,
            "index": list(own.index) or None,
            "index_multi": list(own.index_multi) or None,
        }
        told = [f"{key} {_text(value)}" for key, value in settings.items() if value is not None]
        return "; ".join([_amount(feed, filtered=own.filter is not None), *told])

    def _say(self, what: str, text: str) -> None:
        emit(redact(f"{what:<5} {text}"))

    def _complain(self, text: str) -> None:
        self.failed = True
        complain("sync", text)


def _amount(feed: Feed, *, filtered: bool) -> str:
    if feed.expected is not None:
        return f"about {feed.expected:,} documents"
    if filtered:
        return "the documents that the filter lets through"
    path = Path(feed.origin)
    return size_text(path.stat().st_size) if path.is_file() else "an unknown number of documents"


def _text(value: Mapping[str, object] | list[str] | str) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _bytes(size: str) -> int:
    """What the cache makes of a size."""
    return -(-bytes_of(size) // _STEP) * _STEP
