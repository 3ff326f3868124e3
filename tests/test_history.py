"""Cache.history() and Writer.record(): what the loader's last rounds did."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support.live import following
from support.loader import PATIENCE, Loader, load_once, wait_for
from support.scripted_oplog import ReplicaSet

import mmapcache
from mmapcache.sync.diary import Diary


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.mmc"


def publish(writer: mmapcache.Writer, number: int) -> None:
    with writer.batch() as batch:
        batch.put("sites", number, {"_id": number})


def test_what_is_noted_is_read(path: Path) -> None:
    with mmapcache.Writer(path, max_size="2MiB") as writer:
        reader = writer.reader()
        assert reader.history() == []
        publish(writer, 1)
        began = time.time()
        writer.record("initial", seconds=2.5, put=3, deleted=1, bytes=700)
        writer.record(
            "follow", started=began, rounds=40, error="the source is away: \u20ac\udcff" * 9
        )
        first, second = reader.history()
    assert abs(first["started_at"] - (began - 2.5)) < 60
    assert 0 < second["started_boot"] - first["started_boot"] < 60
    assert first == {
        "started_at": first["started_at"],
        "started_boot": first["started_boot"],
        "seconds": 2.5,
        "reason": "initial",
        "rounds": 1,
        "put": 3,
        "deleted": 1,
        "bytes": 700,
        "generation": 1,
        "error": None,
    }
    assert abs(second["started_at"] - began) < 1e-5 and second["rounds"] == 40
    error = second["error"] or ""
    assert len(error.encode()) <= 151 and error.startswith("the source is away: \u20ac\\udcff")


def test_the_last_survive_the_loader_and_a_larger_file(path: Path) -> None:
    writer = mmapcache.Writer(path, max_size="2MiB")
    publish(writer, 1)
    for number in range(100):
        writer.record("poll", put=number)
    report = writer.reader().check()
    assert (report["history"], report["history_damaged"]) == (64, 0)
    writer.close()
    with mmapcache.Writer(path, max_size="16MiB") as writer:
        writer.record("initial", put=100)
        kept = [round_["put"] for round_ in writer.reader().history()]
    assert kept == list(range(36, 101))
    with mmapcache.open(path) as cache:
        assert [round_["put"] for round_ in cache.history()] == kept


def test_damage_costs_one_record(path: Path) -> None:
    with mmapcache.Writer(path, max_size="2MiB") as writer:
        publish(writer, 1)
        for number in range(5):
            writer.record("poll", put=number, error="a wrong bit here")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"a wrong bit", b"a wr\xffng bit", 1))
    with mmapcache.open(path) as cache:
        assert [round_["put"] for round_ in cache.history()] == [1, 2, 3, 4]
        assert (cache.check()["history"], cache.check()["history_damaged"]) == (4, 1)


def test_wrong_use(path: Path) -> None:
    with mmapcache.Writer(path, max_size="2MiB") as writer:
        with pytest.raises(TypeError):
            writer.record(b"initial")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="put: a count is 0 or more"):
            writer.record("initial", put=-1)
        with pytest.raises(ValueError, match="seconds: 0 or more"):
            writer.record("initial", seconds=-1.0)
        reader = writer.reader()
        if (child := os.fork()) == 0:
            try:
                writer.record("initial")
            except mmapcache.ClosedError:
                os._exit(0 if reader.history() == [] else 1)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        reader.close()
        with pytest.raises(mmapcache.ClosedError):
            reader.history()
    with pytest.raises(mmapcache.ClosedError):
        writer.record("initial")


# ---- what the loader writes ----


def kinds(cache: mmapcache.Cache) -> list[str]:
    return [round_["reason"] for round_ in cache.history()]


def test_what_happens_often_is_added_up(path: Path) -> None:
    diary = Diary()
    diary.followed(1, 0, 10)  # without a writer it is lost
    diary.flush()
    with mmapcache.Writer(path, max_size="2MiB") as writer:
        diary.of(writer)
        for _ in range(100):
            diary.followed(2, 1, 30)
            diary.tick()
        reader = writer.reader()
        assert reader.history() == []
        for _ in range(100):
            diary.failed("follow", "it is away")
        for _ in range(100):
            diary.unchanged("poll", 0.0, bytes_read=5)
        diary.loaded("poll", 1.0, put=1, deleted=0, bytes_read=5, error="")
        found = [
            (r["reason"], r["rounds"], r["put"], r["deleted"], r["bytes"], r["error"])
            for r in reader.history()
        ]
    assert found == [
        ("follow", 100, 200, 100, 3000, None),
        ("follow", 1, 0, 0, 0, "it is away"),  # at once, and how often it came again
        ("follow", 99, 0, 0, 0, "it is away"),
        ("poll", 100, 0, 0, 500, None),
        ("poll", 1, 1, 0, 5, None),
    ]


def test_a_sum_is_written_when_its_time_is_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmapcache.sync.diary.SUM", 0.0)
    diary = Diary()
    with mmapcache.Writer(path, max_size="2MiB") as writer:
        diary.of(writer)
        for number in range(3):
            diary.followed(number, 0, 0)
        diary.tick()
        assert [round_["put"] for round_ in writer.reader().history()] == [0, 1, 2]


def test_loads_and_failures_of_a_loader_that_polls(path: Path) -> None:
    source = path.with_name("sites.json")
    source.write_text('{"_id": "a", "n": 1}\n{"_id": "b", "n": 2}\n')
    flags = ["--source", f"file:{source}", "--interval=0.05"]
    with Loader(path, flags) as loader, mmapcache.open(path, timeout=PATIENCE) as cache:
        wait_for(lambda: kinds(cache) == ["initial"])
        source.write_text('{"_id": "a"\n')
        wait_for(lambda: any(round_["error"] for round_ in cache.history()))
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0
        first, *_, last = cache.history()
    assert (first["put"], first["generation"], first["error"]) == (2, 1, None)
    assert first["bytes"] > 0 and first["seconds"] > 0
    assert (last["reason"], last["put"]) == ("poll", 0) and "sites.json" in str(last["error"])


@pytest.mark.usefixtures("warm_loaders")
def test_a_load_that_ends_the_loader_is_one_record(cache_path: Path) -> None:
    source = cache_path.with_name("sites.json")
    flags = [f"--source=file:{source}", "--once"]
    source.write_text('{"_id": "a"}')
    assert load_once(cache_path, flags)[0] == 0
    for wrong in ("", f'{{"_id": "{"a" * 5000}"}}', "nonsense"):  # kept, refused, unreadable
        source.write_text(wrong)
        assert load_once(cache_path, flags)[0] == 1
    with mmapcache.open(cache_path) as cache:
        history = [(r["reason"], r["put"], r["error"] or "") for r in cache.history()]
    assert [part[:2] for part in history] == [("initial", 1), *[("initial", 0)] * 3], history
    said = ("", "came back empty", "a key may have", "line 1")
    assert all(text in error for text, (_, _, error) in zip(said, history, strict=True)), history


def test_a_load_begins_when_the_lock_is_had(path: Path) -> None:
    source = path.with_name("sites.json")
    source.write_text("nonsense")
    with mmapcache.Writer(path, max_size="2MiB") as writer:
        publish(writer, 1)
        with Loader(path, [f"--source=file:{source}", "--once"]) as loader:
            loader.expect("another loader holds")
            time.sleep(1)
            released = time.time()
            writer.close()
            assert loader.wait() == 1
    with mmapcache.open(path) as cache:
        (failed,) = cache.history()
    assert failed["error"] and failed["started_at"] > released - 0.5


@pytest.mark.once
def test_a_stream_is_one_record_whatever_it_brings(path: Path) -> None:
    pytest.importorskip("pymongo")
    with (
        ReplicaSet({"shop.sites": [{"_id": 0}]}) as server,
        following(path, server, "--collection=shop.sites", "--settle=0:1") as (loader, cache),
    ):
        for number in range(1, 20):
            server.insert("shop.sites", {"_id": number})
            wait_for(lambda: number in cache["sites"])  # noqa: B023 - called at once
        assert kinds(cache) == ["initial"]
        loader.signal(signal.SIGHUP)
        wait_for(lambda: "verify" in kinds(cache))
        _, follow, verify = cache.history()
        server.insert("shop.sites", {"_id": 100})
        wait_for(lambda: 100 in cache["sites"])
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0
        last = cache.history()[-1]
    assert (follow["reason"], follow["rounds"], follow["put"]) == ("follow", 19, 19)
    assert (verify["reason"], verify["error"]) == ("verify", None)
    assert (last["reason"], last["rounds"], last["put"]) == ("follow", 1, 1)


# ---- the catalogue ----


def test_the_catalogue_says_when_each_collection_changed(path: Path) -> None:
    with mmapcache.Writer(path, max_size="2MiB") as writer:
        reader = writer.reader()
        assert reader.catalogue() == {}
        for _ in range(3):
            publish(writer, 1)
        for number in range(2, 30):
            with writer.batch() as batch:
                batch.put("limits" if number % 2 else "flags", 1, {"_id": 1, "n": number})
        found = reader.catalogue()
        sites, limits = found["sites"], found["limits"]
        assert (sites["documents"], sites["created"], sites["changed"]) == (1, 1, 1)
        assert (limits["documents"], limits["created"], limits["changed"]) == (1, 3, 29)
        assert limits["changed_at"] == reader.status()["published_at"]
        assert 0 < (sites["changed_at"] or 0) <= (limits["changed_at"] or 0)
        checked = reader.check()["collections"]
        assert all(entry["occupied"] > 0 for entry in checked.values())
        bare = {n: {**entry, "occupied": 0} for n, entry in checked.items()}
        assert bare == {n: {**entry, "occupied": 0} for n, entry in found.items()}
        for number in range(1100):  # as many generations as there are roots, and more
            with writer.batch() as batch:
                batch.put("limits", 1, {"_id": 1, "n": -number})
        assert reader.catalogue()["sites"]["changed_at"] is None
        assert sum(entry["occupied"] for entry in reader.check()["collections"].values()) < 4096
