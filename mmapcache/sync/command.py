"""`mmapcache sync`: keeps a cache file up to date from MongoDB or from files.

Exit status: 0 done (or stopped by SIGTERM or SIGINT), 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import sys

from mmapcache.sync import logs, options
from mmapcache.sync.errors import UsageError
from mmapcache.sync.redaction import public_text
from mmapcache.sync.source import Source

USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the loader in this process's main thread; the exit status."""
    from mmapcache.sync.inbox import Inbox
    from mmapcache.sync.loader import Loader

    try:
        resolved = options.resolve(args)
        logs.configure(resolved.log_level, resolved.log_format)
        source = _source(resolved)
    except UsageError as error:
        print(public_text(f"mmapcache sync: error: {error}"), file=sys.stderr)
        return USAGE
    bar = resolved.progress
    if bar is None:
        bar = sys.stderr.isatty() and resolved.log_format == "text"
    inbox = Inbox()
    with inbox.signals():
        try:
            return Loader(resolved, source, inbox, bar=bar).run()
        finally:
            logging.shutdown()


def _source(resolved: options.Options) -> Source:
    if resolved.source is not None:
        from mmapcache.sync.files import FileSource

        return FileSource(resolved.source, allow_empty=resolved.allow_empty)
    from mmapcache.sync.mongo import MongoSource

    return MongoSource(resolved)
