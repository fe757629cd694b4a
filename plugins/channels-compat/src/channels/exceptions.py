"""What consumers raise."""

from channels_core.exceptions import (
    ChannelSocketException,
    ConsumeLater,
    DenyConnection,
    RequestAborted,
    RequestTimeout,
    ResponseLater,
    WebsocketCloseException,
)
from channels_django.generic.multiplexer import SendNotAvailableOnDemultiplexer

__all__ = [
    "ChannelSocketException",
    "ConsumeLater",
    "DenyConnection",
    "RequestAborted",
    "RequestTimeout",
    "ResponseLater",
    "SendNotAvailableOnDemultiplexer",
    "WebsocketCloseException",
]
