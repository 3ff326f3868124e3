"""Tornado: one generation for each request, and documents as JSON.

class Site(mmapcache.tornado.CacheMixin, tornado.web.RequestHandler):
    def get(self, key):
        self.finish(self.snapshot["sites"][key])

tornado.web.Application([(r"/sites/(.*)", Site)], mmapcache=cache)
"""

from __future__ import annotations

import json
from asyncio import Future
from typing import TYPE_CHECKING, Any, TypeAlias, cast

try:
    import tornado.web
except ImportError as missing:
    raise ImportError("mmapcache.tornado needs Tornado: pip install tornado") from missing

import mmapcache

__all__ = ["CacheMixin", "json_encode"]

Chunk: TypeAlias = "str | bytes | dict[Any, Any] | mmapcache.Document"

# What the mixin's methods call is RequestHandler's; at run time it stands beside it.
if TYPE_CHECKING:
    _Base = tornado.web.RequestHandler
else:
    _Base = object


def json_encode(value: object) -> str:
    """`tornado.escape.json_encode` for documents, too: as safe in the script of a page.

    It keeps nothing between calls: any thread and any forked worker may call it.

    :raises TypeError: a value has no place in plain JSON
    """
    text = json.dumps(value, default=mmapcache.json_default)
    return text.replace("</", "<\\/")  # as Tornado does


class CacheMixin(_Base):
    """For a RequestHandler, before it in the bases; the setting `mmapcache` is the Cache.

    `write` and `finish` take a document, or a dict with documents in it, and answer JSON. A handler
    with an `on_finish` of its own calls `super().on_finish()`. All of it is for the loop's thread,
    as a handler is; the Cache may be opened before the workers are forked, or in each.
    """

    _snapshot: mmapcache.Snapshot | None = None

    @property
    def cache(self) -> mmapcache.Cache:
        """The application's cache: each read of it is of the newest generation."""
        return cast("mmapcache.Cache", self.settings["mmapcache"])

    @property
    def snapshot(self) -> mmapcache.Snapshot:
        """One generation of all collections: that of the request's first read.

        Read from it before waiting for anything: a loader that commits makes it raise
        SnapshotExpired after about a second. Documents that were read stay as they are.
        """
        if self._snapshot is None:
            self._snapshot = self.cache.snapshot()
        return self._snapshot

    def finish(self, chunk: Chunk | None = None) -> Future[None]:
        """RequestHandler.finish, which takes documents, too: it writes them."""
        return super().finish(cast("str | bytes | dict[Any, Any] | None", chunk))

    def write(self, chunk: Chunk) -> None:
        """RequestHandler.write, which takes documents, too."""
        if isinstance(chunk, (dict, mmapcache.Document)):
            self.set_header("Content-Type", "application/json; charset=UTF-8")
            chunk = json_encode(chunk)
        super().write(chunk)

    def on_finish(self) -> None:
        """After the answer: the snapshot is closed."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None
        super().on_finish()
