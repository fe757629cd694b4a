"""Workers as Channels 1.x had them: made with a layer, run until ``termed`` is true."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from channels_core.channel_layer import ChannelLayer, channel_layers
from channels_core.message import Message
from channels_core.worker import Worker as CoreWorker
from channels_core.worker import apply_channel_filters, run_until_signalled
from channels_core.worker.outbox import Outbox
from channels_core.worker.runs import Runner
from channels_django.signals import DjangoEvents, worker_ready

__all__ = ["Worker", "WorkerGroup"]

_WAIT = 1.0


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
        if type(self).termed is not Worker.termed:
            self._run_step_by_step()
            return
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

    def _run_step_by_step(self) -> None:
        layer, backend = self.channel_layer, self.channel_layer.backend
        config = channel_layers.config.worker
        channels = self.apply_channel_filters(layer.router.channels)
        outbox = Outbox(layer, config)
        runner = Runner(
            layer,
            message_retries=self.message_retries,
            middleware=channel_layers.make_middleware(),
            events=self._events,
            callback=self.callback,
        )
        self.ready()
        try:
            while not self.termed:
                for delivery in backend.receive_batch(channels, limit=1, timeout=_WAIT):
                    run = runner.begin(delivery)
                    if run.call is not None and run.call.is_async:
                        asyncio.run(_finished(runner.arun(run)))
                    else:
                        runner.run(run)
                    if run.foreign:
                        outbox.send_foreign(run)
                    outbox.finish(run)
                    if run.must_stop:
                        return
        finally:
            outbox.stop(config.stop_timeout)


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
