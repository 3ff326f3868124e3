"""Whole collections from MongoDB, one cursor each, as the raw batches that the server sent.

The only module that imports pymongo. What PyMongo raises leaves it as SourceAwayError (try
again) or as SourceRefusedError (the answer will not change by asking again).
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmapcache.sync.errors import SourceAwayError, SourceRefusedError, UsageError
from mmapcache.sync.logs import log
from mmapcache.sync.options import CollectionOptions, Options
from mmapcache.sync.redaction import public_uri, register_uri, split_uri
from mmapcache.sync.source import Feed

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo import MongoClient
    from pymongo.collection import Collection

    Client = MongoClient[RawBSONDocument]

MISSING = "pymongo is not installed: pip install 'mmapcache[mongodb]'"
# Milliseconds, each for a URI that does not set it: an attempt to find a server is short because
# the loader's own backoff comes after it; a silent server is given up only when it is surely lost.
_TIMEOUTS = {
    "serverSelectionTimeoutMS": 3_000,
    "connectTimeoutMS": 3_000,
    "socketTimeoutMS": 180_000,
}
_GOODBYE = 1.0  # seconds
_ASKED_BY_NAME = 1000  # collections; of more than these all of the database are asked for
_GONE = object()
_CREDENTIALS = frozenset({11, 13, 18, 334, 8000})  # user not found, unauthorized, …, Atlas's own
_BAD_NAMES = frozenset({26, 73, 166})
_BAD_QUERIES = frozenset({2, 9, 14, 40, 59, 115, 292, 40324, 40415}) | frozenset(
    range(31249, 31256)  # what is wrong with a projection
)
_NATURAL = [("$natural", 1)]  # the hint for a collection's own order
_BAD_HINTS = _BAD_QUERIES | {72, 238, 291, 303}  # not supported, no such plan


class MongoSource:
    """The collections or the database that the options name.

    :raises UsageError: pymongo is missing, or a filter or projection is no Extended JSON
    """

    def __init__(self, options: Options) -> None:
        try:
            import pymongo  # noqa: F401 - here for its absence to be told at once
        except ImportError:
            raise UsageError(MISSING) from None
        self._options = options
        self._client: Client | None = None
        self._uri = ""
        self._reached = False  # a server has answered in this process's life
        self._queries = {c.name: _query(c) for c in options.collections}
        self._read: dict[str, CollectionOptions] = {}
        self._hintless: set[str] = set()  # namespaces that the server reads by an index alone
        self._identities: _Identities = {}
        self._batch_sizes: dict[str, int] = {}  # smaller than asked for: a reply was too long
        # Read now: an unreadable --uri-file is a mistake in the options, and the label needs it.
        self._label = public_uri(_read_uri(options))

    @property
    def label(self) -> str:
        options = self._options
        what = options.database or ", ".join(c.origin for c in options.collections)
        return f"{self._label} {what}"

    @property
    def scope(self) -> str:
        database = self._options.database
        return "collections" if database is None else f"database {database}"

    @property
    def discovers(self) -> bool:
        return self._options.database is not None

    def feeds(self, known: frozenset[str], *, estimate: bool) -> Iterable[Feed]:
        with _translated(self):
            client = self._connected()
            if self._options.database is None:
                chosen = list(self._options.collections)
                if not self._reached:
                    self._refuse_wrong_names(client, chosen, known)
            else:
                chosen = self._discovered(client, self._options.database)
                if not chosen and not known and not self._options.allow_empty:
                    raise SourceRefusedError(
                        f"the database {self._options.database!r} has no collections: a wrong "
                        "name, or nothing in it yet (--allow-empty accepts that)"
                    )
            self._reached = True
            self._identities = _identities(client, chosen, lenient=True)
        from pymongo.read_concern import ReadConcern

        self._read = {c.name: c for c in chosen}
        for collection in chosen:
            expected = None
            if estimate and collection.filter is None:
                with contextlib.suppress(Exception):
                    counted = self._collection(client, collection)
                    # `count` knows no snapshot, which the URI may ask for.
                    counted = counted.with_options(read_concern=ReadConcern())
                    expected = counted.estimated_document_count()
            yield Feed(
                collection.name,
                collection.origin,
                collection.allow_empty,
                expected,
            )

    def buffers(self, feed: Feed) -> Iterator[bytes]:
        options = self._read[feed.name]
        query = self._queries.get(options.name, {})
        size = self._batch_sizes.get(options.name, options.batch_size)
        with _translated(self), self._smaller_after_a_long_reply(options, size):
            collection = self._collection(self._connected(), options)
            several = None
            for buffer, more in self._batches(collection, options, query, size):
                several = more if several is None else True
                if buffer:
                    yield buffer
            if several:
                self._refuse_another(options)

    def _batches(
        self,
        collection: Collection[RawBSONDocument],
        options: CollectionOptions,
        query: dict[str, Any],
        size: int,
    ) -> Iterator[tuple[bytes, bool]]:
        """What a cursor gives, in the collection's own order where an index could lead it astray,
        and whether the server has more to give.

        A filter makes the server follow an index, and a document whose indexed field changes
        meanwhile moves in it: from ahead of the cursor to behind it, and then it looks deleted. The
        collection's own order does not change with a document's content.
        """
        from pymongo.errors import OperationFailure

        straight = options.follow_index or _is_by_id(query) or options.origin in self._hintless
        if straight or collection.read_concern.level == "snapshot":
            yield from _replies(collection, size, query)
            return
        replies = _replies(collection, size, query | {"hint": _NATURAL})
        try:
            first = next(replies)
        except OperationFailure as error:
            if error.code not in _BAD_HINTS:
                raise
            # A view's pipeline or another vendor's server may take no such hint; or else the query
            # itself is wrong, and the second answer says so.
            replies = _replies(collection, size, query)
            first = next(replies)
            self._hintless.add(options.origin)
            log.warning(
                "the server does not read %s in its own order, as a filter needs: a document whose "
                "filtered fields change during a load may be missing until the next",
                options.origin,
            )
        yield first
        yield from replies

    def _refuse_another(self, options: CollectionOptions) -> None:
        """A collection that was dropped while it was read: some servers end its cursor early and
        without an error, so that half of it looks like the whole. One reply alone is whole."""
        origin = (options.database, options.collection)
        if origin in self._identities:
            now = _identities(self._connected(), [options], lenient=False)
            if now.get(origin, _GONE) != self._identities[origin]:
                raise SourceAwayError(
                    f"{options.origin} was dropped or made anew while it was read, so perhaps not "
                    "read whole"
                )

    @contextlib.contextmanager
    def _smaller_after_a_long_reply(self, options: CollectionOptions, size: int) -> Iterator[None]:
        """MongoDB sends at most 16 MiB a batch. Other servers send as many documents as they are
        asked for, and PyMongo refuses a reply of more than 48 MB: the same again would never do."""
        from pymongo.errors import ProtocolError

        try:
            yield
        except ProtocolError as error:
            if "max message size" not in str(error):
                raise
            smaller = max(1, size // 4)
            self._batch_sizes[options.name] = smaller
            raise SourceAwayError(
                f"{options.origin}: the server's reply to a batch of {size:,} documents is longer "
                f"than any client takes: the next try asks for {smaller:,} (--batch-size "
                f"{smaller} or less avoids this)"
            ) from None

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            # It says goodbye to the server, which may be the one that hangs: wait only a little.
            goodbye = threading.Thread(target=client.close, daemon=True)
            goodbye.start()
            goodbye.join(_GOODBYE)

    def _connected(self) -> Client:
        """The client; made anew when --uri-file has another content, as after a rotation."""
        uri = _read_uri(self._options)
        if self._client is not None and uri == self._uri:
            return self._client
        self.close()
        if not self._reached:
            _refuse_unknown_hosts(uri)
        self._client = _client(uri, self._options)
        self._uri, self._label = uri, public_uri(uri)
        return self._client

    def _collection(
        self, client: Client, options: CollectionOptions
    ) -> Collection[RawBSONDocument]:
        from pymongo.read_preferences import make_read_preference, read_pref_mode_from_name

        preference = None
        if options.read_preference is not None:
            mode = read_pref_mode_from_name(options.read_preference)
            preference = make_read_preference(mode, None)
        return client[options.database].get_collection(
            options.collection, read_preference=preference
        )

    def _discovered(self, client: Client, database: str) -> list[CollectionOptions]:
        """All collections of the database, with the settings of those that have some.

        Neither system collections nor views: a view's name can still be given by --collection.
        """
        own = {c.collection: c for c in self._options.collections}
        listed = client[database].list_collections(nameOnly=True, authorizedCollections=True)
        defaults = self._options.defaults
        found = []
        for entry in listed:
            name = entry["name"]
            if name.startswith("system.") or entry.get("type") == "view":
                continue
            found.append(
                own.get(name) or replace(defaults, database=database, collection=name, name=name)
            )
        found.sort(key=lambda c: c.name)
        names = [c.name for c in found]
        twice = next((a for a, b in itertools.pairwise(names) if a == b), None)
        if twice is not None:
            raise SourceRefusedError(f"two collections of {database} would both be named {twice!r}")
        return found

    def _refuse_wrong_names(
        self, client: Client, chosen: list[CollectionOptions], known: frozenset[str]
    ) -> None:
        """A collection that is neither there nor known from before is a wrong name."""
        from pymongo.errors import OperationFailure

        for database in {c.database for c in chosen}:
            try:
                existing = client[database].list_collection_names(authorizedCollections=True)
            except OperationFailure as error:
                if error.code == 13:  # may read what it was told to, but not ask for names
                    continue
                raise
            for c in chosen:
                if c.database != database or c.name in known or c.allow_empty:
                    continue
                if c.collection not in existing:
                    there = ", ".join(sorted(existing)[:10]) or "none"
                    raise SourceRefusedError(
                        f"there is no collection {c.origin!r}: a wrong name, or nothing in it yet "
                        f"(--allow-empty accepts that); collections of {database!r}: {there}"
                    )


def _replies(
    collection: Collection[RawBSONDocument], size: int, query: Mapping[str, Any]
) -> Iterator[tuple[bytes, bool]]:
    """What one cursor gives, at least one buffer, and whether the server has more to give."""
    with collection.find_raw_batches(batch_size=size, **query) as cursor:
        batches = cast("Iterator[bytes]", cursor)  # mistyped in PyMongo
        yield next(batches, b""), cursor.alive
        for buffer in batches:
            yield buffer, cursor.alive


def _is_by_id(query: Mapping[str, Any]) -> bool:
    """Whether no index but that of `_id`, in which nothing moves, can be of use to the query."""
    return all(field == "_id" for field in query.get("filter", ()))


_Identities = dict[tuple[str, str], Any]  # (database, collection) -> uuid, None if unknown


def _identities(client: Client, chosen: list[CollectionOptions], *, lenient: bool) -> _Identities:
    """Which of the collections there are, with their UUIDs where the server tells them."""
    from pymongo.errors import OperationFailure

    found: _Identities = {}
    for database in sorted({c.database for c in chosen}):
        names = {c.collection for c in chosen if c.database == database}
        only = {"name": {"$in": sorted(names)}} if len(names) <= _ASKED_BY_NAME else {}
        try:
            entries = list(client[database].list_collections(filter=only))
        except OperationFailure as error:
            if not lenient or error.code in _CREDENTIALS - {13}:
                raise
            continue  # it may be read, but not be asked for: nothing to compare
        for entry in entries:
            if entry["name"] in names:
                info = entry.get("info") or {}
                found[database, entry["name"]] = info.get("uuid")
    return found


def _query(options: CollectionOptions) -> dict[str, Any]:
    """find's filter and projection, in BSON's types."""
    import bson
    from bson.errors import BSONError

    query: dict[str, Any] = {}
    for key in ("filter", "projection"):
        value = getattr(options, key)
        if value is None:
            continue
        try:
            query[key] = _from_extended_json(value)
            bson.encode(query[key])  # what has no BSON is told now, not at each load
        except (BSONError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise UsageError(f"{key} of {options.name}: {error}") from None
    if "_id" in query.get("projection", {}) and not query["projection"]["_id"]:
        raise UsageError(f"projection of {options.name}: _id is the key and cannot be left out")
    return query


def _from_extended_json(value: Mapping[str, Any] | str) -> dict[str, Any]:
    from bson import json_util

    if isinstance(value, str):
        parsed: dict[str, Any] = json_util.loads(value)
        return parsed

    def convert(item: Any) -> Any:
        if isinstance(item, list):
            return [convert(element) for element in item]
        if isinstance(item, Mapping):
            return json_util.object_hook({k: convert(v) for k, v in item.items()})
        return item  # TOML's own dates and numbers are BSON's too

    return {key: convert(item) for key, item in value.items()}


def _read_uri(options: Options) -> str:
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


def _refuse_unknown_hosts(uri: str) -> None:
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


def _client(uri: str, options: Options) -> Client:
    """A client that has not connected yet."""
    from bson.raw_bson import RawBSONDocument
    from pymongo import MongoClient
    from pymongo.errors import ConfigurationError, InvalidURI

    given = uri.lower()
    timeouts: dict[str, Any] = {
        key: ms for key, ms in _TIMEOUTS.items() if key.lower() + "=" not in given
    }
    selection = "serverSelectionTimeoutMS"
    if options.once and selection in timeouts:
        timeouts[selection] = min(timeouts[selection], max(100, int(options.timeout * 300)))
    if options.once and "socketTimeoutMS" in timeouts:
        timeouts["socketTimeoutMS"] = max(60_000, int(options.timeout * 1000))
    try:
        return MongoClient(uri, document_class=RawBSONDocument, appname="mmapcache", **timeouts)
    except (InvalidURI, ValueError) as error:
        # PyMongo's text may quote a piece of a password that was not escaped.
        reason = str(error) if "@" not in uri else "user name and password must be percent-encoded"
        raise SourceRefusedError(f"the URI is not valid: {reason}") from None
    except ConfigurationError as error:
        if "does not exist" in str(error) or "srv" not in given:
            raise SourceRefusedError(f"{public_uri(uri)}: {error}") from None
        raise SourceAwayError(f"{public_uri(uri)}: {error}") from None


@contextlib.contextmanager
def _translated(source: MongoSource) -> Iterator[None]:
    """Turns what PyMongo raises into SourceAwayError or SourceRefusedError, with a sentence."""
    from bson.errors import BSONError
    from pymongo import errors

    where = source.label.partition(" ")[0]
    try:
        yield
    except UsageError as error:  # the URI's file has become unreadable since the start
        raise SourceRefusedError(str(error)) from None
    except errors.OperationFailure as error:
        raise _refusal(error, where) from None
    except errors.ServerSelectionTimeoutError as error:
        text = str(error).partition(" (configured timeouts")[0].partition(", Timeout:")[0]
        if "CERTIFICATE_VERIFY_FAILED" in text:
            raise SourceRefusedError(
                f"{where}: the server's certificate is refused: {text}"
            ) from None
        raise SourceAwayError(f"no MongoDB server answers at {where}: {text}") from None
    except (errors.ConfigurationError, errors.InvalidName) as error:
        raise SourceRefusedError(f"{where}: {error}") from None
    except (errors.PyMongoError, BSONError, OSError) as error:
        text = str(error).partition(" (configured timeouts")[0] or type(error).__name__
        raise SourceAwayError(f"{where}: {text}") from None


def _refusal(error: Any, where: str) -> Exception:
    text = str(error).partition(", full error:")[0]
    if error.code in _CREDENTIALS:
        if error.code == 13:
            return SourceRefusedError(f"{where}: the user may not read this: {text}")
        return SourceRefusedError(
            f"{where}: wrong credentials (user, password or authSource): {text}"
        )
    if error.code in _BAD_NAMES:
        return SourceRefusedError(f"{where}: wrong name: {text}")
    if error.code in _BAD_QUERIES:
        return SourceRefusedError(f"{where}: the server does not accept the query: {text}")
    return SourceAwayError(f"{where}: {text} (code {error.code})")
