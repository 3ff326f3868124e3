"""What a loader reads, where any source will do: a file with one document, and the flags for it."""

from __future__ import annotations

from pathlib import Path

ONE = b"\x0e\0\0\0\x10_id\0\x01\0\0\0\0"


def write(directory: Path) -> Path:
    """The file, in a directory."""
    path = directory / "sites.bson"
    path.write_bytes(ONE)
    return path


def flags(source: Path, *more: str) -> list[str]:
    """For a loader that reads it once an hour."""
    return [f"--source=file:{source}", "--interval=3600", *more]
