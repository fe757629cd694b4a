"""Laws of use from many threads, event loops and processes at once."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from channels_core.layers import AT_LEAST_ONCE, Delivery, LayerBackend, Outcome, Settlement, Verdict
from channels_core.testing.conformance.layer_laws.subject import (
    Layer,
    LayerLaws,
    OpenLayer,
    Pending,
    contents,
    in_thread,
    numbers,
    send,
    to_group,
)

__all__ = ["ConcurrencyLaws"]

SENT, GONE = Outcome.SENT, Outcome.GONE

WRITERS, READERS, MESSAGES = 4, 4, 100


class ConcurrencyLaws(LayerLaws):
    """Threads and loops share a backend; processes share an engine, or nothing."""

    def test_both_views_agree(self, open_layer: OpenLayer) -> None:
        one = open_layer()
        other = Layer(one.backend, is_async=not one.is_async, patience=self.patience)
        try:
            process = one.open_process("worker", label="x")
            mine = f"in.{process}!"
            assert [found.id for found in other.processes()] == [process]
            one.send(send("a", 1), send(f"{mine}x", 2))
            other.send_one(send("a", 3))
            one.group_add("g", "a")
            other.group_add("g", f"{mine}x")
            assert sorted(one.group_channels("g")) == sorted(other.group_channels("g")) == ["a", f"{mine}x"]
            other.send_one(to_group("g", 4))
            assert one.statistics("a", mine)[0].pending == other.statistics("a", mine)[0].pending == 3
            assert numbers(one.receive("a", limit=1)) == [1]
            assert numbers(other.receive("a")) == [3, 4]
            waiting = other.begin_receive("b")
            self.give_others_time()
            one.send_one(send("b", 5))
            assert numbers(waiting.result()) == [5]
            one.close_process(process)
            assert other.send_one(send(f"{mine}x")) is GONE
        finally:
            other.stop()

    def test_each_message_has_exactly_one_reader(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=WRITERS * MESSAGES)
        received = Traffic(layer.backend, self.patience).run(is_async=layer.is_async)
        sent = Counter(range(WRITERS * MESSAGES))
        assert Counter(numbers(received)) == sent

    def test_a_full_channel_under_many_writers_loses_nothing(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=5)
        received = Traffic(layer.backend, self.patience).run(is_async=layer.is_async)
        assert Counter(numbers(received)) == Counter(range(WRITERS * MESSAGES))

    def test_each_leased_message_is_done_exactly_once(self, open_layer: OpenLayer) -> None:
        self.need_leases(open_layer())
        layer = open_layer(capacity=WRITERS * MESSAGES, delivery={"work": AT_LEAST_ONCE})
        received = Traffic(layer.backend, self.patience).run(is_async=layer.is_async)
        assert Counter(numbers(received)) == Counter(range(WRITERS * MESSAGES))
        assert [(found.pending, found.leased) for found in layer.statistics("work")] == [(0, 0)]

    def test_capacity_holds_under_many_writers(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=50)
        begun = threading.Barrier(WRITERS)

        def write() -> list[Outcome]:
            begun.wait(self.patience)
            return [layer.backend.send_one(send("a")) for _ in range(40)]

        writers = [in_thread(write, self.patience) for _ in range(WRITERS)]
        outcomes = Counter(outcome for writer in writers for outcome in writer.result())
        assert set(outcomes) == {SENT, Outcome.FULL}
        assert 50 <= outcomes[SENT] <= 50 + WRITERS - 1, "what is in flight may come on top, and no more"
        assert layer.statistics("a")[0].pending == outcomes[SENT]

    def test_one_writers_messages_stay_in_order_beside_others(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=WRITERS * MESSAGES)

        def write(writer: int) -> None:
            for number in range(MESSAGES):
                assert layer.backend.send_one(send(f"in!{writer}", number)) is SENT

        writers = [in_thread(partial(write, writer), self.patience) for writer in range(WRITERS)]
        received: list[Delivery] = []
        deadline = time.monotonic() + self.patience
        while len(received) < WRITERS * MESSAGES and time.monotonic() < deadline:
            received += layer.receive("in!", timeout=0.2)
        for writer in writers:
            writer.result()
        for writer_number in range(WRITERS):
            mine = [delivery for delivery in received if delivery.locals == (str(writer_number),)]
            assert numbers(mine) == list(range(MESSAGES))

    def test_several_loops_wait_at_once(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        loops = [Layer(layer.backend, is_async=True, patience=self.patience) for _ in range(3)]
        try:
            waiting = [one.begin_receive("a", limit=1) for one in loops for _ in range(2)]
            waiting += [
                in_thread(lambda: layer.backend.receive_batch(["a"], timeout=self.patience), self.patience)
                for _ in range(2)
            ]
            self.give_others_time()
            for number in range(8):
                layer.send_one(send("a", number))
            assert sorted(number for pending in waiting for number in numbers(pending.result())) == list(
                range(8)
            )
        finally:
            for one in loops:
                one.stop()

    def test_membership_changes_beside_broadcasts_reach_each_member_once(self, open_layer: OpenLayer) -> None:
        layer = open_layer(capacity=1000)
        mine = f"in.{layer.open_process()}!"
        layer.group_add("g", f"{mine}steady")

        def come_and_go(name: str) -> None:
            for _ in range(30):
                layer.backend.group_add("g", f"{mine}{name}")
                layer.backend.group_discard("g", f"{mine}{name}")

        def broadcast() -> None:
            for number in range(30):
                layer.backend.send_one(to_group("g", number))

        changes = [in_thread(partial(come_and_go, name), self.patience) for name in ("x", "y")]
        in_thread(broadcast, self.patience).result()
        for change in changes:
            change.result()
        received = layer.receive(mine, limit=1000)
        assert [one.content["n"] for one in received if "steady" in one.locals] == list(range(30))
        assert all(len(set(one.locals)) == len(one.locals) for one in received)
        assert layer.group_channels("g") == [f"{mine}steady"]

    def test_wake_may_be_called_by_a_signal_handler_at_any_moment(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        if layer.is_async or not hasattr(signal, "pthread_kill"):
            pytest.skip("signals interrupt synchronous calls, where threads can send them")
        woken = 0
        is_over = threading.Event()

        def handle(*_: object) -> None:
            nonlocal woken
            woken += 1
            layer.backend.wake()

        def interrupt(thread: int) -> None:
            while not is_over.wait(0.002):
                signal.pthread_kill(thread, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, handle)
        interrupting = in_thread(partial(interrupt, threading.get_ident()), self.patience)
        try:
            deadline = time.monotonic() + self.patience
            while woken < 50 and time.monotonic() < deadline:
                layer.send(send("a"), send("in!x"))
                layer.receive("a", "in!")
                layer.group_add("g", "a")
                layer.receive("none", timeout=0.1)
        finally:
            is_over.set()
            interrupting.result()
            signal.signal(signal.SIGUSR1, before)
        assert woken >= 50, "a call did not come back"

    # Processes of the operating system.

    def test_a_forked_child_shares_nothing_of_a_local_layer(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        if not layer.backend.local_only:
            pytest.skip("for layers that stay in their process")
        parent = layer.open_process()
        layer.group_add("g", "a")
        layer.send(send("a", 1), send(f"in.{parent}!x", 2))
        waiting = layer.begin_receive("quiet")
        self.give_others_time()

        def in_child() -> list[object]:
            child = Layer(layer.backend, is_async=layer.is_async, patience=self.patience)
            mine = child.open_process()
            child.group_add("h", "a", f"in.{mine}!x")
            sent = child.send(send("a", 3), send(f"in.{parent}!x", 4), send("quiet", 5), to_group("h", 6))
            received = child.receive("a", "quiet", f"in.{mine}!")
            return [
                sorted(numbers(received)),
                [outcome.name for outcome in sent],
                sorted(child.groups()),
                [process.id == mine for process in child.processes()],
            ]

        assert in_forked_child(in_child, self.patience) == [
            [3, 5, 6, 6],
            ["SENT", "GONE", "SENT", "SENT"],
            ["h"],
            [True],
        ]
        layer.send_one(send("quiet", 7))
        assert numbers(waiting.result()) == [7]
        assert numbers(layer.receive("a")) == [1]
        assert numbers(layer.receive(f"in.{parent}!")) == [2]
        assert [process.id for process in layer.processes()] == [parent]

    def test_a_forked_child_works_with_the_same_engine(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        if layer.backend.local_only:
            pytest.skip("for layers of several processes")
        parent = layer.open_process(label="parent")
        layer.send(send("to.child", 1))
        layer.receive("used.before.the.fork")

        def in_child() -> list[object]:
            child = Layer(layer.backend, is_async=layer.is_async, patience=self.patience)
            mine = child.open_process(label="child")
            child.group_add("g", f"in.{mine}!x", "to.parent")
            child.send(send("to.parent", 2), send(f"in.{parent}!x", 3), to_group("g", 4))
            received = [
                *child.receive("to.child", timeout=self.patience),
                *child.receive(f"in.{mine}!", timeout=self.patience),
            ]
            return [numbers(received), sorted(process.label for process in child.processes())]

        assert in_forked_child(in_child, self.patience) == [[1, 4], ["child", "parent"]]
        assert numbers(layer.receive("to.parent", timeout=self.patience)) == [2, 4]
        assert contents(layer.receive(f"in.{parent}!", timeout=self.patience)) == [
            (f"in.{parent}!", ("x",), 3)
        ]

    def test_a_message_from_another_process_ends_a_wait(self, open_layer: OpenLayer) -> None:
        layer = open_layer()
        if layer.backend.local_only:
            pytest.skip("for layers of several processes")
        waiting = layer.begin_receive("a")
        self.give_others_time()
        assert in_forked_child(lambda: [layer.backend.send_one(send("a", 1)).name], self.patience) == ["SENT"]
        assert numbers(waiting.result()) == [1]


class Traffic:
    """Many writers and readers of one channel, in threads or in loops."""

    def __init__(self, backend: LayerBackend, patience: float) -> None:
        self.backend = backend
        self.received: list[Delivery] = []
        self._patience = patience
        self._deadline = time.monotonic() + patience

    def run(self, *, is_async: bool) -> list[Delivery]:
        """What all readers got."""
        calls: list[Pending[None]] = []
        for writer in range(WRITERS):
            if is_async:
                calls.append(
                    in_thread(partial(asyncio.run, self._aread_and_write(writer)), 2 * self._patience)
                )
            else:
                calls += [
                    in_thread(partial(self._write, writer), 2 * self._patience),
                    in_thread(self._read, 2 * self._patience),
                ]
        for call in calls:
            call.result()
        return self.received

    @property
    def _is_over(self) -> bool:
        return len(self.received) >= WRITERS * MESSAGES or time.monotonic() > self._deadline

    def _write(self, writer: int) -> None:
        for number in range(writer * MESSAGES, (writer + 1) * MESSAGES):
            while self.backend.send_one(send("work", number)) is not SENT and not self._is_over:
                time.sleep(0.001)

    def _read(self) -> None:
        while not self._is_over:
            found = self.backend.receive_batch(["none", "work"], limit=3, timeout=0.1)
            self.backend.settle([Settlement(one, Verdict.DONE) for one in found])
            self.received.extend(found)

    async def _aread_and_write(self, writer: int) -> None:
        await asyncio.gather(self._aread(), self._awrite(writer))

    async def _awrite(self, writer: int) -> None:
        for number in range(writer * MESSAGES, (writer + 1) * MESSAGES):
            while await self.backend.asend_one(send("work", number)) is not SENT and not self._is_over:  # noqa: ASYNC110 - a layer tells nobody when there is room
                await asyncio.sleep(0.001)

    async def _aread(self) -> None:
        while not self._is_over:
            found = await self.backend.areceive_batch(["none", "work"], limit=3, timeout=0.1)
            await self.backend.asettle([Settlement(one, Verdict.DONE) for one in found])
            self.received.extend(found)


def in_forked_child(call: Callable[[], list[object]], patience: float) -> list[object]:
    """What ``call`` returns in a forked child of this process. Fails the test with the child's traceback."""
    if not hasattr(os, "fork"):
        pytest.skip("this platform cannot fork")
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python warns of threads that the child will lack: that a layer bears it is what is being tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            answer = json.dumps({"returned": call()})
            status = 0
        except BaseException:  # noqa: BLE001 - nothing may leave the child but through the pipe
            answer = json.dumps({"raised": traceback.format_exc()})
        os.write(writer, answer.encode())
        os._exit(status)
    os.close(writer)
    received = b""
    deadline = time.monotonic() + 2 * patience
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(reader, 65536)
        if not chunk:
            break
        received += chunk
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    os.waitpid(child, 0)
    assert received, "the child did not answer in time: something it inherited was locked"
    found: dict[str, Any] = json.loads(received)
    assert "raised" not in found, found["raised"]
    returned: list[object] = found["returned"]
    return returned
