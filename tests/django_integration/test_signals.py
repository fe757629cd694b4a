"""Signals around consumers, and what becomes of their database connections."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group as AuthGroup
from django.db import connection, connections, transaction
from django.dispatch import Signal

from channels_core import Channel, ChannelLayer, Message
from channels_core.worker import Worker
from channels_django.signals import (
    DjangoEvents,
    consumer_finished,
    consumer_started,
    worker_process_ready,
    worker_ready,
)
from channels_router_regex import route
from channels_router_regex.router import Router


@contextmanager
def received(signal: Signal, seen: list[Any], word: str) -> Iterator[None]:
    def receiver(sender: Any, **kwargs: Any) -> None:
        kwargs.pop("signal")
        seen.append((word, sender, kwargs))

    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


def run_one(layer: ChannelLayer, consumer: Any) -> Any:
    """Have a worker run ``consumer`` once; what it sent to the channel ``told``."""
    layer.router = Router([route("jobs", consumer)])
    worker = Worker(layer, events=DjangoEvents())
    worker.start()
    try:
        Channel("jobs", channel_layer=layer).send({})
        return layer.receive(["told"], True, timeout=5)[1]
    finally:
        assert worker.stop()


def tell(message: Message) -> None:
    Channel("told", channel_layer=message.channel_layer).send({"thread": threading.current_thread().name})


async def atell(message: Message) -> None:
    await Channel("told", channel_layer=message.channel_layer).asend({})


@pytest.mark.parametrize("consumer", [tell, atell])
def test_b26_signals_come_around_each_consumer(layer: ChannelLayer, consumer: Any) -> None:
    seen: list[Any] = []
    with (
        received(consumer_started, seen, "started"),
        received(consumer_finished, seen, "finished"),
        received(worker_ready, seen, "ready"),
        received(worker_process_ready, seen, "process"),
    ):
        assert run_one(layer, consumer) is not None
    assert [word for word, _, _ in seen] == ["ready", "started", "finished"]
    assert isinstance(seen[0][1], Worker)
    assert seen[1][1:] == (Worker, {"environ": {}})
    assert seen[2][1:] == (Worker, {})


def test_signals_come_around_a_consumer_that_raises(
    layer: ChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: Message) -> None:
        tell(message)
        raise RuntimeError("on purpose")

    seen: list[Any] = []
    with received(consumer_finished, seen, "finished"):
        run_one(layer, fail)
    assert [word for word, _, _ in seen] == ["finished"]
    assert "on purpose" in caplog.text


class Opened:
    """What became of the connection that a consumer used."""

    connection: Any = None


def test_b27_a_threads_connection_is_closed_after_its_consumer(layer: ChannelLayer) -> None:
    opened = Opened()

    def use_database(message: Message) -> None:
        AuthGroup.objects.count()
        opened.connection = connections["default"]
        tell(message)

    open_at_the_signal: list[bool] = []

    def look(**_: Any) -> None:
        open_at_the_signal.append(opened.connection.connection is not None)

    consumer_finished.connect(look)
    try:
        run_one(layer, use_database)
    finally:
        consumer_finished.disconnect(look)
    assert open_at_the_signal == [True]
    assert opened.connection.connection is None


def test_inside_a_transaction_nothing_is_closed() -> None:
    events = DjangoEvents()
    connection.close()  # so that the events see it opened
    with transaction.atomic():
        AuthGroup.objects.count()
        events.consumer_finished()
        assert connection.connection is not None
        AuthGroup.objects.count()


def test_a_visit_for_async_consumers_closes_nothing_inside_a_transaction() -> None:
    with transaction.atomic():
        AuthGroup.objects.count()
        async_to_sync(DjangoEvents()._visit)()
        assert connection.connection is not None
        AuthGroup.objects.count()


class ClosingEvents(DjangoEvents):
    def __init__(self) -> None:
        super().__init__()
        self.visits = 0

    async def _visit(self) -> None:
        self.visits += 1
        await super()._visit()


async def test_an_async_consumer_costs_a_visit_only_when_it_used_the_database() -> None:
    events = ClosingEvents()
    for _ in range(3):
        await events.aconsumer_started()
        await events.aconsumer_finished()
    assert events.visits == 0

    def use_database() -> None:
        connection.close()
        AuthGroup.objects.count()

    await events.aconsumer_started()
    await sync_to_async(use_database)()
    await events.aconsumer_finished()
    assert events.visits == 1
    # And then at most once a second.
    await events.aconsumer_started()
    await events.aconsumer_finished()
    assert events.visits == 1
