"""Feature flags from a cache, for OpenFeature's SDK: `pip install 'mmapcache[openfeature]'`.

    openfeature.api.set_provider_and_wait(mmapcache.openfeature.CacheProvider(cache))
    client = openfeature.api.get_client()
    client.get_boolean_value("new-checkout", False, EvaluationContext("user-7", {"plan": "pro"}))

A flag is a document of the collection `flags`:

    {"_id": "new-checkout",
     "variants": {"on": true, "off": false},
     "default": "off",
     "rules": [{"if": {"plan": ["pro", "team"], "age": {"min": 18}}, "variant": "on"},
               {"split": {"on": 10, "off": 90}}]}

The first rule whose conditions all hold decides; `docs/flags.md` has the conditions. A changed
document counts from the next evaluation on, in every worker. Nothing here waits for anything. What
the provider tells by itself is in `openfeature_events.py`.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

try:
    from openfeature.evaluation_context import EvaluationContext
    from openfeature.exception import (
        FlagNotFoundError,
        GeneralError,
        ParseError,
        ProviderNotReadyError,
        TargetingKeyMissingError,
        TypeMismatchError,
    )
    from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
    from openfeature.provider import AbstractProvider, Metadata
except ImportError as missing:
    raise ImportError(
        "mmapcache.openfeature needs OpenFeature's SDK: pip install 'mmapcache[openfeature]'"
    ) from missing

import mmapcache
from mmapcache.changes import running_loop
from mmapcache.openfeature_events import InLoop, InThread, News

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["CacheProvider"]

_T = TypeVar("_T")
_TARGETING_KEY: Final = "targetingKey"
_FIELDS: Final = frozenset({"_id", "enabled", "variants", "default", "rules", "metadata"})
_RULE_FIELDS: Final = frozenset({"if", "variant", "split"})
_SCALARS: Final = (bool, int, float, str)


class CacheProvider(AbstractProvider):
    """An OpenFeature provider whose flags are the documents of one collection.

    :param cache: read at each evaluation; opened before a fork or after it
    :param collection: where the flags are; it need not be there yet
    :param max_age: the provider is stale while the data is older than so many seconds, by
        `status()["age"]`; None: it is never stale
    :param loop: looks for events; None: the event loop that runs in the thread in which the
        provider is made or given to the SDK. Where there is none, `poll` tells of them
    :param thread: a thread of its own looks for events, and no loop
    :raises ValueError: max_age is not more than 0, or there are both a loop and a thread

    Its methods raise OpenFeature's errors, which the SDK's client turns into the caller's default
    value and an error code. Any number of threads may use it. Events are looked for from the moment
    on in which the SDK is given the provider, and until it is given another one. Not in a child
    that is forked meanwhile: it may call `poll`, or give the SDK a provider of its own.
    """

    def __init__(
        self,
        cache: mmapcache.Cache,
        collection: str = "flags",
        *,
        max_age: float | None = None,
        loop: AbstractEventLoop | None = None,
        thread: bool = False,
    ) -> None:
        super().__init__()
        if max_age is not None and not max_age > 0:
            raise ValueError(f"max_age is {max_age!r}: give seconds, more than 0, or None")
        if thread and loop is not None:
            raise ValueError("a loop looks for events, or a thread: give one of them")
        self._cache = cache
        self._flags = cache.collection(collection)
        self._built = self._flags.map(_parse)
        self._max_age = max_age
        self._loop = running_loop() if loop is None else loop
        self._thread = thread
        self._news: News | None = None
        self._looking: InLoop | InThread | None = None
        self._lock = threading.RLock()  # over the two: events are told in their order
        _providers.add(self)

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Called by the SDK; ProviderNotReadyError when there is nothing to read yet."""
        with self._lock:
            self.shutdown()
            self._news = News(self._cache, self._flags.name, self._max_age)
            problem = self._news.begin()
            loop = self._loop
            if loop is None or loop.is_closed():
                loop = running_loop()
            if self._thread:
                self._looking = InThread(self._cache, self.poll)
            elif loop is not None:
                self._looking = InLoop(self._cache, loop, self.poll)
        if problem:
            raise ProviderNotReadyError(problem)

    def shutdown(self) -> None:
        """Called by the SDK: no event is told any more."""
        with self._lock:
            looking, self._looking, self._news = self._looking, None, None
            if looking is not None:
                looking.close()

    def poll(self) -> bool:
        """Tells of what has happened since it was told last; False: nothing more will.

        Some microseconds where nothing has, so that a service without an event loop may call it for
        each request. In any thread, also beside a loop or a thread that looks.

        - PROVIDER_CONFIGURATION_CHANGED: flags were put or deleted. `flags_changed` has their keys,
          or is None where it is not known which; `generation` in the metadata has the change.
        - PROVIDER_STALE, PROVIDER_READY: the data is older than `max_age`; is so no longer.
        - PROVIDER_ERROR, PROVIDER_READY: the cache cannot be read; can be read.
        """
        with self._lock:
            news = self._news
            if news is None:
                return False
            for event, details in news.look():
                self.emit(event, details)
            return not news.over

    def _forked(self) -> None:
        self._lock = threading.RLock()  # another thread of the parent may have held it
        self._loop = self._looking = None

    def get_metadata(self) -> Metadata:
        """Its name."""
        return Metadata(name="mmapcache")

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """A flag whose variants are true and false."""
        return self._resolve(flag_key, default_value, evaluation_context, _boolean)

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[str]:
        """A flag whose variants are text."""
        return self._resolve(flag_key, default_value, evaluation_context, _string)

    def resolve_integer_details(
        self,
        flag_key: str,
        default_value: int,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[int]:
        """A flag whose variants are whole numbers, of whatever type MongoDB has them."""
        return self._resolve(flag_key, default_value, evaluation_context, _integer)

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[float]:
        """A flag whose variants are numbers that a float holds exactly."""
        return self._resolve(flag_key, default_value, evaluation_context, _float)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """A flag whose variants are documents or arrays: a dict or list of the caller's own."""
        return self._resolve(flag_key, default_value, evaluation_context, _object)

    def _resolve(
        self,
        key: str,
        default: _T,
        context: EvaluationContext | None,
        convert: Callable[[Any], _T | None],
    ) -> FlagResolutionDetails[_T]:
        flag = self._flag(key)
        if not flag.enabled:
            return FlagResolutionDetails(
                default, reason=Reason.DISABLED, flag_metadata=flag.metadata
            )
        variant, reason = flag.choose(key, context or EvaluationContext())
        value = convert(flag.variants[variant])
        if value is None:
            kind = type(flag.variants[variant]).__name__
            raise TypeMismatchError(f"flag {key!r}: variant {variant!r} is of type {kind}")
        return FlagResolutionDetails(
            value, reason=reason, variant=variant, flag_metadata=flag.metadata
        )

    def _flag(self, key: str) -> _Flag:
        try:
            flag = self._built.get(key)
        except mmapcache.MmapCacheError as error:
            raise GeneralError(str(error)) from error
        except ParseError as error:
            raise ParseError(f"flag {key!r}: {error.error_message}") from error
        if flag is None:
            raise FlagNotFoundError(f"the collection {self._flags.name!r} has no flag {key!r}")
        return flag


@dataclass(frozen=True)
class _Rule:
    """`holds` for every condition: one variant has all the weight, or several share it."""

    conditions: tuple[tuple[str, Callable[[Any], bool]], ...]
    split: tuple[tuple[str, float], ...]
    is_split: bool


@dataclass(frozen=True)
class _Flag:
    """A document that was found to be a flag."""

    enabled: bool
    variants: Mapping[str, Any]
    default: str
    rules: tuple[_Rule, ...]
    metadata: Mapping[str, bool | int | float | str]

    def choose(self, key: str, context: EvaluationContext) -> tuple[str, Reason]:
        """The variant, and why."""
        for rule in self.rules:
            if all(test(_attribute(context, name)) for name, test in rule.conditions):
                if rule.is_split:
                    return _share(key, context.targeting_key, rule.split), Reason.SPLIT
                return rule.split[0][0], Reason.TARGETING_MATCH
        return self.default, Reason.DEFAULT if self.rules else Reason.STATIC


def _attribute(context: EvaluationContext, name: str) -> Any:
    if name == _TARGETING_KEY and context.targeting_key is not None:
        return context.targeting_key
    return context.attributes.get(name)


def _share(flag: str, targeting_key: str | None, split: tuple[tuple[str, float], ...]) -> str:
    """The same variant for the same key, always and everywhere."""
    if not targeting_key:
        raise TargetingKeyMissingError(f"flag {flag!r}: a split needs a targeting key")
    digest = hashlib.sha256(f"{flag}/{targeting_key}".encode("utf-8", "replace")).digest()
    point = int.from_bytes(digest[:4], "big") / 2**32 * sum(weight for _, weight in split)
    for variant, weight in split:
        point -= weight
        if point < 0:
            return variant
    return next(variant for variant, weight in reversed(split) if weight)


# ---- documents to flags ----


def _parse(document: mmapcache.Document) -> _Flag:
    def wrong(what: str) -> NoReturn:
        raise ParseError(what)

    plain = document.to_dict()
    if unknown := plain.keys() - _FIELDS:
        wrong(f"there is no field {min(unknown)!r} in a flag")
    variants = plain.get("variants")
    if not isinstance(variants, dict) or not variants:
        wrong("variants is a document with a value for each variant's name")
    enabled, rules = plain.get("enabled", True), plain.get("rules", [])
    metadata = plain.get("metadata", {})
    if not isinstance(enabled, bool):
        wrong("enabled is true or false")
    if plain.get("default") not in variants:
        wrong(f"default is the name of a variant: {_names(variants)}")
    if not isinstance(metadata, dict) or not all(
        isinstance(value, _SCALARS) for value in metadata.values()
    ):
        wrong("metadata is a document of text, numbers and bools")
    if not isinstance(rules, list):
        wrong("rules is an array")
    parsed = []
    for number, rule in enumerate(rules, 1):
        try:
            parsed.append(_rule(rule, variants))
        except ValueError as error:
            wrong(f"rule {number}: {error}")
    return _Flag(enabled, variants, plain["default"], tuple(parsed), metadata)


def _rule(rule: object, variants: dict[str, Any]) -> _Rule:
    if not isinstance(rule, dict):
        raise ValueError("it is a document")
    if unknown := rule.keys() - _RULE_FIELDS:
        raise ValueError(f"there is no field {min(unknown)!r} in a rule")
    if ("variant" in rule) == ("split" in rule):
        raise ValueError("it has either variant or split")
    split = rule.get("split", {rule.get("variant"): 1})
    if not isinstance(split, dict):
        raise ValueError("split is a document with a weight for each variant's name")
    for name, weight in split.items():
        if name not in variants:
            raise ValueError(f"{name!r} is no variant: {_names(variants)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ValueError(f"the weight of {name!r} is a number")
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"the weight of {name!r} is 0 or more")
    if not any(split.values()):
        raise ValueError("no variant of split has a weight")
    conditions = rule.get("if", {})
    if not isinstance(conditions, dict):
        raise ValueError("if is a document with a condition for each attribute's name")
    tests = tuple((name, _condition(name, wanted)) for name, wanted in conditions.items())
    return _Rule(tests, tuple(split.items()), "split" in rule)


def _condition(name: str, wanted: object) -> Callable[[Any], bool]:
    """A test of an attribute's value; None is an attribute that the context has not."""
    if isinstance(wanted, list):
        return lambda value: any(_equal(one, each) for one in _each(value) for each in wanted)
    if not isinstance(wanted, dict):
        return lambda value: any(_equal(one, wanted) for one in _each(value))
    tests = []
    for operator, operand in wanted.items():
        make = _OPERATORS.get(operator)
        if make is None:
            raise ValueError(f"{name!r}: there is no {operator!r}: {_names(_OPERATORS)}")
        try:
            tests.append(make(operand))
        except ValueError as error:
            raise ValueError(f"{name!r}: {operator} {error}") from None
    return lambda value: all(test(value) for test in tests)


def _not(operand: object) -> Callable[[Any], bool]:
    unwanted = operand if isinstance(operand, list) else [operand]
    return lambda value: (
        value is not None
        and not any(_equal(one, each) for one in _each(value) for each in unwanted)
    )


def _exists(operand: object) -> Callable[[Any], bool]:
    if not isinstance(operand, bool):
        raise ValueError("is true or false")
    return lambda value: (value is not None) is operand


def _bound(within: Callable[[Any, Any], bool]) -> Callable[[object], Callable[[Any], bool]]:
    def make(operand: object) -> Callable[[Any], bool]:
        if isinstance(operand, bool) or not isinstance(operand, (int, float)):
            raise ValueError("is a number")
        return lambda value: any(
            isinstance(one, (int, float)) and not isinstance(one, bool) and within(one, operand)
            for one in _each(value)
        )

    return make


def _text(within: Callable[[str, str], bool]) -> Callable[[object], Callable[[Any], bool]]:
    def make(operand: object) -> Callable[[Any], bool]:
        if not isinstance(operand, str):
            raise ValueError("is text")
        return lambda value: any(
            isinstance(one, str) and within(one, operand) for one in _each(value)
        )

    return make


_OPERATORS: Final[dict[str, Callable[[object], Callable[[Any], bool]]]] = {
    "not": _not,
    "exists": _exists,
    "min": _bound(lambda value, bound: bool(value >= bound)),
    "max": _bound(lambda value, bound: bool(value <= bound)),
    "prefix": _text(str.startswith),
    "suffix": _text(str.endswith),
}


def _each(value: Any) -> Sequence[Any]:
    """What a condition is tested on: the items of a list, or the value itself if there is one."""
    if isinstance(value, (list, tuple)):
        return value
    return () if value is None else (value,)


def _equal(one: object, other: object) -> bool:
    """As JSON has it: true is not 1."""
    return isinstance(one, bool) is isinstance(other, bool) and one == other


def _names(known: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, known))


# ---- values as the types that were asked for; None: it is of another one ----


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    number = float(value)
    return number if number == value or math.isnan(number) else None


def _object(value: Any) -> dict[str, Any] | list[Any] | None:
    return copy.deepcopy(value) if isinstance(value, (dict, list)) else None


# ---- forks ----

_providers: weakref.WeakSet[CacheProvider] = weakref.WeakSet()


def _after_fork() -> None:
    for provider in tuple(_providers):
        provider._forked()


os.register_at_fork(after_in_child=_after_fork)
