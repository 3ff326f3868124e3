"""Our cache and the peers it is measured against, each filled in the way that suits it best."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bson
import cdbx
import lmdb

import mmapcache
from benchmarks import data, harness


def fill_cache(path: Path, documents: list[bytes], max_size: int = 0, **options: Any) -> str:
    """A file of ours with the documents in the collection `settings`; the path as text."""
    size = max_size or max(256 << 20, len(documents) * 700)
    with mmapcache.Writer(str(path), max_size=size, **options) as writer:
        put_all(writer, documents)
    return str(path)


def put_all(writer: mmapcache.Writer, documents: list[bytes]) -> None:
    """Put documents into the collection `settings` in one commit."""
    with writer.batch() as batch:
        for buffer in data.batches(documents):
            batch.put_raw("settings", buffer)


class Lmdb:
    """py-lmdb: one environment, the options its users choose for a cache on tmpfs."""

    def __init__(self, path: Path, max_size: int) -> None:
        """Create an environment in the file `path` with a map of `max_size` bytes."""
        self.path = path
        self.max_size = max_size
        self.environment = self.open()

    def open(self) -> lmdb.Environment:
        """Another handle, for the time when the first is closed (LMDB forbids two at once)."""
        return lmdb.open(
            str(self.path),
            map_size=self.max_size,
            subdir=False,
            sync=False,
            writemap=True,
            metasync=False,
        )

    def fill(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Put pairs in one transaction, sorted first, which LMDB rewards."""
        self.putmulti(sorted(pairs))

    def putmulti(self, pairs: list[tuple[bytes, bytes]], *, append: bool = False) -> None:
        """Put pairs as they come, in one transaction; `append` when all are in order."""
        with self.environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(pairs, append=append)

    def put(self, key: bytes, value: bytes) -> None:
        """Put and commit one pair."""
        with self.environment.begin(write=True) as transaction:
            transaction.put(key, value)

    def used(self) -> int:
        """Bytes of the pages in use."""
        info, stat = self.environment.info(), self.environment.stat()
        return (int(info["last_pgno"]) + 1) * int(stat["psize"])

    def close(self) -> None:
        """Close and remove the files."""
        self.environment.close()
        for path in (self.path, Path(f"{self.path}-lock")):
            path.unlink(missing_ok=True)


def make_cdb(path: Path, pairs: Iterable[tuple[str | bytes, bytes]]) -> Any:
    """A mapped `cdbx` database of the pairs, open for reading."""
    maker = cdbx.CDB.make(str(path), mmap=True)
    for key, value in pairs:
        maker.add(key, value)
    maker.commit().close()
    return cdbx.CDB(str(path), mmap=True)


def decoded(documents: Iterable[bytes]) -> dict[str, dict[str, Any]]:
    """What a worker without a shared cache holds: a dict of decoded documents by `_id`."""
    made: dict[str, dict[str, Any]] = {}
    for raw in documents:
        document = bson.decode(raw)
        made[document["_id"]] = document
    return made


class MongoServer:
    """A MongoDB-protocol server in a process of its own (SecantusDB, or any by URI)."""

    def __init__(
        self, uri: str | None = None, *, replica_set: str = "", directory: Path | None = None
    ) -> None:
        """Start a server, or use the one at `uri`; its files are in `directory` or in /tmp."""
        self.storage = tempfile.TemporaryDirectory(prefix="mmapcache-bench-mongo-", dir=directory)
        self.process: subprocess.Popen[str] | None = None
        if uri:
            self.uri = uri
            return
        code = (
            "import sys; from secantus import SecantusDBServer\n"
            "server = SecantusDBServer(\n"
            "    storage_path=sys.argv[1], port=0, replica_set_name=sys.argv[2] or None)\n"
            "server.start()\n"
            "print(server.uri, flush=True); sys.stdin.read(); server.stop()\n"
        )
        self.process, self.uri = harness.served(
            ["-c", code, self.storage.name, replica_set],
            "SecantusDB did not start: pip install SecantusDB==0.7.0b3",
        )

    def close(self) -> None:
        """Stop the server that was started and remove its files."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.storage.cleanup()
