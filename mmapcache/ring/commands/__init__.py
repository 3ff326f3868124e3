"""`mmapcache ring agent | init | status | add | drain | verify | repair | where`."""

from __future__ import annotations

import argparse
import importlib
from typing import Final

from mmapcache.cli.output import USAGE, CommandError
from mmapcache.ring.commands import options

NEEDED: Final = "this needs redis and kazoo: pip install 'mmapcache[ring]'"
_COMMANDS: Final = {
    "agent": (options.add_agent, "agent", "publish the ring into a file, and keep it whole"),
    "init": (options.add_init, "commands.change", "begin a ring in ZooKeeper"),
    "status": (options.add_status, "commands.status", "nodes, state, keys, changes, agents"),
    "add": (options.add_change, "commands.change", "take one more node into the ring"),
    "drain": (options.add_change, "commands.change", "take a node out of the ring"),
    "verify": (options.add_verify, "commands.verify", "compare all copies"),
    "repair": (options.add_repair, "commands.verify", "make all copies alike"),
    "where": (options.add_where, "commands.where", "who holds a key"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    commands = parser.add_subparsers(dest="ring_command", metavar="COMMAND", title="commands")
    for name, (add, module, summary) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=parser.epilog,
        )
        add(command)
        command.set_defaults(ring_module=module, parser=command)
    parser.set_defaults(ring_help=parser.print_help)


def run(args: argparse.Namespace) -> int:
    """Runs one of them; the exit status."""
    import sys

    if args.ring_command is None:
        args.ring_help(sys.stderr)
        return USAGE
    try:
        module = importlib.import_module(f"mmapcache.ring.{args.ring_module}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("redis", "kazoo"):
            raise
        raise CommandError(NEEDED) from None
    return int(module.run(args))
