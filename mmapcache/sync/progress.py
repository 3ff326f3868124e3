"""How far a load is: a bar on a terminal (tqdm, when installed), else a plain line now and then."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from typing import Any, ClassVar

from mmapcache.printing import printable

LINE_EVERY = 5.0  # seconds between two plain lines

_log = logging.getLogger("mmapcache.sync")
_bar_class: Any = None  # tqdm's class once a bar has been shown in this process


class Progress:
    """Counts the documents of one collection's load.

    :param name: the collection
    :param expected: documents that the source expects, or None
    :param shown: whether to show it at all: a refresh is not worth it
    :param bar: whether to draw a bar; without tqdm it falls back to lines
    """

    file: ClassVar[Any] = None  # where bars are drawn; None: sys.stderr, which may block

    def __init__(self, name: str, expected: int | None, *, shown: bool, bar: bool) -> None:
        self._name = name
        self._expected = expected
        self._count = 0
        self._next_line = time.monotonic() + LINE_EVERY if shown else math.inf
        self._bar = _make_bar(name, expected) if shown and bar else None

    def add(self, documents: int) -> None:
        """Counts documents that are now in the cache's next generation."""
        self._count += documents
        if self._bar is not None:
            self._bar.update(documents)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY
            of = f" of about {self._expected:,}" if self._expected else ""
            _log.info("loading %s: %s%s documents", self._name, f"{self._count:,}", of)

    @property
    def count(self) -> int:
        """Documents counted so far."""
        return self._count

    def close(self) -> None:
        """Removes the bar; the summary is a log line of the loader's."""
        if self._bar is not None:
            self._bar.close()


def _make_bar(name: str, expected: int | None) -> Any:
    global _bar_class
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    _bar_class = tqdm
    return tqdm(
        total=expected,
        desc=printable(name),
        unit=" documents",
        unit_scale=True,
        leave=False,
        file=Progress.file,
    )


@contextlib.contextmanager
def lines_above(file: Any) -> Iterator[None]:
    """While open, a bar on the file is out of the way of other lines."""
    if _bar_class is None:
        yield
    else:
        with _bar_class.external_write_mode(file=file):
            yield
