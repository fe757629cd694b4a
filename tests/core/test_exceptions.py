"""What consumers raise on purpose: what it does to the socket, and what is said where there is none."""

from typing import Any

import pytest

from channels_core import (
    ChannelLayer,
    ChannelsError,
    ChannelSocketException,
    ConsumeLater,
    DenyConnection,
    Message,
    ResponseLater,
    WebsocketCloseException,
    exceptions,
)
from channels_core.exceptions import ConfigurationError, ConsumerControl
from channels_layer_memory import MemoryBackend

REPLY = "websocket.send.p!x"


@pytest.fixture
def layer() -> ChannelLayer:
    return ChannelLayer(MemoryBackend())


def message(layer: ChannelLayer, channel: str | None, reply: str | None = REPLY) -> Message:
    return Message({} if reply is None else {"reply_channel": reply}, channel, layer)


def test_signals_are_no_errors() -> None:
    for name in exceptions.__all__:
        kind = getattr(exceptions, name)
        assert issubclass(kind, ChannelsError) is not issubclass(kind, ConsumerControl), name
    for kind in (
        ConsumeLater,
        ResponseLater,
        ChannelSocketException,
        DenyConnection,
        WebsocketCloseException,
    ):
        assert issubclass(kind, ConsumerControl)


def test_b17_deny_connection_refuses_the_socket(layer: ChannelLayer) -> None:
    DenyConnection().run(message(layer, "websocket.connect"))
    assert layer.receive(["websocket.send.p!"]) == (REPLY, {"close": True})


@pytest.mark.parametrize("channel", ["websocket.receive", "websocket.connected", "http.request", None])
def test_b18_deny_connection_elsewhere_is_an_error(layer: ChannelLayer, channel: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DenyConnection().run(message(layer, channel))
    assert str(caught.value) == (
        f"DenyConnection was raised on channel {channel!r}: only a message on 'websocket.connect' has a connection to"
        " deny. Raise WebsocketCloseException to close an open socket."
    )
    assert layer.receive(["websocket.send.p!"]) == (None, None)


def test_deny_connection_needs_a_socket(layer: ChannelLayer) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DenyConnection().run(message(layer, "websocket.connect", None))
    assert str(caught.value) == (
        "DenyConnection was raised for a message without a reply_channel: there is no socket to refuse."
    )


@pytest.mark.parametrize(("code", "sent"), [(None, True), (1000, 1000), (3000, 3000), (4999, 4999)])
@pytest.mark.parametrize("channel", ["websocket.connect", "websocket.receive", "websocket.disconnect"])
def test_b19_websocket_close_closes_whatever_the_reply_channel_is_called(
    layer: ChannelLayer, channel: str, code: int | None, sent: object
) -> None:
    WebsocketCloseException(code).run(message(layer, channel, "daphne.response.abc!x"))
    assert layer.receive(["daphne.response.abc!"]) == ("daphne.response.abc!x", {"close": sent})


@pytest.mark.parametrize("channel", ["http.request", "websocket", "xwebsocket.receive", None])
def test_websocket_close_needs_a_websocket_message(layer: ChannelLayer, channel: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebsocketCloseException(4001).run(message(layer, channel))
    assert str(caught.value) == (
        f"WebsocketCloseException was raised on channel {channel!r}: only a message on a 'websocket.*' channel has a"
        " socket to close."
    )


def test_websocket_close_needs_a_socket(layer: ChannelLayer) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebsocketCloseException().run(message(layer, "websocket.receive", None))
    assert str(caught.value) == (
        "WebsocketCloseException was raised for a message without a reply_channel: there is no socket to close."
    )


@pytest.mark.parametrize(
    "code", [0, 1, 999, 1001, 1005, 1006, 1011, 2999, 5000, -1000, True, False, "1000", 1000.0]
)
def test_b20_other_close_codes_are_refused(code: Any) -> None:
    with pytest.raises(ValueError) as caught:
        WebsocketCloseException(code)
    assert str(caught.value) == (
        f"{code!r} is not a close code an application may send: use 1000 or 3000 to 4999 (RFC 6455, section 7.4), or"
        " none for 1000."
    )


def test_a_socket_exception_says_what_to_write(layer: ChannelLayer) -> None:
    class Angry(ChannelSocketException):
        pass

    with pytest.raises(NotImplementedError) as caught:
        Angry().run(message(layer, "websocket.receive"))
    assert str(caught.value) == (
        "Angry does not say what to do: define run(self, message) in it, or raise DenyConnection or"
        " WebsocketCloseException instead."
    )


def test_a_socket_exception_of_ones_own(layer: ChannelLayer) -> None:
    class Farewell(ChannelSocketException):
        def run(self, message: Message) -> None:
            assert message.reply_channel is not None
            message.reply_channel.send({"text": "bye", "close": True})

    Farewell().run(message(layer, "websocket.receive"))
    assert layer.receive(["websocket.send.p!"]) == (REPLY, {"text": "bye", "close": True})
