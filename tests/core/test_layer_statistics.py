"""Figures of a layer: their twins, and what a loop is told that asks for them the synchronous way."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from channels_core.channel_layer import ChannelLayer
from channels_core.exceptions import BlockingCallError
from channels_layer_memory import MemoryBackend


class EngineFarAway(MemoryBackend):
    """The memory layer, declared to be one whose calls wait."""

    is_waiting = True


def filled(backend: MemoryBackend) -> ChannelLayer:
    layer = ChannelLayer(backend)
    for number in range(3):
        backend.send_one(layer.prepare("jobs", {"number": number}))
    return layer


@pytest.mark.parametrize("kind", [MemoryBackend, EngineFarAway])
def test_statistics_and_their_twins_agree(kind: type[MemoryBackend]) -> None:
    ticks = iter(range(1000))
    layer = filled(kind(clock=lambda: float(next(ticks) // 1000)))
    assert layer.channel_statistics("jobs") == {
        "messages_pending": 3,
        "messages_leased": 0,
        "messages_max_age": 0.0,
    }
    assert layer.global_statistics() == {
        "messages_count": 3,
        "messages_pending": 3,
        "messages_max_age": 0.0,
        "channel_full_count": 0,
        "sent": 3,
    }

    async def twins() -> tuple[dict[str, Any], dict[str, Any]]:
        return await layer.achannel_statistics("jobs"), await layer.aglobal_statistics()

    assert asyncio.run(twins()) == (layer.channel_statistics("jobs"), layer.global_statistics())
    asyncio.run(layer.aclose())


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("send", lambda layer: layer.send("jobs", {})),
        ("send", lambda layer: layer.send_group("all", {})),
        ("receive", lambda layer: layer.receive(["jobs"], block=True)),
        ("group_add", lambda layer: layer.group_add("all", "jobs")),
        ("group_discard", lambda layer: layer.group_discard("all", "jobs")),
        ("group_channels", lambda layer: layer.group_channels("all")),
        ("group_count", lambda layer: layer.group_count("all")),
        ("flush", lambda layer: layer.flush()),
        ("global_statistics", lambda layer: layer.global_statistics()),
        ("channel_statistics", lambda layer: layer.channel_statistics("jobs")),
    ],
)
async def test_a_call_that_would_stall_the_loop_names_a_twin_that_there_is(
    name: str, call: Callable[[ChannelLayer], object]
) -> None:
    layer = ChannelLayer(EngineFarAway())
    with pytest.raises(BlockingCallError) as raised:
        call(layer)
    assert str(raised.value) == (
        f"{name}() on layer 'default' would wait in a thread whose event loop is running, and stall everything on it."
        f" Await a{name}() instead."
    )
    assert inspect.iscoroutinefunction(getattr(layer, f"a{name}"))
    await layer.aclose()
