"""Class-based consumers when clients send what nobody expects, and when a stream fails; routes applied for a test."""

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from channels_core import channel_layers
from channels_core.exceptions import ConfigurationError
from channels_django.generic import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from channels_django.signals import DjangoEvents
from channels_django.testing import apply_routes
from channels_router_regex import Router, route
from workbench import Bench, wait_until


class Site:
    def __init__(self) -> None:
        self.bench = Bench()
        self.layer = self.bench.layer
        channel_layers.set("default", self.layer)

    def serve(self, consumer: Any) -> None:
        self.bench.work(Router([consumer.as_route()]), events=DjangoEvents())

    def send(self, name: str, order: int = 0, **content: Any) -> None:
        message = {"reply_channel": "client", "path": "/", "order": order, **content}
        self.layer.send(f"websocket.{name}", message)

    def next(self) -> Any:
        _, content = self.layer.receive(["client"], block=True, timeout=10)
        return content


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.bench.close()
    channel_layers.set("default", None)


class Echo(JsonWebsocketConsumer):
    def connect(self, message: Any, **kwargs: Any) -> None:
        pass

    def receive(self, content: Any, *args: Any, multiplexer: Any, **kwargs: Any) -> None:
        multiplexer.send(content)


class AsyncEcho(JsonWebsocketConsumer):
    async def connect(self, message: Any, **kwargs: Any) -> None:
        pass

    async def receive(self, content: Any, *args: Any, multiplexer: Any, **kwargs: Any) -> None:
        await multiplexer.asend(content)


class Streams(WebsocketDemultiplexer):
    consumers: ClassVar[dict[str, Any]] = {"echo": Echo}


class AsyncStreams(WebsocketDemultiplexer):
    consumers: ClassVar[dict[str, Any]] = {"echo": AsyncEcho}


HOSTILE = [
    "",
    "{",
    "nul",
    "NaN",
    "[" * 100_000,
    '{"stream":' * 100_000,
    '{"stream": "echo"}',
    '{"payload": {}}',
    '{"stream": null, "payload": {}}',
    '{"stream": ["echo"], "payload": {}}',
    '{"stream": {"echo": 1}, "payload": {}}',
    '{"stream": "nobody", "payload": {}}',
    '{"stream": "echo", "payload": [1]}',
    '{"stream": "echo", "payload": "text"}',
    '{"stream": "echo", "payload": ' + '{"a":' * 990 + "1" + "}" * 990 + "}",
    '{"stream": "echo", "payload": ' + '{"a":' * 700 + "1" + "}" * 700 + "}",
    '{"stream": "echo", "payload": {"n": ' + "9" * 5000 + "}}",
    '{"stream": "' + "s" * 500_000 + '", "payload": {}}',
    '{"stream": "__class__", "payload": {}}',
]


@pytest.mark.parametrize("streams", [Streams, AsyncStreams])
def test_no_frame_hurts_a_worker_or_the_connection(
    site: Site, streams: Any, caplog: pytest.LogCaptureFixture
) -> None:
    site.serve(streams)
    site.send("connect")
    assert site.next() == {"accept": True}
    for number, text in enumerate(HOSTILE, 1):
        site.send("receive", number, text=text)
        site.send("receive", number, bytes=b"\xff\xfe")
        site.send("receive", number, text='{"stream": "echo", "payload": {"still": "here"}}')
        while (answer := json.loads(site.next()["text"]))["payload"] != {"still": "here"}:
            assert answer["stream"] == "echo"
    assert max(len(record.getMessage()) for record in caplog.records) < 2000


class Fails(JsonWebsocketConsumer):
    def connect(self, message: Any, **kwargs: Any) -> None:
        pass

    def disconnect(self, message: Any, **kwargs: Any) -> None:
        raise RuntimeError("mine")


class Leaves(Echo):
    def disconnect(self, message: Any, **kwargs: Any) -> None:
        message.reply_channel.send({"text": "left"})


class AsyncFails(JsonWebsocketConsumer):
    async def disconnect(self, message: Any, **kwargs: Any) -> None:
        raise RuntimeError("mine")


class AsyncLeaves(AsyncEcho):
    async def disconnect(self, message: Any, **kwargs: Any) -> None:
        await message.reply_channel.asend({"text": "left"})


class First(WebsocketDemultiplexer):
    consumers: ClassVar[dict[str, Any]] = {"fails": Fails, "leaves": Leaves}


class AsyncFirst(WebsocketDemultiplexer):
    consumers: ClassVar[dict[str, Any]] = {"fails": AsyncFails, "leaves": AsyncLeaves}


@pytest.mark.parametrize("streams", [First, AsyncFirst])
def test_every_stream_hears_of_the_end_whichever_of_them_fails(
    site: Site, streams: Any, caplog: pytest.LogCaptureFixture
) -> None:
    site.serve(streams)
    site.send("disconnect", code=1000)
    assert site.next() == {"text": "left"}
    wait_until(lambda: "mine" in caplog.text)


class Both(WebsocketDemultiplexer):
    consumers: ClassVar[dict[str, Any]] = {"one": Fails, "leaves": Leaves, "other": Fails}


def test_several_failures_are_told_together(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.serve(Both)
    site.send("disconnect", code=1000)
    assert site.next() == {"text": "left"}
    wait_until(lambda: "Several streams failed when the socket closed. (2 sub-exceptions)" in caplog.text)


class Ordered(Echo):
    strict_ordering = True


class OrderedStreams(WebsocketDemultiplexer):
    strict_ordering = True
    consumers: ClassVar[dict[str, Any]] = {"echo": Ordered}


def test_order_may_be_asked_for_by_demultiplexer_and_stream_alike(site: Site) -> None:
    site.serve(OrderedStreams)
    for number in (2, 1):
        site.send("receive", number, text=json.dumps({"stream": "echo", "payload": {"n": number}}))
    site.send("connect")
    assert site.next() == {"accept": True}
    assert [json.loads(site.next()["text"])["payload"]["n"] for _ in range(2)] == [1, 2]


class Elsewhere(WebsocketConsumer):
    def connect(self, message: Any, **kwargs: Any) -> None:
        self.path = self.path.rstrip("/")
        message.reply_channel.send({"accept": True, "text": self.path})


def test_the_path_may_be_changed(site: Site) -> None:
    site.serve(Elsewhere)
    site.send("connect", path="/chat/")
    assert site.next() == {"accept": True, "text": "/chat"}


def test_routes_that_cannot_be_applied_change_nothing(site: Site) -> None:
    site.layer.router = before = Router([route("a", lambda message: None)])
    with pytest.raises(KeyError), apply_routes([route("b", lambda message: None)], aliases=["nobody"]):
        pass
    assert site.layer.router is before
    with pytest.raises(ConfigurationError), apply_routes([3]):
        pass
    assert site.layer.router is before


async def test_routes_are_applied_while_an_asynchronous_test_runs(site: Site) -> None:
    site.layer.router = before = Router([])

    @apply_routes([route("b", Echo)])
    async def test() -> set[str]:
        return set(site.layer.router.channels)

    assert await test() == {"b"}
    assert site.layer.router is before


def test_routes_before_a_class_would_hide_its_tests() -> None:
    with pytest.raises(TypeError) as caught:
        apply_routes([])(Site)
    assert str(caught.value) == (
        "@apply_routes stands before the class Site, whose tests it would hide: write it before each test, or enter it"
        " in setUp() with self.enterContext(apply_routes(...))."
    )
