"""The OpenFeature provider and the specification's kit for providers, every scenario of it.

The kit is appendix F of OpenFeature's specification: `specification/assets/provider-tck`. It calls
itself experimental and had no release. Flags and expectations are those of its files as of these
commits of open-feature/spec, asked through openfeature-sdk 0.10:

    README 01eb57d, flags 009afe0, evaluation 0df2397, events 86ca9ba, reason 86ca9ba,
    metadata d0be842; errors with the scenarios of @string-typing and @fully-typed-values,
    lifecycle with those of shutdown and @reinitialization
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loader import wait_for

from mmapcache import testing

pytest.importorskip("bson")
pytest.importorskip("openfeature")

from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.provider import ProviderStatus

from mmapcache.openfeature import CacheProvider

ROOT = Path(__file__).resolve().parent.parent
HIT, MISS = "5c3d8535-f81a-4478-a6d3-afaa4d51199e", "f20bd32d-703b-48b6-bc8e-79d53c85134a"
PICTURES = {"showImages": True, "title": "Check out these pics!", "imagesPerPage": 100}
DEFAULTS: dict[str, Any] = {
    "boolean": False, "string": "fallback", "integer": 1, "float": 0.1, "object": {},
}  # fmt: skip


def flag(default: str, enabled: bool = True, **variants: Any) -> dict[str, Any]:
    """`_` in a variant's name is `-`."""
    named = {name.replace("_", "-"): value for name, value in variants.items()}
    return {"variants": named, "default": default, "enabled": enabled}


PLAIN: dict[str, dict[str, Any]] = {
    "boolean": {"default": "on", "on": True, "off": False},
    "string": {"default": "greeting", "greeting": "hi", "parting": "bye"},
    "integer": {"default": "ten", "one": 1, "ten": 10},
    "float": {"default": "half", "tenth": 0.1, "half": 0.5},
}
FLAGS: dict[str, dict[str, Any]] = {
    **{f"{kind}-flag": flag(**one) for kind, one in PLAIN.items()},
    **{f"disabled-{kind}-flag": flag(enabled=False, **one) for kind, one in PLAIN.items()},
    "large-integer-flag": flag("max-int32", one=1, max_int32=2**31 - 1),
    "huge-integer-flag": flag("max-safe", one=1, max_safe=2**53 - 1),
    "integral-float-flag": flag("ten", tenth=0.1, ten=10.0),
    "boolean-zero-flag": flag("zero", zero=False, non_zero=True),
    "integer-zero-flag": flag("zero", zero=0, non_zero=1),
    "string-zero-flag": flag("zero", zero="", non_zero="str"),
    "object-flag": flag("template", empty={}, template=PICTURES),
    "wrong-flag": flag("one", one="uno", two="dos"),
    "targeting-key-flag": {
        **flag("miss", miss="miss", hit="hit"),
        "rules": [{"if": {"targetingKey": HIT}, "variant": "hit"}],
    },
    "changing-flag": flag("foo", foo="foo", bar="bar"),
}


@pytest.fixture
def source() -> Iterator[testing.TestCache]:
    with testing.cache({"flags": FLAGS}) as test:
        yield test
    api.clear_providers()


def given(source: testing.TestCache, **arguments: Any) -> tuple[OpenFeatureClient, CacheProvider]:
    """A provider that the SDK has."""
    provider = CacheProvider(source.cache, **arguments)
    api.set_provider_and_wait(provider, "kit")
    return api.get_client("kit"), provider


def outcome(client: OpenFeatureClient, kind: str, key: str, *default: Any) -> tuple[Any, ...]:
    """Value, variant, reason and error code, the same asynchronously; an error names the flag."""
    wanted = default[0] if default else DEFAULTS[kind]
    context = EvaluationContext(*default[1:])
    details = getattr(client, f"get_{kind}_details")(key, wanted, context)
    again = getattr(client, f"get_{kind}_details_async")(key, wanted, context)
    assert asyncio.run(again) == details
    assert (details.error_message is None) == (details.error_code is None)
    if details.error_code in ("FLAG_NOT_FOUND", "TYPE_MISMATCH"):
        assert repr(key) in details.error_message
    assert type(details.value) is type(wanted)
    return details.value, details.variant, details.reason, details.error_code


@pytest.mark.parametrize(
    ("kind", "key", "default", "value", "variant"),
    [
        ("boolean", "boolean-flag", False, True, "on"),
        ("string", "string-flag", "bye", "hi", "greeting"),
        ("integer", "integer-flag", 1, 10, "ten"),
        ("float", "float-flag", 0.1, 0.5, "half"),
        ("boolean", "boolean-zero-flag", True, False, "zero"),
        ("integer", "integer-zero-flag", 1, 0, "zero"),
        ("string", "string-zero-flag", "fallback", "", "zero"),
        ("integer", "large-integer-flag", 1, 2147483647, "max-int32"),
        ("integer", "huge-integer-flag", 1, 9007199254740991, "max-safe"),
        ("object", "object-flag", {}, PICTURES, "template"),
        ("integer", "integral-float-flag", 1, 10, "ten"),
        ("float", "integer-flag", 0.1, 10.0, "ten"),
    ],
)
def test_evaluation(
    source: testing.TestCache, kind: str, key: str, default: Any, value: Any, variant: str
) -> None:
    client, _ = given(source)
    for context in ((), (MISS,), (MISS, {"email": "a@b"})):
        assert outcome(client, kind, key, default, *context) == (value, variant, "STATIC", None)


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        ("boolean", ["string", "wrong", "integer", "float", "object"]),
        ("integer", ["string", "boolean", "object", "float"]),
        ("float", ["string", "boolean", "object"]),
        ("string", ["boolean", "integer", "float", "object"]),
    ],
)
def test_errors(source: testing.TestCache, asked: str, keys: list[str]) -> None:
    client, _ = given(source)
    default = DEFAULTS[asked]
    for key in keys:
        found = outcome(client, asked, f"{key}-flag")
        assert found == (default, None, "ERROR", "TYPE_MISMATCH"), key
    assert outcome(client, asked, "missing-flag") == (default, None, "ERROR", "FLAG_NOT_FOUND")


def test_targeting_and_disabled_flags(source: testing.TestCache) -> None:
    client, _ = given(source)
    for context, variant, reason in (
        ((HIT,), "hit", "TARGETING_MATCH"),
        ((MISS,), "miss", "DEFAULT"),
        ((), "miss", "DEFAULT"),
    ):
        found = outcome(client, "string", "targeting-key-flag", "fallback", *context)
        assert found == (variant, variant, reason, None)
    for kind in PLAIN:
        found = outcome(client, kind, f"disabled-{kind}-flag")
        assert found == (DEFAULTS[kind], None, "DISABLED", None)


def test_events(source: testing.TestCache) -> None:
    """A change is told and applied; a source that is away, and is back, is told, too."""
    client, _ = given(source, max_age=60, thread=True)
    heard: dict[ProviderEvent, list[EventDetails]] = {event: [] for event in ProviderEvent}
    for event, details in heard.items():
        client.add_handler(event, details.append)
    wait_for(lambda: heard[ProviderEvent.PROVIDER_READY])
    before = outcome(client, "string", "changing-flag")
    source.set("flags", "changing-flag", {**FLAGS["changing-flag"], "default": "bar"})
    wait_for(lambda: heard[ProviderEvent.PROVIDER_CONFIGURATION_CHANGED])
    (change,) = heard[ProviderEvent.PROVIDER_CONFIGURATION_CHANGED]
    assert change.flags_changed == ["changing-flag"]
    assert outcome(client, "string", "changing-flag")[0] != before[0]
    heard[ProviderEvent.PROVIDER_READY].clear()
    source.stale(3600)
    wait_for(lambda: heard[ProviderEvent.PROVIDER_STALE])
    assert client.get_provider_status() == ProviderStatus.STALE
    source.advance()
    wait_for(lambda: heard[ProviderEvent.PROVIDER_READY])
    assert client.get_provider_status() == ProviderStatus.READY


def test_lifecycle_and_metadata(source: testing.TestCache) -> None:
    client, provider = given(source, thread=True)
    assert client.get_provider_status() == ProviderStatus.READY
    assert provider.get_metadata().name
    provider.shutdown()
    provider.shutdown()
    provider.initialize(EvaluationContext())
    assert outcome(client, "boolean", "boolean-flag") == (True, "on", "STATIC", None)


def test_a_provider_without_its_source() -> None:
    """An error is told, and defaults are given; it ends at once."""
    heard: list[EventDetails] = []
    with testing.cache() as test:
        provider = CacheProvider(test.cache, thread=True)
        try:
            client = api.get_client("kit")
            client.add_handler(ProviderEvent.PROVIDER_ERROR, heard.append)
            api.set_provider(provider, "kit")
            wait_for(lambda: heard)
            assert client.get_provider_status() == ProviderStatus.ERROR
            assert outcome(client, "boolean", "boolean-flag")[::2] == (False, "ERROR")
            provider.shutdown()
        finally:
            api.clear_providers()


def test_the_page_names_the_sdk_of_the_extra() -> None:
    oldest = re.search(r"openfeature-sdk>=([\d.]+)", (ROOT / "pyproject.toml").read_text("utf-8"))
    assert oldest is not None
    assert f"`openfeature-sdk` {oldest[1]}," in (ROOT / "docs/flags.md").read_text("utf-8")
