"""What the host may do to a loader or a reader: limits of memory, full disks, stopped processes.

Each of these is real: control groups, mounted file systems, a process that is stopped. What only
root can make, or what this machine does not have, is skipped with a sentence.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import bson
import pytest
from support.caches import fill
from support.processes import in_child, run_script

import mmapcache

MEMORY_GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
PR_SET_THP_DISABLE = 41
MIB = 1 << 20


def put_many(
    writer: mmapcache.Writer, name: str, count: int, size: int, version: int = 0
) -> int | None:
    """One commit of `count` documents of about `size` bytes each; its generation."""
    pad = b"x" * size
    with writer.batch() as batch:
        for key in range(count):
            batch.put(name, key, {"_id": key, "version": version, "pad": pad})
    return batch.generation


def whole(path: Path, name: str, count: int, version: int) -> bool:
    """Whether the cache checks and has exactly these documents, all of one version."""
    with mmapcache.open(path) as cache:
        cache.check()
        return {key: doc["version"] for key, doc in cache[name].items()} == dict.fromkeys(
            range(count), version
        )


# ---- memory control groups ----


@pytest.fixture
def memory_group() -> Iterator[Callable[[int], Path]]:
    """Makes a control group of that many bytes; its file of processes."""
    made: list[Path] = []

    def make(limit: int) -> Path:
        for root in MEMORY_GROUPS:
            group = root / f"mmapcache-{uuid.uuid4().hex[:8]}"
            try:
                group.mkdir()
            except OSError:
                continue
            for name in ("memory.limit_in_bytes", "memory.max"):
                try:
                    (group / name).write_text(str(limit))
                except OSError:
                    continue
                made.append(group)
                return group / "cgroup.procs"
            group.rmdir()
        pytest.skip("no memory control group can be made here: it takes root and a mounted cgroup")

    yield make
    for group in made:
        group.rmdir()


def test_a_loader_at_the_limit_of_its_memory(
    cache_path: Path, memory_group: Callable[[int], Path]
) -> None:
    """It is killed, or its batch fails; what it had published stays, and the next one goes on."""
    with mmapcache.Writer(cache_path, max_size="256MiB") as writer:
        put_many(writer, "sites", 100, 1000, version=1)
    group = memory_group(48 * MIB)
    child = os.fork()
    if child == 0:
        status = 9
        try:
            group.write_text(str(os.getpid()))
            with mmapcache.Writer(cache_path) as writer:
                put_many(writer, "sites", 20_000, 10_000, version=2)
            status = 0
        except (mmapcache.FullError, MemoryError, OSError):
            status = 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status in (signal.SIGKILL, 1 << 8), "200 MB do not fit into 48 MiB"
    assert whole(cache_path, "sites", 100, 1)
    with mmapcache.Writer(cache_path) as writer:
        put_many(writer, "sites", 200, 1000, version=3)
    assert whole(cache_path, "sites", 200, 3)


def test_a_reader_with_less_memory_than_the_cache(
    cache_path: Path, memory_group: Callable[[int], Path]
) -> None:
    """The file's pages are charged to who wrote them: a small worker reads all of a large cache."""
    count = 6000
    with mmapcache.Writer(cache_path, max_size="256MiB") as writer:
        put_many(writer, "sites", count, 20_000)
    group = memory_group(64 * MIB)  # half of the cache
    script = """if True:
        import os, sys
        import mmapcache
        open(sys.argv[2], "w").write(str(os.getpid()))
        with mmapcache.open(sys.argv[1], front_bytes=8 << 20) as cache:
            sites = cache["sites"]
            for key in range(int(sys.argv[3])):
                assert len(sites.get_raw(key)) > 20_000
            assert sum(1 for _ in sites.values()) == len(sites)
            print(len(sites))
            cache.check()
    """
    said = run_script(script, str(cache_path), str(group), str(count))
    assert said.split() == [str(count)]


# ---- file systems ----


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts an ext4 file system of so many MiB; where it is."""
    places: list[Path] = []

    def mount(megabytes: int) -> Path:
        image, place = tmp_path / "disk", tmp_path / "mounted"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(megabytes * MIB)
        for command in (
            ["mkfs.ext4", "-q", "-F", str(image)],
            ["mount", "-o", "loop", str(image), str(place)],
        ):
            try:
                subprocess.run(command, check=True, capture_output=True, timeout=60)
            except (OSError, subprocess.SubprocessError) as error:
                pytest.skip(
                    f"no ext4 can be mounted here: it takes root and a loop device: {error}"
                )
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def test_a_full_disk_is_an_error_and_nothing_else(mounted: Callable[[int], Path]) -> None:
    path = mounted(24) / "cache"
    with mmapcache.Writer(path, max_size="256MiB") as writer:
        put_many(writer, "sites", 50, 1000, version=1)
        with mmapcache.open(path) as reader:
            with pytest.raises((mmapcache.FullError, OSError)) as failure:
                put_many(writer, "sites", 3000, 20_000, version=2)
            if isinstance(failure.value, OSError):
                assert failure.value.errno == errno.ENOSPC
            assert reader["sites"][49]["version"] == 1
            put_many(writer, "sites", 50, 1000, version=3)  # what fits goes on
            assert reader["sites"][0]["version"] == 3
    assert whole(path, "sites", 50, 3)


def test_a_disk_that_others_fill(mounted: Callable[[int], Path]) -> None:
    """Every byte of the file is allocated before it is used: no SIGBUS when the disk is full."""
    place = mounted(32)
    path = place / "cache"
    with mmapcache.Writer(path, max_size="64MiB") as writer:
        put_many(writer, "sites", 100, 10_000, version=1)
        try:
            (place / "others").write_bytes(bytes(64 * MIB))
        except OSError as error:
            assert error.errno == errno.ENOSPC
        for version in range(2, 8):
            put_many(writer, "sites", 50, 5000, version=version)
    with mmapcache.open(path) as cache:
        assert cache["sites"][0]["version"] == 7
        cache.check()


def test_a_read_only_file_system(mounted: Callable[[int], Path]) -> None:
    place = mounted(16)
    path = place / "cache"
    with mmapcache.Writer(path, max_size="4MiB") as writer:
        put_many(writer, "sites", 10, 100, version=1)
        writer.checkpoint()
    remounted = subprocess.run(
        ["mount", "-o", "remount,ro", str(place)], check=False, capture_output=True
    )
    if remounted.returncode != 0:
        pytest.skip(f"cannot be made read-only here: {remounted.stderr!r}")
    assert whole(path, "sites", 10, 1)
    with pytest.raises(OSError, match=str(path)) as failure:
        mmapcache.Writer(path)
    assert failure.value.errno == errno.EROFS
    command = [sys.executable, "-m", "mmapcache", "sync", str(path), "--once"]
    source = place.with_name("sites.json")
    source.write_text('{"_id": 1}')
    loader = subprocess.run(
        [*command, "--source", f"file:{source}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert loader.returncode != 0
    assert "Traceback" not in loader.stderr
    assert "ead-only file system" in loader.stderr


# ---- mappings and huge pages ----


def test_no_mapping_is_left(cache_path: Path) -> None:
    """A process that has used all of its mappings gets an error from open(), and goes on later."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    if limit > 200_000:
        pytest.skip(f"vm.max_map_count is {limit}: too many to use up here")
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        put_many(writer, "sites", 10, 100)

        def work() -> None:
            import mmap

            page = mmap.PAGESIZE
            libc = ctypes.CDLL(None, use_errno=True)
            libc.mmap.restype = ctypes.c_void_p
            pages = []
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            for number in range(limit * 2):
                protection = mmap.PROT_READ if number % 2 else 0  # never merged
                address = libc.mmap(None, ctypes.c_size_t(page), protection, flags, -1, 0)
                if address == ctypes.c_void_p(-1).value:
                    break
                pages.append(address)
            with pytest.raises((OSError, MemoryError)):
                mmapcache.open(cache_path)
            for address in pages:
                libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(page))
            with mmapcache.open(cache_path) as cache:
                assert len(cache["sites"]) == 10

        in_child(work)


def test_without_transparent_huge_pages(cache_path: Path) -> None:
    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
        with mmapcache.Writer(cache_path, max_size="64MiB") as writer:
            put_many(writer, "sites", 1000, 20_000, version=1)

    in_child(work)
    assert whole(cache_path, "sites", 1000, 1)


# ---- processes that stand still ----


def test_a_reader_that_was_stopped_for_thousands_of_generations(
    writer: mmapcache.Writer, cache_path: Path
) -> None:
    """It goes on where the loader is; what it held of the past is expired, not wrong."""
    fill(writer, "sites", *({"_id": key, "version": 0} for key in range(100)))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with mmapcache.open(cache_path) as cache, cache.snapshot() as snapshot:
                first = snapshot["sites"][0]
                os.kill(os.getpid(), signal.SIGSTOP)
                versions = {doc["version"] for doc in cache["sites"].values()}
                assert versions == {5000}, versions
                assert first["version"] == 0
                try:
                    old = {snapshot["sites"][key]["version"] for key in range(100)}
                    assert old == {0}, old
                except mmapcache.SnapshotExpired:
                    pass
                status = 0
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(status)
    os.close(write)
    _, stopped = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(stopped)
    documents = [
        [bson.encode({"_id": key, "version": version}) for key in range(100)]
        for version in (4999, 5000)
    ]
    for version in range(1, 5001):
        with writer.batch() as batch:
            batch.put_raw("sites", b"".join(documents[version % 2 == 0]))
    os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        assert status == 0, pipe.read()


# ---- many collections ----


def test_as_many_collections_as_there_may_be_and_one_more(cache_path: Path) -> None:
    most = mmapcache.MAX_COLLECTIONS
    with mmapcache.Writer(cache_path, max_size="64MiB") as writer:
        with writer.batch() as batch:
            for number in range(most):
                batch.put(f"c{number}", 1, {"_id": 1})
        with (
            pytest.raises(mmapcache.LimitError, match=f"at most {most} collections"),
            writer.batch() as batch,
        ):
            batch.put("one more", 1, {"_id": 1})
        with writer.batch() as batch:  # one goes, one comes
            batch.drop("c0")
            batch.put("one more", 1, {"_id": 1})
    with mmapcache.open(cache_path) as cache:
        assert len(cache) == most
        assert "one more" in cache
        assert "c0" not in cache
        cache.check()
