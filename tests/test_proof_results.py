"""`make proof ARGS=--write` replaces lines of its table in the page of results, and nothing else
there; and `make sanitize` leaves out what there is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import run as proof
import sanitize

pytestmark = pytest.mark.once

ROW = ("crash points", "22", "0", "3 s")


def test_lines_of_the_table_are_replaced(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(proof.RESULTS.read_text())
    before, _, rest = page.read_text().partition(proof.BEGIN)
    after = rest.partition(proof.END)[2]
    names = ["model", "crash points", "fuzzers"]
    day = time.strftime("%d %B %Y").removeprefix("0")
    proof.write(ROW, names, page)
    proof.write(("model", "1 + 2", "0", "4 s"), names, page)
    proof.write(("crash points", "23", "see x.log", "5 s"), names, page)
    proof.write(("fuzzers", "9", "0", "6 s"), names, page)
    written = page.read_text()
    assert written.startswith(before + proof.BEGIN)
    assert written.endswith(
        "| what | cases | violations | took | on |\n| --- | --- | --- | --- | --- |\n"
        f"| model | 1 + 2 | 0 | 4 s | {day} |\n"
        f"| crash points | 23 | see x.log | 5 s | {day} |\n"
        f"| fuzzers | 9 | 0 | 6 s | {day} |\n" + proof.END + after
    )
    proof.write(("fuzzers", "9", "0", "6 s"), names[1:], page)
    assert "| model |" not in page.read_text()


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("text\n")
    with pytest.raises(SystemExit, match="put the lines"):
        proof.write(ROW, ["crash points"], page)
    assert page.read_text() == "text\n"


def test_what_the_sanitizers_watch() -> None:
    names = {Path(name).name for name in sanitize.watched()}
    assert names >= {"test_keys.py", "test_writer.py", *sanitize.KEPT}
    assert not names & {"test_sync.py", "test_live_server.py", "test_demo_run.py"}


def test_a_file_that_has_gone_is_no_reason_to_leave_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sanitize.LEFT_OUT, "test_gone.py", "it was Python")
    with pytest.raises(SystemExit, match=r"there is no tests/test_gone\.py"):
        sanitize.watched()
