"""The record of the ring as the module reads it, which anybody may have written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ring.conftest import StartServer
from ring.ring_servers import Connection, Refused, Server, make_ready, put, ring_record

from mmapcache.ring._ring import Clock
from mmapcache.ring.record import Record, RecordError, parse_record
from ring import twin

ids = st.text("abcXYZ019._-", min_size=1, max_size=64)
odd_ids = st.text(max_size=70)
epochs = st.integers(1, 2**53 - 1)
odd_numbers = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none(), st.just("7")
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=9,
)
changes = st.one_of(
    st.none(),
    st.fixed_dictionaries({"add": ids, "since": st.just(1)}),
    st.fixed_dictionaries({"drain": ids, "since": st.just(1), "clean": st.booleans()}),
    st.fixed_dictionaries({}, optional={"add": ids, "drain": odd_ids, "clean": anything}),
    anything,
)
records = st.fixed_dictionaries(
    {},
    optional={
        "version": st.one_of(st.just(1), st.just(1), odd_numbers),
        "epoch": st.one_of(epochs, epochs, odd_numbers),
        "nodes": st.one_of(
            st.lists(ids, min_size=1, max_size=5, unique=True),
            st.lists(odd_ids, max_size=3),
            anything,
        ),
        "change": changes,
        "other": anything,
    },
)
several = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def spare(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A node that is in no ring of these tests: it takes records, and serves nothing."""
    server = Server(kind, tmp_path_factory.mktemp("spare"), id_="not-in-it", fence=60_000).start()
    yield server.connect(hello=False)
    server.kill()


def give(node: Connection, record: bytes) -> str:
    """What is said of a record: OK or the first word of an error."""
    try:
        return str(node("RING.RING", record))
    except Refused as refused:
        return refused.word


@several
@given(records)
@example({"version": 1, "epoch": 1, "nodes": ["a"], "change": {"drain": "a"}})
@example({"version": 1, "epoch": 1, "nodes": ["a", "a"], "change": None})
@example({"version": 1, "epoch": 1, "nodes": [], "change": None})
@example({"version": 1, "epoch": 60.0, "nodes": ["a"], "change": None})
@example({"version": True, "epoch": 2, "nodes": ["a"], "change": None})
@example({"version": 1, "epoch": 2, "nodes": ["a"], "other": float("nan")})
@example({"version": 1, "epoch": 2, "nodes": ["a"], "other": 10**4000})
@example({"version": 1, "epoch": 2, "nodes": ["a"], "other": {"\0": 1}})
@example({"version": 1, "epoch": 2, "nodes": ["a"], "other": "\ud800"})
@example({"version": 1, "epoch": 1, "nodes": ["a"] * 129, "change": None})
@example({"version": 1, "epoch": 1, "nodes": ["a"], "change": {"add": "b", "drain": "b"}})
def test_module_and_clients_read_a_record_alike(spare: Connection, value: dict[str, Any]) -> None:
    """Those that the clients refuse are refused here; others are taken, but for their epoch."""
    epoch = spare.hello()["epoch"]
    if type(value.get("epoch")) is int and 0 < value["epoch"] < 2**53:
        value["epoch"] = max(1, epoch + value["epoch"] % 4 - 1)  # or none would be taken any more
    data = json.dumps(value).encode()
    said = give(spare, data)
    try:
        known: Record | None = parse_record(data)
    except RecordError:
        known = None
    if said == "OK":
        assert known is not None
        assert spare.hello()["epoch"] == known.epoch >= epoch
        assert set(spare.hello()["nodes"].split(",")) == {*known.nodes, *(known.other or ())}
    elif known is not None:
        assert (said == "EPOCH") == (known.epoch < epoch)
        assert known.epoch <= epoch, "it was to be taken"
        assert spare.hello()["epoch"] == epoch


@several
@given(st.binary(max_size=200))
@example(b"")
@example(b"[]")
@example(b"{}")
@example(b"[" * 60_000)
@example(b'{"version": 1, "epoch": 1, "nodes": ["a\\u0000b"], "change": null}')
@example(b'{"version": 1, "epoch": 1, "epoch": 2, "nodes": ["a"], "change": null}')
@example(b'{"version": 1, "epoch": 1, "nodes": ["a"], "change": null} x')
@example(b'{"version": 1, "epoch": 1, "nodes": ["a"], "change": null}\0')
@example(b"x" * 70_000)
def test_other_bytes_are_refused(spare: Connection, data: bytes) -> None:
    epoch = spare.hello()["epoch"]
    assert give(spare, data) == "ERR"
    assert spare.hello()["epoch"] == epoch


def test_epochs_only_rise(start_server: StartServer) -> None:
    node = start_server(id_="a").connect(hello=False)
    assert give(node, ring_record(5, ["a", "b"]).encode()) == "OK"
    assert give(node, ring_record(5, ["a", "b"]).encode()) == "OK"
    assert give(node, ring_record(5, ["a", "c"]).encode()) == "ERR"
    assert give(node, ring_record(4, ["a", "b"]).encode()) == "EPOCH"
    assert give(node, ring_record(9, ["a", "c"]).encode()) == "OK"
    assert node.hello()["nodes"] == "a,c"


def test_largest_ring(start_server: StartServer) -> None:
    nodes = ["a", *(f"{'n' * 60}-{number:03}" for number in range(127))]
    node = start_server(id_="a").connect(hello=False)
    assert give(node, ring_record(1, nodes).encode()) == "OK"
    make_ready(node)
    for number in range(300):
        key = b"key:%d" % number
        mine = "a" in twin.pair(nodes, key)
        [found] = node("RING.MGET", 1, key)
        assert (found is None) == mine
    change = {"drain": nodes[5], "since": 1}
    assert give(node, ring_record(2, nodes, change).encode()) == "OK"
    assert give(node, ring_record(3, nodes, {"add": "one-more"}).encode()) == "ERR"


def test_spare_serves_nothing_and_brings_nothing_along(start_server: StartServer) -> None:
    """A drained node that is added again must not bring what it held in the meantime."""
    server = start_server(id_="a")
    node = server.connect(hello=False)
    assert server.state() == "spare"
    assert node.refused("RING.GET", 0, b"k") == "STOPPED"
    give(node, ring_record(1, ["a", "b"]).encode())
    make_ready(node)
    assert node(*put(1, Clock().next(), 0, b"k", b"old")) == "OK"
    life = node.hello()["run_id"]
    assert give(node, ring_record(2, ["b"]).encode()) == "OK"
    assert (server.state(), node.refused("RING.GET", 2, b"k")) == ("spare", "STOPPED")
    assert give(node, ring_record(3, ["b"], {"add": "a"}).encode()) == "OK"
    again = server.connect(hello=False)
    assert again.refused("RING.GET", 3, b"k") == "STOPPED"
    said = again.hello()
    assert said["state"] == "joining"
    assert said["run_id"] != life
    assert again("DBSIZE") == 0
