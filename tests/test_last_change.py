"""A change that is older than the times that the file keeps: what the commands and pages say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mmapcache
from mmapcache.cli.output import ago_text
from mmapcache.last_change import changed_before

ROOTS = 1024  # generations whose times a file keeps


def put(writer: mmapcache.Writer, name: str, times: int = 1) -> float:
    """Changes a collection, and says when that was."""
    for _ in range(times):
        with writer.batch() as batch:
            batch.put(name, 1, {"_id": 1, "at": time.monotonic_ns()})
    return writer.status()["published_at"] or 0.0


def test_moments_for_people() -> None:
    assert ago_text(100.0, None, 103.5) == "3.5 s ago"
    assert ago_text(None, 100.0, 11500.0) == "more than 3 h 10 min ago"
    assert ago_text(None, None, 100.0) == "unknown"


def test_the_next_change_that_is_known_bounds_it(writer: mmapcache.Writer) -> None:
    reader = writer.reader()
    for name in ("first", "second"):
        put(writer, name)
    assert changed_before(reader, reader.catalogue()) == {}
    while reader.catalogue()["first"]["changed_at"] is not None:
        put(writer, "busy")
    assert writer.generation >= ROOTS
    found = reader.catalogue()
    assert changed_before(reader, found) == {"first": found["second"]["changed_at"]}
    last = put(writer, "busy", ROOTS)
    assert changed_before(reader, reader.catalogue()) == {"first": last, "second": last}


def test_the_history_reaches_farther_back(writer: mmapcache.Writer) -> None:
    reader = writer.reader()
    changed = {name: put(writer, name) for name in ("first", "second")}
    writer.record("initial")
    time.sleep(0.01)  # so that each moment is another one
    added_up = time.time()  # a record's end, which the loader writes when there is more
    time.sleep(0.01)
    changed["third"] = put(writer, "third")
    writer.record("follow", started=added_up)
    writer.record("follow")
    recorded = time.time()
    time.sleep(0.01)
    put(writer, "busy", ROOTS)
    found = changed_before(reader, reader.catalogue())
    assert set(found) == set(changed)
    assert abs(found["first"] - added_up) < 1e-5 and found["second"] == found["first"]
    assert all(changed[name] <= found[name] + 1e-5 for name in changed)
    assert found["third"] <= recorded + 1e-5


def test_the_commands_say_more_than(cache_path: Path) -> None:
    def said(command: str, *arguments: str) -> str:
        program = [sys.executable, "-m", "mmapcache", command, str(cache_path), *arguments]
        return subprocess.run(program, capture_output=True, text=True, check=True).stdout

    with mmapcache.Writer(cache_path, max_size="8MiB") as writer:
        put(writer, "sites")
        put(writer, "busy")
        assert re.search(r"^sites +1 +\d+ B +[\d.]+ (s|min \d+ s) ago$", said("stat"), re.M)
        last = put(writer, "busy", ROOTS)
        stat, watch = said("stat"), said("watch", "--count=0")
    (facts,) = [json.loads(line) for line in said("stat", "--json").splitlines()]
    assert re.search(r"^collection +documents +bytes +last change$", stat, re.M)
    assert re.search(r"^sites +1 +\d+ B +more than [\d.]+ (s|min \d+ s) ago$", stat, re.M)
    assert re.search(r"^busy +1 +\d+ B +[\d.]+ (s|min \d+ s) ago$", stat, re.M)
    assert re.search(r": busy 1 \(changed \d[^()]* ago\), sites 1 \(changed more than ", watch)
    sites, busy = facts["collections"]["sites"], facts["collections"]["busy"]
    assert (sites["changed_at"], sites["changed_before"]) == (None, last)
    assert (busy["changed_at"], busy["changed_before"]) == (last, None)


def test_a_page_has_the_moment(writer: mmapcache.Writer) -> None:
    pytest.importorskip("prometheus_client")
    from mmapcache.serve.observer import Observer

    put(writer, "sites")
    last = put(writer, "busy", ROOTS)
    found = Observer(writer.path).status()["collections"]
    assert found["sites"]["changed_at"] is None and found["sites"]["changed_before"] == last
    assert found["busy"]["changed_at"] == last and found["busy"]["changed_before"] is None
