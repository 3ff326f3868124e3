"""What the loader cuts out of a server's replies, and that PyMongo's stream goes on from it."""

from __future__ import annotations

import datetime
import os
import random
import threading
import uuid
from typing import Any

import pytest

bson = pytest.importorskip("bson")
pytest.importorskip("pymongo")

from bson import Binary, Int64, ObjectId, Regex, Timestamp  # noqa: E402
from support.loader import PATIENCE  # noqa: E402
from support.scripted_oplog import ReplicaSet  # noqa: E402
from support.scripted_server import CLOSE  # noqa: E402

import mmapcache  # noqa: E402
from mmapcache._mmapcache import cut_events, cut_ids  # noqa: E402
from mmapcache.sync.mongo import element  # noqa: E402
from mmapcache.sync.mongo.client import make_client  # noqa: E402
from mmapcache.sync.mongo.pace import Pace  # noqa: E402
from mmapcache.sync.mongo.stream import Changes, Stream  # noqa: E402
from mmapcache.sync.options import Options  # noqa: E402

IDS: list[Any] = [
    7,
    Int64(7),
    -1.5,
    "key",
    "Schlüssel \U0001f511",
    None,
    True,
    ObjectId(b"x" * 12),
    {"a": 1, "b": [1, {"c": "d"}]},
    Binary(b"abc", 0),
    Binary.from_uuid(uuid.UUID(int=5)),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    Timestamp(1, 2),
    Regex("a.*", "i"),
]
KINDS = ("insert", "update", "replace", "delete")


def of(value: Any) -> bytes:
    """Type and value of an _id."""
    alone = bson.encode({"_id": value})
    return bytes(alone[4:5] + alone[9:-1])


def event(number: int, **fields: Any) -> dict[str, Any]:
    made = {
        "_id": {"_data": f"82{number:08x}"},
        "operationType": KINDS[number % 4],
        "clusterTime": Timestamp(1_700_000_000 + number // 7, number % 7 + 1),
        "ns": {"db": "shop", "coll": ("sites", "tenants")[number // 5 % 2]},
        "documentKey": {"_id": IDS[number % len(IDS)]},
    } | fields
    return {name: value for name, value in made.items() if value is not ...}


ODD: list[dict[str, Any]] = [
    {"operationType": "drop", "documentKey": ...},
    {"operationType": "deleted"},
    {"operationType": 5},
    {"ns": {"db": "shop"}},
    {"ns": {"db": "shop", "coll": 5}},
    {"ns": ...},
    {"documentKey": {"n": 1}},
    {"documentKey": [1]},
    {"clusterTime": 5},
    {"clusterTime": ...},
    {"_id": ...},
    {"_id": "text"},
    {"documentKey": {"_id": bson.DBRef("a", 1)}, "ns": []},
]


def reply(events: list[dict[str, Any]], name: str = "nextBatch") -> bytes:
    token = {"_data": "8299"}
    cursor = {name: events, "id": Int64(5), "ns": "shop.$cmd", "postBatchResumeToken": token}
    return bytes(bson.encode(cursor))


def test_runs_of_changes_and_what_is_between_them() -> None:
    events = []
    for number in range(200):
        more: dict[str, Any] = {"txnNumber": Int64(1), "lsid": {}} if number % 11 == 3 else {}
        if number % 13 == 5:  # a sharded collection's key
            more["documentKey"] = {"region": "eu", "_id": IDS[number % len(IDS)]}
        if number % 17 == 0:
            more |= ODD[number // 17 % len(ODD)]
        events.append(event(number, **more))
    expected: list[Any] = []
    for number, each in enumerate(events):
        if number % 17 == 0:
            expected.append(bson.encode(each))
            continue
        change = (
            each["ns"]["coll"],
            of(each["documentKey"]["_id"]),
            each["clusterTime"].time << 32 | each["clusterTime"].inc,
            "txnNumber" not in each,
            each["operationType"] == "delete",
        )
        token = bson.encode(each["_id"])
        if not expected or isinstance(expected[-1], bytes):
            expected.append(([], token))
        expected[-1] = ([*expected[-1][0], change], token)
    cut = cut_events(reply(events, "firstBatch"))
    assert cut is not None
    name, parts, rest = cut
    assert (name, parts) == ("firstBatch", expected)
    cursor = bson.decode(rest)
    assert isinstance(cursor.pop("id"), Int64)  # an int of 32 bits would be refused as a cursor
    assert cursor == {"ns": "shop.$cmd", "postBatchResumeToken": {"_data": "8299"}}


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_an_odd_event_is_given_as_it_came(odd: dict[str, Any]) -> None:
    cut = cut_events(reply([event(1, **odd)]))
    assert cut is not None
    assert cut[1] == [bson.encode(event(1, **odd))]


def test_what_has_no_events_is_not_cut() -> None:
    empty = cut_events(reply([]))
    assert empty is not None
    assert empty[:2] == ("nextBatch", [])
    for cursor in [{}, {"id": 5}, {"nextBatch": 5}, {"batch": []}, {"nextBatch": [5]}]:
        assert cut_events(bson.encode(cursor)) is None
    assert cut_events(bson.encode({"nextBatch": [], "firstBatch": []})) is None
    with pytest.raises(TypeError):
        cut_events(None)  # type: ignore[arg-type]


def test_damage_is_never_more_than_another_answer() -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print("seed", seed)
    dice = random.Random(seed)
    whole = reply([event(number) for number in range(9)])
    documents = b"".join(bson.encode({"_id": each, "n": 1}) for each in IDS)
    for _ in range(4000):
        for data, cut in ((whole, cut_events), (documents, cut_ids)):
            damaged = bytearray(data)
            for _ in range(dice.randint(1, 3)):
                damaged[dice.randrange(len(data))] = dice.choice((0, 1, 3, 4, 0x7F, 0xFF))
            part = bytes(damaged)[: dice.randint(0, 2 * len(data))]
            try:
                found: Any = cut(part)
            except mmapcache.InvalidDocument:
                continue
            assert found is None or isinstance(found, (tuple, list))


def test_names_that_are_no_text_are_left_to_others() -> None:
    broken = reply([event(0)]).replace(b"sites", b"s\xff\xfees")
    cut = cut_events(broken)
    assert cut is not None
    assert isinstance(cut[1][0], bytes)


def test_ids_of_documents() -> None:
    documents = [bson.encode({"_id": each, "n": 1}) for each in IDS]
    buffer = b"".join([*documents, bson.encode({"n": 1}), bson.encode({"n": 1, "_id": 9})])
    assert cut_ids(buffer) == [*map(of, IDS), of(9)]
    assert cut_ids(memoryview(buffer)) == cut_ids(buffer)
    assert cut_ids(b"") == []
    with pytest.raises(mmapcache.InvalidDocument, match=r"no document begins at byte 14"):
        cut_ids(bson.encode({"_id": 7}) + b"\x08\0\0\0")


@pytest.mark.parametrize("count", [0, 1, 11, 2048, 2051])
def test_a_list_of_ids_is_what_pymongo_makes_of_it(count: int) -> None:
    values = [IDS[number % len(IDS)] for number in range(count)]
    assert element.one_of(list(map(of, values))) == bson.encode({"_id": {"$in": values}})


def test_a_reply_is_one_message_and_the_stream_goes_on_behind_it() -> None:
    """A connection that breaks between two replies costs and repeats nothing."""
    with ReplicaSet({"shop.sites": [{"_id": 0}]}) as server:
        options = Options("x", uri=server.uri)
        with make_client(server.uri, options, lambda _: None) as client:
            stream = Stream(client, "here", "shop", ["sites"])
            token = stream.begin()
            said: list[Any] = []
            seen = threading.Event()
            wanted = 600

            def post(message: object) -> None:
                if isinstance(message, Changes):
                    said.append(message)
                    if sum(len(each.changes) for each in said) >= wanted:
                        seen.set()

            server.insert("shop.sites", *({"_id": number} for number in range(1, 501)))
            stream.start(token, post, lambda: 0, Pace(0.1, 0.0))
            until = PATIENCE
            while not said and until:
                until -= not seen.wait(0.05)
            server.script("await", CLOSE)
            server.insert("shop.sites", *({"_id": number} for number in range(501, 601)))
            assert seen.wait(PATIENCE)
            stream.cancel()
            server.noop()
    ids = [one for message in said for _, one, _, _, _ in message.changes]
    assert ids == [of(number) for number in range(1, 601)]
    assert len(said) < 20
    assert stream.posted == 600


def test_a_stream_is_not_read_faster_than_changes_are_applied() -> None:
    pace, now, read = Pace(0.1, 0.0), 1.0, 0
    while now < 3.0:
        read += 1000
        now += pace.reply(now, 1000) + 0.0005
    assert 195_000 <= read <= 205_000
