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


class HeldSends:
    """One run's queue: what goes to the layer ``home``, in the order of the calls over all channels and groups, in
    ``sends``; what goes to other layers (without a home: everything), each with its layer, in ``foreign``.

    Made and closed by one thread; any thread may append. The owner takes no lock, which would cost more than all
    else that is done here. Usage: ``token = current_held.set(held)``, run the consumer,
    ``current_held.reset(token)``, ``held.close()``.
    """

    __slots__ = ("_has_strangers", "_home", "_owner", "foreign", "is_closed", "sends")

    def __init__(self, home: ChannelLayer | None = None) -> None:
        self._home = home
        self.sends: list[Send] = []
        self.foreign: list[tuple[ChannelLayer, Send]] = []
        self.is_closed = False
        self._owner = get_ident()
        self._has_strangers = False

    @property
    def process(self) -> str | None:
        """The id of the worker process that the run is of; ``None`` where no worker runs it."""
        return None

    def append(self, layer: ChannelLayer, send: Send) -> bool:
        """Queue ``send``; ``False`` when the run has ended, and the caller sends at once."""
        if get_ident() != self._owner:
            return self._append_from_elsewhere(layer, send)
        if self.is_closed:
            return False
        # One append each: threads that add at the same moment cannot part a send from its layer.
        if layer is self._home:
            self.sends.append(send)
        else:
            self.foreign.append((layer, send))
        return True

    def _append_from_elsewhere(self, layer: ChannelLayer, send: Send) -> bool:
        with _strangers:
            # Either this thread sees is_closed, or the owner sees _has_strangers and waits for the lock.
            self._has_strangers = True
            if self.is_closed:
                return False
            if layer is self._home:
                self.sends.append(send)
            else:
                self.foreign.append((layer, send))
            return True

    def close(self) -> None:
        """End the run's queue: nothing is added to ``sends`` and ``foreign`` from here on. Idempotent."""
        self.is_closed = True
        if self._has_strangers:
            with _strangers:
                pass


current_held: ContextVar[HeldSends | None] = ContextVar("channels_core_held", default=None)
"""The queue of the run in whose context this code runs, or ``None`` outside a consumer."""


def _after_fork_in_child() -> None:
    # The run goes on in the parent: in the child nobody would ever send what is held.
    held = current_held.get()
    if held is not None:
        held.is_closed = True
    _strangers.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_strangers.acquire, after_in_parent=_strangers.release, after_in_child=_after_fork_in_child
    )
