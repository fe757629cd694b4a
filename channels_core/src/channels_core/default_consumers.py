"""What happens to messages of WebSockets that a project routes nowhere, for the routers that have default routes.

A socket is accepted and its frames are ignored, as in Channels 1.x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from channels_core.message import Message
    from channels_core.routing import Consumer

__all__ = ["ASYNC_TWINS", "connect_consumer", "null_consumer"]


def connect_consumer(message: Message) -> None:
    """Accept the WebSocket: the default for ``websocket.connect``."""
    if message.reply_channel is not None:
        message.reply_channel.send({"accept": True})


def null_consumer(message: Message) -> None:
    """Take the message and do nothing: the default for the rest of a WebSocket's life."""


async def _aconnect_consumer(message: Message) -> None:
    if message.reply_channel is not None:
        await message.reply_channel.asend({"accept": True})


async def _anull_consumer(message: Message) -> None:
    pass


ASYNC_TWINS: Final[dict[Consumer, Consumer]] = {
    connect_consumer: _aconnect_consumer,
    null_consumer: _anull_consumer,
}
"""For channels whose own consumers are all ``async def``: a default that would not take them off the event loop."""
