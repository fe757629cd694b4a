"""The layer on Redis and Valkey keeps the laws of layers, on every kind of server that it is for."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from channels_core.testing.conformance import LayerConformance
from channels_layer_redis import RedisBackend
from redis_servers import RedisCluster, RedisServer


class OnOneServer(LayerConformance):
    kind: ClassVar[str]
    running: ClassVar[RedisServer]
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls) -> Iterator[None]:
        with RedisServer(cls.kind) as server:
            cls.running = server
            yield

    @pytest.fixture(autouse=True)
    def empty(self, server: None) -> None:
        self.running.do("FLUSHALL")

    def make_backend(self, **options: Any) -> RedisBackend:
        return RedisBackend(hosts=[self.running.url], **{**self.options, **options})


class TestOnValkey(OnOneServer):
    kind = "valkey"


class TestOnTheOldestRedis(OnOneServer):
    kind = "redis-6.2"


class TestOnRedisOfDebian(OnOneServer):
    kind = "redis-7.0"


class TestSealed(OnOneServer):
    kind = "valkey"
    options: ClassVar[dict[str, Any]] = {"encryption_keys": ["a secret"], "compress_above": 64}


class TestOnACluster(LayerConformance):
    running: ClassVar[RedisCluster]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def cluster(cls) -> Iterator[None]:
        with RedisCluster() as cluster:
            cls.running = cluster
            yield

    @pytest.fixture(autouse=True)
    def empty(self, cluster: None) -> None:
        for master in self.running.masters:
            master.do("FLUSHALL")

    def make_backend(self, **options: Any) -> RedisBackend:
        return RedisBackend(cluster=self.running.hosts, **options)


class TestOnSeveralServers(LayerConformance):
    """Servers that know nothing of each other, as lists of hosts named them in Channels 1.x."""

    running: ClassVar[list[RedisServer]]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def servers(cls) -> Iterator[None]:
        with RedisServer("valkey") as one, RedisServer("valkey") as other:
            cls.running = [one, other]
            yield

    @pytest.fixture(autouse=True)
    def empty(self, servers: None) -> None:
        for server in self.running:
            server.do("FLUSHALL")

    def make_backend(self, **options: Any) -> RedisBackend:
        return RedisBackend(hosts=[server.url for server in self.running], **options)
