"""Laws of an engine that several backends share: what one did, all know at once; and one's troubles are its own."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from functools import partial

import pytest

from channels_core.layers import AT_LEAST_ONCE, Delivery, LayerBackend, Outcome, Settlement, Turn, Verdict
from channels_core.testing.conformance.layer_laws.subject import (
    Layer,
    LayerLaws,
    OpenLayer,
    contents,
    in_thread,
    numbers,
    send,
    to_group,
)

__all__ = ["EngineLaws"]

SENT, GONE = Outcome.SENT, Outcome.GONE

BACKENDS, MESSAGES = 3, 60


class EngineLaws(LayerLaws):
    """Several backends on one engine, as several processes have them; and what is atomic on it."""

    def _open_several(self, open_layer: OpenLayer, **options: object) -> list[Layer]:
        first = open_layer(**options)
        if first.backend.local_only:
            pytest.skip("for layers of several processes")
        return [first, *(open_layer(**options) for _ in range(BACKENDS - 1))]

    def test_each_message_has_exactly_one_reader_among_backends(self, open_layer: OpenLayer) -> None:
        layers = self._open_several(open_layer, capacity=BACKENDS * MESSAGES)
        received: list[Delivery] = []
        deadline = time.monotonic() + self.patience

        def write(layer: Layer, first: int) -> None:
            for number in range(first, first + MESSAGES):
                assert layer.send_one(send("work", number)) is SENT

        def read(backend: LayerBackend) -> None:
            while len(received) < BACKENDS * MESSAGES and time.monotonic() < deadline:
                received.extend(backend.receive_batch(["none", "work"], limit=3, timeout=0.1))

        calls = [
            in_thread(partial(write, layer, number * MESSAGES), 2 * self.patience)
            for number, layer in enumerate(layers)
        ]
        calls += [in_thread(partial(read, layer.backend), 2 * self.patience) for layer in layers]
        for call in calls:
            call.result()
        assert Counter(numbers(received)) == Counter(range(BACKENDS * MESSAGES))

    def test_order_holds_whichever_backend_sends(self, open_layer: OpenLayer) -> None:
        layers = self._open_several(open_layer)
        process = layers[0].open_process()
        prefixes = [f"websocket.send.{process}!", f"http.response.{process}!"]
        layers[1].group_add("g", f"{prefixes[0]}x")
        names = ["a", "b?x", f"{prefixes[0]}x", f"{prefixes[1]}x"]
        for number in range(30):
            layer = layers[number % BACKENDS]
            assert [layer.send_one(send(name, number)) for name in names] == [SENT] * 4
            layers[(number + 1) % BACKENDS].send_one(to_group("g", number))
        for channels, expected in (
            (["a"], list(range(30))),
            (["b?x"], list(range(30))),
            (prefixes, [number for number in range(30) for _ in range(3)]),
        ):
            received: list[Delivery] = []
            deadline = time.monotonic() + self.patience
            while len(received) < len(expected) and time.monotonic() < deadline:
                received += layers[0].receive(*channels, limit=7)
            assert numbers(received) == expected

    def test_what_one_backend_changed_all_know_at_once(self, open_layer: OpenLayer) -> None:
        one, two, three = self._open_several(open_layer)
        process = one.open_process()
        mine = f"in.{process}!"
        for layer in (two, three):  # whatever a backend may remember of it, it remembers now
            assert layer.send(send(f"{mine}x", 0), to_group("g", 0)) == [SENT, SENT]
            assert [found.id for found in layer.processes()] == [process]
        one.receive(mine)
        two.group_add("g", f"{mine}x")
        three.send_one(to_group("g", 1))
        three.group_discard("g", f"{mine}x")
        two.send_one(to_group("g", 2))
        two.group_add("g", f"{mine}y")
        one.close_channel(f"{mine}y")
        three.send_one(to_group("g", 3))
        three.group_add("g", f"{mine}y")
        two.send_one(to_group("g", 4))
        assert contents(one.receive(mine, timeout=self.patience)) == [(mine, ("x",), 1)]
        assert one.receive(mine) == []
        one.close_process(process)
        assert [layer.send_one(send(f"{mine}x")) for layer in (two, three, one)] == [GONE] * 3
        assert [layer.processes() for layer in (two, three)] == [[], []]

    def test_a_wait_ends_soon_after_another_backend_sent(self, open_layer: OpenLayer) -> None:
        one, two, three = self._open_several(open_layer)
        mine = f"in.{one.open_process()}!"
        waits = [one.begin_receive("a"), one.begin_receive(mine), two.begin_receive("b")]
        self.give_others_time()
        begun = time.monotonic()
        three.send(send("a", 1), send(f"{mine}x", 2), send("b", 3))
        assert [numbers(waiting.result()) for waiting in waits] == [[1], [2], [3]]
        assert time.monotonic() - begun < self.patience / 2

    def test_what_a_dead_backend_had_in_hand_comes_to_another(self, open_layer: OpenLayer) -> None:
        self.need_leases(open_layer())
        one, two, _ = self._open_several(open_layer, delivery={"jobs": AT_LEAST_ONCE})
        process = one.open_process("worker")
        two.send(send("jobs", 1), send("jobs", 2))
        assert numbers(one.receive("jobs", process=process)) == [1, 2]
        waiting = two.begin_receive("jobs")
        self.give_others_time()
        one.close_process(process)
        received = waiting.result()
        if len(received) == 1:  # a wait may end with the first of them
            received += two.receive("jobs", timeout=self.patience)
        assert sorted((found.content["n"], found.attempt) for found in received) == [(1, 2), (2, 2)]

    def test_a_backend_that_is_closed_is_in_nobodys_way(self, open_layer: OpenLayer) -> None:
        one, two, three = self._open_several(open_layer)
        waiting, lost = two.begin_receive("a"), one.begin_receive("a")
        self.give_others_time()
        one.backend.wake()
        lost.result()
        one.backend.close()
        three.send_one(send("a", 1))
        found = waiting.result() or two.receive("a", timeout=self.patience)
        assert numbers(found) == [1]
        assert [three.send_one(send("b", 2)), numbers(two.receive("b", timeout=self.patience))] == [SENT, [2]]

    def test_nobody_sees_the_outputs_of_a_turn_whose_input_is_not_settled(
        self, open_layer: OpenLayer
    ) -> None:
        layer = open_layer()
        self.need_leases(layer)
        if not layer.backend.is_exchange_atomic:
            pytest.skip(f"the turns of {type(layer.backend).__name__} are not atomic")
        layer = open_layer(delivery={"jobs": AT_LEAST_ONCE})
        observer = layer if layer.backend.local_only else open_layer(delivery={"jobs": AT_LEAST_ONCE})
        layer.send(*(send("jobs", number) for number in range(MESSAGES)))
        taken = layer.receive("jobs", limit=MESSAGES)
        assert len(taken) == MESSAGES

        def work() -> None:
            for delivery in taken:
                turn = Turn([send("out", delivery.content["n"])], Settlement(delivery, Verdict.DONE))
                layer.exchange([turn])

        working = in_thread(work, 2 * self.patience)
        seen = 0
        deadline = time.monotonic() + self.patience
        while seen < MESSAGES and time.monotonic() < deadline:
            seen += len(observer.receive("out", timeout=0.2))
            [figures] = observer.statistics("jobs")
            assert figures.leased + figures.pending <= MESSAGES - seen
        working.result()
        assert seen == MESSAGES

    def test_a_signal_handler_that_wakes_ends_the_wait_that_it_interrupts(
        self, open_layer: OpenLayer
    ) -> None:
        layer = open_layer()
        if layer.is_async or not hasattr(signal, "pthread_kill"):
            pytest.skip("signals interrupt synchronous calls, where threads can send them")
        is_over = threading.Event()

        def interrupt(thread: int) -> None:
            self.give_others_time()
            while not is_over.wait(0.05):  # a wake() does not hold for a wait that has not begun
                signal.pthread_kill(thread, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, lambda *_: layer.backend.wake())
        interrupting = in_thread(partial(interrupt, threading.get_ident()), self.patience)
        begun = time.monotonic()
        try:
            assert layer.receive("a", timeout=self.patience) == []
        finally:
            is_over.set()
            interrupting.result()
            signal.signal(signal.SIGUSR1, before)
        assert time.monotonic() - begun < self.patience / 2, "the wait went on"
