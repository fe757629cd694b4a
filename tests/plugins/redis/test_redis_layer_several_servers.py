"""Several Redis servers that know nothing of each other, under the name and with the options of old settings."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from channels_core import ChannelLayer, channel_layers
from channels_layer_redis import RedisBackend
from redis_servers import RedisServer
from testsite.fixtures import set_up_django

set_up_django()

from django.test import override_settings  # noqa: E402 - Django comes first

CHANNELS = [f"jobs.{number}" for number in range(40)]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[RedisServer]]:
    with RedisServer("valkey") as one, RedisServer("valkey") as other:
        yield [one, other]


def old_settings(hosts: list[Any]) -> dict[str, Any]:
    return {
        "default": {
            "BACKEND": "asgi_redis.RedisChannelLayer",
            "CONFIG": {
                "hosts": hosts,
                "prefix": "site:",
                "capacity": 1000,
                "symmetric_encryption_keys": ["k"],
            },
            "ROUTING": [],
        }
    }


def settings_of_today(hosts: list[Any]) -> dict[str, Any]:
    config = {"hosts": hosts, "prefix": "site", "capacity": 1000, "channel_tags": 16}
    return {"default": {"BACKEND": "redis", "CONFIG": config, "ROUTING": []}}


@pytest.fixture(params=["old urls", "old pairs", "many tags"])
def layers(servers: list[RedisServer], request: pytest.FixtureRequest) -> Iterator[list[ChannelLayer]]:
    """Two views of the layer, as two processes have them."""
    for server in servers:
        server.do("FLUSHALL")
    hosts = [server.address if request.param == "old pairs" else server.url for server in servers]
    settings = settings_of_today(hosts) if request.param == "many tags" else old_settings(hosts)
    with ExitStack() as stack:
        stack.enter_context(override_settings(CHANNEL_LAYERS=settings))
        made = [channel_layers.make("default"), channel_layers.make("default")]
        for layer in made:
            stack.callback(layer.close)
        yield made


def take(layer: ChannelLayer, channels: list[str], count: int) -> Counter[tuple[str, Any]]:
    found: Counter[tuple[str, Any]] = Counter()
    while found.total() < count:
        name, content = layer.receive(channels, block=True, timeout=10)
        assert name is not None, f"{found.total()} of {count} came"
        assert content is not None
        found[name, content["number"]] += 1
    assert layer.receive(channels) == (None, None)
    return found


def test_every_message_arrives_once(layers: list[ChannelLayer]) -> None:
    sender, reader = layers
    assert isinstance(sender.backend, RedisBackend)
    for channel in CHANNELS:
        for number in range(3):
            sender.send(channel, {"number": number})
    assert take(reader, CHANNELS, 120) == Counter((name, number) for name in CHANNELS for number in range(3))


def test_what_is_spread(servers: list[RedisServer], layers: list[ChannelLayer]) -> None:
    """Groups and processes always; normal channels by their tags, of which there is one unless settings say more."""
    sender, reader = layers
    for channel in CHANNELS:
        sender.group_add(channel, "member")
    assert min(len(server.do("KEYS", "site:*{g.*")) for server in servers) >= len(CHANNELS) // 4
    for channel in CHANNELS:
        sender.send(channel, {"number": 1})
    queues = [len(server.do("KEYS", "site:c:*")) for server in servers]
    tags = vars(reader.backend)["_engine"].keys.tags
    assert min(queues) >= len(CHANNELS) // 8 if tags > 1 else sorted(queues) == [0, len(CHANNELS)]


def test_order_within_a_channel(layers: list[ChannelLayer]) -> None:
    sender, reader = layers
    for number in range(50):
        sender.send("one", {"number": number})
    assert [reader.receive(["one"])[1] for _ in range(50)] == [{"number": number} for number in range(50)]


def test_a_group_reaches_members_on_both_servers(layers: list[ChannelLayer]) -> None:
    sender, reader = layers
    for channel in CHANNELS:
        sender.group_add("everybody", channel)
    assert sorted(reader.group_channels("everybody")) == sorted(CHANNELS)
    processes = [reader.backend.open_process("interface") for _ in range(6)]
    replies = [f"websocket.send.{process}!socket" for process in processes]
    for reply in replies:
        sender.group_add("everybody", reply)
    sender.send_group("everybody", {"number": 1})
    assert take(reader, CHANNELS, 40) == Counter((name, 1) for name in CHANNELS)
    for process, reply in zip(processes, replies, strict=True):
        [delivery] = reader.backend.receive_batch([f"websocket.send.{process}!"], timeout=5)
        assert (delivery.locals, delivery.content) == (("socket",), {"number": 1})
        reader.backend.close_channel(reply)
    assert sorted(sender.group_channels("everybody")) == sorted(CHANNELS)
    for process in processes:
        reader.backend.close_process(process)


def test_both_views_agree_where_a_channel_lives_whatever_the_order_they_begin_in(
    layers: list[ChannelLayer],
) -> None:
    one, other = layers
    for number, channel in enumerate(CHANNELS):
        (one if number % 2 else other).send(channel, {"number": number})
    found = take(one, CHANNELS[:20], 20) + take(other, CHANNELS[20:], 20)
    assert found == Counter((channel, number) for number, channel in enumerate(CHANNELS))


def test_flush_empties_all_servers(servers: list[RedisServer], layers: list[ChannelLayer]) -> None:
    for channel in CHANNELS:
        layers[0].send(channel, {"number": 1})
    layers[0].flush()
    assert layers[1].receive(CHANNELS) == (None, None)
    assert layers[0].global_statistics()["messages_pending"] == 0
