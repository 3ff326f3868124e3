"""What the commands and the agent share: how nodes are reached, and where the ring is read."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmapcache.cli.output import CommandError, UsageError, owner_of
from mmapcache.ring.connecting import Settings
from mmapcache.ring.link import Links, RefusedError
from mmapcache.ring.published import Published
from mmapcache.ring.record import Member, Record, RecordError
from mmapcache.ring.wire import Lost
from mmapcache.ring.zookeeper import ZooKeeper, parse_place

PATIENCE = 1.0  # seconds that a node is waited for
_CONNECT = 10.0  # seconds that ZooKeeper is waited for


def settings_of(args: argparse.Namespace, timeout: float = PATIENCE) -> Settings:
    """
    :raises UsageError: the options do not go together
    :raises OSError: a file cannot be read
    """
    given = {
        "ssl_ca_certs": args.tls_ca,
        "ssl_certfile": args.tls_cert,
        "ssl_keyfile": args.tls_key,
    }
    ssl = {name: value for name, value in given.items() if value is not None}
    if ssl and not args.tls:
        raise UsageError("--tls-ca, --tls-cert and --tls-key are for --tls, which was not given")
    for name in ssl.values():
        Path(name).open("rb").close()  # redis-py would not say which file it is
    password = None
    if args.password_file is not None:
        with Path(args.password_file).open(encoding="utf-8") as file:
            password = file.readline().rstrip("\r\n")
    return Settings(timeout, args.username, password, ssl if args.tls else None)


@contextlib.contextmanager
def zookeeper_of(args: argparse.Namespace) -> Iterator[ZooKeeper]:
    """A session, connected.

    :raises CommandError: it cannot be reached
    """
    try:
        place = parse_place(args.zookeeper)
    except RecordError as error:
        raise UsageError(str(error)) from None
    zookeeper = ZooKeeper(place)
    zookeeper.start()
    try:
        if not zookeeper.wait(_CONNECT):
            raise CommandError(f"ZooKeeper at {place.hosts} does not answer within {_CONNECT:g} s")
        yield zookeeper
    finally:
        zookeeper.stop()


def read_ring(zookeeper: ZooKeeper) -> tuple[Record, dict[str, Member]]:
    """The ring as it is now.

    :raises CommandError: there is none, or it cannot be read
    """
    end = time.monotonic() + _CONNECT
    while not zookeeper.refresh():
        if time.monotonic() > end:
            raise CommandError(f"ZooKeeper at {zookeeper.place.hosts} does not answer")
        time.sleep(0.05)
    seen = zookeeper.seen
    if "ring" in seen.wrong or seen.record is None:
        raise CommandError(seen.wrong.get("ring", "there is no ring"))
    return seen.record, dict(seen.members)


def ring_of(args: argparse.Namespace) -> tuple[Record, dict[str, Member], float | None]:
    """The ring and its age in seconds, from an agent's file or from ZooKeeper.

    :raises UsageError: not exactly one of the two is given
    """
    if (args.path is None) == (args.zookeeper is None):
        raise UsageError("give either PATH, an agent's file, or --zookeeper")
    if args.path is None:
        with zookeeper_of(args) as zookeeper:
            return *read_ring(zookeeper), 0.0
    published = Published(args.path, owner=owner_of(args))
    try:
        _, record, members = published.read()
        return record, dict(members), published.age()
    finally:
        published.close()


def named(node: str, trouble: str) -> str:
    """What is wrong with a node, with its name once."""
    known = trouble.startswith((f"{node}: ", f"{node} at "))
    return trouble if known else f"{node}: {trouble}"


def greetings(
    record: Record, members: Mapping[str, Member], links: Links
) -> dict[str, dict[str, object] | str]:
    """What each registered node says of itself, or why it does not."""
    found: dict[str, dict[str, object] | str] = {}
    for name, member in sorted(members.items()):
        try:
            found[name] = links.to(name, member.address).hello()
        except (Lost, RefusedError) as error:
            found[name] = str(error)
    for name in record.everybody:
        found.setdefault(name, "it is not registered")
    return found
