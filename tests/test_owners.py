"""Other users: their files are neither filled nor believed, and their locks stop nobody."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.loader import wait_for
from support.processes import in_child, run_script
from support.system import only_linux

import mmapcache

NOBODY, LOADER = 65534, 12345  # uids
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A path in a directory in which everybody may make files, as /dev/shm is one."""
    memory = Path("/dev/shm")
    directory = tempfile.mkdtemp(prefix="mmapcache-test-", dir=memory if memory.is_dir() else None)
    Path(directory).chmod(0o1777)
    yield Path(directory) / "cache"
    shutil.rmtree(directory, ignore_errors=True)


def as_user(uid: int, work: Callable[[], object]) -> None:
    """Runs `work` in a forked child that has become that user for good."""

    def become() -> None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        work()

    in_child(become)


def load(path: Path, value: int = 1, recreate: bool = False) -> None:
    writer = mmapcache.Writer(path, max_size="4MiB", mode=0o644, recreate=recreate)
    with writer, writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1, "value": value})


def value_of(path: Path, owner: int | str | None = None) -> object:
    with mmapcache.open(path, owner=owner) as cache:
        return cache["sites"][1]["value"]


@needs_root
def test_root_does_not_fill_a_planted_file(shared: Path) -> None:
    for plant in (lambda: load(shared), lambda: shared.write_bytes(b"")):
        as_user(NOBODY, plant)
        shared.with_name("cache.lock").unlink(missing_ok=True)
        before = shared.read_bytes()
        with pytest.raises(mmapcache.FormatError, match=rf"{shared} belongs to uid {NOBODY}"):
            load(shared)
        assert shared.read_bytes() == before
        load(shared, 2, recreate=True)  # by another file, which the planter cannot write
        assert shared.stat().st_uid == 0
        assert value_of(shared) == 2
        shared.unlink()
        shared.with_name("cache.lock").unlink()


@needs_root
def test_a_file_of_another_user_is_believed_only_when_asked_for(shared: Path) -> None:
    as_user(LOADER, lambda: load(shared))

    def refused() -> None:
        with pytest.raises(mmapcache.FormatError) as error:
            mmapcache.open(shared)
        for part in (str(shared), f"belongs to uid {LOADER}", f"owner={LOADER}"):
            assert part in str(error.value)
        with pytest.raises(mmapcache.FormatError):
            mmapcache.open(shared, owner=LOADER + 1)
        assert value_of(shared, owner=LOADER) == 1

    refused()  # as root
    as_user(NOBODY, refused)
    as_user(LOADER, lambda: value_of(shared))
    shared.unlink()
    shared.with_name("cache.lock").unlink()
    load(shared, 3)
    as_user(NOBODY, lambda: value_of(shared))  # root's
    as_user(NOBODY, lambda: value_of(shared, owner="nobody"))


@needs_root
def test_the_command_line_says_whose_a_file_may_be(shared: Path) -> None:
    as_user(LOADER, lambda: load(shared))
    command = [
        sys.executable,
        "-m",
        "mmapcache",
        "get",
        str(shared),
        "sites",
        "1",
        "--pluck",
        "value",
    ]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 1
    assert f"--owner {LOADER}" in said.stderr
    command += ["--owner", str(LOADER)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == b"1\n"
    command[-1] = "no such user"
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, "no such user" in said.stderr) == (2, True)


@pytest.mark.parametrize("owner", [-1, 1 << 32, 1 << 70, "no such user"])
def test_an_owner_that_is_none(cache_path: Path, owner: int | str) -> None:
    with pytest.raises(ValueError, match="owner is"):
        mmapcache.open(cache_path, owner=owner)
    with pytest.raises(TypeError):
        mmapcache.open(cache_path, owner=1.5)  # type: ignore[arg-type]


@needs_root
@pytest.mark.parametrize("master", [0, LOADER])
def test_a_master_that_opens_before_it_drops_its_privileges(shared: Path, master: int) -> None:
    """A worker follows to the next file although it could not have opened the first one itself."""

    def make(value: int) -> None:
        as_user(master, lambda: load(shared, value))

    make(1)
    cache = mmapcache.open(shared, owner=master)
    opened, replaced = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os.write(opened[1], b"x")
        os.read(replaced[0], 1)
        os._exit(0 if cache.wait(cache.generation, 30) and cache["sites"][1]["value"] == 2 else 1)
    os.read(opened[0], 1)
    shared.unlink()
    make(2)
    os.write(replaced[1], b"x")
    assert os.waitpid(child, 0)[1] == 0


@needs_root
def test_names_that_are_taken(shared: Path) -> None:
    lock, temporary = shared.with_name("cache.lock"), shared.with_name("cache.new")
    as_user(NOBODY, lambda: lock.write_bytes(b""))
    with pytest.raises(OSError, match=rf"{lock} belongs to uid {NOBODY}.*remove it"):
        load(shared)
    lock.unlink()
    as_user(NOBODY, lambda: os.mkfifo(lock, 0o666))
    with pytest.raises(OSError, match=rf"{lock} is not a regular file"):
        load(shared)
    lock.unlink()
    as_user(NOBODY, lambda: temporary.write_bytes(b""))

    def refused() -> None:
        with pytest.raises(OSError, match=rf"{temporary} is in the way.*Remove it"):
            load(shared)

    as_user(LOADER, refused)  # who may not remove it
    lock.unlink()
    load(shared)  # root may
    assert lock.stat().st_mode & 0o777 == 0o600


@needs_root
@only_linux("who may read the file can flock it")
def test_locks_of_readers_stop_no_loader(shared: Path) -> None:
    load(shared)
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        fd = os.open(shared, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b"x"
    try:
        with mmapcache.open(shared) as cache:
            assert cache.status()["loader"] == "none"
            with mmapcache.Writer(shared) as writer:
                with writer.batch() as batch:
                    batch.put("sites", 1, {"_id": 1, "value": 2})
                wait_for(lambda: cache["sites"][1]["value"] == 2)  # it goes over to the new file
                assert cache.status()["loader"] == "alive"
    finally:
        os.write(done[1], b"x")
        assert os.waitpid(child, 0)[1] == 0


def test_what_is_printed_after_the_streams_were_closed(cache_path: Path) -> None:
    script = """
import os, sys, mmapcache
for fd in (0, 1, 2):
    os.close(fd)
writer = mmapcache.Writer(sys.argv[1], max_size="4MiB")
with writer.batch() as batch:
    batch.put("sites", 1, {"_id": 1})
cache = mmapcache.open(sys.argv[1])
for fd in (0, 1, 2):
    try:
        os.write(fd, b"perror: a library's last words" * 10)
    except OSError:
        pass
cache.check()
os._exit(0 if cache["sites"][1]["_id"] == 1 else 1)
"""
    run_script(script, str(cache_path))
    assert mmapcache.open(cache_path)["sites"][1]["_id"] == 1


def test_populating_a_sparse_file(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="1GiB") as writer, writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})
    os.truncate(cache_path, 1 << 30)
    before = cache_path.stat().st_blocks
    try:
        mmapcache.open(cache_path, populate=True)
    except OSError as error:
        pytest.skip(f"this kernel cannot populate: {error}")
    assert cache_path.stat().st_blocks == before


# ---- file systems of one's own ----

MOUNTED = """
import os, subprocess, sys
from pathlib import Path
import mmapcache
root = Path(sys.argv[1])
def mount(*arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        print("skip: cannot mount:", done.stderr.strip())
        raise SystemExit
"""


def run_mounted(script: str, directory: Path) -> None:
    """Runs a script in a mount namespace of its own; skips where that cannot be had."""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c"]
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can mount, and util-linux's unshare is needed")
    done = subprocess.run(
        [*command, MOUNTED + script, str(directory)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if "unshare failed" in done.stderr or done.stdout.startswith("skip"):
        pytest.skip(done.stdout.strip() or done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr


@only_linux("overlayfs is not looked for")
def test_a_reader_of_the_lower_layer_follows_the_loader(tmp_path: Path) -> None:
    run_mounted(
        """
mount("-t", "tmpfs", "tmpfs", root)
for name in ("lower", "upper", "work", "merged"):
    (root / name).mkdir()
def put(path, value):
    with mmapcache.Writer(path) as writer, writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1, "value": value})
put(root / "lower" / "cache", 1)
layers = ",".join(f"{name}dir={root / name}" for name in ("lower", "upper", "work"))
mount("-t", "overlay", "overlay", "-o", layers, root / "merged")
path = root / "merged" / "cache"
cache = mmapcache.open(path)
assert cache["sites"][1]["value"] == 1
put(path, 2)
assert cache.wait(cache.generation, 30), cache.status()
assert cache["sites"][1]["value"] == 2
""",
        tmp_path,
    )


@only_linux("no tmpfs is known")
def test_a_full_file_system_is_named(tmp_path: Path) -> None:
    run_mounted(
        """
mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", root)
path = root / "cache"
with mmapcache.Writer(path, max_size="64MiB", collapse=False) as writer:
    try:
        with writer.batch() as batch:
            for key in range(1000):
                batch.put("sites", key, {"_id": key, "value": os.urandom(20000)})
    except mmapcache.FullError as error:
        for word in (f"at {root} (tmpfs, {6 << 20} bytes", str(path), "No space left", "size="):
            assert word in str(error), error
        assert "max_size" not in str(error) and "shm" not in str(error), error
    else:
        raise SystemExit("nothing was full")
mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm")
try:
    mmapcache.Writer("/dev/shm/cache")
except mmapcache.FullError as error:
    for word in ("at /dev/shm (tmpfs, 1048576 bytes", "docker run --shm-size", "Kubernetes"):
        assert word in str(error), error
else:
    raise SystemExit("nothing was full")
""",
        tmp_path,
    )
