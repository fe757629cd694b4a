"""Class-based consumers: one class for all messages of a connection, instead of a function for each channel.

An instance lives as long as one message; what is to outlive it goes into the channel session. A class whose methods are
``async def`` is an asynchronous consumer.
"""

from channels_django.generic.consumers import BaseConsumer
from channels_django.generic.multiplexer import SendNotAvailableOnDemultiplexer, WebsocketMultiplexer
from channels_django.generic.multiplexing import WebsocketDemultiplexer
from channels_django.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer

__all__ = [
    "BaseConsumer",
    "JsonWebsocketConsumer",
    "SendNotAvailableOnDemultiplexer",
    "WebsocketConsumer",
    "WebsocketDemultiplexer",
    "WebsocketMultiplexer",
]
