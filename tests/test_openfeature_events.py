"""Events of the OpenFeature provider: changed flags, data that grows old, a cache that is away.

Most tests are the SDK themselves, which gives a provider a function to tell events to: the SDK's
own handlers run in threads, in no order.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loader import PATIENCE, wait_for

import mmapcache
from mmapcache.testing import TestCache

pytest.importorskip("bson")
pytest.importorskip("openfeature")

from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent, ProviderEventDetails
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.provider import FeatureProvider, ProviderStatus

from mmapcache.openfeature import CacheProvider

NUMBERS = itertools.count()
READY, STALE = ProviderEvent.PROVIDER_READY, ProviderEvent.PROVIDER_STALE
ERROR, CHANGED = ProviderEvent.PROVIDER_ERROR, ProviderEvent.PROVIDER_CONFIGURATION_CHANGED


def flag() -> dict[str, Any]:
    """Each differs from those before: what is put as it was is no change."""
    return {"variants": {"on": True}, "default": "on", "metadata": {"number": next(NUMBERS)}}


class Told:
    """A provider, given to an SDK, and what it told."""

    def __init__(self, provider: CacheProvider) -> None:
        self.provider = provider
        self.events: list[tuple[ProviderEvent, ProviderEventDetails]] = []
        self.threads: set[threading.Thread] = set()
        provider.attach(self._told)

    def _told(
        self, provider: FeatureProvider, event: ProviderEvent, details: ProviderEventDetails
    ) -> None:
        assert provider is self.provider
        self.threads.add(threading.current_thread())
        self.events.append((event, details))

    def begin(self) -> None:
        self.provider.initialize(EvaluationContext())

    def taken(self) -> list[Any]:
        """What was told since the last call: the kind, or for changes the flags."""
        events, self.events = self.events, []
        return [details.flags_changed if event is CHANGED else event for event, details in events]

    def polled(self) -> list[Any]:
        """What a poll tells."""
        self.provider.poll()
        return self.taken()


@pytest.fixture
def filled(mmapcache_test: TestCache) -> TestCache:
    mmapcache_test.load({"flags": {"a": flag(), "b": flag(), "c": flag()}, "other": {"x": {}}})
    return mmapcache_test


@pytest.fixture
def told(filled: TestCache) -> Iterator[Callable[..., Told]]:
    """Makes a provider of `filled` that has begun."""
    made: list[Told] = []

    def make(**arguments: Any) -> Told:
        made.append(Told(CacheProvider(filled.cache, **arguments)))
        made[-1].begin()
        return made[-1]

    yield make
    for each in made:
        each.provider.shutdown()


def test_changed_flags_are_named(filled: TestCache, told: Callable[..., Told]) -> None:
    sdk = told()
    assert sdk.polled() == []
    with filled.writer.batch() as batch:
        batch.put("flags", "b", {"_id": "b", **flag()})
        batch.put("flags", "a", {"_id": "a", **flag()})
        batch.put("flags", 5, {"_id": 5})  # nobody can ask for a flag with this key
        batch.put("other", "y", {"_id": "y"})
    filled.delete("flags", "c")
    sdk.provider.poll()
    (_, details), *more = sdk.events
    assert (details.flags_changed, more) == (["a", "b", "c"], [])
    assert details.metadata == {"generation": filled.cache.generation}
    sdk.taken()
    filled.set("other", "x", {"n": 1})
    filled.set("flags", 5, {"n": 1})
    filled.advance()
    assert sdk.polled() == []


def test_where_it_is_not_known_which_changed(filled: TestCache, told: Callable[..., Told]) -> None:
    sdk = told()
    filled.drop("other")
    assert sdk.polled() == [], "another collection"
    filled.set("flags", "a", flag())
    assert sdk.polled() == [["a"]]
    filled.load({"other": {"x": {}}})
    filled.drop("other")
    assert sdk.polled() == [], "another one, after flags"
    filled.drop("flags")
    assert sdk.polled() == [None]
    filled.load({"other": {"x": {}}})
    filled.drop("other")
    assert sdk.polled() == [], "another one, where there are no flags"
    filled.load({"flags": {"a": flag()}})
    assert sdk.polled() == [["a"]]


def test_another_file_is_a_change(cache_path: Path) -> None:
    def publish(writer: mmapcache.Writer) -> None:
        with writer.batch() as batch:
            batch.put("flags", "a", {"_id": "a", **flag()})

    with mmapcache.Writer(cache_path, max_size="4MiB") as writer:
        publish(writer)
    with mmapcache.open(cache_path) as cache:
        sdk = Told(CacheProvider(cache))
        sdk.begin()
        with mmapcache.Writer(cache_path, max_size="4MiB", discard=True) as writer:
            publish(writer)
            assert wait_for(sdk.polled) == [None]
        with cache_path.open("r+b") as file:
            file.truncate(4096)
        assert wait_for(sdk.polled) == [ERROR]
        assert sdk.polled() == []
        with mmapcache.Writer(cache_path, max_size="4MiB", recreate=True) as writer:
            publish(writer)
            assert wait_for(sdk.polled) == [READY, None]


def test_data_that_grows_old(filled: TestCache, told: Callable[..., Told]) -> None:
    sdk, careless = told(max_age=60), told()
    filled.stale(3600)
    sdk.provider.poll()
    ((event, details),) = sdk.events
    assert (event, details.error_code) == (STALE, None)
    assert str(details.message).endswith(" s old, more than 60 s")
    sdk.taken()
    assert sdk.polled() == []
    with filled.writer.batch() as batch:  # the data changes, and is as old as before
        batch.put("flags", "a", {"_id": "a"})
    filled.stale(3600)
    assert sdk.polled() == [["a"]]
    filled.set("flags", "b", flag())
    assert sdk.polled() == [READY, ["b"]]
    filled.stale(3600)
    assert sdk.polled() == [STALE]
    filled.stale(0)
    assert sdk.polled() == [READY]
    assert careless.polled() == [["a", "b"]]


def test_a_closed_cache_is_the_end(filled: TestCache, told: Callable[..., Told]) -> None:
    sdk = told()
    assert sdk.provider.poll()
    filled.cache.close()
    assert not sdk.provider.poll()
    ((event, details),) = sdk.events
    assert (event, details.error_code) == (ERROR, ErrorCode.GENERAL)
    assert "closed" in str(details.message)
    assert not sdk.provider.poll()
    assert len(sdk.events) == 1
    with pytest.raises(ProviderNotReadyError, match="closed"):
        sdk.begin()


def test_it_is_ready_when_there_is_a_generation(mmapcache_test: TestCache) -> None:
    sdk = Told(CacheProvider(mmapcache_test.cache))
    assert not sdk.provider.poll(), "before the SDK has it"
    with pytest.raises(ProviderNotReadyError, match="nothing has been published yet"):
        sdk.begin()
    assert sdk.polled() == []
    mmapcache_test.load({"flags": {"a": flag()}})
    assert sdk.polled()[0] is READY
    sdk.provider.shutdown()
    mmapcache_test.set("flags", "a", {})
    assert sdk.polled() == []


def test_the_sdk_is_told(filled: TestCache) -> None:
    """Its status follows, and its handlers hear; a stale flag has its value."""
    heard: list[EventDetails] = []
    filled.stale(3600)
    provider = CacheProvider(filled.cache, max_age=60)
    try:
        api.set_provider_and_wait(provider, "events")
        client: OpenFeatureClient = api.get_client("events")
        client.add_handler(CHANGED, heard.append)
        assert client.get_provider_status() == ProviderStatus.READY
        provider.poll()
        assert client.get_provider_status() == ProviderStatus.STALE
        assert client.get_boolean_value("a", False) is True
        filled.set("flags", "a", flag())
        provider.poll()
        assert client.get_provider_status() == ProviderStatus.READY
        wait_for(lambda: heard)
        assert (heard[0].provider_name, heard[0].flags_changed) == ("mmapcache", ["a"])
    finally:
        api.clear_providers()


@pytest.mark.parametrize("given", ["in the loop", "in a thread", "before the loop"])
def test_an_event_loop_looks(
    filled: TestCache, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmapcache.openfeature_events._EVERY", 0.02)

    async def soon(condition: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.005)

        await asyncio.wait_for(wait(), PATIENCE)

    async def main(sdk: Told | None) -> Told:
        if sdk is None:
            sdk = Told(CacheProvider(filled.cache, max_age=60))
            if given == "in the loop":
                sdk.begin()
            else:
                await asyncio.get_running_loop().run_in_executor(None, sdk.begin)
        filled.set("flags", "a", flag())
        await soon(lambda: bool(sdk.events))
        assert sdk.taken() == [["a"]]
        filled.stale(3600)
        await soon(lambda: bool(sdk.events))
        assert sdk.taken() == [STALE]
        sdk.provider.shutdown()
        filled.set("flags", "a", {})
        await asyncio.sleep(0.1)
        assert sdk.taken() == []
        sdk.begin()
        filled.cache.close()
        await soon(lambda: bool(sdk.events))
        assert sdk.taken() == [ERROR]
        return sdk

    loop = asyncio.new_event_loop()
    sdk = None
    if given == "before the loop":
        sdk = Told(CacheProvider(filled.cache, max_age=60, loop=loop))
        sdk.begin()
    sdk = loop.run_until_complete(main(sdk))
    loop.close()
    with pytest.raises(ProviderNotReadyError):  # and no word of the loop
        sdk.begin()
    assert sdk.threads == {threading.current_thread()}


def test_a_thread_looks_when_it_is_asked_for(
    filled: TestCache, told: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmapcache.openfeature_events._EVERY", 0.02)

    def running() -> bool:
        return any(thread.name == "mmapcache-flags" for thread in threading.enumerate())

    told()
    assert not running()
    sdk = told(thread=True, max_age=60)
    filled.set("flags", "a", flag())
    assert wait_for(sdk.taken) == [["a"]]
    filled.stale(3600)
    assert wait_for(sdk.taken) == [STALE]
    sdk.provider.shutdown()
    wait_for(lambda: not running())
    filled.set("flags", "b", flag())
    assert sdk.taken() == []
    sdk.begin()
    filled.set("flags", "c", flag())
    assert wait_for(sdk.taken) == [["c"]]
    filled.cache.close()
    assert wait_for(sdk.taken) == [ERROR]
    wait_for(lambda: not running())


def test_a_forked_child_polls(filled: TestCache, told: Callable[..., Told]) -> None:
    """Though another thread of the parent was just telling."""
    sdk = told(thread=True)
    busy, done = threading.Event(), threading.Event()

    def hold() -> None:
        with sdk.provider._lock:
            busy.set()
            done.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert busy.wait(PATIENCE)
    filled.set("flags", "a", flag())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sdk.provider.poll()
            status = 0 if sdk.taken() == [["a"]] and threading.active_count() == 1 else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    done.set()
    holder.join()
    assert wait_for(sdk.taken) == [["a"]]


def test_wrong_arguments(filled: TestCache) -> None:
    for age in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_age"):
            CacheProvider(filled.cache, max_age=age)
    loop = asyncio.new_event_loop()
    with pytest.raises(ValueError, match="one of them"):
        CacheProvider(filled.cache, loop=loop, thread=True)
    loop.close()
