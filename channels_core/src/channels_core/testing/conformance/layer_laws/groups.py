"""Laws of groups: membership, broadcasts, and how memberships end."""

from __future__ import annotations

from channels_core.layers import Outcome, Send
from channels_core.names import new_id
from channels_core.testing.conformance.layer_laws.subject import (
    LayerLaws,
    OpenLayer,
    contents,
    numbers,
    send,
    to_group,
)

__all__ = ["GroupLaws"]

SENT, FULL = Outcome.SENT, Outcome.FULL


class GroupLaws(LayerLaws):
    """A group send reaches every member once, at a cost of processes and not of members."""

    def test_a_group_send_reaches_every_member_once(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        members = ["a", "b", "c?x", "in.one!x", "in.two!y"]
        layer.group_add("g", *members)
        assert layer.send_one(to_group("g", 7)) is SENT
        received = [*layer.receive("a", "b", "c?x"), *layer.receive("in.one!", "in.two!")]
        assert sorted(contents(received)) == [
            ("a", (), 7),
            ("b", (), 7),
            ("c?x", (), 7),
            ("in.one!", ("x",), 7),
            ("in.two!", ("y",), 7),
        ]
        assert layer.receive("a", "b", "c?x", "in.one!", "in.two!") == []

    def test_a_broadcast_is_one_delivery_for_each_process(self, open_layer: OpenLayer) -> None:
        layer = open_layer(inbox_capacity=3)
        one, two = (f"websocket.send.{layer.open_process()}!" for _ in range(2))
        layer.group_add("g", *(f"{one}{number}" for number in range(50)), f"{two}x")
        for number in range(3):
            layer.send_one(to_group("g", number))
        ones = tuple(sorted(str(number) for number in range(50)))
        assert contents(layer.receive(one)) == [(one, ones, 0), (one, ones, 1), (one, ones, 2)]
        assert contents(layer.receive(two)) == [(two, ("x",), 0), (two, ("x",), 1), (two, ("x",), 2)]
        assert layer.backend.counters.group_dropped == 0

    def test_adding_again_changes_nothing(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        for member in ("a", "in!x"):
            layer.group_add("g", member, member, member)
        layer.send_one(to_group("g", 1))
        assert sorted(layer.group_channels("g")) == ["a", "in!x"]
        assert numbers(layer.receive("a")) == [1]
        assert contents(layer.receive("in!")) == [("in!", ("x",), 1)]
        layer.group_discard("g", "a")
        assert layer.group_channels("g") == ["in!x"]

    def test_discarding_a_stranger_is_nothing(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.group_discard("nobody", "a")
        layer.group_add("g", "a")
        layer.group_discard("g", "b")
        layer.group_discard("g", "in!x")
        layer.group_discard("other", "a")
        assert layer.group_channels("g") == ["a"]

    def test_a_send_to_a_group_without_members_is_sent(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.group_add("g", "a")
        layer.group_discard("g", "a")
        assert layer.send(to_group("g"), to_group("never.there")) == [SENT, SENT]
        assert layer.receive("a") == []

    def test_a_send_begun_after_an_add_returned_reaches_the_new_member(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        other = layer if layer.backend.local_only else open_layer()
        mine = f"websocket.send.{layer.open_process()}!"
        for number in range(20):
            layer.group_add("g", f"{mine}{number}")
            other.send_one(to_group("g", number))
        for number, delivery in enumerate(layer.receive(mine)):
            assert sorted(map(int, delivery.locals)) == list(range(number + 1))
            assert delivery.content == {"n": number}

    def test_a_send_begun_after_a_discard_returned_does_not_reach_the_member(
        self, open_layer: OpenLayer
    ) -> None:
        layer = open_layer()
        layer.group_add("g", "a", "in!x", "in!y")
        layer.group_discard("g", "a")
        layer.group_discard("g", "in!x")
        layer.send_one(to_group("g", 1))
        assert layer.receive("a") == []
        assert contents(layer.receive("in!")) == [("in!", ("y",), 1)]

    def test_groups_are_apart_from_each_other_and_from_channels(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.group_add("g", "a")
        layer.group_add("a", "b")
        layer.send(to_group("g", 1), to_group("a", 2), send("g", 3))
        assert numbers(layer.receive("a")) == [1]
        assert numbers(layer.receive("b")) == [2]
        assert numbers(layer.receive("g")) == [3]

    def test_members_are_listed_and_counted(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        mine = f"websocket.send.{layer.open_process()}!"
        members = sorted(["a", "b?x", "in!x", f"{mine}1", f"{mine}2"])
        layer.group_add("g", *members)
        layer.group_add("h", "a")
        assert sorted(layer.group_channels("g")) == members
        assert layer.group_count("g") == 5
        assert layer.groups() == {"g": 5, "h": 1}
        layer.group_discard("h", "a")
        assert (layer.group_channels("h"), layer.group_count("h"), layer.groups()) == ([], 0, {"g": 5})

    def test_a_full_member_is_skipped_and_counted(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=1, inbox_capacity=1)
        mine = f"websocket.send.{layer.open_process()}!"
        layer.group_add("g", "a", "b", f"{mine}1", f"{mine}2")
        layer.send(send("a", 1), send(f"{mine}3", 1))
        assert layer.send_one(to_group("g", 2)) is SENT
        assert numbers(layer.receive("a", mine)) == [1, 1]
        assert numbers(layer.receive("b")) == [2]
        assert layer.backend.counters.group_dropped == 3
        assert layer.backend.counters.full == 0

    def test_a_closed_channels_memberships_end_and_stay_ended(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        mine = f"websocket.send.{layer.open_process()}!"
        layer.group_add("g", f"{mine}x", f"{mine}y")
        layer.group_add("h", f"{mine}x")
        layer.close_channel(f"{mine}x")
        layer.close_channel(f"{mine}x")
        assert (layer.group_channels("g"), layer.groups()) == ([f"{mine}y"], {"g": 1})
        layer.group_add("g", f"{mine}x")
        layer.group_add("h", f"{mine}x")
        assert (layer.group_channels("g"), layer.groups()) == ([f"{mine}y"], {"g": 1})
        layer.send_one(to_group("g", 1))
        assert contents(layer.receive(mine)) == [(mine, ("y",), 1)]

    def test_closing_a_channel_that_was_never_a_member_is_nothing(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        mine = f"websocket.send.{layer.open_process()}!"
        layer.close_channel(f"{mine}x")
        layer.group_add("g", f"{mine}x")
        assert layer.group_channels("g") == []

    def test_memberships_end_with_the_process_that_owns_the_member(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        ending, staying = layer.open_process(), layer.open_process()
        for process in (ending, staying):
            layer.group_add("g", f"websocket.send.{process}!x", f"http.response.{process}!x")
        layer.group_add("h", f"websocket.send.{ending}!x")
        layer.close_process(ending)
        left = [f"http.response.{staying}!x", f"websocket.send.{staying}!x"]
        assert sorted(layer.group_channels("g")) == left
        assert layer.groups() == {"g": 2}
        assert layer.send_one(to_group("g", 1)) is SENT

    def test_members_of_dead_processes_are_not_added(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        ended = layer.open_process()
        layer.close_process(ended)
        layer.group_add("g", f"websocket.send.{ended}!x", f"websocket.send.{new_id()}!y")
        assert (layer.group_channels("g"), layer.group_count("g"), layer.groups()) == ([], 0, {})

    def test_memberships_of_channels_without_an_owner_lapse(self, open_layer: OpenLayer) -> None:
        layer = open_layer(group_expiry=2 * self.tick)
        layer.group_add("g", "a", "b", "in!x", "in!y")
        self.pass_time(1.2 * self.tick)
        layer.group_add("g", "b", "in!y")
        self.pass_time(1.2 * self.tick)
        assert sorted(layer.group_channels("g")) == ["b", "in!y"]
        assert (layer.group_count("g"), layer.groups()) == (2, {"g": 2})
        layer.send_one(to_group("g", 1))
        assert layer.receive("a") == []
        assert contents(layer.receive("in!")) == [("in!", ("y",), 1)]
        self.pass_time(2.5 * self.tick)
        assert (layer.group_channels("g"), layer.groups()) == ([], {})

    def test_memberships_of_a_live_process_never_lapse(self, open_layer: OpenLayer) -> None:
        layer = open_layer(group_expiry=self.tick)
        mine = f"websocket.send.{layer.open_process()}!"
        layer.group_add("g", f"{mine}x")
        self.pass_time(1.5 * self.tick)
        assert layer.group_channels("g") == [f"{mine}x"]
        layer.send_one(to_group("g", 1))
        assert contents(layer.receive(mine)) == [(mine, ("x",), 1)]

    def test_headers_travel_with_a_broadcast(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        mine = f"websocket.send.{layer.open_process()}!"
        layer.group_add("g", "a", f"{mine}x")
        layer.send_one(Send("g", {"n": 1}, {"c-at": 5}, 9, True))
        assert [delivery.headers for delivery in layer.receive("a", mine)] == [{"c-at": 5}] * 2
