"""What can go wrong between a source and the cache, sorted by what the loader does about it."""

from __future__ import annotations

import mmapcache


class SyncError(Exception):
    """Base of the loader's own errors; the text is a sentence for the operator.

    :param code: under what it is counted: the server's code or the name of what PyMongo raised
    """

    def __init__(self, text: str = "", *, code: str | None = None) -> None:
        super().__init__(text)
        self.code = code


class UsageError(SyncError):
    """An option is wrong or missing: exit status 2, before anything is touched."""


class SourceAwayError(SyncError):
    """The source cannot be read just now: tried again, with exponential backoff."""


class SourceRefusedError(SyncError):
    """The source said no, and will say so again: wrong credentials, a wrong name, a wrong file.

    At the start this ends the loader at once. Once a load has succeeded the same answer only
    degrades it: a password that is being rotated must not take the loader away.
    """


class HeldError(SyncError):
    """A marker says that the source is being changed: nothing is published until it is gone."""


class NoStreamsError(SyncError):
    """The server has no change streams, or not for this user: everything is read again instead."""

    def insisted(self) -> SourceRefusedError:
        """What it is where streams were insisted on."""
        text = f"{self} (--follow auto reads everything again instead)"
        return SourceRefusedError(text, code=self.code)


class UnfollowableError(NoStreamsError):
    """The same because of single collections, which the text names: no stream tells when their
    content changes."""


class PositionLostError(SyncError):
    """A change stream does not go on from where it was: everything is read again.

    :param reason: why: see `tally.REASONS`
    """

    def __init__(self, reason: str, text: str, *, code: str | None = None) -> None:
        super().__init__(text, code=code)
        self.reason = reason


class StopError(Exception):
    """SIGTERM or SIGINT arrived: whatever is under way is abandoned."""


class ShapeError(SyncError):
    """A document that --transform or --key cannot do anything with; the text names its _id."""


def sentence(error: Exception) -> str:
    """What is told of an error. FullError's own text has the numbers; this adds what an operator
    can do, but where the file system is full: the text then names that, and not max_size."""
    text = str(error) or type(error).__name__
    limited = isinstance(error, mmapcache.FullError) and text.startswith("the cache is full")
    return f"{text} (restart the loader with a larger --max-size)" if limited else text
