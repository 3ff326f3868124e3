"""Placement in C is what docs/ring.md says: its vectors, and a twin in plain Python."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapcache.ring._ring import MAX_ID_CHARACTERS, MAX_NODES, Placement
from ring import twin

DOCS = Path(__file__).parents[2] / "docs" / "ring.md"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

ids = st.text(LETTERS, min_size=1, max_size=MAX_ID_CHARACTERS).filter(
    lambda id_: id_ not in (".", "..")
)
rings = st.lists(ids, min_size=1, max_size=12, unique=True)
keys = st.binary(max_size=70)


def named(placement: Placement, indexes: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(placement.ids[index] for index in indexes)


def vectors() -> list[tuple[list[str], str, int, list[str]]]:
    """Nodes, key, hash and pair of each line of the table of the docs."""
    line = re.compile(
        r"^\| `([^`]*)` \| `([^`]*)` \| `([0-9a-f]{16})` \| `([^`]*)` \|$", re.MULTILINE
    )
    return [
        (nodes.split(), bytes.fromhex(key).decode(), int(hashed, 16), found.split())
        for nodes, key, hashed, found in line.findall(DOCS.read_text("utf-8"))
    ]


def test_vectors_of_the_docs() -> None:
    found = vectors()
    assert len(found) >= 12
    for nodes, key, hashed, expected in found:
        assert twin.hash64(key.encode()) == hashed
        placement = Placement(nodes)
        assert list(named(placement, placement.pair(key))) == expected
        assert list(twin.pair(nodes, key.encode())) == expected


@given(rings, keys)
def test_pair_is_the_twin_s(nodes: list[str], key: bytes) -> None:
    placement = Placement(nodes)
    assert placement.ids == tuple(nodes)
    assert named(placement, placement.pair(key)) == twin.pair(nodes, key)
    assert placement.holders(key) == placement.pair(key)


@given(
    rings.filter(lambda nodes: "x" * MAX_ID_CHARACTERS not in nodes),
    st.lists(keys, max_size=20),
    st.booleans(),
)
def test_primaries_are_those_of_the_pairs(
    nodes: list[str], some: list[bytes], changes: bool
) -> None:
    placement = Placement(nodes, [*nodes, "x" * MAX_ID_CHARACTERS] if changes else None)
    expected: list[list[int]] = [[] for _ in placement.ids]
    for index, key in enumerate(some):
        expected[placement.pair(key)[0]].append(index)
    assert placement.primaries(iter(some)) == expected


def test_primaries_of_what_is_no_key() -> None:
    placement = Placement(["a"])
    assert placement.primaries([]) == [[]]
    with pytest.raises(TypeError):
        placement.primaries(["a key", 1])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        placement.primaries(None)  # type: ignore[arg-type]


@given(st.lists(ids, min_size=2, max_size=12, unique=True), st.data(), keys)
def test_holders_in_a_change_are_the_union(
    nodes: list[str], data: st.DataObject, key: bytes
) -> None:
    one = data.draw(st.sampled_from(nodes))
    fewer = [node for node in nodes if node != one]
    for read, other in ((nodes, fewer), (fewer, nodes)):
        placement = Placement(read, change_to=other)
        assert named(placement, placement.pair(key)) == twin.pair(read, key)
        assert named(placement, placement.holders(key)) == twin.holders(read, other, key)


@given(rings, st.text(max_size=20))
def test_text_is_its_utf8(nodes: list[str], key: str) -> None:
    placement = Placement(nodes)
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            placement.pair(key)
    else:
        assert placement.pair(key) == placement.pair(encoded)
        assert placement.holders(key) == placement.holders(encoded)


def test_largest_ring() -> None:
    nodes = [f"node-{number:03}" for number in range(MAX_NODES)]
    whole, part = Placement(nodes), Placement(nodes[:-1], change_to=nodes)
    for number in range(200):
        key = b"key:%d" % number
        assert named(whole, whole.pair(key)) == twin.pair(nodes, key)
        assert named(part, part.holders(key)) == twin.holders(nodes[:-1], nodes, key)
    with pytest.raises(ValueError, match="128 nodes at most"):
        Placement([*nodes, "one-more"])
    with pytest.raises(ValueError, match="128 nodes at most"):
        Placement(nodes, change_to=[*nodes, "one-more"])


def test_order_of_the_ids_does_not_matter() -> None:
    nodes = ["c", "a", "b", "aa", "B", "_"]
    forwards, backwards = Placement(nodes), Placement(nodes[::-1])
    for number in range(500):
        key = f"key:{number}"
        assert named(forwards, forwards.pair(key)) == named(backwards, backwards.pair(key))


@pytest.mark.parametrize(
    "id_", ["", "x" * 65, "a b", "a/b", "ä", "a\0", "a\n", "a:1", "\ud800", ".", ".."], ids=ascii
)
def test_malformed_ids_are_refused(id_: str) -> None:
    with pytest.raises(ValueError):
        Placement(["a", id_])


def test_rings_that_cannot_be() -> None:
    for arguments, sentence in [
        (([],), "needs a node"),
        ((["a", "b", "a"],), "twice"),
        ((["a"], []), "needs a node"),
        ((["a", "b"], ["a", "b"]), "one node more"),
        ((["a", "b"], ["a", "c"]), "one node more"),
        ((["a", "b"], ["a", "c", "d"]), "one node more"),
        ((["a", "b"], ["a", "b", "c", "d"]), "one node more"),
        ((["a", "b", "c"], ["c"]), "one node more"),
        ((["a", "b"], ["a", "b", "b"]), "twice"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            Placement(*arguments)
    for wrong in ("ab", [1], [b"a"], 5, None):
        with pytest.raises(TypeError):
            Placement(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a key must be bytes or str, not int"):
        Placement(["a"]).pair(1)  # type: ignore[arg-type]


def test_load_is_even_and_a_change_moves_little() -> None:
    """200,000 keys on five nodes, and a sixth one added."""
    nodes = ["a", "b", "c", "d", "e"]
    before, after = Placement(nodes), Placement([*nodes, "f"])
    load = dict.fromkeys(range(5), 0)
    primaries = copies = 0
    for number in range(200_000):
        key = b"key:%d" % number
        old, new = before.pair(key), after.pair(key)
        for index in old:
            load[index] += 1
        primaries += old[0] != new[0]
        copies += 5 in new
        assert set(new) - set(old) <= {5}
    assert statistics.pstdev(load.values()) / 80_000 < 0.01
    assert abs(primaries / 200_000 - 1 / 6) < 0.01
    assert abs(copies / 200_000 - 1 / 3) < 0.01
