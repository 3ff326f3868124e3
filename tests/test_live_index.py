"""Indexes while the loader follows a real server: what changes, exchanges, doubles, goes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.live import following, in_state, loads
from support.loader import wait_for
from support.mongodb_server import Server

import mmapcache

pymongo = pytest.importorskip("pymongo")
pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]


@pytest.fixture
def sites(replica_set: Server) -> Iterator[Any]:
    with pymongo.MongoClient(replica_set.uri) as client:
        database = client[f"index_{uuid.uuid4().hex[:8]}"]
        database.sites.insert_many(
            [{"_id": i, "domain": f"{i}.org", "tags": ["all", i % 2]} for i in range(6)]
        )
        yield database.sites
        client.drop_database(database.name)


def flags(sites: Any, *more: str) -> list[str]:
    return ["--follow=stream", f"--collection={sites.full_name}", *more]


def by(cache: mmapcache.Cache, field: str) -> dict[Any, Any]:
    """The ids that each value leads to, of one generation."""
    with cache.snapshot() as snapshot:
        found = snapshot["sites"].by(field)
        return {
            value: found[value]["_id"] if found.unique else [d["_id"] for d in found[value]]
            for value in found
        }


def wanted(sites: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The same by the server."""
    domains: dict[Any, Any] = {}
    tags: dict[Any, Any] = {}
    for document in sites.find(sort=[("_id", 1)]):
        if "domain" in document:
            domains[document["domain"]] = document["_id"]
        for tag in document.get("tags", []):
            tags.setdefault(tag, []).append(document["_id"])
    return domains, tags


def test_the_stream_keeps_them(replica_set: Server, sites: Any, cache_path: Path) -> None:
    both = ["--index=sites=domain", "--index-multi=sites=tags"]
    with following(cache_path, replica_set.uri, *flags(sites, *both)) as (_, cache):

        def same() -> bool:
            return (by(cache, "domain"), by(cache, "tags")) == wanted(sites)

        assert same()
        sites.insert_one({"_id": 6, "domain": "6.org", "tags": ["new", "all"]})
        sites.update_one({"_id": 1}, {"$set": {"domain": "one.org"}, "$pull": {"tags": "all"}})
        sites.update_one({"_id": 2}, {"$unset": {"domain": 1}})
        sites.delete_one({"_id": 3})
        wait_for(same)
        sites.delete_many({"_id": {"$gte": 4}})
        sites.update_many({}, {"$set": {"tags": [None]}})
        wait_for(same)
        cache.check()
        assert loads(cache) == {"initial": 1}
    more = ["--index=sites=_id", "--index-multi=sites=tags"]
    with following(cache_path, replica_set.uri, *flags(sites, *more)) as (loader, cache):
        loader.expect("has the indexes that are asked for")
        assert cache["sites"].indexes == {"_id": "unique", "tags": "multi"}
        assert by(cache, "_id") == {i: i for i in range(3)}
        sites.insert_one({"_id": 9, "tags": ["back"]})
        wait_for(lambda: by(cache, "tags").get("back") == [9])
        assert loads(cache) == {"initial": 1}, "no load was needed for that"
        cache.check()


def test_a_double_degrades_until_it_goes(replica_set: Server, sites: Any, cache_path: Path) -> None:
    unique = flags(sites, "--index=sites=domain")
    with following(cache_path, replica_set.uri, *unique) as (_, cache):
        sites.update_one({"_id": 1}, {"$set": {"domain": "2.org", "v": 1}})
        in_state(cache, "degraded")
        wait_for(lambda: 'both have domain = "2.org"' in (cache.status()["error"] or ""))
        error = cache.status()["error"] or ""
        assert "_id 1 and 2" in error or "_id 2 and 1" in error
        assert by(cache, "domain") == {f"{i}.org": i for i in range(6)}
        assert "v" not in cache["sites"][1]
        sites.update_one({"_id": 2}, {"$set": {"domain": "1.org"}})
        wait_for(lambda: by(cache, "domain") == wanted(sites)[0])
        in_state(cache, "streaming")
        cache.check()
    sites.update_one({"_id": 2}, {"$set": {"tags": 7}})
    sites.update_one({"_id": 1}, {"$set": {"tags": 7}})
    with following(cache_path, replica_set.uri, *unique) as (_, cache):
        wait_for(lambda: cache["sites"][1]["tags"] == 7)
    twice = flags(sites, "--index=sites=tags")
    with following(cache_path, replica_set.uri, *twice, state="degraded") as (_, cache):
        wait_for(lambda: "both have tags = " in (cache.status()["error"] or ""))
        assert cache["sites"].indexes == {"domain": "unique"}, "the generation before stays"
