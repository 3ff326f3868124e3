"""Placement, versions and stored values again, in plain Python from the words of docs/ring.md."""

from __future__ import annotations

import struct
from collections.abc import Sequence

MASK = 2**64 - 1


def mix(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def hash64(data: bytes) -> int:
    h = 0x9E3779B97F4A7C15 ^ len(data)
    padded = data + bytes(-len(data) % 8)
    for (word,) in struct.iter_unpack("<Q", padded):
        h = mix(h ^ word)
    return mix(h)


def score(node: str, key: bytes) -> int:
    return mix(hash64(key) ^ mix(hash64(node.encode())))


def pair(nodes: Sequence[str], key: bytes) -> tuple[str, ...]:
    """The primary and the copy."""
    return tuple(sorted(nodes, key=lambda node: (-score(node, key), node.encode()))[:2])


def holders(nodes: Sequence[str], other: Sequence[str], key: bytes) -> tuple[str, ...]:
    """The pair of `nodes`, then who is in the pair of the other ring alone."""
    first = pair(nodes, key)
    return first + tuple(node for node in pair(other, key) if node not in first)


class Clock:
    """A hybrid logical clock whose wall clock the test sets."""

    def __init__(self, writer: bytes) -> None:
        self.writer = writer
        self.last = (0, 0)

    def next(self, now: int) -> bytes:
        time, counter = self.last
        if now > time:
            self.last = (now, 0)
        elif counter == 0xFFFF:
            self.last = (time + 1, 0)
        else:
            self.last = (time, counter + 1)
        time, counter = self.last
        return time.to_bytes(6, "big") + counter.to_bytes(2, "big") + self.writer

    def learn(self, version: bytes) -> None:
        seen = (int.from_bytes(version[:6], "big"), int.from_bytes(version[6:8], "big"))
        self.last = max(self.last, seen)


def encode(kind: int, version: bytes, end: int, value: bytes) -> bytes:
    return struct.pack(">BBH16sQ", 0xA7, kind, 0, version, end) + value
