"""The routes that every project has without writing them: views for HTTP, an open door for WebSockets.

They come last, so a project's own route wins, and they wrap the project's router: its list is never touched.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any

from channels_core.default_consumers import ASYNC_TWINS, connect_consumer, null_consumer
from channels_core.routing import Consumer, Match, Router

if TYPE_CHECKING:
    from channels_core.message import Message

__all__ = ["DefaultRoutes", "with_default_routes"]


class DefaultRoutes(Router):
    """A router that asks ``router`` first and then knows what to do with http.request and the ``websocket.*`` three.

    ``http_consumer`` answers requests; an instance of :class:`~channels_django.http.ViewConsumer`, usually.
    """

    def __init__(self, router: Router, http_consumer: Consumer) -> None:
        self.router = router
        given: dict[str, Consumer] = {
            "http.request": http_consumer,
            "websocket.connect": connect_consumer,
            "websocket.receive": null_consumer,
            "websocket.disconnect": null_consumer,
        }
        self._channels = frozenset(router.channels) | given.keys()
        # A channel whose own consumers are all asynchronous stays with the event loop, where its default has an
        # asynchronous twin; http.request leaves it, since views run in threads.
        self._async_channels = frozenset(
            channel
            for channel in router.async_channels
            if channel not in given or given[channel] in ASYNC_TWINS
        )
        self._matches: dict[str, Match] = {
            channel: (ASYNC_TWINS[consumer] if channel in self._async_channels else consumer, {})
            for channel, consumer in given.items()
        }

    @property
    def channels(self) -> Set[str]:
        return self._channels

    @property
    def async_channels(self) -> Set[str]:
        return self._async_channels

    def __getattr__(self, name: str) -> Any:
        """Anything else is the project's router's."""
        if name == "router":  # not made yet: there is nothing to ask
            raise AttributeError(name)
        return getattr(self.router, name)

    def match(self, message: Message) -> Match | None:
        found = self.router.match(message)
        return self._matches.get(message.channel_name or "") if found is None else found


def with_default_routes(router: Router, http_consumer: Consumer) -> Router:
    """``router`` with the default routes behind it; itself, where it has them already."""
    return router if isinstance(router, DefaultRoutes) else DefaultRoutes(router, http_consumer)
