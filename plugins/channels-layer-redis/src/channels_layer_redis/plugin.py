"""Registers the layer "redis"."""

from collections.abc import Iterable

from channels_core import hookimpl
from channels_core.registrations import LayerRegistration

__all__ = ["CHANNELS_API", "channels_register_layers"]

CHANNELS_API = 1


@hookimpl
def channels_register_layers() -> Iterable[LayerRegistration]:
    """Yield the one layer of this distribution."""
    yield LayerRegistration(
        name="redis",
        target="channels_layer_redis.layer:RedisBackend",
        summary="on Redis or Valkey, one server, Sentinel or Cluster, both delivery classes",
    )
