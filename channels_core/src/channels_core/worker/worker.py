"""The worker: reads a layer's routed channels and runs their consumers until it is stopped."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

from channels_core.config import WorkerConfig
from channels_core.exceptions import ConfigurationError, LayerUnavailable
from channels_core.outage import Outage, pauses
from channels_core.worker.loops import loop_factory
from channels_core.worker.outbox import Outbox
from channels_core.worker.readers import LoopReader, ThreadReader
from channels_core.worker.runs import Runner
from channels_core.worker.supervisor import SAME_REQUEST

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer
    from channels_core.message import Message
    from channels_core.middleware import ConsumerMiddleware
    from channels_core.worker.events import WorkerEvents

__all__ = ["Worker", "apply_channel_filters", "run_until_signalled"]

logger = logging.getLogger("channels.worker")

_WATCHDOG_TICK = 0.05
_LONGEST_PAUSE = 2.0
_RENEW_AGAIN = 0.3
"""Seconds after which a renewal is tried again that the layer did not answer: outages add up while a lease runs."""


class Worker:
    """Runs the consumers of one layer in ``config.threads`` threads and, for async-only channels, on an event loop.

    ``only_channels`` and ``exclude_channels`` are globs, applied in that order; empty means no filter. ``callback`` is
    called with channel name and message before each consumer. The channels are read from the router once, here.

    Use either :meth:`run`, which blocks, or :meth:`start` and :meth:`stop`. A stopped worker is not started again.

    Raises :class:`~channels_core.exceptions.ConfigurationError` when no channel is left to read, or the routing is bad.
    """

    def __init__(
        self,
        layer: ChannelLayer,
        *,
        config: WorkerConfig | None = None,
        events: WorkerEvents | None = None,
        middleware: Sequence[ConsumerMiddleware] = (),
        only_channels: Sequence[str] | None = None,
        exclude_channels: Sequence[str] | None = None,
        callback: Callable[[str, Message], None] | None = None,
    ) -> None:
        self.layer = layer
        self.config = config or WorkerConfig()
        self._events = events
        routed = layer.router.channels
        self.channels = apply_channel_filters(routed, only_channels, exclude_channels)
        if not self.channels:
            raise ConfigurationError(
                f"The worker of layer {layer.alias!r} has nothing to read: of the routed channels"
                f" {sorted(routed)}, none is left by only_channels={list(only_channels or ())} and"
                f" exclude_channels={list(exclude_channels or ())}. Route a channel or widen the filters."
            )
        loop_factory(self.config.event_loop)  # a name that names nothing is told now, not by a thread
        self._outbox = Outbox(layer, self.config)
        runner = self._runner = Runner(
            layer,
            message_retries=self.config.message_retries,
            middleware=middleware,
            events=events,
            callback=callback,
        )
        outage = self._outage = Outage(layer.alias, logger, "Workers wait and try again until it is back.")
        asynchronous = [name for name in self.channels if name in layer.router.async_channels]
        synchronous = [name for name in self.channels if name not in layer.router.async_channels]
        self._readers: list[ThreadReader | LoopReader] = []
        if synchronous:
            self._readers += [
                ThreadReader(
                    f"channels-worker-{n}", synchronous, layer, runner, self._outbox, self.config, outage
                )
                for n in range(self.config.threads)
            ]
        if asynchronous:
            self._readers.append(
                LoopReader(
                    "channels-worker-loop", asynchronous, layer, runner, self._outbox, self.config, outage
                )
            )
        self.process: str | None = None
        self._requests: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_heard = False
        """Whether :meth:`run` waits for requests to stop."""
        self._has_asked = False
        self._has_ended = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="channels-worker-watchdog", daemon=True)

    def start(self) -> None:
        """Open the worker's process on the layer and read in background threads; returns once they are started.

        Where the engine is away the threads wait until it is there.
        """
        try:
            self._open_process()
        except LayerUnavailable as error:
            self._outage.begin(error)
        try:
            if self._events is not None:
                self._events.worker_ready(self)
            for reader in self._readers:
                reader.start()
            self._watchdog.start()
        except BaseException:
            self.stop()
            raise
        logger.info("Worker of layer %r reads %s.", self.layer.alias, ", ".join(self.channels))

    def run(self) -> bool:
        """:meth:`start`, wait for :meth:`request_stop` or a consumer's SystemExit, :meth:`stop`.

        Returns whether everything ended in time.
        """
        self._is_heard = True
        self.start()
        has_ended = False
        try:
            while not self._is_stop_requested():
                pass
        finally:
            has_ended = self.stop()
        return has_ended

    def _is_stop_requested(self) -> bool:
        # A signal may be taken by any thread, but its handler runs in the main one, which must come back to do so.
        with suppress(queue.Empty):
            self._requests.get(timeout=_WATCHDOG_TICK)
            return True
        return False

    def request_stop(self) -> None:
        """Make :meth:`run` stop gracefully. Safe in a signal handler."""
        self._requests.put(None)

    def stop(self, timeout: float | None = None) -> bool:
        """Finish what is in hand, give back what is not begun, settle, end; at most ``timeout`` seconds.

        The default is ``config.stop_timeout``. Returns whether everything ended in time.
        """
        deadline = monotonic() + (self.config.stop_timeout if timeout is None else timeout)
        for reader in self._readers:
            reader.ask_to_stop()
        waiting = list(self._readers)
        while waiting:
            self.layer.backend.wake()
            waiting = [reader for reader in waiting if not reader.join(0.02)]
            if monotonic() > deadline:
                break
        has_sent = self._outbox.stop(max(0.0, deadline - monotonic()))
        self._has_ended.set()
        if self._watchdog.is_alive():
            self._watchdog.join(1.0)
        if self.process is not None:
            process, self.process = self.process, None
            with suppress(LayerUnavailable):  # its lease runs out by itself
                self.layer.backend.close_process(process)
        if waiting:
            logger.warning(
                "Worker of layer %r stopped with %d consumers still running after %.0f s; at-least-once messages they"
                " hold will be run again.",
                self.layer.alias,
                len(waiting),
                self.config.stop_timeout if timeout is None else timeout,
            )
        return not waiting and has_sent

    def _open_process(self) -> None:
        self.process = self.layer.backend.open_process(
            "worker", label=f"{socket.gethostname()}:{os.getpid()}"
        )
        self._runner.process = self.process
        for reader in self._readers:
            reader.process = self.process

    def _watch(self) -> None:
        """Keep leases alive, relieve readers behind slow handlers, notice a consumer's SystemExit."""
        backend = self.layer.backend
        process_due = 0.0 if self.process is None else monotonic() + backend.process_lease / 3
        longest = min(_LONGEST_PAUSE, backend.process_lease / 6)
        tries = pauses(0.05, longest)
        leases_due = monotonic() + backend.lease / 3
        while not self._has_ended.wait(_WATCHDOG_TICK):
            try:
                for reader in self._readers:
                    reader.relieve()
                    if reader.must_stop and not self._has_asked:
                        self._has_asked = True
                        self._end_by_itself()
                now = monotonic()
                if now >= leases_due:
                    leases_due = now + min(_RENEW_AGAIN, backend.lease / 3)
                    leased = [delivery for reader in self._readers for delivery in reader.leased()]
                    leased += self._outbox.leased()
                    if leased:
                        backend.renew_leases(leased)
                    leases_due = now + backend.lease / 3
                if now >= process_due:
                    process_due = now + next(tries)
                    self._renew_process()
                    process_due = now + backend.process_lease / 3
                    tries = pauses(0.05, longest)
            except LayerUnavailable:
                continue  # the readers report it
            except Exception:
                logger.exception("The worker's watchdog failed; it goes on.")

    def _end_by_itself(self) -> None:
        logger.warning(
            "The worker of layer %r stops: a consumer raised SystemExit or KeyboardInterrupt, or a thread failed.",
            self.layer.alias,
        )
        self.request_stop()
        if not self._is_heard:
            threading.Thread(target=self.stop, name="channels-worker-stop", daemon=True).start()

    def _renew_process(self) -> None:
        backend = self.layer.backend
        busy = sum(reader.is_busy for reader in self._readers) / len(self._readers)
        process = self.process
        if self._has_ended.is_set():
            return
        if process is None:
            self._open_process()
            return
        is_open = backend.renew_process(process, load=busy, counters=self.layer.counters.as_dict())
        if not is_open and not self._has_ended.is_set():
            logger.warning(
                "The worker's lease on layer %r had run out (the machine slept, or the engine was away); it takes a new"
                " one.",
                self.layer.alias,
            )
            self._open_process()


def apply_channel_filters(
    channels: Iterable[str], only_channels: Sequence[str] | None, exclude_channels: Sequence[str] | None
) -> list[str]:
    """``channels`` that match a glob of ``only_channels`` and none of ``exclude_channels``, sorted.

    Empty means no filter.
    """
    kept = sorted(channels)
    if only_channels:
        kept = [name for name in kept if any(fnmatchcase(name, glob) for glob in only_channels)]
    if exclude_channels:
        kept = [name for name in kept if not any(fnmatchcase(name, glob) for glob in exclude_channels)]
    return kept


def run_until_signalled(worker: Worker) -> bool:
    """:meth:`Worker.run` in the main thread; SIGTERM or SIGINT stops it gracefully, a later one at once.

    Returns whether everything ended in time.

    A second signal within a second counts as the same request: service managers and terminals signal a whole group,
    and a supervisor in that group passes its own on.
    """
    first: float | None = None

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = monotonic()
            worker.request_stop()
        elif monotonic() - first > SAME_REQUEST:
            os._exit(128 + signum)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return worker.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
