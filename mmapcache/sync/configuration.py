"""--print-config: the merged options as a TOML file that --config takes, each with its origin.

Secrets are masked: what is left of a URI is its scheme and hosts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from datetime import date, time
from typing import Any

from mmapcache.cli import streams
from mmapcache.cli.output import DONE
from mmapcache.printing import printable
from mmapcache.sync.options import PER_COLLECTION, SETTINGS, CollectionOptions, Options
from mmapcache.sync.redaction import redact

_ALTERNATIVES = frozenset({"uri", "uri_file", "source", "database", "collection"})
_MASKED = "; user, password and options are not shown"
_BARE = re.compile(r"[A-Za-z0-9_-]+")
# What TOML does not take as it is, and JSON does.
_ESCAPED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def show(options: Options) -> int:
    """Prints the options to standard output; the exit status."""
    for line in lines(options):
        streams.show(line + "\n")
    return DONE


def lines(options: Options) -> Iterator[str]:
    """The TOML file's lines."""
    for key in SETTINGS:
        value = _value(options, key)
        origin = _origin(options.given, key) + (_MASKED if key == "uri" else "")
        if value is not None:
            yield f"{key} = {_toml(value)}  # {origin}"
        elif key not in _ALTERNATIVES:
            yield f"# {key} is not set"
    for collection in options.collections:
        yield ""
        yield from _table(collection)


def _table(options: CollectionOptions) -> Iterator[str]:
    """What is said of one collection; the rest it has from the settings above."""
    yield f"[[collection]]  # {_origin(options.given, '')}"
    if options.database:
        yield f"from = {_toml(options.origin)}"
    yield f"name = {_toml(options.name)}"
    for key in PER_COLLECTION:
        if key in options.given:
            yield f"{key} = {_toml(getattr(options, key))}  # {_origin(options.given, key)}"


def _origin(given: Mapping[str, str], key: str) -> str:
    return printable(redact(given.get(key, "default")))


def _value(options: Options, key: str) -> Any:
    """A setting's value; None when it has none, or when it is said in the tables."""
    if key == "collection":
        return None
    if key in PER_COLLECTION:
        return getattr(options.defaults, key)
    value = getattr(options, key)
    if key == "mode":
        return f"{value:04o}"
    if is_dataclass(value):  # which shows itself as it was given
        return str(value)
    if key == "source" and value is not None:
        return f"file:{value}"
    return value


def _toml(value: Any) -> str:
    """A value as TOML, on one line, without secrets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(redact(value))
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_name(name)} = {_toml(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)


def _name(name: str) -> str:
    return name if _BARE.fullmatch(name) else _quoted(redact(name))


def _quoted(text: str) -> str:
    """JSON's escapes are TOML's, too, but for the halves of surrogate pairs."""
    quoted = json.dumps(text, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
