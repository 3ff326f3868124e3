"""A writer of the gap test: changes its keys without pause, and keeps a journal of every state.

Each change is in the journal before the database is asked for it. When no answer comes, because
the server was killed, the change has come about or has not; the server that comes back tells which.
Nothing of it can come later: the server that had been asked is dead.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.operations import DeleteOne, ReplaceOne

from support.gap_world import BY_NAME, COLD, KEYS, PLACES, WRITERS, Document, Place, digest, made
from support.history import Journal

_LATE = 500  # changes before the collection that comes late
_COLD_MAX = 150  # such keys of each collection and writer
# The flags, 8 bytes each: main's wish that writers pause, how many have, that they end.
PAUSE, STOP = 0, 1
PAUSED = 2  # + writer: whether it does
WRITES = 2 + WRITERS  # + writer: how many changes were acknowledged
DROPS = 2 + 2 * WRITERS  # + writer: collections dropped, acknowledged or not
LOADED = 2 + 3 * WRITERS  # the first load is over: a collection that is not there is no mistake
FLAGS = 3 + 3 * WRITERS


class Writer:
    """One writer process.

    :param number: of WRITERS
    :param port: the server's own; faults of connections are the loader's alone
    :param journal: where its states go
    :param flags: shared with main, see above
    :param pace: changes a second, about
    :param drops: the part of its acts that may drop a collection
    :param dropped: the only one that it drops; "" for each that may be
    """

    def __init__(
        self,
        number: int,
        port: int,
        journal: Path,
        seed: int,
        flags: memoryview,
        *,
        pace: float,
        drops: float,
        dropped: str,
    ) -> None:
        self._number = number
        self._dice = random.Random(f"{seed} {number}")
        self._journal = Journal(journal)
        self._flags = flags
        self._pace = pace
        self._drops = drops
        self._dropped = dropped
        self._client: MongoClient[RawBSONDocument] = MongoClient(
            "127.0.0.1",
            port,
            directConnection=True,
            retryWrites=False,  # a change is asked for once
            serverSelectionTimeoutMS=1000,
            document_class=RawBSONDocument,
        )
        self._now: dict[tuple[str, int], Document | None] = {}
        self._counters: dict[tuple[str, int], int] = {}
        self._keys = {p.name: [k for k in range(KEYS) if p.owned(number, k)] for p in PLACES}
        self._cold = {place.name: 0 for place in PLACES}

    def run(self) -> None:
        """For ever, or until told to stop or left alone."""
        parent = os.getppid()
        while not self._flags[STOP] and os.getppid() == parent:
            self._flags[PAUSED + self._number] = self._flags[PAUSE]
            if self._flags[PAUSE]:
                time.sleep(0.01)
                continue
            before = self._flags[WRITES + self._number]
            self._act()
            made = self._flags[WRITES + self._number] - before
            time.sleep(self._dice.expovariate(1) * max(1, made) / self._pace)

    def fill(self) -> None:
        """The first documents, so that there is something to load."""
        for place in PLACES:
            if not place.late:
                self._refill(place)

    def _act(self) -> None:
        place = self._dice.choice(PLACES)
        if place.late and self._flags[WRITES + self._number] < _LATE:
            return
        how = self._dice.random()
        if how < 0.3:
            self._storm(BY_NAME["hot"])
        elif how < 0.4:
            self._cool(place)
        elif how < 0.46:
            self._many(place)
        elif how < 0.46 + self._drops and place.owner == self._number:
            if self._flags[LOADED] and self._dropped in ("", place.name):
                self._drop(place)
        elif self._keys[place.name]:
            k = self._dice.choice(self._keys[place.name])
            gone = self._may_go(place, k) and self._dice.random() < 0.2
            self._change(place, [k], gone=gone)

    def _storm(self, place: Place) -> None:
        """One key in quick succession: update, delete, insert, update."""
        k = self._dice.choice(self._keys[place.name][:3])
        for gone in [False, False, True] * self._dice.randint(1, 4) + [False]:
            self._change(place, [k], gone=gone)

    def _cool(self, place: Place) -> None:
        """A key that is written once, or deleted for good."""
        if place.owner is not None:
            return
        if self._cold[place.name] and self._dice.random() < 0.3:
            k = self._cold_key(self._dice.randrange(self._cold[place.name]))
            if self._now.get((place.name, k)) is not None:
                self._change(place, [k], gone=True)
        elif self._cold[place.name] < _COLD_MAX:
            k = self._cold_key(self._cold[place.name])
            self._cold[place.name] += 1
            self._change(place, [k], gone=False)

    def _may_go(self, place: Place, k: int) -> bool:
        """The last key stays: a collection that is empty, and was not dropped, is another story."""
        there = self._now.get((place.name, k)) is not None
        return there and k != self._keys[place.name][-1]

    def _cold_key(self, index: int) -> int:
        return COLD + index * WRITERS + self._number

    def _many(self, place: Place) -> None:
        """Several keys with one command."""
        keys = self._keys[place.name]
        some = self._dice.sample(keys, self._dice.randint(0, len(keys)))
        if self._dice.random() < 0.3:
            self._change(place, [k for k in some if self._may_go(place, k)], gone=True)
        else:
            self._change(place, some, gone=False)

    def _drop(self, place: Place) -> None:
        self._flags[DROPS + self._number] += 1
        there = [k for k in self._keys[place.name] if self._now.get((place.name, k)) is not None]
        self._do(place, dict.fromkeys(there), self._client[place.database][place.name].drop)
        time.sleep(self._dice.choice((0, 0.1, 0.5, 1.5)))
        self._refill(place)

    def _refill(self, place: Place) -> None:
        keys = self._keys[place.name]
        while keys and not any(self._now.get((place.name, k)) for k in keys):
            self._change(place, self._dice.sample(keys, max(1, len(keys) // 2)), gone=False)

    def _change(self, place: Place, keys: list[int], *, gone: bool) -> None:
        """Makes new states of some keys: documents, or none."""
        if not keys:
            return
        if gone:
            states: dict[int, Document | None] = dict.fromkeys(keys)
        else:
            states = {k: self._next(place, k) for k in keys}
        collection = self._client[place.database][place.name]
        asked: list[Any] = [
            DeleteOne({"_id": self._known(place, k)["_id"]})
            if state is None
            else ReplaceOne({"_id": state["_id"]}, state, upsert=True)
            for k, state in states.items()
        ]
        first: Any = next(iter(states.values()))
        if len(keys) == 1 and first is not None:
            if self._now.get((place.name, keys[0])) is None:
                self._do(place, states, lambda: collection.insert_one(first))
                return
            if self._dice.random() < 0.5:
                which = {"_id": first["_id"]}
                change = {"$set": {name: first[name] for name in first if name != "_id"}}
                self._do(place, states, lambda: collection.update_one(which, change))
                return
        if self._dice.random() < 0.3:
            self._do(place, states, lambda: self._at_once(place, asked))
        else:
            self._do(place, states, lambda: collection.bulk_write(asked, ordered=True))

    def _at_once(self, place: Place, asked: list[Any]) -> None:
        """Changes in one transaction."""
        with self._client.start_session() as session, session.start_transaction():
            self._client[place.database][place.name].bulk_write(asked, session=session)

    def _known(self, place: Place, k: int) -> Document:
        document = self._now[place.name, k]
        assert document is not None
        return document

    def _next(self, place: Place, k: int) -> Document:
        n = self._counters.get((place.name, k), 0) + 1
        document = made(k, n, self._dice, self._dice.randrange(3))
        before = self._now.get((place.name, k))
        if before is not None:
            document["_id"] = before["_id"]
        return document

    def _do(self, place: Place, states: dict[int, Document | None], ask: Callable[[], Any]) -> None:
        """Asks for a change, and settles whether it came about."""
        numbers = {k: self._counters.get((place.name, k), 0) + 1 for k in states}
        self._journal.add(
            *(
                f"T {place.name} {k} {n} {digest(place.view(states[k]))} {time.time():.3f}"
                for k, n in numbers.items()
            )
        )
        try:
            ask()
            done = dict.fromkeys(states, True)
        except PyMongoError:
            done = {k: self._came_about(place, k, state) for k, state in states.items()}
        self._journal.add(
            *(f"{'D' if done[k] else 'N'} {place.name} {k} {n}" for k, n in numbers.items())
        )
        for k, n in numbers.items():
            self._counters[place.name, k] = n
            if done[k]:
                self._now[place.name, k] = states[k]
        self._flags[WRITES + self._number] += sum(done.values())

    def _came_about(self, place: Place, k: int, state: Document | None) -> bool:
        """Whether a key has the new state or still the one before, when the answer was lost."""
        before = self._now.get((place.name, k))
        some = state or before
        if some is None:
            return True  # there was nothing, and there is nothing
        while True:
            try:
                found = self._client[place.database][place.name].find_one({"_id": some["_id"]})
                break
            except PyMongoError:
                time.sleep(0.05)
        raw = None if found is None else found.raw
        for came, one in ((True, state), (False, before)):
            if raw == (None if one is None else bson.encode(one)):
                return came
        self._journal.add(f"X {place.name} {k} {raw!r}")
        return True
