"""`mmapcache serve`: a status page, probes and metrics of a file, whatever its loader does."""

from __future__ import annotations

import argparse
import signal

from mmapcache.cli import streams
from mmapcache.cli.output import (
    DONE,
    CommandError,
    UsageError,
    add_owner,
    complain,
    emit,
    owner_of,
    refuse_uri,
)

_EPILOG = """\
/             the status page
/healthz      200 while this process serves; ?max_age=S: 503 when the data is older
/readyz       200 when there is data, not older than --max-age; else 503
/metrics      for Prometheus
/status.json  everything that the page shows
/events       the status as it changes (server-sent events)

Exit status: 0 stopped by SIGTERM or SIGINT, 1 could not (one sentence says why), 2 usage."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("path", help="the cache file; it may come later")
    parser.add_argument(
        "--http",
        required=True,
        metavar="ADDR:PORT|unix:PATH",
        help="where to listen, such as 127.0.0.1:9099; port 0: any",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="a secret in its first line that every request must have, as Authorization: Bearer or "
        "?token=; needed for an address that other hosts can reach",
    )
    parser.add_argument(
        "--max-age", type=float, metavar="S", help="/readyz: how old the data may be, in seconds"
    )
    add_owner(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until a signal ends it."""
    from mmapcache.serve.address import AddressError, parse, read_token

    refuse_uri(args.path, "PATH")
    if args.max_age is not None and not args.max_age >= 0:
        raise UsageError("--max-age must be 0 or more seconds")
    try:
        address = parse(args.http)
        token = read_token(args.token_file, address)
    except AddressError as error:
        raise UsageError(str(error)) from None
    try:
        from mmapcache.serve.running import Pages
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise CommandError(NEEDED) from None
    pages = Pages(
        args.path,
        address,
        token=token,
        max_age=args.max_age,
        owner=owner_of(args),
        say=lambda sentence: complain("serve", sentence),
        tell=lambda sentence: None,
    )
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        where = pages.open()
    except OSError as error:
        raise CommandError(f"{address.text}: {error.strerror or error}") from None
    emit(f"serving {args.path} at {where}")
    streams.flush()
    pages.start()
    signal.sigwait(ends)
    pages.stop()
    return DONE


NEEDED = "this needs prometheus_client: pip install 'mmapcache[serve]'"
