"""The loader's options: flags over environment over a TOML file over defaults.

Every option is one row of `SETTINGS`: its name in the TOML file; `MMAPCACHE_` and the name in
capitals is its variable; its flag is declared in `add_arguments`. A value of any origin goes
through the same parser, so that a wrong one is refused in the same words, with its origin named.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmapcache.sync import logs, parsing
from mmapcache.sync.errors import UsageError
from mmapcache.sync.names import check_database, check_name, parse_namespace, split_namespace
from mmapcache.sync.redaction import is_uri, register_typed, register_uri

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

READ_PREFERENCES = (
    "primary",
    "primaryPreferred",
    "secondary",
    "secondaryPreferred",
    "nearest",
)
FOLLOW = ("auto", "stream", "poll")
DEFAULT_BATCH_SIZE = 5000  # documents; 1.5 MB of 300-byte ones: see docs/operations.md


@dataclass(frozen=True, slots=True)
class CollectionOptions:
    """One MongoDB collection and how it is read.

    `filter` and `projection` are Extended JSON text or what TOML made of a table. `follow_index`:
    the server may follow an index for the filter, and miss a document that moves in it meanwhile.
    `transform` and `key`: see transform and shaping. `index` and `index_multi`: the fields that the
    cache has an index of, with one document for each value or with several. `given`: where each
    setting comes from. For a file source there is a `name` only.
    """

    database: str
    collection: str
    name: str
    allow_empty: bool = False
    read_preference: str | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    filter: Mapping[str, Any] | str | None = None
    projection: Mapping[str, Any] | str | None = None
    follow_index: bool = False
    transform: str | None = None
    key: str | None = None
    index: tuple[str, ...] = ()
    index_multi: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def origin(self) -> str:
        """`db.collection`, as MongoDB writes a namespace."""
        return f"{self.database}.{self.collection}"


@dataclass(frozen=True, slots=True)
class Options:
    """All that `mmapcache sync` was told; times in seconds.

    Exactly one of `uri`, `uri_file` and `source` is set. For a whole `database`, `collections` are
    those with settings of their own and `defaults` serve for the rest.
    """

    path: str
    uri: str | None = field(default=None, repr=False)
    uri_file: str | None = None
    source: str | None = None
    collections: tuple[CollectionOptions, ...] = ()
    database: str | None = None
    defaults: CollectionOptions = CollectionOptions("", "", "")
    follow: str = "auto"
    settle: parsing.Settle = parsing.DEFAULT_SETTLE
    reload_spread: float = 5.0
    verify_every: float = 0.0
    hold_while: parsing.Marker | None = None
    interval: float = 10.0
    once: bool = False
    standby: bool = False
    timeout: float = 30.0
    max_size: str | None = None
    mode: int = 0o640
    retention: float = 1.0
    collapse: bool = True
    shrink: bool = True
    shrink_after: float = 600.0
    allow_empty: bool = False
    recreate: bool = False
    http: str | None = None
    token_file: str | None = None
    max_age: float | None = None
    log_level: str = "info"
    log_format: str = "text"
    progress: bool | None = None
    dry_run: bool = False
    print_config: bool = False
    given: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


_Layer = Mapping[str, tuple[object, str]]  # setting -> (value, where it comes from)

SETTINGS: dict[str, Callable[[object], Any]] = {
    "path": parsing.text,
    "uri": parsing.text,
    "uri_file": parsing.text,
    "source": parsing.text,
    "collection": parsing.texts,
    "database": parsing.text,
    "follow": parsing.choice(*FOLLOW),
    "settle": parsing.settle,
    "reload_spread": parsing.number(0.0),
    "verify_every": parsing.hours,
    "hold_while": parsing.marker,
    "interval": parsing.number(0.05),
    "once": parsing.flag,
    "standby": parsing.flag,
    "timeout": parsing.number(0.0),
    "max_size": parsing.size,
    "mode": parsing.mode,
    "retention": parsing.number(0.0),
    "collapse": parsing.flag,
    "shrink": parsing.flag,
    "shrink_after": parsing.number(0.0),
    "allow_empty": parsing.flag,
    "recreate": parsing.flag,
    "http": parsing.text,
    "token_file": parsing.text,
    "max_age": parsing.number(0.0),
    "read_preference": parsing.choice(*READ_PREFERENCES),
    "batch_size": parsing.count,
    "transform": parsing.text,
    "log_level": parsing.choice(*logs.LEVELS),
    "log_format": parsing.choice(*logs.FORMATS),
    "progress": parsing.flag,
}
PER_COLLECTION: dict[str, Callable[[object], Any]] = {
    "allow_empty": parsing.flag,
    "read_preference": parsing.choice(*READ_PREFERENCES),
    "batch_size": parsing.count,
    "filter": parsing.document,
    "projection": parsing.document,
    "follow_index": parsing.flag,
    "transform": parsing.text,
    "key": parsing.text,
    "index": parsing.fields,
    "index_multi": parsing.fields,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags. Values stay text here, so that all origins share one set of parsers."""
    add = parser.add_argument
    switch = argparse.BooleanOptionalAction
    add(
        "path",
        nargs="?",
        metavar="PATH",
        help="the cache file: on tmpfs, in a directory of its own (/run/mmapcache/settings.mmc)",
    )
    what = parser.add_argument_group("what to load")
    what.add_argument("--uri", help="MongoDB URI (others see a command line: prefer --uri-file)")
    what.add_argument("--uri-file", metavar="F", help="a file that holds the URI")
    what.add_argument("--source", metavar="file:PATH", help="a .json or .bson file or a directory")
    what.add_argument(
        "--collection",
        action="append",
        metavar="DB.COLL[=NAME]",
        help="repeatable; NAME in the cache",
    )
    what.add_argument("--database", metavar="DB", help="all collections of the database")
    what.add_argument("--filter", action="append", metavar="NAME=JSON", help="load only these")
    what.add_argument("--projection", action="append", metavar="NAME=JSON", help="only the fields")
    what.add_argument("--read-preference", metavar="P", help=", ".join(READ_PREFERENCES))
    what.add_argument("--batch-size", metavar="N", help="documents a batch (5000)")
    what.add_argument("--allow-empty", action=switch, help="publish a collection even when empty")
    what.add_argument("--transform", metavar="MODULE:FUNCTION", help="what becomes of a document")
    what.add_argument("--key", action="append", metavar="NAME=FIELD", help="the key, if not _id")
    what.add_argument("--index", action="append", metavar="NAME=FIELD", help="lookup by a field")
    what.add_argument(
        "--index-multi",
        action="append",
        metavar="NAME=FIELD",
        help="the same where several documents have one value",
    )
    when = parser.add_argument_group("when")
    when.add_argument(
        "--follow",
        metavar="HOW",
        help="auto: MongoDB's change stream if it has one; stream: fail without; poll: never",
    )
    when.add_argument("--settle", metavar="MIN:MAX", help="ms that a burst is gathered (5:100)")
    when.add_argument(
        "--reload-spread", metavar="S", help="seconds over which hosts spread a full reload (5)"
    )
    when.add_argument(
        "--verify-every",
        metavar="HOURS",
        help="compare everything with what the stream made of it, and repair (never; SIGHUP: now)",
    )
    when.add_argument(
        "--hold-while",
        metavar="DB.COLL:FILTER",
        help="publish nothing while a document of that collection matches the filter",
    )
    when.add_argument("--interval", metavar="S", help="seconds between two polls (10)")
    when.add_argument("--once", action=switch, help="load once: exit status 0 done, 1 failed")
    when.add_argument("--timeout", metavar="S", help="seconds that --once keeps trying (30)")
    when.add_argument("--standby", action=switch, help="wait for another loader's end, then go on")
    file = parser.add_argument_group("the file")
    file.add_argument("--max-size", metavar="N", help="bytes, or 512MiB, 1.5GiB (1GiB)")
    file.add_argument("--mode", metavar="MODE", help="permissions of a new file (0640)")
    file.add_argument("--retention", metavar="S", help="seconds that old generations stay (1)")
    file.add_argument("--collapse", action=switch, help="use huge pages (yes)")
    file.add_argument("--shrink", action=switch, help="give back what is long unused (yes)")
    file.add_argument("--shrink-after", metavar="S", help="seconds until that (600)")
    file.add_argument("--recreate", action=switch, help="replace a file that is not ours")
    look = parser.add_argument_group("to look at, as `mmapcache serve` does")
    look.add_argument("--http", metavar="ADDR:PORT|unix:PATH", help="status page, probes, metrics")
    look.add_argument("--token-file", metavar="F", help="a secret that each request must have")
    look.add_argument("--max-age", metavar="S", help="/readyz: how old the data may be")
    rest = parser.add_argument_group("the rest")
    rest.add_argument("--config", metavar="F", help="a TOML file with these options")
    rest.add_argument("--log-level", metavar="LEVEL", help=", ".join(logs.LEVELS))
    rest.add_argument("--log-format", metavar="FORMAT", help=", ".join(logs.FORMATS))
    rest.add_argument(
        "--log-json",
        dest="log_format",
        action="store_const",
        const="json",
        help="--log-format json",
    )
    rest.add_argument("--progress", action=switch, help="a bar (when on a terminal)")
    look = parser.add_argument_group("say something and exit")
    look.add_argument("--dry-run", action="store_true", help="what would be loaded, and from where")
    look.add_argument(
        "--print-config", action="store_true", help="the options, and where each comes from"
    )


def resolve(arguments: argparse.Namespace, environment: Mapping[str, str] | None = None) -> Options:
    """Puts the layers together.

    :param arguments: what a parser with `add_arguments` gave
    :param environment: `os.environ` unless given
    :raises UsageError: a value is wrong, two contradict each other, or one is missing
    """
    environment = os.environ if environment is None else environment
    register_typed(v for k, v in environment.items() if k.startswith("MMAPCACHE_"))
    config = getattr(arguments, "config", None) or environment.get("MMAPCACHE_CONFIG")
    tables: list[Mapping[str, Any]] = []
    layers: list[_Layer] = [_flag_layer(arguments), _environment_layer(environment)]
    if config:
        if is_uri(config):
            raise UsageError(f"--config (or MMAPCACHE_CONFIG) {_NO_PATH}")
        layer, tables = _file_layer(config)
        layers.append(layer)
    values, given = _merge(layers)
    if values.get("uri"):
        register_uri(values["uri"])
    if "path" not in values:
        raise UsageError("PATH is missing: the cache file to load into")
    options = Options(
        path=values["path"],
        uri=values.get("uri"),
        uri_file=values.get("uri_file"),
        source=_source_path(values.get("source")),
        database=values.get("database"),
        dry_run=bool(getattr(arguments, "dry_run", False)),
        print_config=bool(getattr(arguments, "print_config", False)),
        given=given,
        **{key: values[key] for key in _PLAIN if key in values},
    )
    named = _flag_tables(arguments)
    options = replace(options, defaults=_with_settings(options.defaults, values, "defaults"))
    options = _with_collections(options, values.get("collection"), named, tables, config)
    _check(options)
    return options


_PLAIN = frozenset(SETTINGS).difference(
    ("path", "uri", "uri_file", "source", "collection", "database"),
    ("read_preference", "batch_size", "transform"),
)  # those that become a field of Options as they are
_OF_FILES = ("key", "transform", "index", "index_multi")  # settings of a file's documents
_EXCLUSIVE = (("uri", "uri_file", "source"), ("collection", "database"))
_NO_PATH = (
    "is a MongoDB URI; it must be the path of a file, and the URI belongs to --uri-file's file, "
    "MMAPCACHE_URI or --uri"
)


def _flag_layer(arguments: argparse.Namespace) -> _Layer:
    given = {key: getattr(arguments, key, None) for key in SETTINGS}
    return {
        key: (value, "PATH" if key == "path" else "--" + key.replace("_", "-"))
        for key, value in given.items()
        if value is not None
    }


def _environment_layer(environment: Mapping[str, str]) -> _Layer:
    names = {key: "MMAPCACHE_" + key.upper() for key in SETTINGS}
    return {k: (environment[name], name) for k, name in names.items() if environment.get(name)}


def _file_layer(path: str) -> tuple[_Layer, list[Mapping[str, Any]]]:
    """The TOML file's settings, and its [[collection]] tables apart."""
    try:
        content = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration {path} is not TOML: {error}") from None
    register_typed(_texts_in(content))
    tables: list[Mapping[str, Any]] = []
    if isinstance(content.get("collection"), list):
        items = content["collection"]
        if all(isinstance(item, dict) for item in items):
            tables = content.pop("collection")
        elif not all(isinstance(item, str) for item in items):
            raise UsageError(f"collection in {path} must be names, or [[collection]] tables")
    unknown = sorted(set(content) - set(SETTINGS))
    if unknown:
        raise UsageError(f"{path} has an unknown setting: {', '.join(unknown)}")
    return {key: (value, f"{key} in {path}") for key, value in content.items()}, tables


def _texts_in(value: object) -> Iterator[str]:
    """Every text in a value of TOML, the names of settings included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def _merge(layers: Iterable[_Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values, and where each comes from. The first layer that has a setting wins; of settings
    that exclude each other likewise."""
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for layer in layers:
        settled = set(values)
        for key, (value, where) in layer.items():
            group = next((g for g in _EXCLUSIVE if key in g), (key,))
            if settled.intersection(group):
                continue
            others = [layer[k][1] for k in group if k in layer and k != key]
            if others:
                raise UsageError(f"give {where} or {others[0]}, not both")
            try:
                values[key] = SETTINGS[key](value)
            except ValueError as error:
                raise UsageError(f"{where} must be {error}") from None
            given[key] = where
            if key in ("path", "uri_file") and is_uri(values[key]):
                raise UsageError(f"{where} {_NO_PATH}")
    return values, given


def _source_path(value: str | None) -> str | None:
    if value is None:
        return None
    scheme, separator, path = value.partition(":")
    if is_uri(value):
        raise UsageError("a MongoDB URI belongs to --uri or --uri-file, not to --source")
    if scheme != "file" or not separator or not path:
        raise UsageError("--source must be file: and a path, such as file:settings.json")
    return path


def _with_settings(
    options: CollectionOptions, settings: Mapping[str, Any], where: str, origin: str | None = None
) -> CollectionOptions:
    """The collection's options with those of `settings` that are given, parsed.

    :param where: for messages
    :param origin: for `given`; None: these are the defaults of all collections
    """
    changes: dict[str, Any] = {}
    for key, parse in PER_COLLECTION.items():
        if settings.get(key) is not None:
            try:
                changes[key] = parse(settings[key])
            except ValueError as error:
                raise UsageError(f"{key} of {where} must be {error}") from None
    given = {**options.given, **dict.fromkeys(changes, origin)} if origin else options.given
    return replace(options, **changes, given=given)


def _flag_tables(arguments: argparse.Namespace) -> list[tuple[str, Mapping[str, Any]]]:
    """Filters, projections, keys and indexes as tables of the TOML file, each with its flag."""
    tables: list[tuple[str, Mapping[str, Any]]] = []
    for key in ("filter", "projection"):
        for text in getattr(arguments, key, None) or ():
            name, document = _split_document(text)
            if not name or "=" not in text:
                raise UsageError(f"--{key} must be NAME=JSON")
            tables.append((f"--{key}", {"name": name, key: document}))
    for text in getattr(arguments, "key", None) or ():
        name, _, path = text.rpartition("=")
        if not name or not path:
            raise UsageError("--key must be NAME=FIELD")
        tables.append(("--key", {"name": name, "key": path}))
    for key in ("index", "index_multi"):
        flag, fields = "--" + key.replace("_", "-"), dict[str, list[str]]()
        for text in getattr(arguments, key, None) or ():
            name, _, path = text.rpartition("=")
            if not name or not path:
                raise UsageError(f"{flag} must be NAME=FIELD")
            fields.setdefault(name, []).append(path)
        tables += [(flag, {"name": name, key: paths}) for name, paths in fields.items()]
    return tables


def _split_document(text: str) -> tuple[str, str]:
    """NAME and JSON of `NAME=JSON`: at the first = that JSON follows, for a name may have one."""
    name, _, document = text.partition("=")
    shorter, rest = name, document
    while rest:
        with contextlib.suppress(ValueError):
            parsing.document(rest)
            return shorter, rest
        more, _, rest = rest.partition("=")
        shorter += "=" + more
    return name, document


def _with_collections(
    options: Options,
    names: list[str] | None,
    flags: list[tuple[str, Mapping[str, Any]]],
    tables: list[Mapping[str, Any]],
    config: str | None,
) -> Options:
    """Settles which collections are read (the names' part) and how (the tables' part).

    Tables say which only when no name and no database was given. The flags' tables are applied
    last, so that they win.
    """
    base = options.defaults
    chosen: list[CollectionOptions] = []
    for text in names or []:
        database, collection, name = parse_namespace(text)
        given = {"": options.given["collection"]}
        chosen.append(
            replace(base, database=database, collection=collection, name=name, given=given)
        )
    for flag, table in [*((None, table) for table in reversed(tables)), *reversed(flags)]:
        where = flag or str(table.get("from") or table.get("name"))
        origin = flag or f"[[collection]] in {config}"
        extra = sorted(set(table) - set(PER_COLLECTION) - {"from", "name"})
        if extra:
            raise UsageError(f"[[collection]] {where} has an unknown setting: {', '.join(extra)}")
        matches = [c for c in chosen if _matches(table, c)]
        if not matches:
            if flag is not None and options.database is None and not _for_files(table, options):
                raise UsageError(f"{where} names {table['name']!r}, which is not loaded")
            if names is not None:
                continue  # a table for a collection that the flags left out
            new = replace(_from_table(table, options), given={"": origin})
            chosen.insert(0, new)
            matches = [new]
        for match in matches:
            chosen[chosen.index(match)] = _with_settings(match, table, where, origin)
    return replace(options, collections=tuple(chosen))


def _matches(table: Mapping[str, Any], options: CollectionOptions) -> bool:
    return (
        table.get("from") in (None, options.origin)
        and table.get("name") in (None, options.name)
        and ("from" in table or "name" in table)
    )


def _for_files(table: Mapping[str, Any], options: Options) -> bool:
    """Whether the table says what is made of a file's documents."""
    return options.source is not None and {"name"} < set(table) <= {"name", *_OF_FILES}


def _from_table(table: Mapping[str, Any], options: Options) -> CollectionOptions:
    """A new entry for a table that says where its collection comes from."""
    origin, name = table.get("from"), table.get("name")
    if _for_files(table, options) and isinstance(name, str):
        return replace(options.defaults, name=name)
    if options.source is not None and origin is None:
        raise UsageError(
            f"[[collection]] {name}: of a file there is no more to be said than name, "
            f"{', '.join(_OF_FILES)}"
        )
    if origin is None and options.database is not None and isinstance(name, str):
        origin = f"{options.database}.{name}"
    if not isinstance(origin, str) or not (name is None or isinstance(name, str)):
        raise UsageError('a [[collection]] needs from = "DB.COLL", and name as a text if at all')
    database, collection = split_namespace(origin, 'from = "DB.COLL"')
    if options.database not in (None, database):
        raise UsageError(f"[[collection]] {origin} is not in the database {options.database}")
    return replace(
        options.defaults,
        database=database,
        collection=collection,
        name=collection if name is None else name,
    )


def _check(options: Options) -> None:
    """What only the whole can tell."""
    for collection in options.collections:
        both = sorted(set(collection.index) & set(collection.index_multi))
        if both:
            raise UsageError(
                f"{both[0]!r} of {collection.name!r} is in index and in index_multi: a field has "
                "one index"
            )
    if options.once and options.standby:
        raise UsageError("--once and --standby do not go together: a standby waits without limit")
    if options.source is not None:
        if options.database or any(c.database for c in options.collections):
            raise UsageError("--collection and --database belong to MongoDB, not to a file source")
        return
    if options.uri is None and options.uri_file is None:
        raise UsageError(
            "give --uri, --uri-file or --source (or MMAPCACHE_URI): where to load from"
        )
    if options.uri is not None and not options.uri.startswith(("mongodb://", "mongodb+srv://")):
        raise UsageError("the URI must begin with mongodb:// or mongodb+srv://")
    if options.database is None and not options.collections:
        raise UsageError("give --collection DB.COLL or --database DB: what to load")
    if options.database is not None:
        check_database(options.database)
    seen: dict[str, str] = {}
    for collection in options.collections:
        check_name(collection.name)
        if collection.name in seen:
            raise UsageError(
                f"{seen[collection.name]} and {collection.origin} would both be named "
                f"{collection.name!r}: tell them apart with DB.COLL=NAME"
            )
        seen[collection.name] = collection.origin
