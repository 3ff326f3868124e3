"""KeyError holds the key that was asked for, whatever that is: a tuple is one key, too."""

from __future__ import annotations

from typing import Any

import pytest

import mmapcache

pytest.importorskip("bson")


@pytest.mark.parametrize("key", [("a", "b"), (), ("a",), 5, None])
def test_a_key_that_is_no_name(key: Any) -> None:
    with mmapcache.Writer.anonymous(max_size="2MiB") as writer:
        writer.put("c", 1, {"_id": 1})
        cache = writer.reader()
        with cache.snapshot() as snapshot:
            for mapping in (cache, snapshot, cache["c"][1]):
                with pytest.raises(KeyError) as caught:
                    mapping[key]
                assert caught.value.args == (key,)
