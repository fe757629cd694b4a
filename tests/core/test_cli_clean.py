"""`channels clean`, and the door behind it that backends may open."""

import asyncio

import pytest

from channels_core import ChannelLayer, ChannelLayers
from channels_core.cli import Host, main
from channels_layer_memory import MemoryBackend


class Dusty(MemoryBackend):
    local_only = False
    dust = 7

    def clean(self, *, limit: int | None = None) -> int:
        gone = self.dust if limit is None else min(limit, self.dust)
        self.dust -= gone
        return gone


class AsyncDusty(MemoryBackend):
    async def aclean(self, *, limit: int | None = None) -> int:
        return 5


def run(backend: MemoryBackend, *arguments: str) -> int:
    layers = ChannelLayers()
    layers.set("default", ChannelLayer(backend))
    return main(["clean", *arguments], host=Host(layers=layers, command=[]))


def test_it_says_how_many_went(capsys: pytest.CaptureFixture[str]) -> None:
    backend = Dusty()
    assert run(backend, "--limit", "3") == 0
    assert run(backend) == 0
    assert run(backend) == 0
    assert capsys.readouterr() == (
        "Layer 'default': 3 deleted.\nLayer 'default': 4 deleted.\nLayer 'default': 0 deleted.\n",
        "",
    )


def test_a_layer_in_memory_has_nothing_to_clean_from_outside(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(MemoryBackend()) == 0
    assert capsys.readouterr() == (
        "Layer 'default': 0 deleted.\n",
        "Layer 'default' keeps its messages in the memory of one process: there is nothing to clean from outside.\n",
    )


def test_a_backend_writes_either_view() -> None:
    assert asyncio.run(Dusty().aclean(limit=2)) == 2
    assert asyncio.run(MemoryBackend().aclean()) == 0
    backend = AsyncDusty()
    assert backend.clean() == 5
    backend.close()
