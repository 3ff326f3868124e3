"""`mmapcache sync`: keeps a cache file up to date from MongoDB or from files.

Exit status: see `_EPILOG`.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from mmapcache.cli.output import FAILED, USAGE, complain
from mmapcache.sync import configuration, logs, options, plan
from mmapcache.sync.errors import UsageError
from mmapcache.sync.shaping import Shaping
from mmapcache.sync.source import Source

if TYPE_CHECKING:
    from mmapcache.serve.running import Pages
    from mmapcache.sync.inbox import Inbox


_EPILOG = """\
Exit status:
  0    stopped by SIGTERM or SIGINT; --once: everything was published
  1    could not go on; --once: also when something is missing, or when it was stopped before its
       end; --dry-run: it would fail. The last line says why
  2    wrong usage, nothing was touched
  143, 130
       ended by a second SIGTERM or SIGINT (--dry-run: by the first)

A flag wins over its variable (--max-size: MMAPCACHE_MAX_SIZE), which wins over the file of --config
(max_size), which wins over the default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the loader in this process's main thread; the exit status."""
    from mmapcache.sync.inbox import Inbox
    from mmapcache.sync.service import Service

    inbox = Inbox(Service.of(os.environ))
    with inbox.signals():
        try:
            resolved = options.resolve(args)
            if resolved.print_config:
                return configuration.show(resolved)
            finish_log = logs.configure(resolved.log_level, resolved.log_format)
            shaping = Shaping(resolved)
            pages = None if resolved.dry_run else pages_of(resolved)
            source = _source(plan.sparing(resolved) if resolved.dry_run else resolved, shaping)
        except UsageError as error:
            complain("sync", f"error: {error}")
            return USAGE
        try:
            if resolved.dry_run:
                return plan.show(resolved, source, shaping)
            if pages is not None:
                pages.start()
            return _load(resolved, source, shaping, inbox)
        except Exception:
            logs.log.critical("the loader ended unexpectedly", exc_info=True)
            return FAILED
        finally:
            if pages is not None:
                pages.stop()
            finish_log()


def _load(resolved: options.Options, source: Source, shaping: Shaping, inbox: Inbox) -> int:
    from mmapcache.sync.loader import Loader

    bar = resolved.progress
    if bar is None:
        bar = sys.stderr.isatty() and resolved.log_format == "text"
    return Loader(resolved, source, inbox, bar=bar, shaping=shaping).run()


def pages_of(resolved: options.Options) -> Pages | None:
    """What --http serves; it begins to listen when it is started, and tries until it can.

    :raises UsageError: it cannot be served as was asked
    """
    if resolved.http is None:
        if resolved.token_file is not None or resolved.max_age is not None:
            raise UsageError("--token-file and --max-age are for --http, which was not given")
        return None
    from mmapcache.serve.address import AddressError, parse, read_token

    try:
        address = parse(resolved.http)
        token = read_token(resolved.token_file, address)
        from mmapcache.serve.running import Pages
    except AddressError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"--token-file {resolved.token_file}: {error.strerror}") from None
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise UsageError("--http needs prometheus_client: pip install 'mmapcache[serve]'") from None
    return Pages(
        resolved.path,
        address,
        token=token,
        max_age=resolved.max_age,
        say=lambda sentence: logs.log.warning("%s", sentence),
        tell=lambda sentence: logs.log.info("%s", sentence),
    )


def _source(resolved: options.Options, shaping: Shaping) -> Source:
    if resolved.source is not None:
        from mmapcache.sync.files import FileSource

        return FileSource(resolved.source, allow_empty=resolved.allow_empty)
    from mmapcache.sync.mongo.source import MongoSource

    return MongoSource(resolved, shaping.fingerprint())
