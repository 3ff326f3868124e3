"""The command line: ``mmapcache get | ls | dump | stat | check | watch | serve | sync | …``.

Each command is a module with `add_arguments(parser)` and `run(args) -> int`, imported when it is
asked for, so that looking into a cache never imports the loader (or PyMongo). Errors are one
sentence on stderr; exit statuses are 0 (done), 1 (could not) and 2 (wrong usage).
"""

from __future__ import annotations

import argparse
import importlib
import io
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from mmapcache.cli import streams
from mmapcache.cli.output import (
    DONE,
    FAILED,
    USAGE,
    CommandError,
    UsageError,
    complain,
    complain_unexpected,
    emit,
    sentence,
)

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_COMMANDS: Final = {
    "get": ("mmapcache.cli.get", "print one document"),
    "ls": ("mmapcache.cli.ls", "list collections, or the keys of one"),
    "dump": ("mmapcache.cli.dump", "print all documents as Extended JSON lines or BSON"),
    "stat": ("mmapcache.cli.stat", "generation, age, loader, sizes and free blocks"),
    "check": ("mmapcache.cli.check", "verify every structure and checksum"),
    "watch": ("mmapcache.cli.watch", "print each new generation and what changed"),
    "serve": ("mmapcache.serve.command", "a status page, probes and metrics over HTTP"),
    "sync": ("mmapcache.sync.command", "keep a cache file up to date from MongoDB or files"),
    "ring": ("mmapcache.ring.commands", "short-lived state on Redis servers, in two copies"),
    "completion": ("mmapcache.cli.completion", "print what makes bash, zsh or fish complete this"),
}
_EPILOG: Final = "Exit status: 0 done, 1 could not (one sentence on stderr says why), 2 usage."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(":/" in word for word in arguments):
        from mmapcache.sync.redaction import register_typed

        register_typed(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name is shown whatever the locale
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _main(arguments)
        streams.flush()
        return status
    except BrokenPipeError:
        streams.abandon(sys.stdout)
        return DONE
    except streams.StdoutError as error:
        streams.abandon(sys.stdout)
        complain(_named(arguments) or "", str(error))
        return FAILED


def _main(arguments: list[str]) -> int:
    parser = parser_for(_named(arguments))
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse(unknown, getattr(args, "parser", parser))
    if args.version:
        import importlib.metadata

        emit(f"mmapcache {importlib.metadata.version('mmapcache')}")
        return DONE
    if not hasattr(args, "run"):
        parser.print_help(sys.stderr)
        return USAGE
    return _run(args)


def _named(arguments: Sequence[str]) -> str | None:
    """The command in `arguments`, whose module alone has to be imported."""
    return next((word for word in arguments if not word.startswith("-")), None)


class _Parser(argparse.ArgumentParser):
    """Complains without a URI's password: a mistyped command line is still printed somewhere."""

    def error(self, message: str) -> NoReturn:
        from mmapcache.sync.redaction import public_text

        super().error(public_text(message))

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is sys.stdout:
            streams.show(message)
            streams.flush()
        elif message:
            streams.say(message)


def parser_for(named: str | None, *, every: bool = False) -> argparse.ArgumentParser:
    """The parser with the arguments of the command `named`, or of every command; importing a
    command's module is what costs."""
    parser = _Parser(
        prog="mmapcache",
        description="One shared, memory-mapped replica of MongoDB collections.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (module_name, summary) in _COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=_EPILOG
        )
        if every or name == named:
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            command.set_defaults(run=module.run, parser=command)
    return parser


def _refuse(unknown: list[str], parser: argparse.ArgumentParser) -> NoReturn:
    """Says which arguments are unknown, with the usage of the command that was given them."""
    from difflib import get_close_matches

    flags = [flag for action in parser._actions for flag in action.option_strings]
    words = []
    for word in unknown:
        like = get_close_matches(word.partition("=")[0], flags, n=1) if word[:1] == "-" else []
        words.append(f"{word} (did you mean {like[0]}?)" if like else word)
    parser.error(f"unrecognized arguments: {' '.join(words)}")


def _run(args: argparse.Namespace) -> int:
    import mmapcache

    try:
        return int(args.run(args))
    except (BrokenPipeError, streams.StdoutError):
        raise
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (CommandError, mmapcache.MmapCacheError, OSError, ImportError) as error:
        complain(args.command, sentence(error, getattr(args, "path", None)))
        return USAGE if isinstance(error, UsageError) else FAILED
    except Exception:
        if sys.excepthook is not sys.__excepthook__:  # the loader's, which writes to its log
            raise
        complain_unexpected()
        return FAILED
