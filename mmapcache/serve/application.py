"""Which path is answered with what. Never with what is in a document."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final

from mmapcache.printing import json_text
from mmapcache.serve.address import Address, is_own_host, is_token
from mmapcache.serve.metrics import Exposition
from mmapcache.serve.observer import Observer, age_of
from mmapcache.serve.server import Request, Response, refusal

_JSON: Final = "application/json; charset=utf-8"
_EVENTS: Final = "text/event-stream; charset=utf-8"
_BEAT: Final = 2.0  # seconds between two events, at most
_REST: Final = 0.25  # and at least
_LIFE: Final = 3600.0  # seconds of a stream of events: a browser comes again by itself
_PATIENCE: Final = 0.5  # seconds that the page waits for its picture


class Application:
    """Answers requests; every method may be called by any thread.

    :param observer: what is shown
    :param address: where it is served
    :param token: what each request must have; None: nothing
    :param max_age: how old the data may be to be ready, in seconds; None: as old as it likes
    """

    def __init__(
        self,
        observer: Observer,
        address: Address,
        token: str | None = None,
        max_age: float | None = None,
    ) -> None:
        self._observer = observer
        self._address = address
        self._token = token
        self._max_age = max_age
        self.exposition = Exposition(observer)
        self._page = Path(__file__).with_name("page.html").read_bytes()
        self._policy = policy_of(self._page.decode())
        self._pages: dict[str, Callable[[Request], Response]] = {
            "/": self._index,
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": self._metrics,
            "/status.json": self._status,
            "/events": self._events,
        }

    def answer(self, request: Request) -> Response:
        """What is sent back."""
        if not is_own_host(request.headers.get("host"), self._address):
            return refusal(
                HTTPStatus.MISDIRECTED_REQUEST, "this is served to localhost only, by that name"
            )
        if self._token is not None and not self._is_allowed(request, self._token):
            return refusal(
                HTTPStatus.UNAUTHORIZED,
                "a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN",
                WWW_Authenticate='Bearer realm="mmapcache"',
            )
        page = self._pages.get(request.path)
        if page is None:
            return refusal(HTTPStatus.NOT_FOUND, f"there are: {', '.join(self._pages)}")
        return page(request)

    @staticmethod
    def _is_allowed(request: Request, token: str) -> bool:
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if kind.lower() == "bearer" else request.query.get("token", "")
        return is_token(given, token)

    # --- pages ------------------------------------------------------------------------------------

    def _index(self, _: Request) -> Response:
        return Response(
            kind="text/html; charset=utf-8",
            body=self._page,
            headers={"Content-Security-Policy": self._policy},
        )

    def _status(self, _: Request) -> Response:
        facts = self._observer.status(patience=_PATIENCE)
        return Response(kind=_JSON, body=json_text(facts).encode() + b"\n")

    def _metrics(self, request: Request) -> Response:
        kind, body = self.exposition.render(request.headers.get("accept", ""))
        return Response(kind=kind, body=body)

    def _health(self, request: Request) -> Response:
        """This process serves; with max_age, the data is not older than that."""
        limit = None
        if "max_age" in request.query:
            try:
                limit = float(request.query["max_age"])
            except ValueError:
                limit = math.nan
            if not limit >= 0:
                return refusal(HTTPStatus.BAD_REQUEST, "max_age is a number of seconds")
        return self._judged(limit, needs_data=limit is not None)

    def _readiness(self, _: Request) -> Response:
        """There is data, and it is not older than --max-age."""
        return self._judged(self._max_age, needs_data=True)

    def _judged(self, limit: float | None, *, needs_data: bool) -> Response:
        facts = self._observer.pulse()
        age = age_of(facts)
        if age is None and needs_data:
            why = facts["problem"] or "the loader has not published anything yet"
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, why)
        if age is not None and limit is not None and age > limit:
            return refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the data is {age:.1f} s old, more than {limit:g} s",
            )
        if age is None:
            return Response(body=b"serving; there is no data\n")
        return Response(
            body=f"generation {facts['status']['generation']}, {age:.1f} s old\n".encode()
        )

    # --- events -----------------------------------------------------------------------------------

    def _events(self, _: Request) -> Response:
        return Response(kind=_EVENTS, chunks=self._pulses())

    def _pulses(self) -> Iterator[bytes]:
        """The status whenever there is another generation, and every other second."""
        end = time.monotonic() + _LIFE
        yield b"retry: 2000\n\n"
        while time.monotonic() < end:
            facts = self._observer.pulse()
            yield b"event: status\ndata: " + json_text(facts).encode() + b"\n\n"
            time.sleep(_REST)
            status = facts.get("status")
            self._observer.wait(status["generation"] if status else None, _BEAT - _REST)


def policy_of(page: str) -> str:
    """A Content-Security-Policy that lets the page's own script and style in, and nothing else."""

    def hashes(tag: str) -> str:
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(text.encode()).digest() for text in inside)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
