"""Starts the service: cache, fork, serve (workers.py).

The cache is opened before the fork, mapped once. With ``--open-after-fork`` each worker opens it
itself; the mapping is shared all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Final

import mmapcache
from examples.tornado_service import workers
from examples.tornado_service.handlers import Worker, application
from examples.tornado_service.settings import CacheSettings, Settings

_OPEN_TIMEOUT: Final = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status."""
    args = _arguments(argv)
    workers.quit_on_signals()
    cache = None
    if args.source == "cache" and not args.open_after_fork:
        cache = _open(args.cache)
    place = workers.fork(args.address, args.port, args.workers)
    # From here on this is a worker.
    if args.source == "cache" and cache is None:
        cache = _open(args.cache)
    asyncio.run(_serve(args, place, cache))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.tornado_service")
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--source", choices=("cache", "mongodb"), default="cache")
    parser.add_argument("--cache", metavar="PATH", help="cache file, with --source cache")
    parser.add_argument("--open-after-fork", action="store_true", help="open it in each worker")
    parser.add_argument("--stale-after", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--uri", help="MongoDB, with --source mongodb")
    parser.add_argument("--database", default="captcha")
    args = parser.parse_args(argv)
    if args.source == "cache" and not args.cache:
        parser.error("--source cache needs --cache PATH")
    if args.source == "mongodb" and not args.uri:
        parser.error("--source mongodb needs --uri URI")
    return args


def _open(path: str) -> mmapcache.Cache:
    """Waits for the loader's first generation, so that no worker ever answers from nothing."""
    return mmapcache.open(path, timeout=_OPEN_TIMEOUT)


async def _serve(
    args: argparse.Namespace, place: workers.Place, cache: mmapcache.Cache | None
) -> None:
    """One worker's life."""
    settings: Settings
    if cache is None:
        # Imported here, so that workers that read the cache need no PyMongo.
        from examples.tornado_service.mongodb import MongoSettings

        settings = MongoSettings(args.uri, args.database)
    else:
        settings = CacheSettings(cache, args.stale_after)
    await workers.serve(place, application(Worker(place.number, settings)))


if __name__ == "__main__":
    sys.exit(main())
