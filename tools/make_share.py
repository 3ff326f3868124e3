"""Shell completions and the man page, made from the parsers of the command line: mmapcache/share/.

    make share                          (or: python tools/make_share.py, with the extra `lint`)

What it makes is in the repository: users need neither of the two packages. A test says when a flag
is missing there.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from mmapcache.cli import parser_for
from mmapcache.cli.completion import FILES
from mmapcache.sync import logs, options

os.environ["COLUMNS"] = "80"  # of usage lines, whatever the terminal has
SHARE = Path(__file__).resolve().parent.parent / "mmapcache" / "share"
PATHS = {
    "path": shtab.FILE,
    "config": shtab.FILE,
    "uri_file": shtab.FILE,
    "token_file": shtab.FILE,
    "out": shtab.DIRECTORY,
}
CHOICES = {
    "follow": options.FOLLOW,
    "read_preference": options.READ_PREFERENCES,
    "log_level": logs.LEVELS,
    "log_format": logs.FORMATS,
}


def prepared() -> argparse.ArgumentParser:
    """The whole parser, with what a shell can offer for each argument."""
    parser = parser_for(None, every=True)
    for command in commands(parser).values():
        for argument in command._actions:
            if argument.dest in PATHS:
                argument.complete = PATHS[argument.dest]  # type: ignore[attr-defined]
            if argument.nargs != 0 and argument.dest in CHOICES:
                argument.choices = CHOICES[argument.dest]
    return parser


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by name."""
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


def completion(shell: str) -> str:
    """The script for a shell, which says how it is installed here and not by hand."""
    script = shtab.complete(prepared(), shell)
    head = f"# Made by tools/make_share.py with shtab. `mmapcache completion {shell}` prints it.\n"
    first, _, rest = script.partition("\n")
    return f"{first}\n{head}{rest}\n" if first.startswith("#compdef") else head + script + "\n"


def manual() -> str:
    """The man page in troff."""
    parser = parser_for(None, every=True)
    short = "one memory-mapped replica of MongoDB collections"
    parser.man_short_description = short  # type: ignore[attr-defined]
    data = {"manual_title": "mmapcache", "project_name": "mmapcache", "date": "mmapcache"}
    page = str(Manpage(parser, _data=data)).partition(".SH COMMENTS")[0]
    # usage as it is: man would fill its lines
    page = re.sub(r"^usage: .+?\n\n", r".nf\n\g<0>.fi\n", page, flags=re.MULTILINE | re.DOTALL)
    return page + ".SH EXIT STATUS\n.nf\n" + "".join(map(_troff, _endings(parser))) + ".fi\n"


def _endings(parser: argparse.ArgumentParser) -> list[str]:
    """What the commands' helps end with, the exit statuses among it: the common and sync's own."""
    common = parser_for(None).epilog or ""
    of_sync = commands(parser)["sync"].epilog
    return [f"{common}\n\n", f"mmapcache sync. {of_sync}\n"]


def _troff(text: str) -> str:
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE).replace("-", r"\-")


def main() -> int:
    """Writes the files."""
    SHARE.mkdir(exist_ok=True)
    made = {FILES[shell]: completion(shell) for shell in FILES}
    made["mmapcache.1"] = manual()
    for name, text in made.items():
        (SHARE / name).write_text(re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE), "utf-8")
        print(f"mmapcache/share/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
