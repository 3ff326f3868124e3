"""One parser for each kind of option; the text of its ValueError completes "… must be"."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mmapcache import MAX_SIZE, MIN_SIZE

_SIZE: Final = re.compile(
    r"(?P<number>[0-9]{1,20}(\.[0-9]{1,20})?) *(?P<unit>b?|[kmgt]i?b?)", re.IGNORECASE | re.ASCII
)

FIELD_BYTES: Final = 255  # the cache's own limit for the path of an index's field


@dataclass(frozen=True, slots=True)
class Settle:
    """How long a burst of changes may take before it is published; seconds.

    :param shortest: so long nothing more has come
    :param longest: so old is its first change
    """

    shortest: float = 0.005
    longest: float = 0.1

    def __str__(self) -> str:
        return f"{self.shortest * 1000:g}:{self.longest * 1000:g}"


DEFAULT_SETTLE = Settle()


@dataclass(frozen=True, slots=True)
class Marker:
    """Publication is held while a document of a collection matches a filter.

    :param origin: `DB.COLL`
    :param filter: Extended JSON
    """

    origin: str
    filter: str

    def __str__(self) -> str:
        return f"{self.origin}:{self.filter}"


def marker(value: object) -> Marker:
    origin, brace, rest = value.partition(":{") if isinstance(value, str) else ("", "", "")
    try:
        if not brace or "." not in origin.strip("."):
            raise ValueError
        if not isinstance(json.loads("{" + rest), dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise ValueError('DB.COLL:FILTER, such as shop.migrations:{"running": true}') from None
    return Marker(origin, "{" + rest)


def text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a text that is not empty")
    return value


def number(least: float, *, zero: bool = False) -> Callable[[object], float]:
    def parse(value: object) -> float:
        try:
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise ValueError
            number = float(value)
            if not (least <= number <= 1e9 or (zero and number == 0)):
                raise ValueError
        except ValueError:
            raise ValueError(f"seconds, {least:g} or more") from None
        return number

    return parse


def hours(value: object) -> float:
    try:
        return number(0.001, zero=True)(value)
    except ValueError:
        raise ValueError("hours, such as 24 or 0.5; 0: never") from None


def settle(value: object) -> Settle:
    error = ValueError("two numbers of milliseconds, MIN:MAX, such as 5:100")
    if not isinstance(value, str):
        raise error
    try:
        shortest, longest = (float(part) / 1000 for part in value.split(":"))
    except ValueError:
        raise error from None
    if not 0 <= shortest <= longest <= 60:
        raise ValueError(f"{error}: MIN at most MAX, MAX at most 60000")
    return Settle(shortest, longest)


def flag(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("true or false")


def choice(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        for choice in choices:
            if isinstance(value, str) and value.lower() == choice.lower():
                return choice
        raise ValueError("one of " + ", ".join(choices))

    return parse


def size(value: object) -> str:
    try:
        if isinstance(value, bool) or not MIN_SIZE <= bytes_of(str(value)) <= MAX_SIZE:
            raise ValueError
    except ValueError:
        raise ValueError(
            "a number of bytes such as 1073741824, 512MiB or 1.5GiB, from 2MiB to 1TiB"
        ) from None
    return str(value).strip()


def bytes_of(size: str) -> int:
    """The bytes of a size such as 512MiB, 1.5GiB or, metric, 512MB: as Writer reads it.

    :raises ValueError: it is none
    """
    parts = _SIZE.fullmatch(size.strip())
    if parts is None:
        raise ValueError
    base = 1000 if parts["unit"].lower()[1:] == "b" else 1024
    return int(float(parts["number"]) * base ** "bkmgt".index(parts["unit"].lower()[:1] or "b"))


def mode(value: object) -> int:
    try:
        mode = int(value, 8) if isinstance(value, str) else value
    except ValueError:
        mode = None
    if not isinstance(mode, int) or isinstance(mode, bool) or mode & ~0o777:
        raise ValueError('octal permissions such as "0640"')
    if mode & 0o600 != 0o600:
        raise ValueError("readable and writable for the owner (0600)")
    if mode & 0o002:
        raise ValueError("without write permission for others: readers refuse such a file")
    return mode


def count(value: object) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError
        count = int(value)
        if not 1 <= count <= 1_000_000:
            raise ValueError
    except ValueError:
        raise ValueError("a number of documents from 1 to 1000000") from None
    return count


def texts(value: object) -> list[str]:
    """A list of names as they are, or (in a variable) names separated by commas and spaces."""
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise ValueError("one or more names")
    return [text(item) for item in items]


def fields(value: object) -> tuple[str, ...]:
    """Dotted paths, as `texts` has them, that an index can be of; each once."""
    paths = tuple(dict.fromkeys(texts(value)))
    for path in paths:
        with contextlib.suppress(UnicodeEncodeError):
            if "\0" not in path and len(path.encode()) <= FIELD_BYTES:
                continue
        raise ValueError(f"fields of at most {FIELD_BYTES} bytes of UTF-8")
    return paths


def document(value: object) -> Mapping[str, Any] | str:
    """A table, or Extended JSON for an object; the conversion to BSON is the source's."""
    if isinstance(value, Mapping):
        return value
    try:
        if isinstance(value, str) and isinstance(json.loads(value), dict):
            return value
    except (ValueError, RecursionError):
        pass
    raise ValueError('a JSON object such as {"active": true}')
