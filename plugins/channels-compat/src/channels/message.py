"""Messages, and the queue of what a consumer sends."""

from __future__ import annotations

from contextvars import ContextVar
from threading import Event
from time import monotonic
from typing import Any

from channels_core.channel import Channel, Group
from channels_core.channel_layer import ChannelLayer
from channels_core.exceptions import ChannelFull
from channels_core.held import HeldSends, current_held
from channels_core.layers import Send
from channels_core.message import Message

__all__ = ["Message", "PendingMessageStore", "pending_message_store"]

_prepared: ContextVar[HeldSends | None] = ContextVar("channels_prepared", default=None)


class PendingMessageStore:
    """The queue that sends wait in while a consumer runs, as code could reach it in Channels 1.x.

    Workers use queues of their own, one for each run. :meth:`prepare` and :meth:`send_and_flush` make one for code that
    runs outside a worker, in this thread or task.
    """

    retry_time: float = 2
    """Seconds for which :meth:`send_and_flush` tries a full channel again."""
    retry_interval: float = 0.2

    @property
    def active(self) -> bool:
        """Whether what is sent now waits."""
        held = current_held.get()
        return held is not None and not held.is_closed

    def prepare(self, **kwargs: Any) -> None:
        """Begin a queue: what is sent from here on waits for :meth:`send_and_flush`."""
        held = HeldSends()
        current_held.set(held)
        _prepared.set(held)

    def append(self, sender: Channel | Group, message: dict[str, Any]) -> None:
        """Send ``message`` to a channel or a group; it waits where a queue is :attr:`active`."""
        sender.send(message)

    def send_and_flush(self, **kwargs: Any) -> None:
        """Send all that waits, in order, and end the queue of :meth:`prepare`. Inside a consumer, its queue goes on.

        Raises ``RuntimeError`` for a channel that stays full; what came before it has been sent.
        """
        held = current_held.get()
        if held is None:
            return
        if held is _prepared.get():
            _prepared.set(None)
            current_held.set(None)
            held.close()
        foreign, held.foreign[:] = list(held.foreign), []
        home: ChannelLayer | None = held._home
        sends: list[Send] = []
        if home is not None:
            sends, held.sends[:] = list(held.sends), []
            foreign = [(home, send) for send in sends] + foreign
        for layer, send in foreign:
            self._deliver(layer, send)

    def _deliver(self, layer: ChannelLayer, send: Send) -> None:
        deadline = monotonic() + self.retry_time
        pause = Event()
        while True:
            try:
                layer.deliver(send)
                return
            except ChannelFull as error:
                if monotonic() >= deadline:
                    raise RuntimeError(
                        f"The channel {send.channel!r} stayed full for {self.retry_time} seconds: {error}"
                    ) from error
            pause.wait(self.retry_interval)


pending_message_store = PendingMessageStore()
"""The one store."""
