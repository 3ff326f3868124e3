"""A ring without ZooKeeper: members that the agent was given, and what they say of themselves.

Each node is told the record (RING.RING) whenever it has another epoch. The record never changes
while the agent runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from mmapcache.ring.connecting import Settings
from mmapcache.ring.link import Link, RefusedError
from mmapcache.ring.record import Member, Record, RecordError, member_of
from mmapcache.ring.view import GONE
from mmapcache.ring.wire import Lost
from mmapcache.sync.logs import log

EVERY = 0.5  # seconds between two questions to a node


class Fixed:
    """Asks each node in a thread of its own, so that one that hangs holds up none.

    :param members: as they were given
    :param epoch: of the record: a higher one when the members are others than before
    :param wake: called when a node has changed
    """

    def __init__(
        self,
        members: Iterable[Member],
        epoch: int,
        settings: Settings,
        wake: Callable[[], object],
    ) -> None:
        self.members = {member.id: member for member in members}
        self.record = Record(epoch, tuple(self.members))
        self.heard = 0.0  # by time.monotonic: when a node answered last
        self._wake = wake
        self._settings = settings
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._ask, args=(member,), name=f"mmapcache-ring-{member.id}", daemon=True
            )
            for member in self.members.values()
        ]

    def start(self) -> None:
        """Begins to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends; a thread that waits for a node is left to end by itself."""
        self._stop.set()

    def _ask(self, member: Member) -> None:
        link = Link(member.id, member.address, self._settings)
        told = ""
        while not self._stop.is_set():
            try:
                now = self._hear(link, member)
                trouble = ""
            except (Lost, RefusedError, RecordError) as error:
                trouble = str(error)
                now = Member(member.id, member.address, "", GONE, 0)
            if trouble != told:
                told = trouble
                if trouble:
                    log.warning("%s", trouble)
                else:
                    log.info("%s answers: %s", member.id, now.state)
            before = self.members[member.id]
            if (before.run_id, before.state) != (now.run_id, now.state):
                self.members[member.id] = now
                self._wake()
            self._stop.wait(EVERY)
        link.close()

    def _hear(self, link: Link, member: Member) -> Member:
        """What the node says of itself, after it was told the record.

        :raises Lost: it does not answer
        :raises RefusedError: it does not take the record
        :raises RecordError: what it says cannot be used
        """
        said = link.hello()
        if said.get("id") != member.id:
            raise RecordError(
                f"{member.id} at {member.address}: another node is there: "
                f"{str(said.get('id'))[:64]!r}"
            )
        if said.get("epoch") != self.record.epoch:
            link.call("RING.RING", self.record.text())
            said = link.hello()
        self.heard = time.monotonic()
        return member_of(
            member.id,
            {
                "address": member.address,
                "run_id": said.get("run_id"),
                "state": said.get("state"),
                "since": time.time_ns() // 1_000_000,
            },
        )
