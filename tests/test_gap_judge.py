"""The judge of the gap test (tests/support/history.py) sees what must not be, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.history import Journal, Judge

WRITTEN = (
    "T hot 1 1 aaaa 0",
    "D hot 1 1",
    "T hot 1 2 bbbb 0",
    "D hot 1 2",
    "T hot 1 3 - 0",
    "D hot 1 3",
    "T hot 1 4 cccc 0",
    "N hot 1 4",
    "T hot 1 5 dddd 0",
)


def judged(directory: Path, *seen: str) -> list[str]:
    """What the judge objects to in a reader's journal."""
    Journal(directory / "writer").add(*WRITTEN)
    Journal(directory / "reader").add(*seen)
    judge = Judge([directory / "writer"], [directory / "reader"])
    judge.follow()
    return judge.violations


@pytest.mark.parametrize(
    "seen",
    [
        ("O hot 1 1 aaaa", "O hot 1 2 bbbb", "O hot 1 - -", "O hot 1 5 dddd"),
        ("O hot 1 - -", "O hot 1 2 bbbb"),  # absent: before it ever was
        ("O hot 1 2 bbbb", "O hot 1 5 dddd"),  # not every state is seen; not yet acknowledged
        ("G 1", "E", "G 7"),
    ],
)
def test_what_may_be_seen(tmp_path: Path, seen: tuple[str, ...]) -> None:
    assert judged(tmp_path, *seen) == []


@pytest.mark.parametrize(
    ("seen", "objection"),
    [
        (("O hot 1 2 bbbb", "O hot 1 1 aaaa"), "goes back from state 2 to state 1"),
        (("O hot 1 2 bbbb", "O hot 1 - -", "O hot 1 2 bbbb"), "goes back from state 3 to state 2"),
        (("O hot 1 5 dddd", "O hot 1 - -"), "is gone, which it never was since state 5"),
        (("O hot 1 1 bbbb",), "other bytes"),
        (("O hot 1 6 eeee",), "other bytes"),  # from the future
        (("O hot 1 4 cccc",), "other bytes"),  # it did not come about
        (("O hot 2 1 aaaa",), "other bytes"),  # nobody wrote that key
    ],
)
def test_what_may_not_be_seen(tmp_path: Path, seen: tuple[str, ...], objection: str) -> None:
    (violation,) = judged(tmp_path, *seen)
    assert objection in violation


def test_a_calm_is_a_floor(tmp_path: Path) -> None:
    Journal(tmp_path / "writer").add(*WRITTEN)
    judge = Judge([tmp_path / "writer"], [tmp_path / "reader"])
    judge.follow()
    assert judge.expected() == {("hot", 1): "dddd"}
    judge.settle()
    Journal(tmp_path / "reader").add("O hot 1 - -")
    judge.follow()
    assert "never was since state 5" in judge.violations[0]


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    Journal(tmp_path / "writer").add(*WRITTEN)
    judge = Judge([tmp_path / "writer"], [tmp_path / "reader"])
    with (tmp_path / "reader").open("a") as reader:
        reader.write("O hot 1 2 bbbb\nO hot 1 1 ")
        reader.flush()
        judge.follow()
        assert judge.violations == []
        reader.write("aaaa\n")
    judge.follow()
    assert "goes back" in judge.violations[0]


def test_a_server_that_forgets_is_named(tmp_path: Path) -> None:
    Journal(tmp_path / "writer").add("X hot 1 None")
    judge = Judge([tmp_path / "writer"], [])
    judge.follow()
    assert "the server has lost" in judge.violations[0]
