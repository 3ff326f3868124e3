"""Consistent hashing as clients in Python do it: a circle of points, looked up by bisection."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from typing import Final

_POINTS: Final = 160  # of each node, as ketama has them


class Circle:
    """
    :param ids: of the nodes, which are told by their numbers
    """

    def __init__(self, ids: Sequence[str]) -> None:
        points = [
            (int.from_bytes(hashlib.md5(f"{node}-{point}".encode()).digest()[:8], "big"), number)
            for number, node in enumerate(ids)
            for point in range(_POINTS)
        ]
        points.sort()
        self._points = [point for point, _ in points]
        self._nodes = [node for _, node in points]

    def pair(self, key: bytes) -> tuple[int, int]:
        """The holder of a key, and that of the copy."""
        point = int.from_bytes(hashlib.md5(key).digest()[:8], "big")
        place = bisect.bisect(self._points, point) % len(self._nodes)
        first = self._nodes[place]
        while self._nodes[place] == first:
            place = (place + 1) % len(self._nodes)
        return first, self._nodes[place]
