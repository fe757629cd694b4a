"""Workers on the Redis layer, inside this process: what they leave behind when they end."""

import gc
import threading
import warnings

import pytest

from channels_core import ChannelLayer, Message
from channels_core.config import WorkerConfig
from channels_core.worker import Worker
from channels_layer_redis.layer import RedisBackend
from channels_router_regex import Router, route
from redis_servers import RedisServer


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
