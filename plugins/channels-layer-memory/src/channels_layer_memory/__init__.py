"""Channel layer that lives in the memory of one process: no server, nothing to install, as fast as it gets."""

from channels_layer_memory.layer import MemoryBackend

__all__ = ["MemoryBackend"]
