"""The OpenFeature provider, asked through the SDK's client.

The flags of the first tests are mostly those of the specification's kit for providers, which
test_openfeature_kit.py goes through whole; the others are of what the rules say.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import mmapcache
from mmapcache.testing import TestCache

pytest.importorskip("bson")
pytest.importorskip("openfeature")

from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ProviderNotReadyError
from openfeature.flag_evaluation import FlagEvaluationDetails
from openfeature.provider import ProviderStatus

from mmapcache.openfeature import CacheProvider

HIT = "5c3d8535-f81a-4478-a6d3-afaa4d51199e"
PICTURES = {"showImages": True, "title": "Check out these pics!", "imagesPerPage": 100}
BALLMER = [{"if": {"email": "ballmer@macrosoft.com"}, "variant": "zero"}]


def one(name: str, value: Any, **more: Any) -> dict[str, Any]:
    """A flag whose default is the variant `name`."""
    return {"variants": {name: value}, "default": name, **more}


FLAGS: dict[str, dict[str, Any]] = {
    "boolean-flag": {"variants": {"on": True, "off": False}, "default": "on"},
    "string-flag": one("greeting", "hi"),
    "object-flag": one("template", PICTURES),
    "float-zero-flag": one("zero", 0.0),
    "disabled-boolean-flag": one("on", True, enabled=False),
    "targeting-key-flag": {
        "variants": {"hit": "hit", "miss": "miss"},
        "default": "miss",
        "rules": [{"if": {"targetingKey": HIT}, "variant": "hit"}],
    },
    "targeted-zero-flag": one("zero", 0, rules=BALLMER),
    "metadata-flag": one("on", True, metadata={"string": "1.0.2", "integer": 2, "boolean": True}),
}


@pytest.fixture
def filled(mmapcache_test: TestCache) -> TestCache:
    mmapcache_test.load({"flags": FLAGS})
    return mmapcache_test


@pytest.fixture
def client(filled: TestCache) -> Iterator[OpenFeatureClient]:
    api.set_provider_and_wait(CacheProvider(filled.cache), "tests")
    yield api.get_client("tests")
    api.clear_providers()


def ask(
    client: OpenFeatureClient, kind: str, key: str, default: Any, *context: Any
) -> FlagEvaluationDetails[Any]:
    """As a service asks, and as an asynchronous one does: the same."""
    given = EvaluationContext(*context)
    details: FlagEvaluationDetails[Any]
    details = getattr(client, f"get_{kind}_details")(key, default, given)
    again = getattr(client, f"get_{kind}_details_async")(key, default, given)
    assert asyncio.run(again) == details
    return details


def test_what_the_kit_does_not_ask(client: OpenFeatureClient) -> None:
    """A float that is 0, and an object of what is none; contexts change nothing without a rule."""
    for context in ((), ("f20bd32d-703b-48b6-bc8e-79d53c85134a", {"email": "a@b"})):
        details = ask(client, "float", "float-zero-flag", 0.1, *context)
        assert (details.value, type(details.value)) == (0.0, float)
        assert (details.variant, details.reason) == ("zero", "STATIC")
        assert (details.error_code, details.error_message) == (None, None)
        details = ask(client, "object", "string-flag", {}, *context)
        assert (details.value, details.reason, details.error_code) == ({}, "ERROR", "TYPE_MISMATCH")


def test_reasons_and_metadata(client: OpenFeatureClient) -> None:
    other = "f20bd32d-703b-48b6-bc8e-79d53c85134a"
    for context, value, reason in (
        ((HIT,), "hit", "TARGETING_MATCH"),
        ((other,), "miss", "DEFAULT"),
        ((), "miss", "DEFAULT"),
    ):
        details = ask(client, "string", "targeting-key-flag", "fallback", *context)
        assert (details.value, details.variant, details.reason) == (value, value, reason)
    for email, reason in (
        ("ballmer@macrosoft.com", "TARGETING_MATCH"),
        ("ballmer@none.com", "DEFAULT"),
        (None, "DEFAULT"),
    ):
        details = ask(client, "integer", "targeted-zero-flag", 1, None, {"email": email})
        assert (details.value, details.reason) == (0, reason)
    details = ask(client, "boolean", "disabled-boolean-flag", False)
    assert (details.value, details.variant, details.reason) == (False, None, "DISABLED")
    details = ask(client, "boolean", "metadata-flag", False)
    assert details.flag_metadata == {"string": "1.0.2", "integer": 2, "boolean": True}


def test_a_change_counts_at_once(filled: TestCache, client: OpenFeatureClient) -> None:
    """An object is the caller's own."""
    mine = client.get_object_value("object-flag", {})
    assert isinstance(mine, dict)
    mine["title"] = "changed"
    assert client.get_object_value("object-flag", {}) == PICTURES
    filled.set("flags", "object-flag", one("new", {"a": [1]}))
    assert client.get_object_value("object-flag", {}) == {"a": [1]}
    filled.delete("flags", "object-flag")
    details = client.get_object_details("object-flag", {})
    assert details.error_code == "FLAG_NOT_FOUND"
    filled.cache.close()
    details = client.get_object_details("object-flag", {})
    assert (details.value, details.error_code) == ({}, "GENERAL")


def test_it_is_not_ready_without_a_generation(mmapcache_test: TestCache) -> None:
    try:
        with pytest.raises(ProviderNotReadyError):
            api.set_provider_and_wait(CacheProvider(mmapcache_test.cache), "empty")
        client = api.get_client("empty")
        assert client.get_provider_status() == ProviderStatus.ERROR
        assert client.get_string_details("string-flag", "no").value == "no"
        mmapcache_test.advance()
        api.set_provider_and_wait(CacheProvider(mmapcache_test.cache), "empty")
        assert client.get_provider_status() == ProviderStatus.READY
        assert client.provider.get_metadata().name == "mmapcache"
    finally:
        api.clear_providers()


@pytest.mark.parametrize(
    ("condition", "holds", "fails"),
    [
        ("pro", ["pro", ["free", "pro"]], ["free", None, 1, [], {"pro": 1}]),
        (["pro", 5], ["pro", 5, 5.0, [5]], ["5", None, True]),
        (1, [1, 1.0], [True, "1"]),
        (True, [True], [1, "true"]),
        ([], [], ["pro", None]),
        ({"not": "pro"}, ["free", 1], ["pro", None, ["free", "pro"]]),
        ({"not": ["pro", "team"]}, ["free"], ["team"]),
        ({"exists": True}, ["", 0, False], [None]),
        ({"exists": False}, [None], ["", 0, False]),
        ({"min": 18}, [18, 18.5, [1, 20]], [17.9, "20", None, True]),
        ({"min": 18, "max": 20}, [18, 20], [17, 21]),
        ({"prefix": "de-"}, ["de-AT"], ["at-de-", 5, None]),
        ({"suffix": "@example.org"}, ["a@example.org"], ["a@example.com"]),
        ({}, ["pro", None], []),
    ],
)
def test_conditions(
    filled: TestCache, client: OpenFeatureClient, condition: Any, holds: list[Any], fails: list[Any]
) -> None:
    rules = [{"if": {"plan": condition, "on": True}, "variant": "yes"}]
    filled.set("flags", "f", {"variants": {"yes": 1, "no": 0}, "default": "no", "rules": rules})
    for value in (*holds, *fails):
        attributes = {"plan": value, "on": True}
        wanted = int(any(value is each for each in holds))
        assert ask(client, "integer", "f", 9, "k", attributes).value == wanted, value
        assert ask(client, "integer", "f", 9, "k", {**attributes, "on": False}).value == 0


def test_the_first_rule_decides(filled: TestCache, client: OpenFeatureClient) -> None:
    rules = [{"if": {"a": 1}, "variant": "x"}, {"variant": "y"}, {"variant": "x"}]
    filled.set("flags", "f", {"variants": {"x": "x", "y": "y"}, "default": "x", "rules": rules})
    assert ask(client, "string", "f", "", "k", {"a": 1}).value == "x"
    details = ask(client, "string", "f", "", "k", {"a": 2})
    assert (details.value, details.reason) == ("y", "TARGETING_MATCH")


def test_a_split_is_by_the_targeting_key(filled: TestCache, client: OpenFeatureClient) -> None:
    """As docs/flags.md says how, so that another service divides its users in the same way."""
    flag = {"variants": {"a": "a", "b": "b", "c": "c"}, "default": "a"}
    filled.set("flags", "f", {**flag, "rules": [{"split": {"a": 10, "b": 0, "c": 30}}]})
    seen: Counter[str] = Counter()
    for number in range(400):
        key = f"user-{number}"
        digest = hashlib.sha256(f"f/{key}".encode()).digest()
        share = int.from_bytes(digest[:4], "big") / 2**32
        details = client.get_string_details("f", "", EvaluationContext(key))
        assert (details.value, details.reason) == ("a" if share < 0.25 else "c", "SPLIT")
        seen[details.value] += 1
    assert 60 < seen["a"] < 140
    details = ask(client, "string", "f", "none")
    assert (details.value, details.error_code) == ("none", "TARGETING_KEY_MISSING")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"variants": {}}, "variants is a document"),
        ({"default": "yes"}, "default is the name of a variant: 'on', 'off'"),
        ({"defaultVariant": "on"}, "there is no field 'defaultVariant' in a flag"),
        ({"enabled": "no"}, "enabled is true or false"),
        ({"metadata": {"a": [1]}}, "metadata is a document"),
        ({"rules": {}}, "rules is an array"),
        ({"rules": [{"variant": "on"}, {"variant": "onn"}]}, "rule 2: 'onn' is no variant"),
        ({"rules": ["on"]}, "rule 1: it is a document"),
        ({"rules": [{"if": {}}]}, "rule 1: it has either variant or split"),
        ({"rules": [{"when": {}, "variant": "on"}]}, "rule 1: there is no field 'when'"),
        ({"rules": [{"if": [], "variant": "on"}]}, "rule 1: if is a document"),
        ({"rules": [{"split": ["on"]}]}, "rule 1: split is a document"),
        ({"rules": [{"split": {"on": 0}}]}, "rule 1: no variant of split has a weight"),
        ({"rules": [{"split": {"on": -1, "off": 2}}]}, "the weight of 'on' is 0 or more"),
        ({"rules": [{"split": {"on": True}}]}, "the weight of 'on' is a number"),
        ({"rules": [{"if": {"a": {"gt": 1}}, "variant": "on"}]}, "'a': there is no 'gt': 'not'"),
        ({"rules": [{"if": {"a": {"min": "1"}}, "variant": "on"}]}, "'a': min is a number"),
        ({"rules": [{"if": {"a": {"prefix": 1}}, "variant": "on"}]}, "'a': prefix is text"),
        ({"rules": [{"if": {"a": {"exists": 1}}, "variant": "on"}]}, "'a': exists is true or"),
    ],
)
def test_a_wrong_flag_says_what_is_wrong(
    filled: TestCache, client: OpenFeatureClient, change: dict[str, Any], text: str
) -> None:
    filled.set("flags", "f", {**FLAGS["boolean-flag"], **change})
    details = ask(client, "boolean", "f", False)
    assert (details.value, details.error_code) == (False, "PARSE_ERROR")
    assert str(details.error_message).startswith("flag 'f': ")
    assert text in str(details.error_message)


def test_no_context_and_any_collection(mmapcache_test: TestCache) -> None:
    """The provider by itself, as other SDKs' code may call it."""
    provider = CacheProvider(mmapcache_test.cache, "settings")
    with pytest.raises(Exception, match="'settings' has no flag 'f'"):
        provider.resolve_boolean_details("f", False)
    mmapcache_test.set("settings", "f", one("on", True, rules=[{"if": {"a": 1}, "variant": "on"}]))
    assert provider.resolve_boolean_details("f", False).value is True
    assert isinstance(mmapcache_test.cache["settings"]["f"], mmapcache.Document)
