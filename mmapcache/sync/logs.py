"""Log lines for people or for machines, each passed through the redaction of secrets.

2026-01-01T12:00:00.000Z info    generation 7: 3 put, 1 deleted in 0.1 s
{"time": "2026-01-01T12:00:00.000Z", "level": "info", "message": "...", "generation": 7}
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, TextIO

from mmapcache.printing import escape_json, printable
from mmapcache.sync.progress import lines_above
from mmapcache.sync.redaction import public_text, redact

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
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
    """Writes whole lines to the stream, above a progress bar when one is shown."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            with lines_above(self._stream):
                self._stream.write(line)
                self._stream.flush()
        except (OSError, ValueError):
            pass  # a closed standard error must not end the loader


def _uncaught(
    kind: type[BaseException], value: BaseException, traceback: TracebackType | None
) -> None:
    log.critical("unexpected %s", kind.__name__, exc_info=(kind, value, traceback))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """Sends the loader's log, Python's warnings and uncaught exceptions to one redacting handler.

    :param level: one of `LEVELS`
    :param style: one of `FORMATS`
    :param stream: standard error unless given
    """
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.captureWarnings(True)
    for logger in (log, logging.getLogger("py.warnings")):
        logger.handlers[:] = [handler]
        logger.propagate = False
    log.setLevel(level.upper())
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
