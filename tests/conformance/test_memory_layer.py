"""The memory layer keeps the laws of layers."""

from typing import Any

from channels_core.testing.conformance import LayerConformance
from channels_layer_memory import MemoryBackend


class TestMemoryLayer(LayerConformance):
    takes_clock = True

    def make_backend(self, **options: Any) -> MemoryBackend:
        return MemoryBackend(**options)
