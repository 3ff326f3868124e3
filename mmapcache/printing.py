"""Text of others made safe to print: names, keys, states and errors come from files and servers.

A control character in them could move a terminal's cursor, retitle its window or begin a line of a
log that nobody wrote. What is shown instead is an escape as Python and JSON write it: `\\x1b`,
`\\n`, `\\u202e`. Everything else stays as it is, letters of all scripts included.

And how pprint breaks Documents and Arrays into lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

# DEL and C1; what changes the direction of text; separators of lines and paragraphs; the halves of
# surrogate pairs, which stand for the bytes of a path that are not UTF-8 and cannot be encoded.
_UNSAFE: Final = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_IN_TEXT: Final = re.compile(f"[\0-\x1f{_UNSAFE}]")
_IN_JSON: Final = re.compile(f"[{_UNSAFE}]")
_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str) -> str:
    """`text` as a part of one line, with an escape for whatever a terminal would obey."""
    return _IN_TEXT.sub(_escape, text)


def json_text(
    value: object,
    *,
    indent: int | None = None,
    ascii_only: bool = False,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """`value` as JSON, compact unless `indent` is given, whose strings are as safe as `printable`
    text is and are still what they were for whoever parses it."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(
        value, ensure_ascii=ascii_only, indent=indent, separators=separators, default=default
    )
    return escape_json(text)


def escape_json(text: str) -> str:
    """The same JSON, with an escape in its strings for whatever a terminal would obey."""
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def register_pprint(document: type, array: type) -> None:
    """Make the loaded pprint print both types as it prints a dict and a list, in their brackets.

    The extension calls this. pprint has no public way in: where it is not as it was since Python
    3.5, it goes on printing their repr().
    """
    import pprint  # it is there already, and a service may never need it

    dispatch = getattr(pprint.PrettyPrinter, "_dispatch", None)
    if isinstance(dispatch, dict):
        dispatch[document.__repr__] = partial(_pprint_within, dict)
        dispatch[array.__repr__] = partial(_pprint_within, list)


def _pprint_within(
    plain: Callable[[Any], Any],
    printer: Any,
    value: Any,
    stream: Any,
    indent: int,
    allowance: int,
    context: Any,
    level: int,
) -> None:
    name = type(value).__name__
    try:
        members = plain(value)
    except ImportError:  # PyMongo, whose classes a value needs; repr() shows it without
        stream.write(repr(value))
        return
    stream.write(f"{name}(")
    printer._format(members, stream, indent + len(name) + 1, allowance + 1, context, level)
    stream.write(")")
