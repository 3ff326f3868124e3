"""MongoDB's rules for the names of databases and collections, and the cache's for collections."""

from __future__ import annotations

from mmapcache.sync.errors import UsageError
from mmapcache.sync.redaction import is_uri, redact

NAME_BYTES = 255  # the cache's own limit for a collection's name
DATABASE_BYTES = 63  # MongoDB's limit for a database's name


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
