"""What the commands share: opening, errors as one sentence, sizes and times for people, JSON lines.

Exit statuses: 0 done, 1 the command could not do it (said in one sentence on stderr), 2 usage.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Iterable, Sequence

import mmapcache
from mmapcache.cli import streams
from mmapcache.printing import json_text, printable

DONE, FAILED, USAGE = 0, 1, 2


class CommandError(Exception):
    """A command cannot go on; the message is one sentence for people, the exit status is 1."""


class UsageError(CommandError):
    """Arguments that do not go together; the exit status is 2."""


def add_opening(parser: argparse.ArgumentParser) -> None:
    """How long to wait for the cache, and whose it may be: see `open_cache`."""
    parser.add_argument("--timeout", type=float, default=0.0, help="seconds to wait for data")
    add_owner(parser)


def add_owner(parser: argparse.ArgumentParser) -> None:
    """Whose the file may be: see `owner_of`."""
    parser.add_argument(
        "--owner",
        metavar="USER",
        help="the loader's user, a name or uid, where it is neither root nor oneself",
    )


def owner_of(args: argparse.Namespace) -> str | int | None:
    """The `owner` of `mmapcache.open` that the option of `add_owner` says."""
    owner: str | None = args.owner
    return int(owner) if owner is not None and owner.isdecimal() else owner


def open_cache(args: argparse.Namespace) -> mmapcache.Cache:
    """The cache at `args.path`, opened as the options of `add_opening` say."""
    refuse_uri(args.path, "PATH")
    try:
        return mmapcache.open(args.path, timeout=args.timeout, owner=owner_of(args))
    except ValueError as error:
        raise UsageError(str(error)) from None


def emit(line: str = "") -> None:
    """One line of text to stdout: whatever names and errors are in it, a line and no more."""
    streams.show(printable(line) + "\n")


def emit_json(value: object, *, indent: int | None = None) -> None:
    """One JSON value to stdout, on one line unless `indent` is given."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    streams.show(json_text(value, indent=indent, ascii_only=not unicode) + "\n")


def complain(command: str, message: str) -> None:
    """One sentence to stderr, with the command that says it in front."""
    from mmapcache.sync.redaction import public_text

    first = message.strip() or "failed without saying why"
    streams.say(public_text(f"mmapcache {command}: {first}") + "\n")


def complain_unexpected() -> None:
    """The traceback of the exception being handled, which nobody expected, to stderr."""
    from mmapcache.sync.redaction import redact

    for line in redact(traceback.format_exc()).splitlines():
        streams.say(printable(line) + "\n")


def refuse_uri(path: str, what: str) -> None:
    """Raises UsageError for a connection string in the place of a path: it holds a password."""
    if ":/" in path:
        from mmapcache.sync.redaction import is_uri

        if is_uri(path):
            raise UsageError(f"{what} is a MongoDB URI; it must be the path of a file")


def naming(path: str | None, message: str) -> str:
    """`message` with `path` in front unless it is named in it already."""
    return message if path is None or path in message else f"{path}: {message}"


def sentence(error: Exception, path: str | None) -> str:
    """What went wrong, with the name of the cache file unless the error names a file itself."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return naming(path, str(error) or type(error).__name__)


def size_text(count: int | float) -> str:
    """Bytes for people: ``0 B``, ``512 B``, ``1.5 KiB``, ``2.0 GiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def seconds_text(seconds: float | None) -> str:
    """A duration for people: ``0.4 s``, ``12 min 5 s``, ``3 h 10 min``, ``2 d 4 h``."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def moment_text(unix: float | None) -> str:
    """A point in time for people, in UTC; ``never`` for none."""
    if not unix:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix))


def ago_text(moment: float | None, before: float | None, now: float) -> str:
    """When something was, for people: at a moment, or before one, or who knows when."""
    if moment is not None:
        return f"{seconds_text(now - moment)} ago"
    return "unknown" if before is None else f"more than {seconds_text(now - before)} ago"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a plain table: first column to the left, all others to the right."""
    grid = [list(head), *(list(map(printable, row)) for row in rows)]
    widths = [max(len(row[i]) for row in grid) for i in range(len(head))]
    lines = []
    for row in grid:
        first, *rest = row
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
