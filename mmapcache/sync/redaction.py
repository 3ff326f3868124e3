"""Keeps a connection string's secrets out of everything that the loader writes.

Secrets are registered once, where a URI is read; every log line, usage message, status text and
traceback passes through `redact` on its way out. Text that merely looks like a MongoDB URI is
stripped to scheme and hosts even when it was never registered (a mistyped flag, say).
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

_MASK = "***"
_URI = re.compile(r"mongodb(?:\+srv)?://[^\s'\"]*[^\s'\".,:;)]", re.IGNORECASE)
_PORT = re.compile(r":(?!\d*(?:,|$))")  # a colon that no port follows
_SECRET_OPTIONS = frozenset(
    {"authmechanismproperties", "tlscertificatekeyfilepassword", "ssl_pem_passphrase"}
    | {"proxypassword", "proxyusername", "password"}
)
_registered: set[str] = set()


def split_uri(uri: str) -> tuple[str, str, str, str]:
    """Splits a URI, valid or not, into (scheme://, userinfo, hosts, the rest from / or ? on).

    Everything before the last @ counts as userinfo: in a password whose @ or / was not escaped that
    is the only safe reading.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return "", "", "", uri
    options_start = rest.find("?", rest.rfind("@") + 1)
    options = "" if options_start < 0 else rest[options_start:]
    body = rest if options_start < 0 else rest[:options_start]
    userinfo, _, address = body.rpartition("@")
    hosts, slash, path = address.partition("/")
    return scheme + separator, userinfo, hosts, slash + path + options


def public_uri(uri: str) -> str:
    """The URI without userinfo, path and options: what may be shown."""
    scheme, userinfo, hosts, _ = split_uri(uri)
    if not userinfo and "[" not in hosts and _PORT.search(hosts):
        hosts = _MASK  # no host and port, so perhaps a user and the beginning of a password
    return scheme + hosts


def register_uri(uri: str) -> None:
    """Makes `redact` mask the URI's user, password and secret options from now on."""
    _, userinfo, _, rest = split_uri(uri)
    secrets = {userinfo}
    if userinfo:
        _, _, password = userinfo.partition(":")
        secrets.add(password)
        # A password with unescaped separators is cut at them by a parser, and shown in pieces.
        secrets.update(piece for piece in re.split(r"[:/@?]", password) if len(piece) > 3)
    for option in re.split(r"[&;]", rest.partition("?")[2]):
        name, _, value = option.partition("=")
        if name.lower() in _SECRET_OPTIONS:
            secrets.add(value)
            secrets.update(part.partition(":")[2] for part in unquote(value).split(","))
    for secret in secrets:
        _registered.update(form for form in (secret, unquote(secret), unquote_plus(secret)) if form)


def redact(text: str) -> str:
    """The text with every registered secret masked and every MongoDB URI stripped to its hosts."""
    text = _URI.sub(lambda match: public_uri(match.group(0)), text)
    for secret in sorted(_registered, key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, _MASK)
        else:  # a two-letter password must not turn every sentence into asterisks
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _MASK, text)
    return text
