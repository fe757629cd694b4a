"""The end of a development server: what its workers had received, or sent last, is consumed before the layer goes."""

import threading
from functools import partial

from channels_core import ChannelLayer, Message, WorkerConfig
from channels_core.worker import Worker
from channels_django.development import finish
from channels_layer_memory import MemoryBackend
from channels_router_regex import route
from channels_router_regex.router import Router


class Stopped(MemoryBackend):
    """Tells when a worker is asked to stop: it then wakes its readers."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stopping = threading.Event()

    def wake(self) -> None:
        super().wake()
        self.is_stopping.set()


def make_layer(backend: MemoryBackend, *routes: object) -> ChannelLayer:
    layer = ChannelLayer(backend)
    layer.router = Router(list(routes))
    return layer


def test_what_was_received_and_not_begun_is_not_lost() -> None:
    backend = Stopped()
    is_in_hand = threading.Event()
    ran: list[int] = []

    def consume(message: Message) -> None:
        ran.append(message["n"])
        if message["n"] == 30:
            [figures] = backend.statistics(["jobs"])
            assert figures.pending == 0  # the rest of them is in this worker's hand
            is_in_hand.set()
            assert backend.is_stopping.wait(10)

    layer = make_layer(backend, route("jobs", consume))
    # A worker that has seen a few quick consumers takes many messages at once, and keeps what waits behind a slow one.
    make = partial(Worker, layer, config=WorkerConfig(prefetch_time=60.0, release_after=60.0))
    worker = make()
    for n in range(35):
        layer.send("jobs", {"n": n})
    worker.start()
    assert is_in_hand.wait(10)
    finish(worker, make)
    assert ran == list(range(35))


def test_what_the_last_consumers_send_is_consumed_too() -> None:
    backend = Stopped()
    has_begun = threading.Event()
    ran: list[str] = []

    def first(message: Message) -> None:
        has_begun.set()
        assert backend.is_stopping.wait(10)
        layer.send("second", {})

    def second(message: Message) -> None:
        ran.append("second")

    layer = make_layer(backend, route("first", first), route("second", second))
    make = partial(Worker, layer)
    worker = make()
    worker.start()
    layer.send("first", {})
    assert has_begun.wait(10)
    finish(worker, make)
    assert ran == ["second"]


def test_a_layer_that_outlives_the_process_keeps_what_waits() -> None:
    class Shared(Stopped):
        local_only = False

    backend = Shared()
    has_begun = threading.Event()

    def consume(message: Message) -> None:
        has_begun.set()
        assert backend.is_stopping.wait(10)

    layer = make_layer(backend, route("jobs", consume))
    worker = Worker(layer)
    worker.start()
    layer.send("jobs", {"n": 1})
    assert has_begun.wait(10)
    layer.send("jobs", {"n": 2})
    finish(worker, partial(Worker, layer))
    assert layer.receive(["jobs"]) == ("jobs", {"n": 2})
