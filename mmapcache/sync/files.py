"""Documents from files: Extended JSON (lines, arrays, anything between) and mongodump's .bson.

    settings.json      {"_id": 1, …}\n{"_id": 2, …}      or      [{"_id": 1, …}, {"_id": 2, …}]
    sites.bson         concatenated BSON, as mongodump writes it
    directory/         one collection for each such file, named after its stem

Nothing is watched: the files are read again at every refresh, so replace them by rename.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from mmapcache.sync.errors import (
    NoStreamsError,
    SourceAwayError,
    SourceRefusedError,
    UsageError,
)
from mmapcache.sync.names import check_name
from mmapcache.sync.source import Feed, Which

BUFFER_BYTES = 1 << 20  # what one buffer holds at least, unless it is the last
_MIN_DOCUMENT = 5  # bytes: length and terminator
_MAX_DOCUMENT = 16 * 1024 * 1024 + 16 * 1024  # MongoDB's own limit
_JSON = frozenset({".json", ".jsonl", ".ndjson"})
_SPACE = re.compile(r"[\s\ufeff]*")
_COMMA = re.compile(r"\s*,\s*")


class FileSource:
    """A file, or all files of a directory (not of those below it).

    :param path: what stands after `file:`
    :param allow_empty: publish a collection even when its file has become empty
    :raises UsageError: the suffix is none of .json, .jsonl, .ndjson, .bson
    """

    def __init__(self, path: str, *, allow_empty: bool) -> None:
        self._path = Path(path)
        self._allow_empty = allow_empty
        self.discovers = self._path.is_dir()
        if not self.discovers and not _reader_of(self._path):
            raise UsageError(f"{path}: only .json, .jsonl, .ndjson, .bson files and directories")

    @property
    def label(self) -> str:
        return f"file:{self._path}"

    @property
    def scope(self) -> str:
        return f"directory {self._path}" if self.discovers else "file"

    @property
    def identity(self) -> None:
        return None

    @property
    def moment(self) -> int:
        return 0

    @property
    def position(self) -> None:
        return None

    @property
    def polled(self) -> dict[str, str]:
        return {}

    def feeds(
        self,
        known: frozenset[str],
        *,
        estimate: bool,
        follow: bool = False,
        which: Which = "all",
    ) -> Iterable[Feed]:
        paths = sorted(self._files()) if self.discovers else [self._path]
        if not paths and not known and not self._allow_empty:
            raise SourceRefusedError(f"{self._path} has no .json or .bson file")
        seen: dict[str, Path] = {}
        for path in paths:
            try:
                check_name(path.stem)
            except UsageError as error:
                raise SourceRefusedError(f"{path}: {error}") from None
            if path.stem in seen:
                raise SourceRefusedError(
                    f"{seen[path.stem]} and {path} would both be the collection {path.stem!r}"
                )
            seen[path.stem] = path
            yield Feed(path.stem, str(path), self._allow_empty)

    def _files(self) -> Iterator[Path]:
        try:
            for path in self._path.iterdir():
                name = path.name
                skip = name.startswith((".", "system.")) or name.endswith(".metadata.json")
                if not skip and _reader_of(path) and path.is_file():
                    yield path
        except OSError as error:
            raise SourceAwayError(f"cannot read {self._path}: {error.strerror}") from None

    def buffers(self, feed: Feed) -> Iterator[bytes]:
        path = Path(feed.origin)
        read = _reader_of(path)
        assert read is not None
        try:
            yield from read(path)
        except FileNotFoundError:
            raise SourceRefusedError(f"there is no file {path}") from None
        except OSError as error:
            raise SourceAwayError(f"cannot read {path}: {error.strerror}") from None

    def follow(self, *_: object) -> NoReturn:
        raise NoStreamsError("files are read again, not followed")

    def identify(self, document: bytes) -> bytes:
        return document

    def answers(self) -> bool:
        return True

    def broken(self) -> tuple[()]:
        return ()

    def close(self) -> None:
        """Nothing is kept open between two loads."""


def _reader_of(path: Path) -> Callable[[Path], Iterator[bytes]] | None:
    suffix = path.suffix.lower()
    if suffix in _JSON:
        return read_json
    return read_bson if suffix == ".bson" else None


def read_bson(path: Path) -> Iterator[bytes]:
    """The file in buffers that end where a document ends.

    :raises SourceRefusedError: an impossible length, or an end that is cut short;
        with its offset
    """
    offset = 0  # of `rest` in the file
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(BUFFER_BYTES):
            rest += chunk
            end = _whole_documents(path, rest, offset)
            if end:
                yield rest[:end]
                rest, offset = rest[end:], offset + end
    if rest:
        raise SourceRefusedError(
            f"{path} is cut short: the document at offset {offset} has only {len(rest)} bytes left"
        )


def _whole_documents(path: Path, data: bytes, offset: int) -> int:
    """How many bytes of `data` are whole documents."""
    position = 0
    while position + 4 <= len(data):
        length = int.from_bytes(data[position : position + 4], "little", signed=True)
        if not _MIN_DOCUMENT <= length <= _MAX_DOCUMENT:
            raise SourceRefusedError(
                f"{path} is not BSON: the document at offset {offset + position} "
                f"claims {length} bytes"
            )
        if position + length > len(data):
            break
        if data[position + length - 1]:
            raise SourceRefusedError(
                f"{path} is not BSON: the document at offset {offset + position} has no end"
            )
        position += length
    return position


def read_json(path: Path) -> Iterator[bytes]:
    """The file's documents as BSON; the whole text is in memory while it is read.

    :raises SourceRefusedError: not Extended JSON, or a document without _id; with its line
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise SourceRefusedError(f"{path} is not UTF-8: byte {error.start}") from None
    encode, decoder = _extended_json()
    pending = bytearray()
    for start, document in _values(path, text, decoder):
        try:
            if not isinstance(document, dict):
                raise ValueError("not a document")
            if "_id" not in document:
                raise ValueError("the document has no _id, which is the key")
            pending += encode(document)
        except Exception as error:  # bson raises whatever its constructors raise
            raise SourceRefusedError(f"{path} line {_line(text, start)}: {error}") from None
        if len(pending) >= BUFFER_BYTES:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


def _extended_json() -> tuple[Callable[[dict[str, Any]], bytes], json.JSONDecoder]:
    try:
        import bson
        from bson import json_util
    except ImportError:
        raise SourceRefusedError(
            "Extended JSON needs pymongo, which is not installed: pip install 'mmapcache[mongodb]' "
            "(a .bson file does without)"
        ) from None
    # Dates stay milliseconds: a year past 9999 is no datetime, yet a date in BSON.
    options = json_util.JSONOptions(
        uuid_representation=bson.binary.UuidRepresentation.STANDARD,
        datetime_conversion=bson.DatetimeConversion.DATETIME_MS,
    )
    codec = bson.CodecOptions[dict[str, Any]](
        uuid_representation=bson.binary.UuidRepresentation.STANDARD
    )

    def hook(pairs: list[tuple[str, Any]]) -> Any:
        return json_util.object_pairs_hook(pairs, options)

    def encode(document: dict[str, Any]) -> bytes:
        return bson.encode(document, codec_options=codec)

    return encode, json.JSONDecoder(object_pairs_hook=hook)


def _values(path: Path, text: str, decoder: json.JSONDecoder) -> Iterator[tuple[int, Any]]:
    """Each value and where it starts: values one after the other, or the items of an array."""
    position = _skip(_SPACE, text, 0)
    array = text.startswith("[", position)
    if array:
        position = _skip(_SPACE, text, position + 1)
    while position < len(text) and not (array and text[position] == "]"):
        start = position
        try:
            value, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise SourceRefusedError(
                f"{path} line {error.lineno} column {error.colno}: {error.msg}"
            ) from None
        except Exception as error:  # a {"$oid": …} that is none, a nesting too deep
            raise SourceRefusedError(f"{path} line {_line(text, start)}: {error}") from None
        yield start, value
        position = _skip(_COMMA if array else _SPACE, text, end)
        if array and position == end:  # no comma: this must be the end
            position = _skip(_SPACE, text, end)
            break
    if array and (text[position : position + 1] != "]" or text[position + 1 :].strip()):
        raise SourceRefusedError(
            f"{path} line {_line(text, position)}: the array ends without its ]"
        )


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()
