"""One `mmapcache sync` stands in each of its phases in turn, and there it is ended, killed, its
disk is full, or its collection is dropped.

    start ─ options ─ lock ─ open ─ connect ─ list ─ batches ─ same collection? ─ commit ─ report
      └───────────────────────────────────────────── idle <──┬── failed round ──── closing

The phases are places in the loader's code (`support/hold.py`), and requests to a server that
answers late. Whatever happens, the file holds the content before or the content after, whole.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.hold import Hold
from support.loader import PATIENCE, Loader, load_once, wait_for
from support.phases import at_each, fill, small_disk
from support.processes import free_port
from support.scripted_server import ScriptedServer, failing
from support.system import only_linux

import mmapcache

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

pymongo = pytest.importorskip("pymongo")

Documents = dict[str, list[dict[str, Any]]]

SOON = 5.0  # seconds, in which a loader that was told to has ended
FLAGS = ["--interval=0.1", "--batch-size=10", "--timeout=30", "--max-size=64MiB"]
BOTH = ["--collection=shop.a", "--collection=shop.b"]
OLD: Documents = {"shop.a": [{"_id": i, "v": 0} for i in range(35)], "shop.b": [{"_id": 1}]}
NEW: Documents = {"shop.a": [{"_id": i, "v": 1} for i in range(5, 60)], "shop.b": [{"_id": 2}]}


@dataclass(frozen=True)
class Code:
    """A function of the loader; see `Hold`."""

    at: str
    when: str = "before"


@dataclass(frozen=True)
class Request:
    """The n-th request of a kind, which is answered late; n counts from 0.

    :param after: only once there was a request of that kind
    """

    command: str
    number: int = 0
    after: str | None = None


LOCK, IDLE, FAILED = "lock", "idle", "failed"
SYNC = "mmapcache.sync."
PHASES: dict[str, Code | Request | str] = {
    "start": Code(SYNC + "command:run"),
    "options": Code(SYNC + "options:resolve"),
    "lock": LOCK,
    "open": Code(SYNC + "target:Target._open"),
    "opened": Code(SYNC + "target:Target._open", "after"),
    "connect": Request("hello"),
    "list": Request("listCollections"),
    "first batch": Request("find"),
    "later batch": Request("getMore", 1),
    "put": Code(SYNC + "progress:Progress.add"),
    "same collection?": Request("listCollections", after="getMore"),
    "before the commit": Code(SYNC + "target:Target.pack_state"),
    "after the commit": Code(SYNC + "loader:Loader._succeeded"),
    "reported": Code(SYNC + "loader:Loader._succeeded", "after"),
    "idle": IDLE,
    "failed round": FAILED,
    "closing": Code(SYNC + "target:Target.close"),
    "closed": Code(SYNC + "target:Target.close", "after"),
}
FIRST = ("open", "opened", "before the commit", "after the commit")  # a first file is special
COMMITTED = {"after the commit", "reported", "closing", "closed"}
FINISHES = COMMITTED | {"before the commit"}  # a signal that comes then finds the work done
ONCE_ONLY = {"closing", "closed"}  # a daemon comes there when it is told to stop
DAEMON_ONLY = {"idle"}
GOING_ON = [name for name in PHASES if name not in ONCE_ONLY]
# Before it connects the loader knows nothing of collections: one such phase stands for all.
ASKING = [name for name in GOING_ON if name not in {"start", "options", "open", "opened"}]
# Nor does it need room while it waits for a server, unless batches have come.
WRITING = [name for name in GOING_ON if name not in {"start", "options", "connect", "list"}]


class Stand:
    """A loader that stands in a phase, with a server of its own.

    :param path: the cache file
    :param flags: besides the usual ones
    :param documents: what the server has
    """

    def __init__(self, path: Path, phase: str, *flags: str, documents: Documents = NEW) -> None:
        self.path = path
        self.phase = phase
        self.server = ScriptedServer(dict(documents))
        self.loader: Loader
        self._flags = flags
        self._released = threading.Event()
        self._arrived = threading.Event()
        self._hold: Hold | None = None
        self._writer: mmapcache.Writer | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Stand:
        what = PHASES[self.phase]
        environment = {}
        if isinstance(what, Code):
            directory = self.path.with_name(self.path.name + ".hold")
            self._hold = Hold(directory, what.at, what.when)
            environment = self._hold.environment
        elif isinstance(what, Request):
            self._late(what)
        elif what == LOCK:
            self._writer = self._stack.enter_context(mmapcache.Writer(self.path, max_size=64 << 20))
        elif what == FAILED:
            self.server.answer = self._failing
        self._stack.enter_context(self.server)
        self._stack.callback(self._released.set)
        flags = ["--uri", self.server.uri, *BOTH, *FLAGS, *self._flags]
        self.loader = self._stack.enter_context(Loader(self.path, flags, environment))
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._stack.__exit__(kind, error, traceback)

    def arrive(self) -> None:
        """Waits until the loader stands where it is to."""
        if self._hold is not None:
            wait_for(self._hold.arrived)
        elif isinstance(PHASES[self.phase], Request):
            assert self._arrived.wait(PATIENCE)
        elif self._writer is not None:
            self.loader.expect("waiting for it")
        elif PHASES[self.phase] == IDLE:
            self.loader.expect("generation [12]:")
            with mmapcache.open(self.path) as cache:
                wait_for(lambda: cache.status()["state"] == "polling")
        else:
            self.loader.expect("next try in")
        assert self.loader.process.poll() is None

    def go(self) -> None:
        """Lets it go on."""
        self._released.set()
        if PHASES[self.phase] == FAILED:
            self.server.answer = None
        if self._hold is not None:
            self._hold.go()
        if self._writer is not None:
            self._writer.close()

    def _failing(self, command: str, request: dict[str, Any], before: int) -> Any:
        return failing(91, "Shutdown") if command == "getMore" else None

    def _late(self, what: Request) -> None:
        if what.command == "hello":
            greet = self.server.handlers["hello"]

            def late_greeting(request: dict[str, Any]) -> Any:
                self._arrived.set()
                self._released.wait()
                return greet(request)

            for name in ("hello", "isMaster", "ismaster"):
                self.server.handlers[name] = late_greeting
            return
        count = 0

        def answer(command: str, request: dict[str, Any], before: int) -> None:
            nonlocal count
            ready = what.after is None or self.server.seen[what.after] > 0
            if command == what.command and ready:
                count += 1
                if count == what.number + 1:
                    self._arrived.set()
                    self._released.wait()

        self.server.answer = answer


@pytest.fixture(scope="module")
def old_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a loader has filled with OLD."""
    path = tmp_path_factory.mktemp("old") / "cache"
    with ScriptedServer(dict(OLD)) as server:
        status, output = load_once(path, ["--uri", server.uri, *BOTH, *FLAGS])
        assert status == 0, output
    return path


def content(path: Path) -> Documents | None:
    """What the file holds, which checks; None when there is no generation in it."""
    try:
        with mmapcache.open(path) as cache:
            cache.check()
            return read(cache)
    except (mmapcache.NotReadyError, FileNotFoundError):
        return None


def read(cache: mmapcache.Cache) -> Documents:
    with cache.snapshot() as snapshot:
        found = {f"shop.{n}": [d.to_dict() for d in snapshot[n].values()] for n in snapshot}
    return {name: sorted(items, key=lambda d: d["_id"]) for name, items in found.items()}


def test_sigterm(cache_path: Path, old_file: Path) -> None:
    """To a daemon that makes the file, and to --once that finds OLD in it."""

    def check(path: Path, phase: str) -> None:
        fresh = path.with_name("fresh")
        shutil.copy(old_file, path)
        once = phase not in DAEMON_ONLY
        with (
            Stand(fresh, phase, *["--once"] * (phase in ONCE_ONLY)) as first,
            Stand(path, phase, *["--once"] * once) as second,
        ):
            for stand, before in ((first, None), (second, OLD)):
                stand.arrive()
                began = time.monotonic()
                stand.loader.signal(signal.SIGTERM)
                if isinstance(PHASES[phase], Code):  # a server or a lock is nothing to wait for
                    stand.go()
                status = stand.loader.wait()
                took = time.monotonic() - began
                stand.go()
                unfinished = stand is second and once and phase not in FINISHES
                assert status == (1 if unfinished else 0), stand.loader.output
                assert took < SOON
                assert "Traceback" not in stand.loader.output
                assert content(stand.path) == (NEW if phase in FINISHES | {"idle"} else before)

    at_each(cache_path.parent, PHASES, check)


@pytest.mark.parametrize("first", [False, True], ids=["a file", "no file"])
def test_sigkill(cache_path: Path, old_file: Path, first: bool) -> None:
    """The file is whole, and the next loader goes on."""

    def check(path: Path, phase: str) -> None:
        if not first:
            shutil.copy(old_file, path)
        with Stand(path, phase, *["--once"] * (phase in ONCE_ONLY)) as stand:
            stand.arrive()
            stand.loader.signal(signal.SIGKILL)
            assert stand.loader.wait() == -signal.SIGKILL
            stand.go()
            before = None if first else OLD
            assert content(path) == (NEW if phase in COMMITTED | {"idle"} else before)
            stand.server.answer = None
            status, output = load_once(path, ["--uri", stand.server.uri, *BOTH, *FLAGS])
            assert status == 0, output
        assert content(path) == NEW

    at_each(cache_path.parent, FIRST if first else PHASES, check)


def test_the_collection_is_dropped(cache_path: Path, old_file: Path) -> None:
    """Nothing half is published; it is kept until it comes back."""

    def check(path: Path, phase: str) -> None:
        shutil.copy(old_file, path)
        with Stand(path, phase) as stand, mmapcache.open(path) as cache:
            stand.arrive()
            stand.server.drop("shop.a")
            stand.go()
            seen = [read(cache)]

            def told() -> bool:
                seen.append(read(cache))
                return "came back empty, kept with its last content: a" in stand.loader.output

            wait_for(told)
            # The other collection was never in danger, so its news may come first.
            wholes = [{**OLD, "shop.b": NEW["shop.b"]}, OLD, NEW]
            assert all(each in wholes for each in seen)
            stand.server.collections = dict(NEW)
            wait_for(lambda: read(cache) == NEW)
            stand.loader.signal(signal.SIGTERM)
            assert stand.loader.wait() == 0
            assert "Traceback" not in stand.loader.output
        assert content(path) == NEW

    at_each(cache_path.parent, ASKING, check)


# ---- a full disk ----


PAD = "x" * 20_000
LARGE: Documents = {"shop.a": [{"_id": i, "pad": PAD} for i in range(60)], "shop.b": [{"_id": 2}]}
LARGER: Documents = {**LARGE, "shop.a": [{"_id": i, "pad": PAD} for i in range(200)]}


def test_the_disk_is_full(tmp_path: Path, old_file: Path) -> None:
    """The status has the sentence, the last generation stays, and with room it goes on."""

    def check(beside: Path, phase: str) -> None:
        with small_disk(beside.with_name("disk")) as disk:
            path, others = disk / "cache", disk / "others"
            shutil.copy(old_file, path)
            with Stand(path, phase, documents=LARGE) as stand, mmapcache.open(path) as cache:
                stand.arrive()
                fill(others)
                stand.server.collections = dict(LARGER)
                stand.go()
                # Not in the log, which is on the same disk.
                wait_for(lambda: "the file system at" in str(cache.status()["error"]))
                assert cache.status()["state"] == "degraded"
                assert read(cache) in (OLD, LARGE)
                others.unlink()
                wait_for(lambda: len(cache["a"]) == len(LARGER["shop.a"]))
                wait_for(lambda: cache.status()["state"] == "polling")
                stand.loader.signal(signal.SIGTERM)
                assert stand.loader.wait() == 0
                assert "Traceback" not in stand.loader.output
            assert content(path) == LARGER

    at_each(tmp_path, WRITING, check)


def test_the_disk_is_full_before_there_is_a_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "cache"
        fill(disk / "others")
        source = tmp_path / "sites.bson"
        source.write_bytes(b"\x0e\0\0\0\x10_id\0\x01\0\0\0\0")
        command = [
            sys.executable,
            "-m",
            "mmapcache",
            "sync",
            str(path),
            "--source",
            f"file:{source}",
        ]
        loader = subprocess.run(
            [*command, "--once"], capture_output=True, text=True, timeout=60, check=False
        )
        assert loader.returncode == 1
        assert "full" in loader.stderr or "No space left" in loader.stderr
        assert "Traceback" not in loader.stderr
        assert content(path) is None
        (disk / "others").unlink()
        assert load_once(path, ["--source", f"file:{source}"])[0] == 0
        assert content(path) == {"shop.sites": [{"_id": 1}]}


# ---- what is no plain collection, on a real server ----


Database = Any


def real_loader(
    path: Path, uri: str, *flags: str, environment: dict[str, str] | None = None
) -> Loader:
    return Loader(path, ["--uri", uri, "--interval=0.1", "--batch-size=20", *flags], environment)


def values(cache: mmapcache.Cache, name: str) -> set[Any]:
    return {document["v"] for document in cache[name].values()}


def test_a_view(cache_path: Path, mongodb_uri: str, database: Database) -> None:
    """Named it is read like a collection, with a filter too; a whole database leaves it out."""
    database.sites.insert_many([{"_id": i, "v": i % 2, "w": i} for i in range(100)])
    pipeline = [{"$match": {"v": 1}}]
    database.command("create", "odd", viewOn="sites", pipeline=pipeline)
    flags = [f"--collection={database.name}.odd", '--filter=odd={"w": {"$lt": 50}}']
    with (
        real_loader(cache_path, mongodb_uri, *flags) as loader,
        mmapcache.open(cache_path, timeout=PATIENCE) as cache,
    ):
        assert sorted(cache["odd"]) == list(range(1, 50, 2))
        database.sites.update_one({"_id": 2}, {"$set": {"v": 1}})
        wait_for(lambda: 2 in cache["odd"])
        database.drop_collection("odd")
        loader.expect("came back empty, kept with its last content: odd")
        assert 2 in cache["odd"]
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0
        assert "Traceback" not in loader.output
    with mmapcache.open(cache_path) as cache:
        cache.check()
    flags = ["--uri", mongodb_uri, "--database", database.name]
    database.command("create", "odd", viewOn="sites", pipeline=pipeline)
    status, output = load_once(cache_path, flags)
    assert status == 0, output
    with mmapcache.open(cache_path) as cache:
        assert set(cache) == {"sites"}


def test_a_view_that_gives_an_id_twice(
    cache_path: Path, mongodb_uri: str, database: Database
) -> None:
    database.sites.insert_many([{"_id": i, "tags": ["a", "b"]} for i in range(30)])
    database.command("create", "tags", viewOn="sites", pipeline=[{"$unwind": "$tags"}])
    flag = f"--collection={database.name}.tags"
    with (
        real_loader(cache_path, mongodb_uri, flag) as loader,
        mmapcache.open(cache_path, timeout=PATIENCE) as cache,
    ):
        wait_for(lambda: "tags (30)" in str(cache.status()["error"]))
        confirmed = cache.status()["confirmed_at"]
        wait_for(lambda: cache.status()["confirmed_at"] != confirmed)
        assert cache.generation == 1
        assert loader.process.poll() is None


def test_a_time_series(cache_path: Path, mongodb_uri: str, database: Database) -> None:
    """Its documents come by their own _id; the buckets below it are a system collection."""
    try:
        database.create_collection("loads", timeseries={"timeField": "at", "metaField": "host"})
    except pymongo.errors.OperationFailure as error:
        pytest.skip(f"this server makes no time series: {error}")
    at = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    minute = datetime.timedelta(minutes=1)
    database.loads.insert_many(
        [{"_id": i, "at": at + i * minute, "host": i % 3, "v": 1} for i in range(100)]
    )
    for flag in (f"--collection={database.name}.loads", f"--database={database.name}"):
        status, output = load_once(cache_path, ["--uri", mongodb_uri, flag, "--batch-size=20"])
        assert status == 0, output
        with mmapcache.open(cache_path) as cache:
            assert set(cache) == {"loads"}
            assert len(cache["loads"]) == 100
            assert values(cache, "loads") == {1}
            cache.check()


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made anew"])
def test_a_drop_in_mid_load(
    cache_path: Path, mongodb_uri: str, database: Database, again: bool
) -> None:
    """The loader stands after its first batch, with twenty more to come, when the drop happens."""
    database.sites.insert_many([{"_id": i, "v": 0} for i in range(400)])
    flags = [f"--collection={database.name}.sites"]
    status, output = load_once(cache_path, ["--uri", mongodb_uri, *flags])
    assert status == 0, output
    database.sites.update_many({}, {"$set": {"v": 1}})
    hold = Hold(cache_path.with_name("hold"), SYNC + "progress:Progress.add")
    with (
        real_loader(cache_path, mongodb_uri, *flags, environment=hold.environment) as loader,
        mmapcache.open(cache_path) as cache,
    ):
        wait_for(hold.arrived)
        database.drop_collection("sites")
        if again:
            database.sites.insert_many([{"_id": i, "v": 2} for i in range(300)])
        hold.go()
        seen = set()

        def over() -> bool:
            with cache.snapshot() as snapshot:
                found = [document["v"] for document in snapshot["sites"].values()]
            seen.add((len(found), *sorted(set(found))))
            return (300, 2) in seen if again else "came back empty, kept" in loader.output

        wait_for(over)
        assert seen <= {(400, 0), (300, 2)}
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0
        assert "Traceback" not in loader.output
        cache.check()


# ---- a wall clock that is set ----


# What the C library says of the wall clock is moved by the seconds that a file holds. What waits
# for an hour by that clock waits as the kernel would let it.
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t moved(void)
{
    static volatile int64_t *seconds;
    if (seconds == NULL) {
        int file = open(getenv("CLOCK_FILE"), O_RDONLY | O_CLOEXEC);
        void *map = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
        close(file);
        if (map == MAP_FAILED) {
            abort();
        }
        seconds = map;
    }
    return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int status = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        now->tv_sec += moved();
    }
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec fine;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &fine);
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL) {
        *out = now.tv_sec;
    }
    return now.tv_sec;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict end)
{
    struct timespec now;
    while (sem_trywait(semaphore) != 0) {
        if (errno != EAGAIN) {
            return -1;
        }
        clock_gettime(CLOCK_REALTIME, &now);
        if (now.tv_sec > end->tv_sec ||
            (now.tv_sec == end->tv_sec && now.tv_nsec >= end->tv_nsec)) {
            errno = ETIMEDOUT;
            return -1;
        }
        struct timespec moment = {.tv_nsec = 5000000};
        if (nanosleep(&moment, NULL) != 0) {
            return -1; /* a signal */
        }
    }
    return 0;
}
"""
HOUR = 3600


class WallClock:
    """The wall clock of processes with its `environment`."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            pytest.skip("no C compiler, with which a clock to be set is made")
        source, library = directory / "clock.c", directory / "clock.so"
        source.write_text(CLOCK)
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True, timeout=60)
        self._file = directory / "clock"
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(self._file)}

    def set(self, seconds: int) -> None:
        """Moves it: that many seconds from what is right."""
        with self._file.open("r+b", buffering=0) as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    """A wall clock that the test sets."""
    return WallClock(tmp_path)


@only_linux("ages are by the wall clock where the boot is not known")
@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_the_clock_is_set_during_a_load(cache_path: Path, wall_clock: WallClock, jump: int) -> None:
    """The data's age is what has passed, for whoever asks, by the old clock or by the new one."""
    source = cache_path.with_name("sites.bson")
    source.write_bytes(b"\x0e\0\0\0\x10_id\0\x01\0\0\0\0")
    hold = Hold(cache_path.with_name("hold"), SYNC + "progress:Progress.add")
    flags = [f"--source=file:{source}", "--interval=3600"]
    environment = hold.environment | wall_clock.environment
    with Loader(cache_path, flags, environment) as loader:
        wait_for(hold.arrived)
        wall_clock.set(jump)
        hold.go()
        with mmapcache.open(cache_path, timeout=PATIENCE) as cache:
            wait_for(lambda: cache.status()["state"] == "polling")
            age = cache.status()["age"]
            assert age is not None
            assert 0 <= age < PATIENCE
            confirmed = cache.status()["confirmed_at"]
            assert confirmed is not None
            assert abs(confirmed - jump - time.time()) < PATIENCE
        for moved in (jump, -jump, 0):
            wall_clock.set(moved)
            stat = subprocess.run(
                [sys.executable, "-m", "mmapcache", "stat", str(cache_path)],
                env=os.environ | wall_clock.environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=PATIENCE,
            )
            ages = re.findall(r"^(?:age|confirmed) .*?([\d.]+) s (?:since|ago)", stat.stdout, re.M)
            assert len(ages) == 2, stat.stdout
            assert all(float(each) < PATIENCE for each in ages), stat.stdout
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0


@only_linux("ages are by the wall clock where the boot is not known")
def test_the_clock_is_set_while_the_loader_polls(cache_path: Path, wall_clock: WallClock) -> None:
    """Each refresh comes an interval after the one before, wherever the wall clock stands."""
    with ScriptedServer(dict(OLD)) as server:

        def rounds(finds: int) -> bool:
            return server.seen["find"] >= finds

        flags = ["--uri", server.uri, *BOTH, "--interval=0.2"]
        with (
            Loader(cache_path, flags, wall_clock.environment) as loader,
            mmapcache.open(cache_path, timeout=PATIENCE) as cache,
        ):
            for jump in (HOUR, -HOUR, 0):
                wall_clock.set(jump)
                before, began = server.seen["find"], time.monotonic()
                wait_for(partial(rounds, before + 6))
                took = time.monotonic() - began
                assert took > 2 * 0.18 - 0.05  # three rounds, the first perhaps at once
                age = cache.status()["age"]
                assert age is not None
                assert 0 <= age < PATIENCE
            loader.signal(signal.SIGTERM)
            assert loader.wait() == 0
            assert "Traceback" not in loader.output
            assert "next try" not in loader.output


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
@pytest.mark.parametrize("why", ["lock", "server"])
def test_the_clock_is_set_while_the_loader_waits(
    cache_path: Path, wall_clock: WallClock, jump: int, why: str
) -> None:
    """For the lock or for a server: it gives up when its time is over, neither before nor never."""
    flags = ["--uri", f"mongodb://127.0.0.1:{free_port()}/", *BOTH, "--once", "--timeout=1.5"]
    with contextlib.ExitStack() as stack:
        if why == "lock":
            stack.enter_context(mmapcache.Writer(cache_path, max_size=8 << 20))
        loader = stack.enter_context(Loader(cache_path, flags, wall_clock.environment))
        began = time.monotonic()
        loader.expect("waiting for it" if why == "lock" else "next try in")
        wall_clock.set(jump)
        assert loader.wait() == 1
        assert time.monotonic() - began > 1.4
        assert "Traceback" not in loader.output


def test_the_clock_is_set_while_a_reader_waits(cache_path: Path, wall_clock: WallClock) -> None:
    script = """if True:
        import sys, time
        import mmapcache
        path = sys.argv[1]
        with mmapcache.open(path) as cache, mmapcache.Writer(path + ".own") as writer:
            print("waiting", flush=True)
            began = time.monotonic()
            assert not cache.wait(cache.generation, 1.0)
            for path in (path + ".absent", path + ".own"):
                try:
                    mmapcache.open(path, timeout=0.3)
                except mmapcache.NotReadyError:
                    pass
            assert 1.5 < time.monotonic() - began < 60, time.monotonic() - began
    """
    with mmapcache.Writer(cache_path, max_size=8 << 20) as writer:
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1})
        reader = subprocess.Popen(
            [sys.executable, "-c", script, str(cache_path)],
            env=os.environ | wall_clock.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert reader.stdout is not None
        assert reader.stdout.readline() == "waiting\n"
        for _ in range(4):
            for jump in (-HOUR, HOUR):
                wall_clock.set(jump)
                time.sleep(0.1)
        said = reader.communicate(timeout=PATIENCE)[1]
        assert reader.returncode == 0, said
