"""Taking one message off one channel, also where the layer only reads many at once."""

from __future__ import annotations

from channels_core.channel_layer import ChannelLayer, channel_layers
from channels_core.message import Message
from channels_core.names import prefix_of

__all__ = ["next_message"]


def next_message(alias: str, channel: str) -> Message | None:
    """The oldest message waiting on ``channel``, or ``None``.

    A process-specific channel is read by its prefix, so messages to others of the same prefix come along: they are
    sent again, behind what waits there by now.
    """
    layer: ChannelLayer = channel_layers[alias]
    others = []
    found = None
    while found is None:
        name, content = layer.receive([prefix_of(channel)])
        if name is None or content is None:
            break
        if name == channel:
            found = Message(content, name, layer)
        else:
            others.append((name, content))
    for name, content in others:
        layer.send(name, content)
    return found
