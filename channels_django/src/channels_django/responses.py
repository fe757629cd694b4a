"""Sends the messages of one HTTP response, no faster than the other side takes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from random import uniform
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from channels_core.exceptions import LayerUnavailable, MessageTooLarge
from channels_core.layers import Outcome

if TYPE_CHECKING:
    from channels_core.channel import Channel

__all__ = ["ResponseSender"]

logger = logging.getLogger("channels.worker")

_LONGEST_PAUSE = 0.05


class ResponseSender:
    """Sends to one reply channel, at once and in order, waiting for room where there is none.

    Waits for ever while the server that wants the answer lives, and stops when it is gone. While the layer's engine is
    away it tries again for ``patience`` seconds, then raises ``LayerUnavailable``.
    """

    def __init__(self, reply_channel: Channel, *, patience: float = 120.0) -> None:
        self._reply_channel = reply_channel
        self._layer = reply_channel.channel_layer
        self._patience = patience

    def send_all(self, messages: Iterator[dict[str, Any]]) -> None:
        """Send ``messages``; the iterator is closed when nobody is left to send to."""
        for message in messages:
            if not self._send(message):
                close = getattr(messages, "close", None)
                if close is not None:
                    close()
                return

    def _send(self, message: dict[str, Any]) -> bool:
        """Whether there is still somebody to send to."""
        try:
            send = self._layer.prepare(self._reply_channel.name, message)
        except MessageTooLarge:
            content = message.get("content", b"")
            if len(content) < 2:
                raise
            half = len(content) // 2
            rest = {"content": content[half:], "more_content": message["more_content"]}
            return self._send({**message, "content": content[:half], "more_content": True}) and self._send(
                rest
            )
        pause = 0.001
        deadline = monotonic() + self._patience
        while True:
            try:
                outcome = self._layer.backend.send_one(send)
            except LayerUnavailable:
                if monotonic() > deadline:
                    raise
                outcome = Outcome.FULL
            if outcome is not Outcome.FULL:
                if outcome is Outcome.UNCERTAIN:
                    logger.warning(
                        "A part of an HTTP response may not have arrived: the layer did not answer in time."
                    )
                return outcome is not Outcome.GONE
            sleep(uniform(0.5, 1.0) * pause)  # jitter: many may wait for room on one server
            pause = min(pause * 2, _LONGEST_PAUSE)
