"""MongoDB collections in one memory-mapped file, read by every worker at the speed of a dict.

    cache = mmapcache.open("/run/mmapcache/settings.mmc")   # before or after a fork
    cache["sites"]["9f3c"]["limits"]["qps"]

    with mmapcache.Writer("/run/mmapcache/settings.mmc") as writer, writer.batch() as batch:
        batch.put("sites", "9f3c", {"_id": "9f3c", "limits": {"qps": 50}})

Everything is in the C extension; this module names it.
"""

from __future__ import annotations

from ._mmapcache import (
    MAX_COLLECTIONS,
    MAX_DEPTH,
    MAX_DOCUMENT_BYTES,
    MAX_KEY_BYTES,
    MAX_NAME_BYTES,
    MAX_POSITION_BYTES,
    MAX_SIZE,
    MAX_STATE_BYTES,
    MIN_SIZE,
    Array,
    Batch,
    Cache,
    ClosedError,
    Collection,
    CollectionMap,
    CorruptError,
    Document,
    FormatError,
    FullError,
    Index,
    InvalidDocument,
    LimitError,
    LockTimeout,
    MmapCacheError,
    NotReadyError,
    Replace,
    Snapshot,
    SnapshotExpired,
    VersionError,
    Writer,
    json_default,
    object_id,
    open,  # noqa: A004 - mmapcache.open is how it is meant to be written
)

__all__ = [
    "MAX_COLLECTIONS",
    "MAX_DEPTH",
    "MAX_DOCUMENT_BYTES",
    "MAX_KEY_BYTES",
    "MAX_NAME_BYTES",
    "MAX_POSITION_BYTES",
    "MAX_SIZE",
    "MAX_STATE_BYTES",
    "MIN_SIZE",
    "Array",
    "Batch",
    "Cache",
    "ClosedError",
    "Collection",
    "CollectionMap",
    "CorruptError",
    "Document",
    "FormatError",
    "FullError",
    "Index",
    "InvalidDocument",
    "LimitError",
    "LockTimeout",
    "MmapCacheError",
    "NotReadyError",
    "Replace",
    "Snapshot",
    "SnapshotExpired",
    "VersionError",
    "Writer",
    "__version__",
    "json_default",
    "object_id",
    "open",
]

__version__ = "0.1.0"
