"""json, msgspec and orjson write the same of a Document, by json_default."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import mmapcache

bson = pytest.importorskip("bson")
from bson.codec_options import CodecOptions  # noqa: E402 - after the skip

msgspec = pytest.importorskip("msgspec", reason="the test extra is not installed")
orjson = pytest.importorskip("orjson", reason="the test extra is not installed")

SINCE = datetime(2024, 2, 29, 1, 2, 3, 456000)
VALUES: dict[str, Any] = {
    "date": SINCE,
    "whole": SINCE.replace(microsecond=0),
    "old": datetime(1, 1, 1),
    "uuid": bson.Binary.from_uuid(uuid.UUID(int=5)),
    "bytes": b"\xff\xfe>?",
    "binary": bson.Binary(b"x", 128),
    "id": bson.ObjectId("0123456789abcdef01234567"),
    "decimal": bson.Decimal128("1.50"),
    "code": bson.Code("f()"),
    "scoped": bson.Code("f()", {"x": 1}),
    "numbers": [1, 2**62, -0.0, 1.5, 1e300, float("nan"), float("inf"), float("-inf")],
    "text": 'ä " \\ \n',
    "plain": [None, True, False, [], {}, ""],
    "deep": [{"since": SINCE, "more": [[SINCE, {"again": SINCE, "nan": float("nan")}]]}],
}
ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "json": lambda value: json.dumps(value, default=mmapcache.json_default).encode(),
    "msgspec": lambda value: bytes(msgspec.json.encode(value, enc_hook=mmapcache.json_default)),
    "orjson": lambda value: bytes(orjson.dumps(value, default=mmapcache.json_default)),
}
OPTIONS: dict[str, Any] = {
    "naive": None,
    "aware": CodecOptions(tz_aware=True),
    "zone": CodecOptions(tz_aware=True, tzinfo=timezone(timedelta(hours=2))),
}


def strictly(text: bytes) -> Any:
    """The value of JSON that has no NaN in it."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("options", OPTIONS)
def test_of_a_document_all_write_the_same(options: str) -> None:
    raw = bson.encode(VALUES)
    document = mmapcache.Document(raw, OPTIONS[options])
    for value in (document, {"within": [document]}, document["deep"], [document["numbers"]]):
        texts = {name: strictly(encode(value)) for name, encode in ENCODERS.items()}
        assert texts["json"] == texts["msgspec"] == texts["orjson"], texts
    plain = strictly(ENCODERS["json"](document))
    assert plain["numbers"][5:] == [None, None, None]
    assert plain["code"] == plain["scoped"] == "f()"
    assert plain["decimal"] == "1.50"
    assert plain["deep"][0]["more"][0][1]["again"] == plain["date"]
    shown = {
        "naive": "2024-02-29T01:02:03.456000Z",
        "aware": "2024-02-29T01:02:03.456000+00:00",
        "zone": "2024-02-29T03:02:03.456000+02:00",
    }
    assert plain["date"] == shown[options]
    assert document.to_dict()["date"].replace(tzinfo=None).minute == 2  # to_dict() is as it was


@pytest.mark.parametrize("name", ENCODERS)
def test_what_has_no_plain_form_is_extended_json(name: str) -> None:
    values: list[tuple[Any, dict[str, Any]]] = [
        (bson.Regex("a", "x"), {"$regularExpression": {"pattern": "a", "options": "x"}}),
        (bson.Timestamp(1, 2), {"$timestamp": {"t": 1, "i": 2}}),
        (bson.MinKey(), {"$minKey": 1}),
        (bson.MaxKey(), {"$maxKey": 1}),
        (bson.DatetimeMS(2**60), {"$date": {"$numberLong": str(2**60)}}),
        (bson.DBRef("c", SINCE, "d"), {"$ref": "c", "$id": f"{SINCE.isoformat()}Z", "$db": "d"}),
    ]
    for value, shown in values:
        document = mmapcache.Document(bson.encode({"value": [value]}))
        assert json.loads(ENCODERS[name](document)) == {"value": [shown]}
        assert json.loads(ENCODERS[name]([document["value"][0]])) == [shown]
    with pytest.raises(TypeError):
        ENCODERS[name]([object()])


def test_values_taken_out_differ_as_the_documentation_says() -> None:
    out = {"since": mmapcache.Document(bson.encode({"since": SINCE}))["since"]}
    ends = {name: encode(out)[-8:-2].decode() for name, encode in ENCODERS.items()}
    assert ends == {"json": "56000Z", "msgspec": "456000", "orjson": "456000"}
    one = {"since": mmapcache.json_default(out["since"])}
    assert len({json.dumps(json.loads(encode(one))) for encode in ENCODERS.values()}) == 1
