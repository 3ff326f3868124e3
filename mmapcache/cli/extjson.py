"""BSON bytes to MongoDB Extended JSON v2, and keys from and to it, without needing PyMongo.

The idea: the command line shows what is stored, so it walks the stored bytes instead of going
through Python values; a 32-bit and a 64-bit integer stay two types in canonical form, and a host
that only runs workers can look into its cache with nothing else installed. Only a key of a rare
type (Decimal128, Regex, ...) is made by the `bson` module of PyMongo, imported then, and sought
among all keys where there is none.

    element = type byte | name NUL | payload          document = int32 length | element... | 0

The format follows https://github.com/mongodb/specifications, source/extended-json.md.
A document with the same field twice shows its last one, as `bson.decode` does.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final, cast

from mmapcache import CorruptError, object_id
from mmapcache.printing import json_text
from mmapcache.rare import RareValue

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_YEAR_10000_MS: Final = 253_402_300_800_000
_MAX_DEPTH: Final = 200

_int32 = struct.Struct("<i").unpack_from
_uint32 = struct.Struct("<I").unpack_from
_int64 = struct.Struct("<q").unpack_from
_uint64 = struct.Struct("<Q").unpack_from
_double = struct.Struct("<d").unpack_from


class KeyTextError(ValueError):
    """The text of a key is Extended JSON that cannot be a key here; the message is for people."""


class SoughtKey:
    """A key as Extended JSON, which no object can stand for without PyMongo."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def among(self, keys: Iterable[object]) -> object:
        """The one of `keys` that is it, in relaxed or in canonical form, or None."""
        sought = dumps(_relaxed(self.value))  # as text: True is not 1, and fields have an order
        return next((k for k in keys if dumps(_relaxed(key_to_extended(k))) == sought), None)


def to_extended(raw: bytes, *, canonical: bool = False) -> dict[str, Any]:
    """The Extended JSON value (dicts, lists, scalars) of one BSON document.

    Raises CorruptError when the bytes are not a BSON document.
    """
    try:
        return _Walker(raw, canonical).document(0, 0)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise CorruptError(f"a stored value is not a BSON document: {error}") from error


class _Walker:
    """Turns the elements of one BSON document into Extended JSON values."""

    def __init__(self, raw: bytes, canonical: bool) -> None:
        self.raw = raw
        self.canonical = canonical

    def document(self, at: int, depth: int) -> dict[str, Any]:
        """The document that starts at offset `at`."""
        return dict(self._elements(at, depth))

    def _elements(self, at: int, depth: int) -> list[tuple[str, Any]]:
        raw = self.raw
        end = at + _int32(raw, at)[0]
        if depth > _MAX_DEPTH or end > len(raw) or end < at + 5:
            raise ValueError("a length or a depth is out of bounds")
        at += 4
        found: list[tuple[str, Any]] = []
        while at < end - 1:
            kind = raw[at]
            stop = raw.index(0, at + 1, end)
            name = raw[at + 1 : stop].decode()
            value, at = self._value(kind, stop + 1, depth)
            found.append((name, value))
        if at != end - 1 or raw[at]:
            raise ValueError("an element crosses the end of its document")
        return found

    def _value(self, kind: int, at: int, depth: int) -> tuple[Any, int]:
        if kind in (0x03, 0x04):
            size = _int32(self.raw, at)[0]
            items = self._elements(at, depth + 1)
            return ([v for _, v in items] if kind == 0x04 else dict(items)), at + size
        if kind == 0x0F:
            return self._code_with_scope(at, depth)
        convert = _CONVERTERS.get(kind)
        if convert is None:
            raise ValueError(f"there is no BSON type 0x{kind:02x}")
        return convert(self, at)

    def _string(self, at: int) -> tuple[str, int]:
        size = _int32(self.raw, at)[0]
        end = at + 4 + size
        if size < 1 or end > len(self.raw) or self.raw[end - 1]:
            raise ValueError("a string's length is out of bounds")
        return self.raw[at + 4 : end - 1].decode(), end

    def _cstring(self, at: int) -> tuple[str, int]:
        stop = self.raw.index(0, at)
        return self.raw[at:stop].decode(), stop + 1

    def _number(self, at: int) -> tuple[Any, int]:
        value = _double(self.raw, at)[0]
        if math.isfinite(value):
            return ({"$numberDouble": repr(value)} if self.canonical else value), at + 8
        return {"$numberDouble": _not_finite(value)}, at + 8

    def _integer32(self, at: int) -> tuple[Any, int]:
        value = _int32(self.raw, at)[0]
        return ({"$numberInt": str(value)} if self.canonical else value), at + 4

    def _integer64(self, at: int) -> tuple[Any, int]:
        value = _int64(self.raw, at)[0]
        return ({"$numberLong": str(value)} if self.canonical else value), at + 8

    def _binary(self, at: int) -> tuple[Any, int]:
        size, subtype = _int32(self.raw, at)[0], self.raw[at + 4]
        start, end = at + 5, at + 5 + size
        if size < 0 or end > len(self.raw):
            raise ValueError("a binary's length is out of bounds")
        if subtype == 2 and size >= 4:
            start += 4
        return _binary_value(self.raw[start:end], subtype), end

    def _object_id(self, at: int) -> tuple[Any, int]:
        return {"$oid": self.raw[at : at + 12].hex()}, at + 12

    def _boolean(self, at: int) -> tuple[Any, int]:
        return self.raw[at] == 1, at + 1

    def _date(self, at: int) -> tuple[Any, int]:
        ms = _int64(self.raw, at)[0]
        if self.canonical or not 0 <= ms < _YEAR_10000_MS:
            return {"$date": {"$numberLong": str(ms)}}, at + 8
        return {"$date": _iso(_EPOCH + timedelta(milliseconds=ms))}, at + 8

    def _regex(self, at: int) -> tuple[Any, int]:
        pattern, at = self._cstring(at)
        options, at = self._cstring(at)
        return {"$regularExpression": {"pattern": pattern, "options": options}}, at

    def _db_pointer(self, at: int) -> tuple[Any, int]:
        name, at = self._string(at)
        return {"$dbPointer": {"$ref": name, "$id": self._object_id(at)[0]}}, at + 12

    def _code(self, at: int) -> tuple[Any, int]:
        text, at = self._string(at)
        return {"$code": text}, at

    def _symbol(self, at: int) -> tuple[Any, int]:
        text, at = self._string(at)
        return {"$symbol": text}, at

    def _code_with_scope(self, at: int, depth: int) -> tuple[Any, int]:
        end = at + _int32(self.raw, at)[0]
        text, at = self._string(at + 4)
        return {"$code": text, "$scope": self.document(at, depth + 1)}, end

    def _timestamp(self, at: int) -> tuple[Any, int]:
        increment, seconds = _uint32(self.raw, at)[0], _uint32(self.raw, at + 4)[0]
        return {"$timestamp": {"t": seconds, "i": increment}}, at + 8

    def _decimal(self, at: int) -> tuple[Any, int]:
        low, high = _uint64(self.raw, at)[0], _uint64(self.raw, at + 8)[0]
        return {"$numberDecimal": _decimal_text(low, high)}, at + 16


_CONVERTERS: Final[dict[int, Callable[[_Walker, int], tuple[Any, int]]]] = {
    0x01: _Walker._number,
    0x02: _Walker._string,
    0x05: _Walker._binary,
    0x06: lambda _, at: ({"$undefined": True}, at),
    0x07: _Walker._object_id,
    0x08: _Walker._boolean,
    0x09: _Walker._date,
    0x0A: lambda _, at: (None, at),
    0x0B: _Walker._regex,
    0x0C: _Walker._db_pointer,
    0x0D: _Walker._code,
    0x0E: _Walker._symbol,
    0x10: _Walker._integer32,
    0x11: _Walker._timestamp,
    0x12: _Walker._integer64,
    0x13: _Walker._decimal,
    0x7F: lambda _, at: ({"$maxKey": 1}, at),
    0xFF: lambda _, at: ({"$minKey": 1}, at),
}


def _decimal_text(low: int, high: int) -> str:
    """IEEE 754-2008 decimal128 (binary integer coding) as MongoDB writes it."""
    sign, combination = high >> 63, (high >> 58) & 0x1F
    if combination == 0x1F:
        return "NaN"
    if combination == 0x1E:
        return "-Infinity" if sign else "Infinity"
    if combination >> 3 == 3:
        exponent, coefficient = (high >> 47) & 0x3FFF, 0
    else:
        exponent, coefficient = (high >> 49) & 0x3FFF, ((high & ((1 << 49) - 1)) << 64) | low
    if coefficient >= 10**34:
        coefficient = 0
    return str(Decimal((sign, tuple(map(int, str(coefficient))), exponent - 6176)))


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _iso(moment: datetime) -> str:
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    ms = moment.microsecond // 1000
    return f"{text}.{ms:03d}Z" if ms else f"{text}Z"


def _binary_value(data: bytes, subtype: int) -> dict[str, Any]:
    text = base64.b64encode(data).decode("ascii")
    return {"$binary": {"base64": text, "subType": f"{subtype:02x}"}}


def key_to_extended(key: object) -> Any:
    """The Extended JSON value of a key as iteration gives it; `parse_key` reads it back."""
    if key is None or type(key) is str or isinstance(key, (bool, int)):  # bson.Code is a str, too
        return key
    if isinstance(key, float):
        if math.isfinite(key):
            return key
        return {"$numberDouble": _not_finite(key)}
    if isinstance(key, uuid.UUID):
        return {"$uuid": str(key)}
    if isinstance(key, datetime):
        aware = key if key.tzinfo else key.replace(tzinfo=timezone.utc)
        return {"$date": _iso(aware.astimezone(timezone.utc))}
    raw = getattr(key, "raw", None)
    if isinstance(raw, bytes):
        return to_extended(raw)
    if isinstance(key, object_id) or type(key).__name__ == "ObjectId":
        return {"$oid": str(key)}
    if isinstance(key, RareValue):
        return key.extended()
    if isinstance(key, SoughtKey):
        return key.value
    if type(key) is bytes:
        return _binary_value(key, 0)
    from bson import json_util

    return json.loads(json_util.dumps(key, json_options=json_util.RELAXED_JSON_OPTIONS))


def key_text(key: object) -> str:
    """One line for people and for `mmapcache get`: a plain string bare, all else Extended JSON."""
    if type(key) is str and isinstance(parse_plain(key), str) and key.isprintable():
        return key
    return dumps(key_to_extended(key))


def dumps(value: object) -> str:
    """Compact JSON on one line, with an escape for what a terminal would obey."""
    return json_text(value)


def parse_plain(text: str) -> Any:
    """`text` as JSON when it parses, else `text` itself (NaN and Infinity are no JSON)."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def parse_key(text: str) -> Any:
    """The key that KEY of ``mmapcache get`` names: Extended JSON when it parses, else a string.

    A SoughtKey where PyMongo would be needed to make an object of it and is not there. Raises
    KeyTextError when it parses to something that cannot be a key.
    """
    value = parse_plain(text)
    if isinstance(value, list):
        raise KeyTextError(f"an array cannot be a key; for the string write {dumps(text)!r}")
    if not isinstance(value, dict):
        return value
    simple = _parse_wrapper(cast("Mapping[str, Any]", value))
    if simple is not None:
        return simple
    if not _has_wrapper(value):
        return value
    try:
        from bson import DatetimeConversion, json_util
        from bson.binary import UuidRepresentation
        from bson.errors import BSONError
    except ImportError:
        return SoughtKey(value)
    options = json_util.JSONOptions(
        uuid_representation=UuidRepresentation.STANDARD,
        datetime_conversion=DatetimeConversion.DATETIME_AUTO,  # a year may be past 9999
        tz_aware=True,
    )
    try:
        return json_util.loads(text, json_options=options)
    except (ValueError, TypeError, KeyError, ArithmeticError, BSONError) as error:
        raise KeyTextError(f"the key {text} is not Extended JSON: {error}") from None


def _parse_wrapper(value: Mapping[str, Any]) -> Any:
    """The frequent one-field wrappers, read without PyMongo; None when `value` is not one."""
    if len(value) != 1:
        return None
    ((name, inner),) = value.items()
    try:
        if name == "$oid":
            return object_id(inner)
        if name in ("$numberInt", "$numberLong"):
            return int(inner)
        if name == "$numberDouble":
            return float(inner)
        if name == "$uuid":
            return uuid.UUID(inner)
        if name == "$binary" and int(inner["subType"], 16) in (0, 4):
            data = base64.b64decode(inner["base64"], validate=True)
            return data if int(inner["subType"], 16) == 0 else uuid.UUID(bytes=data)
        if name == "$date" and isinstance(inner, str):
            return datetime.fromisoformat(inner.replace("Z", "+00:00"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise KeyTextError(f"the key {dumps(value)} is not Extended JSON: {error}") from None
    return None


def _relaxed(value: Any) -> Any:
    """An Extended JSON value, as relaxed as it can be: one form for what is one value."""
    if isinstance(value, list):
        return [_relaxed(one) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, inner),) = value.items()
        try:
            if name in ("$numberInt", "$numberLong"):
                return int(inner)
            if name == "$numberDouble" and math.isfinite(float(inner)):
                return float(inner)
            if name == "$uuid":
                return _binary_value(uuid.UUID(inner).bytes, 4)
            if name == "$date" and 0 <= int(inner["$numberLong"]) < _YEAR_10000_MS:
                return {"$date": _iso(_EPOCH + timedelta(milliseconds=int(inner["$numberLong"])))}
        except (ValueError, TypeError, KeyError, AttributeError):
            return value  # it is no key's, then
    return {name: _relaxed(one) for name, one in value.items()}


def _has_wrapper(value: object) -> bool:
    if isinstance(value, dict):
        return any(k.startswith("$") or _has_wrapper(v) for k, v in value.items())
    return isinstance(value, list) and any(map(_has_wrapper, value))
