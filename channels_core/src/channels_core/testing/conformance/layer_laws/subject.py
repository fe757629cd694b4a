"""What every law needs: the backend under test, seen through either view, and a way to let time pass."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from channels_core.layers import (
    AT_LEAST_ONCE,
    ChannelFigures,
    DeadLetter,
    Delivery,
    Exchange,
    LayerBackend,
    Outcome,
    ProcessInfo,
    ProcessKind,
    Send,
    Settlement,
    Turn,
    Verdict,
)

__all__ = ["Clock", "Layer", "LayerLaws", "OpenLayer", "Pending", "contents", "numbers", "send", "to_group"]

T = TypeVar("T")


class Clock:
    """Time that passes when told to. Calling it gives seconds."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Pending(Generic[T]):
    """A call that was begun beside the test."""

    def __init__(
        self, future: Future[T], patience: float, cancel: Callable[[], T | None] | None = None
    ) -> None:
        self._future = future
        self._patience = patience
        self._cancel = cancel

    def result(self) -> T:
        """What the call returned; fails the test when it does not return."""
        return self._future.result(self._patience)

    @property
    def has_returned(self) -> bool:
        return self._future.done()

    def cancel(self) -> T | None:
        """Cancel the task that makes the call; what it returned, if it was faster."""
        assert self._cancel is not None, "only calls of the asynchronous view can be cancelled"
        return self._cancel()


class Layer:
    """A backend, seen through its synchronous or its asynchronous methods: the same calls for both, so that each law
    is written once."""

    def __init__(self, backend: LayerBackend, *, is_async: bool, patience: float) -> None:
        self.backend = backend
        self.is_async = is_async
        self.patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if not self.is_async:
            return getattr(self.backend, name)(*args, **kwargs)
        return self._submit(getattr(self.backend, f"a{name}")(*args, **kwargs)).result(self.patience)

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="kit-loop", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """End the loop that the asynchronous view runs in."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop).result(self.patience)
            self._loop.call_soon_threadsafe(self._loop.stop)
            while self._loop.is_running():
                time.sleep(0.001)
            self._loop.close()
            self._loop = None

    # The contract.

    def send(self, *sends: Send) -> list[Outcome]:
        found: list[Outcome] = self._call("send_batch", sends)
        return found

    def send_one(self, one: Send) -> Outcome:
        found: Outcome = self._call("send_one", one)
        return found

    def receive(
        self, *channels: str, limit: int = 100, timeout: float | None = 0, process: str | None = None
    ) -> list[Delivery]:
        found: list[Delivery] = self._call(
            "receive_batch", channels, limit=limit, timeout=timeout, process=process
        )
        return found

    def begin_receive(
        self, *channels: str, limit: int = 100, timeout: float | None = None
    ) -> Pending[list[Delivery]]:
        """A receive beside the test: in a thread, or in a task."""
        if not self.is_async:
            call = partial(self.backend.receive_batch, channels, limit=limit, timeout=timeout)
            return in_thread(call, self.patience)
        receive = self.backend.areceive_batch
        task, future = self._submit(_begin(receive(channels, limit=limit, timeout=timeout))).result(
            self.patience
        )
        return Pending(future, self.patience, lambda: self._submit(_cancel(task)).result(self.patience))

    def settle(self, *settlements: Settlement) -> None:
        self._call("settle", settlements)

    def done(self, *deliveries: Delivery) -> None:
        self.settle(*(Settlement(delivery, Verdict.DONE) for delivery in deliveries))

    def release(self, *deliveries: Delivery, is_begun: bool = False) -> None:
        self.settle(*(Settlement(delivery, Verdict.RELEASE, is_begun=is_begun) for delivery in deliveries))

    def requeue(self, delivery: Delivery, content: dict[str, Any]) -> None:
        self.settle(Settlement(delivery, Verdict.REQUEUE, content))

    def dead(self, delivery: Delivery, reason: str) -> None:
        self.settle(Settlement(delivery, Verdict.DEAD, reason=reason))

    def exchange(
        self, turns: Sequence[Turn], *channels: str, limit: int = 100, timeout: float | None = 0
    ) -> Exchange:
        found: Exchange = self._call("exchange", turns, channels, limit=limit, timeout=timeout)
        return found

    def renew_leases(self, *deliveries: Delivery) -> None:
        self._call("renew_leases", deliveries)

    def group_add(self, group: str, *channels: str) -> None:
        for channel in channels:
            self._call("group_add", group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        self._call("group_discard", group, channel)

    def group_channels(self, group: str) -> list[str]:
        found: list[str] = self._call("group_channels", group)
        return found

    def group_count(self, group: str) -> int:
        found: int = self._call("group_count", group)
        return found

    def groups(self) -> dict[str, int]:
        found: dict[str, int] = self._call("groups")
        return found

    def close_channel(self, channel: str) -> None:
        self._call("close_channel", channel)

    def open_process(self, kind: ProcessKind = "interface", *, label: str = "") -> str:
        found: str = self._call("open_process", kind, label=label)
        return found

    def renew_process(
        self, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        found: bool = self._call("renew_process", process, load=load, counters=counters)
        return found

    def close_process(self, process: str) -> None:
        self._call("close_process", process)

    def processes(self) -> list[ProcessInfo]:
        found: list[ProcessInfo] = self._call("processes")
        return found

    def flush(self) -> None:
        self._call("flush")

    def statistics(self, *channels: str) -> list[ChannelFigures]:
        found: list[ChannelFigures] = self._call("statistics", channels or None)
        return found

    def dead_letters(self, channel: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        found: list[DeadLetter] = self._call("dead_letters", channel, limit=limit)
        return found

    def replay_dead(self, *ids: str) -> int:
        found: int = self._call("replay_dead", ids)
        return found

    def drop_dead(self, *ids: str) -> int:
        found: int = self._call("drop_dead", ids)
        return found


def in_thread(call: Callable[[], T], patience: float) -> Pending[T]:
    """Make ``call`` in a thread of its own, and give it ``patience`` seconds."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name="kit-thread", daemon=True).start()
    return Pending(future, patience)


async def _begin(work: Coroutine[Any, Any, T]) -> tuple[asyncio.Task[T], Future[T]]:
    task = asyncio.get_running_loop().create_task(work)
    future: Future[T] = Future()

    def pass_on(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            future.cancel()
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())

    task.add_done_callback(pass_on)
    return task, future


async def _cancel(task: asyncio.Task[T]) -> T | None:
    task.cancel()
    await asyncio.wait({task})
    return None if task.cancelled() else task.result()


async def _end_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


OpenLayer = Callable[..., Layer]


class LayerLaws:
    """What :class:`~channels_core.testing.conformance.LayerConformance` asks of its author, and the fixtures."""

    takes_clock: ClassVar[bool] = False
    """Whether ``make_backend`` may be given ``clock``, a callable that returns seconds: then no test sleeps for what
    happens with time."""
    tick: ClassVar[float] = 0.25
    """Seconds that an engine without a clock is given where something must have run out, or must not yet."""

    def make_backend(self, **options: Any) -> LayerBackend:
        """A new backend with ``options``; for a layer of several processes, always on the same engine, which is empty
        when a test begins."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say how a backend is made: define make_backend(self, **options) in it,"
            " returning a LayerBackend that was given the options."
        )

    patience: ClassVar[float] = 20.0
    """Seconds after which something that should have happened is taken not to happen."""

    clock: Clock

    @pytest.fixture(params=["sync", "async"])
    def open_layer(self, request: pytest.FixtureRequest) -> Iterator[OpenLayer]:
        """Opens the layer: ``open_layer(**options)``. Called again, it gives another backend on the same engine."""
        with self.opening(is_async=request.param == "async") as open_layer:
            yield open_layer

    @contextmanager
    def opening(self, *, is_async: bool) -> Iterator[OpenLayer]:
        """What the fixture gives, for one view; what was opened is closed at the end."""
        opened: list[Layer] = []
        self.clock = Clock()

        def open_layer(**options: Any) -> Layer:
            if self.takes_clock:
                options["clock"] = self.clock
            layer = Layer(self.make_backend(**options), is_async=is_async, patience=self.patience)
            if not opened:
                layer.flush()
            opened.append(layer)
            return layer

        try:
            yield open_layer
        finally:
            for layer in opened:
                layer.backend.wake()
                layer.stop()
                layer.backend.close()

    def pass_time(self, seconds: float) -> None:
        """Let ``seconds`` go by for the layer."""
        if self.takes_clock:
            self.clock.now += seconds
        else:
            time.sleep(seconds)

    def give_others_time(self) -> None:
        """Let calls that were begun beside the test come to their wait. A law holds too where they do not."""
        time.sleep(0.03)

    def need_leases(self, layer: Layer) -> None:
        """Skip the law where the backend has no at-least-once channels."""
        if AT_LEAST_ONCE not in layer.backend.delivery_classes:
            pytest.skip(f"{type(layer.backend).__name__} has no at-least-once channels")


def send(channel: str, number: int = 0, *, size: int = 20, **headers: str | int) -> Send:
    """A small message that can be told from others."""
    return Send(
        channel, {"n": number}, {name.replace("_", "-"): value for name, value in headers.items()}, size
    )


def to_group(group: str, number: int = 0, *, size: int = 20) -> Send:
    """The same, for a group."""
    return Send(group, {"n": number}, {}, size, True)


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    """What :func:`send` put into them, in order."""
    return [delivery.content["n"] for delivery in deliveries]


def contents(deliveries: Sequence[Delivery]) -> list[tuple[str, tuple[str, ...], int]]:
    """Where each came from and to whom it goes, locals sorted, with its number."""
    return [
        (delivery.channel, tuple(sorted(delivery.locals)), delivery.content["n"]) for delivery in deliveries
    ]
