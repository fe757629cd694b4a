"""The memory layer under readers of every kind at once: with the lock and without, in threads and loops, giving up."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import uvloop

from channels_core.layers import Delivery, Outcome, Send
from channels_layer_memory import MemoryBackend

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
DEBUG = pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
MakeLoop = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that are interrupted as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def message(channel: str, number: object) -> Send:
    return Send(channel, {"number": number}, {}, 16)


def send_all(backend: MemoryBackend, channel: str, numbers: range) -> None:
    pause = threading.Event()
    for number in numbers:
        while backend.send_one(message(channel, number)) is not Outcome.SENT:
            pause.wait(1e-4)


class Readers:
    """Threads that read until told to stop, and what they got and raised."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.got: Counter[Any] = Counter()
        self.failures: list[Exception] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def note(self, deliveries: list[Delivery]) -> None:
        with self._lock:
            self.got.update((delivery.channel, delivery.content["number"]) for delivery in deliveries)

    def start(self, read: Callable[[], list[Delivery]]) -> None:
        def run() -> None:
            while not self.is_over.is_set():
                try:
                    self.note(read())
                except Exception as error:  # noqa: BLE001 - the test shows whatever it was
                    self.failures.append(error)

        self.go(run)

    def go(self, run: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def wait_for(self, number: int) -> None:
        for _ in range(3000):
            if self.got.total() >= number or self.failures:
                break
            self.is_over.wait(0.005)

    def end(self, backend: MemoryBackend) -> None:
        self.is_over.set()
        for thread in self._threads:
            while thread.is_alive():
                backend.wake()
                thread.join(0.05)


class Interruption:
    """Runs ``action`` in another thread at the ``step``-th line that the layer executes in this one.

    Where the other thread has to wait for the layer's lock, this one goes on.
    """

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.is_reached = False
        self.reached_at = 0.0
        self._steps = step
        self._thread = threading.Thread(target=action, daemon=True)
        self._before: Any = None

    def __enter__(self) -> "Interruption":
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        if self.is_reached:
            self._thread.join(10)
            assert not self._thread.is_alive()

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_globals["__name__"].startswith("channels_layer_memory"):
            return None
        if not self.is_reached:
            self._steps -= 1
            if self._steps < 0:
                self.is_reached, self.reached_at = True, time.monotonic()
                self._thread.start()
                self._thread.join(0.01)
        return self._trace


def take(backend: MemoryBackend, got: list[Delivery]) -> None:
    got += backend.receive_batch(["a"], limit=2, timeout=0)


def test_reader_is_overtaken_by_one_without_the_lock_at_every_line() -> None:
    for step in range(1000):
        backend = MemoryBackend()
        sends = [message(channel, number) for channel in ("a", "b") for number in range(2)]
        backend.send_batch(sends)
        got: list[Delivery] = []
        with Interruption(step, partial(take, backend, got)) as interruption:
            got += backend.exchange((), ["a", "b"], limit=4, timeout=0).deliveries
        got += backend.receive_batch(["a", "b"], limit=9, timeout=0)
        assert sorted((one.channel, one.content["number"]) for one in got) == [
            (send.channel, send.content["number"]) for send in sends
        ]
        if not interruption.is_reached:
            assert step > 20
            return


def test_reader_that_goes_to_sleep_is_woken_at_every_line() -> None:
    for step in range(1000):
        backend = MemoryBackend()
        begun = time.monotonic()
        with Interruption(step, partial(send_all, backend, "a", range(1))) as interruption:
            got = backend.receive_batch(["a", "b"], timeout=2.0)
        if interruption.reached_at > begun + 1.5:  # it had slept, and nothing woke it
            assert step > 20
            return
        assert len(got) == 1
        assert time.monotonic() - begun < 1.5, f"the wake-up was lost at line {step}"


@LOOPS
def test_task_that_goes_to_sleep_is_woken_at_every_line(new_loop: MakeLoop) -> None:
    for step in range(1000):
        backend = MemoryBackend()
        begun = time.monotonic()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.get_loop()
            with Interruption(step, partial(send_all, backend, "a", range(1))) as interruption:
                got = runner.run(backend.areceive_batch(["a", "b"], timeout=2.0))
        if interruption.reached_at > begun + 1.5:
            assert step > 20
            return
        assert len(got) == 1
        assert time.monotonic() - begun < 1.5, f"the wake-up was lost at line {step}"


@LOOPS
def test_task_that_is_cancelled_while_a_message_comes_loses_none_at_every_line(new_loop: MakeLoop) -> None:
    for step in range(1000):
        backend = MemoryBackend()

        async def give_up(backend: MemoryBackend = backend) -> list[Delivery]:
            task = asyncio.create_task(backend.areceive_batch(["a"]))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.wait({task})
            return [] if task.cancelled() else task.result()

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.get_loop()
            with Interruption(step, partial(send_all, backend, "a", range(1))) as interruption:
                got = runner.run(give_up())
        got += backend.receive_batch(["a"], timeout=0)
        assert len(got) == int(interruption.is_reached)
        assert backend._waiting == set()
        if not interruption.is_reached:
            assert step > 20
            return


def test_queue_is_swept_while_it_is_sent_to_at_every_line() -> None:
    for step in range(1000):
        backend = MemoryBackend()
        backend.send_one(message("a", 0))
        got = backend.receive_batch(["a"], timeout=0)

        def sweep(backend: MemoryBackend = backend, got: list[Delivery] = got) -> None:
            with backend._lock:
                backend._sweep()
            backend.send_one(message("a", 2))
            got += backend.receive_batch(["a"], limit=1, timeout=0)

        with Interruption(step, sweep) as interruption:
            backend.send_one(message("a", 1))
        got += backend.receive_batch(["a"], limit=9, timeout=0)
        assert sorted(one.content["number"] for one in got) == (
            [0, 1, 2] if interruption.is_reached else [0, 1]
        )
        if not interruption.is_reached:
            assert step > 3
            return


@pytest.mark.usefixtures("hasty_threads")
def test_readers_with_and_without_the_lock_take_from_the_same_channels() -> None:
    backend = MemoryBackend(capacity=50)
    readers = Readers()
    channels = ["a", "b"]
    for _ in range(2):
        readers.start(lambda: backend.exchange((), channels, limit=8, timeout=None).deliveries)
        readers.start(lambda: backend.receive_batch(channels, limit=8, timeout=None))
        readers.start(lambda: backend.receive_batch(["a"], limit=8, timeout=None))
    each = 3_000
    writers = [
        threading.Thread(target=send_all, args=(backend, channel, range(half * each, (half + 1) * each)))
        for channel in channels
        for half in range(2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    readers.wait_for(4 * each)
    readers.end(backend)
    assert readers.failures == []
    assert readers.got == {(channel, number): 1 for channel in channels for number in range(2 * each)}


def test_wake_from_a_signal_handler_reaches_the_loop_of_its_own_thread() -> None:
    backend = MemoryBackend()

    async def read() -> list[Delivery]:
        asyncio.get_running_loop().call_later(0.05, timer.start)
        return await backend.areceive_batch(["a"], timeout=None)

    # from another thread, while the loop sleeps; nothing else would wake it
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, lambda *_: backend.wake())
    try:
        begun = time.monotonic()
        assert asyncio.run(asyncio.wait_for(read(), 10)) == []
        assert time.monotonic() - begun < 5
        assert backend._waiting == set()
    finally:
        signal.signal(signal.SIGUSR1, before)


async def restless(backend: MemoryBackend, channels: list[str], readers: Readers, seed: int) -> None:
    """Read, giving up in the middle in every way there is."""
    chance = random.Random(seed)
    while not readers.is_over.is_set():
        way = chance.randrange(5)
        if way == 0:
            readers.note(await backend.areceive_batch(channels, limit=3, timeout=chance.random() / 500))
        elif way == 1:
            task = asyncio.ensure_future(backend.areceive_batch(channels, limit=3, timeout=0.05))
            await asyncio.sleep(chance.random() / 1000)
            task.cancel("enough")
            with contextlib.suppress(asyncio.CancelledError):
                readers.note(await task)
        elif way == 2:
            try:
                async with asyncio.timeout(chance.random() / 1000):
                    readers.note(await backend.areceive_batch(channels, limit=3, timeout=None))
            except TimeoutError:
                current = asyncio.current_task()
                assert current is not None
                assert current.cancelling() == 0
        elif way == 3:
            readers.note((await backend.aexchange((), channels, limit=3, timeout=0.002)).deliveries)
        else:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(backend.areceive_batch(channels, limit=1, timeout=0.001))
                    for _ in range(3)
                ]
            for task in tasks:
                readers.note(task.result())


@DEBUG
@pytest.mark.parametrize(
    ("new_loop", "eager"),
    [(asyncio.new_event_loop, False), (asyncio.new_event_loop, True), (uvloop.new_event_loop, False)],
    ids=["asyncio", "eager", "uvloop"],
)
def test_readers_that_give_up_lose_nothing(new_loop: MakeLoop, debug: bool, eager: bool) -> None:
    backend = MemoryBackend(capacity=200)
    readers = Readers()
    channels = ["a", "b", "c"]

    def run_loop(seed: int) -> None:
        async def main() -> None:
            if eager:
                factory: Any = getattr(asyncio, "eager_task_factory", None)  # new in Python 3.12
                asyncio.get_running_loop().set_task_factory(factory)
            await asyncio.gather(*(restless(backend, channels, readers, seed * 10 + one) for one in range(4)))

        try:
            with asyncio.Runner(loop_factory=new_loop, debug=debug) as runner:
                runner.run(main())
        except Exception as error:  # noqa: BLE001 - the test shows whatever it was
            readers.failures.append(error)

    for seed in range(2):
        readers.go(partial(run_loop, seed))
    readers.start(lambda: backend.receive_batch(channels, limit=2, timeout=0.002))
    each = 400 if debug else 1500
    writers = [
        threading.Thread(target=send_all, args=(backend, channel, range(each))) for channel in channels
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    readers.wait_for(3 * each)
    readers.end(backend)
    assert readers.failures == []
    assert readers.got == {(channel, number): 1 for channel in channels for number in range(each)}
    assert backend._waiting == set()
    assert all(not queue.waiters for queue in backend._queues.values())


@LOOPS
@DEBUG
def test_cancelled_reader_is_cancelled_as_with_a_future(new_loop: MakeLoop, debug: bool) -> None:
    backend = MemoryBackend()

    async def main() -> None:
        task = asyncio.create_task(backend.areceive_batch(["a"]))
        await asyncio.sleep(0)
        assert task.cancel("why")
        assert task.cancelling() == 1
        assert task.uncancel() == 0
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("why",)
        assert task.cancelled()

        # A message that comes before the cancelled task has run is the next reader's.
        gone = asyncio.create_task(backend.areceive_batch(["a"]))
        stays = asyncio.create_task(backend.areceive_batch(["a"]))
        await asyncio.sleep(0)
        backend.send_one(message("a", 1))
        stays.cancel()
        gone.cancel()
        backend.send_one(message("a", 2))
        results = await asyncio.gather(gone, stays, return_exceptions=True)
        got = [one.content["number"] for result in results if isinstance(result, list) for one in result]
        rest = await backend.areceive_batch(["a"], limit=9, timeout=0)
        assert sorted(got + [one.content["number"] for one in rest]) == [1, 2]

        # Shielded, wrapped in wait_for, and never awaited before it ended.
        waiting = asyncio.create_task(backend.areceive_batch(["a"]))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.01)
        assert not waiting.done()
        assert "areceive_batch" in repr(waiting)
        backend.send_one(message("a", 3))
        assert [one.content["number"] for one in await waiting] == [3]
        assert backend._waiting == set()

    with asyncio.Runner(loop_factory=new_loop, debug=debug) as runner:
        runner.run(main())


@LOOPS
def test_message_for_a_reader_whose_loop_was_closed_reaches_another(new_loop: MakeLoop) -> None:
    backend = MemoryBackend()
    kept: list[Any] = []

    async def leave_behind() -> None:
        kept.append(asyncio.create_task(backend.areceive_batch(["a"])))
        await asyncio.sleep(0)

    readers = Readers()
    readers.start(lambda: backend.receive_batch(["a"], timeout=None))
    for _ in range(1000):
        if backend._waiting:
            break
        readers.is_over.wait(0.001)
    loop = new_loop()
    loop.run_until_complete(leave_behind())
    loop.close()
    backend.send_one(message("a", 1))
    readers.wait_for(1)
    readers.end(backend)
    assert readers.got == {("a", 1): 1}
    assert backend._waiting == set()
    kept[0]._log_destroy_pending = False
