"""Reads of one document: hot keys and uniform over a million, against dict, py-lmdb and cdbx.

`Million` is what these benchmarks share: the same documents in a shared cache, in a dict of decoded
documents, in LMDB and in a cdb file. Key objects are prepared in advance and are the same objects
for both sides, except where a benchmark says that they are made anew for each.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import mmapcache
from benchmarks import data, peers
from benchmarks.harness import Context, Row, compare, interleave, make_loop, row_of, timed

HOT = 100
LOOKUPS = 200_000


class Million:
    """One million documents of 300 bytes in every store, each filled at first use."""

    def __init__(self, context: Context) -> None:
        """Remember the sizes; nothing is filled yet."""
        self.context = context
        self.count = context.size(1_000_000, 200_000)
        self.note = "" if self.count == 1_000_000 else f"{self.count:,} keys"
        self.lookups = context.size(LOOKUPS, 60_000)

    @cached_property
    def raw(self) -> list[bytes]:
        """The documents as BSON."""
        return data.documents(self.count)

    @cached_property
    def keys(self) -> list[str]:
        """The keys that the dict was made with."""
        return data.keys(self.count)

    @cached_property
    def cache(self) -> mmapcache.Cache:
        """Our cache with huge pages where the kernel gives them."""
        return self.open(self.filled("million"))

    def filled(self, name: str, **options: Any) -> str:
        """The path of a new cache with the documents in the collection `settings`."""
        return peers.fill_cache(self.context.path(name), self.raw, **options)

    @staticmethod
    def open(path: str, **options: Any) -> mmapcache.Cache:
        """A reader."""
        return mmapcache.open(path, **options)

    @cached_property
    def settings(self) -> mmapcache.Collection:
        """The collection."""
        return self.cache["settings"]

    @cached_property
    def decoded(self) -> dict[str, dict[str, Any]]:
        """A private dict of decoded documents."""
        return peers.decoded(self.raw)

    @cached_property
    def lmdb(self) -> peers.Lmdb:
        """LMDB with the same pairs."""
        store = peers.Lmdb(self.context.path("million.lmdb"), 4 << 30)
        store.fill(zip([k.encode() for k in self.keys], self.raw, strict=True))
        return store

    @cached_property
    def cdb(self) -> Any:
        """A cdb file with the same pairs."""
        pairs = zip(self.keys, self.raw, strict=True)
        return peers.make_cdb(self.context.path("million.cdb"), pairs)

    def hot(self) -> list[str]:
        """100 keys spread over the whole, as the objects that the dict holds."""
        stride = self.count // HOT
        held = list(self.decoded)
        return [held[number * stride] for number in range(HOT)]

    def uniform(self, count: int, seed: int) -> list[str]:
        """`count` keys drawn uniformly: equal but not identical to the stored, hash known."""
        source = random.Random(seed)
        return data.hashed([data.key(source.randrange(self.count)) for _ in range(count)])

    def uniform_lists(self) -> list[list[str]]:
        """A few lists of uniform keys, so that no list is used twice in a row."""
        return [self.uniform(self.lookups, seed) for seed in range(4)]


def million(context: Context) -> Million:
    """The shared stores."""
    return context.shared("million", lambda: Million(context))


def _repeat(keys: list[Any], times: int = LOOKUPS // HOT) -> Callable[[], list[Any]]:
    repeated = keys * times
    return lambda: repeated


def _turns(prepared: list[list[Any]]) -> Callable[[], list[Any]]:
    """The next of the prepared lists at each call; each side of a comparison has its own."""
    turn = itertools.cycle(prepared)
    return lambda: next(turn)


def get_raw_hot(context: Context) -> Iterator[Row]:
    """`get_raw` of 100 hot keys against py-lmdb's get in a reused transaction."""
    stores = million(context)
    hot = stores.hot()
    transaction = stores.lmdb.environment.begin()
    yield compare(
        "get_raw_hot",
        "get_raw, 100 hot keys / py-lmdb get, reused transaction",
        timed("get(key)", _repeat(hot), get=stores.settings.get_raw),
        timed("get(key)", _repeat([k.encode() for k in hot]), get=transaction.get),
        unit="ns",
        peer_name="py-lmdb",
        target=1 / 6,
        note=stores.note,
    )
    transaction.abort()


def get_raw_uniform(context: Context) -> Iterator[Row]:
    """`get_raw` uniform over all keys against py-lmdb and cdbx."""
    stores = million(context)
    transaction = stores.lmdb.environment.begin()
    keys = stores.uniform_lists()
    encoded = [[key.encode() for key in each] for each in keys]
    figures = interleave(
        {
            "ours": timed("get(key)", _turns(keys), get=stores.settings.get_raw),
            "py-lmdb": timed("get(key)", _turns(encoded), get=transaction.get),
            "cdbx": timed("get(key)", _turns(encoded), get=stores.cdb.get),
        }
    )
    transaction.abort()
    for peer, target in (("py-lmdb", 0.33), ("cdbx", 0.75)):
        yield row_of(
            figures,
            f"get_raw_uniform_{peer}",
            f"get_raw, uniform over 1,000,000 keys / {peer}",
            unit="ns",
            peer=peer,
            peer_name=peer,
            target=target,
            note=stores.note,
        )


def get_hot(context: Context) -> Iterator[Row]:
    """`get` of 100 hot keys against `dict.get`, by what is known of the key objects."""
    stores = million(context)
    hot = stores.hot()
    ours, theirs = stores.settings.get, stores.decoded.get
    copies = data.hashed(hot)

    def new() -> list[str]:
        return data.fresh(hot * 100)

    for name, text, keys, target in (
        ("same", "same key objects", _repeat(hot), 1.0),
        ("equal", "equal, not identical key objects", _repeat(copies), 1.2),
        ("anew", "key objects made anew", new, 1.0),
    ):
        yield compare(
            f"get_hot_{name}",
            f"get → Document, 100 hot keys, {text} / dict.get",
            timed("get(key)", keys, get=ours),
            timed("get(key)", keys, get=theirs),
            unit="ns",
            peer_name="dict",
            target=target,
            note=stores.note,
            repeats=15,
        )


def map_hot(context: Context) -> Iterator[Row]:
    """`map(function)[key]` of 100 hot keys whose values are built, against `get` of them."""
    stores = million(context)
    hot = stores.hot()
    built = stores.settings.map(mmapcache.Document.to_dict)

    def new() -> list[str]:
        return data.fresh(hot * 100)

    for name, text, keys in (
        ("same", "same key objects", _repeat(hot)),
        ("anew", "key objects made anew", new),
    ):
        yield compare(
            f"map_hot_{name}",
            f"map(function).get, values built, 100 hot keys, {text} / get",
            timed("get(key)", keys, get=built.get),
            timed("get(key)", keys, get=stores.settings.get),
            unit="ns",
            peer_name="get",
            target=2.0,
            note=stores.note,
            repeats=15,
        )


def nested_hot(context: Context) -> Iterator[Row]:
    """A nested field of 100 hot documents against nested dicts."""
    stores = million(context)
    hot = _repeat(stores.hot())
    yield compare(
        "nested_hot",
        'sites[key]["limits"]["qps"], 100 hot keys / nested dicts',
        timed("store[key]['limits']['qps']", hot, store=stores.settings),
        timed("store[key]['limits']['qps']", hot, store=stores.decoded),
        unit="ns",
        peer_name="dict",
        target=1.25,
        note=stores.note,
        repeats=15,
    )


def get_uniform(context: Context) -> Iterator[Row]:
    """`get` and a nested field, uniform over all keys, with and without huge pages."""
    stores = million(context)
    keys = stores.uniform_lists()
    small = stores.open(stores.filled("small-pages", collapse=False))
    huge = stores.cache.stats()["huge_bytes"]
    sides = (
        ("huge", f"huge pages ({huge >> 20} MiB)", stores.settings, 0.65),
        ("small", "4 KB pages", small["settings"], 0.85),
    )
    for name, text, store, target in sides:
        yield compare(
            f"get_uniform_{name}",
            f"get → Document, uniform over 1,000,000 keys, {text} / dict.get",
            timed("get(key)", _turns(keys), get=store.get),
            timed("get(key)", _turns(keys), get=stores.decoded.get),
            unit="ns",
            peer_name="dict",
            target=target,
            note=stores.note,
        )
    small.close()
    yield compare(
        "nested_uniform",
        'sites[key]["limits"]["qps"], uniform over 1,000,000 keys / nested dicts',
        timed("store[key]['limits']['qps']", _turns(keys), store=stores.settings),
        timed("store[key]['limits']['qps']", _turns(keys), store=stores.decoded),
        unit="ns",
        peer_name="dict",
        target=1.2,
        note=stores.note,
    )


def zipfian(context: Context) -> Iterator[Row]:
    """YCSB's zipfian choice of keys, read only: few keys are hot, the others hardly ever read."""
    stores = million(context)
    chosen = [data.zipfian(stores.count, stores.lookups, seed) for seed in range(4)]
    keys = [data.hashed([data.key(index) for index in each]) for each in chosen]
    yield compare(
        "zipfian",
        'get(key)["limits"]["qps"], zipfian (0.99) over 1,000,000 keys / a dict of decoded dicts',
        timed("get(key)['limits']['qps']", _turns(keys), get=stores.settings.get),
        timed("get(key)['limits']['qps']", _turns(keys), get=stores.decoded.get),
        unit="ns",
        peer_name="dict",
        target=0.6,
        note=stores.note,
    )


def get_many(context: Context) -> Iterator[Row]:
    """`get_many` of 100 uniform keys against a loop of `dict.get`."""
    stores = million(context)

    def groups(flat: list[str]) -> list[list[str]]:
        return [flat[start : start + 100] for start in range(0, len(flat), 100)]

    def each(keys: list[str], get: Callable[[str], Any]) -> None:
        for key in keys:
            get(key)

    keys = [groups(flat) for flat in stores.uniform_lists()]
    yield compare(
        "get_many",
        "get_many of 100 uniform keys of 1,000,000 / loop of 100 dict.get",
        timed("get_many(key)", _turns(keys), get_many=stores.settings.get_many),
        timed("each(key, get)", _turns(keys), each=each, get=stores.decoded.get),
        unit="ns",
        peer_name="dict",
        target=0.6,
        note=stores.note,
    )


def iterate(context: Context) -> Iterator[Row]:
    """All values, one field of each."""
    stores = million(context)
    ours, theirs = stores.settings, stores.decoded
    expression = "key['version']"
    yield compare(
        "iterate",
        "iterate all values of 1,000,000, one field each / the same over a dict",
        _over(expression, ours.values),
        _over(expression, theirs.values),
        unit="ns",
        peer_name="dict",
        target=2.0,
        note=stores.note,
    )


def _over(expression: str, values: Callable[[], Any]) -> Callable[[], float]:
    """Nanoseconds per element of a loop over what `values` gives (no empty loop to subtract)."""
    loop = make_loop(expression)

    def measure() -> float:
        view = values()
        return loop(view) / len(view)

    return measure


def snapshot(context: Context) -> Iterator[Row]:
    """A snapshot around three gets against three gets."""
    stores = million(context)
    hot = stores.hot()
    cache, settings = stores.cache, stores.settings
    triples = [tuple(hot[i : i + 3]) for i in range(0, 99, 3)] * 600

    def bare(keys: tuple[str, str, str]) -> None:
        first, second, third = keys
        get = cache["settings"].get
        get(first)
        get(second)
        get(third)

    def inside(keys: tuple[str, str, str]) -> None:
        first, second, third = keys
        with cache.snapshot() as snap:
            get = snap["settings"].get
            get(first)
            get(second)
            get(third)

    settings.get(hot[0])
    yield compare(
        "snapshot",
        "snapshot enter + 3 gets + exit / 3 gets",
        timed("run(key)", lambda: triples, run=inside),
        timed("run(key)", lambda: triples, run=bare),
        unit="ns",
        peer_name="3 gets",
        target=1.4,
        note=stores.note,
        repeats=15,
    )


def after_commit(context: Context) -> Iterator[Row]:
    """The first get of 10,000 hot keys after a commit elsewhere, and of one other key of theirs."""
    stores = million(context)
    count = 10_000
    hot = [data.key(index) for index in range(0, stores.count, stores.count // count)][:count]
    with mmapcache.Writer(str(stores.cache.path)) as writer:
        cache = stores.open(str(stores.cache.path), front_bytes=64 << 20, front_entries=1 << 16)
        settings = cache["settings"]
        measure = timed("get(key)", lambda: hot, get=settings.get)
        for key in hot * 8:  # until all are kept
            settings.get(key)
        for name, text, collection, target in (
            ("after_commit_elsewhere", "in another collection", "elsewhere", 1.3),
            ("after_commit", "of 1 other key of the collection", "settings", 3.0),
        ):
            first = _after(writer, collection, stores.count - 1, measure, settings, hot)
            yield compare(
                name,
                f"after a commit {text}: first get of 10,000 hot keys / hot get",
                first,
                measure,
                unit="ns",
                peer_name="hot get",
                target=target,
                note="; ".join(filter(None, (stores.note, "same objects"))),
                repeats=15,
            )
        cache.close()


def _after(
    writer: mmapcache.Writer,
    collection: str,
    changing: int,
    measure: Callable[[], float],
    settings: mmapcache.Collection,
    hot: list[str],
) -> Callable[[], float]:
    """What `measure` gives right after a commit, which leaves the objects as they are."""
    version = itertools.count(1)

    def first() -> float:
        settings.get_many(hot)
        before = [settings.get(key) for key in hot]
        with writer.batch() as batch:
            batch.put_raw(collection, data.document(changing, next(version)))
        value = measure()
        assert all(a is settings.get(k) for a, k in zip(before, hot, strict=True))
        return value

    return first


BENCHES = (
    get_raw_hot,
    get_raw_uniform,
    get_hot,
    map_hot,
    nested_hot,
    get_uniform,
    zipfian,
    get_many,
    iterate,
    snapshot,
    after_commit,
)
