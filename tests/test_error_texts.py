"""Errors about paths that are no UTF-8, or so long that the sentence is cut, say what they mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import mmapcache


@pytest.mark.parametrize(
    "name", [b"caf\xe9", b"\x80" * 200, "é".encode() * 100, "€".encode() * 70, "😀".encode() * 60]
)
def test_any_path_in_an_error(cache_path: Path, name: bytes) -> None:
    for extra in range(4):
        folder = os.fsencode(cache_path.parent) + b"/" + b"x" * extra + name
        with pytest.raises(mmapcache.NotReadyError) as missing:
            mmapcache.open(folder)
        str(missing.value).encode()  # whoever logs it need not know surrogates
        Path(os.fsdecode(folder)).mkdir()
        deep = folder + b"/" + name
        with pytest.raises(mmapcache.NotReadyError):
            mmapcache.open(deep)
        with pytest.raises((mmapcache.MmapCacheError, OSError)) as taken:
            mmapcache.open(folder)  # a directory
        str(taken.value).encode()
        with pytest.raises((mmapcache.MmapCacheError, OSError)) as refused:
            mmapcache.Writer(folder + b"/none/" + name)
        str(refused.value).encode()
        assert not isinstance(refused.value, UnicodeError)
        assert not isinstance(taken.value, UnicodeError)


def test_a_character_is_not_cut(cache_path: Path) -> None:
    for extra in range(8):
        path = cache_path.parent / ("x" * extra + "😀" * 60) / ("😀" * 60)
        with pytest.raises(mmapcache.NotReadyError) as missing:
            mmapcache.open(path)
        text = str(missing.value)
        assert "\\x" not in text
        assert "\ufffd" not in text
        assert len(text.encode()) > 300


def test_a_path_that_is_no_text_is_used_as_given(cache_path: Path) -> None:
    path = os.fsencode(cache_path) + b"\xff\xe9"
    with mmapcache.Writer(path, max_size="4MiB") as writer:
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1})
        with pytest.raises(mmapcache.LockTimeout):
            mmapcache.Writer(path)
        writer.report(error=os.fsdecode(path), source=os.fsdecode(path))
        with mmapcache.open(path) as cache:
            assert os.fsencode(cache.path) == path
            assert cache["sites"][1] == {"_id": 1}
            status = cache.status()
            assert str(status["error"]).endswith("\\udcff\\udce9")


def test_a_report_is_not_cut_within_a_character(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        for text in ("é" * 300, "x" + "é" * 300, "€" * 300, "x😀" * 300):
            writer.report(state=text, error=text, source=text)
            status: Mapping[str, Any] = writer.status()
            for name, size in (("state", 31), ("error", 479), ("source", 255)):
                shown = status[name]
                assert text.startswith(shown)
                assert size - 3 <= len(shown.encode()) <= size
