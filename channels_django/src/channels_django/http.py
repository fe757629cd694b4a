"""HTTP through the layer: an ``http.request`` message becomes a Django request, the response becomes messages.

Parsing is Django's own: :class:`AsgiRequest` is its ASGI request class, so headers, paths and limits are handled as
Django handles them, security fixes included. What is ours is where the body comes from and where the answer goes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, ClassVar, Final, cast

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core import signals
from django.core.exceptions import BadRequest, RequestDataTooBig
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.signals import setting_changed
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from channels_core.exceptions import RequestAborted, RequestTimeout, ResponseLater
from channels_core.message import Message
from channels_core.transfer import ResponseSender, read_body_chunks
from channels_django import conf

__all__ = ["AsgiHandler", "AsgiRequest", "ViewConsumer"]

logger = logging.getLogger("django.request")

_LONGEST_NUMBER: Final = 18
"""Digits of a Content-Length; Python would refuse to read thousands of them."""
_NEEDED: Final = ("reply_channel", "method", "path")


class AsgiRequest(ASGIRequest):
    """A ``django.http.HttpRequest`` made from an ``http.request`` message.

    Attributes beside Django's: ``message``, the message passed in, and ``reply_channel``, the
    :class:`~channels_core.Channel` that the answer goes to. The body is read here, before any view or middleware: what
    is in the message, then what comes on its ``body_channel``, spooled to disk beyond FILE_UPLOAD_MAX_MEMORY_SIZE.
    A body without Content-Length gets the one that was counted.

    Raises ``ValueError`` naming the key for anything but an ``http.request`` message;
    :class:`~channels_core.exceptions.RequestTimeout` when the body takes longer than ``body_receive_timeout`` seconds
    in all; :class:`~channels_core.exceptions.RequestAborted` when the client went away meanwhile; Django's
    ``BadRequest`` for a body longer than announced, and ``RequestDataTooBig`` for one over MAX_BODY_SIZE.
    """

    ResponseLater: ClassVar[type[ResponseLater]] = ResponseLater
    """To be raised by a view that answers through ``reply_channel`` by itself, now or later."""
    body_receive_timeout = 60

    is_answered_later = False
    """Whether a view raised :attr:`ResponseLater`."""

    def __init__(self, message: Message | Mapping[str, Any]) -> None:
        if not isinstance(message, Message):
            message = Message(dict(message), None, None)
        content = message.content
        path = content.get("path")
        if isinstance(path, bytes):  # a message made by hand
            path = path.decode("utf-8", "replace")
        for key in _NEEDED:
            value = path if key == "path" else content.get(key)
            if not isinstance(value, str) or not value:
                raise ValueError(_describe_bad_key(message, key))
        assert isinstance(path, str)  # it has just been seen
        assert message.reply_channel is not None  # its key has just been seen
        self.message = message
        self.reply_channel = message.reply_channel
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": content.get("http_version", "1.1"),
            "method": content["method"],
            "scheme": content.get("scheme", "http"),
            "path": path,
            "query_string": content.get("query_string", b""),
            "root_path": content.get("root_path", ""),
            "headers": _header_pairs(content.get("headers", ())),
            "client": content.get("client"),
            "server": content.get("server"),
        }
        super().__init__(scope, BytesIO())
        if content.get("body") or content.get("body_channel"):
            self._stream = self._read_body()

    def close(self) -> None:
        """Close the body and the uploaded files."""
        super().close()
        self._stream.close()

    def _read_body(self) -> BinaryIO:
        content = self.message.content
        allowed, too_long = self._allowed_size()
        body = content.get("body") or b""
        if len(body) > allowed:
            raise too_long
        channel = content.get("body_channel")
        if not channel:
            self.META.setdefault("CONTENT_LENGTH", str(len(body)))
            return BytesIO(body)
        spool = SpooledTemporaryFile(  # noqa: SIM115 - closed with the request
            max_size=settings.FILE_UPLOAD_MAX_MEMORY_SIZE, mode="w+b", dir=settings.FILE_UPLOAD_TEMP_DIR
        )
        stream = cast("BinaryIO", spool)  # which it is in all but its declared type
        try:
            size = stream.write(body)
            for chunk in self._body_chunks(channel):
                size += len(chunk)
                if size > allowed:
                    raise too_long
                stream.write(chunk)
        except BaseException:
            stream.close()
            raise
        stream.seek(0)
        self.META.setdefault("CONTENT_LENGTH", str(size))
        return stream

    def _allowed_size(self) -> tuple[float, Exception]:
        """How many bytes the body may have, and what to raise for one more."""
        allowed = float("inf")
        too_long: Exception = BadRequest()
        announced = self.META.get("CONTENT_LENGTH")
        if announced:
            if not (announced.isascii() and announced.isdigit() and len(announced) <= _LONGEST_NUMBER):
                raise BadRequest(f"Content-Length {announced!r:.40} is no number.")
            allowed = int(announced)
            too_long = BadRequest(f"The body is longer than its Content-Length, {announced}.")
        limit = conf.option_value("MAX_BODY_SIZE")
        if limit is not None and limit < allowed:
            return limit, RequestDataTooBig(f"The body is larger than CHANNELS['MAX_BODY_SIZE'], {limit}.")
        return allowed, too_long

    def _body_chunks(self, channel: str) -> Iterator[bytes]:
        """The body's chunks in order, until the last; later ones are left on the channel."""
        layer = self.message.channel_layer
        if layer is None:
            raise ValueError(
                f"The message says that its body comes on {channel!r}, but it has no channel_layer to read that from."
                " Make it with Message(content, channel_name, channel_layer)."
            )
        return read_body_chunks(layer, channel, timeout=self.body_receive_timeout)


def _describe_bad_key(message: Message, key: str) -> str:
    found = f"has {key!r}: {message.content[key]!r:.80}" if key in message.content else f"has no {key!r}"
    return (
        f"AsgiRequest needs an http.request message, and this one {found}; its keys are"
        f" {sorted(map(str, message.content))}. An http.request message has {', '.join(map(repr, _NEEDED))}, each"
        " non-empty text."
    )


def _header_pairs(headers: Any) -> list[tuple[bytes, bytes]]:
    """Header pairs as bytes, names in lower case. Hand-made messages may give a dict, or text."""
    if isinstance(headers, Mapping):
        headers = headers.items()
    pairs = [
        (
            name if type(name) is bytes else str(name).lower().encode("latin1"),
            value if type(value) is bytes else str(value).encode("latin1"),
        )
        for name, value in headers
    ]
    cookies = [value for name, value in pairs if name == b"cookie"]
    if len(cookies) > 1:
        # HTTP/2 splits cookies over several headers; anything else wants them in one (RFC 9113, section 8.2.3).
        pairs = [pair for pair in pairs if pair[0] != b"cookie"]
        pairs.append((b"cookie", b"; ".join(cookies)))
    return pairs


class _AnsweredLater(HttpResponse):
    """Goes back through the middleware for a view that raised ResponseLater, and is sent to nobody."""

    status_code = 204


class AsgiHandler(BaseHandler):
    """Runs Django's middleware and views for an ``http.request`` message.

    ``AsgiHandler(message)`` iterates over the response messages, and so does ``AsgiHandler()(message)``. A message is
    made when it is asked for; ``response.close()`` runs after the last, or when the iterator is closed. Nothing comes
    for a view that raised ``ResponseLater``, or when the client left before its body was complete. The middleware is
    loaded once per process and class, and anew after ``override_settings``. Runs in the caller's thread; asynchronous
    views and streams are run to their next result there, so no event loop may be running in it.
    """

    request_class: type[AsgiRequest] = AsgiRequest
    chunk_size: int = 256 * 1024
    """Bytes of content in one message, at most."""

    def __init__(self, message: Message | None = None) -> None:
        super().__init__()
        self.message = message

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.message is None:
            raise TypeError(
                "AsgiHandler() was made without a message to answer: iterate over AsgiHandler(message) or"
                " AsgiHandler()(message)."
            )
        return self(self.message)

    def __call__(self, message: Message) -> Iterator[dict[str, Any]]:
        """The response messages for ``message``."""
        signals.request_started.send(sender=type(self), message=message)
        response = self._respond(message)
        if response is None:
            return
        try:
            yield from self.encode_response(response)
        finally:
            # request_finished, and whatever else waits for the response's end
            response.close()

    def _respond(self, message: Message) -> HttpResponseBase | None:
        if message.attempt > 1 and message.get("body_channel"):
            return _plain(503, "503 Service Unavailable (the request body cannot be read again)")
        try:
            request = self.request_class(message)
        except RequestAborted:
            return None
        except RequestTimeout:
            return _plain(408, "408 Request Timeout (upload too slow)")
        except RequestDataTooBig:
            return _plain(413, "413 Content Too Large")
        except (BadRequest, UnicodeDecodeError):
            return _plain(400, "400 Bad Request")
        set_script_prefix(request.script_name or "")
        try:
            response = _loaded(type(self)).get_response(request)
        except Exception as exc:  # the error page failed too; DEBUG_PROPAGATE_EXCEPTIONS wants to see it
            if settings.DEBUG_PROPAGATE_EXCEPTIONS:
                raise
            response = self.handle_uncaught_exception(request, None, (type(exc), exc, exc.__traceback__))
        return None if request.is_answered_later else response

    def handle_uncaught_exception(
        self, request: AsgiRequest, resolver: Any, exc_info: tuple[Any, Any, Any]
    ) -> HttpResponseBase:
        """The answer where Django's own answer to an exception failed: plain text, with a traceback under DEBUG."""
        logger.error(
            "Internal Server Error, and the page that says so failed: %s",
            request.path,
            exc_info=exc_info,
            extra={"status_code": 500, "request": request},
        )
        text = (
            "".join(traceback.format_exception(*exc_info)) if settings.DEBUG else "500 Internal Server Error"
        )
        return _plain(500, text)

    def make_view_atomic(self, view: Callable[..., Any]) -> Any:
        """ResponseLater is caught around the view itself: inside its transaction, which commits, and before Django
        would turn it into an error page."""
        return super().make_view_atomic(_catching_response_later(view))

    @classmethod
    def encode_response(cls, response: HttpResponseBase) -> Iterator[dict[str, Any]]:
        """The messages that carry ``response``, as ``http.response`` wants them; the response is not closed.

        The first alone has ``status`` and ``headers`` (names in lower case, a set-cookie for each cookie). Each has
        ``content`` of at most ``chunk_size`` bytes and ``more_content``. A streaming response makes a message of each
        part, and ends with one without content.
        """
        headers = [(name.lower().encode("ascii"), value.encode("latin1")) for name, value in response.items()]
        headers += [
            (b"set-cookie", cookie.OutputString().encode("ascii")) for cookie in response.cookies.values()
        ]
        message: dict[str, Any] = {"status": response.status_code, "headers": headers}
        if isinstance(response, StreamingHttpResponse):
            if isinstance(response, FileResponse):
                response.block_size = cls.chunk_size
            for part in _parts(response):
                for chunk, _ in cls.chunk_bytes(part):
                    yield {**message, "content": chunk, "more_content": True}
                    message = {}
            yield {**message, "content": b"", "more_content": False}
        else:
            assert isinstance(response, HttpResponse)  # the only other kind Django has
            for chunk, is_last in cls.chunk_bytes(response.content):
                yield {**message, "content": chunk, "more_content": not is_last}
                message = {}

    @classmethod
    def chunk_bytes(cls, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Pieces of ``data`` and whether each is the last; one empty piece for no data."""
        size = cls.chunk_size
        if len(data) <= size:
            yield data, True
            return
        for start in range(0, len(data), size):
            yield data[start : start + size], start + size >= len(data)


class ViewConsumer:
    """The consumer that answers ``http.request`` with the project's views.

    The response goes out while the consumer runs, past what the view sent, and no faster than the client takes it: see
    :class:`~channels_core.transfer.ResponseSender`.
    """

    handler_class: type[AsgiHandler] = AsgiHandler

    def __init__(self) -> None:
        self.handler = self.handler_class()

    def __call__(self, message: Message, **_: Any) -> None:
        if message.reply_channel is None:
            raise ValueError(_describe_bad_key(message, "reply_channel"))
        ResponseSender(message).send_all(self.handler(message))


def _plain(status: int, text: str) -> HttpResponse:
    return HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")


def _catching_response_later(view: Callable[..., Any]) -> Callable[..., Any]:
    if iscoroutinefunction(view):

        async def acall(request: AsgiRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                response: HttpResponseBase = await view(request, *args, **kwargs)
            except ResponseLater:
                request.is_answered_later = True
                return _AnsweredLater()
            return response

        call: Callable[..., Any] = acall
    else:

        def plain_call(request: AsgiRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                response: HttpResponseBase = view(request, *args, **kwargs)
            except ResponseLater:
                request.is_answered_later = True
                return _AnsweredLater()
            return response

        call = plain_call
    # what Django reads off a view when it decides about its transaction
    exempt = getattr(view, "_non_atomic_requests", None)
    if exempt is not None:
        call._non_atomic_requests = exempt  # type: ignore[attr-defined]  # Django's own way of marking views
    return call


def _parts(response: StreamingHttpResponse) -> Iterator[bytes]:
    if not response.is_async:
        yield from response
        return
    stream: AsyncIterator[bytes] = aiter(response)
    with asyncio.Runner() as runner:
        try:
            while True:
                try:
                    part = runner.run(_next(stream))
                except StopAsyncIteration:
                    return
                yield part
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                runner.run(close())


async def _next(stream: AsyncIterator[bytes]) -> bytes:
    return await anext(stream)


# Handlers whose middleware is loaded, by class: loading takes as long as many requests.
_handlers: dict[type[AsgiHandler], AsgiHandler] = {}
_loading = threading.Lock()


def _loaded(handler_class: type[AsgiHandler]) -> AsgiHandler:
    handler = _handlers.get(handler_class)
    if handler is None:
        with _loading:
            handler = _handlers.get(handler_class)
            if handler is None:
                setting_changed.connect(_forget_handlers, dispatch_uid="channels_django.handlers")
                handler = handler_class()
                handler.load_middleware()
                _handlers[handler_class] = handler
    return handler


def _forget_handlers(**_: Any) -> None:
    _handlers.clear()
