"""A backend whose author wrote the asynchronous half only keeps the laws in both views.

The other way round is shown by the SQLite layer in ``tests/thirdparty``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from channels_core.layers import (
    ChannelFigures,
    DeadLetter,
    Delivery,
    LayerBackend,
    Outcome,
    ProcessInfo,
    ProcessKind,
    Send,
    Settlement,
)
from channels_core.testing.conformance import LayerConformance
from channels_layer_memory import MemoryBackend


class AsyncMemoryBackend(LayerBackend):
    """Speaks to the memory layer as to an engine behind a connection: every call is awaited."""

    local_only = True
    delivery_classes = MemoryBackend.delivery_classes

    def __init__(self, *, clock: Any, **options: Any) -> None:
        super().__init__(**options)
        self._engine = MemoryBackend(clock=clock, **options)
        self.counters = self._engine.counters
        self._engine.on_expired = self._pass_on

    def _pass_on(self, expired: Sequence[Mapping[str, str | int]]) -> None:
        if self.on_expired is not None:
            self.on_expired(expired)

    async def asend_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        return await self._engine.asend_batch(sends)

    async def areceive_batch(
        self,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        return await self._engine.areceive_batch(channels, limit=limit, timeout=timeout, process=process)

    async def asettle(self, settlements: Sequence[Settlement]) -> None:
        await self._engine.asettle(settlements)

    async def arenew_leases(self, deliveries: Sequence[Delivery]) -> None:
        await self._engine.arenew_leases(deliveries)

    async def agroup_add(self, group: str, channel: str) -> None:
        await self._engine.agroup_add(group, channel)

    async def agroup_discard(self, group: str, channel: str) -> None:
        await self._engine.agroup_discard(group, channel)

    async def agroup_channels(self, group: str) -> list[str]:
        return await self._engine.agroup_channels(group)

    async def agroup_count(self, group: str) -> int:
        return await self._engine.agroup_count(group)

    async def agroups(self) -> dict[str, int]:
        return await self._engine.agroups()

    async def aclose_channel(self, channel: str) -> None:
        await self._engine.aclose_channel(channel)

    async def aopen_process(self, kind: ProcessKind, *, label: str = "") -> str:
        return await self._engine.aopen_process(kind, label=label)

    async def arenew_process(
        self, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        return await self._engine.arenew_process(process, load=load, counters=counters)

    async def aclose_process(self, process: str) -> None:
        await self._engine.aclose_process(process)

    async def aprocesses(self) -> list[ProcessInfo]:
        return await self._engine.aprocesses()

    async def aflush(self) -> None:
        await self._engine.aflush()

    async def astatistics(self, channels: Iterable[str] | None = None) -> list[ChannelFigures]:
        return await self._engine.astatistics(channels)

    async def adead_letters(self, channel: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        return await self._engine.adead_letters(channel, limit=limit)

    async def areplay_dead(self, ids: Sequence[str]) -> int:
        return await self._engine.areplay_dead(ids)

    async def adrop_dead(self, ids: Sequence[str]) -> int:
        return await self._engine.adrop_dead(ids)

    def wake(self) -> None:
        self._engine.wake()


class TestAsyncMemoryLayer(LayerConformance):
    takes_clock = True

    def make_backend(self, **options: Any) -> LayerBackend:
        return AsyncMemoryBackend(**options)
