"""The routes that every project has without writing them: views for HTTP, an open door for WebSockets.

They come last, so a project's own route wins, and they wrap the project's router: its list is never touched.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any

from channels_core.routing import Consumer, Match, Router

if TYPE_CHECKING:
    from channels_core.message import Message

__all__ = ["DefaultRoutes", "connect_consumer", "null_consumer", "with_default_routes"]


def connect_consumer(message: Message, **_: Any) -> None:
    """Accept the WebSocket."""
    if message.reply_channel is not None:
        message.reply_channel.send({"accept": True})


def null_consumer(message: Message, **_: Any) -> None:
    """Do nothing with the message."""


async def _aconnect_consumer(message: Message, **_: Any) -> None:
    if message.reply_channel is not None:
        await message.reply_channel.asend({"accept": True})


async def _anull_consumer(message: Message, **_: Any) -> None:
    """Do nothing with the message."""


class DefaultRoutes(Router):
    """A router that asks ``router`` first and then knows what to do with http.request and the ``websocket.*`` three.

    ``http_consumer`` answers requests; an instance of :class:`~channels_django.http.ViewConsumer`, usually.
    """

    def __init__(self, router: Router, http_consumer: Consumer) -> None:
        self.router = router
        given: dict[str, tuple[Consumer, Consumer | None]] = {
            "http.request": (http_consumer, None),
            "websocket.connect": (connect_consumer, _aconnect_consumer),
            "websocket.receive": (null_consumer, _anull_consumer),
            "websocket.disconnect": (null_consumer, _anull_consumer),
        }
        self._channels = frozenset(router.channels) | given.keys()
        # A channel whose own consumers are all asynchronous stays with the event loop, where its default is the
        # asynchronous one; http.request leaves it, since views run in threads.
        self._async_channels = frozenset(
            channel
            for channel in router.async_channels
            if channel not in given or given[channel][1] is not None
        )
        self._matches: dict[str, Match] = {
            channel: ((twin if twin is not None and channel in self._async_channels else plain), {})
            for channel, (plain, twin) in given.items()
        }

    @property
    def channels(self) -> Set[str]:
        return self._channels

    @property
    def async_channels(self) -> Set[str]:
        return self._async_channels

    def match(self, message: Message) -> Match | None:
        found = self.router.match(message)
        return self._matches.get(message.channel_name or "") if found is None else found


def with_default_routes(router: Router, http_consumer: Consumer) -> Router:
    """``router`` with the default routes behind it; itself, where it has them already."""
    return router if isinstance(router, DefaultRoutes) else DefaultRoutes(router, http_consumer)
