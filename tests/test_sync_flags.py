"""Each flag of `mmapcache sync` arrives where it is to; what no other test gives has its effect."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import mmapcache
from mmapcache.sync import options
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.options import Options
from mmapcache.sync.target import Target

PATH, URI, ONE = "cache", "--uri=mongodb://h/", "--collection=shop.sites"
# Flag -> what is given, and what Options or the one collection's options say then.
GIVEN: dict[str, tuple[list[str], object]] = {
    "path": ([PATH, URI, ONE], PATH),
    "uri": ([PATH, URI, ONE], "mongodb://h/"),
    "uri_file": ([PATH, "--uri-file=/run/uri", ONE], "/run/uri"),
    "source": ([PATH, "--source=file:s.json"], "s.json"),
    "collection": ([PATH, URI, ONE], "sites"),
    "database": ([PATH, URI, "--database=shop"], "shop"),
    "filter": (["--filter", 'sites={"a":1}'], '{"a":1}'),
    "projection": (["--projection", 'sites={"b":0}'], '{"b":0}'),
    "read_preference": (["--read-preference=secondary"], "secondary"),
    "batch_size": (["--batch-size=7"], 7),
    "allow_empty": (["--allow-empty"], True),
    "transform": (["--transform=shop:clean"], "shop:clean"),
    "key": (["--key=sites=name"], "name"),
    "index": (["--index=sites=a", "--index=sites=b"], ("a", "b")),
    "index_multi": (["--index-multi=sites=plan"], ("plan",)),
    "follow": (["--follow=stream"], "stream"),
    "settle": (["--settle=1:20"], "1:20"),
    "reload_spread": (["--reload-spread=0"], 0.0),
    "verify_every": (["--verify-every=24"], 24.0),
    "hold_while": (["--hold-while", 'shop.jobs:{"on":true}'], 'shop.jobs:{"on":true}'),
    "interval": (["--interval=3"], 3.0),
    "once": (["--once"], True),
    "timeout": (["--timeout=4"], 4.0),
    "standby": (["--standby"], True),
    "max_size": (["--max-size=2GiB"], "2GiB"),
    "mode": (["--mode=0600"], 0o600),
    "retention": (["--retention=2.5"], 2.5),
    "collapse": (["--no-collapse"], False),
    "shrink": (["--no-shrink"], False),
    "shrink_after": (["--shrink-after=60"], 60.0),
    "recreate": (["--recreate"], True),
    "http": (["--http=127.0.0.1:8000"], "127.0.0.1:8000"),
    "token_file": (["--http=127.0.0.1:8000", "--token-file=/run/token"], "/run/token"),
    "max_age": (["--http=127.0.0.1:8000", "--max-age=60"], 60.0),
    "config": (["--config={config}"], 4321),
    "log_level": (["--log-level=debug"], "debug"),
    "log_format": (["--log-format=json"], "json"),
    "log_json": (["--log-json"], "json"),
    "progress": (["--no-progress"], False),
    "dry_run": (["--dry-run"], True),
    "print_config": (["--print-config"], True),
}
WHERE = {"config": "batch_size", "log_json": "log_format", "collection": "name"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(add_help=False)
    options.add_arguments(made)
    return made


def resolve(*arguments: str) -> Options:
    return options.resolve(parser().parse_args(arguments), {})


def test_every_flag_is_among_them() -> None:
    flags = {
        (action.option_strings or [action.dest])[0].lstrip("-").replace("-", "_")
        for action in parser()._actions
    }
    assert flags == GIVEN.keys()


@pytest.mark.parametrize("flag", GIVEN)
def test_it_arrives(flag: str, tmp_path: Path) -> None:
    config = tmp_path / "sync.toml"
    config.write_text("batch_size = 4321\n")
    arguments, wanted = GIVEN[flag]
    words = [word.format(config=config) if flag == "config" else word for word in arguments]
    got = resolve(*([] if words[0] == PATH else [PATH, URI, ONE]), *words)
    name = WHERE.get(flag, flag)
    of = got.collections[0] if name in {*options.PER_COLLECTION, "name"} else got
    found = getattr(of, name)
    assert (str(found) if name in ("settle", "hold_while") else found) == (
        json.loads(str(wanted)) if isinstance(found, Mapping) else wanted
    )


def test_retention_is_how_long_a_snapshot_stays(tmp_path: Path) -> None:
    """Without any, what was before is gone as soon as it may be; with an hour it is not."""
    for seconds in ("0", "3600"):
        path = str(tmp_path / f"cache-{seconds}")
        target = Target(resolve(path, "--source=file:s", f"--retention={seconds}"), Inbox())
        writer = target.writer()
        writer.put("sites", 1, {"_id": 1, "v": 0})
        with writer.reader() as cache, cache.snapshot() as snap:
            sites = snap["sites"]
            for version in range(1, 101):
                writer.put("sites", 1, {"_id": 1, "v": version})
            if seconds == "0":
                with pytest.raises(mmapcache.SnapshotExpired):
                    sites[1]
            else:
                assert sites[1]["v"] == 0
        target.close()


def test_without_collapse_nothing_is_in_huge_pages(cache_path: Path) -> None:
    huge = {}
    for flag in ("--collapse", "--no-collapse"):
        path = cache_path.with_name(flag)
        target = Target(resolve(str(path), "--source=file:s", flag), Inbox())
        target.writer().put("sites", 1, {"_id": 1})
        huge[flag] = target.writer().stats()["huge_bytes"]
        target.close()
    assert huge["--no-collapse"] == 0
    if not huge["--collapse"]:
        pytest.skip("this kernel makes no huge pages of these files, with or without the flag")
