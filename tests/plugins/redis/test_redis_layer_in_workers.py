"""Workers on the Redis layer, inside this process: what they leave behind when they end."""

import asyncio
import gc
import threading
import warnings
from time import monotonic

import pytest

from channels_core import Channel, ChannelLayer, Message
from channels_core.config import WorkerConfig
from channels_core.worker import Worker
from channels_layer_redis.layer import RedisBackend
from channels_router_regex import Router, route
from faulty_proxy import Fault, FaultyProxy
from redis_servers import RedisServer, eventually


@pytest.mark.parametrize("event_loop", ["auto", "asyncio"])
def test_a_worker_that_ends_leaves_no_connection_of_its_loop_open(
    server: RedisServer, event_loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda found: complaints.append(repr(found.exc_value)))
    done = threading.Semaphore(0)

    async def consume(message: Message) -> None:
        done.release()

    backend = RedisBackend(hosts=[server.url], prefix="ended-workers")
    layer = ChannelLayer(backend, routing=[route("jobs", consume)], make_router=Router)
    try:
        for _ in range(2):
            worker = Worker(layer, config=WorkerConfig(event_loop=event_loop))
            worker.start()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                layer.send("jobs", {})
                assert done.acquire(timeout=15)
                assert worker.stop(timeout=15)
                gc.collect()
    finally:
        backend.close()
    assert complaints == []


@pytest.mark.parametrize("is_async", [False, True])
def test_a_consumer_that_does_not_wait_costs_one_call(server: RedisServer, is_async: bool) -> None:
    """Its answer leaves, its lease ends and the next message is taken in one trip."""
    server.do("FLUSHALL")

    async def echo_async(message: Message) -> None:
        assert message.reply_channel is not None
        message.reply_channel.send({"n": message["n"]})

    def echo(message: Message) -> None:
        assert message.reply_channel is not None
        message.reply_channel.send({"n": message["n"]})

    backend = RedisBackend(hosts=[server.url], delivery={"jobs": "at-least-once"})
    process = backend.open_process("interface")
    prefix = f"out.{process}!"
    layer = ChannelLayer(
        backend, routing=[route("jobs", echo_async if is_async else echo)], make_router=Router
    )
    worker = Worker(layer, config=WorkerConfig(threads=1))
    worker.start()

    def calls() -> int:
        lines: str = server.do("INFO", "commandstats").decode()
        [line] = [line for line in lines.splitlines() if line.startswith("cmdstat_evalsha:")]
        return int(line.partition("calls=")[2].partition(",")[0])

    def exchange(number: int) -> None:
        layer.send("jobs", {"n": number, "reply_channel": f"{prefix}x"})
        [reply] = backend.receive_batch([prefix], timeout=10)
        assert reply.content == {"n": number}

    try:
        for number in range(5):
            exchange(number)
        before = calls()
        for number in range(50):
            exchange(number)
        # one to send, one of the worker; now and then one that renews a lease
        assert calls() - before <= 50 * 2 + 20
    finally:
        assert worker.stop(timeout=15)
        backend.close_process(process)
        backend.close()


def test_what_ended_with_a_consumer_that_stops_the_worker_waits_for_no_other(server: RedisServer) -> None:
    server.do("FLUSHALL")
    begun, may_end = threading.Event(), threading.Event()

    async def consume(message: Message) -> None:
        assert message.reply_channel is not None
        message.reply_channel.send({"n": message["n"]})
        if message["n"] == "last":
            raise SystemExit
        if message["n"] == "slow":
            begun.set()
            while not may_end.is_set():
                await asyncio.sleep(0.01)

    backend = RedisBackend(hosts=[server.url])
    process = backend.open_process("interface")
    prefix = f"out.{process}!"
    layer = ChannelLayer(backend, routing=[route("jobs", consume)], make_router=Router)
    worker = Worker(layer, config=WorkerConfig(threads=1, stop_timeout=30))
    worker.start()
    try:
        layer.send("jobs", {"n": "slow", "reply_channel": f"{prefix}x"})
        assert begun.wait(15)
        for number in ("quick", "last"):
            layer.send("jobs", {"n": number, "reply_channel": f"{prefix}x"})
        found: list[str] = []
        while len(found) < 2 and (received := backend.receive_batch([prefix], timeout=5)):
            found += [delivery.content["n"] for delivery in received]
        assert found == ["quick", "last"]
    finally:
        may_end.set()
        assert worker.stop(timeout=15)
        backend.close_process(process)
        backend.close()


def test_what_leaves_with_a_read_that_is_not_answered_keeps_its_lease(server: RedisServer) -> None:
    server.do("FLUSHALL")

    async def consume(message: Message) -> None:
        proxy.arm(Fault(swallow_up=0))
        Channel("out", channel_layer=layer).send({"n": message["n"]})

    with FaultyProxy(server.address) as proxy:
        backend = RedisBackend(
            hosts=[f"redis://127.0.0.1:{proxy.port}"], delivery={"jobs": "at-least-once"}, answer_timeout=2
        )
        layer = ChannelLayer(backend, routing=[route("jobs", consume)], make_router=Router)
        worker = Worker(layer, config=WorkerConfig(threads=1))
        worker.start()
        try:
            layer.send("jobs", {"n": 1})
            [reader] = worker._readers
            eventually(lambda: layer.counters.consumed, "a consumer's end")
            begun = monotonic()
            while monotonic() - begun < 1:
                assert [delivery.content for delivery in reader.leased()] == [{"n": 1}]
        finally:
            proxy.disarm()
            assert worker.stop(timeout=15)
            backend.close()
