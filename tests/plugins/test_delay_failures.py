"""The delay server when the database fails in the middle: nothing is lost, and nothing is kept twice."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from channels_core import ChannelLayer
from channels_core.layers import AT_LEAST_ONCE
from channels_layer_memory.layer import MemoryBackend
from testsite.fixtures import set_up_django
from workbench import wait_until

set_up_django()

from django.db import OperationalError, connection  # noqa: E402 - Django comes first
from django.db.backends.base.base import BaseDatabaseWrapper  # noqa: E402 - as above
from django.db.backends.sqlite3.base import DatabaseWrapper  # noqa: E402 - as above
from django.db.models import QuerySet  # noqa: E402 - as above
from django.utils import timezone  # noqa: E402 - as above

from channels_delay import DelayedMessage, DelayServer, table  # noqa: E402 - as above
from channels_delay.models import Receipt  # noqa: E402 - as above
from channels_django.testing.transactions import TransactionalMemory  # noqa: E402 - as above

pytest_plugins = ["testsite.databases"]


@pytest.fixture
def open_layer(file_database: Path) -> Iterator[Callable[..., ChannelLayer]]:
    made: list[ChannelLayer] = []

    def make(backend: type[MemoryBackend] = MemoryBackend, **options: Any) -> ChannelLayer:
        made.append(ChannelLayer(backend(**options)))
        return made[-1]

    yield make
    for layer in made:
        layer.close()


def order(layer: ChannelLayer, text: str = "tick", delay: int = 1) -> None:
    layer.send("asgi.delay", {"channel": "later", "content": {"text": text}, "delay": delay})


def serving(layer: ChannelLayer) -> DelayServer:
    server = DelayServer(layer, sleep=0.05)
    server.start()
    return server


def received(layer: ChannelLayer, count: int) -> list[Any]:
    """The first ``count`` messages on ``later``, and one more if it comes in a moment."""
    found: list[Any] = []
    while len(found) < count:
        name, content = layer.receive(["later"], block=True, timeout=10)
        assert name is not None, f"{found} came, and no more"
        found.append(content)
    name, content = layer.receive(["later"], block=True, timeout=0.3)
    return found if name is None else [*found, content]


def test_sends_that_were_rolled_back_are_sent_again(
    open_layer: Callable[..., ChannelLayer], caplog: pytest.LogCaptureFixture
) -> None:
    layer = open_layer(TransactionalMemory)
    DelayedMessage.objects.create(due_date=timezone.now(), channel_name="later", content='{"text": "tick"}')
    name = DelayedMessage._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TRIGGER stuck BEFORE DELETE ON {name} BEGIN SELECT RAISE(ABORT, 'not now'); END"
        )
    server = serving(layer)
    try:
        wait_until(lambda: "failed; it goes on" in caplog.text)
        assert layer.receive(["later"]) == (None, None)
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER stuck")
        assert received(layer, 1) == [{"text": "tick"}]
        wait_until(lambda: not DelayedMessage.objects.exists())
    finally:
        assert server.stop(10)


@pytest.mark.parametrize("delivery", [{}, {"asgi.delay": AT_LEAST_ONCE}])
def test_a_commit_that_was_not_heard_of_is_not_repeated(
    open_layer: Callable[..., ChannelLayer], monkeypatch: pytest.MonkeyPatch, delivery: dict[str, str]
) -> None:
    layer = open_layer(delivery=delivery)
    commit: Callable[[DatabaseWrapper], Any] = vars(BaseDatabaseWrapper)["_commit"]
    has_failed = threading.Event()

    def deaf(self: DatabaseWrapper) -> Any:
        commit(self)
        if not has_failed.is_set() and DelayedMessage.objects.exists():
            has_failed.set()
            raise OperationalError("the connection broke while the commit was under way")

    monkeypatch.setattr(DatabaseWrapper, "_commit", deaf)
    order(layer, delay=200)
    order(layer, delay=200)
    server = serving(layer)
    try:
        assert received(layer, 2) == [{"text": "tick"}] * 2
        assert has_failed.is_set()
        wait_until(lambda: not Receipt.objects.exists())
    finally:
        assert server.stop(10)


def test_an_order_handed_over_again_is_not_taken_for_an_equal_one_that_was_kept(
    open_layer: Callable[..., ChannelLayer],
) -> None:
    layer = open_layer(delivery={"asgi.delay": AT_LEAST_ONCE})
    backend = layer.backend
    for _ in range(2):
        order(layer, delay=10)
    # One is kept and settled, then the server dies with the other in hand.
    process = backend.open_process("other")
    first = DelayServer(layer)
    first._unkept = list(backend.receive_batch(["asgi.delay"], limit=1, process=process))
    first._process_until = first._leases_until = float("inf")
    headers = dict(first._unkept[0].headers)
    first._keep_orders()
    [lost] = backend.receive_batch(["asgi.delay"], limit=1, process=process)
    lost.headers.update(headers)  # sent in the same millisecond
    backend.close_process(process)
    server = serving(layer)
    try:
        assert received(layer, 2) == [{"text": "tick"}] * 2
    finally:
        assert server.stop(10)


def test_who_stood_still_while_its_orders_went_to_another_keeps_none(
    open_layer: Callable[..., ChannelLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = open_layer(delivery={"asgi.delay": AT_LEAST_ONCE}, process_lease=0.3, lease=0.3)
    has_stood_still, may_go_on = threading.Event(), threading.Event()
    slow = DelayServer(layer, sleep=0.05)

    def standing_still(self: Any, rows: Any, *args: Any, **kwargs: Any) -> Any:
        if self.model is DelayedMessage and threading.current_thread() is slow._thread:
            has_stood_still.set()
            assert may_go_on.wait(10)
        return original(self, rows, *args, **kwargs)

    original = QuerySet.bulk_create
    monkeypatch.setattr(QuerySet, "bulk_create", standing_still)
    order(layer, delay=400)
    slow.start()
    assert has_stood_still.wait(10)
    other = serving(layer)
    try:
        assert received(layer, 1) == [{"text": "tick"}]
        may_go_on.set()
        assert received(layer, 0) == []
        assert not DelayedMessage.objects.exists()
    finally:
        may_go_on.set()
        assert slow.stop(10)
        assert other.stop(10)


def test_who_was_stopped_for_longer_than_a_claim_lasts_sends_nothing_twice(
    open_layer: Callable[..., ChannelLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "CLAIM_TIME", timedelta(0))
    layer = open_layer(TransactionalMemory)
    DelayedMessage.objects.create(due_date=timezone.now(), channel_name="later", content='{"text": "tick"}')
    slow = DelayServer(layer)
    rows = table.claim_due("default", 10)
    server = serving(layer)
    try:
        assert received(layer, 1) == [{"text": "tick"}]
        wait_until(lambda: not DelayedMessage.objects.exists())
        slow._send(rows)
        assert layer.receive(["later"]) == (None, None)
    finally:
        assert server.stop(10)


def test_content_that_is_nested_without_end_holds_up_no_others(
    open_layer: Callable[..., ChannelLayer], caplog: pytest.LogCaptureFixture
) -> None:
    layer = open_layer()
    now = timezone.now()
    for content in ('{"a":' * 100_000, '{"text": "tick"}'):
        DelayedMessage.objects.create(due_date=now, channel_name="later", content=content)
    server = serving(layer)
    try:
        assert received(layer, 1) == [{"text": "tick"}]
        wait_until(lambda: not DelayedMessage.objects.exists())
        assert "cannot be sent and is dropped" in caplog.text
    finally:
        assert server.stop(10)
