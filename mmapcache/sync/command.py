"""`mmapcache sync`: keeps a cache file up to date from MongoDB or from files.

Exit status: 0 done (or stopped by SIGTERM or SIGINT), 1 failed, 2 wrong usage; 143 or 130 when a
second SIGTERM or SIGINT came before the first one had ended it.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mmapcache.cli.output import FAILED, USAGE, complain
from mmapcache.sync import logs, options
from mmapcache.sync.errors import UsageError
from mmapcache.sync.source import Source

if TYPE_CHECKING:
    from mmapcache.sync.inbox import Inbox


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the loader in this process's main thread; the exit status."""
    from mmapcache.sync.inbox import Inbox

    inbox = Inbox()
    with inbox.signals():
        try:
            resolved = options.resolve(args)
            finish_log = logs.configure(resolved.log_level, resolved.log_format)
            source = _source(resolved)
        except UsageError as error:
            complain("sync", f"error: {error}")
            return USAGE
        try:
            return _load(resolved, source, inbox)
        except Exception:
            logs.log.critical("the loader ended unexpectedly", exc_info=True)
            return FAILED
        finally:
            finish_log()


def _load(resolved: options.Options, source: Source, inbox: Inbox) -> int:
    from mmapcache.sync.loader import Loader

    bar = resolved.progress
    if bar is None:
        bar = sys.stderr.isatty() and resolved.log_format == "text"
    return Loader(resolved, source, inbox, bar=bar).run()


def _source(resolved: options.Options) -> Source:
    if resolved.source is not None:
        from mmapcache.sync.files import FileSource

        return FileSource(resolved.source, allow_empty=resolved.allow_empty)
    from mmapcache.sync.mongo.source import MongoSource

    return MongoSource(resolved)
