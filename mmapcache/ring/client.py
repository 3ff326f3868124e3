"""What both clients are, whatever waits for the servers' answers."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from mmapcache.ring import connecting, refused
from mmapcache.ring.connecting import Settings
from mmapcache.ring.core import Core, Counts
from mmapcache.ring.operations import Key, Operations
from mmapcache.ring.published import Published


class Client:
    """A client of one ring. The parameters are those of `mmapcache.ring.Ring`."""

    # redis-py's connections, without TLS and with it.
    _kinds: ClassVar[tuple[Any, Any]]

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 0.1,
        deadline: float = 1.0,
        password: str | None = None,
        username: str | None = None,
        ssl: bool | Mapping[str, Any] = False,
        decode_responses: bool = False,
        owner: int | str | None = None,
    ) -> None:
        self._published = Published(str(Path(path)), owner=owner)
        self._settings = Settings(timeout, username, password, connecting.tls(ssl))
        self._core = Core(
            self._published, deadline=deadline, timeout=timeout, discard=self._discard
        )
        self._operations = Operations(self._core, decode=decode_responses)
        self._kind = self._kinds[self._settings.ssl is not None]
        _clients.add(self)

    @property
    def epoch(self) -> int:
        """Of the ring's members: it changes with each step of a membership change."""
        return self._operations.epoch

    @property
    def nodes(self) -> dict[str, tuple[str, str]]:
        """Address and state of each node, by id."""
        return self._operations.nodes

    @property
    def age(self) -> float | None:
        """Seconds since the agent last knew the ring to be current; None: it never said."""
        return self._published.age()

    @property
    def counts(self) -> Counts:
        """What went otherwise than planned in this process."""
        return self._core.counts

    def where(self, key: Key) -> tuple[str, ...]:
        """The ids of the key's two holders, the first one first."""
        return self._operations.where(key)

    def __repr__(self) -> str:
        return f"<mmapcache.ring.{type(self).__name__} {self._published.path!r}>"

    def __getattr__(self, name: str) -> Any:
        return refused.refusal(name)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ring is not to be pickled or copied: each process makes its own")

    @staticmethod
    def _discard(lines: Iterable[Any]) -> None:
        """Closes connections."""
        raise NotImplementedError

    def _after_fork(self) -> None:
        """In the child: the parent's connections are not its own."""
        self._published.after_fork()
        self._leave(self._core.after_fork())

    def _leave(self, lines: list[Any]) -> None:
        """Closes this process's copies of its parent's connections."""
        raise NotImplementedError


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)
