"""--dry-run and --print-config: what is said, and that nothing is touched."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.loader import Loader, load_once, wait_for

import mmapcache

pytestmark = pytest.mark.usefixtures("warm_loaders")

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pymongo.database import Database

ONE = b"\x0e\0\0\0\x10_id\0\x01\0\0\0\0"


def run(path: Path, *flags: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    with Loader(path, flags, environment) as loader:
        status = loader.wait()
        return status, loader.output


@pytest.fixture
def source(cache_path: Path) -> Path:
    directory = cache_path.with_name("dump")
    directory.mkdir()
    path = directory / "sites.bson"
    path.write_bytes(ONE)
    return path


def state_of(directory: Path) -> dict[str, Any]:
    """Everything about the files in it that a loader could change."""
    return {
        str(p.relative_to(directory)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes())
        for p in directory.rglob("*")
        if p.is_file() and not p.name.startswith("loader-")
    }


# --- --dry-run: the file --------------------------------------------------------------------------


def dry(path: Path, source: Path, *flags: str) -> tuple[int, str]:
    """A dry run that changes nothing; its status and what it said."""
    before = state_of(path.parent)
    done = run(path, f"--source=file:{source}", "--dry-run", *flags)
    assert state_of(path.parent) == before
    return done


def load(path: Path, source: Path, *flags: str) -> None:
    status, output = load_once(path, [f"--source=file:{source}", *flags])
    assert status == 0, output


def test_a_file_that_would_be_created(cache_path: Path, source: Path) -> None:
    status, output = dry(cache_path, source, "--mode=0600", "--max-size=3MiB")
    assert status == 0
    assert f"{cache_path} would be created: mode 0600, at most 3MiB\n" in output
    assert f"load  {source} -> sites: 14 B\n" in output
    assert "everything is read again every 10 s" in output
    assert not cache_path.exists()
    assert not cache_path.with_name("cache.lock").exists()


@pytest.mark.parametrize("flag", ["--max-size=16MiB", "--max-size=15M", "--interval=5"])
def test_a_file_that_would_be_kept(cache_path: Path, source: Path, flag: str) -> None:
    load(cache_path, source, "--max-size=16MiB")
    status, output = dry(cache_path, source, flag)
    assert status == 0
    assert "generation 1, 1 documents in 1 collections, at most 16.0 MiB" in output
    assert "replaced" not in output


def test_a_file_that_would_be_replaced(cache_path: Path, source: Path) -> None:
    load(cache_path, source, "--max-size=16MiB")
    status, output = dry(cache_path, source, "--max-size=32MiB")
    assert status == 0
    assert "it would be replaced by one of at most 32MiB, with its content" in output


def test_a_file_without_a_generation(cache_path: Path, source: Path) -> None:
    mmapcache.Writer(cache_path).close()
    status, output = dry(cache_path, source)
    assert status == 0
    assert "has not published anything yet; it would be taken over" in output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda data: data[:5000], "is corrupt and would be made anew: .*truncated"),
        (lambda data: data[:8] + b"\xff" + data[9:], "would be made anew: .*format version"),
    ],
    ids=["corrupt", "version"],
)
def test_a_file_that_would_be_made_anew(
    cache_path: Path, source: Path, content: Any, message: str
) -> None:
    load(cache_path, source, "--max-size=4MiB")
    cache_path.write_bytes(content(cache_path.read_bytes()))
    status, output = dry(cache_path, source)
    assert status == 0
    assert re.search(message, output)
    load(cache_path, source)  # and so it is


def test_a_file_that_is_no_cache(cache_path: Path, source: Path) -> None:
    cache_path.write_text("mine\n" * 2000)
    status, output = dry(cache_path, source)
    real, said = load_once(cache_path, [f"--source=file:{source}"])
    assert (status, real) == (1, 1)
    assert "this is not a cache file of mmapcache" in output
    assert "this is not a cache file of mmapcache" in said
    status, output = dry(cache_path, source, "--recreate")
    assert status == 0
    assert "would be replaced: this is not a cache file" in output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_file_of_another_user(cache_path: Path, source: Path) -> None:
    load(cache_path, source)
    os.chown(cache_path, 12345, 12345)
    status, output = dry(cache_path, source)
    real, said = load_once(cache_path, [f"--source=file:{source}"])
    assert (status, real) == (1, 1)
    sentence = f"{cache_path} belongs to uid 12345, and this loader runs as uid 0: run it as the"
    assert sentence in output
    assert sentence in said
    assert dry(cache_path, source, "--recreate")[0] == 0


def test_a_directory_that_is_not_there(cache_path: Path, source: Path) -> None:
    path = cache_path.with_name("absent") / "cache"
    command = [sys.executable, "-m", "mmapcache", "sync", str(path), f"--source=file:{source}"]
    done = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, timeout=60)
    status, output = done.returncode, done.stderr
    assert status == 1
    assert "cannot be created: there is no directory" in output


@pytest.mark.parametrize("flags", [[], ["--standby"]], ids=["", "standby"])
def test_a_file_that_another_loader_holds(cache_path: Path, source: Path, flags: list[str]) -> None:
    with (
        Loader(cache_path, [f"--source=file:{source}", "--interval=3600"]) as loader,
        mmapcache.open(cache_path, timeout=30) as cache,
    ):
        wait_for(lambda: cache.status()["state"] == "polling")
        status, output = dry(cache_path, source, *flags)
        assert status == 0
        how = "without limit, as a standby" if flags else "for 30 s at most"
        assert f"another loader (polling) holds it: this one would wait {how}" in output
        assert loader.process.poll() is None
        assert cache.status()["loader"] == "alive"


# --- --dry-run: the source ------------------------------------------------------------------------


def test_what_refuses_a_load_refuses_this(cache_path: Path, source: Path) -> None:
    source.write_bytes(ONE + b"\xff\xff\xff\x7f")
    status, output = dry(cache_path, source)
    real, said = load_once(cache_path, [f"--source=file:{source}"])
    assert (status, real) == (1, 1)
    sentence = "is not BSON: the document at offset 14 claims 2147483647 bytes"
    assert sentence in output
    assert sentence in said


def test_a_collection_that_comes_back_empty(cache_path: Path, source: Path) -> None:
    load(cache_path, source)
    source.write_bytes(b"")
    status, output = dry(cache_path, source)
    assert status == 1
    assert "came back empty, kept with its last content: sites (--allow-empty" in output
    assert dry(cache_path, source, "--allow-empty")[0] == 0


def test_collections_that_would_go(cache_path: Path, source: Path) -> None:
    other = source.with_name("limits.bson")
    other.write_bytes(ONE)
    load(cache_path, source.parent)
    status, output = dry(cache_path, source)
    assert status == 0
    assert "drop  limits: in the cache, and not among these" in output
    other.unlink()
    status, output = dry(cache_path, source.parent)
    assert status == 1
    assert "kept with its last content: limits" in output


def test_key_and_transform_are_tried_out(cache_path: Path, source: Path) -> None:
    status, output = dry(cache_path, source, "--key=sites=name")
    assert status == 1
    assert "-> sites: 14 B; key name" in output
    assert "the document with _id 1 has no 'name', which is the key" in output
    status, output = dry(cache_path, source, "--transform=nowhere:f")
    assert status == 2


def test_no_server_answers(cache_path: Path) -> None:
    pytest.importorskip("pymongo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        uri = f"mongodb://user:unguessable@127.0.0.1:{port}/"
        status, output = run(
            cache_path, f"--uri={uri}", "--collection=a.b", "--dry-run", "--timeout=1"
        )
    assert status == 1
    assert f"no MongoDB server answers at mongodb://127.0.0.1:{port}" in output
    assert "unguessable" not in output
    assert not cache_path.exists()


def test_collections_of_mongodb(
    mongodb_uri: str, database: Database[dict[str, Any]], cache_path: Path
) -> None:
    database["sites"].insert_many([{"_id": n, "active": True} for n in range(250)])
    database["rates"].insert_many([{"_id": n, "n": n} for n in range(7)])
    name = database.name
    flags = ["--uri", mongodb_uri, "--dry-run"]
    two = [f"--collection={name}.sites", f"--collection={name}.rates=limits"]
    more = ['--filter=sites={"active": true}', '--projection=limits={"n": 1}']
    status, output = run(cache_path, *flags, *two, *more)
    assert status == 0, output
    assert f"load  {name}.sites -> sites: the documents that the filter lets through" in output
    assert 'filter {"active": true}' in output
    assert f'load  {name}.rates -> limits: about 7 documents; projection {{"n": 1}}' in output
    status, output = run(cache_path, *flags, f"--database={name}")
    assert status == 0, output
    assert f"load  {name}.sites -> sites: about 250 documents" in output
    status, output = run(cache_path, *flags, *two, f"--collection={name}.absent")
    assert status == 1
    assert f"there is no collection '{name}.absent'" in output
    status, output = run(cache_path, *flags, *two, '--filter=sites={"$nope": 1}')
    assert status == 1
    assert "the server does not accept the query" in output
    assert not cache_path.exists()


# --- --print-config -------------------------------------------------------------------------------


CONFIG = """
uri = "mongodb://admin:unguessable@h1:27017,h2/?replicaSet=rs"
interval = 5
mode = "0600"
[[collection]]
from = "shop.sites"
filter = { active = true, "a.b" = [1, 2.5, { since = 1979-05-27T07:32:00Z }], "q\\"" = "\\u007f" }
batch_size = 10
[[collection]]
from = "shop.users"
name = "people=all"
key = "mail"
"""


def test_the_configuration_can_be_given_back(cache_path: Path) -> None:
    config = cache_path.with_name("sync.toml")
    config.write_text(CONFIG)
    flags = ["--config", str(config), "--print-config", "--standby", "--settle=3:30"]
    flags += ['--hold-while=shop.m:{"a": "unguessable"}']
    flags += ['--projection=people=all={"a": "unguessable"}']
    environment = {"MMAPCACHE_TIMEOUT": "7", "MMAPCACHE_TRANSFORM": "a.b:c"}
    status, output = run(cache_path, *flags, environment=environment)
    assert status == 0, output
    assert "unguessable" not in output
    for line in [
        f'path = "{cache_path}"  # PATH',
        'uri = "mongodb://h1:27017,h2"  # uri in .*sync.toml; user, password and options are not',
        "interval = 5.0  # interval in .*sync.toml",
        "timeout = 7.0  # MMAPCACHE_TIMEOUT",
        "standby = true  # --standby",
        'settle = "3:30"  # --settle',
        r'hold_while = "shop.m:\{.*\*\*\*.*"  # --hold-while',
        'mode = "0600"  # mode in .*sync.toml',
        "retention = 1.0  # default",
        "# max_size is not set",
        'transform = "a.b:c"  # MMAPCACHE_TRANSFORM',
        r"\[\[collection\]\]  # \[\[collection\]\] in .*sync.toml",
        r"batch_size = 10  # \[\[collection\]\] in .*sync.toml",
        'key = "mail"  # ',
        r'projection = ".*\*\*\*.*"  # --projection',
    ]:
        assert re.search(f"^{line}", output, re.MULTILINE), line
    sites, people = tomllib.loads(output)["collection"]
    assert sites["filter"] == tomllib.loads(CONFIG)["collection"][0]["filter"]
    assert people["name"] == "people=all"

    again = cache_path.with_name("again.toml")
    again.write_text(output)
    status, second = run(cache_path, "--config", str(again), "--print-config")
    assert status == 0, second
    assert tomllib.loads(second) == tomllib.loads(output)
    assert not cache_path.exists()


def test_where_the_collections_come_from(cache_path: Path) -> None:
    flags = ["--uri-file=/nowhere", "--print-config"]
    status, output = run(
        cache_path, *flags, environment={"MMAPCACHE_COLLECTION": "shop.sites, shop.rates=limits"}
    )
    assert status == 0, output
    assert output.count("[[collection]]  # MMAPCACHE_COLLECTION\n") == 2
    assert 'uri_file = "/nowhere"  # --uri-file' in output  # which was not read
    status, output = run(cache_path, *flags, "--database=shop", "--key=sites=name")
    assert status == 0, output
    assert 'database = "shop"  # --database' in output
    assert [c["key"] for c in tomllib.loads(output)["collection"]] == ["name"]


def test_a_wrong_configuration_is_not_printed(cache_path: Path) -> None:
    status, output = run(cache_path, "--print-config", "--uri=mongodb://h/")
    assert status == 2
    assert "give --collection DB.COLL or --database DB" in output
    assert "interval" not in output
