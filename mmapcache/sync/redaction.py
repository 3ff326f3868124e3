"""Keeps a connection string's secrets out of everything that the loader writes.

Secrets are registered where a URI is read, and before that wherever the user typed one: on the
command line, in the environment, in the TOML file. Every log line, usage message, status text and
traceback passes through `redact` on its way out. Text that merely looks like a MongoDB URI is
stripped to scheme and hosts even when it was never registered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus

from mmapcache.printing import printable

_MASK = "***"
# One slash is enough: a path that was normalised has lost the other.
_URI = re.compile(r"[a-z][a-z0-9+.-]{0,30}:/[^\s'\"]*[^\s'\".,:;)]", re.IGNORECASE)
_MONGODB = re.compile(r"mongodb(\+srv)?:/", re.IGNORECASE)
_BEGINNING = re.compile(r"[a-z][a-z0-9+.-]{0,30}:/", re.IGNORECASE)
_SCHEME = re.compile(r"([^:/?#@]*:/{1,2})(.*)", re.DOTALL)
_CUTS = re.compile(r"[:/@?=.,;&#'\"\s]")  # where a parser of URIs, or of our options, cuts
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
    parts = _SCHEME.fullmatch(uri)
    if parts is None:
        return "", "", "", uri
    scheme, rest = parts[1], parts[2]
    options_start = rest.find("?", rest.rfind("@") + 1)
    options = "" if options_start < 0 else rest[options_start:]
    body = rest if options_start < 0 else rest[:options_start]
    userinfo, _, address = body.rpartition("@")
    hosts, slash, path = address.partition("/")
    return scheme, userinfo, hosts, slash + path + options


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
        secrets.update(piece for piece in _CUTS.split(password) if len(piece) > 3)
    for option in re.split(r"[&;]", rest.partition("?")[2]):
        name, _, value = option.partition("=")
        if name.lower() in _SECRET_OPTIONS:
            secrets.add(value)
            secrets.update(part.partition(":")[2] for part in unquote(value).split(","))
    for secret in secrets:
        for form in (secret, unquote(secret), unquote_plus(secret)):
            # A message may quote what was typed, as Python or as JSON does.
            quoted = (repr(form)[1:-1], repr(form + "'\"")[1:-4], json.dumps(form)[1:-1])
            _registered.update(spelling for spelling in (form, *quoted) if spelling)


def register_typed(texts: Iterable[str]) -> None:
    """Makes `redact` mask the secrets of every URI in what the user typed, wherever it stands."""
    for text in texts:
        for beginning in _BEGINNING.finditer(text):
            register_uri(text[beginning.start() :])


def is_uri(text: str) -> bool:
    """Whether a MongoDB URI was given where none belongs."""
    return _MONGODB.search(text) is not None


def _public(match: re.Match[str]) -> str:
    uri = match[0]
    if _MONGODB.search(uri):
        return public_uri(uri)
    scheme, userinfo, hosts, rest = split_uri(uri)
    return f"{scheme}{_MASK}@{hosts}{rest}" if ":" in userinfo else uri


def public_text(text: str) -> str:
    """The text without secrets, as a part of one line of a terminal, a log or a status."""
    return printable(redact(text))


def redact(text: str) -> str:
    """The text with every registered secret masked and every MongoDB URI stripped to its hosts."""
    text = _URI.sub(_public, _masked(text))
    return _masked(text)


def _masked(text: str) -> str:
    for secret in sorted(_registered, key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, _MASK)
        else:  # a two-letter password must not turn every sentence into asterisks
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _MASK, text)
    return text
