"""Workers as Channels 1.x had them: made with a layer, run until ``termed`` is true."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from channels_core.channel_layer import ChannelLayer, channel_layers
from channels_core.exceptions import LayerUnavailable
from channels_core.layers import Delivery
from channels_core.message import Message
from channels_core.outage import Outage
from channels_core.worker import Worker as CoreWorker
from channels_core.worker import apply_channel_filters, run_until_signalled
from channels_core.worker.outbox import Outbox
from channels_core.worker.runs import Runner
from channels_django.signals import DjangoEvents, worker_ready

__all__ = ["Worker", "WorkerGroup"]

logger = logging.getLogger("channels.worker")

_WAIT = 1.0
"""Seconds of one read, and of a rest where nothing can be read."""


class Worker:
    """Runs the consumers of ``channel_layer``, one message at a time.

    A subclass may define ``termed`` otherwise, a property that counts down for example: then it is read before each
    message, and :meth:`run` returns when it is true.
    """

    n_threads = 1

    def __init__(
        self,
        channel_layer: ChannelLayer,
        callback: Callable[[str, Message], None] | None = None,
        message_retries: int = 10,
        signal_handlers: bool = True,
        only_channels: Sequence[str] | None = None,
        exclude_channels: Sequence[str] | None = None,
    ) -> None:
        self.channel_layer = channel_layer
        self.callback = callback
        self.message_retries = message_retries
        self.signal_handlers = signal_handlers
        self.only_channels = only_channels
        self.exclude_channels = exclude_channels
        self._events = _Events(self)
        self._worker: CoreWorker | None = None
        self._has_termed = False

    @property
    def termed(self) -> bool:
        """Whether it has been told to stop; set it to true to tell it, from any thread."""
        return self._has_termed

    @termed.setter
    def termed(self, value: bool) -> None:
        self._has_termed = value
        if value and self._worker is not None:
            self._worker.request_stop()

    @property
    def in_job(self) -> bool:
        """Whether a consumer is running."""
        return self._events.running > 0

    def apply_channel_filters(self, channels: Iterable[str]) -> list[str]:
        """Those of ``channels`` that the worker reads."""
        return apply_channel_filters(channels, self.only_channels, self.exclude_channels)

    def ready(self) -> None:
        """Called when the worker is about to read; sends ``worker_ready``."""
        worker_ready.send(sender=self)

    def run(self) -> None:
        """Work until ``termed``; with ``signal_handlers`` in the main thread, until SIGTERM or SIGINT too."""
        worker: Any
        if type(self).termed is not Worker.termed:
            worker = _StepByStep(self, self._events)
        else:
            config = replace(
                channel_layers.config.worker, threads=self.n_threads, message_retries=self.message_retries
            )
            worker = self._worker = CoreWorker(
                self.channel_layer,
                config=config,
                events=self._events,
                middleware=channel_layers.make_middleware(),
                only_channels=self.only_channels,
                exclude_channels=self.exclude_channels,
                callback=self.callback,
            )
            if self._has_termed:
                worker.request_stop()
        if self.signal_handlers and threading.current_thread() is threading.main_thread():
            run_until_signalled(worker)
        else:
            worker.run()


class _StepByStep:
    """Runs a worker that says before each message whether it goes on."""

    def __init__(self, worker: Worker, events: _Events) -> None:
        self._worker = worker
        self._events = events
        self._layer = worker.channel_layer
        self._stopping = threading.Event()

    def request_stop(self) -> None:
        self._stopping.set()
        self._layer.backend.wake()

    def run(self) -> bool:
        worker, layer = self._worker, self._layer
        config = channel_layers.config.worker
        channels = worker.apply_channel_filters(layer.router.channels)
        outbox = Outbox(layer, config)
        runner = Runner(
            layer,
            message_retries=worker.message_retries,
            middleware=channel_layers.make_middleware(),
            events=self._events,
            callback=worker.callback,
        )
        outage = Outage(layer.alias, logger, "Messages wait until it is back.")
        worker.ready()
        try:
            while not (worker.termed or self._stopping.is_set()):
                try:
                    found = layer.backend.receive_batch(channels, limit=1, timeout=_WAIT)
                    outage.end()
                except LayerUnavailable as error:
                    outage.begin(error)
                    found = []
                if not channels or outage.is_on:
                    self._stopping.wait(_WAIT)
                if not all(self._handle(delivery, runner, outbox) for delivery in found):
                    break
        finally:
            outbox.stop(config.stop_timeout)
        return True

    @staticmethod
    def _handle(delivery: Delivery, runner: Runner, outbox: Outbox) -> bool:
        """Run the consumer for a message; whether the worker goes on."""
        run = runner.begin(delivery)
        if run.call is not None and run.call.is_async:
            asyncio.run(_finished(runner.arun(run)))
        else:
            runner.run(run)
        if run.foreign:
            outbox.send_foreign(run)
        outbox.finish(run)
        return not run.must_stop


class WorkerGroup(Worker):
    """A worker with ``n_threads`` threads."""

    def __init__(self, *args: Any, n_threads: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n_threads = n_threads


class _Events(DjangoEvents):
    """Signals and connections as in any worker of Django, and how many consumers run."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker
        self._lock = threading.Lock()
        self.running = 0

    def worker_ready(self, worker: CoreWorker) -> None:
        self._worker.ready()

    def consumer_started(self) -> None:
        self._count(1)
        super().consumer_started()

    def consumer_finished(self) -> None:
        self._count(-1)
        super().consumer_finished()

    async def aconsumer_started(self) -> None:
        self._count(1)
        await super().aconsumer_started()

    async def aconsumer_finished(self) -> None:
        self._count(-1)
        await super().aconsumer_finished()

    def _count(self, change: int) -> None:
        with self._lock:
            self.running += change


async def _finished(run: Any) -> None:
    await run
