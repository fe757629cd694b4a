"""The test tools, used as projects use them; the cases are collected and run by pytest as they stand."""

import json
from typing import Any, ClassVar

import pytest
from django.contrib.auth.models import Group as AuthGroup
from django.contrib.auth.models import User
from django.db import connection
from django.test import override_settings

from channels_core import (
    Channel,
    ChannelFull,
    ConsumeLater,
    DenyConnection,
    Group,
    Message,
    WebsocketCloseException,
    channel_layers,
)
from channels_django.signals import consumer_finished, consumer_started
from channels_django.testing import (
    ChannelTestCase,
    Client,
    HttpClient,
    TransactionChannelTestCase,
    WSClient,
    apply_routes,
)
from channels_router_regex import route
from channels_session_django import (
    channel_and_http_session,
    channel_session,
    channel_session_user_from_http,
    enforce_ordering,
)


def reply(message: Message, **content: Any) -> None:
    assert message.reply_channel is not None
    message.reply_channel.send(content)


def accept(message: Message) -> None:
    reply(message, accept=True)


def echo(message: Message) -> None:
    reply(message, text=message["text"])


async def aecho(message: Message) -> None:
    assert message.reply_channel is not None
    await message.reply_channel.asend({"text": message["text"]})


def refuse(message: Message) -> None:
    reply(message, text="first")
    raise DenyConnection


def close(message: Message) -> None:
    raise WebsocketCloseException(4001)


def later(message: Message) -> None:
    raise ConsumeLater


ROUTES = [route("websocket.connect", accept), route("websocket.receive", echo), route("jobs", aecho)]
LAYERS = {
    alias: {"BACKEND": "memory", "ROUTING": ROUTES, "CONFIG": {"capacity": 100}}
    for alias in ("default", "other")
}


class FreshLayers(ChannelTestCase):
    def test_b71_the_layer_is_new_and_holds_ten(self) -> None:
        for number in range(10):
            Channel("jobs").send({"number": number})
        with pytest.raises(ChannelFull):
            Channel("jobs").send({})

    def test_b71_another_test_finds_nothing_of_the_first(self) -> None:
        assert self.get_next_message("jobs") is None
        self.test_b71_the_layer_is_new_and_holds_ten()

    def test_messages_are_taken_one_by_one(self) -> None:
        Channel("jobs").send({"number": 1})
        message = self.get_next_message("jobs", require=True)
        assert isinstance(message, Message)
        assert message["number"] == 1
        assert message.channel is not None
        assert message.channel.name == "jobs"
        with pytest.raises(AssertionError) as caught:
            self.get_next_message("jobs", require=True)
        assert str(caught.value) == (
            "A message was expected on channel 'jobs' of layer 'default', and there is none."
        )

    def test_a_process_specific_channel_is_read_by_its_full_name(self) -> None:
        Channel("websocket.send.a!one").send({"text": "1"})
        Channel("websocket.send.a!two").send({"text": "2"})
        found = self.get_next_message("websocket.send.a!two", require=True)
        assert found is not None
        assert found["text"] == "2"
        found = self.get_next_message("websocket.send.a!one")
        assert found is not None
        assert found["text"] == "1"


@override_settings(CHANNEL_LAYERS=LAYERS)
class SeveralLayers(TransactionChannelTestCase):
    test_channel_aliases: ClassVar[list[str]] = ["default", "other"]

    def test_each_alias_has_its_own(self) -> None:
        Channel("jobs", alias="other").send({"text": "x"})
        assert self.get_next_message("jobs") is None
        assert channel_layers["other"].capacity == 10
        assert self.get_next_message("jobs", alias="other") is not None


def test_the_layers_of_before_come_back() -> None:
    before = channel_layers["default"]
    FreshLayers("test_messages_are_taken_one_by_one").debug()
    assert channel_layers["default"] is before


def test_an_unknown_alias_is_named() -> None:
    class Wrong(ChannelTestCase):
        test_channel_aliases: ClassVar[list[str]] = ["othr"]

        def test(self) -> None:
            """Never comes to run."""

    with pytest.raises(
        KeyError, match="test_channel_aliases names 'othr', which CHANNEL_LAYERS does not have"
    ):
        Wrong("test").debug()


class Consuming(ChannelTestCase):
    @apply_routes(ROUTES)
    def test_a_client_sends_consumes_and_receives(self) -> None:
        client = Client()
        client.send("websocket.receive", {"text": "hi"})
        client.consume("websocket.receive")
        assert client.receive() == {"text": "hi"}
        assert client.receive() is None

    @apply_routes(ROUTES)
    def test_asynchronous_consumers_are_consumed_too(self) -> None:
        client = Client()
        client.send_and_consume("jobs", {"text": "async"})
        assert client.receive() == {"text": "async"}

    def test_what_a_consumer_returns_comes_back(self) -> None:
        with apply_routes(route("jobs", lambda message: message["number"] + 1)):
            assert Client().send_and_consume("jobs", {"number": 1}) == 2

    def test_b73_the_reply_channel_is_alias_and_five_letters(self) -> None:
        name = Client().reply_channel
        assert name.startswith("default")
        assert len(name) == len("default") + 5
        assert name.isalpha()

    def test_what_there_is_not_to_consume_is_an_error_or_none(self) -> None:
        client = Client()
        with pytest.raises(AssertionError) as caught:
            client.consume("jobs")
        assert str(caught.value) == "There is no message on channel 'jobs' to consume."
        assert client.consume("jobs", fail_on_none=False) is None
        with apply_routes([route("others", accept)]):
            with pytest.raises(AssertionError) as caught:
                client.send_and_consume("jobs", {"text": "x"})
            assert str(caught.value) == (
                "No route matches <Message on 'jobs' with ['reply_channel', 'text']>; its content is"
                f" {{'reply_channel': {client.reply_channel!r}, 'text': 'x'}}. Routed channels: others."
            )
            assert client.send_and_consume("jobs", fail_on_none=False) is None

    @apply_routes(ROUTES)
    def test_the_consumer_of_a_channel_can_be_asked_for(self) -> None:
        assert Client().get_consumer_by_channel("websocket.receive") is echo
        assert Client().get_consumer_by_channel("nowhere") is None

    def test_b72_deny_connection_comes_out_after_what_was_sent(self) -> None:
        with apply_routes([route("websocket.connect", refuse), route("jobs", later)]):
            client = Client()
            with pytest.raises(DenyConnection):
                client.send_and_consume("websocket.connect")
            assert client.receive() == {"text": "first"}
            with pytest.raises(ConsumeLater):
                client.send_and_consume("jobs")

    def test_b72_closing_does_what_it_does(self) -> None:
        with apply_routes([route("websocket.receive", close)]):
            client = Client()
            client.send_and_consume("websocket.receive", {"text": "x"})
            assert client.receive() == {"close": 4001}

    def test_b72_the_database_stays_open_and_signals_are_sent(self) -> None:
        seen: list[str] = []

        def on_started(**_: Any) -> None:
            seen.append("started")

        def on_finished(**_: Any) -> None:
            seen.append("finished")

        def create(message: Message) -> None:
            AuthGroup.objects.create(name="by a consumer")

        consumer_started.connect(on_started)
        consumer_finished.connect(on_finished)
        try:
            with apply_routes([route("jobs", create)]):
                Client().send_and_consume("jobs")
        finally:
            consumer_started.disconnect(on_started)
            consumer_finished.disconnect(on_finished)
        assert seen == ["started", "finished"]
        assert connection.connection is not None
        assert AuthGroup.objects.filter(name="by a consumer").exists()

    def test_a_client_joins_groups(self) -> None:
        client = Client()
        client.join_group("room")
        Group("room").send({"text": "all"})
        assert client.receive() == {"text": "all"}


class Sockets(ChannelTestCase):
    def setUp(self) -> None:
        self.user = User.objects.create_user("ada", password="lovelace")

    @apply_routes(ROUTES)
    def test_text_is_json_unless_told_otherwise(self) -> None:
        client = WSClient()
        client.send_and_consume("websocket.receive", text={"a": 1})
        assert client.receive() == {"a": 1}
        client.send_and_consume("websocket.receive", text='{"a": 2}')
        assert client.receive(json=False) == {"text": '{"a": 2}'}

    @apply_routes(ROUTES)
    def test_b75_connect_wants_to_be_accepted(self) -> None:
        HttpClient().send_and_consume("websocket.connect")

        def silent(message: Message) -> None:
            reply(message, text="but not accepted")

        with apply_routes([route("websocket.connect", silent)]):
            with pytest.raises(AssertionError) as caught:
                WSClient().send_and_consume("websocket.connect")
            assert str(caught.value) == (
                "The connection was not accepted: the first answer is {'text': 'but not accepted'}, not"
                " {'accept': True}. Pass check_accept=False where that is intended."
            )
            WSClient().send_and_consume("websocket.connect", check_accept=False)

    def test_b74_the_session_cookie_goes_with_the_first_message_only(self) -> None:
        client = WSClient()
        client.set_cookie("theme", "dark;mode")
        client.set_header("Origin", "http://testserver")
        client.force_login(self.user)
        client.send("jobs", path="/ä/?x=1")
        client.send("jobs")
        first, second = (self.get_next_message("jobs", require=True) for _ in range(2))
        assert first is not None
        assert second is not None
        assert first["headers"]["cookie"] == (
            f"theme=dark%3Bmode; sessionid={client.session.session_key}".encode()
        )
        assert second["headers"]["cookie"] == b"theme=dark%3Bmode"
        assert first["headers"]["origin"] == b"http://testserver"
        assert "query_string" not in first
        with pytest.raises(ValueError) as caught:
            client.set_header("Cookie", "a=b")
        assert str(caught.value) == "set_header() does not take 'cookie': use set_cookie(name, value)."

    def test_only_connect_carries_the_query(self) -> None:
        client = WSClient()
        client.send("websocket.connect", path="/chat%20room?x=1")
        message = self.get_next_message("websocket.connect", require=True)
        assert message is not None
        assert (message["path"], message["query_string"]) == ("/chat room", b"x=1")

    def test_b73_login_is_seen_by_consumers(self) -> None:
        users: list[str] = []

        @channel_session_user_from_http
        def connect(message: Message) -> None:
            users.append(message.user.username)
            reply(message, accept=True)

        with apply_routes([route("websocket.connect", connect)]):
            client = WSClient()
            assert not client.login(username="ada", password="wrong")
            assert client.login(username="ada", password="lovelace")
            client.send_and_consume("websocket.connect")
            WSClient().send_and_consume("websocket.connect")
        assert users == ["ada", ""]

    def test_the_session_lives_through_the_connection(self) -> None:
        @channel_and_http_session
        def connect(message: Message) -> None:
            message.channel_session["room"] = "lobby"
            reply(message, accept=True)

        @channel_session
        def receive(message: Message) -> None:
            reply(message, text=message.channel_session["room"])

        with apply_routes([[route("websocket.connect", connect)], [route("websocket.receive", receive)]]):
            client = WSClient()
            client.send_and_consume("websocket.connect")
            client.send_and_consume("websocket.receive", text="?")
            assert client.receive(json=False) == {"text": "lobby"}

    def test_an_ordered_client_numbers_its_messages(self) -> None:
        @enforce_ordering
        @channel_session
        def receive(message: Message) -> None:
            reply(message, text=json.dumps(message["order"]))

        with apply_routes([route("websocket.receive", receive)]):
            client = WSClient(ordered=True)
            for number in range(2):
                client.send_and_consume("websocket.receive", text="x")
                assert client.receive() == number
            with pytest.raises(ValueError) as caught:
                client.send("websocket.receive", {"order": 5})
            assert str(caught.value) == (
                "This client numbers its messages itself: leave 'order' out, or ordered=True."
            )


@override_settings(CHANNEL_LAYERS=LAYERS)
def test_apply_routes_restores_what_was_there_also_after_an_error() -> None:
    before = {alias: channel_layers[alias].router for alias in LAYERS}
    seen: list[object] = []

    @apply_routes({"elsewhere": accept}, aliases=["other"])
    def fail() -> None:
        seen.extend(channel_layers[alias].router.channels for alias in LAYERS)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert seen == [{"elsewhere"}, {"elsewhere"}]
    assert {alias: channel_layers[alias].router for alias in LAYERS} == before


def test_apply_routes_never_touches_the_projects_list() -> None:
    routes = [route("jobs", accept)]
    with apply_routes(routes):
        pass
    assert len(routes) == 1
