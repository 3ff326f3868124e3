"""What becomes of collections in the cache that the source did not deliver, or only empty."""

from __future__ import annotations

from collections.abc import Iterable

from mmapcache.sync.options import Options
from mmapcache.sync.source import Source

_NAMED = 5  # collections that a status text names before it counts the rest


def absent(
    options: Options, source: Source, before: object, names: Iterable[str], known: frozenset[str]
) -> tuple[list[str], list[str]]:
    """Those that are kept and those that are dropped.

    With the scope of the commit before they have vanished, which counts as coming back empty.
    With another scope the operator no longer asks for them. What no loader put there stays.

    :param before: the scope of the commit before; None: that was no loader's
    :param names: the collections in question
    :param known: collections with content in the cache
    """
    kept: list[str] = []
    dropped: list[str] = []
    if before is None:
        return kept, dropped
    own = {c.name: c.allow_empty for c in options.collections}
    for name in sorted(names):
        if vanished(source, before) and name in known and not own.get(name, options.allow_empty):
            kept.append(name)
        else:
            dropped.append(name)
    return kept, dropped


def vanished(source: Source, before: object) -> bool:
    """Whether what is absent was there before, rather than not asked for any more."""
    return source.discovers and before == source.scope


def some_of(names: list[str], comma: str = ", ") -> str:
    """The names as text; of many the first few and how many more there are."""
    rest = len(names) - _NAMED
    return comma.join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def kept_sentence(names: list[str]) -> str:
    """What is said of collections that are kept although they came back empty."""
    return (
        f"came back empty, kept with its last content: {some_of(names)} "
        "(--allow-empty publishes an empty collection)"
    )
