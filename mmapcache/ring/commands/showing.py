"""What the commands draw: a bar on a terminal."""

from __future__ import annotations

from typing import Any

from mmapcache.printing import printable


class Bar:
    """How far something is; nothing without a terminal or without tqdm.

    :param shown: there is a terminal
    """

    def __init__(self, name: str, *, shown: bool) -> None:
        self._bar: Any = None
        if shown:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(desc=printable(name), unit=" keys", unit_scale=True, leave=False)

    def at(self, step: str, done: int, total: int) -> None:
        """It is there now."""
        if self._bar is not None:
            self._bar.total = total or None
            self._bar.n = done
            self._bar.set_postfix_str(printable(step), refresh=True)

    def close(self) -> None:
        """Takes it away."""
        if self._bar is not None:
            self._bar.close()
