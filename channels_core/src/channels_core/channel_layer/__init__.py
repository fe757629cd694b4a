"""What users hold of a layer, and the handler that makes layers from configuration."""

from channels_core.channel_layer.handler import CONFIG_VARIABLE, ChannelLayers, channel_layers
from channels_core.channel_layer.layer import DEFAULT_CHANNEL_LAYER, ChannelLayer

__all__ = ["CONFIG_VARIABLE", "DEFAULT_CHANNEL_LAYER", "ChannelLayer", "ChannelLayers", "channel_layers"]
