"""The figures of docs/performance.md are those of docs/bench.json, which a person can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import BEGIN, END, dumps, markdown

pytestmark = pytest.mark.once

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_committed_run_is_short_and_makes_the_table() -> None:
    text = (DOCS / "bench.json").read_text("utf-8")
    assert len(text.splitlines()) <= 500
    report = json.loads(text)
    assert dumps(report) == text
    page = (DOCS / "performance.md").read_text("utf-8")
    assert page.split(BEGIN)[1].split(END)[0].strip() == markdown(report).strip()


def test_a_run_without_rows_is_json() -> None:
    assert json.loads(dumps({"rows": [], "failed": ["a: Error: b"]})) == {
        "rows": [],
        "failed": ["a: Error: b"],
    }
