"""The arguments of `mmapcache ring …`, declared without what the commands need."""

from __future__ import annotations

import argparse

from mmapcache.cli.output import add_owner
from mmapcache.sync import logs


def add_agent(parser: argparse.ArgumentParser) -> None:
    """`mmapcache ring agent`."""
    parser.add_argument("path", help="the file that the ring is published in")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--zookeeper", metavar="HOST:PORT[,...]/ROOT", help="where the ring is")
    where.add_argument(
        "--members",
        metavar="ID=HOST:PORT,...",
        help="a fixed ring of these nodes, without ZooKeeper",
    )
    parser.add_argument(
        "--epoch",
        type=int,
        default=1,
        help="of the fixed ring: a higher one each time that --members is another",
    )
    parser.add_argument(
        "--fill-rate",
        type=float,
        default=20000.0,
        metavar="KEYS",
        help="keys a second that a fill looks at, 0: no limit (default: 20000)",
    )
    parser.add_argument("--standby", action="store_true", help="wait for another agent's end")
    parser.add_argument("--mode", default="0640", help="of the file, octal (default: 0640)")
    parser.add_argument("--max-size", metavar="SIZE", help="of the file (default: 16MiB)")
    parser.add_argument("--http", metavar="ADDR:PORT|unix:PATH", help="status page and metrics")
    parser.add_argument("--token-file", metavar="FILE", help="see `mmapcache serve`")
    parser.add_argument("--max-age", type=float, metavar="S", help="see `mmapcache serve`")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info")
    parser.add_argument("--log-format", choices=logs.FORMATS, default="text")
    add_credentials(parser)


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """How the nodes are talked to: see `settings_of`."""
    parser.add_argument("--username", help="of the nodes' users (ACL)")
    parser.add_argument("--password-file", metavar="FILE", help="its first line is the password")
    parser.add_argument("--tls", action="store_true", help="the nodes' ports are TLS")
    parser.add_argument("--tls-ca", metavar="FILE", help="certificates that sign the nodes' ones")
    parser.add_argument("--tls-cert", metavar="FILE", help="this client's certificate")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")


def add_place(parser: argparse.ArgumentParser, *, path: bool = False) -> None:
    """Where the ring is: in ZooKeeper, or (`path`) in an agent's file."""
    if path:
        parser.add_argument("path", nargs="?", help="an agent's file, to read instead of ZooKeeper")
    parser.add_argument(
        "--zookeeper", metavar="HOST:PORT[,...]/ROOT", required=not path, help="where the ring is"
    )
    parser.add_argument("--json", action="store_true", help="on one line, for programs")
    if path:
        add_owner(parser)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """`--dry-run`."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")


def add_init(parser: argparse.ArgumentParser) -> None:
    """`mmapcache ring init`."""
    parser.add_argument("ids", nargs="+", metavar="ID", help="of the first nodes")
    add_place(parser)
    add_dry_run(parser)


def add_status(parser: argparse.ArgumentParser) -> None:
    """`mmapcache ring status`."""
    add_place(parser, path=True)
    add_credentials(parser)


def add_change(parser: argparse.ArgumentParser) -> None:
    """`mmapcache ring add` and `drain`."""
    parser.add_argument("id", metavar="ID", help="of the node")
    add_place(parser)
    add_dry_run(parser)
    parser.add_argument(
        "--detach", action="store_true", help="do not wait: the agents complete the change"
    )
    parser.add_argument(
        "--abort",
        action="store_true",
        help="give it up, as when the node that is added has died: the members stay as they were",
    )


def add_verify(parser: argparse.ArgumentParser) -> None:
    """`mmapcache ring verify`."""
    add_place(parser)
    add_rate(parser)
    add_credentials(parser)


def add_repair(parser: argparse.ArgumentParser) -> None:
    """`mmapcache ring repair`."""
    add_verify(parser)
    add_dry_run(parser)


def add_rate(parser: argparse.ArgumentParser) -> None:
    """How fast nodes are looked through."""
    parser.add_argument(
        "--rate",
        type=float,
        default=20000.0,
        metavar="KEYS",
        help="keys a second that are looked at, 0: no limit (default: 20000)",
    )


def add_where(parser: argparse.ArgumentParser) -> None:
    """`mmapcache ring where`."""
    parser.add_argument("key", metavar="KEY", help="as UTF-8")
    add_place(parser, path=True)
    parser.add_argument("--copies", action="store_true", help="ask the holders what they have")
    add_credentials(parser)
