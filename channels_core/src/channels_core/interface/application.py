"""The ASGI 3 application that translates between an ASGI server and a channel layer."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from channels_core.config import InterfaceConfig
from channels_core.interface.asgi import Receive, Scope, ServerSend
from channels_core.interface.http import HttpRequest
from channels_core.interface.inbox import Inbox
from channels_core.interface.websocket import WebSocketConnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from channels_core.channel_layer import ChannelLayer, ChannelLayers
    from channels_core.origins import OriginValidator

__all__ = ["InterfaceApplication", "make_interface"]

logger = logging.getLogger("channels.interface")


class InterfaceApplication:
    """Serves HTTP and WebSockets by sending messages to consumers behind ``layer``, and their replies to the clients.

    Runs under any ASGI 3 server, on any number of event loops, before or after a fork: a loop takes its lease on the
    layer with its first connection. The lifespan protocol is used where the server speaks it and needed nowhere; with
    other servers call :meth:`aclose` to give the lease back (otherwise it runs out).

    ``origin_validator`` is asked about each WebSocket that has an ``Origin``; ``None`` lets all through, so
    :func:`make_interface`, which takes it from the configuration, is what applications want. ``http`` is an ASGI
    application that answers HTTP in this process instead of the layer.
    """

    def __init__(
        self,
        layer: ChannelLayer,
        *,
        config: InterfaceConfig | None = None,
        origin_validator: OriginValidator | None = None,
        http: Callable[[Scope, Receive, ServerSend], Awaitable[None]] | None = None,
    ) -> None:
        self.layer = layer
        self.config = InterfaceConfig() if config is None else config
        self.origin_validator = origin_validator
        self._http = http
        self._inboxes: dict[asyncio.AbstractEventLoop, Inbox] = {}
        self._pid = os.getpid()

    async def __call__(self, scope: Scope, receive: Receive, send: ServerSend) -> None:
        """Serve one connection. Raises ``ValueError`` for a scope that is neither http, websocket nor lifespan."""
        kind = scope["type"]
        if kind == "websocket":
            await WebSocketConnection(self._inbox(), send).serve(scope, receive, self.origin_validator)
        elif kind == "http":
            if self._http is not None:
                await self._http(scope, receive, send)
            else:
                await HttpRequest(self._inbox(), send).serve(scope, receive)
        elif kind == "lifespan":
            await self._live(receive, send)
        else:
            raise ValueError(
                f"The interface application does not serve {kind!r} connections: it serves http, websocket and"
                " lifespan. Route others elsewhere."
            )

    async def aclose(self) -> None:
        """End this event loop's connections: sockets with 1012, requests when done or at ``shutdown_timeout``."""
        loop = asyncio.get_running_loop()
        inbox = self._inboxes.get(loop)
        if inbox is not None:
            await inbox.aclose()
            self._inboxes.pop(loop, None)
            await self.layer.backend.aleave_loop()

    def _inbox(self) -> Inbox:
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            self._inboxes, self._pid = {}, os.getpid()
        inbox = self._inboxes.get(loop)
        if inbox is None:
            for other in list(self._inboxes):  # other loops do the same in their threads
                if other.is_closed():
                    self._inboxes.pop(other, None)
            inbox = self._inboxes[loop] = Inbox(self.layer, self.config)
        return inbox

    async def _live(self, receive: Receive, send: ServerSend) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif event["type"] == "lifespan.shutdown":
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return


def make_interface(
    layers: ChannelLayers | None = None,
    *,
    http: Callable[[Scope, Receive, ServerSend], Awaitable[None]] | None = None,
    **changes: Any,
) -> InterfaceApplication:
    """The application as it is configured: layer, limits and origin validator. Usage without Django::

        CHANNELS_CONFIG=chat_config:config uvicorn --factory channels_core.interface:make_interface

    ``changes`` are fields of :class:`~channels_core.config.InterfaceConfig` that win over the configuration.

    Raises ``ConfigurationError`` and its like for what is wrong with the configuration.
    """
    if layers is None:
        from channels_core.channel_layer import channel_layers

        layers = channel_layers
    config = replace(layers.config.interface, **changes)
    validator: OriginValidator | None = None
    if config.origin_validator is not None:
        validator = layers.plugins.load("origin validator", config.origin_validator)()
    return InterfaceApplication(layers[config.layer], config=config, origin_validator=validator, http=http)
