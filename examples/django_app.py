"""Django in one file: settings, views, routes.

CACHE_PATH=/run/mmapcache/settings.mmc gunicorn --workers 2 --preload examples.django_app:app
"""

from __future__ import annotations

import os
from collections.abc import Callable

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from examples.service import METRICS_TYPE, Service
from mmapcache.django import DocumentResponse

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=["examples.django_app.answered"],
    ROOT_URLCONF="examples.django_app",
    SECRET_KEY=os.environ.get("SECRET_KEY", "nothing is signed here"),
)
service = Service()


def answered(respond: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Middleware: says who answered."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = respond(request)
        for name, value in service.answered().items():
            response[name] = value
        return response

    return middleware


def site(request: HttpRequest, key: str) -> HttpResponse:
    """One document."""
    found = service.site(key)
    if found is None:
        raise Http404
    return DocumentResponse(found)


def healthz(request: HttpRequest) -> HttpResponse:
    """For load balancers."""
    status, body = service.health()
    return JsonResponse(body, status=status)


def metrics(request: HttpRequest) -> HttpResponse:
    """For Prometheus."""
    return HttpResponse(service.metrics(), content_type=METRICS_TYPE)


urlpatterns = [
    path("sites/<str:key>", site),
    path("healthz", healthz),
    path("metrics", metrics),
]
app = get_wsgi_application()
