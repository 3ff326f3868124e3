"""FastAPI: each worker of uvicorn imports this and opens the cache.

CACHE_PATH=/run/mmapcache/settings.mmc uvicorn --workers 2 examples.fastapi_app:app
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import JSONResponse

from examples.service import METRICS_TYPE, Service
from mmapcache.fastapi import DocumentResponse, register_encoders

register_encoders()
service = Service()
app = FastAPI()


@app.get("/sites/{key}", response_model=None)
async def site(key: str, response: Response) -> Any:
    """One document, as it is: register_encoders() has taught FastAPI what to make of it."""
    found = service.site(key)
    if found is None:
        raise HTTPException(404)
    response.headers.update(service.answered())
    return found


@app.get("/fast/{key}")
async def fast(key: str) -> DocumentResponse:
    """The same, past FastAPI's encoder; a dict with documents in it would do as well."""
    found = service.site(key)
    if found is None:
        raise HTTPException(404)
    return DocumentResponse(found, headers=service.answered())


@app.get("/healthz")
async def healthz() -> JSONResponse:
    """For load balancers."""
    status, body = service.health()
    return JSONResponse(body, status)


@app.get("/metrics")
async def metrics() -> Response:
    """For Prometheus."""
    return Response(service.metrics(), headers={"Content-Type": METRICS_TYPE})
