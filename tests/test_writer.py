"""Writer, Batch and Replace: what is published, what is refused, what stays as it was."""

from __future__ import annotations

import os
import stat
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import mmapcache

bson = pytest.importorskip("bson")
from bson.raw_bson import RawBSONDocument  # noqa: E402
from support.caches import make_cache  # noqa: E402


def content(writer: mmapcache.Writer, name: str) -> dict[Any, Any]:
    """A collection as a plain dict, read through a reader of its own."""
    with writer.reader() as cache:
        return {key: document.to_dict() for key, document in cache.collection(name).items()}


# ---- what is put ----


def test_every_shape_of_document(writer: mmapcache.Writer) -> None:
    raw = bson.encode({"_id": 1, "n": {"m": [1, 2]}})
    document = mmapcache.Document(raw)
    shapes: list[Any] = [
        {"_id": 1, "n": {"m": [1, 2]}},
        MappingProxyType({"_id": 1, "n": {"m": [1, 2]}}),
        RawBSONDocument(raw),
        document,
        raw,
        bytearray(raw),
        memoryview(raw),
    ]
    for key, shape in enumerate(shapes):
        with writer.batch() as batch:
            assert batch.put("sites", key, shape) is True
    with writer.reader() as cache:
        assert {cache["sites"].get_raw(key) for key in range(len(shapes))} == {raw}


def test_nested_documents_can_be_put(writer: mmapcache.Writer) -> None:
    document = mmapcache.Document(bson.encode({"_id": 1, "inner": {"_id": 2, "a": [1]}}))
    with writer.batch() as batch:
        batch.put("sites", 2, document["inner"])
    assert content(writer, "sites") == {2: {"_id": 2, "a": [1]}}


def test_uuids_are_encoded_as_the_standard_says(writer: mmapcache.Writer) -> None:
    key = uuid.uuid4()
    with writer.batch() as batch:
        batch.put("sites", key, {"_id": key})
    assert content(writer, "sites") == {key: {"_id": key}}


@pytest.mark.parametrize("document", [5, "text", [1], None, object()])
def test_what_is_no_document_is_a_type_error(writer: mmapcache.Writer, document: Any) -> None:
    with writer.batch() as batch:
        with pytest.raises(TypeError):
            batch.put("sites", 1, document)
        batch.put("sites", 2, {"_id": 2})
    assert content(writer, "sites") == {2: {"_id": 2}}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\x05\0\0\0",
        bson.encode({"a": 1}) + b"\0",
        bson.encode({"a": "é"})[:-3],
        {"a": object()},
    ],
)
def test_invalid_documents_are_refused_one_by_one(writer: mmapcache.Writer, document: Any) -> None:
    with writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})
        with pytest.raises(mmapcache.InvalidDocument):
            batch.put("sites", 2, document)
        batch.put("sites", 3, {"_id": 3})
    assert set(content(writer, "sites")) == {1, 3}


def test_put_raw_takes_many(writer: mmapcache.Writer) -> None:
    buffer = b"".join(bson.encode({"_id": n, "text": "x" * 1000}) for n in range(500))
    with writer.batch() as batch:
        assert batch.put_raw("sites", buffer) == 500
        assert batch.put_raw("sites", b"") == 0
        assert batch.put_raw("sites", memoryview(bytearray(buffer))) == 500
    assert batch.puts == 500
    assert batch.unchanged == 500
    assert len(content(writer, "sites")) == 500


@pytest.mark.parametrize("damage", ["cut", "no id", "array id", "garbage"])
def test_put_raw_says_which_document_is_bad(writer: mmapcache.Writer, damage: str) -> None:
    good = [bson.encode({"_id": n}) for n in range(3)]
    bad = {
        "cut": good[2][:-1],
        "no id": bson.encode({"a": 1}),
        "array id": bson.encode({"_id": [1]}),
        "garbage": b"\xff" * 20,
    }[damage]
    with writer.batch() as batch, pytest.raises(mmapcache.InvalidDocument, match="2"):
        batch.put_raw("sites", good[0] + good[1] + bad)
    with pytest.raises(TypeError), writer.batch() as batch:
        batch.put_raw("sites", "text")  # type: ignore[arg-type]


def test_a_key_other_than_the_id_and_the_last_put_wins(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        batch.put("sites", "other", {"_id": 1})
        batch.put("sites", 1, {"_id": 1, "n": 1})
        batch.put("sites", 1.0, {"_id": 1, "n": 2})
    assert content(writer, "sites") == {"other": {"_id": 1}, 1: {"_id": 1, "n": 2}}


def test_equal_bytes_change_nothing(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        assert batch.generation is None
        assert batch.put("sites", 1, {"_id": 1}) is True
        assert batch.put("sites", 1, {"_id": 1}) is False
    assert batch.generation == writer.generation == 1
    used = writer.stats()["bytes_used"]
    with writer.batch() as batch:
        assert batch.put("sites", 1, {"_id": 1}) is False
        assert batch.delete("sites", 2) is False
        assert batch.drop("nothing") is False
        with batch.replace("sites") as full:
            assert full.put(1, {"_id": 1}) is False
    assert batch.generation is None
    assert (batch.puts, batch.deletes, batch.unchanged) == (0, 0, 2)
    assert writer.generation == 1
    assert writer.stats()["bytes_used"] == used


def test_delete_and_drop_say_whether_there_was_something(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})
        assert batch.delete("sites", 1) is True
        assert batch.delete("sites", 1) is False
        assert batch.delete("nothing", 1) is False
        assert batch.delete("sites", "k" * 5000) is False
        assert batch.drop("sites") is True
        assert batch.drop("sites") is False
    assert content(writer, "sites") == {}


# ---- replace ----


def test_replace_is_the_whole_content(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        for n in range(10):
            batch.put("sites", n, {"_id": n})
    with writer.batch() as batch:
        with batch.replace("sites") as full:
            assert full.put(3, {"_id": 3}) is False
            assert full.put_raw(bson.encode({"_id": 20}) + bson.encode({"_id": 21})) == 2
        batch.put("flags", 1, {"_id": 1})
    assert set(content(writer, "sites")) == {3, 20, 21}
    assert set(content(writer, "flags")) == {1}
    assert (batch.puts, batch.deletes, batch.unchanged) == (3, 9, 1)


def test_an_empty_replace_empties(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})
    with writer.batch() as batch, batch.replace("sites"):
        pass
    with writer.reader() as cache:
        assert len(cache["sites"]) == 0


def test_an_exception_cancels_the_replace_alone(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})
    with writer.batch() as batch:
        batch.put("flags", 1, {"_id": 1})
        with pytest.raises(KeyError), batch.replace("sites") as full:
            full.put(2, {"_id": 2})
            batch.put("flags", 2, {"_id": 2})
            raise KeyError
        batch.put("flags", 3, {"_id": 3})
    assert set(content(writer, "sites")) == {1}
    assert set(content(writer, "flags")) == {1, 2, 3}


def test_replace_rules(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        first = batch.replace("sites")
        with pytest.raises(mmapcache.MmapCacheError, match="with"):
            first.put(1, {"_id": 1})
        with first:
            second = batch.replace("flags")
            with pytest.raises(mmapcache.MmapCacheError, match="open replace"):
                second.__enter__()
        with pytest.raises(mmapcache.MmapCacheError, match="over"):
            first.put(1, {"_id": 1})
        with pytest.raises(mmapcache.MmapCacheError, match="once"):
            first.__enter__()
        with pytest.raises(ValueError, match="empty"):
            batch.replace("")
    batch = writer.batch()
    batch.__enter__()
    open_one = batch.replace("sites")
    open_one.__enter__()
    with pytest.raises(mmapcache.MmapCacheError, match="within a replace"):
        batch.__exit__(None, None, None)
    assert content(writer, "sites") == {}


def test_a_forgotten_replace_is_cancelled(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})
        forgotten = batch.replace("sites")
        forgotten.__enter__()
        forgotten.put(2, {"_id": 2})
        del forgotten
    assert set(content(writer, "sites")) == {1}


# ---- batches ----


def test_an_exception_abandons_the_batch(writer: mmapcache.Writer) -> None:
    with pytest.raises(ZeroDivisionError), writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})
        raise ZeroDivisionError
    assert batch.generation is None
    assert writer.generation == 0
    assert content(writer, "sites") == {}


def test_batch_rules(writer: mmapcache.Writer) -> None:
    batch = writer.batch()
    with pytest.raises(mmapcache.MmapCacheError, match="with"):
        batch.put("sites", 1, {"_id": 1})
    with batch:
        with pytest.raises(mmapcache.MmapCacheError, match="open batch"):
            writer.batch().__enter__()
        with pytest.raises(AttributeError):
            print(batch.state)
        with pytest.raises(AttributeError):
            del batch.state
        with pytest.raises(TypeError):
            batch.state = "text"  # type: ignore[assignment]
    for call in (
        lambda: batch.put("sites", 1, {"_id": 1}),
        lambda: batch.put_raw("sites", b""),
        lambda: batch.delete("sites", 1),
        lambda: batch.drop("sites"),
        lambda: batch.replace("sites"),
        batch.__enter__,
        lambda: batch.__exit__(None, None, None),
    ):
        with pytest.raises(mmapcache.MmapCacheError):
            call()


def test_a_forgotten_batch_is_abandoned(writer: mmapcache.Writer) -> None:
    batch = writer.batch()
    batch.__enter__()
    batch.put("sites", 1, {"_id": 1})
    del batch
    with writer.batch() as batch:
        batch.put("sites", 2, {"_id": 2})
    assert set(content(writer, "sites")) == {2}


def test_closing_within_a_batch_abandons_it(cache_path: Path) -> None:
    writer = mmapcache.Writer(cache_path, max_size="4MiB")
    with pytest.raises(mmapcache.ClosedError), writer.batch() as batch:
        batch.put("sites", 1, {"_id": 1})
        full = batch.replace("flags")
        full.__enter__()
        writer.close()
        with pytest.raises(mmapcache.ClosedError):
            full.put(1, {"_id": 1})
        with pytest.raises(mmapcache.ClosedError):
            batch.put("sites", 1, {"_id": 1})
    with mmapcache.Writer(cache_path) as writer:
        assert writer.generation == 0


@pytest.mark.parametrize(
    ("name", "error"), [("", ValueError), ("a\0b", ValueError), (5, TypeError), (b"a", TypeError)]
)
def test_bad_names(writer: mmapcache.Writer, name: Any, error: type[Exception]) -> None:
    with writer.batch() as batch:
        for call in (
            lambda: batch.put(name, 1, {"_id": 1}),
            lambda: batch.put_raw(name, b""),
            lambda: batch.delete(name, 1),
            lambda: batch.drop(name),
            lambda: batch.replace(name),
        ):
            with pytest.raises(error):
                call()


@pytest.mark.parametrize("key", [[1], object(), {1}])
def test_bad_keys(writer: mmapcache.Writer, key: Any) -> None:
    with writer.batch() as batch:
        with pytest.raises(TypeError):
            batch.put("sites", key, {"_id": 1})
        with pytest.raises(TypeError):
            batch.delete("sites", key)


@pytest.mark.parametrize("alone", [False, True], ids=["in a batch", "alone"])
def test_a_document_that_closes_the_writer(cache_path: Path, alone: bool) -> None:
    """Converting it may run any code."""
    writer = mmapcache.Writer(cache_path, max_size="4MiB")

    class Hostile(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            return 1

        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[str]:
            writer.close()
            return iter(["_id"])

    with pytest.raises(mmapcache.ClosedError):
        if alone:
            writer.put("sites", 1, Hostile())
        with writer.batch() as batch:
            batch.put("sites", 1, Hostile())
    with pytest.raises(mmapcache.ClosedError):
        writer.delete("sites", 1)


# ---- the lock ----


def test_one_loader_at_a_time(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB"):
        with pytest.raises(mmapcache.LockTimeout) as error:
            mmapcache.Writer(cache_path)
        assert isinstance(error.value, TimeoutError)
        start = time.monotonic()
        with pytest.raises(mmapcache.LockTimeout):
            mmapcache.Writer(cache_path, timeout=0.2)
        assert time.monotonic() - start >= 0.2
    with mmapcache.Writer(cache_path):
        pass


def test_a_removed_lock_file_lets_nobody_in(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1})
        cache_path.with_name(cache_path.name + ".lock").unlink()
        with mmapcache.open(cache_path) as cache:
            assert cache.status()["loader"] == "alive"
            with pytest.raises(mmapcache.LockTimeout):
                mmapcache.Writer(cache_path, recreate=True, max_size="8MiB")
            with writer.batch() as batch:
                batch.put("sites", 2, {"_id": 2})
            assert set(cache["sites"]) == {1, 2}
    with mmapcache.Writer(cache_path):
        pass


def test_a_loader_waits_for_the_other_one(cache_path: Path) -> None:
    first = mmapcache.Writer(cache_path, max_size="4MiB")
    timer = threading.Timer(0.2, first.close)
    timer.start()
    with mmapcache.Writer(cache_path, timeout=30) as second:
        assert second.generation == 0
    timer.join()


# ---- the file ----


def test_options(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size=4 << 20, mode=0o600, collapse=False) as writer:
        assert stat.S_IMODE(cache_path.stat().st_mode) == 0o600
        assert writer.stats()["max_size"] == 4 << 20
        assert writer.path == str(cache_path)
        assert repr(writer) == f"<mmapcache.Writer {str(cache_path)!r}>"
    assert "closed" in repr(writer)
    with mmapcache.Writer(cache_path) as writer:
        assert writer.stats()["max_size"] == 4 << 20
    with mmapcache.Writer(cache_path, max_size="5MiB") as writer:
        assert 5 << 20 <= writer.stats()["max_size"] <= 6 << 20


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_size": 0}, ValueError),
        ({"max_size": "1 parsec"}, ValueError),
        ({"max_size": -5}, ValueError),
        ({"max_size": 1.5}, TypeError),
        ({"max_size": "1KiB"}, mmapcache.LimitError),
        ({"max_size": "2TiB"}, mmapcache.LimitError),
        ({"mode": 0o666}, ValueError),
        ({"mode": 0o440}, ValueError),
        ({"mode": 0o10640}, ValueError),
        ({"timeout": "long"}, TypeError),
        ({"retention": "long"}, TypeError),
        ({"nonsense": 1}, TypeError),
    ],
)
def test_bad_options(cache_path: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        mmapcache.Writer(cache_path, **options)
    assert not cache_path.exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("4194304", 4 << 20), ("4M", 4 << 20), ("4 MiB", 4 << 20), ("0.25GiB", 1 << 28),
     ("4096k", 4 << 20), ("16mb", 16_000_000)],
)  # fmt: skip
def test_sizes_as_text(cache_path: Path, text: str, size: int) -> None:
    with mmapcache.Writer(cache_path, max_size=text) as writer:
        assert size <= writer.stats()["max_size"] < size + (2 << 20)


def test_another_size_carries_the_content_over(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        for n in range(5):
            with writer.batch() as batch:
                batch.put("sites", n, {"_id": n})
                batch.state = b"five"
        generation = writer.generation
    with mmapcache.Writer(cache_path, max_size="16MiB") as writer:
        assert writer.stats()["max_size"] == 16 << 20
        assert writer.generation >= generation
        assert writer.state == b"five"
        assert set(content(writer, "sites")) == set(range(5))
        with writer.batch() as batch:
            batch.put("sites", 9, {"_id": 9})
        assert batch.generation is not None
        assert batch.generation > generation


@pytest.mark.parametrize("kind", ["foreign", "empty", "corrupt", "version"])
def test_a_file_that_is_not_ours_is_untouched(cache_path: Path, kind: str) -> None:
    if kind in ("corrupt", "version"):
        make_cache(cache_path, {"_id": 1})
        with cache_path.open("r+b") as file:
            file.seek(20 if kind == "corrupt" else 8)
            file.write(b"\xff" * 8 if kind == "corrupt" else b"\x01")
    else:
        cache_path.write_bytes(b"" if kind == "empty" else b"something else" * 1000)
    cache_path.chmod(0o640)
    before = cache_path.read_bytes()
    expected = {"corrupt": mmapcache.CorruptError, "version": mmapcache.VersionError}.get(
        kind, mmapcache.FormatError
    )
    with pytest.raises(expected):
        mmapcache.Writer(cache_path)
    with pytest.raises(expected):
        mmapcache.open(cache_path)
    assert cache_path.read_bytes() == before
    with mmapcache.Writer(cache_path, max_size="4MiB", recreate=True) as writer:
        with writer.batch() as batch:
            batch.put("sites", 2, {"_id": 2})
        assert set(content(writer, "sites")) == {2}


def test_unsafe_kinds_of_files_are_refused(cache_path: Path) -> None:
    real = cache_path.with_name("real")
    make_cache(real, {"_id": 1})
    cache_path.symlink_to(real)
    for use in (mmapcache.open, mmapcache.Writer):
        with pytest.raises(mmapcache.FormatError, match="link"):
            use(cache_path)
    cache_path.unlink()
    cache_path.mkdir()
    for use in (mmapcache.open, mmapcache.Writer):
        with pytest.raises(mmapcache.FormatError):
            use(cache_path)
    cache_path.rmdir()
    os.mkfifo(cache_path)
    for use in (mmapcache.open, mmapcache.Writer):
        with pytest.raises(mmapcache.FormatError):
            use(cache_path)
    real.chmod(0o666)
    for use in (mmapcache.open, mmapcache.Writer):
        with pytest.raises(mmapcache.FormatError, match="writ"):
            use(real)


def test_system_errors_keep_their_errno(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mmapcache.Writer(tmp_path / "no" / "such" / "directory")
    with pytest.raises((OSError, mmapcache.MmapCacheError)):
        mmapcache.Writer("/proc/cache")


def test_content_survives_the_loader(cache_path: Path) -> None:
    for n in range(3):
        with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
            assert writer.generation == n
            with writer.batch() as batch:
                batch.put("sites", n, {"_id": n})
                batch.state = str(n).encode()
    with mmapcache.open(cache_path) as cache:
        assert set(cache["sites"]) == {0, 1, 2}
        assert cache.state == b"2"
        assert cache.status()["loader"] == "none"


def test_checkpoint_on_a_disk_file(tmp_path: Path) -> None:
    with mmapcache.Writer(tmp_path / "cache", max_size="4MiB") as writer:
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1})
        writer.checkpoint()
        assert content(writer, "sites") == {1: {"_id": 1}}


# ---- reports ----


def test_report_cuts_long_text(writer: mmapcache.Writer) -> None:
    writer.report(state="s" * 100, error="é" * 1000, source="h" * 1000)
    status = writer.status()
    assert status["state"] == "s" * 31
    assert status["source"] == "h" * 255
    assert status["error"] is not None
    assert set(status["error"]) == {"é"}
    assert len(status["error"].encode()) <= 479


@pytest.mark.parametrize("wrong", [{"state": 5}, {"error": b"x"}, {"confirmed": "now"}, {"x": 1}])
def test_report_refuses_wrong_types(writer: mmapcache.Writer, wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        writer.report(**wrong)


def test_report_refuses_impossible_times(writer: mmapcache.Writer) -> None:
    for confirmed in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="confirmed"):
            writer.report(confirmed=confirmed)


# ---- full ----


def test_full_is_boring(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        with writer.batch() as batch:
            batch.put("sites", "small", {"_id": "small"})
        large = os.urandom(1 << 20)
        with pytest.raises(mmapcache.FullError) as error, writer.batch() as batch:
            for n in range(10):
                batch.put("sites", n, {"_id": n, "v": large})
        full = error.value
        assert full.needed > len(large)
        assert full.limit == 4 << 20
        assert 0 <= full.largest <= full.free <= full.limit
        assert content(writer, "sites") == {"small": {"_id": "small"}}
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1, "v": large})
        assert set(content(writer, "sites")) == {"small", 1}


def test_a_put_that_does_not_fit_leaves_the_batch_usable(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1})
            with pytest.raises(mmapcache.FullError):
                batch.put("sites", 2, {"_id": 2, "v": b"v" * (8 << 20)})
            batch.put("sites", 3, {"_id": 3})
        assert set(content(writer, "sites")) == {1, 3}


def test_refreshing_for_ever_does_not_fill(cache_path: Path) -> None:
    with mmapcache.Writer(cache_path, max_size="4MiB", retention=0) as writer:
        for turn in range(200):
            with writer.batch() as batch, batch.replace("sites") as full:
                for n in range(100):
                    full.put(n, {"_id": n, "v": os.urandom(5000), "turn": turn})
        with writer.reader() as cache:
            cache.check()
            assert {document["turn"] for document in cache["sites"].values()} == {199}


# ---- anonymous ----


def test_anonymous(cache_path: Path) -> None:
    with mmapcache.Writer.anonymous(max_size="4MiB") as writer:
        assert writer.path == ""
        cache = writer.reader()
        assert cache.generation == 0
        with writer.batch() as batch:
            batch.put("sites", 1, {"_id": 1})
        assert cache["sites"][1] == {"_id": 1}
        assert cache.path == ""
        assert cache.status()["loader"] == "alive"
    assert cache["sites"][1] == {"_id": 1}
    assert cache.status()["loader"] == "none"
    assert not cache_path.exists()
    with pytest.raises(mmapcache.ClosedError):
        writer.reader()


def test_one_document_without_a_batch(writer: mmapcache.Writer) -> None:
    before = writer.generation
    assert writer.put("sites", "a", {"_id": "a", "n": 1}) is True
    assert writer.put("sites", "a", {"_id": "a", "n": 1}) is False
    assert writer.put("sites", "b", {"_id": "b"}) is True
    assert writer.generation == before + 2
    cache = writer.reader()
    assert cache["sites"]["a"] == {"_id": "a", "n": 1}
    assert writer.delete("sites", "a") is True
    assert writer.delete("sites", "a") is False
    assert writer.delete("nothing", 5) is False
    assert list(cache["sites"]) == ["b"]
    assert writer.generation == before + 3


def test_one_document_that_is_refused(writer: mmapcache.Writer) -> None:
    before = writer.generation
    with pytest.raises(mmapcache.InvalidDocument):
        writer.put("sites", "a", b"no document")
    with pytest.raises(TypeError):
        writer.put("sites", "a", 5)  # type: ignore[arg-type]
    with pytest.raises(mmapcache.LimitError):
        writer.put("sites", "k" * 2000, {"_id": 1})
    with pytest.raises(TypeError, match="3"):
        writer.put("sites", "a")  # type: ignore[call-arg]
    with writer.batch() as batch:
        with pytest.raises(mmapcache.MmapCacheError, match="open batch"):
            writer.put("sites", "a", {})
        with pytest.raises(mmapcache.MmapCacheError, match="open batch"):
            writer.delete("sites", "a")
        batch.put("sites", "b", {})
    assert writer.generation == before + 1
    assert writer.put("sites", "a", {}) is True
