"""A router that knows channels only: ``{"websocket.receive": consumer, ...}``."""

import inspect
from collections.abc import Mapping, Set

from channels_core import InvalidRouteError, Message
from channels_core.routing import Consumer, Match, Router, is_async_consumer


class TableRouter(Router):
    def __init__(self, routing: Mapping[str, Consumer]) -> None:
        for channel, consumer in routing.items():
            try:
                inspect.signature(consumer).bind("a message")
            except TypeError as exc:
                raise InvalidRouteError(f"{channel!r} is routed to {consumer!r}: {exc}.") from exc
        self._consumers = dict(routing)

    @property
    def channels(self) -> Set[str]:
        return self._consumers.keys()

    @property
    def async_channels(self) -> Set[str]:
        return {channel for channel, consumer in self._consumers.items() if is_async_consumer(consumer)}

    def match(self, message: Message) -> Match | None:
        consumer = self._consumers.get(message.channel_name or "")
        return None if consumer is None else (consumer, {})
