"""``mmapcache completion SHELL``: what makes a shell complete this command line."""

from __future__ import annotations

import argparse
from importlib import resources
from typing import Final

from mmapcache.cli import streams
from mmapcache.cli.output import DONE

# By shell, the file in mmapcache/share/, which tools/make_share.py makes from the parsers.
FILES: Final = {"bash": "mmapcache.bash", "zsh": "_mmapcache", "fish": "mmapcache.fish"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("shell", choices=tuple(FILES), help="the shell that is to have it")


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    script = resources.files("mmapcache") / "share" / FILES[args.shell]
    streams.show(script.read_text("utf-8"))
    return DONE
