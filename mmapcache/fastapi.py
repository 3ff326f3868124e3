"""FastAPI: documents as JSON, returned from an endpoint as they are or in a DocumentResponse.

mmapcache.fastapi.register_encoders()        # once, at import

@app.get("/sites/{key}", response_model=None)
def site(key: str) -> mmapcache.Document:
    return cache["sites"][key]
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

try:
    from fastapi.encoders import ENCODERS_BY_TYPE, jsonable_encoder
except ImportError as missing:
    raise ImportError("mmapcache.fastapi needs FastAPI: pip install fastapi") from missing

import mmapcache
from mmapcache.rare import RareValue
from mmapcache.starlette import DocumentResponse

__all__ = ["DocumentResponse", "register_encoders"]

_WITHIN: Final = {datetime: mmapcache.json_default, bytes: mmapcache.json_default}


def register_encoders() -> None:
    """Teaches FastAPI's `jsonable_encoder` documents, arrays and MongoDB's ids and decimals.

    What it makes of them is what `mmapcache.json_default` does; other values of the service stay as
    they are. It holds for all threads of the process, and for workers that are forked after it:
    call it at import, before requests are answered. Calling it again is harmless.

    FastAPI validates an endpoint's value with pydantic where there is a return type or a
    `response_model`; give `response_model=None` where a document is returned, or return a
    DocumentResponse, which is faster, too.
    """
    ENCODERS_BY_TYPE[mmapcache.Document] = _encode
    ENCODERS_BY_TYPE[mmapcache.Array] = _encode
    ENCODERS_BY_TYPE[mmapcache.object_id] = mmapcache.json_default
    ENCODERS_BY_TYPE[RareValue] = mmapcache.json_default
    try:
        from bson import Binary, DBRef, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp
    except ImportError:
        return  # then no value is one
    for scalar in (Binary, DBRef, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp):
        ENCODERS_BY_TYPE[scalar] = mmapcache.json_default


def _encode(value: mmapcache.Document | mmapcache.Array) -> Any:
    return jsonable_encoder(mmapcache.json_default(value), custom_encoder=_WITHIN)
