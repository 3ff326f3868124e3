"""Starts the service: sockets, cache, fork, serve.

      parent                                   worker 0 .. 7
      bind one SO_REUSEPORT socket per worker
      open the cache (mapped once)      fork
      wait for children, re-fork the    ---->   accept on sockets[number], serve until the parent
      ones that died                            is gone (its end of a pipe closes) or SIGTERM

The kernel spreads connections evenly over the SO_REUSEPORT sockets. The parent keeps all of them
open, so that connections that wait for a killed worker are accepted by the worker forked in its
place instead of being reset. With ``--open-after-fork`` each worker opens the cache itself; the
mapping is shared all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final, NoReturn

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.process import fork_processes

import mmapcache
from examples.tornado_service.handlers import Worker, application
from examples.tornado_service.settings import CacheSettings, Settings

# Tornado gives up after 100 re-forks by default; killed workers must not end the service in a demo
# that kills them, nor in a year of memory limits.
_MAX_RESTARTS: Final = 1_000_000
_OPEN_TIMEOUT: Final = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status."""
    args = _arguments(argv)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.ERROR)
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    cache = None
    if args.source == "cache" and not args.open_after_fork:
        cache = _open(args.cache)
    sockets = _bind(args.address, args.port, args.workers)
    port = sockets[0].getsockname()[1]
    sys.stdout.write(f"serving on http://{args.address}:{port} with {args.workers} workers\n")
    sys.stdout.flush()
    alive, held_by_parent = os.pipe()
    number = fork_processes(args.workers, max_restarts=_MAX_RESTARTS)
    # From here on this is a worker.
    os.close(held_by_parent)
    if args.source == "cache" and cache is None:
        cache = _open(args.cache)
    asyncio.run(_serve(args, number, sockets[number], cache, alive))
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


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _open(path: str) -> mmapcache.Cache:
    """Waits for the loader's first generation, so that no worker ever answers from nothing."""
    return mmapcache.open(path, timeout=_OPEN_TIMEOUT)


def _bind(address: str, port: int, workers: int) -> list[socket.socket]:
    """One listening socket per worker, all on one port."""
    sockets: list[socket.socket] = []
    for _ in range(workers):
        (bound,) = bind_sockets(port, address, socket.AF_INET, reuse_port=True)
        port = bound.getsockname()[1]
        sockets.append(bound)
    return sockets


async def _serve(
    args: argparse.Namespace,
    number: int,
    listening: socket.socket,
    cache: mmapcache.Cache | None,
    alive: int,
) -> None:
    """One worker's life."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    loop.add_reader(alive, stop.set)
    settings: Settings
    if cache is None:
        # Imported here, so that workers that read the cache need no PyMongo.
        from examples.tornado_service.mongodb import MongoSettings

        settings = MongoSettings(args.uri, args.database)
    else:
        settings = CacheSettings(cache, args.stale_after)
    server = HTTPServer(application(Worker(number, settings)))
    server.add_sockets([listening])
    await stop.wait()
    server.stop()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(server.close_all_connections(), timeout=2.0)


if __name__ == "__main__":
    sys.exit(main())
