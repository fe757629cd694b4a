"""Behaviours of Channels 1.x that no other test is about, by their numbers: the wire, and what all layers do."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi_wire import Site, serving
from channels_core import (
    Channel,
    ChannelFull,
    ChannelLayer,
    Group,
    InvalidMessageError,
    InvalidNameError,
    Message,
)
from channels_core.names import new_id
from channels_layer_memory.layer import MemoryBackend
from channels_router_regex import Router, route
from workbench import Bench

NAME = re.compile(r"[a-z2-7]{26}")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as made:
        yield made


async def test_b86_reply_channels_are_of_one_process_and_hard_to_guess(site: Site) -> None:
    site.request("/")
    site.socket("/")
    request = await site.taken("http.request")
    connect = await site.taken("websocket.connect")
    names = [one.content["reply_channel"] for one in (request, connect)]
    parts = [re.fullmatch(r"(http\.response|websocket\.send)\.(\w+)!(\w+)", name) for name in names]
    assert all(part and NAME.fullmatch(part[2]) and NAME.fullmatch(part[3]) for part in parts)
    assert len({part[2] for part in parts if part}) == 1
    assert [part[1] for part in parts if part] == ["http.response", "websocket.send"]


async def test_b88_the_path_is_text_and_the_query_bytes(site: Site) -> None:
    site.request("/grüße & co", raw_path=b"/gr%C3%BC%C3%9Fe%20%26%20co", query_string=b"a=%20")
    content = (await site.taken("http.request")).content
    assert (content["path"], content["query_string"]) == ("/grüße & co", b"a=%20")


async def test_b89_headers_are_pairs_of_lower_case_bytes_in_order(site: Site) -> None:
    site.request(
        "/", headers=[(b"host", b"example.com"), (b"accept", b"a"), (b"x_user", b"root"), (b"accept", b"b")]
    )
    content = (await site.taken("http.request")).content
    assert [list(pair) for pair in content["headers"]] == [
        [b"host", b"example.com"],
        [b"accept", b"a"],
        [b"accept", b"b"],
    ]


async def test_b101_headers_of_sockets_are_handled_as_those_of_requests(site: Site) -> None:
    site.socket("/", headers=[(b"host", b"example.com"), (b"x-a", b"1"), (b"x_a", b"2"), (b"x-a", b"3")])
    content = (await site.taken("websocket.connect")).content
    assert [list(pair) for pair in content["headers"]] == [
        [b"host", b"example.com"],
        [b"x-a", b"1"],
        [b"x-a", b"3"],
    ]


async def test_b102_connect_has_neither_method_nor_body(site: Site) -> None:
    site.socket("/")
    content = (await site.taken("websocket.connect")).content
    assert {"method", "body", "body_channel"} & content.keys() == set()
    assert content["order"] == 0


async def test_b104_b105_b106_frames_have_text_or_bytes_and_are_counted_from_1(site: Site) -> None:
    wire, _ = await site.open()
    received = []
    for frame in ({"bytes": b"\0"}, {"text": ""}):
        wire.push(type="websocket.receive", **frame)
        delivery = await site.taken("websocket.receive")
        received.append(delivery.content)
        site.reply(delivery)
    wire.push(type="websocket.disconnect", code=1001)
    left = (await site.taken("websocket.disconnect")).content
    assert (received[0]["bytes"], "text" in received[0]) == (b"\0", False)
    assert (received[1]["text"], "bytes" in received[1]) == ("", False)
    assert [one["order"] for one in (*received, left)] == [1, 2, 3]
    assert (left["code"], left["path"]) == (1001, "/chat")


def test_b114_a_socket_that_nobody_routes_is_accepted() -> None:
    bench = Bench()
    router = Router([route("jobs", print)])
    router.check_default()
    try:
        bench.work(router)
        bench.layer.send("websocket.connect", {"reply_channel": "r", "path": "/"})
        assert bench.take("r") == {"accept": True}
    finally:
        bench.close()


def test_b123_a_close_exception_closes_a_real_socket() -> None:
    from channels_core import WebsocketCloseException

    def receive(message: Message) -> None:
        raise WebsocketCloseException(4002)

    bench = Bench()
    name = f"websocket.send.{new_id()}?{new_id()}"
    try:
        bench.work({"websocket.receive": receive})
        for _ in range(2):
            bench.layer.send("websocket.receive", {"reply_channel": name, "text": "x"})
            assert bench.take(name) == {"close": 4002}
    finally:
        bench.close()


def test_b24_the_channels_are_read_from_the_router_once() -> None:
    bench = Bench()

    def told(message: Message) -> None:
        Channel("told", channel_layer=bench.layer).send({})

    router = Router([route("jobs", told)])
    try:
        worker = bench.work(router)
        router.add_route(route("more", told))
        assert worker.channels == ["jobs"]
        bench.layer.send("more", {})
        bench.layer.send("jobs", {})
        bench.take("told")
        assert bench.layer.receive(["more"]) == ("more", {})
    finally:
        bench.close()


# Layers


@pytest.fixture
def layer() -> ChannelLayer:
    return ChannelLayer(MemoryBackend())


@pytest.mark.parametrize("name", ["", "a b", "ü", "a!b!c", "a?b!c", "a" * 100, b"a", 5])
def test_b128_names_that_are_none(layer: ChannelLayer, name: str) -> None:
    with pytest.raises(TypeError) as caught:
        layer.send(name, {})
    assert isinstance(caught.value, InvalidNameError)


def test_b128_names_that_are_some(layer: ChannelLayer) -> None:
    for name in ("a", "A-b_c.9", "a?b", "a!b", "a" * 99):
        layer.send(name, {})
    for group in ("a?b", "a!b"):
        with pytest.raises(TypeError):
            layer.group_add(group, "a")


def test_b131_the_capacity_is_100_or_what_a_pattern_says() -> None:
    layer = ChannelLayer(MemoryBackend(channel_capacity={"few.*": 2, re.compile(r"few\.more"): 5}))
    assert layer.capacity == 100
    for channel, room in (("any", 100), ("few.more", 2)):
        for _ in range(room):
            layer.send(channel, {})
        with pytest.raises(ChannelFull):
            layer.send(channel, {})


def test_b132_a_group_send_skips_full_members() -> None:
    layer = ChannelLayer(MemoryBackend(capacity=1))
    layer.send("full", {"n": 0})
    for channel in ("full", "free"):
        layer.group_add("all", channel)
    layer.send_group("all", {"n": 1})
    assert layer.receive(["free"])[1] == {"n": 1}
    assert layer.receive(["full"])[1] == {"n": 0}
    assert layer.receive(["full"]) == (None, None)


def test_b133_messages_expire_after_a_minute(layer: ChannelLayer) -> None:
    assert layer.expiry == 60


def test_b134_memberships_of_normal_channels_last_a_day_and_are_refreshed(layer: ChannelLayer) -> None:
    assert layer.group_expiry == 86_400
    layer.group_add("all", "member")
    layer.group_add("all", "member")
    assert layer.group_channels("all") == ["member"]


def test_b135_an_expired_message_ends_no_membership() -> None:
    layer = ChannelLayer(MemoryBackend(expiry=0.01))
    layer.group_add("all", "slow")
    layer.send("slow", {})
    while layer.channel_statistics("slow")["messages_pending"]:
        pass
    assert layer.group_channels("all") == ["slow"]


def test_b137_tuples_come_as_lists(layer: ChannelLayer) -> None:
    layer.send("a", {"headers": ((b"a", b"b"),)})
    assert layer.receive(["a"])[1] == {"headers": [[b"a", b"b"]]}


def test_b138_first_in_first_out(layer: ChannelLayer) -> None:
    for number in range(10):
        layer.send("a", {"n": number})
    received = [layer.receive(["b", "a"])[1] for _ in range(10)]
    assert [one["n"] for one in received if one] == list(range(10))


def test_b139_new_channels_of_both_marks(layer: ChannelLayer) -> None:
    for pattern in ("answer?", "answer!"):
        name = layer.new_channel(pattern)
        assert name.startswith(pattern)
        assert name != layer.new_channel(pattern)
    with pytest.raises(TypeError):
        layer.new_channel("answer")


def test_b141_a_message_is_a_dict_without_the_reserved_key(layer: ChannelLayer) -> None:
    contents: list[Any] = [[], None, "text", {"__asgi_channel__": "a"}]
    for content in contents:
        with pytest.raises(InvalidMessageError):
            layer.send("a", content)


def test_b142_statistics(layer: ChannelLayer) -> None:
    layer.send("a", {})
    everything, one = layer.global_statistics(), layer.channel_statistics("a")
    assert (everything["messages_count"], everything["channel_full_count"]) == (1, 0)
    assert one["messages_pending"] == 1
    assert 0 <= one["messages_max_age"] < 60


def test_b10_names_as_bytes_are_ascii(layer: ChannelLayer) -> None:
    assert (Channel(b"a").name, Group(b"b").name) == ("a", "b")
