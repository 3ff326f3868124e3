"""The function that --transform names: how it is found, called, and judged.

It gets each document as a `mmapcache.Document`, which costs a microsecond and decodes what is
looked at, and gives a document (that one, or any mapping) or None, which leaves it out.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import mmapcache
from mmapcache.sync.errors import ShapeError, UsageError

_FORM = "must be package.module:function"
_WHERE = (
    "it is looked for where Python looks: installed packages and PYTHONPATH; the current directory "
    "counts only for `python -m mmapcache`"
)


class Transform:
    """The function, found and imported.

    :param text: `package.module:function`
    :raises UsageError: there is no such function, or importing it fails
    """

    def __init__(self, text: str) -> None:
        self.text = text
        module, name = _imported(text)
        self._function = _function(module, name, text)
        self.digest = _digest(module)

    def __call__(self, document: mmapcache.Document, shown: str) -> mmapcache.Document | None:
        """What becomes of a document.

        :param shown: its _id, for messages
        :raises ShapeError: the function failed, or gave something else than a document
        """
        try:
            result = self._function(document)
        except (Exception, SystemExit) as error:
            raise ShapeError(
                f"the transform {self.text} failed on the document with _id {shown}: "
                f"{_described(error)}"
            ) from error
        if result is document or result is None:
            return document if result is not None else None
        if isinstance(result, mmapcache.Document):
            return result
        if not isinstance(result, Mapping):
            raise ShapeError(
                f"the transform {self.text} made a {type(result).__name__} of the document with "
                f"_id {shown}: it must return a document (the one that it was given, or a dict) "
                "or None"
            )
        try:
            return mmapcache.Document(_encode()(result))
        except Exception as error:
            raise ShapeError(
                f"what the transform {self.text} made of the document with _id {shown} has no "
                f"BSON: {_described(error)}"
            ) from error


def _imported(text: str) -> tuple[ModuleType, str]:
    module, colon, name = text.partition(":")
    if not all((colon, module, name)) or not all(p.isidentifier() for p in module.split(".")):
        raise UsageError(f"the transform {text!r} {_FORM}")
    try:
        return importlib.import_module(module), name
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise UsageError(f"the transform {text} cannot be imported: {error}") from error
        raise UsageError(
            f"the transform {text} cannot be imported: there is no module {error.name!r}; {_WHERE}"
        ) from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"the transform {text} cannot be imported: {_described(error)}") from error


def _function(module: ModuleType, name: str, text: str) -> Callable[[mmapcache.Document], Any]:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        where = getattr(module, "__file__", None) or module.__name__
        raise UsageError(f"the transform {text} does not exist: there is no {name!r} in {where}")
    if not callable(found):
        raise UsageError(f"the transform {text} is a {type(found).__name__}, not a function")
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
        raise UsageError(f"the transform {text} must be a plain function that returns a document")
    function: Callable[[mmapcache.Document], Any] = found
    return function


def _digest(module: ModuleType) -> str:
    """Of the module's own file, so that another version of it counts as another transform."""
    try:
        content = Path(module.__file__ or "").read_bytes()
    except OSError:
        return ""
    return hashlib.sha256(content).hexdigest()[:16]


def _described(error: BaseException) -> str:
    """Type, text and the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = str(Path(__file__).parent)
    place = next((f for f in reversed(frames) if not f.filename.startswith((own, "<"))), None)
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return what if place is None else f"{what} ({place.filename} line {place.lineno})"


@functools.cache
def _encode() -> Callable[[Mapping[str, Any]], bytes]:
    """`bson.encode`, which also takes an Array that a document was asked for."""
    try:
        import bson
        from bson.codec_options import TypeRegistry
    except ImportError:
        raise ImportError(
            "pymongo is not installed: pip install 'mmapcache[mongodb]' (a transform that returns "
            "what it was given, or None, does without)"
        ) from None

    def fallback(value: Any) -> Any:
        return value.to_list() if isinstance(value, mmapcache.Array) else value

    options = bson.CodecOptions[dict[str, Any]](
        uuid_representation=bson.binary.UuidRepresentation.STANDARD,
        type_registry=TypeRegistry(fallback_encoder=fallback),
    )

    def encode(document: Mapping[str, Any]) -> bytes:
        return bson.encode(document, codec_options=options)

    return encode
