"""The memory layer as if it had an engine elsewhere: written in one view only, every call of which may wait."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from channels_core.layer_views import DerivedViews, in_running_loop
from channels_core.layers import LayerBackend
from channels_layer_memory.layer import MemoryBackend

_CALLS = (
    "send_batch",
    "receive_batch",
    "settle",
    "renew_leases",
    "group_add",
    "group_discard",
    "group_channels",
    "group_count",
    "groups",
    "close_channel",
    "open_process",
    "renew_process",
    "close_process",
    "processes",
    "flush",
    "statistics",
    "dead_letters",
    "replay_dead",
    "drop_dead",
)


def _waiting(name: str) -> Callable[..., Any]:
    def call(self: MemoryBackend, *args: Any, **options: Any) -> Any:
        assert not in_running_loop(), f"{name}() would stall the event loop of this thread"
        return getattr(MemoryBackend, name)(self, *args, **options)

    return call


class ThreadMemory(MemoryBackend):
    """Written synchronously: the ``a`` twins, and the exchange, are derived."""

    is_waiting = True
    is_exchange_atomic = False

    for _name in (*_CALLS, "send_one"):
        locals()[_name] = _waiting(_name)
    for _name in (*_CALLS, "send_one", "exchange"):
        locals()[f"a{_name}"] = getattr(DerivedViews, f"a{_name}")
    exchange = LayerBackend.exchange


def _on_loop(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(self: "LoopMemory", *args: Any, **options: Any) -> Any:
        await asyncio.sleep(0)
        return await getattr(self.engine, name)(*args, **options)

    call.__name__ = name
    return call


class LoopMemory(LayerBackend):
    """Written with ``async def``: the synchronous views, and the exchange, are derived."""

    local_only = True
    delivery_classes = MemoryBackend.delivery_classes

    def __init__(self, **options: Any) -> None:
        self.engine = MemoryBackend(**options)
        super().__init__(**options)
        self.counters = self.engine.counters

    for _name in _CALLS:
        locals()[f"a{_name}"] = _on_loop(f"a{_name}")

    @property
    def on_expired(self) -> Callable[[Sequence[Mapping[str, str | int]]], None] | None:
        return self.engine.on_expired

    @on_expired.setter
    def on_expired(self, callback: Callable[[Sequence[Mapping[str, str | int]]], None] | None) -> None:
        self.engine.on_expired = callback

    def wake(self) -> None:
        self.engine.wake()
