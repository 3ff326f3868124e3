"""The file source: Extended JSON in its shapes, .bson, directories, and errors with their place."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from mmapcache.sync import files
from mmapcache.sync.errors import SourceAwayError, SourceRefusedError, UsageError
from mmapcache.sync.files import FileSource

bson = pytest.importorskip("bson")
NOTHING: frozenset[str] = frozenset()


def write(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path: Path, known: frozenset[str] = NOTHING) -> dict[str, list[dict[str, Any]]]:
    source = FileSource(str(path), allow_empty=False)
    return {
        feed.name: bson.decode_all(b"".join(source.buffers(feed)))
        for feed in source.feeds(known, estimate=True)
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"_id": 1}\n{"_id": 2}\n',
        '{"_id": 1}\r\n\r\n{"_id": 2}',
        '[{"_id": 1}, {"_id": 2}]',
        '[\n  {"_id": 1},\n  {"_id": 2}\n]\n',
        '{\n "_id": 1\n}\n{\n "_id": 2\n}\n',
        '{"_id": 1}{"_id": 2}',
        '\ufeff{"_id": 1}\n{"_id": 2}\n',
    ],
)
def test_shapes_of_json(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, "sites.json", text)) == {"sites": [{"_id": 1}, {"_id": 2}]}


@pytest.mark.parametrize("text", ["", " \n", "[]", "[ ]\n"])
def test_an_empty_file_is_an_empty_collection(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, "sites.jsonl", text)) == {"sites": []}


def test_extended_json_keeps_types(tmp_path: Path) -> None:
    text = (
        '{"_id": {"$oid": "5f5e100000000000000000aa"}, "long": {"$numberLong": "5"}, "int": 5,'
        ' "when": {"$date": "2020-01-02T03:04:05.678Z"}, "bin": {"$binary": {"base64": "AAE=",'
        ' "subType": "00"}}, "uuid": {"$uuid": "00112233-4455-6677-8899-aabbccddeeff"},'
        ' "dec": {"$numberDecimal": "1.50"}, "late": {"$date": {"$numberLong": "999999999999999"}}}'
    )
    source = FileSource(str(write(tmp_path, "t.ndjson", text)), allow_empty=False)
    (feed,) = source.feeds(NOTHING, estimate=False)
    raw = b"".join(source.buffers(feed))
    assert b"\x12long\0" in raw  # a 64-bit integer stays one
    assert b"\x10int\0" in raw
    assert b"\x05uuid\0\x10\0\0\0\x04" in raw  # subtype 4
    (document,) = bson.decode_all(
        raw, bson.CodecOptions(datetime_conversion=bson.DatetimeConversion.DATETIME_MS)
    )
    assert int(document["when"]) == 1577934245678
    assert datetime.fromtimestamp(1577934245, timezone.utc).year == 2020
    assert int(document["late"]) == 999999999999999
    assert document["dec"] == bson.Decimal128("1.50")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"_id": 1}\n{"_id": 2\n', "line 3"),
        ('{"_id": 1}\n\n{"_id": nope}\n', "line 3 column 9"),
        ('{"_id": 1}\n{"a": 2}\n', "line 2: the document has no _id"),
        ('{"_id": 1}\n7\n', "line 2: not a document"),
        ('[{"_id": 1}, 7]', "line 1: not a document"),
        ('[{"_id": 1},\n {"_id": 2}', "line 2: the array ends without its ]"),
        ('[{"_id": 1}\n {"_id": 2}]', "line 2: the array ends without its ]"),
        ('[{"_id": 1}]\n{"_id": 2}', "the array ends"),
        ('{"_id": {"$oid": "xyz"}}', "line 1:"),
        ('{"_id": 1, "n": {"$numberLong": "no"}}', "line 1:"),
    ],
)
def test_wrong_json_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SourceRefusedError) as caught:
        load(write(tmp_path, "bad.json", text))
    assert message in str(caught.value)
    assert "bad.json" in str(caught.value)


def test_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(SourceRefusedError, match="not UTF-8: byte 9"):
        load(write(tmp_path, "bad.json", b'{"_id": "\xff"}'))


def test_bson_is_cut_between_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BUFFER_BYTES", 1000)
    documents = [bson.encode({"_id": i, "text": "x" * (i * 7 % 1500)}) for i in range(200)]
    path = write(tmp_path, "sites.bson", b"".join(documents))
    source = FileSource(str(path), allow_empty=False)
    (feed,) = source.feeds(NOTHING, estimate=False)
    buffers = list(source.buffers(feed))
    assert len(buffers) > 10
    assert b"".join(buffers) == b"".join(documents)
    assert sum(len(bson.decode_all(buffer)) for buffer in buffers) == 200  # each whole by itself


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bson.encode({"_id": 1})[:-3], "cut short: the document at offset 0"),
        (bson.encode({"_id": 1}) + b"\x05\0", "offset 14 has only 2 bytes"),
        (bson.encode({"_id": 1}) + b"\x04\0\0\0\0", "offset 14 claims 4 bytes"),
        (b"\xff\xff\xff\xff\0", "claims -1 bytes"),
        (b"\xff\xff\xff\x7f\0", "claims 2147483647 bytes"),
        (b"\x05\0\0\0\x01", "offset 0 has no end"),
        (b'{"_id": 1}', "claims"),
    ],
)
def test_wrong_bson_says_where(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(SourceRefusedError) as caught:
        load(write(tmp_path, "bad.bson", content))
    assert message in str(caught.value)


def test_directory(tmp_path: Path) -> None:
    write(tmp_path, "sites.bson", bson.encode({"_id": 1}))
    write(tmp_path, "sites.metadata.json", "{}")
    write(tmp_path, "system.indexes.bson", b"")
    write(tmp_path, ".hidden.json", "nonsense")
    write(tmp_path, "README.txt", "nonsense")
    write(tmp_path, "rates.json", '{"_id": 2}')
    (tmp_path / "below").mkdir()
    assert load(tmp_path) == {"rates": [{"_id": 2}], "sites": [{"_id": 1}]}
    source = FileSource(str(tmp_path), allow_empty=False)
    assert (source.discovers, source.scope) == (True, f"directory {tmp_path}")
    write(tmp_path, "sites.json", "[]")
    with pytest.raises(SourceRefusedError, match="both be the collection 'sites'"):
        load(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceRefusedError, match="no file"):
        load(tmp_path / "none.json")
    with pytest.raises(SourceRefusedError, match=r"no \.json or \.bson file"):
        load(tmp_path)
    assert load(tmp_path, known=frozenset({"sites"})) == {}
    with pytest.raises(UsageError, match=r"only \.json"):
        FileSource(str(tmp_path / "settings.yaml"), allow_empty=False)
    gone = tmp_path / "gone"
    gone.mkdir()
    source = FileSource(str(gone), allow_empty=False)
    gone.rmdir()
    with pytest.raises(SourceAwayError, match="cannot read"):
        list(source.feeds(NOTHING, estimate=False))
