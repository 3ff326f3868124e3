"""The public BSON conformance vectors: read as bson.decode reads them, or refused.

They are `test/bson_corpus` of mongodb/mongo-python-driver and no part of this repository. They are
looked for in the directory that MMAPCACHE_BSON_CORPUS names, or in a directory bson-corpus beside
the checkout or one level below its neighbours; without them these tests are skipped, and say so.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

bson = pytest.importorskip("bson")

from bson.codec_options import CodecOptions, DatetimeConversion  # noqa: E402
from support.comparison import same  # noqa: E402

import mmapcache  # noqa: E402


def find_corpus() -> Path | None:
    """The directory of the vectors, if this machine has them."""
    if given := os.environ.get("MMAPCACHE_BSON_CORPUS"):
        return Path(given)
    around = Path(__file__).resolve().parents[2]
    places = [around / "bson-corpus", *sorted(around.glob("*/bson-corpus"))]
    return next((place for place in places if (place / "top.json").is_file()), None)


CORPUS = find_corpus()
pytestmark = pytest.mark.skipif(
    CORPUS is None,
    reason="the BSON corpus is not here: set MMAPCACHE_BSON_CORPUS to its directory to run these",
)
OPTIONS: Any = CodecOptions(
    uuid_representation=bson.binary.UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)


def vectors(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """All cases of one kind: (file and description, the case)."""
    found = []
    assert CORPUS is not None
    for path in sorted(CORPUS.glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")).get(kind, []):
            found.append((f"{path.stem}: {case['description']}", case))
    return found


def touch(value: object) -> None:
    """Reads every field and member, each by itself, twice."""
    if isinstance(value, mmapcache.Document):
        for name in value:
            assert value[name] is value[name]
            touch(value[name])
    elif isinstance(value, mmapcache.Array):
        for index in range(len(value)):
            assert value[index] is value[index]
            touch(value[index])


def test_valid(capsys: pytest.CaptureFixture[str]) -> None:
    """Every valid case, fully touched, is what bson.decode makes of it, and its bytes come back."""
    cases = vectors("valid")
    for description, case in cases:
        raw = bytes.fromhex(case["canonical_bson"])
        expected = bson.decode(raw, OPTIONS)
        document = mmapcache.Document(raw)
        touch(document)
        assert same(document, expected), description
        assert same(document.to_dict(), expected), description
        assert document.raw == raw, description
        assert repr(document)
        for spelling in ("degenerate_bson", "converted_bson"):
            if spelling in case:
                other = bytes.fromhex(case[spelling])
                assert same(mmapcache.Document(other), bson.decode(other, OPTIONS)), description
    with capsys.disabled():
        print(f"\nBSON corpus: {len(cases)} of {len(cases)} valid cases read as decoded")
    assert len(cases) == 728


def test_decode_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """Every case that a reader must refuse is refused, by Document and by put."""
    cases = vectors("decodeErrors")
    with mmapcache.Writer.anonymous(max_size="4MiB") as writer:
        for description, case in cases:
            raw = bytes.fromhex(case["bson"])
            with pytest.raises(mmapcache.InvalidDocument):
                mmapcache.Document(raw)
                pytest.fail(description)
            with pytest.raises(mmapcache.InvalidDocument), writer.batch() as batch:
                batch.put("corpus", 1, raw)
                pytest.fail(description)
        assert "corpus" not in writer.reader()
    with capsys.disabled():
        print(f"\nBSON corpus: {len(cases)} of {len(cases)} decode errors refused")
    assert len(cases) == 75
