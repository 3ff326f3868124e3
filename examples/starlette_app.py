"""Starlette: each worker of uvicorn imports this and opens the cache.

CACHE_PATH=/run/mmapcache/settings.mmc uvicorn --workers 2 examples.starlette_app:app
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.service import METRICS_TYPE, Service
from mmapcache.starlette import DocumentResponse

service = Service()


async def site(request: Request) -> Response:
    """One document. Nothing to wait for: it is read where it lies in the map."""
    found = service.site(request.path_params["key"])
    if found is None:
        raise HTTPException(404)
    return DocumentResponse(found, headers=service.answered())


async def healthz(request: Request) -> Response:
    """For load balancers."""
    status, body = service.health()
    return JSONResponse(body, status)


async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(service.metrics(), headers={"Content-Type": METRICS_TYPE})


app = Starlette(
    routes=[
        Route("/sites/{key}", site),
        Route("/healthz", healthz),
        Route("/metrics", metrics),
    ]
)
