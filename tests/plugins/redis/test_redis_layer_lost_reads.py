"""What was handed out in an answer that never came is given back soon, and nothing else is."""

import asyncio
import time
from collections.abc import Iterator
from functools import partial

import pytest

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import AT_LEAST_ONCE, Delivery, Send, Settlement, Turn, Verdict
from channels_layer_redis import RedisBackend
from faulty_proxy import Fault, FaultyProxy
from redis_servers import RedisServer

SOON = 8.0
"""Seconds; the lease of a message is 30."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultyProxy]:
    server.do("FLUSHALL")
    with FaultyProxy(server.address) as running:
        yield running


def backend_at(port: int) -> RedisBackend:
    return RedisBackend(hosts=[f"redis://127.0.0.1:{port}"], delivery={"jobs": AT_LEAST_ONCE})


def send(backend: RedisBackend, *numbers: int) -> None:
    backend.send_batch([Send("jobs", {"n": number}, {}, 9) for number in numbers])


def read_until(backend: RedisBackend, process: str, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + SOON
    while len(found) < count and time.monotonic() < deadline:
        try:
            found += backend.receive_batch(["jobs"], limit=5, timeout=0.5, process=process)
        except LayerUnavailable:
            continue
    return found


@pytest.mark.parametrize("way", ["receive", "exchange"])
@pytest.mark.parametrize("put_back", [False, True])
def test_a_lost_answer_costs_no_lease(
    server: RedisServer, proxy: FaultyProxy, way: str, put_back: bool
) -> None:
    other, backend = backend_at(server.port), backend_at(proxy.port)
    process = backend.open_process("worker")
    try:
        send(other, 1, 2)
        [held] = backend.receive_batch(["jobs"], limit=1, timeout=0, process=process)
        if put_back:  # leases on what was put back lie elsewhere
            [second] = other.receive_batch(["jobs"], limit=1, timeout=0)
            send(other, 3)
            other.settle([Settlement(second, Verdict.RELEASE)])
        else:
            send(other, 3)
        proxy.arm(Fault(cut_down=0))
        read = backend.receive_batch if way == "receive" else partial(backend.exchange, ())
        with pytest.raises(LayerUnavailable):
            read(["jobs"], limit=5, timeout=0, process=process)
        assert [one.leased for one in other.statistics(["jobs"])] == [3]
        again = read_until(backend, process, 2)
        assert [(one.content["n"], one.attempt) for one in again] == [(2, 1), (3, 1)]
        assert backend.receive_batch(["jobs"], timeout=0, process=process) == []
        backend.settle([Settlement(one, Verdict.DONE) for one in (held, *again)])
        assert [(one.pending, one.leased) for one in other.statistics(["jobs"])] == [(0, 0)]
        assert backend.counters.released == backend.counters.redelivered == 0
    finally:
        backend.close()
        other.close()


async def test_a_wait_that_is_cut_off_in_the_moment_of_its_answer_costs_no_lease(
    server: RedisServer, proxy: FaultyProxy
) -> None:
    other, backend = backend_at(server.port), backend_at(proxy.port)
    process = await backend.aopen_process("worker")
    try:
        waiting = asyncio.create_task(backend.areceive_batch(["jobs"], timeout=30, process=process))
        async with asyncio.timeout(5):
            while not (await asyncio.to_thread(server.do, "INFO", "clients")).count(b"blocked_clients:1"):
                await asyncio.sleep(0.01)
        proxy.arm(Fault(cut_down=0))
        await other.asend_one(Send("jobs", {"n": 1}, {}, 9))
        began = time.monotonic()
        with pytest.raises(LayerUnavailable):
            await waiting
        [again] = await asyncio.to_thread(read_until, backend, process, 1)
        assert time.monotonic() - began < SOON
        assert again.attempt == 1
    finally:
        backend.close()
        other.close()


def test_what_ended_or_is_in_hand_is_not_given_back(server: RedisServer, proxy: FaultyProxy) -> None:
    other, backend = backend_at(server.port), backend_at(proxy.port)
    process = backend.open_process("worker")
    try:
        send(other, *range(4))
        in_hand = backend.receive_batch(["jobs"], limit=4, timeout=0, process=process)
        done, *held = in_hand
        del in_hand
        backend.exchange([Turn((), Settlement(done, Verdict.DONE))], ())
        proxy.arm(Fault(cut_down=0))
        with pytest.raises(LayerUnavailable):
            backend.receive_batch(["jobs"], limit=5, timeout=0, process=process)
        time.sleep(1.2)
        for _ in range(3):
            assert backend.receive_batch(["jobs"], limit=5, timeout=0, process=process) == []
        assert not backend._receiving._lost_reads
        assert [(one.pending, one.leased) for one in other.statistics(["jobs"])] == [(0, len(held))]
    finally:
        backend.close()
        other.close()
