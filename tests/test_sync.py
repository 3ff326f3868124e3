"""The loader against a MongoDB server: what it publishes, when, and what it says of itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.loader import PATIENCE, Loader, confirmed_at, load_once, wait_for

import mmapcache

pytestmark = pytest.mark.usefixtures("warm_loaders")

pytest.importorskip("pymongo")
if TYPE_CHECKING:
    from pymongo.database import Database

    Documents = Database[dict[str, Any]]

SOON = ["--interval", "0.1"]
LATE = ["--interval", "3600"]  # only SIGHUP refreshes


def content(cache: mmapcache.Cache, name: str) -> dict[Any, Any]:
    """The collection as plain objects, from one generation."""
    with cache.snapshot() as snapshot:
        return {key: document.to_dict() for key, document in snapshot[name].items()}


@contextmanager
def running(
    path: Path, uri: str, *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[Loader, mmapcache.Cache]]:
    """A loader and a cache that already has its first generation."""
    with Loader(path, ["--uri", uri, *arguments], environment) as loader:
        loader.expect("generation [0-9]+:")
        with mmapcache.open(path, timeout=PATIENCE) as cache:
            yield loader, cache


def of(database: Documents, *collections: str) -> list[str]:
    return [f"--collection={database.name}.{name}" for name in collections]


def next_generation(cache: mmapcache.Cache, generation: int) -> int:
    assert cache.wait(generation, PATIENCE), "no new generation"
    return cache.generation


def test_first_load_then_insert_update_delete(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_many([{"_id": i, "limits": {"qps": i}} for i in range(2500)])
    flags = [*of(database, "sites"), *SOON, "--batch-size", "100"]
    with running(cache_path, mongodb_uri, *flags) as (_, cache):
        sites = cache["sites"]
        assert len(sites) == 2500
        assert sites[2499]["limits"]["qps"] == 2499
        generation = cache.generation
        database.sites.insert_one({"_id": "new", "limits": {"qps": 1}})
        generation = next_generation(cache, generation)
        assert sites["new"]["limits"]["qps"] == 1
        database.sites.update_one({"_id": 7}, {"$set": {"limits.qps": -7}})
        generation = next_generation(cache, generation)
        assert sites[7]["limits"]["qps"] == -7
        database.sites.delete_many({"_id": {"$in": [0, 1]}})
        next_generation(cache, generation)
        assert (0 in sites, 1 in sites, len(sites)) == (False, False, 2499)


def confirmed_since(cache: mmapcache.Cache, moment: float) -> bool:
    return confirmed_at(cache) > moment


def test_nothing_changed_publishes_nothing_but_is_confirmed(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_many([{"_id": i} for i in range(10)])
    began = time.time()
    with running(cache_path, mongodb_uri, *of(database, "sites"), *SOON) as (_, cache):
        wait_for(lambda: cache.status()["state"] == "polling")
        before = cache.status()
        assert before["loader"] == "alive"
        assert before["error"] is None
        assert database.name in before["source"]
        assert (before["published_at"] or 0.0) >= began
        for _ in range(3):
            wait_for(partial(confirmed_since, cache, confirmed_at(cache)))
        assert cache.generation == before["generation"] == 1
        assert cache.status()["published_at"] == before["published_at"]
        assert (cache.status()["age"] or 0.0) < PATIENCE


def test_all_collections_change_in_one_generation(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    names = ["a", "b", "c"]

    def write(round_number: int) -> None:
        for name in names:
            for key in range(50):
                document = {"_id": key, "round": round_number, "pad": "x" * 100 * (key % 7)}
                database[name].replace_one({"_id": key}, document, upsert=True)

    write(0)
    worker_code = (
        "import sys, mmapcache\n"
        "cache = mmapcache.open(sys.argv[1], timeout=30)\n"
        "print('ready', flush=True)\n"
        "seen = set()\n"
        "while True:\n"
        "    try:\n"
        "        with cache.snapshot() as snap:\n"
        "            rounds = {d['round'] for n in 'abc' for d in snap[n].values()}\n"
        "    except mmapcache.SnapshotExpired:\n"
        "        continue\n"
        "    assert len(rounds) == 1, rounds\n"
        "    seen |= rounds\n"
        "    if 5 in rounds:\n"
        "        break\n"
        "print(len(seen), flush=True)\n"
    )
    with running(cache_path, mongodb_uri, *of(database, *names), *LATE) as (loader, cache):
        command = [sys.executable, "-c", worker_code, str(cache_path)]
        workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        try:
            for worker in workers:
                assert worker.stdout is not None
                assert worker.stdout.readline() == "ready\n"
            for round_number in range(1, 6):
                write(round_number)
                generation = cache.generation
                loader.signal(signal.SIGHUP)
                next_generation(cache, generation)
            for worker in workers:
                output, _ = worker.communicate(timeout=PATIENCE)
                assert worker.returncode == 0
                assert 1 <= int(output) <= 6
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()


def test_a_whole_database(mongodb_uri: str, database: Documents, cache_path: Path) -> None:
    database.sites.insert_one({"_id": 1})
    database.rates.insert_one({"_id": 2})
    flags = ["--database", database.name, *SOON]
    with running(cache_path, mongodb_uri, *flags) as (loader, cache):
        assert set(cache) == {"sites", "rates"}
        database.flags.insert_one({"_id": 3})
        next_generation(cache, 1)
        assert set(cache) == {"sites", "rates", "flags"}
        database.rates.drop()
        database.sites.insert_one({"_id": 4})
        next_generation(cache, 2)
        assert set(cache) == {"sites", "rates", "flags"}
        assert (len(cache["rates"]), len(cache["sites"])) == (1, 2)
        wait_for(lambda: cache.status()["state"] == "degraded")
        assert "rates" in str(cache.status()["error"])
        loader.expect("came back empty.*rates")
    with running(cache_path, mongodb_uri, *flags, "--allow-empty") as (_, cache):
        next_generation(cache, 3)
        assert set(cache) == {"sites", "flags"}


@pytest.mark.parametrize("drop", [False, True])
def test_a_collection_that_comes_back_empty_is_kept(
    mongodb_uri: str, database: Documents, cache_path: Path, drop: bool
) -> None:
    database.sites.insert_one({"_id": 1})
    database.rates.insert_one({"_id": 1, "v": 1})
    flags = of(database, "sites", "rates")
    with running(cache_path, mongodb_uri, *flags, *SOON) as (loader, cache):
        if drop:
            database.sites.drop()
        else:
            database.sites.delete_many({})
        database.rates.update_one({"_id": 1}, {"$set": {"v": 2}})
        next_generation(cache, 1)
        assert content(cache, "sites") == {1: {"_id": 1}}
        assert content(cache, "rates") == {1: {"_id": 1, "v": 2}}
        wait_for(lambda: "sites" in str(cache.status()["error"]))
        assert cache.status()["state"] == "degraded"
        assert "rates" not in str(cache.status()["error"])
        loader.expect("came back empty.*sites")
        database.sites.insert_one({"_id": 5})
        next_generation(cache, 2)
        assert content(cache, "sites") == {5: {"_id": 5}}
        wait_for(lambda: cache.status()["state"] == "polling")
        assert cache.status()["error"] is None

    database.sites.drop()
    database.rates.update_one({"_id": 1}, {"$set": {"v": 3}})
    status, output = load_once(cache_path, ["--uri", mongodb_uri, *flags])
    assert (status, "sites" in output) == (1, True), output
    with mmapcache.open(cache_path) as cache:
        assert content(cache, "sites") == {5: {"_id": 5}}
        assert content(cache, "rates") == {1: {"_id": 1, "v": 3}}
    status, output = load_once(cache_path, ["--uri", mongodb_uri, *flags, "--allow-empty"])
    assert status == 0, output
    with mmapcache.open(cache_path) as cache:
        assert content(cache, "sites") == {}


def test_a_collection_that_was_always_empty_is_published_empty(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.create_collection("sites")
    database.rates.insert_one({"_id": 1})
    assert load_once(cache_path, ["--uri", mongodb_uri, *of(database, "sites", "rates")])[0] == 0
    with mmapcache.open(cache_path) as cache:
        assert (set(cache), len(cache["sites"])) == ({"sites", "rates"}, 0)


def test_filter_projection_names_and_collections_no_longer_asked_for(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_many([{"_id": i, "on": i % 2 == 0, "secret": i} for i in range(6)])
    database.rates.insert_one({"_id": 1})
    config = cache_path.with_name("sync.toml")
    config.write_text(
        f'uri = "{mongodb_uri}"\nread_preference = "nearest"\n[[collection]]\n'
        f'from = "{database.name}.sites"\nname = "active"\nfilter = {{ on = true }}\n'
        f'projection = {{ secret = 0 }}\n[[collection]]\nfrom = "{database.name}.rates"\n'
    )
    assert load_once(cache_path, ["--config", str(config)])[0] == 0
    with mmapcache.open(cache_path) as cache:
        assert content(cache, "active") == {i: {"_id": i, "on": True} for i in (0, 2, 4)}
        assert set(cache) == {"active", "rates"}
    narrow = ["--config", str(config), f"--collection={database.name}.sites=active"]
    status, output = load_once(cache_path, [*narrow, '--filter=active={"on": false}'])
    assert status == 0, output
    assert "dropping rates" in output
    with mmapcache.open(cache_path) as cache:
        assert content(cache, "active") == {i: {"_id": i, "on": False} for i in (1, 3, 5)}
        assert set(cache) == {"active"}


def test_sigterm_and_sigint_end_it_with_0(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    for key, number in enumerate((signal.SIGTERM, signal.SIGINT), 1):
        database.sites.insert_one({"_id": key})
        with running(cache_path, mongodb_uri, *of(database, "sites"), *LATE) as (loader, cache):
            assert cache.status()["loader"] == "alive"
            began = time.monotonic()
            loader.signal(number)
            assert loader.wait() == 0
            assert time.monotonic() - began < 5
            assert "Traceback" not in loader.output
            assert cache.status()["loader"] == "none"
            assert len(cache["sites"]) == key


def test_sighup_refreshes_now(mongodb_uri: str, database: Documents, cache_path: Path) -> None:
    database.sites.insert_one({"_id": 1})
    with running(cache_path, mongodb_uri, *of(database, "sites"), *LATE) as (loader, cache):
        database.sites.insert_one({"_id": 2})
        assert not cache.wait(1, 0.3)
        loader.signal(signal.SIGHUP)
        next_generation(cache, 1)
        assert len(cache["sites"]) == 2
        assert loader.process.poll() is None


def test_once_loads_and_reports(mongodb_uri: str, database: Documents, cache_path: Path) -> None:
    database.sites.insert_many([{"_id": i} for i in range(20)])
    flags = ["--uri", mongodb_uri, *of(database, "sites"), "--log-json"]
    status, output = load_once(cache_path, flags)
    assert status == 0
    entries = [json.loads(line) for line in output.splitlines()]
    (entry,) = [e for e in entries if e.get("generation")]
    assert (entry["generation"], entry["documents"], entry["puts"]) == (1, 20, 20)
    with mmapcache.open(cache_path) as cache:
        assert cache.status()["loader"] == "none"
    status, output = load_once(cache_path, flags)
    assert status == 0
    assert "nothing changed" in output
    with mmapcache.open(cache_path) as cache:
        assert cache.generation == 1


def test_a_wrong_name_fails_at_once(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_one({"_id": 1})
    began = time.monotonic()
    for flags in (
        of(database, "sites", "stes"),
        ["--database", database.name + "x"],
    ):
        with Loader(cache_path, ["--uri", mongodb_uri, *flags]) as loader:
            assert loader.wait() == 1
            assert "a wrong name" in loader.output
            assert "Traceback" not in loader.output
    assert "sites" in loader.output or "no collections" in loader.output
    with Loader(cache_path, ["--uri", "mongodb://nowhere.invalid/", *of(database, "x")]) as loader:
        assert loader.wait() == 1
        assert "no such host: nowhere.invalid" in loader.output
    assert time.monotonic() - began < 20
    with pytest.raises(mmapcache.NotReadyError):
        mmapcache.open(cache_path)


def test_a_query_that_the_server_refuses_fails_at_once(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_one({"_id": 1})
    flags = ["--uri", mongodb_uri, *of(database, "sites"), '--filter=sites={"$wrong": 1}']
    with Loader(cache_path, flags) as loader:
        assert loader.wait() == 1
        assert "does not accept the query" in loader.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--interval", "never"],
        ["--collection", "nodot"],
        ["--uri", "mongodb://ann:opensesame@h/", "--database", "a", "--collection", "a.b"],
        ["--uri", "mongodb://ann:opensesame@h/", "--once", "mongodb://bob:opensesame@h/"],
    ],
)
def test_wrong_usage_is_status_2_without_secrets(cache_path: Path, arguments: list[str]) -> None:
    with Loader(cache_path, arguments) as loader:
        assert loader.wait() == 2
        assert "error" in loader.output
        assert "opensesame" not in loader.output
        assert "Traceback" not in loader.output
    assert not cache_path.exists()


def test_two_loaders(mongodb_uri: str, database: Documents, cache_path: Path) -> None:
    database.sites.insert_one({"_id": 1})
    with running(cache_path, mongodb_uri, *of(database, "sites"), *SOON) as (first, cache):
        flags = ["--uri", mongodb_uri, *of(database, "sites"), "--timeout", "0.2"]
        with Loader(cache_path, flags) as second:
            assert second.wait() == 1
            assert "another loader holds" in second.output
        # One that waits takes over when the first has ended.
        with Loader(cache_path, [*flags, "--timeout", "30", *SOON]) as second:
            second.expect("waiting for it")
            first.signal(signal.SIGTERM)
            assert first.wait() == 0
            database.sites.insert_one({"_id": 2})
            next_generation(cache, 1)
            assert cache.status()["loader"] == "alive"


def test_a_loader_that_is_killed_leaves_its_generation_and_the_next_goes_on(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_one({"_id": 1})
    with running(cache_path, mongodb_uri, *of(database, "sites"), *SOON) as (loader, cache):
        loader.signal(signal.SIGKILL)
        assert loader.wait() == -signal.SIGKILL
        assert cache.status()["loader"] == "dead"
        assert len(cache["sites"]) == 1
        database.sites.insert_one({"_id": 2})
        with Loader(cache_path, ["--uri", mongodb_uri, *of(database, "sites"), *SOON]):
            next_generation(cache, 1)
            assert len(cache["sites"]) == 2
            assert cache.status()["loader"] == "alive"


def test_a_file_of_another_format_version_is_made_anew(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_one({"_id": 1})
    flags = ["--uri", mongodb_uri, *of(database, "sites")]
    assert load_once(cache_path, flags)[0] == 0
    old = mmapcache.open(cache_path)
    with cache_path.open("r+b") as file:
        file.seek(8)
        file.write(b"\x01")
    with pytest.raises(mmapcache.VersionError):
        mmapcache.open(cache_path)
    database.sites.insert_one({"_id": 2})
    with ThreadPoolExecutor(1) as pool:  # a worker that starts before the loader
        worker = pool.submit(mmapcache.open, cache_path, timeout=30)
        status, output = load_once(cache_path, flags)
        assert status == 0, output
        assert "format version 1" in output
        with worker.result() as cache:
            assert set(cache["sites"]) == {1, 2}
    assert "Traceback" not in output
    with old:
        assert old["sites"][1] == {"_id": 1}


def test_a_corrupt_file_of_ours_is_recreated_and_a_foreign_one_never(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_one({"_id": 1})
    flags = ["--uri", mongodb_uri, *of(database, "sites")]
    assert load_once(cache_path, flags)[0] == 0
    with cache_path.open("r+b") as file:  # everything behind the superblock
        file.seek(4096)
        rest = cache_path.stat().st_size - 4096
        file.write(b"\xa5" * rest)
    status, output = load_once(cache_path, flags)
    assert status == 0, output
    assert "is corrupt and is made anew (1 so far)" in output
    with mmapcache.open(cache_path) as cache:
        assert len(cache["sites"]) == 1
        assert json.loads(cache.state)["recreated"] == 1

    foreign = cache_path.with_name("foreign")
    foreign.write_bytes(b"not a cache\n" * 1000)
    status, output = load_once(foreign, flags)
    assert status == 1
    assert foreign.read_bytes() == b"not a cache\n" * 1000
    assert "Traceback" not in output
    assert load_once(foreign, [*flags, "--recreate"])[0] == 0
    with mmapcache.open(foreign) as cache:
        assert len(cache["sites"]) == 1


def test_a_file_that_is_removed_by_hand_is_made_anew(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_one({"_id": 1})
    with running(cache_path, mongodb_uri, *of(database, "sites"), *SOON) as (loader, _):
        cache_path.unlink()
        loader.expect("removed or replaced")
        with mmapcache.open(cache_path, timeout=PATIENCE) as cache:
            assert len(cache["sites"]) == 1


def test_a_full_map_keeps_the_last_generation_and_says_the_numbers(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_one({"_id": 1})
    flags = [*of(database, "sites"), *SOON, "--max-size", "4MiB"]
    with running(cache_path, mongodb_uri, *flags) as (loader, cache):
        database.sites.insert_many([{"_id": f"big{i}", "pad": "x" * 500_000} for i in range(20)])
        wait_for(lambda: cache.status()["state"] == "degraded")
        error = str(cache.status()["error"])
        for word in ("needed", "free", "largest", "limit", "--max-size"):
            assert word in error, error
        generation, documents = cache.generation, len(cache["sites"])
        assert documents < 21  # the loader may have read while only some of them were there
        time.sleep(0.3)
        assert (cache.generation, len(cache["sites"])) == (generation, documents)
        assert loader.process.poll() is None
        database.sites.delete_many({"_id": {"$ne": 1}})
        database.sites.insert_one({"_id": 2})
        wait_for(lambda: set(cache["sites"]) == {1, 2})
        wait_for(lambda: cache.status()["state"] == "polling")
    database.sites.insert_many([{"_id": f"big{i}", "pad": "x" * 500_000} for i in range(20)])
    status, output = load_once(cache_path, ["--uri", mongodb_uri, *of(database, "sites")])
    assert status == 1
    assert "--max-size" in output
    larger = ["--uri", mongodb_uri, *of(database, "sites"), "--max-size", "64MiB"]
    assert load_once(cache_path, larger)[0] == 0
    with mmapcache.open(cache_path) as cache:
        assert len(cache["sites"]) == 22


def test_a_document_that_no_cache_can_hold_is_named(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_many([{"_id": 1}, {"_id": "k" * 2000}])
    status, output = load_once(cache_path, ["--uri", mongodb_uri, *of(database, "sites")])
    assert status == 1
    assert f"{database.name}.sites" in output
    assert "1024" in output.replace(",", "")


def test_files(cache_path: Path) -> None:
    source = cache_path.with_name("settings.json")
    source.write_text('{"_id": "a", "n": 1}\n{"_id": "b", "n": 2}\n')
    flags = ["--source", f"file:{source}"]
    with Loader(cache_path, [*flags, *SOON]) as loader:
        with mmapcache.open(cache_path, timeout=PATIENCE) as cache:
            assert content(cache, "settings")["b"] == {"_id": "b", "n": 2}
            assert str(source) in cache.status()["source"]
            new = source.with_suffix(".new")
            new.write_text('[{"_id": "a", "n": 1}]')
            new.rename(source)
            next_generation(cache, 1)
            assert content(cache, "settings") == {"a": {"_id": "a", "n": 1}}
            source.write_text('{"_id": "a"\n')
            wait_for(lambda: cache.status()["state"] == "degraded")
            assert "line 2" in str(cache.status()["error"])
            assert content(cache, "settings") == {"a": {"_id": "a", "n": 1}}
            source.write_text("")
            wait_for(lambda: "came back empty" in str(cache.status()["error"]))
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0
    source.write_text('{"n": 1}\n')
    status, output = load_once(cache_path, flags)
    assert (status, "line 1: the document has no _id" in output) == (1, True)
    source.unlink()
    status, output = load_once(cache_path, flags)
    assert (status, "there is no file" in output) == (1, True)


def test_everything_by_environment_and_no_secret_anywhere(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    database.sites.insert_one({"_id": 1})
    scheme, _, rest = mongodb_uri.partition("://")
    rest = rest.rpartition("@")[2]
    hidden = f"{scheme}://ann:open%24esame@{rest}"
    environment = {
        "MMAPCACHE_URI": hidden,
        "MMAPCACHE_COLLECTION": f"{database.name}.sites",
        "MMAPCACHE_ONCE": "1",
        "MMAPCACHE_TIMEOUT": "1",
        "MMAPCACHE_LOG_LEVEL": "debug",
    }
    with Loader(cache_path, [], environment) as loader:
        assert loader.wait() in (0, 1)  # whether a server without users takes any is its business
        assert "open%24esame" not in loader.output
        assert "open$esame" not in loader.output
    assert b"esame" not in cache_path.read_bytes()


def test_a_progress_bar_on_a_terminal_only(
    mongodb_uri: str, database: Documents, cache_path: Path
) -> None:
    pytest.importorskip("tqdm")
    database.sites.insert_many([{"_id": i} for i in range(300)])
    flags = ["--uri", mongodb_uri, *of(database, "sites"), "--batch-size", "50"]
    status, output = load_once(cache_path, flags)
    assert (status, "documents/s" in output) == (0, False)
    cache_path.unlink()
    status, output = load_once(cache_path, [*flags, "--progress"])
    assert (status, "documents/s" in output) == (0, True)
