"""Shell completions and the man page have every command and every flag, and no other."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tools import tool

import mmapcache
from mmapcache.cli import main, parser_for
from mmapcache.cli.completion import FILES

SHARE = Path(mmapcache.__file__).parent / "share"
AGAIN = "run `make share`"
HELP = {"-h", "--help"}


def flags() -> dict[str, set[str]]:
    """By command, its flags; one of several words for a command of a command."""
    return dict(commands_of(parser_for(None, every=True), ""))


def commands_of(parser: argparse.ArgumentParser, prefix: str) -> Iterator[tuple[str, set[str]]]:
    for commands in parser._actions:
        if isinstance(commands, argparse._SubParsersAction):
            for name, command in commands.choices.items():
                flags = {flag for action in command._actions for flag in action.option_strings}
                yield prefix + name, flags
                yield from commands_of(command, f"{prefix}{name} ")


def in_bash(text: str) -> dict[str, set[str]]:
    found = re.findall(r"^_shtab_mmapcache_(\w+)_option_strings=\((.*)\)$", text, re.MULTILINE)
    return {command.replace("_", " "): set(words.split()) for command, words in found}


def in_zsh(text: str) -> dict[str, set[str]]:
    blocks = re.findall(r"^_shtab_mmapcache_(\w+)_options=\(\n(.*?)^\)$", text, re.M | re.S)
    flag = re.compile(r'^  (?:"(?:\([^)]*\)"|\*)?)?\{?(-[\w,-]+)', re.MULTILINE)
    return {
        command.replace("_", " "): {w for words in flag.findall(block) for w in words.split(",")}
        for command, block in blocks
    }


def in_fish(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for name in flags()}
    for command, rest in re.findall(r"_shtab_mmapcache_using (\w[\w ]*)'(.*)$", text, re.MULTILINE):
        found[command].update(f"--{name}" for name in re.findall(r"(?<!\S)-l (\S+)", rest))
        found[command].update(f"-{name}" for name in re.findall(r"(?<!\S)-s (\S+)", rest))
    return found


def in_manual(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for section in text.replace("\\-", "-").split("\n.SH ")[1:]:
        title = re.search(r"'mmapcache (\w[\w ]*)'", section.splitlines()[0])
        if title is not None:
            items = re.findall(r"^\.TP\n(.*)$", section, re.MULTILINE)
            words = {word for item in items for word in re.findall(r"\\fB(-[\w-]+)\\fR", item)}
            found.setdefault(title[1], set(HELP)).update(words)
    return found


READERS = {
    "mmapcache.bash": in_bash,
    "_mmapcache": in_zsh,
    "mmapcache.fish": in_fish,
    "mmapcache.1": in_manual,
}


@pytest.mark.parametrize("name", READERS)
def test_every_flag_is_there_and_no_other(name: str) -> None:
    assert READERS[name]((SHARE / name).read_text("utf-8")) == flags(), AGAIN


def test_the_commands_and_their_sentences_are_in_the_manual() -> None:
    text = (SHARE / "mmapcache.1").read_text("utf-8").replace("\\-", "-")
    for name in flags():
        first, _, last = f"mmapcache {name}".rpartition(" ")
        assert f"\\fB{first}\\fR \\fI\\,{last}\\/\\fR" in text, AGAIN
    for status in ("Exit status: 0 done, 1 could not", "143, 130"):
        assert status in text, AGAIN


@pytest.mark.parametrize("shell", FILES)
def test_the_command_prints_it(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == (SHARE / FILES[shell]).read_text("utf-8")


def answer(shell: str, script: str) -> set[str]:
    """The lines that a shell prints for a script that loads the completion."""
    command = tool(shell, f"apt-get install {shell}")
    done = subprocess.run(
        [command, "-c", script, shell, str(SHARE / FILES[shell])],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return {line.split("\t")[0].strip() for line in done.stdout.splitlines()}


COMPLETED = {
    "stat --re": {"--require-loader"},
    "sync --log-le": {"--log-level"},
    "sync --follow p": {"poll"},
    "wa": {"watch"},
    "completion z": {"zsh"},
}


@pytest.mark.parametrize("typed", COMPLETED)
def test_bash_completes(typed: str) -> None:
    script = f"""source "$1"
COMP_WORDS=(mmapcache {typed}) COMP_LINE="mmapcache {typed}"
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMP_POINT=${{#COMP_LINE}}
_shtab_mmapcache mmapcache "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}" 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    assert answer("bash", script) == COMPLETED[typed]


def test_fish_completes() -> None:
    for typed, words in COMPLETED.items():
        script = f'source $argv[2]; complete -C "mmapcache {typed}"'
        assert answer("fish", script) == words


def test_zsh_takes_it() -> None:
    assert answer("zsh", 'zsh -n "$1"') == set()


def test_the_manual_is_sound() -> None:
    command = tool("groff", "apt-get install groff-base")
    done = subprocess.run(
        [command, "-man", "-ww", "-Tutf8", str(SHARE / "mmapcache.1")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
