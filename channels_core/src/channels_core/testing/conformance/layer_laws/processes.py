"""Laws of processes: leases on the layer, inboxes, and what ends with a process."""

from __future__ import annotations

import re

from channels_core.layers import Outcome
from channels_core.names import new_id
from channels_core.testing.conformance.layer_laws.subject import (
    LayerLaws,
    OpenLayer,
    contents,
    numbers,
    send,
    to_group,
)

__all__ = ["ProcessLaws"]

SENT, FULL, GONE = Outcome.SENT, Outcome.FULL, Outcome.GONE


class ProcessLaws(LayerLaws):
    """A process has an id, a lease and one inbox."""

    def test_every_process_has_an_id_of_its_own(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        ids = [layer.open_process("worker") for _ in range(5)]
        assert len(set(ids)) == 5
        assert [re.sub(r"[a-z2-7]{26}", "", process) for process in ids] == [""] * 5

    def test_processes_are_listed_while_their_lease_runs(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        other = layer if layer.backend.local_only else open_layer()
        interface = layer.open_process("interface", label="web:1")
        worker = other.open_process("worker", label="job:2")
        assert layer.renew_process(worker, load=0.5, counters={"consumed": 3})
        found = {process.id: process for process in other.processes()}
        assert {process.id: (process.kind, process.label) for process in found.values()} == {
            interface: ("interface", "web:1"),
            worker: ("worker", "job:2"),
        }
        assert (found[interface].load, found[interface].counters) == (0.0, {})
        assert (found[worker].load, found[worker].counters) == (0.5, {"consumed": 3})
        layer.close_process(interface)
        assert [process.id for process in layer.processes()] == [worker]

    def test_the_age_of_a_process_grows(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.open_process()
        self.pass_time(self.tick)
        [process] = layer.processes()
        assert self.tick * 0.9 <= process.age < self.tick + 10

    def test_a_process_that_is_not_renewed_ends(self, open_layer: OpenLayer) -> None:
        layer = open_layer(process_lease=2 * self.tick)
        lapsing, renewed = layer.open_process(), layer.open_process()
        layer.group_add("g", f"in.{lapsing}!x", f"in.{renewed}!x")
        for _ in range(4):
            self.pass_time(0.6 * self.tick)
            assert layer.renew_process(renewed) is True
        assert layer.send(send(f"in.{lapsing}!x"), send(f"in.{renewed}!x")) == [GONE, SENT]
        assert [process.id for process in layer.processes()] == [renewed]
        assert layer.group_channels("g") == [f"in.{renewed}!x"]
        assert layer.renew_process(lapsing) is False

    def test_no_lease_runs_out_while_nobody_renews(self, open_layer: OpenLayer) -> None:
        layer = open_layer(process_lease=4 * self.tick)
        one, two = layer.open_process("interface"), layer.open_process("worker")
        layer.group_add("g", f"in.{one}!x")
        self.pass_time(5 * self.tick)
        assert layer.send(send(f"in.{one}!x", 1), to_group("g", 2)) == [SENT, SENT]
        assert layer.renew_process(two) is True
        assert layer.send(send(f"in.{one}!x", 3), to_group("g", 4)) == [SENT, SENT]
        assert {process.id for process in layer.processes()} == {one, two}
        assert layer.group_channels("g") == [f"in.{one}!x"]
        layer.group_add("g", f"in.{one}!y")
        assert layer.renew_process(one) is True
        layer.send(to_group("g", 5))
        received = layer.receive(f"in.{one}!")
        assert numbers(received) == [1, 2, 3, 4, 5]
        assert [set(delivery.locals) for delivery in received] == [{"x"}] * 4 + [{"x", "y"}]

    def test_a_lease_that_was_spared_runs_out_after_all(self, open_layer: OpenLayer) -> None:
        layer = open_layer(process_lease=4 * self.tick)
        one, two = layer.open_process("interface"), layer.open_process("worker")
        layer.group_add("g", f"in.{one}!x")
        self.pass_time(5 * self.tick)
        assert layer.renew_process(two) is True
        for _ in range(4):
            self.pass_time(1.2 * self.tick)
            assert layer.renew_process(two) is True
        assert layer.send_one(send(f"in.{one}!x")) is GONE
        assert layer.group_channels("g") == []
        assert layer.renew_process(one) is False

    def test_ending_a_process_twice_or_a_stranger_is_nothing(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        process = layer.open_process()
        layer.close_process(process)
        layer.close_process(process)
        layer.close_process(new_id())
        assert layer.renew_process(process) is False
        assert layer.renew_process(new_id()) is False

    def test_sends_to_a_dead_process_are_gone_and_counted(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        process = layer.open_process()
        assert layer.send_one(send(f"websocket.send.{process}!x")) is SENT
        layer.close_process(process)
        before = layer.backend.counters.gone
        never = f"http.response.{new_id()}!x"
        sends = [send(f"websocket.send.{process}!x"), send(f"never.used.{process}!x"), send(never)]
        assert layer.send(*sends) == [GONE] * 3
        assert layer.backend.counters.gone == before + 3
        assert layer.receive(f"websocket.send.{process}!") == []

    def test_prefixes_without_an_owner_are_never_gone(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        for name in ("in!x", "client.reply!x", f"{new_id()[:-1]}!x", f"in.{new_id()}x!y"):
            assert layer.send_one(send(name)) is SENT, name

    def test_the_prefixes_of_a_process_are_received_in_one_order(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        process = layer.open_process()
        prefixes = [f"websocket.send.{process}!", f"http.response.{process}!", f"third.{process}!"]
        order = [0, 1, 0, 2, 2, 1, 0, 0, 1, 2, 1]
        layer.send(*(send(f"{prefixes[which]}x", number) for number, which in enumerate(order)))
        expected = [(prefixes[which], ("x",), number) for number, which in enumerate(order)]
        received = [*layer.receive(*prefixes, limit=3), *layer.receive(*reversed(prefixes), limit=4)]
        assert contents([*received, *layer.receive(*prefixes)]) == expected

    def test_a_receive_that_names_one_prefix_gets_that_alone(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        process = layer.open_process()
        one, two = f"websocket.send.{process}!", f"http.response.{process}!"
        layer.send(send(f"{one}x", 1), send(f"{two}x", 2), send(f"{one}x", 3))
        assert numbers(layer.receive(two)) == [2]
        assert numbers(layer.receive(one)) == [1, 3]

    def test_the_prefixes_of_a_process_share_its_inbox_capacity(self, open_layer: OpenLayer) -> None:
        layer = open_layer(inbox_capacity=3, capacity=1)
        process, other = layer.open_process(), layer.open_process()
        names = [f"websocket.send.{process}!a", f"http.response.{process}!b", f"websocket.send.{process}!c"]
        assert layer.send(*(send(name) for name in names)) == [SENT] * 3
        assert [layer.send_one(send(name)) for name in names] == [FULL] * 3
        assert layer.send_one(send(f"websocket.send.{other}!a")) is SENT
        assert len(layer.receive(f"http.response.{process}!")) == 1
        assert [layer.send_one(send(name)) for name in names] == [SENT, FULL, FULL]

    def test_a_broadcast_to_two_prefixes_of_a_process_takes_two_places(self, open_layer: OpenLayer) -> None:
        layer = open_layer(inbox_capacity=2)
        process = layer.open_process()
        one, two = f"in.one.{process}!", f"in.two.{process}!"
        layer.group_add("g", f"{one}x", f"{two}x")
        layer.send_one(send(f"{one}x", 1))
        assert layer.send_one(to_group("g", 2)) is SENT
        found = layer.receive(one, two, limit=9)
        assert len(numbers(found)) == 2, "one place was left, so one of the two is skipped"
        assert layer.backend.counters.group_dropped == 1

    def test_an_inbox_holds_no_more_than_its_bytes(self, open_layer: OpenLayer) -> None:
        layer = open_layer(inbox_bytes=1000)
        process = layer.open_process()
        one, two = f"websocket.send.{process}!", f"http.response.{process}!"
        outcomes = [layer.send_one(send(f"{prefix}x", size=200)) for prefix in (one, two) * 5]
        sent = outcomes.index(FULL)
        assert sent in {4, 5, 6}, (
            "five messages of 200 bytes fill 1,000 bytes, give or take what is in flight"
        )
        assert outcomes == [SENT] * sent + [FULL] * (10 - sent)
        assert len(layer.receive(one, two, limit=2)) == 2
        assert layer.send_one(send(f"{one}x", size=200)) is SENT

    def test_a_prefix_with_a_capacity_of_its_own_is_counted_by_itself(self, open_layer: OpenLayer) -> None:
        layer = open_layer(inbox_capacity=2, channel_capacity={"websocket.send.*!": 3})
        process = layer.open_process()
        own, shared = f"websocket.send.{process}!x", f"http.response.{process}!x"
        assert [layer.send_one(send(own)) for _ in range(4)] == [SENT, SENT, SENT, FULL]
        assert [layer.send_one(send(shared)) for _ in range(3)] == [SENT, SENT, FULL]

    def test_a_process_is_not_in_the_way_of_another_with_the_same_prefix(self, open_layer: OpenLayer) -> None:
        layer = open_layer(inbox_capacity=1)
        one, two = layer.open_process(), layer.open_process()
        assert layer.send(send(f"in.{one}!x", 1), send(f"in.{two}!x", 2)) == [SENT, SENT]
        assert numbers(layer.receive(f"in.{two}!")) == [2]
        assert numbers(layer.receive(f"in.{one}!")) == [1]
