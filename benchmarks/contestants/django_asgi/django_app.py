"""Django's own ASGI handler saying hello: a sync view, or an async one with BENCH_VARIANT=async."""

import os

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEBUG=False,
    MIDDLEWARE=[],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for the bench only",
)
django.setup()


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"hello world", content_type="text/plain")


async def async_hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"hello world", content_type="text/plain")


urlpatterns = [path("", async_hello if os.environ.get("BENCH_VARIANT") == "async" else hello)]
app = get_asgi_application()
