"""Sends the messages of one HTTP response, no faster than the other side takes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from random import uniform
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from channels_core.channel_layer import channel_layers
from channels_core.exceptions import ChannelsError, LayerUnavailable, MessageTooLarge
from channels_core.headers import CREDIT, CREDITED
from channels_core.layers import Outcome
from channels_core.names import process_of, redact

if TYPE_CHECKING:
    from channels_core.channel import Channel

__all__ = ["ResponseSender"]

logger = logging.getLogger("channels.worker")

_LONGEST_PAUSE = 0.05
_FAILED: Final = {
    "status": 500,
    "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"25")],
    "content": b"500 Internal Server Error",
    "more_content": False,
}
_LOOK_INTERVAL = 5.0
"""Seconds without news after which it is asked whether the interface server still lives."""


class ResponseSender:
    """Sends one response to a reply channel, at once and in order.

    A response of one message just goes out. The parts of a longer one ask for a credit each, and no more than
    RESPONSE_WINDOW of them are under way: a worker is no faster than the client. It stops when the client or its
    server is gone, and after ``patience`` seconds without news; so long it also tries again while the layer is away
    (then raising ``LayerUnavailable``). Where the channel is full it waits for room.
    """

    def __init__(self, reply_channel: Channel, *, patience: float = 120.0) -> None:
        self._name = reply_channel.name
        self._layer = reply_channel.channel_layer
        self._patience = patience
        self._credits: str | None = None
        """The channel that credits come back on."""
        self._under_way = 0

    def send_all(self, messages: Iterator[dict[str, Any]]) -> None:
        """Send ``messages``; the iterator is closed when nobody is left to send to.

        Where making them fails, the client is told: by a 500 instead of the first, later by breaking its connection
        off, so that it does not take the part for the whole. Then the exception goes on.
        """
        has_begun = False
        try:
            for message in messages:
                if not self._send(message):
                    break
                has_begun = True
        except BaseException:
            with suppress(ChannelsError):  # the layer may be what failed
                self._send({"closed": True} if has_begun else _FAILED)
            raise
        finally:
            close = getattr(messages, "close", None)
            if close is not None:
                close()

    def _send(self, message: dict[str, Any]) -> bool:
        """Whether there is still somebody to send to."""
        headers = None
        if message.get("more_content"):
            if self._credits is None:
                self._credits = self._layer.new_channel("http.credit?")
            elif self._under_way >= channel_layers.config.interface.response_window and not self._wait():
                return False
            headers = {CREDIT: self._credits}
        try:
            send = self._layer.prepare(self._name, message, headers)
        except MessageTooLarge:
            content = message.get("content", b"")
            if len(content) < 2:
                raise
            half = len(content) // 2
            rest = {"content": content[half:], "more_content": message["more_content"]}
            return self._send({**message, "content": content[:half], "more_content": True}) and self._send(
                rest
            )
        if headers is not None:
            self._under_way += 1
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

    def _wait(self) -> bool:
        """Wait for a credit; whether there is still somebody to send to."""
        assert self._credits is not None
        backend = self._layer.backend
        deadline = monotonic() + self._patience
        while True:
            try:
                deliveries = backend.receive_batch([self._credits], limit=64, timeout=_LOOK_INTERVAL)
            except LayerUnavailable:
                if monotonic() > deadline:
                    raise
                sleep(_LONGEST_PAUSE)
                continue
            for delivery in deliveries:
                if delivery.content.get("closed"):
                    return False
                self._under_way -= CREDITED in delivery.headers
            if deliveries:
                return True
            if not self._is_server_alive():
                return False
            if monotonic() > deadline:
                logger.warning(
                    "An HTTP response to %r was given up: its client took nothing for %.0f s.",
                    redact(self._name),
                    self._patience,
                )
                return False

    def _is_server_alive(self) -> bool:
        process = process_of(self._name)
        return process is None or any(one.id == process for one in self._layer.backend.processes())
