"""Flask: documents as JSON in `jsonify`, in returned dicts and lists, and in Jinja's `tojson`.

app.json = mmapcache.flask.DocumentJSONProvider(app)
"""

from __future__ import annotations

from typing import Any

try:
    from flask.json.provider import DefaultJSONProvider
except ImportError as missing:
    raise ImportError("mmapcache.flask needs Flask: pip install flask") from missing

import mmapcache

__all__ = ["DocumentJSONProvider"]


def _default(value: Any) -> Any:
    try:
        return mmapcache.json_default(value)
    except TypeError:
        return DefaultJSONProvider.default(value)


class DocumentJSONProvider(DefaultJSONProvider):
    """Flask's own provider, which takes documents and their values, too.

    Datetimes are written in ISO 8601, by all of the application; Flask's own provider writes them
    as HTTP headers do. Everything else stays as it is. A view returns `jsonify(document)`, as Flask
    takes nothing but dicts and lists as they are. TypeError for what neither of the two knows. It
    keeps nothing: threads share it, and forked workers have it.
    """

    default = staticmethod(_default)
