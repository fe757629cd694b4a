"""Hello world as a plain Django view."""

from django.http import HttpRequest, HttpResponse
from django.urls import path


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"hello world", content_type="text/plain")


urlpatterns = [path("", hello)]
