"""Forked workers that share one port.

      parent                                   worker 0 .. 7
      bind one SO_REUSEPORT socket per worker
      wait for children, re-fork the    fork
      ones that died                    ---->   accept on sockets[number], serve until the parent
                                                is gone (its end of a pipe closes) or SIGTERM

The kernel spreads connections evenly over the SO_REUSEPORT sockets. The parent keeps all of them
open, so that connections that wait for a killed worker are accepted by the worker forked in its
place instead of being reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from types import FrameType
from typing import Final, NamedTuple, NoReturn

import tornado.web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.process import fork_processes

# Tornado gives up after 100 re-forks by default; killed workers must not end the service in a demo
# that kills them, nor in a year of memory limits.
_MAX_RESTARTS: Final = 1_000_000


class Place(NamedTuple):
    """Where one worker serves."""

    number: int
    listening: socket.socket
    parent: int  # a pipe that closes when the parent is gone


def quit_on_signals() -> None:
    """SIGTERM and SIGINT end the process, with what is cleaned up then."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.ERROR)
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)


def fork(address: str, port: int, workers: int) -> Place:
    """Returns in each worker; the parent stays within.

    :param port: 0: any free one
    """
    sockets = _bind(address, port, workers)
    port = sockets[0].getsockname()[1]
    sys.stdout.write(f"serving on http://{address}:{port} with {workers} workers\n")
    sys.stdout.flush()
    alive, held_by_parent = os.pipe()
    number = fork_processes(workers, max_restarts=_MAX_RESTARTS)
    os.close(held_by_parent)
    return Place(number, sockets[number], alive)


async def serve(place: Place, application: tornado.web.Application) -> None:
    """One worker's life."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    loop.add_reader(place.parent, stop.set)
    server = HTTPServer(application)
    server.add_sockets([place.listening])
    await stop.wait()
    server.stop()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(server.close_all_connections(), timeout=2.0)


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _bind(address: str, port: int, workers: int) -> list[socket.socket]:
    """One listening socket per worker, all on one port."""
    sockets: list[socket.socket] = []
    for _ in range(workers):
        (bound,) = bind_sockets(port, address, socket.AF_INET, reuse_port=True)
        port = bound.getsockname()[1]
        sockets.append(bound)
    return sockets
