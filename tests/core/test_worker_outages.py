"""Workers and interface servers around an engine that goes away: what they try again when, and what they give back."""

import asyncio
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from asgi_wire import Site
from channels_core import Message
from channels_core.config import WorkerConfig
from channels_core.exceptions import LayerUnavailable
from channels_core.layers import AT_LEAST_ONCE, Delivery, Send
from channels_layer_memory import MemoryBackend
from workbench import Bench, wait_until


class SlowAnswers(MemoryBackend):
    """What a reader takes is on its way to it for a while."""

    is_waiting = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.taken = threading.Event()

    async def areceive_batch(self, channels: Sequence[str], **options: Any) -> list[Delivery]:
        found = await super().areceive_batch(channels, **options)
        if found:
            self.taken.set()
            await asyncio.sleep(0.3)
        return found


@pytest.mark.parametrize("delivery", ["at-most-once", "at-least-once"])
def test_a_loop_that_is_told_to_stop_gives_back_what_was_on_its_way(delivery: Any) -> None:
    ran: list[Any] = []

    async def consumer(message: Message) -> None:
        ran.append(message.content)

    backend = SlowAnswers(delivery={"in": delivery})
    bench = Bench(lambda: backend)
    worker = bench.work({"in": consumer})
    backend.send_one(Send("in", {"n": 1}, {}, 9))
    assert backend.taken.wait(10)
    assert worker.stop(10)
    assert ran == []
    [back] = backend.receive_batch(["in"], timeout=0)
    assert (back.content, back.attempt) == ({"n": 1}, 1)
    bench.close()


class Away(MemoryBackend):
    """Its engine is away for what is named; notes when it was asked for it."""

    away: frozenset[str] = frozenset()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: dict[str, list[float]] = {}

    def _reach(self, what: str) -> None:
        if what in self.away:
            self.asked.setdefault(what, []).append(time.monotonic())
            raise LayerUnavailable("the engine is away")

    def renew_process(self, *args: Any, **options: Any) -> bool:
        self._reach("renew_process")
        return super().renew_process(*args, **options)

    async def arenew_process(self, *args: Any, **options: Any) -> bool:
        return self.renew_process(*args, **options)

    def renew_leases(self, *args: Any, **options: Any) -> None:
        self._reach("renew_leases")
        super().renew_leases(*args, **options)

    def receive_batch(self, *args: Any, **options: Any) -> list[Delivery]:
        self._reach("receive_batch")
        return super().receive_batch(*args, **options)

    async def areceive_batch(self, *args: Any, **options: Any) -> list[Delivery]:
        self._reach("areceive_batch")
        return await super().areceive_batch(*args, **options)

    def gaps(self, what: str) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.asked[what])]


async def test_an_interface_renews_its_lease_again_soon_after_it_could_not() -> None:
    backend = Away(process_lease=3.0)
    backend.away = frozenset({"renew_process"})
    site = Site(backend=backend)
    await site.open()
    async with asyncio.timeout(10):
        while len(backend.asked.get("renew_process", ())) < 4:
            await asyncio.sleep(0.02)
    assert max(backend.gaps("renew_process")) < 0.9, "a third of the lease would be 1.0"
    backend.away = frozenset()
    await site.application.aclose()


def test_a_worker_renews_its_lease_and_those_of_messages_again_soon_after_it_could_not() -> None:
    backend = Away(process_lease=3.0, lease=3.0, delivery={"in": AT_LEAST_ONCE})
    bench = Bench(lambda: backend)
    is_over = threading.Event()
    bench.work({"in": lambda message: is_over.wait(20)})
    backend.send_one(Send("in", {}, {}, 9))
    backend.away = frozenset({"renew_process", "renew_leases"})
    try:
        wait_until(lambda: all(len(backend.asked.get(what, ())) >= 4 for what in backend.away))
        assert max(backend.gaps("renew_process")) < 0.9, "a third of the lease would be 1.0"
        assert max(backend.gaps("renew_leases")) < 0.9
    finally:
        backend.away = frozenset()
        is_over.set()
        bench.close()


def test_leases_that_were_renewed_are_not_renewed_again_at_once() -> None:
    class Counting(MemoryBackend):
        renewed = 0

        def renew_leases(self, deliveries: Sequence[Delivery]) -> None:
            self.renewed += 1
            super().renew_leases(deliveries)

    backend = Counting(lease=3.0, delivery={"in": AT_LEAST_ONCE})
    bench = Bench(lambda: backend)
    bench.work({"in": lambda message: threading.Event().wait(2.5)})
    backend.send_one(Send("in", {}, {}, 9))
    wait_until(lambda: backend.statistics(["in"])[0].leased == 1)
    wait_until(lambda: backend.statistics(["in"])[0].leased == 0)
    assert 1 <= backend.renewed <= 3
    bench.close()


@pytest.mark.timeout(60)
def test_readers_ask_an_engine_that_is_away_at_least_every_two_seconds() -> None:
    async def aconsumer(message: Message) -> None:
        raise AssertionError(f"nothing was sent: {message}")

    backend = Away()
    backend.is_waiting = True  # type: ignore[misc]  # as an engine across a network is
    bench = Bench(lambda: backend)
    backend.away = frozenset({"receive_batch", "areceive_batch"})
    bench.work({"a": lambda message: None, "b": aconsumer}, config=WorkerConfig(threads=1))
    try:
        wait_until(lambda: all(len(backend.asked.get(what, ())) >= 9 for what in backend.away), timeout=30)
        for what in backend.away:
            gaps = backend.gaps(what)
            assert gaps[0] < 0.5
            assert max(gaps) < 2.8, "pauses do not grow beyond two seconds"
    finally:
        backend.away = frozenset()
        bench.close()
