"""What PyMongo raises, as the loader's own errors: SourceAwayError (try again), SourceRefusedError
(the answer will not change by asking again) or NoStreamsError (ask for less)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mmapcache.sync.errors import (
    NoStreamsError,
    SourceAwayError,
    SourceRefusedError,
    SyncError,
    UsageError,
)

CREDENTIALS = frozenset({11, 13, 18, 334, 8000})  # user not found, unauthorized, …, Atlas's own
UNAUTHORIZED = 13
_NO_MAJORITY = 148  # a server without majority reads, as with an arbiter: it may have streams
_BAD_NAMES = frozenset({26, 73, 166})
BAD_QUERIES = frozenset({2, 9, 14, 40, 59, 115, 292, 40324, 40415}) | frozenset(
    range(31249, 31256)  # what is wrong with a projection
)


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turns what PyMongo raises into one of these, with a sentence.

    :param where: the server, as shown to people
    """
    from bson.errors import BSONError
    from pymongo import errors

    try:
        yield
    except UsageError as error:  # the URI's file has become unreadable since the start
        raise SourceRefusedError(str(error)) from None
    except errors.OperationFailure as error:
        raise _refusal(error, where) from None
    except errors.ServerSelectionTimeoutError as error:
        text = str(error).partition(" (configured timeouts")[0].partition(", Timeout:")[0]
        name = type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in text:
            raise SourceRefusedError(
                f"{where}: the server's certificate is refused: {text}", code=name
            ) from None
        raise SourceAwayError(f"no MongoDB server answers at {where}: {text}", code=name) from None
    except (errors.ConfigurationError, errors.InvalidName) as error:
        raise SourceRefusedError(f"{where}: {error}", code=type(error).__name__) from None
    except (errors.PyMongoError, BSONError, OSError) as error:
        text = str(error).partition(" (configured timeouts")[0] or type(error).__name__
        raise SourceAwayError(f"{where}: {text}", code=type(error).__name__) from None


def _refusal(error: Any, where: str) -> SyncError:
    text, code = server_text(error), str(error.code)
    if error.code in CREDENTIALS:
        if error.code == UNAUTHORIZED:
            return SourceRefusedError(f"{where}: the user may not read this: {text}", code=code)
        return SourceRefusedError(
            f"{where}: wrong credentials (user, password or authSource): {text}", code=code
        )
    if error.code == _NO_MAJORITY:
        return NoStreamsError(f"{where}: no following without majority reads: {text}", code=code)
    if error.code in _BAD_NAMES:
        return SourceRefusedError(f"{where}: wrong name: {text}", code=code)
    if error.code in BAD_QUERIES:
        return SourceRefusedError(
            f"{where}: the server does not accept the query: {text}", code=code
        )
    return SourceAwayError(f"{where}: {text} (code {code})", code=code)


def server_text(error: Any) -> str:
    """What the server said, without the reply that PyMongo quotes after it."""
    return str(error).partition(", full error:")[0]
