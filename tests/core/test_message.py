"""Message: the content of one message, and where it came from."""

from typing import Any

import pytest

from channels_core import Channel, ChannelLayer, Message
from channels_layer_memory import MemoryBackend


@pytest.fixture
def layer() -> ChannelLayer:
    return ChannelLayer(MemoryBackend(), alias="other")


def test_b11_it_behaves_like_its_content(layer: ChannelLayer) -> None:
    message = Message({"text": "hi", "number": 5}, "chat", layer)
    assert message["text"] == "hi"
    message["text"] = "changed"
    message["more"] = None
    assert message.content == {"text": "changed", "number": 5, "more": None}
    assert ("text" in message, "none" in message, 5 in message) == (True, False, False)
    assert list(message.keys()) == ["text", "number", "more"]
    assert list(message.values()) == ["changed", 5, None]
    assert list(message.items()) == [("text", "changed"), ("number", 5), ("more", None)]
    assert (message.get("text"), message.get("none"), message.get("none", 7)) == ("changed", None, 7)
    with pytest.raises(KeyError, match="'none'"):
        message["none"]


def test_b11_it_has_no_length_and_cannot_be_iterated(layer: ChannelLayer) -> None:
    message: Any = Message({"0": "zero"}, "chat", layer)
    for operation in (len, iter, list, tuple):
        with pytest.raises(TypeError):
            operation(message)
    assert bool(Message({}, "chat", layer)) is True


@pytest.mark.parametrize("content", [{}, {"reply_channel": ""}, {"reply_channel": None}], ids=repr)
def test_b11_no_reply_channel_is_none(content: dict[str, Any], layer: ChannelLayer) -> None:
    assert Message(content, "chat", layer).reply_channel is None


def test_its_channels_are_channels_on_its_layer(layer: ChannelLayer) -> None:
    message = Message({"reply_channel": "websocket.send.p!x"}, "websocket.receive", layer)
    assert isinstance(message.channel, Channel)
    assert (message.channel.name, message.channel.channel_layer) == ("websocket.receive", layer)
    assert isinstance(message.reply_channel, Channel)
    assert (message.reply_channel.name, message.reply_channel.channel_layer) == ("websocket.send.p!x", layer)
    assert message.channel is message.channel
    assert message.channel_layer is layer
    message.reply_channel.send({"text": "hi"})
    assert layer.receive(["websocket.send.p!"]) == ("websocket.send.p!x", {"text": "hi"})


def test_a_message_made_by_hand_has_no_channel() -> None:
    message = Message({}, None, None)
    assert (message.channel, message.channel_name, message.channel_layer) == (None, None, None)
    assert (message.headers, message.attempt) == ({}, 1)


def test_headers_and_attempt_are_what_was_delivered(layer: ChannelLayer) -> None:
    message = Message({}, "jobs", layer, headers={"c-at": 5}, attempt=3)
    assert (message.headers, message.attempt) == ({"c-at": 5}, 3)
    assert "c-at" not in message


def test_its_channels_can_be_replaced(layer: ChannelLayer) -> None:
    message = Message({"reply_channel": "a!b"}, "chat", layer)
    message.channel, message.reply_channel = None, Channel("else", channel_layer=layer)
    assert message.channel is None
    assert message.reply_channel is not None
    assert message.reply_channel.name == "else"


def test_b12_a_copy_has_its_own_content_and_no_attributes_of_others(layer: ChannelLayer) -> None:
    message: Any = Message({"list": [1, {"a": [2]}]}, "chat", layer, headers={"c-at": 5}, attempt=2)
    message.user = "somebody"
    message.channel_session = {"x": 1}
    copied: Any = message.copy()
    copied.content["list"][1]["a"].append(3)
    copied.headers["more"] = 1
    assert message.content == {"list": [1, {"a": [2]}]}
    assert message.headers == {"c-at": 5}
    assert (copied.channel_name, copied.channel_layer, copied.attempt) == ("chat", layer, 2)
    assert not hasattr(copied, "user")
    assert not hasattr(copied, "channel_session")


def test_what_it_lacks_is_an_attribute_error(layer: ChannelLayer) -> None:
    message: Any = Message({"user": "in the content"}, "chat", layer)
    with pytest.raises(AttributeError, match="'Message' object has no attribute 'user'"):
        message.user  # noqa: B018 - looking is enough


def test_its_picture_names_keys_and_no_values(layer: ChannelLayer) -> None:
    message = Message({"text": "a secret", "path": "/"}, "websocket.receive", layer)
    assert repr(message) == "<Message on 'websocket.receive' with ['path', 'text']>"
