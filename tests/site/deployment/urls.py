"""One page; and where there is a shop, its counter."""

import os

from django.apps import apps
from django.http import HttpRequest, HttpResponse
from django.urls import path


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"hello from {os.getpid()}")


urlpatterns = [path("", hello)]
if apps.is_installed("deployment.shop"):
    from deployment.shop.views import order

    urlpatterns.append(path("order/<int:number>", order))
