"""The options that every layer has: what they say about a channel, and what is said about wrong ones."""

import re
from typing import Any

import pytest

from channels_core.channel_layer import ChannelLayer
from channels_core.exceptions import InvalidChannelLayerError, InvalidNameError, SendUncertain
from channels_core.layers import Outcome, Send
from channels_layer_memory import MemoryBackend


class AtMostOnce(MemoryBackend):
    delivery_classes = frozenset({"at-most-once"})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"expiry": 0}, "Option expiry is 0: it must be a number of seconds above 0."),
        ({"lease": True}, "Option lease is True: it must be a number of seconds above 0."),
        ({"group_expiry": "1"}, "Option group_expiry is '1': it must be a number of seconds above 0."),
        ({"process_lease": float("inf")}, "Option process_lease is inf: it must be a number of seconds above 0."),
        ({"capacity": 1.0}, "Option capacity is 1.0: it must be an integer of at least 1."),
        (
            {"channel_capacity": {"a.*": 0}},
            "Option channel_capacity['a.*'] is 0: it must be an integer of at least 1.",
        ),
        (
            {"channel_capacity": {7: 1}},
            "Option channel_capacity has the key 7: keys are globs ('http.*') or compiled patterns.",
        ),
        (
            {"delivery": {"a.*": "exactly-once"}},
            "Option delivery['a.*'] is 'exactly-once'; the delivery classes are: at-most-once, at-least-once.",
        ),
        (
            {"delivery": {"a.*": "at-least-once"}},
            "Option delivery['a.*'] asks for 'at-least-once', which AtMostOnce cannot keep; it keeps: at-most-once."
            " Choose another layer for these channels.",
        ),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidChannelLayerError) as raised:
        AtMostOnce(**options)
    assert str(raised.value) == text


def test_the_first_pattern_that_matches_a_channel_counts() -> None:
    backend = MemoryBackend(
        capacity=7,
        inbox_capacity=9,
        channel_capacity={"jobs.*": 1, re.compile("jobs|mail"): 2, "http.response.*": 3},
        delivery={"jobs.*": "at-least-once", "*": "at-most-once"},
    )
    names = ["jobs.a", "jobs", "mailbox", "other", "http.response.p!local", "websocket.send.p!local"]
    assert [backend.capacity_of(name) for name in names] == [1, 2, 2, 7, 3, 9]
    assert [backend.explicit_capacity_of(name) for name in names] == [1, 2, 2, None, 3, None]
    assert [backend.delivery_class_of(name) for name in ("jobs.a", "jobs", "jobs.a!local")] == [
        "at-least-once",
        "at-most-once",
        "at-most-once",
    ]


def test_a_send_that_was_not_answered_may_have_arrived() -> None:
    class Silent(MemoryBackend):
        def send_one(self, send: Send) -> Outcome:
            return Outcome.UNCERTAIN

    with pytest.raises(SendUncertain) as raised:
        ChannelLayer(Silent()).send("reply.x!abcdefgh", {})
    assert str(raised.value) == (
        "The engine of layer 'default' did not answer: the message to 'reply.x!abcd...' may or may not have arrived."
        " Send it again only if its consumer bears a repeat."
    )


def test_a_layer_without_routing_serves_no_worker() -> None:
    layer = ChannelLayer(MemoryBackend(), alias="reports")
    with pytest.raises(InvalidChannelLayerError) as raised:
        layer.router  # noqa: B018 - made when first looked at
    assert str(raised.value) == (
        "The channel layer 'reports' has no routing, so no worker can serve it. Give it ROUTING: a list of routes, or"
        " the dotted path to one, such as 'mysite.routing.routes'."
    )


@pytest.mark.parametrize("pattern", ["jobs", "", None])
def test_new_channels_are_made_from_a_mark(pattern: Any) -> None:
    with pytest.raises(InvalidNameError) as raised:
        ChannelLayer(MemoryBackend()).new_channel(pattern)
    assert str(raised.value) == (
        f"{pattern!r} is not a pattern for a new channel: end it in '?' (one reader) or '!' (process-specific)."
    )
