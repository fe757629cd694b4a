"""A layer of any kind, a router that is a dict, and workers that are stopped at the end."""

import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from channels_core import ChannelLayer, Message
from channels_core.layers import Delivery, LayerBackend
from channels_core.routing import Match, Router, is_async_consumer
from channels_core.worker import Worker
from channels_layer_memory.layer import MemoryBackend
from sqlite_layer.layer import SqliteBackend
from waiting_memory import LoopMemory, ThreadMemory

WAIT = 10.0

MakeBackend = Callable[..., LayerBackend]


def backends(folder: Path) -> dict[str, MakeBackend]:
    """One that never waits, and three that do: a worker takes another way with each."""

    numbers = count()

    def sqlite(**options: Any) -> LayerBackend:
        return SqliteBackend(path=folder / f"{next(numbers)}.sqlite", **options)

    return {"memory": MemoryBackend, "threads": ThreadMemory, "loop": LoopMemory, "sqlite": sqlite}


KINDS = ("memory", "threads", "loop", "sqlite")


class Table(Router):
    """A router that is a dict."""

    def __init__(self, routes: dict[str, Any]) -> None:
        self._routes = routes

    @property
    def channels(self) -> set[str]:
        return set(self._routes)

    @property
    def async_channels(self) -> set[str]:
        return {name for name, consumer in self._routes.items() if is_async_consumer(consumer)}

    def match(self, message: Message) -> Match | None:
        consumer = self._routes.get(str(message.channel))
        return None if consumer is None else (consumer, {})


class Bench:
    """A layer, and workers on it that are stopped at the end."""

    def __init__(self, make_backend: MakeBackend = MemoryBackend, **options: Any) -> None:
        self.backend = make_backend(**options)
        self.layer = ChannelLayer(self.backend)
        self.workers: list[Worker] = []

    def work(self, routes: dict[str, Any] | Router, **options: Any) -> Worker:
        self.layer.router = routes if isinstance(routes, Router) else Table(routes)
        worker = Worker(self.layer, **options)
        self.workers.append(worker)
        worker.start()
        return worker

    def take(self, channel: str, timeout: float = WAIT) -> dict[str, Any]:
        name, content = self.layer.receive([channel], block=True, timeout=timeout)
        assert name is not None, f"nothing came on {channel} within {timeout} s"
        assert content is not None
        return content

    def deliver(self, channel: str, timeout: float = WAIT) -> Delivery:
        (delivery,) = self.backend.receive_batch([channel], limit=1, timeout=timeout)
        return delivery

    def close(self) -> None:
        """Stop the workers, which must be able to, and the layer."""
        for worker in self.workers:
            assert worker.stop(WAIT)
        self.backend.close()


def wait_until(condition: Callable[[], object], timeout: float = WAIT) -> None:
    """Poll for what another thread does and no event tells of."""
    pause = threading.Event()
    for _ in range(int(timeout / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("the condition did not become true in time")
