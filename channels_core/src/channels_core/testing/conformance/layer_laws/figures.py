"""Laws of what people ask: statistics and flush."""

from __future__ import annotations

from channels_core.layers import AT_LEAST_ONCE, ChannelFigures, Outcome
from channels_core.testing.conformance.layer_laws.subject import LayerLaws, OpenLayer, numbers, send, to_group

__all__ = ["FigureLaws"]


class FigureLaws(LayerLaws):
    """The engine's figures are true, and flush leaves nothing."""

    def test_statistics_say_what_waits(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.send(send("b"), send("a?x"), send("b"), send("in!x"), send("in!y"))
        found = layer.statistics()
        assert [(figures.channel, figures.pending, figures.leased) for figures in found] == [
            ("a?x", 1, 0),
            ("b", 2, 0),
            ("in!", 2, 0),
        ]
        layer.receive("b", limit=1)
        layer.receive("a?x")
        assert [(figures.channel, figures.pending) for figures in layer.statistics()] == [
            ("b", 1),
            ("in!", 2),
        ]

    def test_statistics_of_named_channels_name_each_of_them(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.send(send("b"))
        found = layer.statistics("nothing", "b")
        assert [(figures.channel, figures.pending) for figures in found] == [("b", 1), ("nothing", 0)]
        assert found[1] == ChannelFigures(channel="nothing", pending=0, leased=0, oldest_age=0.0)

    def test_statistics_say_how_long_the_oldest_waits(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.send(send("a", 1))
        self.pass_time(self.tick)
        layer.send(send("a", 2), send("b"))
        self.pass_time(self.tick)
        ages = {figures.channel: figures.oldest_age for figures in layer.statistics()}
        assert 1.8 * self.tick <= ages["a"] < 2 * self.tick + 5
        assert 0.9 * self.tick <= ages["b"] < self.tick + 5
        layer.receive("a", limit=1)
        assert layer.statistics("a")[0].oldest_age <= ages["a"]

    def test_statistics_do_not_count_what_expired(self, open_layer: OpenLayer) -> None:
        layer = open_layer(expiry=self.tick)
        layer.send(send("a"), send("in!x"))
        self.pass_time(1.5 * self.tick)
        assert layer.statistics() == []
        assert [figures.pending for figures in layer.statistics("a", "in!")] == [0, 0]

    def test_statistics_tell_leased_from_waiting(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        self.need_leases(layer)
        layer = open_layer(delivery={"jobs": AT_LEAST_ONCE})
        layer.send(send("jobs"), send("jobs"), send("jobs"))
        layer.receive("jobs", limit=2)
        [figures] = layer.statistics()
        assert (figures.channel, figures.pending, figures.leased) == ("jobs", 1, 2)
        layer.done(*layer.receive("jobs"))
        assert [(figures.pending, figures.leased) for figures in layer.statistics()] == [(0, 2)]

    def test_flush_deletes_messages_and_groups_and_keeps_processes(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=2, inbox_capacity=2)
        mine = f"websocket.send.{layer.open_process()}!"
        layer.send(send("a"), send("b?x"), send(f"{mine}x"), send(f"{mine}y"))
        layer.group_add("g", "a", f"{mine}x")
        layer.flush()
        assert (layer.statistics(), layer.groups(), layer.group_channels("g")) == ([], {}, [])
        assert layer.receive("a", "b?x", mine) == []
        assert len(layer.processes()) == 1
        assert layer.send(send(f"{mine}x", 1), send(f"{mine}x", 2)) == [Outcome.SENT] * 2
        layer.group_add("g", "a")
        layer.send_one(to_group("g", 3))
        assert numbers(layer.receive("a")) == [3]
        assert numbers(layer.receive(mine)) == [1, 2]

    def test_flush_deletes_leased_messages_and_dead_letters(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        self.need_leases(layer)
        layer = open_layer(delivery={"jobs": AT_LEAST_ONCE}, lease=self.tick)
        layer.send(send("jobs", 1), send("jobs", 2), send("jobs", 3))
        dead, lost, released = layer.receive("jobs")
        layer.dead(dead, "no")
        layer.flush()
        layer.release(released)
        layer.requeue(lost, {"n": 9})
        self.pass_time(1.5 * self.tick)
        assert (layer.receive("jobs"), layer.dead_letters(), layer.statistics()) == ([], [], [])
