"""The figures of docs/performance.md are those of docs/bench.json, which a person can read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.report import dumps, markdown, markers

pytestmark = pytest.mark.once

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("bench.json", "figures"),
        ("bench-live.json", "live figures"),
        ("bench-ring.json", "ring figures"),
    ],
)
def test_the_committed_run_is_short_and_makes_the_table(run: str, name: str) -> None:
    text = (DOCS / run).read_text("utf-8")
    assert len(text.splitlines()) <= 500
    report = json.loads(text)
    assert dumps(report) == text
    page = (DOCS / "performance.md").read_text("utf-8")
    begin, end = markers(name)
    assert page.split(begin)[1].split(end)[0].strip() == markdown(report).strip()


def test_a_group_is_listed_without_what_the_others_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.reads", None)  # importing it fails
    assert main(["--list", "--only", "ring.faults"]) == 0
    assert capsys.readouterr().out == "ring.faults\n"


def test_a_run_without_rows_is_json() -> None:
    assert json.loads(dumps({"rows": [], "failed": ["a: Error: b"]})) == {
        "rows": [],
        "failed": ["a: Error: b"],
    }
