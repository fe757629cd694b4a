"""The delay server, as Channels 1.x called it."""

from __future__ import annotations

import threading

from channels_core.channel_layer import ChannelLayer
from channels_delay.server import DelayServer, run_until_signalled

__all__ = ["Worker"]


class Worker:
    """Takes messages off ``asgi.delay`` and sends them when they are due; see :class:`channels_delay.DelayServer`.

    ``database_sleep_duration`` is the most seconds between two looks into the table.
    """

    def __init__(
        self, channel_layer: ChannelLayer, signal_handlers: bool = True, database_sleep_duration: float = 1
    ) -> None:
        self.channel_layer = channel_layer
        self.signal_handlers = signal_handlers
        self._server = DelayServer(channel_layer, sleep=database_sleep_duration)
        self._has_termed = False

    @property
    def termed(self) -> bool:
        """Whether it has been told to stop; set it to true to tell it, from any thread."""
        return self._has_termed

    @termed.setter
    def termed(self, value: bool) -> None:
        self._has_termed = value
        if value:
            self._server.request_stop()

    def run(self) -> None:
        """Serve until ``termed``; with ``signal_handlers`` in the main thread, until SIGTERM or SIGINT too."""
        if self.signal_handlers and threading.current_thread() is threading.main_thread():
            run_until_signalled(self._server)
        else:
            self._server.run()
