"""Views for the tests of the HTTP side."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.contrib.auth.models import Group as AuthGroup
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from channels_core import Channel

closed: list[str] = []


class Closing(HttpResponse):
    def close(self) -> None:
        closed.append("closed")
        super().close()


def hello(request: HttpRequest) -> HttpResponse:
    response = Closing("hello", headers={"X-Any": "Thing"})
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


async def ahello(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse("async hello")


def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body)


def big(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"x" * (3 * 256 * 1024 - 1))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter(["one", "two"]))


def empty_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([]))


def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield "one"
        await asyncio.sleep(0)
        yield "two"

    return StreamingHttpResponse(parts())


def broken_stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield "one"
        raise RuntimeError("the stream broke")

    return StreamingHttpResponse(parts())


def broken_at_once(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        raise RuntimeError("the stream never began")
        yield "never"

    return StreamingHttpResponse(parts())


def later(request: Any) -> HttpResponse:
    AuthGroup.objects.create(name="made by a view that answers later")
    Channel("told").send({"reply_channel": request.reply_channel.name})
    raise request.ResponseLater


async def alater(request: Any) -> HttpResponse:
    raise request.ResponseLater


def boom(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("boom")


def tells(request: HttpRequest) -> HttpResponse:
    Channel("told").send({"text": "by the view"})
    return HttpResponse("told")


def broken_error_page(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("the error page is broken too")


handler500 = broken_error_page

urlpatterns = [
    path("", hello),
    path("async", ahello),
    path("echo", echo),
    path("big", big),
    path("stream", stream),
    path("empty-stream", empty_stream),
    path("astream", astream),
    path("broken-stream", broken_stream),
    path("broken-at-once", broken_at_once),
    path("later", later),
    path("alater", alater),
    path("boom", boom),
    path("tells", tells),
]
