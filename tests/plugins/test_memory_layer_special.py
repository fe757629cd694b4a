"""What is the memory layer's own, beside the laws of all layers: no copies, no herds, no growth, no lock held."""

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from channels_core.layers import Delivery, LayerBackend, Outcome, Send, Settlement, Verdict
from channels_core.names import new_id
from channels_core.plugins import get_plugin_manager
from channels_layer_memory import MemoryBackend
from channels_layer_memory.memberships import Memberships
from channels_layer_memory.waiting import LoopWaiter, ThreadWaiter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def message(channel: str, number: int = 0, **headers: str) -> Send:
    return Send(
        channel, {"n": number}, {name.replace("_", "-"): value for name, value in headers.items()}, 10
    )


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [one.content["n"] for one in deliveries]


def waiting(backend: MemoryBackend) -> int:
    """How many readers wait."""
    return len(backend._waiting)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


def read_in_thread(
    backend: MemoryBackend, *channels: str, limit: int = 1
) -> tuple[threading.Thread, list[Delivery]]:
    found: list[Delivery] = []
    before = waiting(backend)
    thread = threading.Thread(
        target=lambda: found.extend(backend.receive_batch(channels, limit=limit, timeout=20))
    )
    thread.start()
    until(lambda: waiting(backend) == before + 1)
    return thread, found


def test_it_is_registered_as_memory() -> None:
    assert get_plugin_manager().load("layer", "memory") is MemoryBackend
    assert MemoryBackend.local_only
    assert not MemoryBackend.is_waiting
    assert MemoryBackend.is_exchange_atomic


# Handing over.


def test_what_was_sent_is_handed_over_without_a_copy() -> None:
    backend = MemoryBackend()
    sends = [message("chat", 1), message("in!x", 2)]
    backend.send_one(sends[0])
    backend.send_batch(sends[1:])
    for channel, send in zip(("chat", "in!"), sends, strict=True):
        [delivery] = backend.receive_batch([channel], timeout=0)
        assert delivery.content is send.content
        assert delivery.headers is send.headers


def test_a_broadcast_is_one_entry_and_its_members_one_tuple() -> None:
    backend = MemoryBackend()
    prefix = f"websocket.send.{backend.open_process('interface')}!"
    for number in range(1000):
        backend.group_add("room", f"{prefix}{number}")
    send = Send("room", {"n": 1}, {}, 10, True)
    backend.send_batch([send, Send("room", {"n": 2}, {}, 10, True)])
    assert backend.statistics([prefix])[0].pending == 2
    first, second = backend.receive_batch([prefix], limit=5)
    assert first.content is send.content
    assert len(first.locals) == 1000
    assert first.locals is second.locals
    backend.group_discard("room", f"{prefix}7")
    backend.send_one(send)
    [third] = backend.receive_batch([prefix])
    assert (len(third.locals), "7" in third.locals, len(first.locals)) == (999, False, 1000)


# Waking.


@pytest.fixture
def fired(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every waiter that is woken, in order."""
    found: list[object] = []
    for kind in (ThreadWaiter, LoopWaiter):
        fire = kind.fire

        def record(waiter: Any, fire: Any = fire, **options: Any) -> None:
            found.append(waiter)
            fire(waiter, **options)

        monkeypatch.setattr(kind, "fire", record)
    return found


def test_one_message_wakes_one_reader(fired: list[object]) -> None:
    backend = MemoryBackend()
    readers = [read_in_thread(backend, "a", "b") for _ in range(5)]
    for number in range(5):
        backend.send_one(message("a" if number % 2 else "b", number))
        until(lambda: waiting(backend) == 4 - number)  # noqa: B023 - asked before the next round
        assert len(fired) == number + 1
    for thread, _ in readers:
        thread.join()
    assert sorted(number for _, found in readers for number in numbers(found)) == list(range(5))


def test_many_messages_wake_a_loop_once(fired: list[object]) -> None:
    async def read() -> None:
        backend = MemoryBackend()
        mine = f"websocket.send.{backend.open_process('interface')}!"
        task = asyncio.create_task(backend.areceive_batch([mine], limit=100))
        await asyncio.sleep(0)
        sender = threading.Thread(
            target=lambda: [backend.send_one(message(f"{mine}x", number)) for number in range(50)]
        )
        sender.start()
        sender.join()  # holds the loop up, as other work would
        assert numbers(await task) == list(range(50))

    asyncio.run(read())
    assert len(fired) == 1


def test_a_reader_in_the_senders_own_loop_is_woken_without_the_self_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def read() -> list[str]:
        backend = MemoryBackend()
        loop = asyncio.get_running_loop()
        calls: list[str] = []

        def not_from_here(*_: Any, **__: Any) -> None:
            calls.append("call_soon_threadsafe")

        task = asyncio.create_task(backend.areceive_batch(["chat"]))
        await asyncio.sleep(0)
        monkeypatch.setattr(loop, "call_soon_threadsafe", not_from_here)
        backend.send_one(message("chat", 7))
        assert numbers(await task) == [7]
        monkeypatch.undo()
        return calls

    assert asyncio.run(read()) == []


def test_the_message_goes_on_where_a_readers_loop_was_closed() -> None:
    backend = MemoryBackend()
    loop = asyncio.new_event_loop()
    coroutine = backend.areceive_batch(["chat"])
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    assert waiting(backend) == 1
    thread, found = read_in_thread(backend, "chat")
    backend._queues["chat"].waiters = dict(reversed(backend._queues["chat"].waiters.items()))
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # what is tested is a careless caller
    loop.close()
    backend.send_one(message("chat", 7))
    thread.join(20)
    assert numbers(found) == [7]
    assert waiting(backend) == 0
    coroutine.close()


async def test_a_timeout_around_a_receive_loses_nothing() -> None:
    backend = MemoryBackend()
    received: list[int] = []
    for number in range(50):
        try:
            async with asyncio.timeout(0.002):
                received += numbers(await backend.areceive_batch(["chat"], limit=10))
        except TimeoutError:
            backend.send_one(message("chat", number))
    received += numbers(backend.receive_batch(["chat"], limit=100, timeout=0))
    assert waiting(backend) == 0
    assert received == sorted(received)
    assert len(received) >= 20


async def test_an_awaiting_task_is_cancelled_with_its_message() -> None:
    backend = MemoryBackend()
    task = asyncio.create_task(backend.areceive_batch(["chat"]))
    await asyncio.sleep(0)
    task.cancel("no longer wanted")
    with pytest.raises(asyncio.CancelledError, match="no longer wanted"):
        await task
    assert waiting(backend) == 0
    assert backend._queues["chat"].waiters == {}


async def test_a_timed_receive_leaves_no_timer_behind() -> None:
    backend = MemoryBackend()
    task = asyncio.create_task(backend.areceive_batch(["chat"], timeout=1000))
    await asyncio.sleep(0)
    backend.send_one(message("chat", 1))
    assert numbers(await task) == [1]
    assert await backend.areceive_batch(["chat"], timeout=0.01) == []
    timers = [one for one in getattr(asyncio.get_running_loop(), "_scheduled", ()) if not one.cancelled()]
    assert timers == []


# Time.


def test_leases_are_waited_for_and_not_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float | None] = []
    wait = ThreadWaiter.wait

    def record(waiter: ThreadWaiter, seconds: float | None) -> None:
        pauses.append(seconds)
        wait(waiter, seconds)

    monkeypatch.setattr(ThreadWaiter, "wait", record)
    backend = MemoryBackend(delivery={"jobs": "at-least-once"}, lease=0.2)
    backend.send_one(message("jobs", 1))
    backend.receive_batch(["jobs"])
    [again] = backend.receive_batch(["jobs"], timeout=20)
    assert again.attempt == 2
    assert len(pauses) == 1
    assert backend.receive_batch(["chat"], timeout=0.05) == []
    assert len(pauses) == 2


def test_expired_messages_are_reported_without_the_lock() -> None:
    clock = Clock()
    backend = MemoryBackend(clock=clock, capacity=1, process_lease=10_000)
    reports: list[int] = []

    def report(expired: Sequence[Mapping[str, str | int]]) -> None:
        found: list[bool] = []

        def look() -> None:
            found.append(backend._lock.acquire(timeout=5))
            if found[-1]:
                backend._lock.release()

        other = threading.Thread(target=look)
        other.start()
        other.join()
        assert found == [True]
        reports.append(len(expired))

    backend.on_expired = report
    process = backend.open_process("worker")
    occasions: list[Callable[[], object]] = [
        lambda: backend.send_one(message("a")),
        lambda: backend.send_batch([message("a")]),
        lambda: backend.receive_batch(["a"], timeout=0),
        lambda: backend.exchange([], ["a"]),
        backend.statistics,
        lambda: backend.renew_process(process),
        lambda: asyncio.run(backend.areceive_batch(["a"], timeout=0)),
    ]
    for call in occasions:
        backend.flush()
        backend.send_one(message("a", c_credit="in!x"))
        clock.now += 61
        call()
    assert reports == [1] * len(occasions)


def test_what_nobody_looks_at_expires_with_the_next_heartbeat() -> None:
    clock = Clock()
    backend = MemoryBackend(clock=clock, process_lease=1000)
    process = backend.open_process("interface")
    backend.send_batch([message(f"forgotten.{number}") for number in range(10)])
    clock.now += 61
    backend.renew_process(process)
    assert backend.counters.expired == 10
    assert all(not queue.entries for queue in backend._queues.values())


# Bounds.


def test_one_off_names_do_not_pile_up() -> None:
    clock = Clock()
    backend = MemoryBackend(clock=clock)
    for number in range(10_000):
        name = f"http.body?{number}"
        backend.send_one(message(name, number))
        assert numbers(backend.receive_batch([name])) == [number]
    assert len(backend._queues) <= 1024
    for number in range(3000):
        backend.send_one(message(f"unread?{number}"))
    clock.now += 61
    for number in range(3000):
        backend.send_one(message(f"read?{number}"))
        backend.receive_batch([f"read?{number}"])
    assert len(backend._queues) <= 2048
    assert backend.counters.expired >= 2000


def test_a_queue_that_was_dropped_while_a_sender_held_it_comes_back() -> None:
    backend = MemoryBackend()
    backend.send_one(message("a?b", 1))
    backend.receive_batch(["a?b"])
    held = backend._queues["a?b"]
    backend._sweep()
    assert "a?b" not in backend._queues
    held.entries.append(_entry(backend, message("a?b", 2)))
    backend._attend(held)
    assert numbers(backend.receive_batch(["a?b"], timeout=0)) == [2]
    backend._sweep()
    backend.send_one(message("a?b", 3))
    held.entries.append(_entry(backend, message("a?b", 4)))
    held.is_dropped = True
    backend._attend(held)
    assert numbers(backend.receive_batch(["a?b"], limit=5, timeout=0)) == [3, 4]


def _entry(backend: MemoryBackend, send: Send) -> Any:
    backend.send_one(Send("scratch", send.content, send.headers, send.size))
    return backend._queues["scratch"].entries.popleft()


def test_ended_channels_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channels_layer_memory.memberships.ENDED_CHANNELS", 100)
    memberships = Memberships(86_400.0)
    for number in range(250):
        memberships.end(f"in!{number}")
    for number in (0, 149, 150, 249):
        memberships.add("room", f"in!{number}", 0.0, is_lasting=False)
    members = memberships.members("room", 0.0)
    assert sorted(members["in!"].added) == ["0", "149"]


def test_groups_leave_nothing_behind() -> None:
    backend = MemoryBackend()
    prefix = f"in.{backend.open_process('interface')}!"
    for number in range(100):
        backend.group_add(f"room.{number}", f"{prefix}x")
        backend.group_add(f"room.{number}", f"{prefix}{number}")
        backend.group_discard(f"room.{number}", f"{prefix}{number}")
    backend.close_channel(f"{prefix}x")
    assert backend._memberships._groups == {}
    assert backend._memberships._groups_of == {}


def test_dead_letters_are_kept_up_to_a_bound() -> None:
    backend = MemoryBackend(delivery={"jobs": "at-least-once"}, dead_letter_limit=3, capacity=10)
    backend.send_batch([message("jobs", number) for number in range(5)])
    found = backend.receive_batch(["jobs"], limit=5)
    backend.settle([Settlement(one, Verdict.DEAD, reason="no") for one in found])
    assert [letter.content["n"] for letter in backend.dead_letters()] == [2, 3, 4]
    assert backend.counters.dead == 5


def test_an_inbox_counts_down_to_nothing() -> None:
    backend = MemoryBackend(inbox_capacity=10)
    process = backend.open_process("interface")
    room = backend._processes[process].room
    for prefix in (f"a.{process}!", f"b.{process}!"):
        backend.send_batch([message(f"{prefix}x", number) for number in range(3)])
        first, second = backend.receive_batch([prefix], limit=2)
        backend.settle([Settlement(first, Verdict.RELEASE), Settlement(second, Verdict.REQUEUE, {"n": 9})])
        assert numbers(backend.receive_batch([prefix], limit=9)) == [0, 2, 9]
    backend.send_batch([message(f"a.{process}!x")] * 2)
    backend.flush()
    assert (room.count, room.size) == (0, 0)


def test_a_closed_backend_is_collected() -> None:
    backend = MemoryBackend()
    backend.send_one(message("chat"))
    backend.close()
    gone = weakref.ref(backend)
    del backend
    assert gone() is None


def test_close_wakes_who_waits() -> None:
    backend = MemoryBackend()
    thread, found = read_in_thread(backend, "chat")
    backend.close()
    thread.join(20)
    assert not thread.is_alive()
    assert found == []


def test_messages_to_a_process_that_ended_are_counted_and_forgotten() -> None:
    backend = MemoryBackend()
    process = backend.open_process("interface")
    backend.send_batch([message(f"a.{process}!x"), message(f"b.{process}!x")])
    backend.close_process(process)
    assert backend.counters.gone == 2
    assert backend._queues == {}
    assert backend.send_one(message(f"a.{new_id()}!x")) is Outcome.GONE
    assert backend._queues == {}


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_it_works_under_uvloop(kind: str) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def read() -> list[int]:
        backend = MemoryBackend()
        task = asyncio.create_task(backend.areceive_batch(["chat"], timeout=20))
        await asyncio.sleep(0)
        if kind == "thread":
            threading.Thread(target=backend.send_one, args=(message("chat", 7),)).start()
        else:
            backend.send_one(message("chat", 7))
        received = numbers(await task)
        doomed = asyncio.create_task(backend.areceive_batch(["chat"]))
        await asyncio.sleep(0)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        return [*received, waiting(backend)]

    assert uvloop.run(read()) == [7, 0]


def test_its_options_go_on_to_the_base_class() -> None:
    backend: LayerBackend = MemoryBackend(expiry=5, capacity=7)
    assert (backend.expiry, backend.capacity) == (5.0, 7)
    with pytest.raises(TypeError, match="unexpected keyword argument 'capacitance'"):
        MemoryBackend(capacitance=1)
