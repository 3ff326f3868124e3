"""The loader's options: flags over environment over a TOML file over defaults.

Every option is one row of `_SETTINGS`: its name in the TOML file; `MMAPCACHE_` and the name in
capitals is its variable; its flag is declared in `add_arguments`. A value of any origin goes
through the same parser, so that a wrong one is refused in the same words, with its origin named.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmapcache.sync import logs
from mmapcache.sync.errors import UsageError
from mmapcache.sync.redaction import is_uri, redact, register_typed, register_uri

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
NAME_BYTES = 255  # the cache's own limit for a collection's name
DATABASE_BYTES = 63  # MongoDB's limit for a database's name
DEFAULT_BATCH_SIZE = 5000  # documents; 1.5 MB of 300-byte ones: see docs/operations.md


@dataclass(frozen=True, slots=True)
class CollectionOptions:
    """One MongoDB collection and how it is read.

    `filter` and `projection` are Extended JSON text or what TOML made of a table. `follow_index`:
    the server may follow an index for the filter, and miss a document that moves in it meanwhile.
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

    @property
    def origin(self) -> str:
        """`db.collection`, as MongoDB writes a namespace."""
        return f"{self.database}.{self.collection}"


@dataclass(frozen=True, slots=True)
class Settle:
    """How long a burst of changes may take before it is published; seconds.

    :param shortest: so long nothing more has come
    :param longest: so old is its first change
    """

    shortest: float = 0.005
    longest: float = 0.1


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
    settle: Settle = Settle()
    reload_spread: float = 5.0
    interval: float = 10.0
    once: bool = False
    timeout: float = 30.0
    max_size: str | None = None
    mode: int = 0o640
    retention: float = 1.0
    collapse: bool = True
    allow_empty: bool = False
    recreate: bool = False
    log_level: str = "info"
    log_format: str = "text"
    progress: bool | None = None


# --- one parser for each kind of value; a ValueError's text completes "… must be" -----------------


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a text that is not empty")
    return value


def _number(least: float, *, zero: bool = False) -> Callable[[object], float]:
    def parse(value: object) -> float:
        try:
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise ValueError
            number = float(value)
            if not (least <= number <= 1e9 or (zero and number == 0)):
                raise ValueError
        except ValueError:
            raise ValueError(f"seconds, {least:g} or more") from None
        return number

    return parse


def _settle(value: object) -> Settle:
    error = ValueError("two numbers of milliseconds, MIN:MAX, such as 5:100")
    if not isinstance(value, str):
        raise error
    try:
        shortest, longest = (float(part) / 1000 for part in value.split(":"))
    except ValueError:
        raise error from None
    if not 0 <= shortest <= longest <= 60:
        raise ValueError(f"{error}: MIN at most MAX, MAX at most 60000")
    return Settle(shortest, longest)


def _flag(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("true or false")


def _choice(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        for choice in choices:
            if isinstance(value, str) and value.lower() == choice.lower():
                return choice
        raise ValueError("one of " + ", ".join(choices))

    return parse


def _size(value: object) -> str:
    units = ("", "b", "k", "kb", "kib", "m", "mb", "mib", "g", "gb", "gib", "t", "tb", "tib")
    text = str(value).strip()
    digits = text.rstrip("BbKkMmGgTtIi ").strip()
    unit = text[len(digits) :].strip().lower()
    if isinstance(value, bool) or not digits.isdecimal() or int(digits) == 0 or unit not in units:
        raise ValueError("a number of bytes such as 1073741824 or 512MiB")
    return text


def _mode(value: object) -> int:
    try:
        mode = int(value, 8) if isinstance(value, str) else value
    except ValueError:
        mode = None
    if not isinstance(mode, int) or isinstance(mode, bool) or mode & ~0o777:
        raise ValueError('octal permissions such as "0640"')
    if mode & 0o600 != 0o600:
        raise ValueError("readable and writable for the owner (0600)")
    if mode & 0o002:
        raise ValueError("without write permission for others: readers refuse such a file")
    return mode


def _count(value: object) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError
        count = int(value)
        if not 1 <= count <= 1_000_000:
            raise ValueError
    except ValueError:
        raise ValueError("a number of documents from 1 to 1000000") from None
    return count


def _texts(value: object) -> list[str]:
    """A list of names as they are, or (in a variable) names separated by commas and spaces."""
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise ValueError("one or more names")
    return [_text(item) for item in items]


def _document(value: object) -> Mapping[str, Any] | str:
    """A table, or Extended JSON for an object; the conversion to BSON is the source's."""
    if isinstance(value, Mapping):
        return value
    try:
        if isinstance(value, str) and isinstance(json.loads(value), dict):
            return value
    except (ValueError, RecursionError):
        pass
    raise ValueError('a JSON object such as {"active": true}')


_Layer = Mapping[str, tuple[object, str]]  # setting -> (value, where it comes from)

_SETTINGS: dict[str, Callable[[object], Any]] = {
    "path": _text,
    "uri": _text,
    "uri_file": _text,
    "source": _text,
    "collection": _texts,
    "database": _text,
    "follow": _choice(*FOLLOW),
    "settle": _settle,
    "reload_spread": _number(0.0),
    "interval": _number(0.05),
    "once": _flag,
    "timeout": _number(0.0),
    "max_size": _size,
    "mode": _mode,
    "retention": _number(0.0),
    "collapse": _flag,
    "allow_empty": _flag,
    "recreate": _flag,
    "read_preference": _choice(*READ_PREFERENCES),
    "batch_size": _count,
    "log_level": _choice(*logs.LEVELS),
    "log_format": _choice(*logs.FORMATS),
    "progress": _flag,
}
_PER_COLLECTION: dict[str, Callable[[object], Any]] = {
    "allow_empty": _flag,
    "read_preference": _choice(*READ_PREFERENCES),
    "batch_size": _count,
    "filter": _document,
    "projection": _document,
    "follow_index": _flag,
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
    what.add_argument("--collection", action="append", metavar="DB.COLL[=NAME]", help="repeatable")
    what.add_argument("--database", metavar="DB", help="all collections of the database")
    what.add_argument("--filter", action="append", metavar="NAME=JSON", help="load only these")
    what.add_argument("--projection", action="append", metavar="NAME=JSON", help="only the fields")
    what.add_argument("--read-preference", metavar="P", help=", ".join(READ_PREFERENCES))
    what.add_argument("--batch-size", metavar="N", help="documents a batch (5000)")
    what.add_argument("--allow-empty", action=switch, help="publish a collection even when empty")
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
    when.add_argument("--interval", metavar="S", help="seconds between two polls (10)")
    when.add_argument("--once", action=switch, help="load once: exit status 0 done, 1 failed")
    when.add_argument("--timeout", metavar="S", help="seconds that --once keeps trying (30)")
    file = parser.add_argument_group("the file")
    file.add_argument("--max-size", metavar="N", help="bytes, or 512MiB and so on (1GiB)")
    file.add_argument("--mode", metavar="MODE", help="permissions of a new file (0640)")
    file.add_argument("--retention", metavar="S", help="seconds that old generations stay (1)")
    file.add_argument("--collapse", action=switch, help="use huge pages (yes)")
    file.add_argument("--recreate", action=switch, help="replace a file that is not ours")
    rest = parser.add_argument_group("the rest")
    rest.add_argument("--config", metavar="F", help="a TOML file with these options")
    rest.add_argument("--log-level", metavar="LEVEL", help=", ".join(logs.LEVELS))
    rest.add_argument("--log-format", metavar="FORMAT", help=", ".join(logs.FORMATS))
    rest.add_argument("--log-json", dest="log_format", action="store_const", const="json")
    rest.add_argument("--progress", action=switch, help="a bar (when on a terminal)")


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
    values = _merge(layers)
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
        **{key: values[key] for key in _PLAIN if key in values},
    )
    named = _flag_tables(arguments)
    options = replace(options, defaults=_with_settings(options.defaults, values, "defaults"))
    options = _with_collections(options, values.get("collection"), named, tables)
    _check(options)
    return options


_PLAIN = frozenset(_SETTINGS).difference(
    ("path", "uri", "uri_file", "source", "collection", "database", "read_preference", "batch_size")
)  # those that become a field of Options as they are
_EXCLUSIVE = (("uri", "uri_file", "source"), ("collection", "database"))
_NO_PATH = (
    "is a MongoDB URI; it must be the path of a file, and the URI belongs to --uri-file's file, "
    "MMAPCACHE_URI or --uri"
)


def _flag_layer(arguments: argparse.Namespace) -> _Layer:
    given = {key: getattr(arguments, key, None) for key in _SETTINGS}
    return {
        key: (value, "PATH" if key == "path" else "--" + key.replace("_", "-"))
        for key, value in given.items()
        if value is not None
    }


def _environment_layer(environment: Mapping[str, str]) -> _Layer:
    names = {key: "MMAPCACHE_" + key.upper() for key in _SETTINGS}
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
    unknown = sorted(set(content) - set(_SETTINGS))
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


def _merge(layers: Iterable[_Layer]) -> dict[str, Any]:
    """The first layer that has a setting wins; of settings that exclude each other likewise."""
    values: dict[str, Any] = {}
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
                values[key] = _SETTINGS[key](value)
            except ValueError as error:
                raise UsageError(f"{where} must be {error}") from None
            if key in ("path", "uri_file") and is_uri(values[key]):
                raise UsageError(f"{where} {_NO_PATH}")
    return values


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
    options: CollectionOptions, settings: Mapping[str, Any], where: str
) -> CollectionOptions:
    """The collection's options with those of `settings` that are given, parsed."""
    changes: dict[str, Any] = {}
    for key, parse in _PER_COLLECTION.items():
        if settings.get(key) is not None:
            try:
                changes[key] = parse(settings[key])
            except ValueError as error:
                raise UsageError(f"{key} of {where} must be {error}") from None
    return replace(options, **changes)


def parse_namespace(text: str) -> tuple[str, str, str]:
    """`DB.COLL[=NAME]` as (database, collection, name in the cache).

    :raises UsageError: it is not one, or breaks MongoDB's or the cache's rules for names
    """
    namespace, equals, name = text.partition("=")
    if "=" in name:
        raise UsageError(
            f"{text!r} has more than one =, so that the collection's name and NAME cannot be told "
            "apart: write a [[collection]] table with from and name into the --config file"
        )
    database, collection = split_namespace(namespace, "DB.COLL or DB.COLL=NAME")
    if equals and not name:
        raise UsageError(f"{text!r} has no NAME after the =")
    name = name or collection
    check_name(name)
    return database, collection, name


def split_namespace(namespace: str, form: str) -> tuple[str, str]:
    """The database and the collection of `DB.COLL`, whose first dot is the one between them.

    :param form: what was asked for, to be named in the message
    :raises UsageError: it is no namespace, or breaks MongoDB's rules for names
    """
    if is_uri(namespace):
        raise UsageError(f"a MongoDB URI is not {form}: it belongs to --uri-file or MMAPCACHE_URI")
    database, dot, collection = namespace.partition(".")
    if not dot or not database or not collection:
        raise UsageError(f"{namespace!r} is not {form}")
    check_database(database)
    if not _is_text(collection) or (
        "$" in collection or collection[0] == "." or collection[-1] == "." or ".." in collection
    ):
        raise UsageError(f"{collection!r} cannot be the name of a MongoDB collection")
    return database, collection


def _is_text(name: str) -> bool:
    """Whether a name can be encoded: what stands for bytes that are not UTF-8 cannot."""
    return "\0" not in name and not any("\ud800" <= c <= "\udfff" for c in name)


def check_database(database: str) -> None:
    """:raises UsageError: MongoDB allows no database of this name"""
    if (
        not _is_text(database)
        or len(database.encode()) > DATABASE_BYTES
        or set(database) & set('/\\. "$*<>:|?')
    ):
        raise UsageError(f"{database!r} cannot be the name of a MongoDB database")


def check_name(name: str) -> None:
    """:raises UsageError: the cache allows no collection of this name"""
    if not name or not _is_text(name) or len(name.encode()) > NAME_BYTES:
        raise UsageError(
            f"{redact(name)[:40]!r} cannot be a collection's name: 1 to {NAME_BYTES} bytes of UTF-8"
        )


def _flag_tables(arguments: argparse.Namespace) -> list[tuple[str, Mapping[str, Any]]]:
    """--filter and --projection as tables of the TOML file, each with its flag."""
    tables: list[tuple[str, Mapping[str, Any]]] = []
    for key in ("filter", "projection"):
        for text in getattr(arguments, key, None) or ():
            name, document = _split_document(text)
            if not name or "=" not in text:
                raise UsageError(f"--{key} must be NAME=JSON")
            tables.append((f"--{key}", {"name": name, key: document}))
    return tables


def _split_document(text: str) -> tuple[str, str]:
    """NAME and JSON of `NAME=JSON`: at the first = that JSON follows, for a name may have one."""
    name, _, document = text.partition("=")
    shorter, rest = name, document
    while rest:
        with contextlib.suppress(ValueError):
            _document(rest)
            return shorter, rest
        more, _, rest = rest.partition("=")
        shorter += "=" + more
    return name, document


def _with_collections(
    options: Options,
    names: list[str] | None,
    flags: list[tuple[str, Mapping[str, Any]]],
    tables: list[Mapping[str, Any]],
) -> Options:
    """Settles which collections are read (the names' part) and how (the tables' part).

    Tables say which only when no name and no database was given. The flags' tables are applied
    last, so that they win.
    """
    base = options.defaults
    chosen: list[CollectionOptions] = []
    for text in names or []:
        database, collection, name = parse_namespace(text)
        chosen.append(
            replace(base, database=database, collection=collection, name=name)
        )  # fmt: skip
    for flag, table in [*((None, table) for table in reversed(tables)), *reversed(flags)]:
        where = flag or str(table.get("from") or table.get("name"))
        extra = sorted(set(table) - set(_PER_COLLECTION) - {"from", "name"})
        if extra:
            raise UsageError(f"[[collection]] {where} has an unknown setting: {', '.join(extra)}")
        matches = [c for c in chosen if _matches(table, c)]
        if not matches:
            if flag is not None and options.database is None:
                raise UsageError(f"{where} names {table['name']!r}, which is not loaded")
            if names is not None:
                continue  # a table for a collection that the flags left out
            new = _from_table(table, options)
            chosen.insert(0, new)
            matches = [new]
        for match in matches:
            chosen[chosen.index(match)] = _with_settings(match, table, where)
    return replace(options, collections=tuple(chosen))


def _matches(table: Mapping[str, Any], options: CollectionOptions) -> bool:
    return (
        table.get("from") in (None, options.origin)
        and table.get("name") in (None, options.name)
        and ("from" in table or "name" in table)
    )


def _from_table(table: Mapping[str, Any], options: Options) -> CollectionOptions:
    """A new entry for a table that says where its collection comes from."""
    origin, name = table.get("from"), table.get("name")
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
    if options.source is not None:
        if options.collections or options.database:
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
