"""Names of collections with the characters that options are made of: taken as they are written."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from support.loader import load_once

from mmapcache.sync import options
from mmapcache.sync.errors import UsageError
from mmapcache.sync.options import Options

pytestmark = pytest.mark.usefixtures("warm_loaders")

URI = "mongodb://h/"
NAMES = ["a=b", "a=b=c", "=a", "a=", "a.b", "a:b", "a b", " a ", "a,b", 'a"b', "a={}", "Ä/ä"]


def resolve(*arguments: str, **environment: str) -> Options:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.resolve(parser.parse_args(["cache", "--uri", URI, *arguments]), environment)


def toml(directory: Path, text: str) -> str:
    path = directory / "sync.toml"
    path.write_text(text, "utf-8")
    return f"--config={path}"


@pytest.mark.parametrize("name", NAMES)
def test_a_table_takes_names_as_they_are(tmp_path: Path, name: str) -> None:
    config = toml(tmp_path, f"[[collection]]\nfrom = 'k.{name}'\nfilter = {{ x = 1 }}\n")
    (got,) = resolve(config).collections
    assert (got.database, got.collection, got.name) == ("k", name, name)
    config = toml(tmp_path, f"[[collection]]\nfrom = 'k.{name}'\nname = 'y={name}'\n")
    (got,) = resolve(config).collections
    assert (got.collection, got.name) == (name, f"y={name}")
    config = toml(tmp_path, f"database = 'k'\n[[collection]]\nname = '{name}'\nbatch_size = 7\n")
    (got,) = resolve(config).collections
    assert (got.database, got.collection, got.batch_size) == ("k", name, 7)


@pytest.mark.parametrize("name", [name for name in NAMES if "=" not in name])
def test_a_flag_and_a_list_take_names_as_they_are(tmp_path: Path, name: str) -> None:
    (got,) = resolve("--collection", f"k.{name}").collections
    assert (got.collection, got.name) == (name, name)
    (got,) = resolve("--collection", f"k.{name}={name}x").collections
    assert (got.collection, got.name) == (name, f"{name}x")
    (got,) = resolve(toml(tmp_path, f"collection = ['k.{name}']")).collections
    assert (got.collection, got.name) == (name, name)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "a={}"])
@pytest.mark.parametrize("document", ['{"x": 1}', '{"x": "={}"}', ' {"a=": {"=": {}}} '])
def test_a_filters_name_may_have_an_equals_sign(tmp_path: Path, name: str, document: str) -> None:
    config = toml(tmp_path, f"[[collection]]\nfrom = 'k.c'\nname = '{name}'\n")
    (got,) = resolve(config, "--filter", f"{name}={document}").collections
    assert (got.name, got.filter) == (name, document)
    (got,) = resolve("--database=k", "--filter", f"{name}={document}").collections
    assert (got.collection, got.filter) == (name, document)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--collection", "k.a=b=c"], "more than one ="),
        (["--collection", "k.a=b=c"], "[[collection]]"),
        (["--collection", "k.a="], "no NAME"),
        (["--collection", "k=a.b"], "not DB.COLL"),
        (["--collection", "k.a\udcff"], "cannot be the name of a MongoDB collection"),
        (["--collection", "k\udcff.a"], "cannot be the name of a MongoDB database"),
        (["--collection", "k.a=\udcff"], "cannot be a collection's name"),
        (["--database", "k\udcff"], "cannot be the name of a MongoDB database"),
        (["--database", "k", "--filter", "a=" + "[" * 100_000], "JSON object"),
        (["--database", "k", "--filter", "={}"], "NAME=JSON"),
    ],
)
def test_what_is_ambiguous_or_no_name_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("collection = ['k.a=b=c']", "more than one ="),
        ("[[collection]]\nfrom = 'k'", 'not from = "DB.COLL"'),
        ("[[collection]]\nfrom = 'k.a'\nname = ''", "cannot be a collection's name"),
        ("[[collection]]\nfrom = 'k.$a'", "cannot be the name of a MongoDB collection"),
        ('[[collection]]\nfrom = "k.a\\u0000"', "cannot be the name of a MongoDB collection"),
        ("[[collection]]\nfrom = 'k.a'\nwhere = 'x'", "unknown setting: where"),
    ],
)
def test_what_is_wrong_in_a_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(toml(tmp_path, text))
    assert message in str(caught.value)


def test_the_right_collection_is_loaded(
    mongodb_uri: str, database: object, cache_path: Path, tmp_path: Path
) -> None:
    """`a=b` is another collection than `a`, which is there too."""
    import mmapcache

    pytest.importorskip("pymongo")
    from pymongo.database import Database

    assert isinstance(database, Database)
    database["a"].insert_one({"_id": "wrong"})
    database["a=b"].insert_one({"_id": "right"})
    config = toml(tmp_path, f"[[collection]]\nfrom = '{database.name}.a=b'\n")
    status, output = load_once(cache_path, ["--uri", mongodb_uri, config])
    assert status == 0, output
    with mmapcache.open(cache_path) as cache:
        assert {name: list(cache[name]) for name in cache} == {"a=b": ["right"]}
