"""Held sends: what a consumer sends waits until its run ends, then leaves in one batch per layer.

The queue belongs to the run, through a context variable: tasks and threads that copy the run's context share
it. It is closed when the run ends; whoever still holds it then sends at once.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer
    from channels_core.layers import Send

__all__ = ["HeldSends", "current_held"]

_strangers = threading.Lock()
"""Held by a thread that adds to another thread's queue, so that the owner cannot close it halfway."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_strangers.acquire, after_in_parent=_strangers.release, after_in_child=_strangers.release
    )


class HeldSends:
    """One run's queue: ``sends``, in the order of the calls over all channels and groups, and the layer of each.

    Made and closed by one thread; any thread may append. The owner takes no lock, which would cost more than all
    else that is done here. Usage: ``token = current_held.set(held)``, run the consumer,
    ``current_held.reset(token)``, ``held.close()``.
    """

    __slots__ = ("_has_strangers", "_owner", "is_closed", "layers", "sends")

    def __init__(self) -> None:
        self.sends: list[Send] = []
        self.layers: list[ChannelLayer] = []
        self.is_closed = False
        self._owner = get_ident()
        self._has_strangers = False

    def append(self, layer: ChannelLayer, send: Send) -> bool:
        """Queue ``send``; ``False`` when the run has ended, and the caller sends at once."""
        if get_ident() != self._owner:
            return self._append_from_elsewhere(layer, send)
        if self.is_closed:
            return False
        self.sends.append(send)
        self.layers.append(layer)
        return True

    def _append_from_elsewhere(self, layer: ChannelLayer, send: Send) -> bool:
        with _strangers:
            # Either this thread sees is_closed, or the owner sees _has_strangers and waits for the lock.
            self._has_strangers = True
            if self.is_closed:
                return False
            self.sends.append(send)
            self.layers.append(layer)
            return True

    def close(self) -> None:
        """End the run's queue: nothing is added to ``sends`` and ``layers`` from here on. Idempotent."""
        self.is_closed = True
        if self._has_strangers:
            with _strangers:
                pass


current_held: ContextVar[HeldSends | None] = ContextVar("channels_core_held", default=None)
"""The queue of the run in whose context this code runs, or ``None`` outside a consumer."""
