"""A client that plays both ends: it sends messages to channels, and runs the consumers for them."""

from __future__ import annotations

import copy
import random
import string
from collections.abc import Mapping
from typing import Any

from asgiref.sync import async_to_sync

from channels_core.channel import Channel, Group
from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER, ChannelLayer, channel_layers
from channels_core.exceptions import ChannelSocketException, DenyConnection
from channels_core.held import HeldSends, current_held
from channels_core.message import Message
from channels_core.routing import Consumer, is_async_consumer
from channels_core.worker import Worker
from channels_django.signals import consumer_finished, consumer_started
from channels_django.testing.inbox import next_message

__all__ = ["Client"]


class Client:
    """Talks to consumers through the layer ``alias``; ``reply_channel`` is the name of its own channel.

    Nothing runs by itself: a message waits until :meth:`consume` takes it, and runs its consumer in this thread.
    """

    def __init__(self, alias: str = DEFAULT_CHANNEL_LAYER) -> None:
        self.alias = alias
        self.reply_channel = alias + "".join(random.choices(string.ascii_letters, k=5))

    @property
    def channel_layer(self) -> ChannelLayer:
        """The layer under this client's alias."""
        return channel_layers[self.alias]

    def get_next_message(self, channel: str) -> Message | None:
        """The oldest message waiting on ``channel``, or ``None``."""
        return next_message(self.alias, channel)

    def get_consumer_by_channel(self, channel: str) -> Consumer | None:
        """The consumer for a message with empty text on ``channel``, or ``None``."""
        found = self.channel_layer.router.match(Message({"text": ""}, channel, self.channel_layer))
        return found[0] if found else None

    def send(self, to: str, content: Mapping[str, Any] | None = None) -> None:
        """Send ``content`` to the channel ``to``, with this client's reply channel where it has none."""
        message = {"reply_channel": self.reply_channel, **copy.deepcopy(dict(content or {}))}
        Channel(to, channel_layer=self.channel_layer).send(message, immediately=True)

    def consume(self, channel: str, fail_on_none: bool = True) -> Any:
        """Take one message off ``channel``, run its consumer and return what that returned.

        What the consumer sent is on its channels afterwards, also where it raised. WebsocketCloseException does what it
        is there for; DenyConnection, ConsumeLater and everything else come out. Database connections stay open. Without
        a message, or a consumer for it, raises ``AssertionError``, or returns ``None`` where ``fail_on_none`` is false.
        """
        message = self.get_next_message(channel)
        if message is None:
            if fail_on_none:
                raise AssertionError(f"There is no message on channel {channel!r} to consume.")
            return None
        found = self.channel_layer.router.match(message)
        if found is None:
            if fail_on_none:
                raise AssertionError(
                    f"No route matches {message!r}; its content is {message.content!r:.500}. Routed channels:"
                    f" {', '.join(sorted(self.channel_layer.router.channels)) or 'none'}."
                )
            return None
        consumer, kwargs = found
        return _run(consumer, message, kwargs)

    def send_and_consume(
        self, channel: str, content: Mapping[str, Any] | None = None, fail_on_none: bool = True
    ) -> Any:
        """:meth:`send`, then :meth:`consume`."""
        self.send(channel, content)
        return self.consume(channel, fail_on_none=fail_on_none)

    def receive(self) -> Any:
        """The content of the oldest message sent to this client, or ``None``."""
        message = self.get_next_message(self.reply_channel)
        return None if message is None else message.content

    def join_group(self, group_name: str) -> None:
        """Make this client a member of a group."""
        Group(group_name, channel_layer=self.channel_layer).add(self.reply_channel)


def _run(consumer: Consumer, message: Message, kwargs: dict[str, Any]) -> Any:
    held = HeldSends()
    token = current_held.set(held)
    try:
        if consumer_started.receivers:
            consumer_started.send(sender=Worker, environ={})
        try:
            call = async_to_sync(consumer) if is_async_consumer(consumer) else consumer
            return call(message, **kwargs)
        except DenyConnection:
            raise
        except ChannelSocketException as control:
            control.run(message)
    finally:
        try:
            if consumer_finished.receivers:
                consumer_finished.send(sender=Worker)
        finally:
            current_held.reset(token)
            held.close()
            for layer, send in held.foreign:
                layer.deliver(send)
    return None
