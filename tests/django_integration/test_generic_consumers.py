"""Class-based consumers, plain and asynchronous, on a real worker and a layer in memory."""

import abc
import datetime as dt
import json
import logging
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore

from channels_core import ConfigurationError, ConsumeLater, DenyConnection, Group, Message, channel_layers
from channels_core.routing import is_async_consumer
from channels_django.generic import (
    BaseConsumer,
    JsonWebsocketConsumer,
    SendNotAvailableOnDemultiplexer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
    WebsocketMultiplexer,
)
from channels_django.signals import DjangoEvents
from channels_router_regex import Router, route, route_class
from workbench import Bench, wait_until


class Site:
    """A worker with some routes, and sockets that speak to it."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.layer = self.bench.layer
        channel_layers.set("default", self.layer)

    def serve(self, *routes: Any) -> None:
        self.bench.work(Router(list(routes)), events=DjangoEvents())

    def socket(self, path: str = "/", **content: Any) -> "Socket":
        return Socket(self, path, content)

    def close(self) -> None:
        self.bench.close()
        channel_layers.set("default", None)


class Socket:
    def __init__(self, site: Site, path: str, content: dict[str, Any]) -> None:
        self._site = site
        self.reply_channel = site.layer.new_channel("websocket.send?")
        self._path = path
        self._order = 0
        self._send("websocket.connect", **content)

    def _send(self, channel: str, **content: Any) -> None:
        message = {"reply_channel": self.reply_channel, "path": self._path, "order": self._order, **content}
        self._order += 1
        self._site.layer.send(channel, message)

    def text(self, text: str) -> None:
        self._send("websocket.receive", text=text)

    def json(self, content: Any) -> None:
        self.text(json.dumps(content))

    def bytes(self, data: bytes) -> None:
        self._send("websocket.receive", bytes=data)

    def leave(self) -> None:
        self._send("websocket.disconnect", code=1000)

    def next(self) -> dict[str, Any]:
        return self._site.bench.take(self.reply_channel)

    def next_json(self) -> Any:
        return json.loads(self.next()["text"])

    @property
    def is_quiet(self) -> bool:
        return self._site.layer.receive([self.reply_channel]) == (None, None)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


class Echo(WebsocketConsumer):
    groups: ClassVar[list[str]] = ["everybody"]

    def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        self.send(text=text, bytes=bytes)


class AsyncEcho(WebsocketConsumer):
    groups: ClassVar[list[str]] = ["everybody"]

    async def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        await self.asend(text=text, bytes=bytes)


BOTH = pytest.mark.parametrize("echo", [Echo, AsyncEcho])


@BOTH
def test_a_class_serves_a_whole_connection(site: Site, echo: type[WebsocketConsumer]) -> None:
    site.serve(route_class(echo))
    socket = site.socket()
    assert socket.next() == {"accept": True}
    assert site.layer.group_channels("everybody") == [socket.reply_channel]
    socket.text("hello")
    assert socket.next() == {"text": "hello"}
    socket.bytes(b"\0")
    assert socket.next() == {"bytes": b"\0"}
    echo.group_send("everybody", text="all", close=True)
    assert socket.next() == {"text": "all", "close": True}
    socket.leave()
    wait_until(lambda: not site.layer.group_channels("everybody"))


def test_a_class_with_async_methods_is_an_asynchronous_consumer(site: Site) -> None:
    assert not is_async_consumer(Echo)
    assert is_async_consumer(AsyncEcho)
    assert (Echo.is_async, AsyncEcho.is_async) == (False, True)
    router = Router([route_class(AsyncEcho)])
    assert router.async_channels == {"websocket.connect", "websocket.receive", "websocket.disconnect"}

    class Derived(AsyncEcho):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            await super().connect(message, **kwargs)
            await self.asend(text=threading.current_thread().name)

    assert is_async_consumer(Derived)
    site.serve(Derived.as_route())
    socket = site.socket()
    assert socket.next() == {"accept": True}
    assert socket.next() == {"text": "channels-worker-loop"}


def test_methods_of_both_kinds_are_an_error_when_the_class_is_made() -> None:
    with pytest.raises(ConfigurationError) as caught:

        class Mixed(WebsocketConsumer):
            async def connect(self, message: Message, **kwargs: Any) -> None:
                """Never runs."""

            def receive(self, **kwargs: Any) -> None:
                """Never runs."""

    where = f"{__name__}.test_methods_of_both_kinds_are_an_error_when_the_class_is_made.<locals>"
    assert str(caught.value) == (
        f"The consumer {where}.Mixed cannot run: connect() is asynchronous and receive() is not. Make all of them"
        " 'async def', or none."
    )
    with pytest.raises(ConfigurationError) as caught:

        class Decoding(JsonWebsocketConsumer):
            @classmethod
            async def decode_json(cls, text: str) -> Any:
                """Never runs."""

    assert str(caught.value) == (
        f"The consumer {where}.Decoding cannot run: decode_json() is asynchronous, and is called for its result. Make"
        " it a plain method."
    )
    with pytest.raises(ConfigurationError) as caught:

        class Grouped(Echo):
            async def connection_groups(self, **kwargs: Any) -> list[str]:
                return []

    assert str(caught.value) == (
        f"The consumer {where}.Grouped cannot run: connection_groups() is asynchronous and receive() is not. Make all"
        " of them 'async def', or none."
    )


def test_async_groups_make_the_class_asynchronous(site: Site) -> None:
    class Grouped(WebsocketConsumer):
        async def connection_groups(self, room: str) -> list[str]:
            return [f"room.{room}"]

    site.serve(Grouped.as_route(path="^/(?P<room>[a-z]+)$"))
    socket = site.socket("/lobby")
    assert socket.next() == {"accept": True}
    assert site.layer.group_channels("room.lobby") == [socket.reply_channel]
    socket.leave()
    wait_until(lambda: not site.layer.group_channels("room.lobby"))


def test_mixins_and_abstract_methods_work() -> None:
    class Mixin(abc.ABC):
        @abc.abstractmethod
        def name(self) -> str: ...

    class Abstract(WebsocketConsumer, Mixin):
        def receive(self, **kwargs: Any) -> None:
            """Never runs."""

    with pytest.raises(TypeError, match="abstract"):
        Abstract(Message({"reply_channel": "a"}, "websocket.connect", None))  # type: ignore[abstract]  # what is tested


def test_b70_the_class_is_the_consumer_and_a_message_makes_one_instance(site: Site) -> None:
    seen = []

    class Chat(WebsocketConsumer):
        def connect(self, message: Message, room: str, **kwargs: Any) -> None:
            seen.append((self, self.message is message, self.kwargs, self.path))

    message = Message({"reply_channel": "r", "path": "/lobby"}, "websocket.connect", site.layer)
    instance = Chat(message, room="lobby")
    again = Chat(message, room="lobby")
    assert seen == [
        (instance, True, {"room": "lobby"}, "/lobby"),
        (again, True, {"room": "lobby"}, "/lobby"),
    ]
    assert instance is not again


async def test_b70_the_call_of_an_asynchronous_class_gives_its_instance(site: Site) -> None:
    message = Message({"reply_channel": "r", "text": "hi"}, "websocket.receive", site.layer)
    call: Any = AsyncEcho
    instance = await call(message, room="lobby")
    assert isinstance(instance, AsyncEcho)
    assert instance.kwargs == {"room": "lobby"}
    assert await site.layer.areceive(["r"]) == ("r", {"text": "hi"})


def test_a_consumer_for_channels_of_its_own(site: Site) -> None:
    class Jobs(BaseConsumer):
        method_mapping: ClassVar[dict[str, str]] = {"jobs.start": "start", "jobs.stop": "stop"}

        def start(self, message: Message, **kwargs: Any) -> None:
            Group("told").send({"told": "start", "kind": kwargs["kind"]})

        def stop(self, message: Message, **kwargs: Any) -> None:
            Group("told").send({"told": "stop", "session": message.channel_session["n"]})

    assert Jobs.channel_names() == {"jobs.start", "jobs.stop"}

    class WithSession(Jobs):
        channel_session = True

        def start(self, message: Message, **kwargs: Any) -> None:
            message.channel_session["n"] = 3
            super().start(message, **kwargs)

    site.layer.group_add("told", "test")
    site.serve(route_class(WithSession, kind="(?P<kind>.+)"))
    for channel in ("jobs.start", "jobs.stop"):
        site.layer.send(channel, {"kind": "nightly", "reply_channel": "of.jobs"})
        site.bench.take("test") if channel == "jobs.start" else None
    assert site.bench.take("test") == {"told": "stop", "session": 3}


def test_a_channel_without_a_method_is_named() -> None:
    with pytest.raises(KeyError) as caught:
        Echo(Message({}, "websocket.ping", None))
    assert caught.value.args[0] == (
        "Echo has no method for messages on 'websocket.ping': method_mapping has websocket.connect,"
        " websocket.disconnect, websocket.receive. Add the channel, or route it elsewhere."
    )


def test_as_route_makes_a_subclass_where_attributes_are_given() -> None:
    made = Echo.as_route(path="^/echo")
    assert made.consumer is Echo
    assert made.match(Message({"path": "/echo/"}, "websocket.receive", None)) == (Echo, {})
    assert made.match(Message({"path": "/"}, "websocket.receive", None)) is None
    changed = Echo.as_route(attrs={"groups": ["others"], "strict_ordering": True}, path="^/echo")
    subclass: Any = changed.consumer
    assert issubclass(subclass, Echo)
    assert (subclass.groups, subclass.strict_ordering, subclass.__name__) == (["others"], True, "Echo")
    assert (Echo.groups, Echo.strict_ordering) == (["everybody"], False)
    with pytest.raises(TypeError) as caught:
        Echo.as_route("^/echo")  # type: ignore[arg-type]  # what is tested
    assert str(caught.value) == (
        "Echo.as_route(attrs='^/echo'): attrs holds attributes of the class by name; write"
        " attrs={'channel_session': True}. Filters are given by name: as_route(path=r'^/chat/')."
    )


def test_a_class_for_other_channels_is_routed_by_them(site: Site) -> None:
    assert is_async_consumer(AsyncEcho.as_route(attrs={"groups": []}).consumer)
    site.serve(route(["websocket.connect", "websocket.receive"], AsyncEcho))
    assert site.socket().next() == {"accept": True}


# Groups


@pytest.mark.parametrize("asynchronous", [False, True])
def test_b64_groups_are_joined_before_connect_and_left_before_disconnect(
    site: Site, asynchronous: bool
) -> None:
    seen: list[Any] = []

    class Watching(WebsocketConsumer):
        def connection_groups(self, room: str, **kwargs: Any) -> list[str]:
            return [f"room.{room}", "all"]

    class Plain(Watching):
        def connect(self, message: Message, **kwargs: Any) -> None:
            seen.append((site.layer.group_count("room.lobby"), site.layer.group_count("all")))
            raise DenyConnection

        def disconnect(self, message: Message, **kwargs: Any) -> None:
            seen.append((site.layer.group_count("room.lobby"), site.layer.group_count("all")))

    class Asynchronous(Watching):
        async def connect(self, message: Message, **kwargs: Any) -> None:
            Plain.connect(self, message)  # type: ignore[arg-type]  # any object will do

        async def disconnect(self, message: Message, **kwargs: Any) -> None:
            Plain.disconnect(self, message)  # type: ignore[arg-type]  # as above

    kind: Any = Asynchronous if asynchronous else Plain
    site.serve(kind.as_route(path="^/(?P<room>.+)$"))
    socket = site.socket("/lobby")
    assert socket.next() == {"close": True}
    assert site.layer.group_channels("all") == [socket.reply_channel]
    socket.leave()
    wait_until(lambda: len(seen) == 2)
    assert seen == [(1, 1), (0, 0)]


def test_a_text_is_no_list_of_groups(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Echo):
        groups = "everybody"  # type: ignore[assignment]  # what is tested

    with pytest.raises(TypeError) as caught:
        Wrong(Message({"reply_channel": "r"}, "websocket.connect", site.layer))
    assert str(caught.value) == (
        "The groups of test_a_text_is_no_list_of_groups.<locals>.Wrong are 'everybody' (str): give a list of names,"
        " such as ['news']."
    )


# Sending


def test_b65_send_wants_text_or_bytes_and_text_wins(site: Site) -> None:
    def replies(**frame: Any) -> dict[str, Any] | None:
        class Sending(WebsocketConsumer):
            def receive(self, **kwargs: Any) -> None:
                self.send(**frame)

        Sending(Message({"reply_channel": "r", "text": "x"}, "websocket.receive", site.layer))
        return site.layer.receive(["r"])[1]

    assert replies(text="a", bytes=b"b") == {"text": "a"}
    assert replies(text="") == {"text": ""}
    assert replies(bytes=b"") == {"bytes": b""}
    assert replies(text="a", close=True) == {"text": "a", "close": True}
    assert replies(bytes=b"b", close=4001) == {"bytes": b"b", "close": 4001}
    with pytest.raises(ValueError) as caught:
        replies(close=True)
    assert str(caught.value) == (
        "There is nothing to send: pass text or bytes. To close the socket only, use close()."
    )


@pytest.mark.parametrize("status", [True, 4001])
def test_b65_close_sends_its_code(site: Site, status: bool | int) -> None:
    class Closing(WebsocketConsumer):
        def receive(self, **kwargs: Any) -> None:
            self.close(status)

    class AsyncClosing(WebsocketConsumer):
        async def receive(self, **kwargs: Any) -> None:
            await self.aclose(status)

    site.serve(Closing.as_route(path="^/plain"), route("websocket.receive", AsyncClosing, path="^/async"))
    socket = site.socket("/plain")
    assert socket.next() == {"accept": True}
    socket.text("x")
    assert socket.next() == {"close": status}
    site.layer.send("websocket.receive", {"path": "/async", "reply_channel": "other", "text": "x"})
    assert site.bench.take("other") == {"close": status}


async def test_groups_are_sent_to_asynchronously(site: Site) -> None:
    await site.layer.agroup_add("everybody", "inbox")
    await Echo.agroup_send("everybody", text="a")
    await JsonWebsocketConsumer.agroup_send("everybody", {"a": 1}, close=4000)
    assert site.layer.receive(["inbox"])[1] == {"text": "a"}
    assert site.layer.receive(["inbox"])[1] == {"text": '{"a": 1}', "close": 4000}


def test_a_message_without_reply_channel_has_no_socket() -> None:
    with pytest.raises(ValueError) as caught:
        Echo(Message({"text": "x"}, "websocket.receive", None))
    assert str(caught.value) == (
        "A message on 'websocket.receive' has no reply_channel, so Echo has no socket to answer. Route websocket.*"
        " messages to it, or handle the message without sending."
    )


# JSON


class Sum(JsonWebsocketConsumer):
    def receive(self, content: Any, **kwargs: Any) -> None:
        self.send({"sum": sum(content)})


class AsyncSum(JsonWebsocketConsumer):
    async def receive(self, content: Any, **kwargs: Any) -> None:
        await self.asend({"sum": sum(content)})


@pytest.mark.parametrize("kind", [Sum, AsyncSum])
def test_json_is_decoded_and_encoded(site: Site, kind: type[JsonWebsocketConsumer]) -> None:
    site.serve(kind.as_route())
    socket = site.socket()
    assert socket.next() == {"accept": True}
    socket.json([1, 2])
    assert socket.next() == {"text": '{"sum": 3}'}
    site.layer.group_add("sums", socket.reply_channel)
    kind.group_send("sums", {"all": True})
    assert socket.next_json() == {"all": True}


def test_b66_a_frame_without_text_is_refused(site: Site) -> None:
    with pytest.raises(ValueError) as caught:
        Sum(Message({"reply_channel": "r", "bytes": b"[1]"}, "websocket.receive", site.layer))
    assert str(caught.value) == (
        "Sum takes frames of text, and this one has none: send JSON as a text frame, or route the socket to a"
        " WebsocketConsumer."
    )


def test_json_may_be_encoded_otherwise(site: Site) -> None:
    class Shouting(Sum):
        @classmethod
        def decode_json(cls, text: str) -> Any:
            return [int(part) for part in text.split("+")]

        @classmethod
        def encode_json(cls, content: Any) -> str:
            return f"{content}".upper()

    Shouting(Message({"reply_channel": "r", "text": "1+2"}, "websocket.receive", site.layer))
    assert site.layer.receive(["r"])[1] == {"text": "{'SUM': 3}"}


# Sessions, users and order


def signed_in(user: User) -> list[tuple[bytes, bytes]]:
    """Headers of a browser in which ``user`` has signed in."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session["theme"] = "dark"
    session.create()
    return [(b"cookie", f"sessionid={session.session_key}".encode())]


@pytest.fixture
def ada() -> Iterator[User]:
    user = User.objects.create_user("ada")
    yield user
    user.delete()


class Who(WebsocketConsumer):
    def connect(self, message: Message, **kwargs: Any) -> None:
        message.channel_session["room"] = "lobby"
        self.send(text=f"{message.user.username or 'nobody'} connects")

    def receive(self, text: str | None = None, **kwargs: Any) -> None:
        theme = ""
        if self.http_user_and_session:
            theme = f", {self.message.http_session['theme']}"
        name = self.message.user.username or "nobody"
        self.send(text=f"{name} in {self.message.channel_session['room']}{theme}")


class AsyncWho(WebsocketConsumer):
    async def connect(self, message: Message, **kwargs: Any) -> None:
        Who.connect(self, message)  # type: ignore[arg-type]  # any object will do

    async def receive(self, text: str | None = None, **kwargs: Any) -> None:
        Who.receive(self, text)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize("kind", [Who, AsyncWho])
def test_b59_http_user_is_there_on_every_message(
    site: Site, ada: User, kind: type[WebsocketConsumer]
) -> None:
    site.serve(kind.as_route({"http_user": True}))
    socket = site.socket(headers=signed_in(ada))
    assert socket.next() == {"text": "ada connects"}
    socket.text("?")
    assert socket.next() == {"text": "ada in lobby"}
    stranger = site.socket(headers=[])
    assert stranger.next() == {"text": "nobody connects"}
    stranger.text("?")
    assert stranger.next() == {"text": "nobody in lobby"}


@pytest.mark.parametrize("kind", [Who, AsyncWho])
def test_b60_http_user_and_session_has_both_on_later_messages(
    site: Site, ada: User, kind: type[WebsocketConsumer]
) -> None:
    site.serve(kind.as_route({"http_user_and_session": True}))
    socket = site.socket(headers=signed_in(ada))
    assert socket.next() == {"text": "ada connects"}
    socket.text("?")
    assert socket.next() == {"text": "ada in lobby, dark"}


def test_channel_session_user_alone_reads_what_is_in_the_channel_session(site: Site) -> None:
    site.serve(Who.as_route({"channel_session_user": True}))
    socket = site.socket()
    assert socket.next() == {"text": "nobody connects"}


def test_http_user_on_a_channel_without_a_visitor(site: Site) -> None:
    class Told(Who):
        http_user = True
        method_mapping: ClassVar[dict[str, str]] = {**Who.method_mapping, "tell": "tell"}

        def tell(self, message: Message, **kwargs: Any) -> None:
            self.send(text=f"{message.user.username or 'nobody'}, {dict(message.channel_session)}")

    Told(Message({"reply_channel": "r"}, "tell", site.layer))
    assert site.layer.receive(["r"])[1] == {"text": "nobody, {}"}


@pytest.mark.parametrize("kind", [Echo, AsyncEcho])
def test_strict_ordering_keeps_early_messages_waiting(site: Site, kind: type[WebsocketConsumer]) -> None:
    site.serve(kind.as_route({"strict_ordering": True}))
    reply_channel = site.layer.new_channel("a?")
    message = {"reply_channel": reply_channel, "path": "/"}
    site.layer.send("websocket.receive", {**message, "text": "second", "order": 2})
    site.layer.send("websocket.receive", {**message, "text": "first", "order": 1})
    wait_until(lambda: site.layer.channel_statistics(f"__wait__.{reply_channel}")["messages_pending"] == 2)
    site.layer.send("websocket.connect", {**message, "order": 0})
    assert [site.bench.take(reply_channel) for _ in range(3)] == [
        {"accept": True},
        {"text": "first"},
        {"text": "second"},
    ]


def test_b63_slight_ordering_is_refused_at_the_first_message(site: Site) -> None:
    class Slight(Echo):
        slight_ordering = True

    with pytest.raises(ValueError) as caught:
        Slight(Message({"reply_channel": "r"}, "websocket.connect", site.layer))
    assert str(caught.value) == (
        "test_b63_slight_ordering_is_refused_at_the_first_message.<locals>.Slight has slight_ordering, which is not"
        " available: it only kept websocket.connect first. Set strict_ordering instead, which keeps all messages in"
        " order."
    )


def test_a_method_is_decorated_once_for_all_messages(site: Site) -> None:
    def handler(text: str) -> Any:
        message = Message({"reply_channel": "r", "text": text, "path": "/"}, "websocket.receive", site.layer)
        return Decorated(message).get_handler(message)

    class Decorated(Echo):
        channel_session = True

    first, second = handler("1"), handler("2")
    assert first.func is second.func


# Streams


class Ping(JsonWebsocketConsumer):
    def connect(self, message: Message, multiplexer: WebsocketMultiplexer, **kwargs: Any) -> None:
        multiplexer.send({"connected": multiplexer.stream})

    def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
        if content == {"send": "past"}:
            self.send(content)
        if content == {"send": "later"} and not self.message.get("__retries__"):
            raise ConsumeLater
        multiplexer.send({"pong": content, "kwargs": sorted(kwargs)})

    def disconnect(self, message: Message, multiplexer: WebsocketMultiplexer, **kwargs: Any) -> None:
        Group("left").send({"stream": multiplexer.stream})


class Silent(JsonWebsocketConsumer):
    groups: ClassVar[list[str]] = ["silent"]


class Streams(WebsocketDemultiplexer):
    consumers: ClassVar[dict[str, Any]] = {"ping": Ping, "silent": Silent}


class AsyncPing(JsonWebsocketConsumer):
    async def connect(self, message: Message, multiplexer: WebsocketMultiplexer, **kwargs: Any) -> None:
        await multiplexer.asend({"connected": multiplexer.stream})

    async def receive(self, content: Any, multiplexer: Any = None, **kwargs: Any) -> None:
        if content == {"send": "past"}:
            await self.asend(content)
        if content == {"send": "later"} and not self.message.get("__retries__"):
            raise ConsumeLater
        await multiplexer.asend({"pong": content, "kwargs": sorted(kwargs)})

    async def disconnect(self, message: Message, multiplexer: WebsocketMultiplexer, **kwargs: Any) -> None:
        await Group("left").asend({"stream": multiplexer.stream})


class AsyncSilent(JsonWebsocketConsumer):
    groups: ClassVar[list[str]] = ["silent"]

    async def receive(self, content: Any, **kwargs: Any) -> None:
        """Nothing."""


class AsyncStreams(WebsocketDemultiplexer):
    consumers: ClassVar[dict[str, Any]] = {"ping": AsyncPing, "silent": AsyncSilent}


STREAMS = pytest.mark.parametrize("streams", [Streams, AsyncStreams])


@STREAMS
def test_b68_every_stream_hears_of_the_connection(site: Site, streams: type[WebsocketDemultiplexer]) -> None:
    assert is_async_consumer(streams) is (streams is AsyncStreams)
    site.layer.group_add("left", "test")
    site.serve(streams.as_route(path="^/(?P<room>.+)$"))
    socket = site.socket("/lobby")
    assert socket.next() == {"accept": True}  # the demultiplexer's
    assert socket.next_json() == {"stream": "ping", "payload": {"connected": "ping"}}
    assert socket.next() == {"accept": True}  # of the stream whose connect() is the default
    assert site.layer.group_channels("silent") == [socket.reply_channel]
    socket.json({"stream": "ping", "payload": {"n": 1}})
    assert socket.next_json() == {"stream": "ping", "payload": {"pong": {"n": 1}, "kwargs": ["room"]}}
    socket.json({"stream": "silent", "payload": {"n": 1}})
    socket.leave()
    assert site.bench.take("test") == {"stream": "ping"}
    wait_until(lambda: not site.layer.group_channels("silent"))


@STREAMS
def test_a_streams_consumer_may_put_the_whole_frame_back(
    site: Site, streams: type[WebsocketDemultiplexer]
) -> None:
    site.serve(route("websocket.receive", streams))
    site.layer.send(
        "websocket.receive",
        {"reply_channel": "r", "text": '{"stream": "ping", "payload": {"send": "later"}}'},
    )
    assert json.loads(site.bench.take("r")["text"])["payload"]["pong"] == {"send": "later"}


@STREAMS
def test_b67_a_streams_consumer_cannot_send_past_its_stream_and_can_elsewhere(
    site: Site, streams: type[WebsocketDemultiplexer], caplog: pytest.LogCaptureFixture
) -> None:
    class Elsewhere(streams.consumers["ping"]):  # type: ignore[misc, name-defined]  # made for either kind
        pass

    site.serve(
        route("websocket.receive", streams, path="^/streams"),
        route("websocket.receive", streams.consumers["ping"], path="^/alone"),
    )
    frame = {"stream": "ping", "payload": {"send": "past"}}
    with caplog.at_level(logging.ERROR):
        site.layer.send(
            "websocket.receive", {"reply_channel": "r", "path": "/streams", "text": json.dumps(frame)}
        )
        wait_until(lambda: caplog.records)
    error = caplog.records[0].exc_info
    assert error is not None
    assert isinstance(error[1], SendNotAvailableOnDemultiplexer)
    name = streams.consumers["ping"].__qualname__
    assert str(error[1]) == (
        f"{name} is the consumer of stream 'ping' here: self.send() would leave out the stream's name. Use"
        " multiplexer.send(payload), of the keyword argument multiplexer."
    )
    site.layer.send("websocket.receive", {"reply_channel": "r", "path": "/alone", "text": '{"send": "past"}'})
    assert site.bench.take("r") == {"text": '{"send": "past"}'}


async def test_the_demultiplexer_itself_sends_nothing(site: Site) -> None:
    message = Message(
        {"reply_channel": "r", "text": '{"stream": "silent", "payload": {}}'}, "websocket.receive", None
    )
    streams = Streams(message)
    for call, name in ((streams.send, "self.send()"), (Streams.group_send, "group_send()")):
        with pytest.raises(SendNotAvailableOnDemultiplexer) as caught:
            call({})
        assert str(caught.value) == (
            f"{name} of the demultiplexer Streams would leave out the stream's name. Use multiplexer.send(payload) in a"
            " consumer, and anywhere else WebsocketMultiplexer.group_send(name, stream, payload)."
        )
    for acall in (streams.asend, Streams.agroup_send):
        with pytest.raises(SendNotAvailableOnDemultiplexer):
            await acall({})


BAD_FRAMES = [
    ("[]", 'A frame for Streams is []: it has to be {"stream": "...", "payload": {...}}.'),
    ('{"stream": "ping"}', "A frame for Streams is {'stream': 'ping'}: it has to be {\"stream\": \"...\", \"payload\":"
     " {...}}."),
    ('{"stream": "pong", "payload": {}}', "A frame for Streams names the stream 'pong'. There are: ping, silent."),
    ('{"stream": ["ping"], "payload": {}}', "A frame for Streams names the stream ['ping']. There are: ping, silent."),
    ('{"stream": "ping", "payload": 5}',
     "The payload of a frame for stream 'ping' is 5 (int): it has to be an object."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "error"), BAD_FRAMES)
def test_b69_a_frame_of_another_shape_is_an_error(site: Site, text: str, error: str) -> None:
    with pytest.raises(ValueError) as caught:
        Streams(Message({"reply_channel": "r", "text": text}, "websocket.receive", site.layer))
    assert str(caught.value) == error


@pytest.mark.parametrize(("text", "error"), BAD_FRAMES[:1])
def test_b69_the_socket_stays_open_after_a_bad_frame(
    site: Site, text: str, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    site.serve(Streams.as_route())
    socket = site.socket()
    for _ in range(3):
        socket.next()
    with caplog.at_level(logging.ERROR):
        socket.text(text)
        socket.json({"stream": "ping", "payload": {}})
        assert socket.next_json()["payload"]["pong"] == {}
    assert error in caplog.records[0].getMessage()


def test_a_demultiplexer_of_both_kinds_cannot_be_made() -> None:
    with pytest.raises(ConfigurationError) as caught:

        class Mixed(WebsocketDemultiplexer):
            consumers: ClassVar[dict[str, Any]] = {"one": Ping, "two": AsyncPing}

    assert str(caught.value) == (
        f"The consumer {__name__}.test_a_demultiplexer_of_both_kinds_cannot_be_made.<locals>.Mixed cannot run:"
        " consumers['two'] is asynchronous and consumers['one'] is not. Make all of them 'async def', or none."
    )
    with pytest.raises(ConfigurationError) as caught:

        class NoConsumer(WebsocketDemultiplexer):
            consumers: ClassVar[dict[str, Any]] = {"one": None}

    assert str(caught.value) == (
        f"The demultiplexer {__name__}.test_a_demultiplexer_of_both_kinds_cannot_be_made.<locals>.NoConsumer has None"
        " for stream 'one', which cannot be called. Give it a JsonWebsocketConsumer, or a function that takes the"
        " message."
    )


def test_a_function_may_serve_a_stream(site: Site) -> None:
    def upper(message: Message, multiplexer: WebsocketMultiplexer, **kwargs: Any) -> None:
        multiplexer.send({"text": message["text"].upper()})

    class Upper(WebsocketDemultiplexer):
        consumers: ClassVar[dict[str, Any]] = {"upper": upper}

    text = '{"stream": "upper", "payload": {"a": 1}}'
    message = Message({"reply_channel": "r", "text": text}, "websocket.receive", site.layer)
    Upper(message)
    sent = site.layer.receive(["r"])[1]
    assert sent is not None
    assert json.loads(sent["text"])["payload"] == {"text": '{"A": 1}'}
    assert message["text"] == text


async def test_a_multiplexer_sends_to_groups_and_knows_djangos_types(site: Site) -> None:
    class Loud(WebsocketMultiplexer):
        @classmethod
        def encode_json(cls, content: Any) -> str:
            return super().encode_json(content).upper()

    site.layer.group_add("all", "inbox")
    payload = {"day": dt.date(2026, 1, 2), "price": Decimal("1.50")}
    WebsocketMultiplexer.group_send("all", "prices", payload, close=True)
    assert site.layer.receive(["inbox"])[1] == {
        "text": '{"stream": "prices", "payload": {"day": "2026-01-02", "price": "1.50"}}',
        "close": True,
    }
    await Loud.agroup_send("all", "prices", {})
    assert site.layer.receive(["inbox"])[1] == {"text": '{"STREAM": "PRICES", "PAYLOAD": {}}'}

    class LoudStreams(Streams):
        multiplexer_class = Loud

    LoudStreams(
        Message(
            {"reply_channel": "r", "text": '{"stream": "ping", "payload": {}}'},
            "websocket.receive",
            site.layer,
        )
    )
    assert site.layer.receive(["r"])[1] == {
        "text": '{"STREAM": "PING", "PAYLOAD": {"PONG": {}, "KWARGS": []}}'
    }


def test_what_hangs_on_the_message_is_there_for_the_streams(site: Site, ada: User) -> None:
    class Me(JsonWebsocketConsumer):
        def receive(self, content: Any, multiplexer: Any, **kwargs: Any) -> None:
            multiplexer.send({"user": self.message.user.username})

    class Mine(WebsocketDemultiplexer):
        http_user = True
        consumers: ClassVar[dict[str, Any]] = {"me": Me}

    site.serve(Mine.as_route())
    socket = site.socket(headers=signed_in(ada))
    assert [socket.next(), socket.next()] == [{"accept": True}] * 2
    socket.json({"stream": "me", "payload": {}})
    assert socket.next_json() == {"stream": "me", "payload": {"user": "ada"}}
    assert socket.is_quiet
