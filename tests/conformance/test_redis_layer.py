"""The layer on Redis and Valkey keeps the laws of layers, on every kind of server that it is for by every way to it.

What a server can and how it is reached have little to do with each other, and all laws take most of a minute: so each
kind is reached in a way of its own, and between them they are all there.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from channels_core.testing.conformance import LayerConformance
from channels_layer_redis import RedisBackend
from ports import free_port
from redis_servers import RedisCluster, RedisSentinel, RedisServer, tls_files

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "deploy-with-redis.md"


class TestOnValkey(LayerConformance):
    running: ClassVar[RedisServer]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls) -> Iterator[None]:
        with RedisServer("valkey") as server:
            cls.running = server
            yield

    @pytest.fixture(autouse=True)
    def empty(self, server: None) -> None:
        self.running.do("FLUSHALL")

    def make_backend(self, **options: Any) -> RedisBackend:
        return RedisBackend(hosts=[self.running.url], **options)


class TestOnTheOldestRedisThroughSentinels(LayerConformance):
    running: ClassVar[RedisSentinel]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def servers(cls) -> Iterator[None]:
        with RedisSentinel("redis-6.2") as servers:
            cls.running = servers
            yield

    @pytest.fixture(autouse=True)
    def empty(self, servers: None) -> None:
        self.running.data[0].do("FLUSHALL")

    def make_backend(self, **options: Any) -> RedisBackend:
        return RedisBackend(**self.running.options, **options)


class TestOnRedisOfDebianOverTlsAsAUserOfFewRights(LayerConformance):
    """The rights are those that the guide to deployment gives."""

    running: ClassVar[RedisServer]
    options: ClassVar[dict[str, Any]]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        files = tls_files(tmp_path_factory.mktemp("tls"))
        port = free_port()
        settings: dict[str, Any] = {
            "tls-port": port,
            "tls-cert-file": files["cert"],
            "tls-key-file": files["key"],
            "tls-ca-cert-file": files["ca"],
            "tls-auth-clients": "no",
            "requirepass": "the owner's",
        }
        with RedisServer("redis-7.0", **settings) as server:
            cls.running = server
            [rights] = re.findall("^ACL SETUSER channels on >secret .*", GUIDE.read_text(), re.MULTILINE)
            cls.do(*rights.split())
            cls.options = {
                "hosts": [f"rediss://channels:secret@127.0.0.1:{port}/0"],
                "tls": {"ca": files["ca"]},
            }
            yield

    @classmethod
    def do(cls, *command: str) -> None:
        cls.running.do(*command, login=["the owner's"])

    @pytest.fixture(autouse=True)
    def empty(self, server: None) -> None:
        self.do("FLUSHALL")

    def make_backend(self, **options: Any) -> RedisBackend:
        return RedisBackend(**self.options, **options)


class TestSealedOverASocketFileWithAPassword(LayerConformance):
    running: ClassVar[RedisServer]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def server(cls) -> Iterator[None]:
        with RedisServer("valkey", requirepass="pass/word") as server:
            cls.running = server
            yield

    @pytest.fixture(autouse=True)
    def empty(self, server: None) -> None:
        self.running.do("FLUSHALL", login=["pass/word"])

    def make_backend(self, **options: Any) -> RedisBackend:
        hosts = [f"unix://:pass%2Fword@{self.running.socket_path}?db=1"]
        return RedisBackend(hosts=hosts, encryption_keys=["a secret"], compress_above=64, **options)


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
