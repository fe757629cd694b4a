"""Channel layer on Redis or Valkey: one server, Sentinel or Cluster."""

from channels_layer_redis.layer import RedisBackend

__all__ = ["RedisBackend"]
