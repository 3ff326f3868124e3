"""Whole collections from MongoDB, one cursor each, as the raw batches that the server sent; and
what follows them, from the position that was noted before.

What PyMongo raises leaves this package as SourceAwayError (try again) or as SourceRefusedError (the
answer will not change by asking again).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import mmapcache
from mmapcache.sync.errors import (
    PositionLostError,
    SourceAwayError,
    SourceRefusedError,
    UnfollowableError,
    UsageError,
)
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.mongo import element, moment
from mmapcache.sync.mongo.client import make_client, read_uri, refuse_unknown_hosts
from mmapcache.sync.mongo.errors import BAD_QUERIES, CREDENTIALS, UNAUTHORIZED, translated
from mmapcache.sync.mongo.followable import obstacle
from mmapcache.sync.mongo.follower import MongoFollower
from mmapcache.sync.mongo.hold import Hold
from mmapcache.sync.mongo.lookup import Lookup
from mmapcache.sync.mongo.query import make_query
from mmapcache.sync.mongo.stream import Stream
from mmapcache.sync.options import CollectionOptions, Options
from mmapcache.sync.position import Position
from mmapcache.sync.redaction import public_uri
from mmapcache.sync.source import Feed, Which

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from mmapcache.sync.mongo.client import Client

MISSING = "pymongo is not installed: pip install 'mmapcache[mongodb]'"
_GOODBYE = 1.0  # seconds
_ASKED_BY_NAME = 1000  # collections; of more than these all of the database are asked for
_NATURAL = [("$natural", 1)]  # the hint for a collection's own order
_BAD_HINTS = BAD_QUERIES | {72, 238, 291, 303}  # not supported, no such plan


class MongoSource:
    """The collections or the database that the options name.

    :param options: what is loaded, and how
    :param shaping: what identifies what is made of it
    :raises UsageError: pymongo is missing, or a filter or projection is no Extended JSON
    """

    def __init__(self, options: Options, shaping: str = "") -> None:
        try:
            import pymongo  # noqa: F401 - here for its absence to be told at once
        except ImportError:
            raise UsageError(MISSING) from None
        self._options = options
        self._shaping = shaping
        self._client: Client | None = None
        self._uri = ""
        self._reached = False  # a server has answered in this process's life
        self._queries = {c.name: make_query(c) for c in options.collections}
        self._read: dict[str, CollectionOptions] = {}
        self._hintless: set[str] = set()  # namespaces that the server reads by an index alone
        self._identities: _ByOrigin = {}  # UUIDs of what was loaded; None: not told
        self._batch_sizes: dict[str, int] = {}  # smaller than asked for: a reply was too long
        self._session: ClientSession | None = None  # in which a load to be followed reads
        self._broken: list[str] = []
        self._polled: dict[str, str] | None = None  # None: nobody has looked yet
        self._hold = None if options.hold_while is None else Hold(options.hold_while)
        self.position: Position | None = None
        # Read now: an unreadable --uri-file is a mistake in the options, and the label needs it.
        self._where = public_uri(read_uri(options))

    @property
    def label(self) -> str:
        options = self._options
        what = options.database or ", ".join(c.origin for c in options.collections)
        return f"{self._where} {what}"

    @property
    def scope(self) -> str:
        database = self._options.database
        return "collections" if database is None else f"database {database}"

    @property
    def discovers(self) -> bool:
        return self._options.database is not None

    @property
    def identity(self) -> str:
        options = self._options
        held = str(options.hold_while)  # its stream is one more
        loaded: list[Any] = [self._where, options.database, self._shaping, held]
        for c in options.collections:
            loaded.append([c.origin, c.name, str(c.filter), str(c.projection)])
        return hashlib.sha256(json.dumps(loaded).encode()).hexdigest()[:16]

    def identify(self, document: bytes) -> bytes:
        return element.of_document(document)

    @property
    def moment(self) -> int:
        return 0 if self._session is None else moment.if_known(self._session.operation_time)

    @property
    def polled(self) -> Mapping[str, str]:
        return self._polled or {}

    def feeds(
        self,
        known: frozenset[str],
        *,
        estimate: bool,
        follow: bool = False,
        which: Which = "all",
    ) -> Iterable[Feed]:
        with translated(self._where):
            client = self._connected()
            if which != "polled":
                self._begin(client, follow=follow)
            if self._hold is not None:
                self._hold.refuse(client, self._session)
            if which == "polled":
                chosen = self._still_polled(client)
            else:
                chosen = self._all(client, known, follow=follow)
                chosen = [c for c in chosen if which == "all" or c.name not in self.polled]
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
        if self._hold is not None:
            with translated(self._where):
                self._hold.refuse(client, self._session)

    def follow(self, position: Position, inbox: Inbox, limit: int) -> MongoFollower:
        with translated(self._where):
            client = self._connected()
            if self._polled is None:  # the position was in the file
                chosen = self._asked_for(client)
                entries = _entries(client, chosen, lenient=True)
                self._polled = self._unfollowable(chosen, entries)
            streams = self._streams(client)
            if position.of != self.identity:  # the URI's file names another server since
                raise PositionLostError("bad_token", f"the position is not one of {self._where}")
            _refuse_no_tokens(position, [stream.database for stream in streams])
            lookup = Lookup(client, self._where, self._queries)
        return MongoFollower(
            streams,
            lookup,
            self._targets(),
            lambda options: self._collection(client, options),
            lambda options: self._seems_same(client, options),
            position,
            self._options.settle,
            inbox,
            limit,
            self._hold,
        )

    def _all(
        self, client: Client, known: frozenset[str], *, follow: bool
    ) -> list[CollectionOptions]:
        """The collections that there are to load; see `feeds`."""
        chosen = self._asked_for(client)
        if not self.discovers:
            if not self._reached:
                self._refuse_wrong_names(client, chosen, known)
        elif not chosen and not known and not self._options.allow_empty:
            raise SourceRefusedError(
                f"the database {self._options.database!r} has no collections: a wrong "
                "name, or nothing in it yet (--allow-empty accepts that)"
            )
        self._reached = True
        entries = _entries(client, chosen, lenient=True)
        self._identities = _uuids(entries)
        if follow:
            self._polled = self._unfollowable(chosen, entries)
        return chosen

    def _asked_for(self, client: Client) -> list[CollectionOptions]:
        database = self._options.database
        if database is None:
            return list(self._options.collections)
        return self._discovered(client, database)

    def _still_polled(self, client: Client) -> list[CollectionOptions]:
        """Those of the polled collections that are there, or were asked for by name.

        :raises PositionLostError: one can be followed now: it was made anew
        """
        own = {c.name: c for c in self._options.collections}
        database = self._options.database or ""
        chosen = [own.get(name) or self._defaults(database, name) for name in self.polled]
        entries = _entries(client, chosen, lenient=not self.discovers)
        self._identities.update(_uuids(entries))
        for c in chosen:
            entry = entries.get((c.database, c.collection))
            if entry is not None and not obstacle(self._queries.get(c.name, {}), entry):
                raise PositionLostError("dropped", f"{c.origin} was made anew: it can be followed")
        if not self.discovers:
            return chosen
        return [c for c in chosen if (c.database, c.collection) in entries]

    def _unfollowable(self, chosen: list[CollectionOptions], entries: _ByOrigin) -> dict[str, str]:
        """Why single collections are to be polled, by name.

        :raises UnfollowableError: nothing is left to be followed, or all were to be
        """
        told = {}
        for c in chosen:
            entry = entries.get((c.database, c.collection))
            why = obstacle(self._queries.get(c.name, {}), entry)
            if why:
                told[c.name] = f"{c.origin} cannot be followed: {why}"
        if told and (len(told) == len(chosen) or self._options.follow == "stream"):
            raise UnfollowableError("; ".join(told.values()))
        return told

    def _begin(self, client: Client, *, follow: bool) -> None:
        """Notes the position before anything is read, and sees to it that nothing older is."""
        self.position = None
        session, self._session = self._session, None
        if session is not None:
            session.end_session()
        if not follow:
            return
        tokens = {}
        session = client.start_session(causal_consistency=True)
        at = 0.0
        for stream in self._streams(client):
            tokens[stream.database] = stream.begin()
            cluster, operation = stream.session_times
            session.advance_cluster_time(cluster)
            session.advance_operation_time(operation)
            at = max(at, stream.server_time)
        self._session = session
        self.position = Position(self.identity, at, tokens)

    def _streams(self, client: Client) -> list[Stream]:
        """One for each database."""
        names: dict[str, set[str] | None] = {}
        if self._options.database is not None:
            names[self._options.database] = None
        chosen = [(c.database, c.collection) for c in self._options.collections]
        if self._hold is not None:
            chosen.append((self._hold.database, self._hold.collection))
        for database, collection in chosen:
            wanted = names.setdefault(database, set())
            if wanted is not None:
                wanted.add(collection)
        return [Stream(client, self._where, *item) for item in sorted(names.items())]

    def _targets(self) -> Callable[[str, str], Sequence[CollectionOptions]]:
        """What is loaded from a namespace; of a whole database also what was not there before."""
        chosen: dict[tuple[str, str], list[CollectionOptions]] = {}
        for c in self._options.collections:
            some = chosen.setdefault((c.database, c.collection), [])
            if c.name not in self.polled:
                some.append(c)

        def targets(database: str, collection: str) -> Sequence[CollectionOptions]:
            found = chosen.get((database, collection))
            if found is None:
                found = []
                if self._options.database == database and collection not in self.polled:
                    found = [self._defaults(database, collection)]
                chosen[database, collection] = found
            return found

        return targets

    def _defaults(self, database: str, collection: str) -> CollectionOptions:
        return replace(
            self._options.defaults, database=database, collection=collection, name=collection
        )

    def buffers(self, feed: Feed) -> Iterator[bytes]:
        options = self._read[feed.name]
        query = self._queries.get(options.name, {})
        size = self._batch_sizes.get(options.name, options.batch_size)
        with translated(self._where), self._smaller_after_a_long_reply(options, size):
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
            yield from _replies(collection, size, query, self._session)
            return
        replies = _replies(collection, size, query | {"hint": _NATURAL}, self._session)
        try:
            first = next(replies)
        except OperationFailure as error:
            if error.code not in _BAD_HINTS:
                raise
            # A view's pipeline or another vendor's server may take no such hint; or else the query
            # itself is wrong, and the second answer says so.
            replies = _replies(collection, size, query, self._session)
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
        known = (options.database, options.collection) in self._identities
        if known and not self._is_same(self._connected(), options):
            raise SourceAwayError(
                f"{options.origin} was dropped or made anew while it was read, so perhaps not read "
                "whole"
            )

    def _is_same(self, client: Client, options: CollectionOptions) -> bool:
        """Whether a collection is there, and is the one that was loaded, if that was told."""
        origin = (options.database, options.collection)
        now = _uuids(_entries(client, [options], lenient=False))
        return origin in now and self._identities.get(origin, now[origin]) == now[origin]

    def _seems_same(self, client: Client, options: CollectionOptions) -> bool:
        """The same for a follower; True if nobody may ask."""
        from pymongo.errors import OperationFailure

        with translated(self._where):
            try:
                return self._is_same(client, options)
            except OperationFailure as error:
                if error.code != UNAUTHORIZED:
                    raise
                return True

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

    def answers(self) -> bool:
        from pymongo.errors import OperationFailure, PyMongoError

        client, options = self._client, self._options
        if client is None:
            return False
        database = options.database or options.collections[0].database
        read = next(iter(self._read.values()), None)
        preference = None if read is None else self._collection(client, read).read_preference
        try:
            # Unlike a ping it takes the locks that a read takes.
            client[database].command(
                "listCollections",
                nameOnly=True,
                filter={"name": "mmapcache"},
                read_preference=preference,
            )
        except OperationFailure:  # not to this user, but it answers
            return True
        except PyMongoError:
            return False
        return True

    def broken(self) -> list[str]:
        broken: list[str] = []
        while self._broken:
            broken.append(self._broken.pop())
        return broken

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            # It says goodbye to the server, which may be the one that hangs: wait only a little.
            goodbye = threading.Thread(target=client.close, daemon=True)
            goodbye.start()
            goodbye.join(_GOODBYE)

    def _connected(self) -> Client:
        """The client; made anew when --uri-file has another content, as after a rotation."""
        uri = read_uri(self._options)
        if self._client is not None and uri == self._uri:
            return self._client
        self.close()
        if not self._reached:
            refuse_unknown_hosts(uri)
        self._client = make_client(uri, self._options, self._broken.append)
        self._uri, self._where = uri, public_uri(uri)
        return self._client

    def _collection(
        self, client: Client, options: CollectionOptions
    ) -> Collection[RawBSONDocument]:
        from pymongo.read_concern import ReadConcern
        from pymongo.read_preferences import make_read_preference, read_pref_mode_from_name

        preference = None
        if options.read_preference is not None:
            mode = read_pref_mode_from_name(options.read_preference)
            preference = make_read_preference(mode, None)
        # A load that is followed reads nothing that could be rolled back.
        concern = None if self._session is None else ReadConcern("majority")
        return client[options.database].get_collection(
            options.collection, read_preference=preference, read_concern=concern
        )

    def _discovered(self, client: Client, database: str) -> list[CollectionOptions]:
        """All collections of the database, with the settings of those that have some.

        Neither system collections nor views: a view's name can still be given by --collection.
        """
        own = {c.collection: c for c in self._options.collections}
        listed = client[database].list_collections(nameOnly=True, authorizedCollections=True)
        found = []
        for entry in listed:
            name = entry["name"]
            if name.startswith("system.") or entry.get("type") == "view":
                continue
            found.append(own.get(name) or self._defaults(database, name))
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
                if error.code == UNAUTHORIZED:  # it may be read, but not be asked for names
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


def _refuse_no_tokens(position: Position, databases: Iterable[str]) -> None:
    """A token that is empty would begin at the server's present, as if nothing had been missed.

    :raises PositionLostError: a database has none, or one that is no BSON
    """
    try:
        if all(mmapcache.Document(position.tokens[name]).to_dict() for name in databases):
            return
    except (KeyError, mmapcache.MmapCacheError):
        pass
    raise PositionLostError("bad_token", "the position in the file makes no sense")


def _replies(
    collection: Collection[RawBSONDocument],
    size: int,
    query: Mapping[str, Any],
    session: ClientSession | None,
) -> Iterator[tuple[bytes, bool]]:
    """What one cursor gives, at least one buffer, and whether the server has more to give."""
    with collection.find_raw_batches(batch_size=size, session=session, **query) as cursor:
        batches = cast("Iterator[bytes]", cursor)  # mistyped in PyMongo
        yield next(batches, b""), cursor.alive
        for buffer in batches:
            yield buffer, cursor.alive


def _is_by_id(query: Mapping[str, Any]) -> bool:
    """Whether no index but that of `_id`, in which nothing moves, can be of use to the query."""
    return all(field == "_id" for field in query.get("filter", ()))


_ByOrigin = dict[tuple[str, str], Any]  # by database and collection


def _uuids(entries: _ByOrigin) -> _ByOrigin:
    return {origin: (entry.get("info") or {}).get("uuid") for origin, entry in entries.items()}


def _entries(client: Client, chosen: list[CollectionOptions], *, lenient: bool) -> _ByOrigin:
    """Which of the collections there are, and what the server lists of them."""
    from pymongo.errors import OperationFailure

    found: _ByOrigin = {}
    for database in sorted({c.database for c in chosen}):
        names = {c.collection for c in chosen if c.database == database}
        only = {"name": {"$in": sorted(names)}} if len(names) <= _ASKED_BY_NAME else {}
        try:
            entries = list(client[database].list_collections(filter=only))
        except OperationFailure as error:
            if not lenient or error.code in CREDENTIALS - {UNAUTHORIZED}:
                raise
            continue  # it may be read, but not be asked for: nothing to compare
        for entry in entries:
            if entry["name"] in names:
                found[database, entry["name"]] = entry
    return found
