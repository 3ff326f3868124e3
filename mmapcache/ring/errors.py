"""What a ring raises; all of it is a `RingError`, which is a `mmapcache.MmapCacheError`."""

from __future__ import annotations

import mmapcache


class RingError(mmapcache.MmapCacheError):
    """The ring cannot do it; the message names the key and the nodes.

    By itself: the value is no number, this host's clock is far ahead, a record is malformed.
    """


class NoHolderReachable(RingError):  # noqa: N818 - the names are fixed
    """No holder of the key answered within the deadline. Whether a write took effect is unknown."""


class HoldersFull(RingError):  # noqa: N818
    """No holder of the key had memory for the value. The older value is gone from them; but what
    `incr`, `decr` and `expire` were to change is as it was."""


class Unsupported(RingError):  # noqa: N818
    """A ring cannot do this; the message says why, and what to use."""


class RingNotReady(RingError):  # noqa: N818
    """No ring is published in the file: is `mmapcache ring agent` running?"""
