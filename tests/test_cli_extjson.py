"""The command line's own Extended JSON against PyMongo's, for every BSON type."""

from __future__ import annotations

import datetime
import json
import math
import uuid
from typing import Any

import pytest
from support.raw_bson import nested

from mmapcache import CorruptError, object_id
from mmapcache.cli import extjson

bson = pytest.importorskip("bson")
from bson import json_util  # noqa: E402

UTC = datetime.timezone.utc
EVERYTHING: dict[str, Any] = {
    "double": 1.5,
    "nan": math.nan,
    "infinite": [math.inf, -math.inf, -0.0, 1e300],
    "string": "gr\u00fc\u00dfe \U0001f600",
    "document": {"a": {"b": {"c": [1, [2, [3]]]}}},
    "empty": [{}, [], ""],
    "binary": [b"bytes", bson.Binary(b"\x01\x02", 128), uuid.UUID(int=12)],
    "oid": bson.ObjectId("5f3c" * 6),
    "booleans": [True, False],
    "dates": [
        datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        datetime.datetime(1969, 12, 31, tzinfo=UTC),
        datetime.datetime(9999, 12, 31, tzinfo=UTC),
    ],
    "null": None,
    "regex": bson.Regex("^a.*b$", "im"),
    "code": [bson.Code("f()"), bson.Code("f()", {"x": 1})],
    "int32": [0, -1, 2**31 - 1],
    "int64": [bson.Int64(5), 2**31, -(2**63)],
    "timestamp": bson.Timestamp(1_700_000_000, 3),
    "decimals": [
        bson.Decimal128(text)
        for text in ("0", "-0", "1.50", "1E+6144", "9.999E-6143", "0E-20", "NaN", "-Infinity")
    ],
    "keys": [bson.MinKey(), bson.MaxKey()],
}


@pytest.mark.parametrize("canonical", [True, False])
def test_equals_pymongo(canonical: bool) -> None:
    options = json_util.JSONOptions(
        json_mode=json_util.JSONMode.CANONICAL if canonical else json_util.JSONMode.RELAXED,
        uuid_representation=bson.binary.UuidRepresentation.UNSPECIFIED,
        tz_aware=True,
    )
    codec = bson.CodecOptions(uuid_representation=bson.binary.UuidRepresentation.STANDARD)
    raw = bson.encode(EVERYTHING, codec_options=codec)
    decoded = bson.decode(
        raw,
        bson.CodecOptions(
            tz_aware=True, document_class=dict, unicode_decode_error_handler="strict"
        ),
    )
    expected = json.loads(json_util.dumps(decoded, json_options=options))
    assert json.dumps(extjson.to_extended(raw, canonical=canonical)) == json.dumps(expected)


def test_truncated_and_flipped_bytes_are_corrupt_or_read() -> None:
    codec = bson.CodecOptions(uuid_representation=bson.binary.UuidRepresentation.STANDARD)
    raw = bson.encode(EVERYTHING, codec_options=codec)
    for at in range(len(raw)):
        with pytest.raises(CorruptError):
            extjson.to_extended(raw[:at])
        flipped = bytearray(raw)
        flipped[at] ^= 0x80
        try:
            extjson.to_extended(bytes(flipped))
        except CorruptError as error:
            assert "BSON" in str(error)


def test_depth_is_bounded() -> None:
    with pytest.raises(CorruptError):
        extjson.to_extended(nested(301))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("9f3c", "9f3c"),
        ("5", 5),
        ('"5"', "5"),
        ("5.5", 5.5),
        ("true", True),
        ("null", None),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("[open", "[open"),
        ("", ""),
        ('{"$numberInt": "7"}', 7),
        ('{"$numberDouble": "-Infinity"}', -math.inf),
        ('{"$uuid": "00000000-0000-0000-0000-00000000000c"}', uuid.UUID(int=12)),
        ('{"$binary": {"base64": "AQI=", "subType": "00"}}', b"\x01\x02"),
        ('{"$oid": "5f3c5f3c5f3c5f3c5f3c5f3c"}', object_id("5f3c" * 6)),
        ('{"$numberDecimal": "1.5"}', bson.Decimal128("1.5")),
        (
            '{"a": 1, "b": {"$oid": "5f3c5f3c5f3c5f3c5f3c5f3c"}}',
            {"a": 1, "b": bson.ObjectId("5f3c" * 6)},
        ),
        ('{"$date": "2026-01-02T03:04:05.678Z"}', EVERYTHING["dates"][0]),
    ],
)
def test_keys_from_text_and_back(text: str, key: object) -> None:
    found = extjson.parse_key(text)
    assert found == key
    assert type(found) is type(key)
    again = extjson.parse_key(extjson.key_text(found))
    assert again == key
    assert type(again) is type(key)


@pytest.mark.parametrize(
    "text",
    ["[1]", '{"$oid": 5}', '{"$uuid": "x"}', '{"$binary": {"base64": "!"}}', '{"$date": "x"}'],
)
def test_what_cannot_be_a_key(text: str) -> None:
    with pytest.raises(extjson.KeyTextError):
        extjson.parse_key(text)
