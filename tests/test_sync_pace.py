"""What keeps following cheap: events that are not decoded, and as many _ids in a find as pay."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from mmapcache.sync.mongo.event import Event, Token
from mmapcache.sync.mongo.pace import Pace
from mmapcache.sync.mongo.together import LEAST, MOST, Together

TOKEN = {"_data": "8263", "_typeBits": b"\x01"}
OPTIONS: Any = CodecOptions(document_class=Event)


def event(**fields: object) -> Event:
    return Event(bson.encode(fields), OPTIONS)


def test_the_token_of_an_event_is_its_id_without_decoding_the_rest() -> None:
    whole = bson.encode({"_id": TOKEN, "operationType": "update"})
    # What follows the token makes no sense, and nobody asks for it.
    broken = whole[:-12] + b"\x7f" * 11 + b"\0"
    token = Event(broken, OPTIONS)["_id"]
    assert token.raw == bson.encode(TOKEN)


def test_a_token_is_a_document_in_every_other_way() -> None:
    token = event(_id=TOKEN, operationType="update")["_id"]
    assert isinstance(token, Token)
    expected = RawBSONDocument(bson.encode(TOKEN))
    assert token["_data"] == "8263"
    assert dict(token) == dict(expected.items()) == dict(token.items())
    assert len(token) == 2
    assert copy.deepcopy(token) == expected
    assert bson.encode({"startAfter": token}) == bson.encode({"startAfter": TOKEN})


def test_an_event_whose_token_stands_elsewhere_is_decoded() -> None:
    assert dict(event(operationType="update", _id=TOKEN)["_id"]) == TOKEN
    assert event(_id=7)["_id"] == 7
    assert event(_id=TOKEN, operationType="update")["operationType"] == "update"
    with pytest.raises(KeyError):
        event(operationType="update")["_id"]


@pytest.mark.parametrize(
    ("cost", "least", "most"),
    [
        (lambda count: 300 + 3 * count, 512, MOST),  # a reply costs much, a document little
        (lambda count: 500 + 100 * count + 6 * count**2, LEAST, 32),  # each against each
    ],
    ids=["indexed", "compared"],
)
def test_lists_are_as_long_as_a_server_likes_them(
    cost: Callable[[int], float], least: int, most: int
) -> None:
    dice = random.Random(5)
    together = Together()
    asked = []
    for _ in range(300):
        asked.append(together.count)
        together.took(together.count, cost(together.count) * dice.uniform(0.8, 1.25))
    assert all(LEAST <= count <= MOST for count in asked)
    well = sum(count for count in asked if least <= count <= most)
    assert well > 0.9 * sum(asked)


def test_a_list_that_is_not_full_says_nothing() -> None:
    together = Together()
    together.took(3, 100.0)
    assert together.count == 64


def asked_for(rate: float, seconds: float) -> tuple[int, int]:
    """How often a stream of evenly spread events is asked: in the first half of the time, and in
    the second."""
    pace, now, halves = Pace(0.1, 0.0), 0.0, [0, 0]
    happened = 0
    while now < seconds:
        now = max(now, (happened + 1) / rate)  # the server answers when there is an event
        for _ in range(happened + 1, int(now * rate)):
            pace.event()
        happened = int(now * rate)
        halves[now > seconds / 2] += 1
        now += pace.reply(now) + 0.002
    return halves[0], halves[1]


def test_what_keeps_coming_one_by_one_is_asked_for_as_often_as_a_burst_may_last() -> None:
    first, second = asked_for(rate=250, seconds=20)
    assert 95 <= second <= 105
    assert first > second  # it might have been over soon


@pytest.mark.parametrize("rate", [1, 7, 25, 45])
def test_what_comes_now_and_then_is_not_waited_for(rate: int) -> None:
    assert sum(asked_for(rate, 20)) >= rate * 20 - 2


def test_a_stream_that_calms_down_is_not_waited_for_any_more() -> None:
    pace, now = Pace(0.1, 0.0), 0.0
    for _ in range(2000):
        now += 0.004
        pause = pace.reply(now)
    assert pause == 0.1
    pauses = []
    for _ in range(250):
        now += 0.04
        pauses.append(pace.reply(now))
    assert pauses[0] == 0.1
    assert not any(pauses[-5:])


def test_a_reply_of_many_events_is_worth_its_cost() -> None:
    pace, now = Pace(0.1, 0.0), 0.0
    for _ in range(200):
        now += 0.002
        pause = pace.reply(now)
        for _ in range(999):
            pace.event()
    assert pause == 0.0


def test_without_settling_nothing_is_waited_for() -> None:
    pace = Pace(0.0, 0.0)
    assert not any(pace.reply(0.001 * number) for number in range(100))
