"""`make proof ARGS=--write` replaces its table in the page of results, and nothing else there."""

from __future__ import annotations

from pathlib import Path

import pytest
import run as proof

pytestmark = pytest.mark.once

ROWS = [("what", "cases", "violations", "took"), ("crash points", "22", "0", "3 s")]


def test_the_table_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(proof.RESULTS.read_text())
    before, _, rest = page.read_text().partition(proof.BEGIN)
    after = rest.partition(proof.END)[2]
    proof.write(ROWS, "the full table", 90.0, page)
    written = page.read_text()
    assert written.startswith(before + proof.BEGIN)
    assert written.endswith(
        "| what | cases | violations | took |\n| --- | --- | --- | --- |\n"
        "| crash points | 22 | 0 | 3 s |\n" + proof.END + after
    )


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("text\n")
    with pytest.raises(SystemExit, match="put the lines"):
        proof.write(ROWS, "the full table", 90.0, page)
    assert page.read_text() == "text\n"
