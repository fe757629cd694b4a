"""Laws of settlement: both delivery classes, leases, attempts, dead letters, and turns."""

from __future__ import annotations

import time

from channels_core.layers import AT_LEAST_ONCE, Delivery, Outcome, Send, Settlement, Turn, Verdict
from channels_core.names import new_id
from channels_core.testing.conformance.layer_laws.subject import (
    Layer,
    LayerLaws,
    OpenLayer,
    contents,
    numbers,
    send,
)

__all__ = ["SettlingLaws"]

SENT, FULL, GONE = Outcome.SENT, Outcome.FULL, Outcome.GONE


class SettlingLaws(LayerLaws):
    """A delivery ends once, in the way its reader says; or, leased, comes back."""

    def _open_leased(self, open_layer: OpenLayer, **options: object) -> Layer:
        layer = open_layer()
        self.need_leases(layer)
        return open_layer(**{"delivery": {"jobs*": AT_LEAST_ONCE}, **options})

    # At-most-once.

    def test_at_most_once_is_taken_for_good(self, open_layer: OpenLayer) -> None:
        layer = open_layer(lease=self.tick, process_lease=self.tick)
        layer.send(send("a", 1))
        [delivery] = layer.receive("a")
        self.pass_time(1.5 * self.tick)
        assert layer.receive("a") == []
        layer.settle(Settlement(delivery, Verdict.DONE))
        layer.dead(delivery, "nobody wants it")
        assert layer.receive("a") == []
        assert layer.dead_letters() == []

    def test_at_most_once_can_be_released_to_the_front(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        for channel, name in (("a", "a"), ("b?x", "b?x"), ("in!", "in!x")):
            layer.send(*(send(name, number) for number in range(4)))
            first, second = layer.receive(channel, limit=2)
            layer.release(first, second)
            again = layer.receive(channel)
            assert numbers(again) == [0, 1, 2, 3], name
            assert {delivery.attempt for delivery in again} == {1}
            assert {delivery.locals for delivery in again} == {first.locals}

    def test_at_most_once_can_be_requeued_to_the_back(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=2)
        layer.send(send("a", 1, c_at=5), send("a", 2))
        [delivery] = layer.receive("a", limit=1)
        layer.send(send("a", 3))
        layer.requeue(delivery, {"n": 4})
        again = layer.receive("a")
        assert numbers(again) == [2, 3, 4]
        assert (again[-1].headers, again[-1].attempt) == ({"c-at": 5}, 1)

    def test_settling_an_at_most_once_delivery_twice_is_nothing(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.send(send("a", 1), send("a", 2))
        first, second = layer.receive("a")
        for _ in range(2):
            layer.release(first)
            layer.requeue(second, {"n": 3})
        layer.requeue(first, {"n": 9})
        assert numbers(layer.receive("a")) == [1, 3]

    # At-least-once.

    def test_a_leased_delivery_is_nobody_elses(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer)
        layer.send(send("jobs", 1), send("jobs?x", 2), send("a", 3))
        received = [*layer.receive("jobs"), *layer.receive("jobs?x"), *layer.receive("a")]
        assert [(delivery.is_leased, delivery.attempt) for delivery in received] == [
            (True, 1),
            (True, 1),
            (False, 1),
        ]
        assert layer.receive("jobs", "jobs?x", "a") == []

    def test_process_specific_channels_are_at_most_once(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer)
        layer.send(send("jobs!x", 1))
        [delivery] = layer.receive("jobs!")
        assert delivery.is_leased is False

    def test_done_ends_a_message(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, lease=self.tick)
        layer.send(send("jobs", 1))
        layer.done(*layer.receive("jobs"))
        self.pass_time(1.5 * self.tick)
        assert layer.receive("jobs") == []
        assert layer.statistics("jobs")[0].leased == 0

    def test_a_lease_that_runs_out_brings_the_message_back(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, lease=self.tick)
        layer.send(send("jobs", 1), send("jobs", 2), send("jobs", 3))
        lost = layer.receive("jobs", limit=2)
        self.pass_time(1.5 * self.tick)
        again = layer.receive("jobs")
        assert sorted((delivery.content["n"], delivery.attempt) for delivery in again) == [
            (1, 2),
            (2, 2),
            (3, 1),
        ]
        assert layer.backend.counters.redelivered == 2
        layer.done(*lost)
        layer.requeue(lost[0], {"n": 9})
        layer.release(*lost)
        assert layer.statistics("jobs")[0].leased == 3, "settling after the lease ran out does nothing"
        assert layer.receive("jobs") == []

    def test_what_comes_back_is_as_it_was_sent(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, lease=self.tick, max_attempts=3)
        layer.send(Send("jobs", {"n": 1, "list": [1]}, {"h": 1}, 20))
        for attempt, lose in enumerate((self._lose, self._release_begun), 1):
            [delivery] = layer.receive("jobs")
            assert (delivery.content, delivery.headers) == ({"n": 1, "list": [1]}, {"h": 1})
            assert delivery.attempt == attempt
            delivery.content["list"].append("changed by a consumer")
            delivery.content["n"] = delivery.headers["h"] = 2
            lose(layer, delivery)
        [delivery] = layer.receive("jobs")
        delivery.content.clear()
        layer.dead(delivery, "no")
        assert [letter.content for letter in layer.dead_letters()] == [{"n": 1, "list": [1]}]

    def _lose(self, layer: Layer, delivery: Delivery) -> None:
        self.pass_time(1.5 * self.tick)

    def _release_begun(self, layer: Layer, delivery: Delivery) -> None:
        layer.release(delivery, is_begun=True)

    def test_a_reader_that_waits_gets_what_comes_back(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, lease=self.tick)
        layer.send(send("jobs", 1))
        [lost] = layer.receive("jobs")
        waiting = layer.begin_receive("jobs")
        self.give_others_time()
        self.pass_time(1.5 * self.tick)
        [again] = waiting.result()
        assert (again.content, again.attempt) == (lost.content, 2)

    def test_a_renewed_lease_runs_anew(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, lease=2 * self.tick)
        layer.send(send("jobs", 1), send("jobs", 2))
        kept, lost = layer.receive("jobs")
        self.pass_time(1.2 * self.tick)
        layer.renew_leases(kept)
        self.pass_time(1.2 * self.tick)
        assert numbers(layer.receive("jobs")) == [2]
        layer.renew_leases(lost)
        layer.done(kept)
        self.pass_time(2.5 * self.tick)
        assert numbers(layer.receive("jobs")) == [2], "renewing a lease that ran out does nothing"

    def test_a_release_goes_to_the_front(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer)
        layer.send(*(send("jobs", number) for number in range(4)))
        first, second = layer.receive("jobs", limit=2)
        layer.release(first, second)
        again = layer.receive("jobs")
        assert numbers(again) == [0, 1, 2, 3]
        assert {delivery.attempt for delivery in again} == {1}, "what was not begun was not attempted"

    def test_a_release_after_its_run_began_counts_an_attempt(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer)
        layer.send(send("jobs", 1))
        for attempt in (1, 2, 3):
            [delivery] = layer.receive("jobs")
            assert delivery.attempt == attempt
            layer.release(delivery, is_begun=True)
        assert layer.backend.counters.released == 3

    def test_a_requeue_goes_to_the_back_with_its_content(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer)
        layer.send(send("jobs", 1, c_at=5), send("jobs", 2))
        [delivery] = layer.receive("jobs", limit=1)
        layer.requeue(delivery, {"n": 3, "changed": [True]})
        again = layer.receive("jobs")
        assert numbers(again) == [2, 3]
        assert again[1].content == {"n": 3, "changed": [True]}
        assert (again[1].headers, again[1].attempt, again[1].is_leased) == ({"c-at": 5}, 1, True)

    def test_release_and_requeue_are_exempt_from_capacity(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, capacity=2)
        for name in ("a", "jobs"):
            layer.send(send(name, 1), send(name, 2))
            released, requeued = layer.receive(name)
            assert layer.send(send(name, 3), send(name, 4), send(name, 5)) == [SENT, SENT, FULL]
            layer.requeue(requeued, {"n": 6})
            layer.release(released)
            assert layer.send_one(send(name, 7)) is FULL
            assert numbers(layer.receive(name)) == [1, 3, 4, 6]

    def test_leased_messages_take_no_room(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, capacity=2)
        layer.send(send("jobs"), send("jobs"))
        layer.receive("jobs")
        assert layer.send(send("jobs"), send("jobs"), send("jobs")) == [SENT, SENT, FULL]

    def test_settling_a_leased_delivery_twice_is_nothing(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer)
        layer.send(send("jobs", 1), send("jobs", 2))
        first, second = layer.receive("jobs")
        for _ in range(2):
            layer.release(first)
            layer.done(second)
        layer.requeue(second, {"n": 9})
        layer.dead(second, "too late")
        assert numbers(layer.receive("jobs")) == [1]
        assert layer.dead_letters() == []

    def test_the_expiry_clock_stops_at_the_first_delivery(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, expiry=self.tick, lease=1000)
        layer.send(*(send("jobs", number) for number in range(4)))
        released, requeued = layer.receive("jobs", limit=2)
        layer.release(released)
        layer.requeue(requeued, {"n": 9})
        self.pass_time(1.5 * self.tick)
        assert numbers(layer.receive("jobs")) == [0, 9]

    def test_expired_messages_behind_one_that_was_delivered_take_no_room(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, expiry=self.tick, capacity=3)
        layer.send(*(send("jobs", number) for number in range(3)))
        layer.release(*layer.receive("jobs", limit=1))
        self.pass_time(1.5 * self.tick)
        assert layer.send(*(send("jobs", number) for number in (7, 8, 9))) == [SENT, SENT, FULL]
        assert numbers(layer.receive("jobs")) == [0, 7, 8]

    def test_leases_come_back_when_their_process_ends(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer)
        mine, other = layer.open_process("worker"), layer.open_process("worker")
        layer.send(send("jobs", 1), send("jobs", 2), send("jobs", 3))
        layer.receive("jobs", limit=1, process=mine)
        layer.receive("jobs", limit=1, process=other)
        layer.receive("jobs", limit=1)
        waiting = layer.begin_receive("jobs")
        self.give_others_time()
        layer.close_process(mine)
        [again] = waiting.result()
        assert (again.content["n"], again.attempt) == (1, 2)
        assert layer.receive("jobs") == []

    def test_leases_come_back_when_their_process_is_not_renewed(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, process_lease=self.tick)
        mine, other = layer.open_process("worker"), layer.open_process("worker")
        layer.send(send("jobs", 1))
        layer.receive("jobs", process=mine)
        waiting = layer.begin_receive("jobs")
        self.give_others_time()
        for _ in range(5):
            self.pass_time(0.3 * self.tick)
            assert layer.renew_process(other)
        [again] = waiting.result()
        assert (again.content["n"], again.attempt) == (1, 2)

    # Dead letters.

    def test_dead_is_kept_with_its_reason(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer)
        layer.send(send("jobs", 1, c_at=5), send("jobs.more", 2))
        for channel in ("jobs", "jobs.more"):
            [delivery] = layer.receive(channel)
            layer.dead(delivery, f"nobody wants {channel}")
        letters = layer.dead_letters()
        assert [(letter.channel, letter.content, letter.attempt, letter.reason) for letter in letters] == [
            ("jobs", {"n": 1}, 1, "nobody wants jobs"),
            ("jobs.more", {"n": 2}, 1, "nobody wants jobs.more"),
        ]
        assert letters[0].headers == {"c-at": 5}
        assert 0.0 <= letters[0].age < self.patience
        assert [letter.id for letter in layer.dead_letters("jobs.more")] == [letters[1].id]
        assert [letter.id for letter in layer.dead_letters(limit=1)] == [letters[0].id]
        assert layer.dead_letters("jobs.none") == []
        assert layer.receive("jobs", "jobs.more") == []
        assert layer.backend.counters.dead == 2

    def test_after_its_last_attempt_a_message_is_dead(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, max_attempts=2, lease=self.tick)
        layer.send(send("jobs", 1), send("jobs", 2))
        for attempt in (1, 2):
            released, lost = sorted(layer.receive("jobs"), key=lambda one: int(one.content["n"]))
            assert (released.attempt, lost.attempt) == (attempt, attempt)
            layer.release(released, is_begun=True)
            self.pass_time(1.5 * self.tick)
        assert layer.receive("jobs") == []
        letters = layer.dead_letters("jobs")
        assert sorted((letter.content["n"], letter.attempt) for letter in letters) == [(1, 2), (2, 2)]
        assert all(letter.reason for letter in letters)

    def test_replayed_dead_letters_are_new_messages(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, capacity=1)
        for number in (1, 2):
            layer.send(send("jobs", number))
            [delivery] = layer.receive("jobs")
            layer.release(delivery, is_begun=True)
            [delivery] = layer.receive("jobs")
            layer.dead(delivery, "no")
        ids = [letter.id for letter in layer.dead_letters()]
        assert layer.replay_dead(*ids, "not-an-id") == 2
        assert layer.replay_dead(*ids) == 0
        assert layer.dead_letters() == []
        again = layer.receive("jobs")
        assert [(delivery.content["n"], delivery.attempt) for delivery in again] == [(1, 1), (2, 1)]

    def test_dropped_dead_letters_are_no_more(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer)
        layer.send(send("jobs", 1), send("jobs", 2))
        for delivery in layer.receive("jobs"):
            layer.dead(delivery, "no")
        first, second = (letter.id for letter in layer.dead_letters())
        assert layer.drop_dead(first, "not-an-id") == 1
        assert [letter.id for letter in layer.dead_letters()] == [second]
        assert layer.receive("jobs") == []

    def test_there_are_no_dead_letters_without_deaths(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        assert (layer.dead_letters(), layer.replay_dead("x"), layer.drop_dead("x")) == ([], 0, 0)

    # Exchange.

    def test_an_exchange_sends_settles_and_receives(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, lease=self.tick)
        layer.send(send("jobs", 1), send("jobs", 2), send("jobs", 3))
        one, two = layer.receive("jobs", limit=2)
        turns = [
            Turn((send("in!a", 10), send("in!b", 11)), Settlement(one, Verdict.DONE)),
            Turn((), Settlement(two, Verdict.DONE)),
            Turn((send("in!c", 12),)),
        ]
        exchange = layer.exchange(turns, "jobs", "in!", limit=2)
        assert exchange.outcomes == [[SENT, SENT], [], [SENT]]
        assert len(exchange.deliveries) == 2
        rest = layer.receive("jobs", "in!")
        assert sorted(numbers([*exchange.deliveries, *rest])) == [3, 10, 11, 12]
        layer.done(*(delivery for delivery in (*exchange.deliveries, *rest) if delivery.is_leased))
        self.pass_time(1.5 * self.tick)
        assert layer.receive("jobs") == []

    def test_a_turn_is_settled_only_when_each_of_its_sends_is_final(self, open_layer: OpenLayer) -> None:
        layer = self._open_leased(open_layer, capacity=1, channel_capacity={"jobs": 9}, lease=self.tick)
        layer.send(*(send("jobs", number) for number in range(3)), send("full"))
        refused, gone, other = layer.receive("jobs")
        turns = [
            Turn((send("x", 1), send("full", 2), send("y", 3)), Settlement(refused, Verdict.DONE)),
            Turn((send(f"in.{new_id()}!x"),), Settlement(gone, Verdict.DONE)),
            Turn((), Settlement(other, Verdict.REQUEUE, {"n": 7})),
        ]
        assert layer.exchange(turns).outcomes == [[SENT, FULL, SENT], [GONE], []]
        assert numbers(layer.receive("x", "y")) == [1, 3]
        [requeued] = layer.receive("jobs")
        assert numbers([requeued]) == [7]
        layer.done(requeued)
        self.pass_time(1.5 * self.tick)
        assert [(one.content["n"], one.attempt) for one in layer.receive("jobs")] == [(0, 2)]

    def test_an_exchange_without_channels_receives_nothing(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        layer.send(send("a", 1))
        assert layer.exchange([Turn((send("a", 2),))]).deliveries == []
        assert layer.exchange([], "a", limit=0, timeout=self.patience).deliveries == []
        assert contents(layer.exchange([], "a", timeout=self.patience).deliveries) == [
            ("a", (), 1),
            ("a", (), 2),
        ]

    def test_an_exchange_waits_as_a_receive_does(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        exchange = layer.exchange([Turn((send("a", 1),))], "b", timeout=self.tick)
        assert (exchange.outcomes, exchange.deliveries) == ([[SENT]], [])
        exchange = layer.exchange([Turn((send("b", 2),))], "b", timeout=self.patience)
        assert numbers(exchange.deliveries) == [2]

    def test_an_exchange_with_a_refused_send_does_not_wait(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=1)
        layer.send(send("full", 1), send("a", 2))
        refused = [Turn((send("full", 3),))]
        exchange = layer.exchange(refused, "a", timeout=self.patience)
        assert (exchange.outcomes, numbers(exchange.deliveries)) == ([[FULL]], [2])
        begun = time.monotonic()
        assert layer.exchange(refused, "a", timeout=self.patience).deliveries == []
        assert time.monotonic() - begun < self.patience / 2, "what was refused has to be looked after first"
