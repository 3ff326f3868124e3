"""The helpers for web frameworks, in this process: documents in other values, and what stays."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import json
from typing import Any

import pytest

import mmapcache
from mmapcache.testing import TestCache

bson = pytest.importorskip("bson")

WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000)
VALUES = {
    "_id": "a",
    "owner": bson.ObjectId("65a1b2c3d4e5f60718293a4b"),
    "price": bson.Decimal128("9.90"),
    "since": WHEN,
    "plan": {"qps": 5},
    "hosts": [1, 2],
    "logins": [{"at": WHEN}],
    "key": b"\xff\x00",
    "own": bson.Binary(b"\xff", 128),
    "text": "</script><!--",
}
PLAIN = {
    "_id": "a",
    "owner": "65a1b2c3d4e5f60718293a4b",
    "price": "9.90",
    "since": "2026-01-02T03:04:05.678000Z",
    "plan": {"qps": 5},
    "hosts": [1, 2],
    "logins": [{"at": "2026-01-02T03:04:05.678000Z"}],
    "key": "/wA=",
    "own": "/w==",
    "text": "</script><!--",
}


@pytest.fixture
def within() -> dict[str, Any]:
    """A document and parts of it in a plain dict, as a view would return them."""
    document = mmapcache.Document(VALUES)
    return {"site": document, "some": [document["logins"]], "by": document["owner"]}


def plain() -> dict[str, Any]:
    return {"site": PLAIN, "some": [PLAIN["logins"]], "by": PLAIN["owner"]}


def test_starlette(within: dict[str, Any]) -> None:
    pytest.importorskip("starlette")
    from mmapcache.starlette import DocumentResponse

    response = DocumentResponse(within, 201)
    assert json.loads(bytes(response.body)) == plain()
    assert (response.status_code, response.media_type) == (201, "application/json")
    nan = mmapcache.Document({"x": float("nan")})
    assert DocumentResponse(nan).body == b'{"x":null}'
    with pytest.raises(ValueError, match="JSON compliant"):
        DocumentResponse({"x": nan["x"]})
    regex = DocumentResponse(mmapcache.Document({"x": bson.Regex("a")}))
    assert regex.body == b'{"x":{"$regularExpression":{"pattern":"a","options":""}}}'
    with pytest.raises(TypeError, match="no place in plain JSON"):
        DocumentResponse({"x": object()})


def test_fastapi(within: dict[str, Any]) -> None:
    """The service's own datetimes and bytes are FastAPI's business."""
    encoders = pytest.importorskip("fastapi.encoders")
    from mmapcache.fastapi import register_encoders

    before = dict(encoders.ENCODERS_BY_TYPE)
    try:
        register_encoders()
        register_encoders()
        assert encoders.jsonable_encoder(within) == plain()
        assert encoders.jsonable_encoder([WHEN, b"text"]) == [WHEN.isoformat(), "text"]
    finally:
        encoders.ENCODERS_BY_TYPE.clear()
        encoders.ENCODERS_BY_TYPE.update(before)


def test_fastapi_response_model(within: dict[str, Any]) -> None:
    """pydantic takes a document for a model's fields, without a helper."""
    fastapi = pytest.importorskip("fastapi")
    pydantic = pytest.importorskip("pydantic")
    plan = pydantic.create_model("Plan", qps=(int, ...))
    site = pydantic.create_model("Site", plan=(plan, ...), hosts=(list[Any], ...), text=(str, ...))
    app = fastapi.FastAPI()
    app.add_api_route("/site", lambda: within["site"], response_model=site)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/site", "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 200
    answer = json.loads(b"".join(message.get("body", b"") for message in sent))
    assert answer == {"plan": {"qps": 5}, "hosts": [1, 2], "text": VALUES["text"]}


def test_flask(within: dict[str, Any]) -> None:
    """jsonify, returned dicts, tojson; what Flask writes of itself stays, but for dates."""
    flask = pytest.importorskip("flask")
    from mmapcache.flask import DocumentJSONProvider

    app = flask.Flask(__name__)
    app.json = DocumentJSONProvider(app)
    app.add_url_rule("/dict", view_func=lambda: within, endpoint="dict")
    app.add_url_rule("/site", view_func=lambda: flask.jsonify(within["site"]), endpoint="site")
    page = "<script>{{ site|tojson }}</script>"
    app.add_url_rule(
        "/page",
        view_func=lambda: flask.render_template_string(page, site=within["site"]),
        endpoint="page",
    )
    client = app.test_client()
    assert client.get("/dict").json == plain()
    assert client.get("/site").json == PLAIN
    text = client.get("/page").text.removeprefix("<script>").removesuffix("</script>")
    assert "<" not in text
    assert json.loads(text) == PLAIN
    own = [decimal.Decimal("1.50"), datetime.date(2026, 1, 2)]
    assert json.loads(app.json.dumps(own)) == ["1.50", "Fri, 02 Jan 2026 00:00:00 GMT"]
    with pytest.raises(TypeError, match="not JSON serializable"):
        app.json.dumps(object())


def test_django(within: dict[str, Any]) -> None:
    """What Django writes of itself stays."""
    pytest.importorskip("django")
    from mmapcache.django import DocumentEncoder

    assert json.loads(json.dumps(within, cls=DocumentEncoder)) == plain()
    own = [decimal.Decimal("1.50"), datetime.timedelta(days=1)]
    assert json.loads(json.dumps(own, cls=DocumentEncoder)) == ["1.50", "P1DT00H00M00S"]
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps(object(), cls=DocumentEncoder)


def test_jinja(within: dict[str, Any]) -> None:
    """As docs/frameworks.md has it, without a helper."""
    jinja2 = pytest.importorskip("jinja2")
    environment = jinja2.Environment()
    environment.policies["json.dumps_kwargs"] = {"default": mmapcache.json_default}
    text = environment.from_string("{{ site|tojson }}").render(site=within["site"])
    assert "<" not in text
    assert json.loads(text) == PLAIN


def test_tornado(mmapcache_test: TestCache) -> None:
    """A request sees one generation; its snapshot is closed when it ends, however it ends."""
    pytest.importorskip("tornado")
    import tornado.httpclient
    import tornado.httpserver
    import tornado.testing
    import tornado.web

    from mmapcache.tornado import CacheMixin

    mmapcache_test.set("sites", "a", VALUES)
    snapshots: list[mmapcache.Snapshot] = []

    class Site(CacheMixin, tornado.web.RequestHandler):
        def get(self, how: str) -> None:
            snapshots.append(self.snapshot)
            mmapcache_test.set("sites", "a", {"n": 1})
            site = self.snapshot["sites"]["a"]
            mmapcache_test.set("sites", "a", VALUES)
            if how == "fail":
                raise tornado.web.HTTPError(418)
            self.finish({"site": site} if how == "within" else site)

    async def ask() -> None:
        application = tornado.web.Application(
            [("/(.*)", Site)], mmapcache=mmapcache_test.cache, log_function=lambda handler: None
        )
        socket, port = tornado.testing.bind_unused_port()
        server = tornado.httpserver.HTTPServer(application)
        server.add_sockets([socket])
        client = tornado.httpclient.AsyncHTTPClient(force_instance=True)
        for how, body in (("it", PLAIN), ("within", {"site": PLAIN}), ("fail", None)):
            answer = await client.fetch(f"http://127.0.0.1:{port}/{how}", raise_error=False)
            if body is None:
                assert answer.code == 418
                continue
            assert answer.headers["Content-Type"].startswith("application/json")
            assert json.loads(answer.body) == body
            assert b"</" not in answer.body
        client.close()
        server.stop()
        await server.close_all_connections()

    asyncio.run(ask())
    assert len(snapshots) == 3
    assert all(snapshot.closed for snapshot in snapshots)
