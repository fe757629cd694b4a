"""Layers by alias, and what old projects and their tests made by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER, ChannelLayer
from channels_core.channel_layer import channel_layers as _channel_layers
from channels_core.exceptions import InvalidChannelLayerError
from channels_router_regex import Router

if TYPE_CHECKING:
    from channels_core.layers import LayerBackend

__all__ = [
    "ChannelLayerManager",
    "ChannelLayerWrapper",
    "InvalidChannelLayerError",
    "channel_layers",
    "get_channel_layer",
]


class ChannelLayerWrapper(ChannelLayer):
    """A layer under another alias, with another routing; ``channel_layer`` is the layer itself, or its backend."""

    def __init__(self, channel_layer: ChannelLayer | LayerBackend, alias: str, routing: Any) -> None:
        backend = channel_layer.backend if isinstance(channel_layer, ChannelLayer) else channel_layer
        super().__init__(backend, alias=alias, routing=routing, make_router=Router)
        self.channel_layer = channel_layer


class ChannelLayerManager:
    """The project's layers by alias: ``channels_core.channel_layers``, with the methods it had in Channels 1.x."""

    @property
    def configs(self) -> Mapping[str, Any]:
        """``CHANNEL_LAYERS``."""
        from django.conf import settings

        layers: Mapping[str, Any] = getattr(settings, "CHANNEL_LAYERS", {})
        return layers

    def make_backend(self, name: str) -> ChannelLayer:
        """A new layer from the entry ``name``, kept nowhere."""
        return _channel_layers.make(name)

    def make_test_backend(self, name: str) -> ChannelLayer:
        """The same from its TEST_CONFIG. Raises :class:`InvalidChannelLayerError` where there is none."""
        return _channel_layers.make(name, for_test=True)

    def __getitem__(self, key: str) -> ChannelLayer:
        return _channel_layers[key]

    def __contains__(self, key: object) -> bool:
        return key in self.configs

    def __iter__(self) -> Iterator[str]:
        return iter(_channel_layers)

    def set(self, key: str, layer: ChannelLayer | None) -> ChannelLayer | None:
        """Put ``layer`` in the place of another, which is returned."""
        return _channel_layers.set(key, layer)


channel_layers = ChannelLayerManager()
"""The project's layers."""


def get_channel_layer(alias: str = DEFAULT_CHANNEL_LAYER) -> ChannelLayer:
    """Set Django up and return a layer: what ``asgi.py`` of a Channels 1.x project did."""
    import django

    django.setup(set_prefix=False)
    return channel_layers[alias]
