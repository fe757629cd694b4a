"""Held sends: what a consumer sends waits until its run ends, then leaves in one batch per layer.

The queue belongs to the run, through a context variable: tasks and threads that copy the run's context share
it. It is closed when the run ends; whoever still holds it then sends at once.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer
    from channels_core.layers import Send

__all__ = ["HeldSends", "current_held"]


class HeldSends:
    """One run's queue, in the order of the calls over all channels, groups and layers.

    Safe to use from several threads. Usage: ``token = current_held.set(held)``, run the consumer,
    ``current_held.reset(token)``, ``held.close()``.
    """

    __slots__ = ("_lock", "_sends", "is_closed")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sends: list[tuple[ChannelLayer, Send]] = []
        self.is_closed = False

    def append(self, layer: ChannelLayer, send: Send) -> bool:
        """Queue ``send``; ``False`` when the run has ended, and the caller sends at once."""
        with self._lock:
            if self.is_closed:
                return False
            self._sends.append((layer, send))
            return True

    def close(self) -> list[tuple[ChannelLayer, Send]]:
        """End the run's queue and return what it holds, first in first out. A second call returns nothing."""
        with self._lock:
            self.is_closed = True
            sends, self._sends = self._sends, []
            return sends


current_held: ContextVar[HeldSends | None] = ContextVar("channels_core_held", default=None)
"""The queue of the run in whose context this code runs, or ``None`` outside a consumer."""
