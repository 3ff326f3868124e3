"""The figures of docs/performance.md are those of docs/bench.json, which a person can read."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.data import zipfian
from benchmarks.harness import Row, percentile99, quantities
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


def test_a_percentile_stands_beside_its_median() -> None:
    row = Row("a", "read", 10.0, "ns", 20.0, "dict", 0.5, 0.6, p99=31.0, peer_p99=42.0)
    assert quantities(row) == ("10 ns, p99 31 ns", "20 ns, p99 42 ns dict")
    assert percentile99(range(100, 0, -1)) == 99
    assert percentile99([7]) == 7


def test_zipfian_draws_are_as_uneven_as_they_should_be() -> None:
    drawn = Counter(zipfian(10_000, 50_000, seed=1))
    hottest = [count / 50_000 for _, count in drawn.most_common(3)]
    wanted = [rank**-0.99 / sum(r**-0.99 for r in range(1, 10_001)) for rank in (1, 2, 3)]
    assert hottest == pytest.approx(wanted, rel=0.1)
    assert max(drawn) < 10_000
