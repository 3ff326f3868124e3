"""cache.changes() and cache.subscribe(): what a worker is told of each change, and when."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from support.caches import fill
from support.processes import run_script

import mmapcache
from mmapcache import changes
from mmapcache.changes import Change

NEVER = 3600.0  # seconds: who hears of a change within a test was woken, and did not look himself
PATIENCE = 60.0  # seconds for what takes milliseconds

LOADER = """
import signal, sys, mmapcache
writer = mmapcache.Writer(sys.argv[1], max_size="4MiB")
for line in sys.stdin:
    with writer.batch() as batch:
        for key in line.split():
            batch.put("sites", key, {"_id": key, "g": writer.generation})
    print(batch.generation, flush=True)
"""


class Loader:
    """A loader in a process of its own that puts the keys that it is told."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOADER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def put(self, *keys: str) -> int:
        """Commits; the generation."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(keys) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.wait()


@pytest.fixture
def loader(cache_path: Path) -> Iterator[Loader]:
    loader = Loader(cache_path)
    loader.put("first")
    yield loader
    loader.kill()


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself: only the bell wakes."""
    monkeypatch.setattr(changes, "_PATIENCE", NEVER)
    monkeypatch.setattr(changes, "_POLL", NEVER)


async def soon(condition: Callable[[], object]) -> None:
    """Waits in the loop until it is true."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "nothing happens"
        await asyncio.sleep(0.002)


async def next_of(stream: changes.Changes) -> Change:
    return await asyncio.wait_for(stream.__anext__(), PATIENCE)


def told(generation: int, *keys: Any) -> Change:
    """These keys of `sites` changed."""
    return Change(generation, {"sites": frozenset(keys)})


def gathered(given: list[Change]) -> set[Any]:
    """All keys of `sites` that these changes name."""
    assert all(change.keys is not None for change in given)
    return {key for change in given for key in (change.keys or {}).get("sites", ())}


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


# ---- what a change says ----


def test_keys_by_collection(writer: mmapcache.Writer) -> None:
    fill(writer, "sites", {"_id": "a"}, {"_id": "b"})
    cache = writer.reader()
    news = cache.changes()
    assert iter(news) is news
    with writer.batch() as batch:
        batch.delete("sites", "a")
        batch.delete("sites", "never there")
        batch.put("sites", "b", {"_id": "b"})  # as it was
        batch.put("sites", "c", {"_id": "c"})
        batch.put("limits", 7, {"_id": 7})
    assert next(news) == Change(2, {"sites": frozenset({"a", "c"}), "limits": frozenset({7})})
    with writer.batch() as batch:
        batch.state = b"only the loader's"
    fill(writer, "sites", {"_id": "d"})
    assert next(news) == (4, {"sites": frozenset({"d"})}), "two commits, one change"
    with writer.batch() as batch:
        batch.state = b"again"
    assert next(news) == (5, {})
    with writer.batch() as batch:
        batch.drop("limits")
    assert next(news) == (6, None), "which keys were in it the log does not say"
    fill(writer, "limits", {"_id": 8})
    assert next(news) == (7, {"limits": frozenset({8})})


def test_keys_are_those_of_the_collection(writer: mmapcache.Writer) -> None:
    bson = pytest.importorskip("bson")
    moment = datetime(2024, 5, 6, tzinfo=timezone.utc).replace(tzinfo=None)
    keys = ["text", 5, 2.5, None, True, b"bytes", moment, bson.ObjectId(), uuid.uuid4()]
    keys += [{"a": 1, "b": {"c": [1, 2]}}, bson.Int64(1 << 60), bson.Timestamp(5, 6)]
    fill(writer, "sites", {"_id": "first"})
    codec = bson.codec_options.CodecOptions(uuid_representation=4)
    cache = writer.reader(codec_options=codec)
    news = cache.changes()
    with writer.batch() as batch:
        for key in keys:
            name = bson.Binary.from_uuid(key) if isinstance(key, uuid.UUID) else key
            batch.put("sites", name, {"v": 1})
    named = next(news).keys
    assert named is not None
    assert named["sites"] == set(cache["sites"]) - {"first"}
    assert {type(key) for key in named["sites"]} == {type(key) for key in cache["sites"]}
    for key in (bson.Decimal128("1.10"), {"r": bson.Regex("x")}):
        with writer.batch() as batch:
            batch.put("sites", key, {"v": 1})
        assert next(news).keys is None, "no set can hold this key"


def test_without_pymongo_a_set_can_hold_each_key() -> None:
    said = run_script(
        """
import struct, sys
sys.modules["bson"] = None
import mmapcache
writer = mmapcache.Writer.anonymous(max_size="2MiB")
writer.put("sites", "first", {"v": 1})
news = writer.reader().changes()
value = b"\\x13_id\\0" + (110).to_bytes(14, "little") + b"\\x3c\\x30\\0"  # Decimal128("1.10")
with writer.batch() as batch:
    batch.put("sites", mmapcache.object_id("0" * 24), {"v": 1})
    batch.put_raw("sites", struct.pack("<i", len(value) + 4) + value)
print(*sorted(type(key).__name__ for key in next(news).keys["sites"]))
"""
    )
    assert said == "RareValue object_id\n"


def test_a_log_that_does_not_reach_back(writer: mmapcache.Writer) -> None:
    fill(writer, "sites", {"_id": "a"})
    cache = writer.reader()
    many, far = cache.changes(), cache.changes()
    with writer.batch() as batch:
        for n in range(3000):
            batch.put("sites", f"a key of some length {n}", {"_id": n})
    assert next(many) == (2, None), "a quarter of the log is for one collection"
    for n in range(600):
        fill(writer, f"c{n % 3}", {"_id": f"{n}{'x' * 1000}"})
    assert next(far) == (602, None)
    fill(writer, "c0", {"_id": "last"})
    assert next(far) == (603, {"c0": frozenset({"last"})})


def test_a_damaged_log_is_not_known(writer: mmapcache.Writer, cache_path: Path) -> None:
    seed = int(os.environ.get("MMAPCACHE_SEED", random.randrange(1 << 32)))
    print(f"MMAPCACHE_SEED={seed}")
    chance = random.Random(seed)
    fill(writer, "sites", {"_id": "a"})
    cache = writer.reader()
    seen, _ = cache._news(None)
    for n in range(6):
        fill(writer, "sites", {"_id": f"key {n}"}, {"_id": n})
    whole = {"sites": frozenset({f"key {n}" for n in range(6)} | set[object](range(6)))}
    with cache_path.open("r+b", buffering=0) as file:
        start, size = struct.unpack_from("<QI", os.pread(file.fileno(), 128, 0), 104)
        sound = os.pread(file.fileno(), 1024, start)
        answers = set()
        for _ in range(300):
            at, data = chance.randrange(1000), chance.randbytes(chance.choice([1, 1, 4, 24]))
            os.pwrite(file.fileno(), data, start + at)
            now, keys = cache._news(seen)
            assert now[0] == 7
            assert keys in (None, whole)
            answers.add(keys is None)
            os.pwrite(file.fileno(), sound, start)
        assert answers == {True, False}
        assert size >= 1024
    assert cache._news(seen)[1] == whole


def test_what_was_given_last_is_checked(writer: mmapcache.Writer) -> None:
    fill(writer, "sites", {"_id": "a"})
    cache = writer.reader()
    for wrong in (5, (1,), ("a", 0)):
        with pytest.raises(TypeError):
            cache._news(wrong)  # type: ignore[arg-type]
    assert cache._news((5, 0)) == ((1, 0), None), "a generation that is not yet"
    assert cache._news((0, 7)) == ((1, 0), None), "another file's"
    cache.close()
    with pytest.raises(mmapcache.ClosedError):
        cache.changes()


# ---- being woken ----


@pytest.mark.usefixtures("deaf")
def test_async_iterator(loader: Loader, cache_path: Path) -> None:
    async def main() -> None:
        news = mmapcache.open(cache_path).changes()
        waiting = asyncio.ensure_future(next_of(news))
        await asyncio.sleep(0.01)
        loader.put("a")
        assert await waiting == told(2, "a")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(news.__anext__(), 0.02)
        for n in range(100):  # while this task is at it and the loop does not run
            loader.put(f"key {n}", "b")
        assert await next_of(news) == told(102, "key", "b", *map(str, range(100)))
        first = asyncio.ensure_future(next_of(news))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await next_of(news)
        loader.put("c")
        assert await first == told(103, "c")

    asyncio.run(main(), debug=True)


@pytest.mark.usefixtures("deaf")
def test_a_burst_wakes_once(writer: mmapcache.Writer) -> None:
    fill(writer, "sites", {"_id": "a"})
    given: list[Change] = []

    async def main() -> None:
        cache = mmapcache.open(writer.path)
        subscription = cache.subscribe(given.append)
        for n in range(500):
            fill(writer, "sites", {"_id": n})
        await soon(lambda: given)
        assert len(given) == 1
        assert given[0] == (501, {"sites": frozenset(range(500))})
        # A commit soon after a ring has none of its own, and is told all the same.
        for n in range(500, 700):
            fill(writer, "sites", {"_id": n})
            if n % 20 == 0:
                await asyncio.sleep(random.random() / 100)
        await soon(lambda: given[-1].generation == 701)
        assert gathered(given) == set(range(700))
        subscription.close()
        assert subscription.closed
        fill(writer, "sites", {"_id": "unheard"})
        await asyncio.sleep(0.05)
        assert given[-1].generation == 701

    asyncio.run(main(), debug=True)


@pytest.mark.usefixtures("deaf")
def test_a_killed_loader_and_the_next_one(loader: Loader, cache_path: Path) -> None:
    given: list[Change] = []

    async def main() -> None:
        mmapcache.open(cache_path).subscribe(given.append)
        loader.put("a")
        loader.process.send_signal(signal.SIGKILL)
        await soon(lambda: given)
        second = Loader(cache_path)
        try:
            second.put("b")
            await soon(lambda: given[-1].generation == 3)
            assert gathered(given) == {"a", "b"}
        finally:
            second.kill()

    asyncio.run(main())


@pytest.mark.usefixtures("deaf")
def test_the_file_is_replaced(cache_path: Path) -> None:
    given: list[Change] = []

    async def main() -> None:
        with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
            fill(writer, "sites", {"_id": "a"})
            mmapcache.open(cache_path).subscribe(given.append)
        with mmapcache.Writer(cache_path, max_size="8MiB") as writer:
            await soon(lambda: given and given[-1].keys is None)
            fill(writer, "sites", {"_id": "b"})
            await soon(lambda: given[-1] == told(writer.generation, "b"))

    asyncio.run(main())


@pytest.mark.parametrize("what", ["none", "file", "silent", "no epoll"])
def test_without_a_bell(
    cache_path: Path, writer: mmapcache.Writer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(changes, "_PATIENCE", 0.05)
    fill(writer, "sites", {"_id": "a"})
    bell = cache_path.with_name("cache.bell")
    assert bell.is_fifo()
    bell.unlink()
    if what == "file":
        bell.write_bytes(b"no FIFO")
    elif what == "silent":
        os.mkfifo(bell)  # nobody rings this one
    elif what == "no epoll":  # as on macOS
        os.mkfifo(bell)
        monkeypatch.setattr(changes, "_epoll_of", lambda fifo: None)

    async def main() -> None:
        news = mmapcache.open(cache_path).changes()
        for n in range(3):
            fill(writer, "sites", {"_id": n})
            assert await next_of(news) == told(n + 2, n)
        bell.unlink(missing_ok=True)
        with mmapcache.Writer.anonymous(max_size="4MiB") as other:
            fill(other, "sites", {"_id": "a"})
            news = other.reader().changes()
            fill(other, "sites", {"_id": "b"})
            assert await next_of(news) == told(2, "b")

    asyncio.run(main())


@pytest.mark.usefixtures("deaf")
def test_a_bell_that_comes_later(
    cache_path: Path, writer: mmapcache.Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_POLL", 0.05)
    fill(writer, "sites", {"_id": "a"})
    writer.close()
    cache_path.with_name("cache.bell").unlink()

    async def main() -> None:
        bell = changes._Bell(os.fsencode(cache_path))
        assert bell.listen() is None
        with mmapcache.Writer(cache_path):
            assert bell.listen() is None, "it was looked for just now"
            monkeypatch.setattr(changes, "_PATIENCE", 0.0)
            assert bell.listen() is not None
        bell.close()

    asyncio.run(main())


# ---- subscriptions ----


def test_callbacks_that_fail(loader: Loader, cache_path: Path) -> None:
    given: list[Change] = []
    reported: list[dict[str, Any]] = []
    subscription: changes.Subscription

    def callback(change: Change) -> None:
        assert threading.current_thread() is threading.main_thread()
        given.append(change)
        if len(given) == 1:
            raise LookupError("my fault")
        subscription.close()  # within the callback

    async def main() -> None:
        nonlocal subscription
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        subscription = mmapcache.open(cache_path).subscribe(callback)
        loader.put("a")
        await soon(lambda: given)
        loader.put("b")
        await soon(lambda: subscription.closed)
        subscription.close()
        loader.put("c")
        await asyncio.sleep(0.05)

    asyncio.run(main(), debug=True)
    assert gathered(given) == {"a", "b"}
    assert [str(context["exception"]) for context in reported] == ["my fault"]
    assert reported[0]["subscription"] is subscription


def test_wrong_calls(writer: mmapcache.Writer) -> None:
    fill(writer, "sites", {"_id": "a"})
    cache = writer.reader()

    async def coroutine(_: Change) -> None: ...

    with pytest.raises(RuntimeError, match="give loop="):
        cache.subscribe(print)
    with pytest.raises(TypeError, match="async for"):
        cache.subscribe(coroutine)
    with pytest.raises(TypeError, match="'int' cannot"):
        cache.subscribe(5)  # type: ignore[arg-type]


@pytest.mark.usefixtures("deaf")
def test_a_loop_in_another_thread(loader: Loader, cache_path: Path) -> None:
    given: list[tuple[threading.Thread, Change]] = []
    came = threading.Event()

    def callback(change: Change) -> None:
        given.append((threading.current_thread(), change))
        came.set()

    loop = asyncio.new_event_loop()
    cache = mmapcache.open(cache_path)
    early = cache.subscribe(lambda _: None, loop)  # before it runs
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    subscription = cache.subscribe(callback, loop=loop)
    loader.put("a")
    assert came.wait(PATIENCE)
    subscription.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert early.closed
    early.close()
    assert given == [(thread, told(2, "a"))]


def test_a_cache_that_is_closed(writer: mmapcache.Writer) -> None:
    fill(writer, "sites", {"_id": "a"})
    cache = writer.reader()
    blocked = threading.Thread(target=lambda: ended.extend(cache.changes()))
    ended: list[Change] = []
    blocked.start()

    async def main() -> None:
        subscription = cache.subscribe(lambda _: None)
        asyncio.get_running_loop().call_later(0.02, cache.close)
        async for _ in cache.changes():
            raise AssertionError
        await soon(lambda: subscription.closed)

    asyncio.run(main(), debug=True)
    blocked.join(PATIENCE)
    assert not blocked.is_alive()
    assert ended == []


def test_a_file_that_is_damaged(
    cache_path: Path, writer: mmapcache.Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_PATIENCE", 0.05)
    fill(writer, "sites", {"_id": "a"})
    reported: list[dict[str, Any]] = []
    given: list[Change] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        cache = mmapcache.open(cache_path)
        cache.subscribe(given.append)
        news = cache.changes()
        os.truncate(cache_path, 4096)
        await soon(lambda: reported)
        with pytest.raises(mmapcache.CorruptError):
            await next_of(news)
        await asyncio.sleep(0.2)
        assert len(reported) == 1, "once, however often it is looked at"
        writer.close()
        with mmapcache.Writer(cache_path, recreate=True) as healthy:
            fill(healthy, "sites", {"_id": "b"})
            await soon(lambda: given)
            assert given[0].keys is None

    asyncio.run(main())
    assert isinstance(reported[0]["exception"], mmapcache.CorruptError)


# ---- processes ----


@pytest.mark.usefixtures("deaf")
def test_forks(loader: Loader, cache_path: Path) -> None:
    """An iterator of before a fork goes on on both sides, and neither takes the other's rings."""
    cache = mmapcache.open(cache_path)

    async def main() -> None:
        news = cache.changes()
        given: list[Change] = []
        subscription = cache.subscribe(given.append)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(news.__anext__(), 0.02)  # has its bell by now
        ready, said = os.pipe()
        heard, out = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                # Left alone: the loop of the parent, which is in this process's memory, too.
                asyncio._set_running_loop(None)
                assert subscription.closed
                subscription.close()
                asyncio.run(in_fork(news, said, out))
                status = 0
            finally:
                os._exit(status)
        os.read(ready, 1)
        loader.put("a")
        assert await next_of(news) == told(2, "a")
        await soon(lambda: given)
        assert os.read(heard, 100) == b"['a']"
        loader.put("b")
        assert await next_of(news) == told(3, "b")
        await soon(lambda: len(given) == 2)
        assert os.read(heard, 100) == b"['b']"
        assert os.waitpid(child, 0)[1] == 0
        for fd in (ready, said, heard, out):
            os.close(fd)

    asyncio.run(main())


async def in_fork(news: changes.Changes, ready: int, out: int) -> None:
    waiting = asyncio.ensure_future(next_of(news))
    await asyncio.sleep(0.01)
    os.write(ready, b".")
    keys = (await waiting).keys
    assert keys is not None
    os.write(out, str(list(keys["sites"])).encode())
    keys = (await next_of(news)).keys
    assert keys is not None
    os.write(out, str(list(keys["sites"])).encode())


def test_nothing_is_left_behind(writer: mmapcache.Writer) -> None:
    fill(writer, "sites", {"_id": "a"})
    cache = writer.reader()

    async def main() -> None:
        gc.collect()  # what other tests left
        before = descriptors()
        for n in range(20):
            subscription = cache.subscribe(lambda _: None)
            news = cache.changes()
            fill(writer, "sites", {"_id": n})
            await next_of(news)
            assert descriptors() > before
            subscription.close()
            del news, subscription
            await asyncio.sleep(0)
            assert descriptors() == before

    asyncio.run(main(), debug=True)
    gc.collect()
    before = descriptors()
    loop = asyncio.new_event_loop()
    cache.subscribe(lambda _: None, loop)  # the loop ends without it
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    del loop
    gc.collect()
    assert descriptors() == before


def test_reading_does_not_import_it(cache_path: Path, writer: mmapcache.Writer) -> None:
    fill(writer, "sites", {"_id": "a"})
    said = run_script(
        """
import sys, mmapcache
cache = mmapcache.open(sys.argv[1])
cache["sites"]["a"], cache.wait(0)
print([name for name in ("asyncio", "select", "mmapcache.changes") if name in sys.modules])
news = cache.changes()
print("asyncio" in sys.modules, cache.subscribe.__doc__ is not None)
""",
        str(cache_path),
    )
    assert said == "[]\nFalse True\n"


@pytest.mark.usefixtures("deaf")
def test_tornado(loader: Loader, cache_path: Path) -> None:
    ioloop = pytest.importorskip("tornado.ioloop")
    given: list[Change] = []

    def serve() -> None:
        def callback(change: Change) -> None:
            given.append(change)
            loop.stop()

        loop = ioloop.IOLoop.current()
        subscription = mmapcache.open(cache_path).subscribe(callback)
        loop.call_later(0.01, loader.put, "a")
        loop.call_later(PATIENCE, loop.stop)
        closing.append(subscription.close)

    closing: list[Callable[[], None]] = []
    loop = ioloop.IOLoop(make_current=True)
    loop.add_callback(serve)
    loop.start()
    closing[0]()
    loop.close()
    assert given == [told(2, "a")]
