"""When a collection last changed, also where the file no longer has the time of that generation.

The file keeps the times of its last thousand generations. Of a change before those it is known what
came after it, so that one can say: more than 3 h 10 min ago.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import mmapcache

if TYPE_CHECKING:
    from mmapcache.types import CatalogueEntry


def changed_before(
    cache: mmapcache.Cache, collections: Mapping[str, CatalogueEntry]
) -> dict[str, float]:
    """Of each collection whose `changed_at` is None: a moment, in Unix seconds, that is after its
    last change, and as early a one as the file tells.

    :param cache: asked for its status and its history
    :param collections: what `catalogue` or `check` said
    :raises MmapCacheError: the file cannot be read
    """
    lost = {name: c["changed"] for name, c in collections.items() if c["changed_at"] is None}
    if not lost:
        return {}
    # Generations, and moments at which they were there.
    known = [(c["changed"], c["changed_at"]) for c in collections.values() if c["changed_at"]]
    status = cache.status()
    if status["published_at"]:
        known.append((status["generation"], status["published_at"]))
    history = cache.history()
    # What was added up is written later than it ended, with the generation of then: that was there
    # at the end of what follows it.
    for past, following in pairwise(history):
        known.append((past["generation"], following["started_at"] + following["seconds"]))
    known.sort()
    generations = [generation for generation, _ in known]
    # By place in these, the earliest moment of this generation and the later ones.
    moments = [*accumulate((moment for _, moment in reversed(known)), min)][::-1]
    places = {name: bisect_left(generations, changed) for name, changed in lost.items()}
    return {name: moments[place] for name, place in places.items() if place < len(moments)}
