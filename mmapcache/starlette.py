"""Starlette and FastAPI: documents as JSON.

async def site(request):
    return DocumentResponse(cache["sites"][request.path_params["key"]])
"""

from __future__ import annotations

import json
from typing import Any

try:
    from starlette.responses import JSONResponse
except ImportError as missing:
    raise ImportError("mmapcache.starlette needs Starlette: pip install starlette") from missing

import mmapcache

__all__ = ["DocumentResponse"]


class DocumentResponse(JSONResponse):
    """A JSONResponse of a document, or of anything with documents and their values in it.

    It raises TypeError for a value that has no place in plain JSON, and ValueError for a NaN that
    was taken out of its document; within one it is null. The body is written when it is made, by
    the thread that does so; nothing of it depends on a fork.
    """

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(
            content,
            default=mmapcache.json_default,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        ).encode()
