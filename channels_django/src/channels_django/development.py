"""What ``runserver`` runs: the interface application under uvicorn, and a worker in threads of the same process."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

from channels_core.exceptions import ConfigurationError

if TYPE_CHECKING:
    import uvicorn

    from channels_core.worker import Worker

__all__ = ["DevelopmentServer", "bind", "finish", "make_uvicorn_server"]

logger = logging.getLogger("channels.interface")

_SHUTDOWN = 3
"""Seconds for requests in hand when the server stops."""
_BACKLOG = 2048
_DRAIN = 2.0
"""Seconds for consumers of the sockets that just closed, on a layer that ends with the process."""


def bind(address: str, port: int, *, use_ipv6: bool) -> socket.socket:
    """A socket that listens for the server. Raises ``OSError`` where the address cannot be had."""
    family = socket.AF_INET6 if use_ipv6 else socket.AF_INET
    found = socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found[0][4])
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(False)
    return listener


def make_uvicorn_server(application: Any) -> uvicorn.Server:
    """A uvicorn server of ``application`` that leaves the signals to its caller.

    Raises :class:`~channels_core.exceptions.ConfigurationError` where uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError as exc:
        raise ConfigurationError(
            "runserver needs the server uvicorn, which is not installed: pip install 'channels-django[server]', or use"
            " --noasgi to serve plain Django without WebSockets."
        ) from exc

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(
        uvicorn.Config(
            application,
            interface="asgi3",
            lifespan="auto",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN,
        )
    )


def finish(worker: Worker, make_worker: Callable[[], Worker]) -> None:
    """Stop ``worker``; on a layer that ends with the process, once nothing waits there any more, or 2 s have passed.

    A worker that stops gives back what it has received and not begun, and what its consumers sent last waits too: for
    that, another worker is made.
    """
    deadline = monotonic() + _DRAIN
    while worker.layer.backend.local_only:
        pause = threading.Event()
        while _is_anything_waiting(worker) and monotonic() < deadline:
            pause.wait(0.02)
        worker.stop(_DRAIN)
        if monotonic() >= deadline or not _is_anything_waiting(worker):
            return
        worker = make_worker()
        worker.start()
    worker.stop(_DRAIN)


def _is_anything_waiting(worker: Worker) -> bool:
    return any(one.pending for one in worker.layer.backend.statistics(worker.channels))


class DevelopmentServer:
    """Serves ``application`` on ``listener`` until stopped; a worker that ``make_worker`` makes runs beside it.

    Raises what ``make_worker`` raises.
    """

    def __init__(
        self, application: Any, listener: socket.socket, make_worker: Callable[[], Worker] | None
    ) -> None:
        self._server = make_uvicorn_server(application)
        self._listener = listener
        self._make_worker = make_worker
        self._worker = None if make_worker is None else make_worker()
        self._has_ended = threading.Event()

    def run(self, announce: Callable[[], None]) -> None:
        """Serve until :meth:`stop`, or until SIGINT or SIGTERM where this is the main thread; a second signal ends
        requests in hand at once. ``announce`` is called when both would be heard.

        Sockets are closed first, with 1012; then the worker finishes what it has.
        """
        try:
            with self._signals():
                announce()
                if self._worker is not None:
                    self._worker.start()
                try:
                    self._server.run(sockets=[self._listener])
                finally:
                    if self._worker is not None and self._make_worker is not None:
                        finish(self._worker, self._make_worker)
        finally:
            self._has_ended.set()

    def stop(self, timeout: float = 10.0) -> bool:
        """Make :meth:`run` return, from another thread; whether it did within ``timeout`` seconds."""
        self._server.should_exit = True
        return self._has_ended.wait(timeout)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(signum: int, frame: FrameType | None) -> None:
            if self._server.should_exit:
                self._server.force_exit = True
            self._server.should_exit = True

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
