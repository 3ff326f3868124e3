"""A file that was much larger once is given back, and nothing is lost by it."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.live import equal, following, loads, truth
from support.loader import Loader, wait_for
from support.scripted_oplog import ReplicaSet

import mmapcache
from mmapcache.sync import options as sync_options
from mmapcache.sync.diary import Diary
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.target import Target
from mmapcache.sync.upkeep import AGAIN, Upkeep

MIB = 1 << 20
COUNT = 18  # documents of a MiB: less is no file to be given back
SOON = ["--shrink-after=0.05", "--retention=0.05"]


def large(number: int) -> dict[str, Any]:
    return {"_id": number, "n": number, "pad": "x" * MIB}


def fill(writer: mmapcache.Writer, count: int = COUNT) -> None:
    """So many MiB, and two documents of them stay."""
    with writer.batch() as batch:
        for number in range(count):
            batch.put("sites", number, large(number))
    with writer.batch() as batch:
        for number in range(2, count):
            batch.delete("sites", number)


def size_of(path: Path) -> int:
    return path.stat().st_size


# --- Writer.shrink() --------------------------------------------------------------------------


def test_nothing_is_lost_and_everybody_follows(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="64MiB", retention=0) as writer:
        with writer.batch() as batch:
            batch.index("sites", "n", unique=True)
            batch.state = b"state"
        fill(writer)
        writer.mark(b"position")
        writer.report(state="streaming", source="here", following=True, loads={"initial": 3})
        writer.record("initial", put=COUNT)
        before, generation = size_of(cache_path), writer.generation
        assert writer.in_use * 4 < before
        with mmapcache.open(cache_path) as cache, cache.snapshot() as snapshot:
            document, status = cache["sites"][1], cache.status()
            writer.shrink()
            assert size_of(cache_path) < before / 4
            assert writer.generation == cache.generation == generation + 1
            assert writer.stats()["file_size"] == cache.stats()["file_size"] == size_of(cache_path)
            assert writer.stats()["max_size"] == 64 * MIB
            assert cache["sites"].keys() == {0, 1}
            assert cache["sites"][1] == document
            assert cache["sites"].by("n")[1] == document
            assert snapshot.generation == generation
            assert snapshot["sites"][0] == large(0)
            assert (writer.state, writer.position) == (b"state", b"position")
            assert writer.indexes == {"sites": {"n": "unique"}}
            assert [past["put"] for past in cache.history()] == [COUNT]
            changing = {"file_id", "generation", "published_at", "age", "lag"}
            after = cache.status()
            assert {k: v for k, v in after.items() if k not in changing} == {
                k: v for k, v in status.items() if k not in changing
            }
            with pytest.raises(mmapcache.LockTimeout):
                mmapcache.Writer(cache_path)
            writer.put("sites", 7, {"_id": 7, "n": 7})
            assert cache["sites"][7] == {"_id": 7, "n": 7}
    with mmapcache.Writer(cache_path) as writer:
        assert (writer.state, writer.indexes) == (b"state", {"sites": {"n": "unique"}})


def test_when_it_cannot_be_all_is_as_before(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="64MiB", retention=0) as writer:
        fill(writer)
        with writer.batch() as batch, pytest.raises(mmapcache.MmapCacheError, match="batch"):
            batch.put("sites", 5, {"_id": 5})
            writer.shrink()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
        try:
            with pytest.raises(mmapcache.FullError):
                writer.shrink()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not cache_path.with_name(cache_path.name + ".new").exists()
        assert (writer.put("sites", 6, {"_id": 6}), writer.closed) == (True, False)
        cache_path.rename(cache_path.with_name("elsewhere"))
        cache_path.write_bytes(b"another's")
        with pytest.raises(mmapcache.NotReadyError, match="removed or replaced"):
            writer.shrink()
        assert cache_path.read_bytes() == b"another's"
    with mmapcache.Writer.anonymous() as writer, pytest.raises(mmapcache.MmapCacheError):
        writer.shrink()


def test_killed_at_any_moment(cache_path: Path) -> None:
    """There is the one file or the other, whole; and a reader that had it open goes on."""
    seed = time.time_ns()
    print(f"seed {seed}")
    dice = random.Random(seed)
    with mmapcache.Writer(cache_path, max_size="64MiB") as writer, writer.batch() as batch:
        batch.index("sites", "n", unique=True)
        batch.state = b"state"
    longest = 0.02
    sizes = set()
    with mmapcache.open(cache_path) as cache:
        for _ in range(6):
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                with mmapcache.Writer(cache_path, retention=0) as writer:
                    fill(writer)
                    writer.mark(b"position")
                    os.write(write, b"x")
                    began = time.monotonic()
                    writer.shrink()
                    os.write(write, f"{time.monotonic() - began:.6f}".encode())
                    signal.pause()
            os.close(write)
            assert os.read(read, 1) == b"x"
            time.sleep(dice.uniform(0, 1.5 * longest))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if took := os.read(read, 100):
                longest = float(took)
            os.close(read)
            sizes.add(size_of(cache_path))
            with mmapcache.Writer(cache_path) as writer:
                assert (writer.state, writer.position) == (b"state", b"position")
                assert writer.indexes == {"sites": {"n": "unique"}}
                assert not cache_path.with_name(cache_path.name + ".new").exists()
                with writer.reader() as own:
                    assert own["sites"].keys() == {0, 1}
                    own.check()
                wait_for(lambda: cache.generation == writer.generation)
            assert cache["sites"].by("n")[1] == large(1)
    print("sizes", sorted(sizes))


# --- when the loader does it ------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def upkeep(
    path: Path, *flags: str, count: int = COUNT
) -> Iterator[tuple[Upkeep, mmapcache.Writer, Clock]]:
    """Of a file that is filled, and nearly empty again.

    :param count: MiB
    """
    parser = ArgumentParser()
    sync_options.add_arguments(parser)
    arguments = parser.parse_args(
        [str(path), "--source=file:s", "--max-size=64MiB", "--retention=0", *flags]
    )
    options = sync_options.resolve(arguments, {})
    inbox, diary, clock = Inbox(), Diary(), Clock()
    target = Target(options, inbox)
    writer = target.writer()
    diary.of(writer)
    fill(writer, count)
    yield Upkeep(options, target, inbox, diary, clock), writer, clock
    assert target.writer() is writer, "the path has the writer's own file"
    target.close()


def test_after_a_while_and_not_sooner_and_not_again_soon(cache_path: Path) -> None:
    with upkeep(cache_path) as (keeper, writer, clock):
        before = size_of(cache_path)
        keeper.look()
        clock.now += 599
        keeper.look()
        assert size_of(cache_path) >= before
        with writer.batch() as batch:  # half of the file is in use for a moment
            for number in range(2, 10):
                batch.put("sites", number, large(number))
        keeper.look()
        with writer.batch() as batch:
            for number in range(2, 10):
                batch.delete("sites", number)
        clock.now += 1
        keeper.look()
        clock.now += 599
        keeper.look()
        assert size_of(cache_path) >= before
        clock.now += 1
        keeper.look()
        smaller = size_of(cache_path)
        assert smaller < before / 4
        assert [past["reason"] for past in mmapcache.open(cache_path).history()] == ["shrink"]
        fill(writer)  # it needs it again, and then does not
        keeper.look()
        clock.now += 600
        keeper.look()
        assert size_of(cache_path) >= before
        clock.now += 600 * (AGAIN - 1)
        keeper.look()
        assert size_of(cache_path) < before / 4


@pytest.mark.parametrize("why", ["--no-shrink", "small", "another file"])
def test_when_it_does_not(cache_path: Path, why: str) -> None:
    flags = ["--no-shrink"] if why == "--no-shrink" else []
    count = 12 if why == "small" else COUNT
    with upkeep(cache_path, *flags, count=count) as (keeper, writer, clock):
        assert writer.in_use * 4 < size_of(cache_path)
        if why == "another file":
            os.link(cache_path, cache_path.with_name("kept"))
            cache_path.with_name("other").write_bytes(b"another's")
            cache_path.with_name("other").rename(cache_path)
        before = writer.generation
        for _ in range(3):
            keeper.look()
            clock.now += 6000
        assert writer.generation == before
        if why == "another file":
            assert cache_path.read_bytes() == b"another's"
            cache_path.with_name("kept").rename(cache_path)


def test_room_is_there_before_it_is_needed(cache_path: Path) -> None:
    with upkeep(cache_path, count=2) as (keeper, writer, _clock):
        with writer.batch() as batch:  # until the next document makes the file longer
            for number in range(100, 10_000):
                batch.put("sites", number, {"_id": number, "n": number, "pad": "x" * 1000})
                if writer.stats()["file_size"] - writer.in_use < 8192:
                    break
        keeper.look()
        longer = size_of(cache_path)
        for number in range(20_000, 20_100):
            writer.put("sites", number, {"_id": number, "n": number, "pad": "x" * 1000})
        assert size_of(cache_path) == longer


# --- loaders ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("warm_loaders")
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="nothing limits another process here")
def test_a_loader_that_polls(cache_path: Path) -> None:
    """A full file system keeps the file; with room it is replaced; a standby goes on with it."""
    encode = pytest.importorskip("bson").encode
    source = cache_path.with_name("sites.bson")

    def write(*documents: dict[str, Any]) -> None:
        """Never half: the loader reads all the time."""
        new = source.with_suffix(".written")
        new.write_bytes(b"".join(map(encode, documents)))
        new.rename(source)

    write(*map(large, range(COUNT)))
    flags = [f"--source=file:{source}", "--interval=0.05", "--max-size=64MiB", *SOON]
    with (
        Loader(cache_path, flags) as loader,
        mmapcache.open(cache_path, timeout=30) as cache,
        Loader(cache_path, [*flags, "--standby"]) as second,
    ):
        before = size_of(cache_path)
        second.expect("standing by")
        pid = loader.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (MIB, limits[1]))
        write(large(0), large(1))
        loader.expect("could be smaller, but cannot be replaced: .*file system")
        assert size_of(cache_path) >= before
        assert len(cache["sites"]) == 2
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        loader.expect(r"a file of [0-9.]+ MiB took the place of .*, which had [0-9.]+ MiB")
        assert size_of(cache_path) < before / 4
        wait_for(lambda: cache.stats()["file_size"] == size_of(cache_path))
        attempts = [past for past in cache.history() if past["reason"] == "shrink"]
        assert "file system" in (attempts[0]["error"] or "")
        assert not attempts[-1]["error"]
        loader.signal(signal.SIGKILL)
        loader.wait()
        second.expect("took over")
        write({"_id": 5})
        wait_for(lambda: cache["sites"].keys() == {5})
        assert "corrupt" not in second.output
        assert second.process.poll() is None


@pytest.mark.once
@pytest.mark.usefixtures("warm_loaders")
def test_a_loader_that_follows(cache_path: Path) -> None:
    """It follows on from where it was, and so does the next one: nothing is read again."""
    pytest.importorskip("pymongo")
    with ReplicaSet({"shop.a": [large(number) for number in range(COUNT)]}) as server:
        server.noops = 0.1
        flags = ["--collection=shop.a", "--max-size=64MiB", "--index=a=n", *SOON]
        with following(cache_path, server, *flags) as (loader, cache):
            before = size_of(cache_path)
            with server.transaction():
                for number in range(2, COUNT):
                    server.delete("shop.a", number)
            loader.expect("took the place of")
            assert size_of(cache_path) < before / 4
            server.insert("shop.a", {"_id": 50, "n": 50})
            equal(cache, truth(server))
            assert cache["a"].by("n")[50]["_id"] == 50
            assert (loads(cache), cache.status()["state"]) == ({"initial": 1}, "streaming")
            loader.signal(signal.SIGKILL)
            loader.wait()
        server.insert("shop.a", {"_id": 51, "n": 51})
        with following(cache_path, server, *flags) as (loader, cache):
            equal(cache, truth(server))
            assert re.search("going on from the position", loader.output)
            assert loads(cache) == {"initial": 1}


def test_room_is_made_while_there_is_nothing_to_commit(tmp_path: Path) -> None:
    """Documents move closer together, and are what they were."""
    path = tmp_path / "cache.mmc"
    dice = random.Random(1)
    documents: dict[int, bytes] = {}

    def update(batch: mmapcache.Batch, number: int) -> None:
        size = min(64 << 10, int(dice.lognormvariate(6.5, 1.5)) + 60)
        documents[number] = bytes([dice.randrange(256)]) * size
        batch.put("sites", number, {"p": documents[number]})

    moved = 0
    with mmapcache.Writer(path, max_size=8 * MIB, retention=0) as writer:
        with writer.batch() as batch:
            number = 0
            while sum(map(len, documents.values())) < 0.8 * 8 * MIB:
                update(batch, number)
                number += 1
        with mmapcache.open(path) as cache:
            sites = cache.collection("sites")
            for _ in range(1000):  # how soon it breaks up is chance
                with writer.batch() as batch:
                    for _ in range(30):
                        update(batch, dice.randrange(number))
                before = cache.generation
                while writer.tidy():
                    moved += cache.generation > before
                if moved > 3:
                    break
            assert {key: sites[key]["p"] for key in sites} == documents
            cache.check()
    assert moved > 3
