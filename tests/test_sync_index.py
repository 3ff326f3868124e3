"""`mmapcache sync --index`: from its flags to what a worker finds, by one load of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.loader import Loader, load_once, wait_for
from test_sync_options import MINIMUM, resolve

import mmapcache
from mmapcache.cli import main
from mmapcache.sync.errors import UsageError

pytestmark = pytest.mark.usefixtures("warm_loaders")

DOCUMENTS = [
    {"_id": 1, "domain": "a.org", "plan": "free", "hosts": [{"name": "x"}, {"name": "y"}]},
    {"_id": 2, "domain": "b.org", "plan": "free", "hosts": [{"name": "x"}]},
    {"_id": 3, "plan": "gold"},
]


def source(directory: Path, documents: list[dict[str, Any]]) -> str:
    path = directory / "sites.json"
    path.write_text(json.dumps(documents))
    return f"--source=file:{path}"


def test_flags_and_tables(tmp_path: Path) -> None:
    flags = ["--index=sites=domain", "--index=sites=a.b", "--index-multi=sites=plan"]
    (collection,) = resolve(*MINIMUM, *flags).collections
    assert (collection.index, collection.index_multi) == (("domain", "a.b"), ("plan",))
    config = tmp_path / "sync.toml"
    config.write_text(
        '[[collection]]\nfrom = "shop.sites"\nindex = ["domain", "domain"]\n'
        'index_multi = "plan, tags"\n'
    )
    (collection,) = resolve("c", "--uri=mongodb://h/", f"--config={config}").collections
    assert (collection.index, collection.index_multi) == (("domain",), ("plan", "tags"))
    got = resolve("c", "--source=file:x.json", "--index=sites=domain")
    assert [c.index for c in got.collections] == [("domain",)]


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--index=sites", "--index must be NAME=FIELD"),
        ("--index-multi=sites=", "--index-multi must be NAME=FIELD"),
        ("--index=typo=domain", "--index names 'typo', which is not loaded"),
        ("--index=sites=plan", "'plan' of 'sites' is in index and in index_multi: a field has one"),
        ("--index=sites=" + "f" * 256, "index of --index must be fields of at most 255 bytes"),
    ],
)
def test_what_is_refused(flag: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(*MINIMUM, flag, "--index-multi=sites=plan")
    assert told in str(caught.value)


def test_print_config_is_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--index=sites=domain", "--index=sites=slug", "--index-multi=sites=plan"]
    assert main(["sync", *MINIMUM, *flags, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert 'index = ["domain", "slug"]  # --index\n' in printed
    assert 'index_multi = ["plan"]  # --index-multi\n' in printed
    config = tmp_path / "sync.toml"
    config.write_text(printed)
    (collection,) = resolve(f"--config={config}").collections
    assert (collection.index, collection.index_multi) == (("domain", "slug"), ("plan",))


def test_a_load_has_the_indexes_that_are_asked_for(tmp_path: Path, cache_path: Path) -> None:
    flags = [source(tmp_path, DOCUMENTS), "--index=sites=domain"]
    multi = ["--index-multi=sites=plan", "--index-multi=sites=hosts.name"]
    assert load_once(cache_path, [*flags, *multi])[0] == 0
    with mmapcache.open(cache_path) as cache:
        sites = cache["sites"]
        assert sites.by("domain")["b.org"] is sites[2]
        assert sites.by("plan")["free"] == (sites[1], sites[2])
        assert sites.by("hosts.name")["x"] == (sites[1], sites[2])
        cache.check()
        generation = cache.generation
        assert load_once(cache_path, [*flags, *multi])[0] == 0
        assert cache.generation == generation, "nothing has changed"
        assert load_once(cache_path, [*flags, "--index-multi=sites=_id"])[0] == 0
        assert sites.indexes == {"domain": "unique", "_id": "multi"}
        assert load_once(cache_path, [flags[0], "--key=sites=plan", "--index=sites=plan"])[0] == 1
        assert load_once(cache_path, [source(tmp_path, DOCUMENTS[1:]), "--key=sites=plan"])[0] == 0
        assert sites.indexes == {}
        assert load_once(cache_path, [flags[0], "--key=sites=plan", "--index=sites=_id"])[0] == 0
        assert sites.by("_id")[3] is sites["gold"], "an index leads to documents, whatever the key"
        cache.check()


def test_two_documents_of_one_value_fail_the_load(tmp_path: Path, cache_path: Path) -> None:
    twice = [*DOCUMENTS, {"_id": 4, "domain": "a.org"}]
    flags = [source(tmp_path, DOCUMENTS), "--index=sites=domain", "--interval=0.05"]
    with Loader(cache_path, flags) as loader:
        loader.expect("generation 1:")
        with mmapcache.open(cache_path) as cache:
            source(tmp_path, twice)
            wait_for(lambda: cache.status()["state"] == "degraded")
            error = cache.status()["error"] or ""
            assert 'documents with _id 1 and 4 both have domain = "a.org"' in error.replace(
                "4 and 1", "1 and 4"
            )
            assert 4 not in cache["sites"]
            assert cache.generation == 1
            source(tmp_path, [*DOCUMENTS, {"_id": 4, "domain": "c.org"}])
            wait_for(lambda: cache.status()["state"] == "polling" and cache.generation == 2)
            assert cache["sites"].by("domain")["c.org"]["_id"] == 4
    status, output = load_once(cache_path, [source(tmp_path, twice), "--index=sites=domain"])
    assert status == 1
    assert "the index of that field is unique" in output
