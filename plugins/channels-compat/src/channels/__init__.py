"""The import package of Channels 1.x: every name at its old place, each of them what this project has in its stead.

Importable before Django is set up, as settings and routing modules want it.
"""

from typing import Final

from channels.asgi import channel_layers
from channels.routing import include, route, route_class
from channels_core import DEFAULT_CHANNEL_LAYER, Channel, Group

__version__: Final = "1.1.8"
"""The release of Channels 1.x whose interface this is; that of the distribution is channels-compat's own."""

__all__ = [
    "DEFAULT_CHANNEL_LAYER",
    "Channel",
    "Group",
    "__version__",
    "channel_layers",
    "include",
    "route",
    "route_class",
]
