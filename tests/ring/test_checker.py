"""The history checker sees what it is for, and nothing else."""

from __future__ import annotations

import math
import time
from pathlib import Path

from ring.history import Event, Stand, line, load, wrongs

from ring import losses


def write(value: str | None, began: float, ended: float, copies: int = 2) -> Event:
    return Event("delete" if value is None else "set", "k", value, began, ended, copies, copies < 2)


def read(value: str | None, began: float, ended: float | None = None) -> Event:
    return Event("get", "k", value, began, ended or began + 0.1)


def test_what_is_right() -> None:
    assert not wrongs([write("a", 1, 2), read("a", 3), write("b", 4, 5), read("b", 6)])
    assert not wrongs([write("a", 1, 2), write("b", 3, 5), read("a", 4), read("b", 4)])
    assert not wrongs([write("a", 1, 2), write("b", 3, 5, copies=1), read("a", 6), read("b", 6)])
    assert not wrongs([write("a", 1, 2), write("b", 1.5, 3), read("a", 6)])  # they ran abreast
    assert not wrongs([write("a", 1, 2), write(None, 3, 4), read(None, 5)])
    assert not wrongs([write("a", 1, 2), write(None, 1.5, 4), read(None, 5), read("a", 5)])
    assert not wrongs([write("a", 1, 2), write("b", 3, 3.1, copies=0), read("b", 9), read("a", 9)])
    assert not wrongs([write("a", 1, 2), read(None, 5)], lost=[3])
    assert not wrongs([read(None, 5)])


def test_what_is_wrong() -> None:
    assert "never written" in wrongs([read("x", 1)])[0]
    assert "never written" in wrongs([read("a", 1, 1.5), write("a", 2, 3)])[0]
    assert "a miss" in wrongs([write("a", 1, 2), read(None, 3)])[0]
    assert "a was read" in wrongs([write("a", 1, 2), write("b", 3, 4), read("a", 5)])[0]
    assert "a was read" in wrongs([write("a", 1, 2), write(None, 3, 4), read("a", 5)])[0]
    assert "a miss" in wrongs([write(None, 0, 0.5), write("a", 1, 2), read(None, 3)])[0]
    assert len(wrongs([write("a", 3, 4), read(None, 5)], lost=[2])) == 1


def test_one_copy_is_sure_while_the_other_holder_counts_as_dead() -> None:
    events = [write("a", 1, 2), write("b", 3, 3.5, copies=1), read("a", 5)]
    assert "a was read" in wrongs(events, stands=[Stand(2.5, 4, frozenset("k"))])[0]
    assert not wrongs(events, stands=[Stand(2.5, 4, frozenset("x"))])
    assert not wrongs(events, stands=[Stand(3.2, 4, frozenset("k")), Stand(2, 3.2, frozenset("k"))])
    assert not wrongs(events, [4.5], [Stand(2.5, 4, frozenset("k"))])


def test_a_killed_writer_has_said_what_it_was_about_to_write(tmp_path: Path) -> None:
    about = Event("set", "k", "a", 1, math.inf, who="0.1:0")
    done = write("b", 3, 4)
    file = tmp_path / "history"
    before = Event("set", "k", "b", 3, math.inf, who=done.who)
    file.write_text(line(about) + line(before) + line(done) + line(read("a", 5))[:-9])
    assert [*load([file])] == [about, done]
    assert not wrongs([about, read("a", 9)])
    assert not wrongs([write("c", 0, 0.5), about, read("c", 9)])


def test_only_what_the_promises_name_excuses_a_loss() -> None:
    flushed = "life 2 of node a begins, it is joining"
    assert losses.spans(logged(1003, "the data was flushed: " + flushed), [], [])
    assert not losses.spans(logged(1003, "a new session of ZooKeeper: " + flushed), [], [])


def logged(moment: float, text: str) -> str:
    stamp = time.strftime("%d %b %Y %H:%M:%S", time.localtime(moment))
    return f"77:M {stamp}.{round(moment * 1000) % 1000:03} * <ring> {text}\n"


def test_when_two_nodes_were_without_what_they_held() -> None:
    filled = "life 2 of node a is filled: it is ready"
    killed = logged(1003, "the server has started: life 1 of node a begins without data, it is x")
    a = losses.spans(killed + "other text\n" + logged(1005.25, filled), [1002.5], [1001, 1020])
    assert a == [(1002.5, 1005.25)]
    stood = logged(1006, "the server stood still for 1500 ms; the fence is 1000 ms")
    began = logged(1006, "others may have gone on without it: life 3 of node b begins without data")
    assert losses.spans(stood + began, [], [1001]) == [(1004.5, float("inf"))]
    b = losses.spans(stood + began, [], [1001, 1020])
    assert losses.both({"a": a, "b": b}) == [1004.5]
    assert not losses.both({"a": a, "b": losses.spans("", [1005.25], [1020])})
    assert not losses.both({"a": [*a, (1003, 1005.25)]})
