"""Laws of receiving: limits, timeouts, rotation, waking, cancellation, and many readers at once."""

from __future__ import annotations

import time

import pytest

from channels_core.layers import Outcome
from channels_core.testing.conformance.layer_laws.subject import (
    LayerLaws,
    OpenLayer,
    contents,
    in_thread,
    numbers,
    send,
    to_group,
)

__all__ = ["ReceivingLaws"]


class ReceivingLaws(LayerLaws):
    """A receive takes what there is, or sleeps until there is something; nothing is lost and nothing comes twice."""

    def test_no_channels_is_no_messages(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.send(send("a"))
        assert layer.receive() == []
        assert layer.receive(timeout=self.patience) == []

    def test_a_timeout_of_zero_does_not_wait(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.receive("a")
        started = time.monotonic()
        assert layer.receive("a", "b?c", "in!") == []
        assert time.monotonic() - started < 1.0

    def test_a_timeout_is_waited_for(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        started = time.monotonic()
        assert layer.receive("a", "in!", timeout=self.tick) == []
        assert self.tick * 0.9 <= time.monotonic() - started < self.tick + 5

    def test_the_limit_counts_over_all_channels(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.send(*(send(name, number) for number in range(4) for name in ("a", "b?x", "in!x")))
        taken = [len(layer.receive("a", "b?x", "in!", limit=limit)) for limit in (1, 2, 5, 100)]
        assert taken == [1, 2, 5, 4]

    def test_a_receive_takes_what_there_is_up_to_its_limit(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.send(*(send("a", number) for number in range(10)))
        assert numbers(layer.receive("a", limit=4, timeout=self.patience)) == [0, 1, 2, 3]
        assert numbers(layer.receive("a", limit=100, timeout=self.patience)) == [4, 5, 6, 7, 8, 9]

    def test_only_the_named_channels_are_received_from(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.send(send("a", 1), send("b", 2), send("a?b", 3), send("a!b", 4), send("a.b!c", 5))
        assert contents(layer.receive("a")) == [("a", (), 1)]
        assert contents(layer.receive("a!")) == [("a!", ("b",), 4)]
        assert sorted(contents(layer.receive("a.b!", "a?b", "b"))) == [
            ("a.b!", ("c",), 5),
            ("a?b", (), 3),
            ("b", (), 2),
        ]

    def test_a_message_that_arrives_later_is_received(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        for channel, name in (("a", "a"), ("b?x", "b?x"), ("in!", "in!x")):
            waiting = layer.begin_receive("other", channel)
            self.give_others_time()
            assert not waiting.has_returned
            layer.send_one(send(name, 7))
            assert numbers(waiting.result()) == [7], name

    def test_a_broadcast_that_arrives_later_is_received(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        mine = f"websocket.send.{layer.open_process()}!"
        layer.group_add("g", "a", f"{mine}x")
        waiting = [layer.begin_receive(channel) for channel in ("a", mine)]
        self.give_others_time()
        layer.send_one(to_group("g", 7))
        assert [numbers(pending.result()) for pending in waiting] == [[7], [7]]

    def test_a_wait_ends_soon_after_a_message_came(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        delays = []
        for _ in range(5):
            waiting = layer.begin_receive("a", timeout=None)
            self.give_others_time()
            started = time.monotonic()
            layer.send_one(send("a"))
            waiting.result()
            delays.append(time.monotonic() - started)
        assert min(delays) < 0.5, "the best of five tries is far beyond what a wake-up costs"

    def test_a_busy_channel_cannot_starve_a_quiet_one(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=1000)
        layer.send(
            *(send("busy", number) for number in range(50)), send("quiet"), send("still?x"), send("in!x")
        )
        channels = ("busy", "quiet", "still?x", "in!")
        first = [delivery.channel for _ in range(16) for delivery in layer.receive(*channels, limit=1)]
        assert {"quiet", "still?x", "in!"} < set(first)
        layer.send(send("quiet"), send("in!x"))
        batch = [delivery.channel for _ in range(4) for delivery in layer.receive(*channels, limit=4)]
        assert {"quiet", "in!"} < set(batch)

    def test_busy_channels_take_turns_whoever_else_receives(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=1000)
        layer.send(*(send(name, number) for number in range(20) for name in ("a", "b", "c", "d")))
        mine = []
        for _ in range(6):
            mine += layer.receive("a", "b", limit=1)
            layer.receive("c", "d", limit=1)
        assert {delivery.channel for delivery in mine} == {"a", "b"}

    def test_wake_ends_every_wait(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        waiting = [layer.begin_receive("a", "in!", timeout=None) for _ in range(4)]
        waiting.append(in_thread(lambda: layer.backend.receive_batch(["b"], timeout=None), self.patience))
        self.give_others_time()
        deadline = time.monotonic() + self.patience
        while not all(pending.has_returned for pending in waiting) and time.monotonic() < deadline:
            layer.backend.wake()  # again: one that had not begun to wait at the first is not woken by it
            self.give_others_time()
        assert [pending.result() for pending in waiting] == [[]] * 5

    def test_wake_loses_nothing_and_hinders_nothing(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.backend.wake()
        layer.backend.wake()
        layer.send(send("a", 1))
        assert numbers(layer.receive("a", timeout=self.patience)) == [1]
        waiting = layer.begin_receive("a")
        self.give_others_time()
        layer.send(send("a", 2))
        layer.backend.wake()
        assert numbers([*waiting.result(), *layer.receive("a")]) == [2]

    def test_a_cancelled_receive_loses_nothing(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=1000)
        if not layer.is_async:
            pytest.skip("only tasks can be cancelled")
        for channel, name in (("a", "a"), ("in!", "in!x")):
            received = []
            for number in range(30):
                waiting = layer.begin_receive(channel)
                if number % 3 == 0:
                    self.give_others_time()
                layer.send_one(send(name, number))
                received += waiting.cancel() or []
            deadline = time.monotonic() + self.patience
            while len(received) < 30 and time.monotonic() < deadline:
                received += layer.receive(channel, timeout=0.1)
            assert sorted(numbers(received)) == list(range(30))
            assert {delivery.attempt for delivery in received} == {1}

    def test_a_cancelled_receive_takes_no_wake_up_with_it(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        if not layer.is_async:
            pytest.skip("only tasks can be cancelled")
        for number in range(10):
            staying, doomed = layer.begin_receive("a"), layer.begin_receive("a")
            if number % 2:
                staying, doomed = doomed, staying
            self.give_others_time()
            layer.send_one(send("a", number))
            received = doomed.cancel() or []
            started = time.monotonic()
            if not received:  # a wait may end early and empty-handed
                received = staying.result() or layer.receive("a", timeout=self.patience)
            assert numbers(received) == [number]
            assert time.monotonic() - started < self.patience / 2, (
                "the message waited for a reader that was there"
            )
            layer.backend.wake()
            if not staying.has_returned:
                staying.cancel()

    def test_many_waiting_readers_share_what_comes(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        waiting = [layer.begin_receive("a", limit=1) for _ in range(8)]
        self.give_others_time()
        assert layer.send(*(send("a", number) for number in range(8))) == [Outcome.SENT] * 8
        assert sorted(number for pending in waiting for number in numbers(pending.result())) == list(range(8))
