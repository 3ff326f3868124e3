"""The loader's options: which origin wins, what is refused, and that no secret is shown."""

from __future__ import annotations

import argparse
import logging
import random
import re
from pathlib import Path

import pytest

from mmapcache.cli import main
from mmapcache.sync import options
from mmapcache.sync.backoff import Backoff
from mmapcache.sync.errors import UsageError
from mmapcache.sync.options import Options
from mmapcache.sync.redaction import public_uri, redact, register_uri

pytestmark = pytest.mark.usefixtures("warm_loaders")

MINIMUM = ["cache", "--uri", "mongodb://h/", "--collection", "shop.sites"]


def resolve(*arguments: str, **environment: str) -> Options:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.resolve(parser.parse_args(arguments), environment)


def write(directory: Path, text: str) -> str:
    path = directory / "sync.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_defaults() -> None:
    got = resolve(*MINIMUM)
    assert (got.path, got.interval, got.timeout, got.mode) == ("cache", 10.0, 30.0, 0o640)
    assert (got.once, got.allow_empty, got.recreate, got.max_size) == (False, False, False, None)
    (collection,) = got.collections
    assert (collection.origin, collection.name) == ("shop.sites", "sites")
    assert collection.batch_size == options.DEFAULT_BATCH_SIZE


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        'path = "from-file"\nuri = "mongodb://file/"\ninterval = 1\ntimeout = 1\n'
        'collection = ["shop.file"]\nmax_size = "1.5GiB"\nmode = "0600"\n',
    )
    environment = {
        "MMAPCACHE_CONFIG": config,
        "MMAPCACHE_INTERVAL": "2",
        "MMAPCACHE_TIMEOUT": "2",
        "MMAPCACHE_COLLECTION": "shop.sites, shop.rates=limits",
    }
    got = resolve("--interval", "3", **environment)
    assert got.path == "from-file"
    assert got.uri == "mongodb://file/"
    assert (got.interval, got.timeout) == (3.0, 2.0)
    assert (got.max_size, got.mode) == ("1.5GiB", 0o600)
    assert [c.name for c in got.collections] == ["sites", "limits"]


def test_an_origin_that_wins_silences_its_alternatives(tmp_path: Path) -> None:
    config = write(tmp_path, 'uri = "mongodb://file/"\ncollection = ["a.b"]')
    got = resolve("c", "--uri-file", "/run/uri", "--database", "shop", MMAPCACHE_CONFIG=config)
    assert (got.uri, got.uri_file) == (None, "/run/uri")
    assert (got.database, got.collections) == ("shop", ())


def test_each_variable(tmp_path: Path) -> None:
    got = resolve(
        MMAPCACHE_PATH="p",
        MMAPCACHE_URI="mongodb://h/",
        MMAPCACHE_DATABASE="shop",
        MMAPCACHE_ONCE="yes",
        MMAPCACHE_MAX_SIZE="2GiB",
        MMAPCACHE_MODE="0600",
        MMAPCACHE_RETENTION="2.5",
        MMAPCACHE_COLLAPSE="off",
        MMAPCACHE_SHRINK="no",
        MMAPCACHE_SHRINK_AFTER="30",
        MMAPCACHE_ALLOW_EMPTY="1",
        MMAPCACHE_RECREATE="true",
        MMAPCACHE_READ_PREFERENCE="nearest",
        MMAPCACHE_BATCH_SIZE="7",
        MMAPCACHE_LOG_LEVEL="DEBUG",
        MMAPCACHE_LOG_FORMAT="json",
        MMAPCACHE_PROGRESS="0",
    )
    assert (got.path, got.database, got.once, got.max_size) == ("p", "shop", True, "2GiB")
    assert (got.mode, got.retention, got.collapse) == (0o600, 2.5, False)
    assert (got.shrink, got.shrink_after) == (False, 30.0)
    assert (got.allow_empty, got.recreate, got.progress) == (True, True, False)
    assert (got.log_level, got.log_format) == ("debug", "json")
    assert (got.defaults.read_preference, got.defaults.batch_size) == ("nearest", 7)
    assert got.defaults.allow_empty is True


def test_tables_say_which_and_how(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        'uri = "mongodb://h/"\nbatch_size = 10\n'
        '[[collection]]\nfrom = "shop.sites"\nfilter = { active = true }\nbatch_size = 20\n'
        '[[collection]]\nfrom = "crm.users"\nname = "people"\nread_preference = "secondary"\n'
        "projection = '{\"name\": 1}'\nallow_empty = true\n",
    )
    sites, people = resolve("c", "--config", config).collections
    assert (sites.origin, sites.batch_size, sites.filter) == ("shop.sites", 20, {"active": True})
    assert (people.origin, people.name, people.batch_size) == ("crm.users", "people", 10)
    assert (people.read_preference, people.projection) == ("secondary", '{"name": 1}')
    assert (sites.allow_empty, people.allow_empty) == (False, True)


def test_flags_say_which_and_the_file_still_says_how(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        'uri = "mongodb://h/"\n[[collection]]\nfrom = "shop.sites"\nbatch_size = 20\n'
        'filter = { a = 1 }\n[[collection]]\nfrom = "shop.rates"\n',
    )
    flags = ["c", "--config", config, "--collection", "shop.sites"]
    (sites,) = resolve(*flags, "--filter", 'sites={"b": 2}').collections
    assert (sites.batch_size, sites.filter) == (20, '{"b": 2}')
    database = resolve("c", "--config", config, "--database", "shop")
    assert [c.name for c in database.collections] == ["sites", "rates"]  # settings, not a choice


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PATH is missing"),
        (["c"], "--uri"),
        (["c", "--uri", "mongodb://h/"], "--collection"),
        (["c", "--uri", "http://h/", "--database", "d"], "mongodb://"),
        (["c", "--uri", "mongodb://h/", "--uri-file", "f", "--database", "d"], "not both"),
        ([*MINIMUM, "--database", "d"], "not both"),
        ([*MINIMUM, "--collection", "crm.sites"], "DB.COLL=NAME"),
        ([*MINIMUM, "--collection", "sites"], "DB.COLL"),
        ([*MINIMUM, "--collection", "a.b="], "NAME"),
        ([*MINIMUM, "--collection", "a b.c"], "database"),
        ([*MINIMUM, "--collection", "a.$c"], "collection"),
        ([*MINIMUM, "--collection", "a.c=" + "n" * 256], "255"),
        ([*MINIMUM, "--interval", "0"], "--interval must be seconds"),
        ([*MINIMUM, "--interval", "nan"], "--interval must be seconds"),
        ([*MINIMUM, "--timeout", "-1"], "--timeout"),
        ([*MINIMUM, "--max-size", "big"], "--max-size must be a number of bytes"),
        ([*MINIMUM, "--max-size", "0"], "--max-size"),
        ([*MINIMUM, "--mode", "0999"], "octal"),
        ([*MINIMUM, "--mode", "0666"], "others"),
        ([*MINIMUM, "--mode", "0040"], "owner"),
        ([*MINIMUM, "--batch-size", "0"], "--batch-size"),
        ([*MINIMUM, "--read-preference", "best"], "one of primary"),
        ([*MINIMUM, "--log-level", "loud"], "one of debug"),
        ([*MINIMUM, "--filter", "sites"], "NAME=JSON"),
        ([*MINIMUM, "--filter", "sites=[1]"], "JSON object"),
        ([*MINIMUM, "--filter", "rates={}"], "not loaded"),
        (["c", "--source", "settings.json"], "file:"),
        (["c", "--source", "mongodb://h/"], "--uri"),
        (["c", "--source", "file:a.json", "--database", "d"], "file source"),
        ([*MINIMUM, "--config", "/nowhere/x.toml"], "cannot read"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interval = ", "not TOML"),
        ("speed = 1", "unknown setting: speed"),
        ("once = 1", "once in"),
        ("mode = 640", "octal"),  # a decimal number is no mode
        ("collection = [1]", "names"),
        ('[[collection]]\nname = "x"', "from"),
        ('[[collection]]\nfrom = "a.b"\nsort = 1', "unknown setting: sort"),
    ],
)
def test_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve("c", "--uri", "mongodb://h/", "--config", write(tmp_path, text))
    assert message in str(caught.value)


def test_options_do_not_show_the_uri() -> None:
    got = resolve("c", "--uri", "mongodb://u:topsecret@h/", "--collection", "a.b")
    assert "topsecret" not in repr(got)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://h1:1,h2:2/db?x=y", "mongodb://h1:1,h2:2"),
        ("mongodb://user:pa%24s@h/db?authSource=admin", "mongodb://h"),
        ("mongodb+srv://user:pass@c.example/?tls=true", "mongodb+srv://c.example"),
        ("mongodb://user:p@ss/word@h/", "mongodb://h"),
        ("mongodb://user:pw@[::1]:27017/", "mongodb://[::1]:27017"),
        ("mongodb://user:my", "mongodb://***"),
    ],
)
def test_public_uri(uri: str, shown: str) -> None:
    assert public_uri(uri) == shown
    assert redact(f"cannot reach {uri}: refused") == f"cannot reach {shown}: refused"


def test_registered_secrets_are_masked_in_any_form() -> None:
    register_uri(
        "mongodb://ann:pa%24%24w0rd@h/?authMechanismProperties=AWS_SESSION_TOKEN:tok3n"
        "&tlsCertificateKeyFilePassword=opense%20same"
    )
    for secret in ("pa%24%24w0rd", "pa$$w0rd", "ann:pa%24%24w0rd", "tok3n", "opense same"):
        assert redact(f"<{secret}>") == "<***>", secret
    register_uri("mongodb://u:a7@h/")
    assert redact("sha7tered a7") == "sha7tered ***"


def test_redaction_covers_tracebacks() -> None:
    from mmapcache.sync.logs import JsonFormatter, TextFormatter

    register_uri("mongodb://u:hunter2hunter@h/")
    try:
        raise ValueError("password hunter2hunter is wrong")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "f", 1, "%s", (error,), (ValueError, error, error.__traceback__)
        )
    record.fields = {"error": "hunter2hunter"}
    for formatter in (TextFormatter(), JsonFormatter()):
        text = formatter.format(record)
        assert "hunter2hunter" not in text
        assert "Traceback" in text


def test_backoff_doubles_up_to_a_limit_with_jitter() -> None:
    backoff = Backoff(first=1.0, last=10.0, dice=random.Random(1))
    delays = [backoff.next() for _ in range(100)]
    for delay, ceiling in zip(delays, [1, 2, 4, 8] + [10] * 96, strict=True):
        assert ceiling / 2 <= delay <= ceiling
    assert len(set(delays)) == 100
    backoff.reset()
    assert backoff.next() <= 1.0


# --- the flags ------------------------------------------------------------------------------------


def test_the_help_has_every_option_in_a_group_and_every_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["sync", "--help"])
    text = capsys.readouterr().out
    ungrouped, *groups = text.split("options:\n", 1)[1].split("\n\n")
    grouped = "\n".join(groups)
    for key in {*options.SETTINGS, "filter", "projection", "key", "dry-run", "print-config"} - {
        "path"
    }:
        flag = "--" + key.replace("_", "-")
        assert re.search(rf"^  {flag}\b", grouped, re.MULTILINE), flag
        assert flag not in ungrouped
    statuses = text.split("Exit status:\n")[1]
    for status in ("0", "1", "2", "143, 130"):
        assert re.search(rf"^  {status}\b", statuses, re.MULTILINE), status


def test_key_and_transform(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        'uri = "mongodb://h/"\ntransform = "a:b"\n'
        '[[collection]]\nfrom = "shop.sites"\nkey = "host.name"\n'
        '[[collection]]\nfrom = "shop.rates=x"\nname = "rates=x"\ntransform = "c:d"\n',
    )
    sites, rates = resolve("c", "--config", config, "--key", "rates=x=_n").collections
    assert (sites.transform, sites.key) == ("a:b", "host.name")
    assert (rates.transform, rates.key) == ("c:d", "_n")
    (one,) = resolve("c", "--config", config, "--collection=a.b", "--transform=e:f").collections
    assert (one.transform, one.key) == ("e:f", None)
    (one,) = resolve(*MINIMUM, MMAPCACHE_TRANSFORM="g:h").collections
    assert one.transform == "g:h"
    (of_file,) = resolve("c", "--source=file:s.json", "--key=s=name").collections
    assert (of_file.name, of_file.key, of_file.database) == ("s", "name", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key=sites"], "--key must be NAME=FIELD"),
        (["--key=sites="], "--key must be NAME=FIELD"),
        (["--key==name"], "--key must be NAME=FIELD"),
        (["--key=rates=name"], "--key names 'rates', which is not loaded"),
        (["--transform="], "--transform must be a text that is not empty"),
        (["--once", "--standby"], "--once and --standby do not go together"),
    ],
)
def test_wrong_usage_of_later_options(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        resolve(*MINIMUM, *arguments)


def test_a_table_of_a_file_source_says_what_becomes_of_documents(tmp_path: Path) -> None:
    config = write(tmp_path, '[[collection]]\nname = "s"\nkey = "n"\nbatch_size = 5\n')
    with pytest.raises(UsageError, match=r"name, key, transform, index, index_multi$"):
        resolve("c", "--source=file:s.json", "--config", config)
