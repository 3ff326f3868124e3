"""The pages in a thread, beside a loader: whatever happens here never stops a refresh."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from prometheus_client.registry import Collector as AbstractCollector

from mmapcache.serve.address import Address, listen, url
from mmapcache.serve.application import Application
from mmapcache.serve.observer import Observer
from mmapcache.serve.server import Server

_AGAIN = 5.0  # seconds until an address that cannot be had is tried again


class Pages:
    """Serves from a thread of its own, from `start` to `stop`.

    :param path: the cache file
    :param address: where to listen
    :param token: what each request must have; None: nothing
    :param max_age: see `Application`
    :param owner: see `mmapcache.open`
    :param say: told of what went wrong, in one sentence
    :param tell: told where the pages are, when an address could be had
    """

    def __init__(
        self,
        path: str,
        address: Address,
        *,
        token: str | None,
        max_age: float | None,
        owner: str | int | None = None,
        say: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        self._address = address
        self._say = say
        self._tell = tell
        self._application = Application(Observer(path, owner), address, token, max_age)
        self._stopped = threading.Event()
        self._server: Server | None = None
        self._thread = threading.Thread(target=self._run, name="mmapcache-http", daemon=True)

    def add_metrics(self, collector: AbstractCollector) -> None:
        """More metrics, beside those of the file."""
        self._application.exposition.add(collector)

    def open(self) -> str:
        """Listens; where to look.

        :raises OSError: the address cannot be had
        """
        listening = listen(self._address)
        self._server = Server(listening, self._application.answer, self._say)
        return url(self._address, listening)

    def start(self) -> None:
        """Serves from now on; an address that cannot be had is tried again and again."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it; harmless before `start`."""
        self._stopped.set()
        if self._server is not None and self._thread.is_alive():
            self._server.close()
        if self._server is not None and self._address.path:
            with contextlib.suppress(OSError):
                Path(self._address.path).unlink()

    def _run(self) -> None:
        told = False
        while self._server is None and not self._stopped.is_set():
            try:
                self._tell(f"the status page is at {self.open()}")
            except OSError as error:
                if not told:
                    self._say(
                        f"no status page yet: {self._address.text}: {error.strerror or error}"
                    )
                told = True
                self._stopped.wait(_AGAIN)
        if self._server is not None:
            self._server.serve_forever(poll_interval=0.1)
