"""The development server's log: one line for each request and for each turn of a WebSocket, coloured as Django's."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from channels_core.interface.asgi import Event, Receive, Scope, ServerSend

__all__ = ["RequestLog"]

Application = Callable[[Scope, Receive, ServerSend], Awaitable[None]]

logger = logging.getLogger("django.server")


class RequestLog:
    """An ASGI application that logs what passes through to ``application``.

    The logger is Django's ``django.server``, whose formatter takes the colour from the record's ``status_code``.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: ServerSend) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: ServerSend) -> None:
        status, size = 500, 0

        async def send_counted(message: Event) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._application(scope, receive, send_counted)
        finally:
            line = f"{scope['method']} {_target(scope)} HTTP/{scope['http_version']}"
            _log(status, '"%s" %s %s', line, status, size)

    async def _websocket(self, scope: Scope, receive: Receive, send: ServerSend) -> None:
        target, client = _target(scope), _client(scope)
        is_open = False
        code: int | None = None

        async def receive_watched() -> Event:
            nonlocal code
            message = await receive()
            if message["type"] == "websocket.disconnect":
                code = message.get("code", 1005) if code is None else code
            return message

        async def send_watched(message: Event) -> None:
            nonlocal code, is_open
            kind = message["type"]
            if kind == "websocket.accept":
                is_open = True
                _log(101, "WebSocket CONNECT %s [%s]", target, client)
            elif kind == "websocket.http.response.start":
                _log(message["status"], "WebSocket REJECT %s %s [%s]", target, message["status"], client)
            elif kind == "websocket.close":
                if is_open:
                    code = message.get("code", 1000)
                else:
                    _log(403, "WebSocket REJECT %s 403 [%s]", target, client)
            await send(message)

        try:
            await self._application(scope, receive_watched, send_watched)
        finally:
            if is_open:
                shown = 1006 if code is None else code
                _log(200, "WebSocket DISCONNECT %s %s [%s]", target, shown, client)


def _log(status: int, text: str, *values: object) -> None:
    level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
    logger.log(level, text, *values, extra={"status_code": status})


def _target(scope: Scope) -> str:
    """Path and query, quoted: nothing that a client sends can forge a line or colour the terminal."""
    path = quote(scope["path"], safe="/~:@!$&'()*+,;=")
    query = scope.get("query_string", b"")
    return f"{path}?{quote(query, safe='/~:@!$&()*+,;=?%')}" if query else path


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "unknown"
