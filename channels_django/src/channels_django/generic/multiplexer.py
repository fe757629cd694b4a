"""What a consumer of one stream sends through: it puts the stream's name around everything."""

from __future__ import annotations

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from channels_core.channel import Channel, Group
from channels_core.exceptions import ChannelsError

__all__ = ["SendNotAvailableOnDemultiplexer", "WebsocketMultiplexer"]


class SendNotAvailableOnDemultiplexer(ChannelsError):
    """A consumer behind a demultiplexer sent past it, so the client could not tell the frame's stream."""


class WebsocketMultiplexer:
    """Sends frames of one stream: ``{"stream": ..., "payload": ...}`` as JSON, with Django's types in it.

    The demultiplexer gives one to each consumer, as keyword argument ``multiplexer``. Attributes: ``stream``, its name,
    and ``reply_channel``, the connection's.
    """

    def __init__(self, stream: str, reply_channel: Channel) -> None:
        self.stream = stream
        self.reply_channel = reply_channel

    def send(self, payload: Any) -> None:
        """Send ``payload`` to the client; held, as every send inside a consumer."""
        self.reply_channel.send(self.encode(self.stream, payload))

    async def asend(self, payload: Any) -> None:
        """:meth:`send`."""
        await self.reply_channel.asend(self.encode(self.stream, payload))

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """``content`` as JSON text; override it for another encoder."""
        return json.dumps(content, cls=DjangoJSONEncoder)

    @classmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """The message that carries ``payload`` on ``stream``."""
        return {"text": cls.encode_json({"stream": stream, "payload": payload})}

    @classmethod
    def group_send(cls, name: str, stream: str, payload: Any, close: bool | int = False) -> None:
        """Send ``payload`` on ``stream`` to all connections in the group ``name``; ``close`` closes them afterwards."""
        Group(name).send(cls._closing(stream, payload, close))

    @classmethod
    async def agroup_send(cls, name: str, stream: str, payload: Any, close: bool | int = False) -> None:
        """:meth:`group_send`."""
        await Group(name).asend(cls._closing(stream, payload, close))

    @classmethod
    def _closing(cls, stream: str, payload: Any, close: bool | int) -> dict[str, Any]:
        message = cls.encode(stream, payload)
        if close:
            message["close"] = close
        return message
