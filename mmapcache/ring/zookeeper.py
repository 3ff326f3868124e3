"""The ring in ZooKeeper: one session, the last that was read, and compare-and-set.

    /ROOT/ring          the record, persistent: see record.py
    /ROOT/live/ID       each server's own, ephemeral
    /ROOT/agents/NAME   each agent's own, ephemeral: what it is doing
    /ROOT/locks/agent   the agent that fills and applies: ephemeral, its name

ZooKeeper being away is no error here: what was read last stays, and what has changed is read when
it is back.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NodeExistsError,
    NoNodeError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.retry import KazooRetry

from mmapcache.ring.errors import RingError
from mmapcache.ring.record import Member, Record, RecordError, parse_member, parse_record

_T = TypeVar("_T")
SESSION = 5.0  # seconds after which another agent may lead
_ANSWER = 5.0  # seconds that one request may take
_ANEW = 2 * SESSION  # seconds without a connection after which a new client is made
_MOST_LIVE = 1024  # servers that register; a ring has 128 nodes, the rest are spares
_WHERE = re.compile(r"(?P<hosts>[A-Za-z0-9._:\[\],-]+?)(?P<root>/[A-Za-z0-9._/-]*[A-Za-z0-9._-])")


class AwayError(RingError):
    """ZooKeeper does not answer now."""


@dataclass(frozen=True, slots=True)
class Place:
    """`HOST:PORT[,…]/ROOT`, taken apart."""

    text: str
    hosts: str
    root: str


def parse_place(text: str) -> Place:
    """
    :raises RecordError: it is none
    """
    match = _WHERE.fullmatch(text)
    if match is None or "//" in text or "/." in text:
        raise RecordError(
            f"{text!r} is no place in ZooKeeper: it must be HOST:PORT[,HOST:PORT…]/ROOT, as "
            "zk1:2181,zk2:2181/ring"
        )
    return Place(text, match["hosts"], match["root"])


@dataclass(slots=True)
class Seen:
    """What was read last.

    :param version: of the record, for compare-and-set
    :param wrong: what cannot be used, by path
    """

    record: Record | None = None
    version: int = -1
    members: dict[str, Member] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


class ZooKeeper:
    """One session.

    :param wake: called, in a thread of kazoo's, when there is something to read
    """

    def __init__(self, place: Place, wake: Callable[[], object] = lambda: None) -> None:
        logging.getLogger("kazoo").addHandler(logging.NullHandler())
        logging.getLogger("kazoo").propagate = False
        self.place = place
        self.seen = Seen()
        self._wake = wake
        self._dirty = {"ring", "live"}
        self._lock = threading.Lock()
        self._client = self._new_client()
        self._heard = time.monotonic()  # when it was last seen connected
        self._made: dict[str, tuple[int, bytes]] = {}  # own ephemeral nodes: session, bytes

    def _new_client(self) -> Any:
        client = KazooClient(
            hosts=self.place.hosts,
            timeout=SESSION,
            connection_retry=KazooRetry(max_tries=-1, delay=0.1, max_delay=2.0),
        )
        client.add_listener(self._changed)
        return client

    def start(self) -> None:
        """Begins to connect, and goes on trying."""
        self._client.start_async()

    def wait(self, seconds: float) -> bool:
        """Until connected; whether that came about."""
        end = time.monotonic() + seconds
        while not self.connected:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        return True

    def stop(self) -> None:
        """Ends the session, and its ephemeral nodes with it, if ZooKeeper answers."""
        _end(self._client)

    @property
    def connected(self) -> bool:
        """Whether ZooKeeper was heard a moment ago."""
        return bool(self._client.state == KazooState.CONNECTED)

    def refresh(self) -> bool:
        """Reads what has changed; whether all is read.

        What cannot be used is in `seen.wrong`, and what was read before it stays.
        """
        if not self.connected:
            self._begin_anew()
            return False
        self._heard = time.monotonic()
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        left = set(dirty)
        try:
            if "ring" in dirty:
                self._read_ring()
                left.discard("ring")
            if "live" in dirty:
                left |= self._read_live()
                left.discard("live")
            for name in sorted(left):
                self._read_member(name.removeprefix("live/"))
                left.discard(name)
            return True
        except (KazooException, KazooTimeoutError):
            with self._lock:
                self._dirty |= left | (dirty & {"live"})
            return False

    def _begin_anew(self) -> None:
        """With another client, when this one has not come through for long. Its session is gone by
        then; and a ZooKeeper that has lost its data refuses whoever has seen what came later."""
        now = time.monotonic()
        if now - self._heard > _ANEW:
            self._heard = now
            old, self._client = self._client, self._new_client()
            threading.Thread(target=_end, args=(old,), daemon=True).start()  # that may take long
            self.start()

    def replace(self, record: Record, version: int) -> bool:
        """Compare-and-set; False: somebody else was faster.

        :raises AwayError: it does not answer; whether it was set is unknown
        """
        try:
            self._get(self._client.set_async(self._path("ring"), record.text(), version))
        except (BadVersionError, NoNodeError):
            return False
        with self._lock:
            self._dirty.add("ring")
        return True

    def create(self, record: Record) -> bool:
        """The first record; False: there is one.

        :raises AwayError: it does not answer
        """
        try:
            self._get(self._client.create_async(self._path("ring"), record.text(), makepath=True))
        except NodeExistsError:
            return False
        self._dirty.add("ring")
        return True

    def keep(self, name: str, data: bytes) -> bool:
        """Has an ephemeral node of this session there; whether it is.

        Another session's is left alone: False.
        """
        session = self._client.client_id
        if not self.connected or session is None:
            return False
        made = self._made.get(name)
        path = self._path(name)
        try:
            if made == (session[0], data):
                return True
            if made is not None and made[0] == session[0]:
                self._get(self._client.set_async(path, data))
            else:
                self._get(self._client.create_async(path, data, ephemeral=True, makepath=True))
        except NodeExistsError:
            return self._is_own(path, session[0])
        except (KazooException, KazooTimeoutError, AwayError):
            self._made.pop(name, None)
            return False
        self._made[name] = (session[0], data)
        return True

    def _is_own(self, path: str, session: int) -> bool:
        """Whether the node was made by this session, whose answer was lost."""
        try:
            stat = self._get(self._client.exists_async(path))
        except (KazooException, KazooTimeoutError, AwayError):
            return False
        return stat is not None and stat.ephemeralOwner == session

    def agents(self) -> dict[str, bytes]:
        """What each agent says of itself.

        :raises AwayError: it does not answer
        """
        found = {}
        for name in self._children("agents"):
            try:
                found[name] = self._get(self._client.get_async(self._path(f"agents/{name}")))[0]
            except NoNodeError:
                continue
        return found

    def leader(self) -> str | None:
        """The name of the agent that fills.

        :raises AwayError: it does not answer
        """
        try:
            data: bytes = self._get(self._client.get_async(self._path("locks/agent")))[0]
        except NoNodeError:
            return None
        return data.decode("utf-8", "replace")

    def _children(self, name: str) -> list[str]:
        try:
            names: list[str] = self._get(self._client.get_children_async(self._path(name)))
        except NoNodeError:
            return []
        return sorted(names)[:_MOST_LIVE]

    # Reading.

    def _read_ring(self) -> None:
        seen, path = self.seen, self._path("ring")
        watch = self._watching("ring")
        try:
            data, stat = self._client.get_async(path, watch).get(timeout=_ANSWER)
        except NoNodeError:
            self._client.exists_async(path, watch).get(timeout=_ANSWER)
            seen.wrong["ring"] = f"there is no ring at {self.place.text}: `mmapcache ring init`"
            return
        try:
            record = parse_record(data)
            if seen.record is not None and record.epoch < seen.record.epoch:
                raise RecordError(
                    f"the record has epoch {record.epoch}, but {seen.record.epoch} was there: "
                    "the servers refuse it; is it another ZooKeeper, or an old one restored?"
                )
            seen.record = record
            seen.version = stat.version
            seen.wrong.pop("ring", None)
        except RecordError as error:
            seen.wrong["ring"] = str(error)

    def _read_live(self) -> set[str]:
        """Those that are to be read."""
        seen, path = self.seen, self._path("live")
        watch = self._watching("live")
        try:
            names = self._client.get_children_async(path, watch).get(timeout=_ANSWER)
        except NoNodeError:
            self._client.exists_async(path, watch).get(timeout=_ANSWER)
            names = []
        names = sorted(names)[:_MOST_LIVE]
        for gone in seen.members.keys() - set(names):
            del seen.members[gone]
        for path in [p for p in seen.wrong if p.startswith("live/")]:
            if path.removeprefix("live/") not in names:
                del seen.wrong[path]
        return {f"live/{name}" for name in names if name not in seen.members}

    def _read_member(self, node: str) -> None:
        name = f"live/{node}"
        try:
            data, _ = self._client.get_async(self._path(name), self._watching(name)).get(
                timeout=_ANSWER
            )
        except NoNodeError:
            self.seen.members.pop(node, None)
            return
        try:
            self.seen.members[node] = parse_member(node, data)
            self.seen.wrong.pop(name, None)
        except RecordError as error:
            self.seen.wrong[name] = str(error)

    def _watching(self, name: str) -> Callable[[Any], None]:
        def changed(event: Any) -> None:
            with self._lock:
                self._dirty.add(name)
            self._wake()

        return changed

    def _changed(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            with self._lock:
                self._dirty |= {"ring", "live"} | {f"live/{node}" for node in self.seen.members}
        self._wake()

    def _get(self, request: Any) -> Any:
        try:
            return request.get(timeout=_ANSWER)
        except (BadVersionError, NoNodeError, NodeExistsError):
            raise
        except (KazooException, KazooTimeoutError) as error:
            why = str(error) or type(error).__name__
            raise AwayError(f"ZooKeeper at {self.place.hosts} does not answer: {why}") from None

    def _path(self, name: str) -> str:
        return f"{self.place.root}/{name}"


def _end(client: Any) -> None:
    try:
        client.stop()
        client.close()
    except (KazooException, KazooTimeoutError) as error:
        logging.getLogger("mmapcache.sync").debug("ZooKeeper at the end: %s", error)
