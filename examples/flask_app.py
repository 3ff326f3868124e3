"""Flask, under gunicorn or uWSGI: the cache is opened before the fork or after it, as they like.

CACHE_PATH=/run/mmapcache/settings.mmc gunicorn --workers 2 --preload examples.flask_app:app
CACHE_PATH=/run/mmapcache/settings.mmc uwsgi --master --processes 2 --http :8000 \
    --module examples.flask_app:app --skip-atexit-teardown
"""

from __future__ import annotations

from flask import Flask, Response, abort, jsonify, render_template_string

from examples.service import METRICS_TYPE, Service
from mmapcache.flask import DocumentJSONProvider

service = Service()
app = Flask(__name__)
app.json = DocumentJSONProvider(app)


@app.after_request
def answered(response: Response) -> Response:
    """Says who answered."""
    response.headers.update(service.answered())
    return response


@app.get("/sites/<key>")
def site(key: str) -> Response:
    """One document."""
    return jsonify(service.site(key) or abort(404))


@app.get("/page/<key>")
def page(key: str) -> str:
    """One document in the script of a page: `tojson` uses the provider above."""
    found = service.site(key) or abort(404)
    return render_template_string("<script>site = {{ site|tojson }}</script>", site=found)


@app.get("/healthz")
def healthz() -> tuple[Response, int]:
    """For load balancers."""
    status, body = service.health()
    return jsonify(body), status


@app.get("/metrics")
def metrics() -> Response:
    """For Prometheus."""
    return Response(service.metrics(), headers={"Content-Type": METRICS_TYPE})
