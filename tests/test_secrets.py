"""A connection string in the wrong place: no message, log or traceback repeats its secrets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import mmapcache
from mmapcache import cli
from mmapcache.sync import redaction
from mmapcache.sync.redaction import public_text, redact, register_typed

# Passwords with what parsers, quoting and our own options cut at.
PASSWORDS = [
    "opensesame",
    "open sesame",
    "open/sesame",
    "open@sesame",
    "open,sesame",
    "open=sesame",
    "open.sesame",
    "open'sesame",
    "open\"se'same",
    "open\\sesame",
    "open%20sesame",
    "open\x1bsesame",
]


def uri(password: str, scheme: str = "mongodb://") -> str:
    return f"{scheme}mallory:{password}@db.example/shop"


Said = tuple[int, str]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """The command in this process, in an empty directory; its status and what it printed."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MMAPCACHE_")]:
        monkeypatch.delenv(name)
    for hooks in (sys, threading):
        monkeypatch.setattr(hooks, "excepthook", hooks.excepthook)  # put back when it is over

    def run(*arguments: str, **environment: str) -> Said:
        monkeypatch.setattr(redaction, "_registered", set())  # as in a new process
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                status = cli.main(arguments)
            except SystemExit as end:  # argparse's
                status = end.code if isinstance(end.code, int) else 1
        return status, "".join(capfd.readouterr())

    return run


def clean(said: Said, *statuses: int) -> str:
    """What was said, after it was found to have failed without a secret."""
    status, text = said
    assert status in (statuses or (1, 2)), text
    assert "sesame" not in text
    assert "mallory" not in text
    assert "Traceback" not in text
    return text


SYNC = ["--once", "--timeout=0", "--log-level=debug"]
DATABASE = ["--database", "shop"]
PLACES = [
    *(
        [command, "URI", *rest]
        for command, rest in {
            "get": ["a", "1"],
            "ls": [],
            "dump": [],
            "stat": [],
            "check": [],
            "watch": ["--count=1"],
        }.items()
    ),
    ["dump", "PATH", "--out", "URI"],
    ["ls", "PATH", "URI"],
    ["dump", "PATH", "URI"],
    ["get", "PATH", "URI", "1"],
    ["get", "PATH", "sites", "URI"],
    ["get", "PATH", "sites", "1", "--pluck", "URI"],
    ["URI"],
    ["stat", "PATH", "URI"],
    ["stat", "PATH", "--timeout", "URI"],
    ["stat", "PATH", "--URI"],
    ["sync", "URI", "--source", "file:a.json", *SYNC],
    ["sync", "URI", *SYNC],
    ["sync", "PATH", "--source", "URI", *SYNC],
    ["sync", "PATH", "--source", "file:URI", *SYNC],
    ["sync", "PATH", "--source", "file:/tmp/URI.json", *SYNC],
    ["sync", "PATH", "--source", "file://URI", *SYNC],
    ["sync", "PATH", "--uri-file", "URI", *DATABASE, *SYNC],
    ["sync", "PATH", "--config", "URI", *SYNC],
    ["sync", "PATH", "--uri", "mongodb://h/", "--database", "URI", *SYNC],
    ["sync", "PATH", "--uri", "mongodb://h/", "--collection", "URI", *SYNC],
    ["sync", "PATH", "--uri", "mongodb://h/", "--collection", "a.b=URI" + "x" * 200, *SYNC],
    ["sync", "PATH", "--uri", "mongodb://h/", "--collection", "a.b", "--filter", "URI", *SYNC],
    ["sync", "PATH", "--uri", "mongodb://h/", "--collection", "a.b", "--filter", "b=URI", *SYNC],
    ["sync", "PATH", "--uri", "mongodb://h/", *DATABASE, "--read-preference", "URI", *SYNC],
    ["sync", "PATH", "--uri", "mongodb://h/", *DATABASE, "--max-size", "URI", *SYNC],
    ["sync", "PATH", "--ur", "URI", *DATABASE, *SYNC],
    ["sync", "PATH", "--uriURI", *DATABASE, *SYNC],
    ["sync", "PATH", "--ur=URI", *DATABASE, *SYNC],
    ["sync", "PATH", "--log-format", "URI", *SYNC],
]


@pytest.fixture
def path(cache_path: Path) -> Path:
    with mmapcache.Writer(cache_path, max_size="16MiB") as writer, writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})
    return cache_path


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_on_the_command_line(
    path: Path, tmp_path: Path, run: Callable[..., Said], place: list[str]
) -> None:
    for password in PASSWORDS:
        for scheme in ("mongodb://", "MONGODB+SRV://"):
            words = [w.replace("URI", uri(password, scheme)) for w in place]
            clean(run(*(str(path) if word == "PATH" else word for word in words)))
    assert not list(tmp_path.iterdir()), "nothing was made of it"


@pytest.mark.parametrize(
    "name", ["PATH", "URI_FILE", "SOURCE", "CONFIG", "COLLECTION", "DATABASE", "INTERVAL", "ONCE"]
)
def test_in_the_environment(path: Path, run: Callable[..., Said], name: str) -> None:
    arguments = [] if name == "PATH" else [str(path)]
    environment = {"MMAPCACHE_URI": "mongodb://h/", "MMAPCACHE_TIMEOUT": "0"}
    if name in ("URI_FILE", "SOURCE"):
        del environment["MMAPCACHE_URI"]
    if name != "COLLECTION":
        environment["MMAPCACHE_DATABASE"] = "shop"
    for password in PASSWORDS:
        environment[f"MMAPCACHE_{name}"] = uri(password)
        clean(run("sync", *arguments, "--once", **environment))


@pytest.mark.parametrize(
    "text",
    [
        "path = 'URI'\nuri = 'mongodb://h/'\ndatabase = 'd'",
        "uri_file = 'URI'\ndatabase = 'd'",
        "source = 'URI'",
        "source = 'file:URI'",
        "uri = 'mongodb://h/'\ndatabase = 'URI'",
        "uri = 'mongodb://h/'\ncollection = ['URI']",
        "uri = 'mongodb://h/'\ncollection = ['a.b=URI']\nfilter = 'x'",
        "'URI' = 1",
        "uri = 'URI",
        "[[collection]]\nfrom = 'URI'",
        "uri = 'mongodb://h/'\n[[collection]]\nfrom = 'URI'",
        "uri = 'mongodb://h/'\n[[collection]]\nfrom = 'a.b'\nname = 'URIURIURIURIURIURIURIURI'",
        "uri = 'mongodb://h/'\n[[collection]]\nfrom = 'a.b'\n'URI' = 1",
    ],
)
def test_in_the_toml_file(path: Path, tmp_path: Path, run: Callable[..., Said], text: str) -> None:
    config = tmp_path / "sync.toml"
    first = [] if text.startswith("path") else [str(path)]
    for password in ("opensesame", "open sesame", "open,sesame", "open.sesame"):
        config.write_text(text.replace("URI", uri(password)))
        clean(run("sync", *first, "--config", str(config), *SYNC))


def test_the_cure_is_named(path: Path, run: Callable[..., Said]) -> None:
    said = clean(run("stat", uri("opensesame")), 2)
    assert "PATH is a MongoDB URI; it must be the path of a file" in said
    said = clean(run("sync", uri("opensesame"), *DATABASE), 2)
    assert "PATH is a MongoDB URI" in said
    assert "--uri-file" in said
    assert "--uri" in clean(run("sync", str(path), "--source", "file:" + uri("opensesame")), 2)


def test_what_a_path_makes_of_a_uri_is_masked_too() -> None:
    assert redact("no mongodb:/ann:topsecret@h/x here") == "no mongodb:/h here"
    assert redact("at /srv/mongodb://ann:topsecret@h/x.") == "at /srv/mongodb://h."
    assert redact("mongo://ann:topsecret@h/x") == "mongo://***@h/x"
    assert redact("https://h:1/x?y") == "https://h:1/x?y"
    register_typed(["x mongodb://ann:one two@h/"])
    assert public_text("two: 'one two'\n") == r"two: '***'\n"


def test_an_unforeseen_error_has_no_secrets_in_its_traceback(tmp_path: Path) -> None:
    program = f"""
import sys
from mmapcache.cli import main, output
import mmapcache.cli.stat as stat
def run(args):
    raise RuntimeError(args.path)
stat.run = run
sys.exit(main(["stat", {uri("open sesame")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr
    assert "sesame" not in done.stderr.split("RuntimeError: ")[1]
