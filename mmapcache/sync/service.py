"""What a service manager such as systemd is told: ready, alive, how it goes, and the end.

Each message is one datagram to the socket that $NOTIFY_SOCKET names (sd_notify(3)); without that
variable nothing is said. A socket that is away or full stops nothing: what was not sent is sent
again later.

Signs of life come from the main thread alone, wherever it waits or takes the next batch: see
`Inbox.receive`. So a main thread that is stuck (a disk, a transform) is silent and is started anew.
One that waits for a slow server is not stuck: a new process would wait for the same.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

from mmapcache.sync.logs import log
from mmapcache.sync.redaction import public_text

_EXTEND = 300.0  # seconds that the start may take from each sign of life on
_AGAIN = 1.0  # seconds until what could not be sent is sent again
_LONGEST = 1000  # characters of a state


class Service:
    """Main thread only.

    `quiet`: nobody wants to know; every method returns at once then.

    :param address: of a Unix socket, as the kernel has it; empty: none
    :param watchdog: seconds without a sign of life after which the process is ended; 0: any time
    """

    def __init__(self, address: bytes = b"", watchdog: float = 0.0) -> None:
        self.quiet = not address
        self._address = address
        self._watchdog = watchdog
        self._next = 0.0  # by time.monotonic: the next sign of life
        self._ready = self._ready_told = False
        self._state = self._state_told = ""
        self._said = {"state": "", "error": "", "source": ""}
        self._failed = False  # the last message was not sent

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Service:
        """The one that started this process."""
        address = os.fsencode(environment.get("NOTIFY_SOCKET", ""))
        if address[:1] not in (b"/", b"@"):  # none; or no Unix socket
            return cls()
        if address[:1] == b"@":
            address = b"\0" + address[1:]
        microseconds = 0
        with contextlib.suppress(ValueError):
            if int(environment.get("WATCHDOG_PID") or os.getpid()) == os.getpid():
                microseconds = int(environment.get("WATCHDOG_USEC", "0"))
        return cls(address, max(0, microseconds) / 1e6)

    def tell(self, values: Mapping[str, object], generation: Callable[[], int]) -> None:
        """What `Writer.report` is told; ready from the first generation on that can be read."""
        if self.quiet:
            return
        for name in self._said:
            if (value := values.get(name)) is not None:
                self._said[name] = str(value)
        state, error, source = self._said.values()
        self._state = f"{state}: {error}" if error else f"{state} from {source}"
        self._ready = self._ready or generation() > 0
        self.beat()

    def waits(self, why: str, *, ready: bool) -> None:
        """For another loader's end; one that stands by has nothing else to do, and is ready."""
        self._state = why
        self._ready = self._ready or ready
        self.beat()

    def ends(self) -> None:
        """The loader ends, for whatever reason."""
        self._send("STOPPING=1")

    def beat(self) -> float:
        """A sign of life, if it is time for one, and what is not said yet; seconds until it is to
        be called again."""
        now = time.monotonic()
        told = (self._ready, self._state) == (self._ready_told, self._state_told)
        if self.quiet or (now < self._next and (told or self._failed)):
            return max(self._next - now, 0.0)
        lines = self._news()
        if self._watchdog:
            lines.append("WATCHDOG=1")
        if not self._ready:
            lines.append(f"EXTEND_TIMEOUT_USEC={_EXTEND * 1e6:.0f}")
        pause = self._watchdog / 2 or _EXTEND / 5
        if not lines or self._send("\n".join(lines)):
            self._ready_told, self._state_told = self._ready, self._state
        else:
            pause = min(pause, _AGAIN)
        self._next = now + pause
        return pause

    def _news(self) -> list[str]:
        news = ["READY=1"] if self._ready and not self._ready_told else []
        if self._state != self._state_told:
            state = public_text(self._state)
            news.append(f"STATUS={state if len(state) <= _LONGEST else state[:_LONGEST] + '…'}")
        return news

    def _send(self, message: str) -> bool:
        if self.quiet:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.setblocking(False)
                line.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            if not self._failed:
                log.warning(
                    "the service manager cannot be told (NOTIFY_SOCKET): %s",
                    error.strerror or error,
                )
            self._failed = True
            return False
        self._failed = False
        return True
