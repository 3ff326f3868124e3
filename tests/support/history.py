"""What the database had, what readers saw, and whether the one explains the other.

    writer ── "T name k n digest" before it asks for a change, "D …" after the answer,
              "N …" when it did not happen after all ──> a file
    reader ── "O name k n digest" for each document that looks otherwise than before,
              "G generation" after each generation ──> a file
    Judge  ── reads both, and follows for each reader and key how far that reader has come

A reader that sees state n of a key must not see an earlier one afterwards; a key that is absent
must have been absent in the database at or after the last state seen. What a reader reports was
written before it was seen, so the writers' files are read after the readers'.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mmapcache
from support.gap_world import PLACES, digest

KeyName = tuple[str, int]  # collection, k


class Journal:
    """A file of lines that only grows; each call is one write, so a killed process leaves no half.

    :param path: made when it is missing
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._at = 0
        self._rest = b""

    def add(self, *lines: str) -> None:
        os.write(self._file, "".join(line + "\n" for line in lines).encode())

    def news(self) -> Iterator[list[str]]:
        """The words of each line that was added since the last call."""
        while data := os.pread(self._file, 1 << 20, self._at):
            self._at += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                yield line.decode().split(" ")


@dataclass(slots=True)
class _Key:
    """The states of a key in their order: digests, `-` for absent; those that never came about."""

    states: list[str] = field(default_factory=lambda: ["-"])
    never: set[int] = field(default_factory=set)

    def last(self) -> int:
        return next(n for n in reversed(range(len(self.states))) if n not in self.never)


class Judge:
    """Compares the journals.

    :param writers: the writers' journals
    :param readers: the readers'
    """

    def __init__(self, writers: list[Path], readers: list[Path]) -> None:
        self._writers = [Journal(path) for path in writers]
        self._readers = [Journal(path) for path in readers]
        self._keys: dict[KeyName, _Key] = collections.defaultdict(_Key)
        self._floors: list[dict[KeyName, int]] = [collections.defaultdict(int) for _ in readers]
        self.generations = [0] * len(readers)
        self.counts: collections.Counter[str] = collections.Counter()
        self.violations: list[str] = []

    def follow(self) -> None:
        """Takes in what was written since."""
        seen = [list(reader.news()) for reader in self._readers]
        for journal in self._writers:
            for words in journal.news():
                self._written(words)
        for reader, lines in enumerate(seen):
            for words in lines:
                self._seen(reader, words)

    def expected(self) -> dict[KeyName, str]:
        """The digest of the last state of each key, when nothing is being written."""
        return {name: key.states[key.last()] for name, key in self._keys.items()}

    def settle(self) -> None:
        """Every reader has seen the last state of every key: nothing before it may come again."""
        for floors in self._floors:
            for name, key in self._keys.items():
                floors[name] = max(floors[name], key.last())

    def _written(self, words: list[str]) -> None:
        what, name, text, *rest = words
        if what == "X":
            self._violate(f"the server has lost an acknowledged write: {name} {text} {rest}")
            return
        key, n = self._keys[name, int(text)], int(rest[0])
        if what == "T":
            if n != len(key.states):
                self._violate(f"the journal of {name} {text} goes from {len(key.states)} to {n}")
            key.states.append(rest[1])
            self.counts["states written"] += 1
        elif what == "N":
            key.never.add(n)
            self.counts["states that never came about"] += 1

    def _seen(self, reader: int, words: list[str]) -> None:
        if words[0] == "G":
            self.generations[reader] = int(words[1])
            self.counts["generations seen"] += 1
            return
        if words[0] == "E":
            self.counts["snapshots expired"] += 1
            return
        name, k, text, found = words[1], int(words[2]), words[3], words[4]
        self.counts["states checked"] += 1
        key, floors = self._keys[name, k], self._floors[reader]
        floor = floors[name, k]
        where = f"reader {reader}, generation after {self.generations[reader]}: {name} key {k}"
        if text == "-":
            absent = (
                n
                for n in range(floor, len(key.states))
                if key.states[n] == "-" and n not in key.never
            )
            n = next(absent, -1)
            if n < 0:
                self._violate(f"{where} is gone, which it never was since state {floor}")
                return
        else:
            n = int(text)
            if n >= len(key.states) or key.states[n] != found or n in key.never:
                self._violate(f"{where} shows state {n} with other bytes than the database's")
                return
            if n < floor:
                self._violate(f"{where} goes back from state {floor} to state {n}")
                return
        floors[name, k] = n

    def _violate(self, text: str) -> None:
        self.violations.append(text)


def read(path: Path, journal: Path) -> None:
    """A reader, for ever: looks at every document of each generation that it can get hold of."""
    log = Journal(journal)
    cache = mmapcache.open(path, timeout=120)
    parent = os.getppid()
    before: dict[KeyName, bytes] = {}
    generation = 0
    while os.getppid() == parent:
        if not cache.wait(generation, 0.5):
            continue
        now: dict[KeyName, bytes] = {}
        lines = []
        try:
            with cache.snapshot() as snapshot:
                for place in PLACES:
                    if place.name not in snapshot:
                        continue
                    for document in snapshot[place.name].values():
                        name = (place.name, document["k"])
                        raw = now[name] = document.raw
                        if before.get(name) != raw:
                            n, mark = document["n"], digest(raw)
                            lines.append(f"O {place.name} {name[1]} {n} {mark}")
                generation = snapshot.generation
        except mmapcache.SnapshotExpired:
            log.add("E")
            continue
        lines += [f"O {name} {k} - -" for name, k in before.keys() - now.keys()]
        log.add(*lines, f"G {generation}")
        before = now
