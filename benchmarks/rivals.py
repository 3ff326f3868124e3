"""The rivals of the field in one table: what else people take to share data among workers.

    python -m benchmarks --only peers

Each gets the same documents of 300 bytes, gives back bytes, and is used as its documentation says
is fast: servers by a Unix socket, loads in pipelines, nothing synced to a disk, files on tmpfs. One
that is not installed is a line that says so. What is measured: a read of one of 100 keys, a read of
any key, the load of all, and one update that others see.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import mmapcache
from benchmarks import data, peers, rival_servers
from benchmarks.harness import Context, Figures, Row, Timed, interleave, row_of, seconds, timed

HOT = 100
Pairs = list[tuple[str, bytes]]


class Rival(Protocol):
    """What is asked of each."""

    name: str
    reads: int
    """How many reads make a sample."""

    def clear(self) -> None:
        """Hold nothing."""

    def load(self, pairs: Pairs) -> None:
        """Take these documents in."""

    def timing(self, expression: str, keys: list[str]) -> Timed:
        """A measurement of `get(key)`, or of `put(key, document)`, for the keys."""

    def close(self) -> None:
        """End servers and remove files."""


class Local:
    """A store that this process reads by itself."""

    reads = 100_000
    get: Callable[[Any], Any]
    put: Callable[[Any, bytes], object]
    _reading: Any = None
    """The transaction of all reads, where there is such a thing."""

    @staticmethod
    def key(key: str) -> Any:
        """The key as the store wants it."""
        return key.encode()

    def _rest(self) -> None:
        """Keep no transaction open that what is written would have to go round."""
        if self._reading is not None:
            self._reading.abort()
            self._reading = None

    def timing(self, expression: str, keys: list[str]) -> Timed:
        """A loop over the keys."""
        prepared = [self.key(key) for key in keys]
        names = (
            {"get": self.get}
            if expression == "get(key)"
            else {"put": self.put, "of": rival_servers.newer()}
        )
        return timed(expression, lambda: prepared, **names)


class Ours(Local):
    """mmapcache, as bytes."""

    name = "ours"

    def __init__(self, context: Context) -> None:
        """Open a new file."""
        self._path = str(context.path("rival"))
        self._writer = mmapcache.Writer(self._path, max_size=256 << 20)
        self._writer.put("settings", "first", data.document(0))
        self._cache = mmapcache.open(self._path)
        settings = self._cache.collection("settings")
        self.get = settings.get_raw
        self.put = lambda key, document: self._writer.put("settings", key, document)

    @staticmethod
    def key(key: str) -> Any:
        """Text."""
        return key

    def clear(self) -> None:
        """Drop the collection."""
        with self._writer.batch() as batch:
            batch.drop("settings")

    def load(self, pairs: Pairs) -> None:
        """In one commit."""
        with self._writer.batch() as batch:
            for key, document in pairs:
                batch.put("settings", key, document)

    def close(self) -> None:
        """Close both."""
        self._cache.close()
        self._writer.close()


class Lmdb(Local):
    """py-lmdb; a reader keeps its transaction, as long as nothing is written."""

    name = "py-lmdb"

    def __init__(self, context: Context) -> None:
        """Open a new environment."""
        self._store = peers.Lmdb(context.path("rival.lmdb"), 256 << 20)
        self.put = self._put

    def _put(self, key: bytes, document: bytes) -> None:
        self._rest()
        self._store.put(key, document)

    def clear(self) -> None:
        """Empty the only table."""
        self._rest()
        with self._store.environment.begin(write=True) as transaction:
            transaction.drop(self._store.environment.open_db(), delete=False)

    def load(self, pairs: Pairs) -> None:
        """In one transaction, sorted."""
        self._store.fill((key.encode(), document) for key, document in pairs)
        self._reading = self._store.environment.begin()
        self.get = self._reading.get

    def close(self) -> None:
        """Close and remove."""
        self._rest()
        self._store.close()


class Mdbx(Local):
    """clibmdbx, libmdbx for CPython."""

    name = "clibmdbx"

    def __init__(self, context: Context) -> None:
        """Open a new environment."""
        mdbx = importlib.import_module("clibmdbx")
        self._path = context.path("rival.mdbx")
        flags = mdbx.MDBX_WRITEMAP | mdbx.MDBX_UTTERLY_NOSYNC
        geometry = (-1, -1, 256 << 20, -1, -1, -1)
        self._environment = mdbx.Environment(
            str(self._path), flags=flags, geometry=geometry, subdir=False
        )
        with self._environment.write() as transaction:
            self._table = transaction.open_db(create=True)
        self.put = self._put

    def _put(self, key: bytes, document: bytes) -> None:
        self._rest()
        with self._environment.write() as transaction:
            transaction.put(key, document)

    def clear(self) -> None:
        """Empty the only table."""
        self._rest()
        with self._environment.write() as transaction:
            self._table.clear(transaction)

    def load(self, pairs: Pairs) -> None:
        """In one transaction, sorted."""
        with self._environment.write() as transaction:
            transaction.put_many(sorted((key.encode(), document) for key, document in pairs))
        self._reading = self._environment.read()
        self.get = self._reading.get

    def close(self) -> None:
        """Close and remove."""
        self._rest()
        self._environment.close()
        self._path.unlink()


class Cdb(Local):
    """cdbx: constant, so that an update makes the whole file again."""

    name = "cdbx"

    def __init__(self, context: Context) -> None:
        """Remember where."""
        self._path = context.path("rival.cdb")
        self._pairs: list[tuple[str | bytes, bytes]] = []
        self.put = self._put

    def clear(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    def load(self, pairs: Pairs) -> None:
        """Make the file."""
        self._pairs = [(key.encode(), document) for key, document in pairs]
        self._make()

    def _make(self) -> None:
        self._path.unlink(missing_ok=True)
        self.get = peers.make_cdb(self._path, self._pairs).get

    def _put(self, key: bytes, document: bytes) -> None:
        self._pairs[0] = (key, document)
        self._make()

    def close(self) -> None:
        """Remove it."""
        self._path.unlink(missing_ok=True)


class DiskCache(Local):
    """diskcache: SQLite behind a Python class."""

    name = "diskcache"
    reads = 5_000

    def __init__(self, context: Context) -> None:
        """Open a new directory."""
        diskcache = importlib.import_module("diskcache")
        self._directory = context.path("rival.diskcache")
        self._cache = diskcache.Cache(str(self._directory), eviction_policy="none")
        self.get = self._cache.get
        self.put = self._cache.set

    @staticmethod
    def key(key: str) -> Any:
        """Text."""
        return key

    def clear(self) -> None:
        """Empty it."""
        self._cache.clear()

    def load(self, pairs: Pairs) -> None:
        """In one transaction."""
        with self._cache.transact():
            for key, document in pairs:
                self._cache.set(key, document)

    def close(self) -> None:
        """Close and remove."""
        self._cache.close()
        shutil.rmtree(self._directory, ignore_errors=True)


RIVALS: tuple[tuple[str, Callable[[Context], Rival], str], ...] = (
    ("py-lmdb", Lmdb, "pip install lmdb"),
    ("cdbx", Cdb, "pip install cdbx"),
    ("clibmdbx", Mdbx, "pip install clibmdbx"),
    ("uWSGI cache2", rival_servers.Uwsgi, "pip install uwsgi"),
    ("diskcache", DiskCache, "pip install diskcache"),
    ("Redis", rival_servers.Redis, "pip install redis, and the program redis-server"),
    ("memcached", rival_servers.Memcached, "pip install pymemcache, and the program memcached"),
)


def _opened(context: Context, absent: dict[str, str], close: contextlib.ExitStack) -> list[Rival]:
    """Ours and every rival that is installed; notes what the others need."""
    found: list[Rival] = [Ours(context)]
    close.callback(found[0].close)
    for name, make, needs in RIVALS:
        try:
            rival = make(context)
        except (ImportError, FileNotFoundError) as error:
            absent[name] = f"{error}; {needs}"
            continue
        close.callback(rival.close)
        found.append(rival)
    return found


def _loading(rival: Rival, pairs: Pairs) -> Timed:
    def load() -> float:
        rival.clear()
        return seconds(lambda: rival.load(pairs))

    return load


def table(context: Context) -> Iterator[Row]:
    """Reads, a load and an update of each."""
    count = context.size(100_000, 10_000)
    documents = data.documents(count)
    pairs = list(zip(data.keys(count), documents, strict=True))
    source = random.Random(17)
    hot = [key for key, _ in pairs[:: count // HOT]][:HOT]
    absent: dict[str, str] = {}
    with contextlib.ExitStack() as close:
        rivals = _opened(context, absent, close)
        loads = interleave({r.name: _loading(r, pairs) for r in rivals}, 3, warmups=1)

        def reading(keys: Callable[[int], list[str]]) -> Figures:
            sides = {r.name: r.timing("get(key)", keys(r.reads)) for r in rivals}
            return interleave(sides)

        hots = reading(lambda reads: hot * (reads // HOT))
        uniform = reading(lambda reads: [source.choice(pairs)[0] for _ in range(reads)])
        puts = {
            rival.name: rival.timing(
                "put(key, of())",
                [source.choice(pairs)[0] for _ in range(2 if rival.name == "cdbx" else 1_000)],
            )
            for rival in rivals
        }
        updates = interleave(puts)
    small = f"{count:,} documents"
    for rival in rivals[1:]:
        for name, text, unit, figures in (
            ("hot", "get of 300 bytes, 100 hot keys", "ns", hots),
            ("uniform", "get of 300 bytes, uniform", "ns", uniform),
            ("load", "load", "s", loads),
            ("update", "one update", "ns", updates),
        ):
            yield row_of(
                figures,
                f"peer_{name}_{rival.name.split()[0].lower()}",
                f"{text} / {rival.name}",
                unit=unit,
                ours="ours",
                peer=rival.name,
                peer_name=rival.name,
                target=1.0,
                note=small,
            )
    for name, needs in absent.items():
        yield Row(
            name=f"peer_absent_{name.split()[0].lower()}",
            measure=f"{name} is not installed",
            ours=0.0,
            unit="",
            note=needs,
        )


BENCHES = (table,)
