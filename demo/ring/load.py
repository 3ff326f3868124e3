"""HTTP clients of the workers, in a process of their own, which know what they must read.

    python -m demo.ring.load --port 8000 --act kill --stores ring,naive

Each client has keys of its own, writes some of them anew and reads the others, and moves to another
connection now and then, so that what one worker wrote is read by all of them. Says `ready` when all
keys are written, goes on until it gets a line, then reads every key once, at rest, and prints one
JSON object: see `Counts`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from demo.load import Connection, connect, header, quantile
from demo.ring.judge import COPIES, Judge, Verdict

KEYS: Final = 60  # of each client
_REQUESTS_PER_CONNECTION: Final = 25
_PATIENCE: Final = 10.0  # seconds for one answer
_ATTEMPTS: Final = 20  # at the first values: a busy machine may be slow
_PAUSE: Final = 0.01  # seconds between two requests of a client
_WRITES: Final = 0.25  # of all requests


@dataclass
class Counts:
    """Of one store. `rest_bad` is of the reads at rest, all others but `failed` of those before."""

    reads: int = 0
    lost: int = 0
    wrong: int = 0  # an older value
    writes: int = 0
    partly: int = 0  # acknowledged by fewer holders than there are to be
    failed: int = 0  # reads and writes that got an error
    rest_bad: int = 0
    error: str = ""  # the first one
    milliseconds: list[float] = field(default_factory=list)  # of the reads, in the worker

    def plain(self) -> dict[str, Any]:
        """What is printed."""
        ordered = sorted(self.milliseconds)
        plain = asdict(self)
        del plain["milliseconds"]
        for name, part in (("p99", 0.99), ("worst", 1.0)):
            plain[name] = quantile(ordered, part)
        return plain


class Client:
    """
    :param keys: which nobody else writes
    """

    def __init__(self, port: int, store: str, keys: Sequence[str], counts: Counts) -> None:
        self.keys = keys
        self._port = port
        self._store = store
        self._counts = counts
        self._judge = Judge(keys, COPIES[store])
        self._connection: Connection | None = None

    async def fill(self) -> None:
        """The first value of every key, in all its copies.

        :raises RuntimeError: the store does not take them
        """
        body = json.dumps({"value": "0", "keys": self.keys})
        for _ in range(_ATTEMPTS):
            status, said, _ = await self._ask("POST", "", body)
            if (status, said) == (200, str(COPIES[self._store])):
                return
        raise RuntimeError(f"{self._store} did not take the first values: {status} {said}")

    async def run(self, ended: asyncio.Event) -> None:
        """Reads and writes until that."""
        while not ended.is_set():
            key = random.choice(self.keys)
            if random.random() < _WRITES:
                await self._write(key)
            else:
                verdict, milliseconds = await self._read(key)
                self._counts.reads += 1
                self._counts.milliseconds.append(milliseconds)
                self._counts.lost += verdict is Verdict.LOST
                self._counts.wrong += verdict is Verdict.WRONG
            await asyncio.sleep(_PAUSE)

    async def rest(self) -> None:
        """Reads each key once."""
        for key in self.keys:
            verdict, _ = await self._read(key, at_rest=True)
            self._counts.rest_bad += verdict in (Verdict.LOST, Verdict.WRONG)
        self.close()

    def close(self) -> None:
        """Gives the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _write(self, key: str) -> None:
        number = self._judge.begin(key)
        status, said, _ = await self._ask("PUT", f"/{key}", str(number))
        self._counts.writes += 1
        if status == 200:
            self._counts.partly += not self._judge.acknowledged(key, number, int(said))

    async def _read(self, key: str, *, at_rest: bool = False) -> tuple[Verdict | None, float]:
        """What is to be thought of it, None when there was no answer; and how long it took."""
        status, said, milliseconds = await self._ask("GET", f"/{key}")
        if status not in (200, 404):
            return None, milliseconds
        number = int(said) if status == 200 else None
        return self._judge.verdict(key, number, at_rest=at_rest), milliseconds

    async def _ask(self, method: str, path: str, body: str = "") -> tuple[int, str, float]:
        """Status, body, and the milliseconds that the store took; status 0: no answer at all."""
        first = f"{method} /{self._store}{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        request = f"{first}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        try:
            if self._connection is not None and self._connection.used >= _REQUESTS_PER_CONNECTION:
                self.close()
            if self._connection is None:
                self._connection = await connect(self._port)
            head, said = await asyncio.wait_for(self._connection.ask(request), _PATIENCE)
        except (OSError, asyncio.TimeoutError):
            self.close()
            self._failed("the worker did not answer")
            return 0, "", _PATIENCE * 1e3
        status, text = int(head[9:12]), said.decode()
        if status not in (200, 404):
            self._failed(text.strip())
        return status, text, float(header(head, b"X-Milliseconds") or b"nan")

    def _failed(self, error: str) -> None:
        self._counts.failed += 1
        self._counts.error = self._counts.error or error


async def run(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """All clients of all stores; the counts of each."""
    counts = {name: Counts() for name in args.stores.split(",")}
    clients = [
        Client(
            args.port,
            name,
            [f"{name}:{args.act}:{number}:{index}" for index in range(args.keys)],
            counts[name],
        )
        for name in counts
        for number in range(args.clients)
    ]
    await asyncio.gather(*(client.fill() for client in clients))
    for one in counts.values():
        one.failed, one.error = 0, ""  # what was done again until it went well
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    running = asyncio.gather(*(client.run(ended) for client in clients))
    await asyncio.to_thread(sys.stdin.readline)
    ended.set()
    await running
    await asyncio.gather(*(client.rest() for client in clients))
    return {name: one.plain() for name, one in counts.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the counts of each store, one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m demo.ring.load")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--act", required=True, help="part of the names of the keys")
    parser.add_argument("--stores", default="ring,naive")
    parser.add_argument("--clients", type=int, default=8, help="of each store")
    parser.add_argument("--keys", type=int, default=KEYS, help="of each client")
    result = asyncio.run(run(parser.parse_args(argv)))
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
