"""A site where everybody has a secret: its views and consumers say whose session they see."""

import asyncio
from typing import Any

from django.core.files.uploadedfile import TemporaryUploadedFile, UploadedFile
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from channels_core import Message
from channels_router_regex import route
from channels_session_django import channel_and_http_session, channel_session


def secret(request: HttpRequest) -> HttpResponse:
    """Keeps what it is given, and tells what it kept before."""
    given = request.GET.get("keep")
    if given:
        request.session["secret"] = given
    answer = {"secret": request.session.get("secret"), "key": request.session.session_key}
    return JsonResponse({**answer, "mark": request.headers.get("X-Mark")})


def body(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(len(request.body)))


def upload(request: HttpRequest) -> HttpResponse:
    (file,) = request.FILES.values()
    assert isinstance(file, UploadedFile)
    return HttpResponse(f"{file.size} {isinstance(file, TemporaryUploadedFile)}")


def meta(request: HttpRequest) -> HttpResponse:
    return JsonResponse({key: str(value) for key, value in request.META.items() if key.startswith("HTTP_")})


urlpatterns = [
    path("secret", secret),
    path("body", body),
    path("upload", upload),
    path("meta", meta),
]


@channel_and_http_session
def connect(message: Message) -> None:
    assert message.reply_channel is not None
    message.reply_channel.send({"accept": True})


@channel_and_http_session
def receive(message: Any) -> None:
    found = None if message.http_session is None else message.http_session.get("secret")
    message.channel_session["frames"] = message.channel_session.get("frames", "") + message["text"]
    message.reply_channel.send({"text": f"{message['text']} {found} {message.channel_session['frames']}"})


@channel_and_http_session
async def areceive(message: Any) -> None:
    await asyncio.sleep(0)
    found = None if message.http_session is None else message.http_session.get("secret")
    message.channel_session["frames"] = message.channel_session.get("frames", "") + message["text"]
    message.reply_channel.send({"text": f"{message['text']} {found} {message.channel_session['frames']}"})


@channel_session
def disconnect(message: Message) -> None:
    """Ends the session."""


routes = [
    route("websocket.connect", connect),
    route("websocket.receive", areceive, path=r"^/async"),
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
]
