"""How many _ids one find asks for: what is quickest for this server, found by trying.

A server that looks each _id up in its index is quickest with long lists, as there are fewer replies
to wait for: MongoDB takes a third of the time for a document when it is asked for a thousand
instead of sixty-four. A server that compares each document with the whole list wants short ones.
"""

from __future__ import annotations

LEAST, MOST = 16, 2048  # powers of two
_HEAVY = 32 << 20  # bytes of documents that are too many to have at once
_FORGET = 0.99  # of what a neighbour took when it was tried last; so it is tried again some day


class Together:
    """The number, doubled or halved as long as that makes a document cheaper."""

    def __init__(self, first: int = 64) -> None:
        self.count = first
        self._most = MOST
        self._took: dict[int, float] = {}  # seconds a document, by the number asked for

    def took(self, count: int, seconds: float, size: int = 0) -> None:
        """So many together took so long, and had so many bytes; only a full list says something."""
        if count != self.count:
            return
        if size > _HEAVY and count > 1:
            self.count = self._most = count // 2
            return
        each = seconds / count
        each = self._took[count] = (self._took.get(count, each) + each) / 2
        others = [n for n in (count * 2, count // 2) if LEAST <= n <= self._most]
        for other in sorted(others, key=lambda n: n not in self._took):  # the known ones first
            if self._took.get(other, 0.0) < each:
                self.count = other
                return
            self._took[other] *= _FORGET
