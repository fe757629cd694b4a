"""A page, and one that takes uploads; and where there is a shop, its counter."""

import os

from django.apps import apps
from django.http import HttpRequest, HttpResponse
from django.urls import path


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"hello from {os.getpid()}")


def upload(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(sum(map(len, iter(lambda: request.read(2**16), b"")))))


urlpatterns = [path("", hello), path("upload", upload)]
if apps.is_installed("deployment.shop"):
    from deployment.shop.views import order

    urlpatterns.append(path("order/<int:number>", order))
