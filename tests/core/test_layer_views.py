"""The view of a backend that its author did not write: in threads one way, on a loop of its own the other."""

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from channels_core.exceptions import BlockingCallError
from channels_core.layer_views import in_running_loop
from channels_core.layers import Delivery, LayerBackend, Outcome, Send
from channels_layer_memory import MemoryBackend


class SyncOnly(MemoryBackend):
    """Has its asynchronous view from the base class, as a backend that waits."""

    is_waiting = True
    asend_one = LayerBackend.asend_one
    asend_batch = LayerBackend.asend_batch
    areceive_batch = LayerBackend.areceive_batch
    aexchange = LayerBackend.aexchange
    threads: set[str]

    def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        self.threads = getattr(self, "threads", set()) | {threading.current_thread().name.partition("_")[0]}
        return super().send_batch(sends)


class AsyncSend(SyncOnly):
    """Wrote sending the asynchronous way."""

    send_batch = LayerBackend.send_batch
    send_one = LayerBackend.send_one

    async def asend_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        await asyncio.sleep(0)
        self.threads = {threading.current_thread().name}
        return MemoryBackend.send_batch(self, sends)


def message(number: int = 0) -> Send:
    return Send("chat", {"n": number}, {}, 10)


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [one.content["n"] for one in deliveries]


def test_a_backend_that_lacks_an_operation_is_no_class() -> None:
    with pytest.raises(TypeError) as caught:

        class Half(LayerBackend):
            def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
                return []

            async def areceive_batch(self, channels: Sequence[str], **options: Any) -> list[Delivery]:
                return []

    assert str(caught.value) == (
        "test_a_backend_that_lacks_an_operation_is_no_class.<locals>.Half is no layer backend yet: it does not write"
        " settle, renew_leases, group_add, group_discard, group_channels, group_count, groups, close_channel,"
        " open_process, renew_process, close_process, processes, flush, statistics, dead_letters, replay_dead,"
        " drop_dead, wake. Write each of them, or its 'a' twin; channels_core.layers.LayerBackend gives the law of"
        " each."
    )


async def test_a_backend_that_waits_is_called_in_threads() -> None:
    backend = SyncOnly()
    assert await backend.asend_batch([message(1)]) == [Outcome.SENT]
    assert await backend.asend_one(message(2)) is Outcome.SENT
    assert backend.threads == {"layer"}
    assert numbers(await backend.areceive_batch(["chat"], limit=5)) == [1, 2]
    backend.close()


async def test_a_backend_that_never_waits_is_called_in_the_loop() -> None:
    class Quick(SyncOnly):
        is_waiting = False

    backend = Quick()
    assert await backend.asend_batch([message(1)]) == [Outcome.SENT]
    assert backend.threads == {threading.current_thread().name}
    assert await backend.agroup_count("room") == 0


def test_what_was_written_for_loops_runs_on_a_loop_of_its_own() -> None:
    backend = AsyncSend()
    assert backend.send_batch([message(1)]) == [Outcome.SENT]
    assert backend.send_one(message(2)) is Outcome.SENT
    assert backend.threads == {"layer-loop"}
    assert numbers(backend.receive_batch(["chat"], limit=5)) == [1, 2]
    backend.close()


async def test_a_sync_call_that_would_stall_the_loop_names_its_twin() -> None:
    backend = AsyncSend()
    with pytest.raises(BlockingCallError) as caught:
        backend.send_batch([message()])
    assert str(caught.value) == (
        "AsyncSend.send_batch() would wait in a thread whose event loop is running, and stall everything on it. Await"
        " asend_batch() instead."
    )
    assert await asyncio.to_thread(backend.send_batch, [message()]) == [Outcome.SENT]
    backend.close()


def test_errors_come_through_either_derivation() -> None:
    class Broken(AsyncSend):
        async def asend_batch(self, sends: Sequence[Send]) -> list[Outcome]:
            raise LookupError("in the loop")

        def settle(self, settlements: Any) -> None:
            raise LookupError("in the thread")

        asettle = LayerBackend.asettle

    backend = Broken()
    with pytest.raises(LookupError, match="in the loop"):
        backend.send_batch([message()])
    with pytest.raises(LookupError, match="in the thread"):
        asyncio.run(backend.asettle([]))
    backend.close()


async def test_many_tasks_may_wait_beside_other_calls() -> None:
    backend = SyncOnly()
    tasks = [asyncio.create_task(backend.areceive_batch(["chat"])) for _ in range(40)]
    await asyncio.sleep(0.05)
    for number in range(40):
        await backend.asend_one(message(number))
    received = [number for found in await asyncio.gather(*tasks) for number in numbers(found)]
    assert sorted(received) == list(range(40))
    backend.close()


async def test_what_a_cancelled_task_took_goes_back_to_the_front() -> None:
    taken, may_return = threading.Event(), threading.Event()

    class Slow(SyncOnly):
        def receive_batch(self, channels: Sequence[str], **options: Any) -> list[Delivery]:
            found = super().receive_batch(channels, **options)
            if found and not taken.is_set():
                taken.set()
                assert may_return.wait(20)
            return found

    backend = Slow()
    await backend.asend_batch([message(1), message(2)])
    task = asyncio.create_task(backend.areceive_batch(["chat"]))
    assert await asyncio.to_thread(taken.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_return.set()
    deadline = time.monotonic() + 20
    while backend.statistics(["chat"])[0].pending < 2 and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert numbers(backend.receive_batch(["chat"], limit=5)) == [1, 2]
    backend.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # forking beside threads is what is tested
@pytest.mark.parametrize("kind", [SyncOnly, AsyncSend])
def test_a_forked_child_makes_threads_of_its_own(kind: type[MemoryBackend]) -> None:
    backend = kind()
    backend.send_batch([message()])
    asyncio.run(backend.asend_batch([message()]))
    asyncio.run(backend.areceive_batch(["chat"]))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if backend.send_batch([message(7)]) == [Outcome.SENT]:
                status = 0 if numbers(asyncio.run(backend.areceive_batch(["chat"]))) == [7] else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + 20
    found, status = os.waitpid(child, os.WNOHANG)
    while found == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
        found, status = os.waitpid(child, os.WNOHANG)
    if found == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert (found, os.waitstatus_to_exitcode(status)) == (child, 0)
    backend.close()


async def test_in_running_loop() -> None:
    assert in_running_loop() is True
    assert await asyncio.to_thread(in_running_loop) is False
