"""Laws of sending: names, values, capacity, outcomes, order, expiry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from channels_core.channel_layer import ChannelLayer
from channels_core.headers import CREDIT, CREDITED
from channels_core.layers import Outcome, Send
from channels_core.message import normalise
from channels_core.names import new_id
from channels_core.testing.conformance.layer_laws.subject import (
    LayerLaws,
    OpenLayer,
    contents,
    numbers,
    send,
    to_group,
)

__all__ = ["MessageLaws"]

SENT, FULL, GONE = Outcome.SENT, Outcome.FULL, Outcome.GONE

_plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
)
_values = st.recursive(
    _plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class MessageLaws(LayerLaws):
    """What is sent arrives: equal, in order, once, in time; or the sender hears why not."""

    # Names and values.

    def test_a_message_arrives_on_its_channel_alone(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        names = ["a", "A", "a.b", "a-b", "a_b", "a?b", "0", "x" * 99, "x" * 48 + "?" + "y" * 50]
        for number, name in enumerate(names):
            assert layer.send_one(send(name, number)) is SENT
        for number, name in enumerate(names):
            assert contents(layer.receive(name)) == [(name, (), number)]
        assert layer.receive(*names) == []

    def test_a_process_specific_message_is_read_by_its_prefix(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        assert (
            layer.send(send("inbox.one!a", 1), send("inbox.two!a", 2), send("inbox.one!b", 3)) == [SENT] * 3
        )
        assert contents(layer.receive("inbox.one!")) == [("inbox.one!", ("a",), 1), ("inbox.one!", ("b",), 3)]
        assert contents(layer.receive("inbox.two!")) == [("inbox.two!", ("a",), 2)]

    def test_a_first_delivery_is_attempt_one_and_not_leased(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.send(send("a"))
        [delivery] = layer.receive("a")
        assert (delivery.attempt, delivery.is_leased, delivery.locals) == (1, False, ())

    def test_headers_arrive_beside_the_content(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        headers: dict[str, str | int] = {
            "c-at": 2**63 - 1,
            "c-v": 1,
            "trace": "naïve ☃",
            "empty": "",
            "low": -(2**63),
        }
        layer.send(Send("a", {}, dict(headers), 0))
        [delivery] = layer.receive("a")
        assert (delivery.content, delivery.headers) == ({}, headers)

    def test_every_kind_of_value_arrives_equal_and_of_its_type(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        content = {
            "none": None,
            "yes": True,
            "no": False,
            "one": 1,
            "least": -(2**63),
            "most": 2**63 - 1,
            "float": 1.0,
            "minus zero": -0.0,
            "tiny": 5e-324,
            "huge": 1.7976931348623157e308,
            "text": "naïve ☃ 𝄞 \x00 \r\n",
            "no text": "",
            "bytes": bytes(range(256)),
            "no bytes": b"",
            "list": [1, [2, [3, []]], {"a": [b"\xff", None]}],
            "dict": {"": {"nested": {"deep": [True, 0.5]}}},
            "": "the empty key",
            "ключ": "a key beyond ASCII",
        }
        layer.send(Send("a", *_with_headers(content)))
        [delivery] = layer.receive("a")
        assert exact(delivery.content) == exact(content)

    def test_any_value_arrives_equal_and_of_its_type(self, open_layer: OpenLayer) -> None:
        layer = open_layer()

        @settings(deadline=None, database=None, max_examples=60)
        @given(st.dictionaries(st.text(), _values, max_size=6))
        def pass_through(content: dict[str, Any]) -> None:
            if "__asgi_channel__" in content:
                return
            layer.send(Send("a", *_with_headers(content)))
            [delivery] = layer.receive("a")
            assert exact(delivery.content) == exact(content)

        pass_through()

    def test_a_message_near_the_size_limit_arrives(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        content = {"bytes": b"\xff" * (2**20 - 200)}
        layer.send(Send("a", *_with_headers(content)))
        [delivery] = layer.receive("a")
        assert len(delivery.content["bytes"]) == 2**20 - 200

    def test_what_is_received_shares_no_state_with_what_was_sent(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        user = ChannelLayer(layer.backend)
        content: dict[str, Any] = {"list": [1, {"a": 1}]}
        for _ in range(2):
            sent = user.prepare("a", content)
            content["list"][1]["a"] = 2
            layer.send(sent)
        first, second = layer.receive("a")
        first.content["list"].append("changed by a consumer")
        first.headers["changed"] = 1
        assert second.content == {"list": [1, {"a": 2}]}
        assert "changed" not in second.headers
        assert content == {"list": [1, {"a": 2}]}

    def test_receivers_of_one_group_send_share_no_state(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.group_add("g", "a", "b", "inbox.one!x")
        layer.send(Send("g", {"list": []}, {"h": 1}, 10, True))
        received = [*layer.receive("a"), *layer.receive("b"), *layer.receive("inbox.one!")]
        for delivery in received:
            delivery.content["list"].append(delivery.channel)
            delivery.headers["h"] = delivery.channel
        assert [delivery.content["list"] for delivery in received] == [["a"], ["b"], ["inbox.one!"]]
        assert [delivery.headers["h"] for delivery in received] == ["a", "b", "inbox.one!"]

    def test_new_channels_are_unused_names_of_either_kind(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        names = [layer.backend.new_channel(pattern) for pattern in ("a?", "a?", "a.b!", "a.b!")]
        assert len(set(names)) == 4
        assert [re.sub(r"[a-z2-7]{26}\Z", "", name) for name in names] == ["a?", "a?", "a.b!", "a.b!"]
        assert layer.send(*(send(name, number) for number, name in enumerate(names))) == [SENT] * 4
        assert numbers(layer.receive(names[0])) == [0]
        assert contents(layer.receive("a.b!")) == [
            ("a.b!", (name.partition("!")[2],), number) for number, name in enumerate(names) if "!" in name
        ]

    # Capacity and outcomes.

    def test_capacity_never_refuses_below_the_limit_and_refuses_at_it(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=3)
        for name in ("a", "a?b"):
            assert [layer.send_one(send(name, number)) for number in range(5)] == [
                SENT,
                SENT,
                SENT,
                FULL,
                FULL,
            ]
            assert numbers(layer.receive(name, limit=1)) == [0]
            assert [layer.send_one(send(name, number)) for number in (7, 8)] == [SENT, FULL]
            assert numbers(layer.receive(name)) == [1, 2, 7]
        assert layer.backend.counters.full == 6

    def test_capacity_is_each_channels_own(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=1)
        assert layer.send(send("a"), send("b"), send("a?b"), send("a?c")) == [SENT] * 4

    def test_the_first_capacity_pattern_that_matches_counts(self, open_layer: OpenLayer) -> None:
        patterns = {"http.*": 1, re.compile(r"^http\.request$"): 5, re.compile(r"chat\.\d+$"): 2, "in.*!": 2}
        layer = open_layer(capacity=3, channel_capacity=patterns)
        room = {"http.request": 1, "chat.12": 2, "chat.x": 3, "in.one!a": 2}
        for name, number in room.items():
            outcomes = [layer.send_one(send(name)) for _ in range(number + 1)]
            assert outcomes == [SENT] * number + [FULL], name
        assert layer.send_one(send("in.one!b")) is FULL, "a pattern counts what comes before the local part"
        assert layer.send_one(send("in.two!a")) is SENT

    def test_each_send_has_its_outcome_in_order(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=1)
        dead = f"websocket.send.{new_id()}!x"
        sends = [
            send("a", 1),
            send(dead, 2),
            send("a", 3),
            to_group("nobody", 4),
            send("b", 5),
            send("b?x", 6),
        ]
        assert layer.send(*sends) == [SENT, GONE, FULL, SENT, SENT, SENT]
        assert numbers(layer.receive("a")) == [1]
        assert numbers(layer.receive("b")) == [5]
        assert numbers(layer.receive("b?x")) == [6]

    def test_after_a_refusal_the_rest_of_the_batch_for_that_channel_is_refused(
        self, open_layer: OpenLayer
    ) -> None:
        layer = open_layer(inbox_bytes=100)
        sizes = (90, 90, 90, 1)
        sends = [send("in!a", number, size=size) for number, size in enumerate(sizes)]
        outcomes = layer.send(*sends, send("other"), send("in!a", size=1))
        assert FULL in outcomes[:3]
        refused = outcomes.index(FULL)
        assert outcomes == [SENT] * refused + [FULL] * (4 - refused) + [SENT, FULL]
        assert numbers(layer.receive("in!")) == list(range(refused))

    def test_one_send_has_the_outcome_it_would_have_in_a_batch(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=1)
        dead = f"http.response.{new_id()}!x"
        sends = [send("a"), send("a"), send(dead), to_group("g"), send("in!b")]
        assert [layer.send_one(one) for one in sends] == [SENT, FULL, GONE, SENT, SENT]

    def test_an_empty_batch_has_no_outcomes(self, open_layer: OpenLayer) -> None:
        assert open_layer().send() == []

    def test_sends_are_counted(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=2)
        layer.send(send("a"), send("a"), send("a"), send(f"x.{new_id()}!y"))
        layer.receive("a")
        counted = layer.backend.counters
        assert (counted.sent, counted.received, counted.full, counted.gone) == (2, 2, 1, 1)

    # Order.

    def test_one_reader_gets_a_channel_in_the_order_of_the_sends(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        for channel, name in (("a", "a"), ("a?b", "a?b"), ("in!", "in!x")):
            layer.send(send(name, 1), send(name, 2))
            layer.send_one(send(name, 3))
            layer.send(send(name, 4), send("other", 9), send(name, 5))
            received = [number for _ in range(5) for number in numbers(layer.receive(channel, limit=1))]
            assert received == [1, 2, 3, 4, 5], name

    def test_order_holds_between_two_senders_of_which_one_waits_for_the_other(
        self, open_layer: OpenLayer
    ) -> None:
        one = open_layer()
        other = one if one.backend.local_only else open_layer()
        for number in range(0, 20, 2):
            assert one.send_one(send("in!x", number)) is SENT
            assert other.send_one(send("in!y", number + 1)) is SENT
        assert numbers(one.receive("in!")) == list(range(20))

    def test_order_holds_between_direct_and_group_sends_to_one_member(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        mine = f"websocket.send.{layer.open_process()}!"
        for number, (channel, member) in enumerate(
            (("a", "a"), ("a?b", "a?b"), ("in!", "in!x"), (mine, f"{mine}x"))
        ):
            group = f"g.{number}"
            layer.group_add(group, member)
            for turn in range(0, 6, 2):
                layer.send_one(send(member, turn))
                layer.send_one(to_group(group, turn + 1))
            assert numbers(layer.receive(channel)) == [0, 1, 2, 3, 4, 5], member

    # Expiry.

    def test_messages_older_than_the_expiry_are_not_delivered(self, open_layer: OpenLayer) -> None:
        layer = open_layer(expiry=2 * self.tick)
        layer.send(send("a", 1), send("a?b", 2), send("in!x", 3))
        self.pass_time(1.2 * self.tick)
        layer.send(send("a", 4), send("a?b", 5), send("in!x", 6))
        self.pass_time(1.2 * self.tick)
        assert numbers(layer.receive("a")) == [4]
        assert numbers(layer.receive("a?b")) == [5]
        assert numbers(layer.receive("in!")) == [6]
        assert layer.backend.counters.expired == 3

    def test_expired_messages_take_no_room(self, open_layer: OpenLayer) -> None:
        layer = open_layer(expiry=self.tick, capacity=2, inbox_capacity=2)
        for name in ("a", "a?b", "in!x"):
            assert layer.send(send(name), send(name), send(name)) == [SENT, SENT, FULL]
        self.pass_time(1.5 * self.tick)
        for name in ("a", "a?b", "in!x"):
            assert layer.send(send(name, 1), send(name, 2)) == [SENT, SENT]
            assert layer.send_one(send(name)) is FULL

    def test_expired_messages_under_flow_control_are_reported(self, open_layer: OpenLayer) -> None:
        layer = open_layer(expiry=self.tick)
        reported: list[Mapping[str, str | int]] = []
        layer.backend.on_expired = reported.extend
        credit = {CREDIT: "websocket.send.x!y"}
        layer.send(
            Send("a", {}, {**credit, "n": 1}, 9),
            Send("a", {}, {"n": 2}, 9),
            Send("b", {}, {**credit, "n": 3}, 9),
        )
        self.pass_time(1.5 * self.tick)
        assert layer.receive("a", "b") == []
        assert sorted(headers["n"] for headers in reported if CREDIT in headers) == [1, 3]

    def test_the_credit_of_expired_messages_comes_back(self, open_layer: OpenLayer) -> None:
        layer = open_layer(expiry=self.tick)
        user = ChannelLayer(layer.backend)
        layer.send(Send("a", {}, {CREDIT: "in!x"}, 9))
        self.pass_time(1.5 * self.tick)
        assert layer.receive("a") == []
        [credit] = layer.receive("in!", timeout=self.patience)
        assert (credit.content, credit.headers, credit.locals) == ({}, {CREDITED: "x"}, ("x",))
        assert user.counters.expired == 1


def exact(value: object) -> object:
    """``value`` in a shape that is equal only where the types are too: else 1 were True and 1.0, and 0.0 were -0.0."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value).__name__, value.hex() if isinstance(value, float) else value


def _with_headers(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str | int], int]:
    plain, size = normalise(content)
    return plain, {}, size
