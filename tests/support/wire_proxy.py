"""A TCP proxy between a MongoDB client and its server that cuts, holds and delays what passes.

    with WireProxy(server.port, random.Random(seed)) as proxy:
        ... a client of proxy.uri ...
        proxy.cut()                 every connection ends
        proxy.cut_reply()           the next reply ends in its middle, and its connection with it
        proxy.stall(True)           nothing passes, nothing ends, until stall(False)
        proxy.delay(0.05)           each piece comes up to 50 ms later
        proxy.refuse(True)          new connections are ended at once
        proxy.hole("getMore")       a connection that follows a cursor stays open, but is dead

It runs in a thread of its own; every method may be called from any other.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import bson

_OP_MSG = 2013
_DOCUMENT = 21  # where the first document of an OP_MSG begins: header, flags, kind of section
_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class _Connection:
    """A client's connection and the one to the server that stands for it.

    `asked`: what has come of a request; `command`: the name of the newest one; `hole`: whether all
    is lost that comes, from either side.
    """

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    asked: bytearray = field(default_factory=bytearray)
    command: str = ""
    hole: bool = False

    def end(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class WireProxy:
    """See above; `commands` counts what clients asked for, `counts` what was done to them.

    :param port: the server's, on 127.0.0.1
    :param dice: chooses connections, places and delays
    """

    def __init__(self, port: int, dice: random.Random) -> None:
        self._target = port
        self._dice = dice
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._gate = asyncio.Event()
        self._gate.set()
        self._delay = 0.0
        self._refuse = False
        self._cut_replies = 0
        self.port = 0
        self.commands: collections.Counter[str] = collections.Counter()
        self.counts: collections.Counter[str] = collections.Counter()

    @property
    def uri(self) -> str:
        """What a client is given; without directConnection it would go to the server itself."""
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    def __enter__(self) -> WireProxy:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every connection and the thread; harmless when it never began."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self._loop.close()

    # --- faults -----------------------------------------------------------------------------------

    def cut(self, one: bool = False) -> None:
        """Ends every connection, or one of them."""
        self._do(lambda: self._end_one() if one else self._end_all())

    def cut_reply(self, count: int = 1) -> None:
        """The next replies, on whatever connections, end in their middle."""
        self._do(lambda: setattr(self, "_cut_replies", count))

    def stall(self, on: bool) -> None:
        self._do(self._gate.clear if on else self._gate.set)

    def delay(self, seconds: float) -> None:
        self._do(lambda: setattr(self, "_delay", seconds))

    def refuse(self, on: bool) -> None:
        self._do(lambda: setattr(self, "_refuse", on))

    def hole(self, command: str = "") -> bool:
        """Makes a connection dead without ending it: one whose newest command has that name.

        :return: whether there was one
        """
        return self._do(lambda: self._make_hole(command))

    def heal(self) -> None:
        """Undoes what goes on; a connection that is dead stays so."""

        def undo() -> None:
            self._gate.set()
            self._delay, self._refuse, self._cut_replies = 0.0, False, 0

        self._do(undo)

    # --- in the thread ----------------------------------------------------------------------------

    def _do(self, what: Callable[[], _T]) -> _T:
        async def call() -> _T:
            return what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._end_all()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _end_all(self) -> None:
        for connection in list(self._open):
            self.counts["connections cut"] += 1
            connection.end()

    def _end_one(self) -> None:
        if self._open:
            self.counts["connections cut"] += 1
            self._dice.choice(list(self._open)).end()

    def _make_hole(self, command: str) -> bool:
        able = [c for c in self._open if not c.hole and command in (c.command, "")]
        if able:
            self._dice.choice(able).hole = True
            self.counts["connections made dead"] += 1
        return bool(able)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._refuse:
                raise OSError("refused")
            answers, server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self.counts["connections refused"] += 1
            writer.transport.abort()
            return
        connection = _Connection(writer, server)
        self._open.add(connection)
        self.counts["connections"] += 1
        halves = [
            asyncio.create_task(self._pass(connection, reader, server, reply=False)),
            asyncio.create_task(self._pass(connection, answers, writer, reply=True)),
        ]
        await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        connection.end()
        self._open.discard(connection)
        for half in halves:
            half.cancel()

    async def _pass(
        self,
        connection: _Connection,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        *,
        reply: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                await self._gate.wait()
                if self._delay:
                    await asyncio.sleep(self._dice.uniform(0, self._delay))
                if connection.hole:
                    continue
                if not reply:
                    self._note(connection, data)
                elif self._cut_replies:
                    self._cut_replies -= 1
                    self.counts["replies cut in their middle"] += 1
                    sink.write(data[: self._dice.randrange(len(data))])
                    await sink.drain()
                    # What was written goes out before the end: a FIN, and no RST.
                    sink.close()
                    return
                sink.write(data)
                await sink.drain()

    def _note(self, connection: _Connection, data: bytes) -> None:
        asked = connection.asked
        asked += data
        while len(asked) >= 16 and len(asked) >= (size := int.from_bytes(asked[:4], "little")):
            size = max(size, 16)  # no message is shorter than its header
            message = bytes(asked[:size])
            del asked[:size]
            if int.from_bytes(message[12:16], "little") != _OP_MSG:
                continue
            end = _DOCUMENT + int.from_bytes(message[_DOCUMENT : _DOCUMENT + 4], "little")
            command = bson.decode(message[_DOCUMENT:end])
            connection.command = next(iter(command))
            self.commands[_kind(command)] += 1


def _kind(command: dict[str, Any]) -> str:
    """A command's name; two kinds of find: whole collections, and documents by their _id."""
    name: str = next(iter(command))
    if name == "find":
        by_id = command.get("filter", {})
        chosen = "_id" in by_id or any("_id" in part for part in by_id.get("$and", []))
        return "find by _id" if chosen else "find of a collection"
    return name
