"""A client for the server that the options name, and what can be told of its URI beforehand."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmapcache.sync.errors import SourceAwayError, SourceRefusedError, UsageError
from mmapcache.sync.options import Options
from mmapcache.sync.redaction import public_uri, register_uri, split_uri

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo import MongoClient

    Client = MongoClient[RawBSONDocument]

_RESUMABLE = "ResumableChangeStreamError"  # an error's label
# Each for a URI that does not set it: an attempt to find a server is short because the loader's own
# backoff comes after it; a silent server is given up only when it is surely lost; and no stream
# waits for the connection that another one has, however many databases there are.
_DEFAULTS = {
    "serverSelectionTimeoutMS": 3_000,
    "connectTimeoutMS": 3_000,
    "socketTimeoutMS": 180_000,
    "maxPoolSize": 0,  # no limit
}


def read_uri(options: Options) -> str:
    """The URI, its secrets registered.

    :raises UsageError: the file that holds it cannot be read
    """
    uri = options.uri
    if uri is None:
        assert options.uri_file is not None
        try:
            uri = Path(options.uri_file).read_text("utf-8").strip()
        except OSError as error:
            raise UsageError(
                f"cannot read the URI in {options.uri_file}: {error.strerror}"
            ) from None
        except UnicodeDecodeError:
            raise UsageError(f"{options.uri_file} does not hold a URI: it is not text") from None
        register_uri(uri)
        if not uri.startswith(("mongodb://", "mongodb+srv://")):
            raise UsageError(f"{options.uri_file} must hold a URI: mongodb:// or mongodb+srv://")
    return uri


def refuse_unknown_hosts(uri: str) -> None:
    """At the start only: none of the host names exists, says the resolver (not: cannot say)."""
    scheme, _, hosts, _ = split_uri(uri)
    if scheme != "mongodb://":
        return  # mongodb+srv: PyMongo resolves it while it makes the client
    names = [_host(address) for address in hosts.split(",")]
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME:
                return
        except (OSError, UnicodeError):
            return
        else:
            return
    raise SourceRefusedError(f"no such host: {', '.join(names)}")


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return "localhost" if "%2f" in address.lower() else address.partition(":")[0]


def make_client(uri: str, options: Options, broken: Callable[[str], None]) -> Client:
    """A client that has not connected yet.

    :param broken: told what breaks a change stream's connection, also when PyMongo goes on by
        itself; any thread
    """
    from bson.raw_bson import RawBSONDocument
    from pymongo import MongoClient
    from pymongo.errors import ConfigurationError, InvalidURI

    given = uri.lower()
    settings: dict[str, Any] = {
        key: value for key, value in _DEFAULTS.items() if key.lower() + "=" not in given
    }
    selection = "serverSelectionTimeoutMS"
    if options.once and selection in settings:
        settings[selection] = min(settings[selection], max(100, int(options.timeout * 300)))
    if options.once and "socketTimeoutMS" in settings:
        settings["socketTimeoutMS"] = max(60_000, int(options.timeout * 1000))
    try:
        return MongoClient(
            uri,
            document_class=RawBSONDocument,
            appname="mmapcache",
            event_listeners=[_listener(broken)],
            **settings,
        )
    except (InvalidURI, ValueError) as error:
        # PyMongo's text may quote a piece of a password that was not escaped.
        reason = str(error) if "@" not in uri else "user name and password must be percent-encoded"
        raise SourceRefusedError(f"the URI is not valid: {reason}") from None
    except ConfigurationError as error:
        if "does not exist" in str(error) or "srv" not in given:
            raise SourceRefusedError(f"{public_uri(uri)}: {error}") from None
        raise SourceAwayError(f"{public_uri(uri)}: {error}") from None


def _listener(broken: Callable[[str], None]) -> Any:
    from pymongo.monitoring import CommandListener

    class Breaks(CommandListener):
        """Sees a cursor's connection break, or its server forget it or step down: PyMongo opens a
        change stream again once, and says nothing. What it raises is counted elsewhere."""

        def started(self, event: Any) -> None: ...

        def succeeded(self, event: Any) -> None: ...

        def failed(self, event: Any) -> None:
            if event.command_name != "getMore":
                return
            failure = event.failure
            if "code" not in failure:
                name = str(failure.get("errtype", "_"))
                # Some of PyMongo's names are its own business.
                broken("AutoReconnect" if name.startswith("_") else name)
            elif failure["code"] == 43 or _RESUMABLE in failure.get("errorLabels", ()):
                broken(str(failure["code"]))

    return Breaks()
