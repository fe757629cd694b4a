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
