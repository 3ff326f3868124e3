"""Django: documents as JSON.

def site(request, key):
    return DocumentResponse(cache["sites"][key])
"""

from __future__ import annotations

from typing import Any

try:
    from django.core.serializers.json import DjangoJSONEncoder
    from django.http import JsonResponse
except ImportError as missing:
    raise ImportError("mmapcache.django needs Django: pip install django") from missing

import mmapcache

__all__ = ["DocumentEncoder", "DocumentResponse"]


class DocumentEncoder(DjangoJSONEncoder):  # type: ignore[misc]
    """Django's own encoder, which takes documents and their values, too: `json.dumps(cls=...)`.

    Datetimes are written by `mmapcache.json_default`, to the microsecond. It raises TypeError for
    what has no plain form. One for each call, as of any encoder: threads and forks are no matter.
    """

    def default(self, value: Any) -> Any:
        """Something that JSON knows; TypeError when there is no such thing."""
        try:
            return mmapcache.json_default(value)
        except TypeError:
            return super().default(value)


class DocumentResponse(JsonResponse):  # type: ignore[misc]
    """A JsonResponse of a document, or of anything with documents and their values in it.

    It raises TypeError for a value that has no place in plain JSON. The body is written when it is
    made, by the thread that does so; nothing of it depends on a fork.
    """

    def __init__(self, data: Any, **options: Any) -> None:
        options.setdefault("encoder", DocumentEncoder)
        options.setdefault("safe", False)
        super().__init__(data, **options)
