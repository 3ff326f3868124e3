"""Log lines for people or for machines, each passed through the redaction of secrets.

2026-01-01T12:00:00.000Z info    generation 7: 3 put, 1 deleted in 0.1 s
{"time": "2026-01-01T12:00:00.000Z", "level": "info", "message": "...", "generation": 7}

Logging never waits for standard error: see outlet.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from mmapcache.printing import escape_json, printable
from mmapcache.sync.outlet import BarFile, Outlet
from mmapcache.sync.progress import Progress, lines_above
from mmapcache.sync.redaction import public_text, redact

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
STANDARD_ERROR = 2
log = logging.getLogger("mmapcache.sync")


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class TextFormatter(logging.Formatter):
    """`time level message`, a traceback below it when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        message = public_text(record.getMessage())
        lines = [f"{_timestamp(record)} {record.levelname.lower():<7} {message}"]
        if record.exc_info:  # indented: no line of it can pass for one of the log
            traceback = redact(self.formatException(record.exc_info))
            lines += ["  " + printable(line) for line in traceback.splitlines()]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what the caller put into `extra={"fields": …}` becomes members."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "message": redact(record.getMessage()),
        }
        fields: dict[str, Any] = getattr(record, "fields", {})
        entry.update((k, redact(v) if isinstance(v, str) else v) for k, v in fields.items())
        if record.exc_info:
            entry["traceback"] = redact(self.formatException(record.exc_info))
        return escape_json(json.dumps(entry, ensure_ascii=False, default=str))


class _Handler(logging.Handler):
    """Hands whole lines to an outlet, above a progress bar when one is shown."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.outlet = Outlet(descriptor, self._notice)
        self.bar = BarFile(self.outlet, descriptor)

    def emit(self, record: logging.LogRecord) -> None:
        with lines_above(self.bar):
            self.outlet.write(self.format(record) + "\n")

    def _notice(self, dropped: int) -> str:
        text = "%s log lines were dropped: nobody took them, or writing them failed"
        record = log.makeRecord(
            log.name, logging.WARNING, "", 0, text, (f"{dropped:,}",), None, extra=None
        )
        record.fields = {"dropped": dropped}
        return self.format(record) + "\n"


class _Aside(logging.Handler):
    """PyMongo's own complaints of its threads, with a traceback each, which it would write to
    standard error itself: one line for who looks closely. What they failed at is tried again, or
    fails where the loader sees it."""

    def emit(self, record: logging.LogRecord) -> None:
        why = record.exc_info[1] if record.exc_info else None
        text = record.getMessage().rstrip(":")
        log.debug("%s%s", public_text(text), "" if why is None else f": {public_text(str(why))}")


def _uncaught(
    kind: type[BaseException], value: BaseException, traceback: TracebackType | None
) -> None:
    log.critical("unexpected %s", kind.__name__, exc_info=(kind, value, traceback))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def configure(level: str, style: str) -> Callable[[], None]:
    """Sends the loader's log, Python's and PyMongo's warnings, uncaught exceptions and progress
    bars to standard error, through one outlet.

    :param level: one of `LEVELS`
    :param style: one of `FORMATS`
    :return: what gives the last lines a little time to be written
    """
    handler = _Handler(STANDARD_ERROR)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.captureWarnings(True)
    for logger in (log, logging.getLogger("py.warnings")):
        logger.handlers[:] = [handler]
        logger.propagate = False
    pymongo = logging.getLogger("pymongo")
    pymongo.handlers[:] = [_Aside()]
    pymongo.propagate = False
    log.setLevel(level.upper())
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    Progress.file = handler.bar
    return handler.outlet.close
