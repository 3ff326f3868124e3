"""Cache files and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmapcache


def fill(writer: mmapcache.Writer, name: str, *documents: dict[str, Any]) -> int:
    """Publishes documents under their _id; the generation."""
    with writer.batch() as batch:
        for document in documents:
            batch.put(name, document["_id"], document)
    assert batch.generation is not None
    return batch.generation


def make_cache(path: Path, *documents: dict[str, Any]) -> None:
    """A cache file whose loader has closed it, with one collection, sites."""
    with mmapcache.Writer(path, max_size="4MiB") as writer:
        fill(writer, "sites", *documents)
