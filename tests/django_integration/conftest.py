"""Django is set up for every test here, and its layers are made anew."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from channels_core import ChannelLayer, Message, channel_layers
from testsite.fixtures import django_database, set_up_django

__all__ = ["django_database"]

set_up_django()

MakeRequest = Callable[..., Message]


@pytest.fixture(autouse=True)
def _django(django_database: None) -> Iterator[None]:
    from channels_django import conf

    channel_layers.configure(conf.load_config)
    yield
    channel_layers.configure(conf.load_config)


@pytest.fixture
def layer() -> ChannelLayer:
    """The default layer, in memory."""
    return channel_layers["default"]


@pytest.fixture
def make_request(layer: ChannelLayer) -> MakeRequest:
    """Makes http.request messages: a GET of / unless told otherwise."""

    def make(**content: Any) -> Message:
        return Message(
            {
                "reply_channel": "http.response.test!1",
                "http_version": "1.1",
                "method": "GET",
                "path": "/",
                "headers": [[b"host", b"testserver"]],
                **content,
            },
            "http.request",
            layer,
        )

    return make
