"""The delay server in threads, on a real database and a layer in memory: order, time, claims, and what fails."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from channels_core import ChannelLayer
from channels_core.exceptions import LayerUnavailable
from channels_core.layers import AT_LEAST_ONCE, Outcome
from channels_layer_memory.layer import MemoryBackend
from testsite.fixtures import set_up_django
from workbench import wait_until

set_up_django()

from django.db import connection, connections  # noqa: E402 - Django comes first
from django.utils import timezone  # noqa: E402 - as above

from channels_delay import DelayedMessage, DelayServer  # noqa: E402 - as above
from channels_delay.models import Receipt  # noqa: E402 - as above

pytest_plugins = ["testsite.databases"]

MINUTE = 60_000


class Bench:
    """A layer in memory, and delay servers on it that are stopped at the end."""

    def __init__(self) -> None:
        self.layers: list[ChannelLayer] = []
        self.servers: list[DelayServer] = []

    def layer(self, backend: type[MemoryBackend] = MemoryBackend, **options: Any) -> ChannelLayer:
        layer = ChannelLayer(backend(**options))
        self.layers.append(layer)
        return layer

    def serve(self, layer: ChannelLayer, *, sleep: float = 1.0) -> DelayServer:
        server = DelayServer(layer, sleep=sleep)
        self.servers.append(server)
        server.start()
        return server

    def close(self) -> None:
        for server in self.servers:
            assert server.stop(10)
        for layer in self.layers:
            layer.close()


@pytest.fixture
def bench(file_database: Path) -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def order(layer: ChannelLayer, channel: str, content: dict[str, Any], delay: float) -> None:
    layer.send("asgi.delay", {"channel": channel, "content": content, "delay": delay})


def take(layer: ChannelLayer, channel: str, timeout: float = 10.0) -> dict[str, Any]:
    name, content = layer.receive([channel], block=True, timeout=timeout)
    assert name is not None, f"nothing came on {channel} within {timeout} s"
    assert content is not None
    return content


def test_b79_a_message_is_sent_after_its_delay_in_milliseconds_and_its_row_deleted(bench: Bench) -> None:
    layer = bench.layer()
    bench.serve(layer, sleep=5)
    lateness = []
    for _ in range(5):
        started = time.monotonic()
        order(layer, "later", {"text": "hi"}, 120)
        assert take(layer, "later") == {"text": "hi"}
        lateness.append(time.monotonic() - started - 0.120)
    assert min(lateness) >= -0.005  # the clock that dates are read from is another one
    assert min(lateness) < 0.03
    wait_until(lambda: DelayedMessage.objects.count() == 0)


def test_they_are_sent_in_the_order_of_their_dates(bench: Bench) -> None:
    layer = bench.layer()
    bench.serve(layer)
    for delay in (300, 100, 200, 0, -5):
        order(layer, "later", {"delay": delay}, delay)
    assert [take(layer, "later")["delay"] for _ in range(5)] == [0, -5, 100, 200, 300]


def test_the_delay_counts_from_the_moment_of_sending(bench: Bench) -> None:
    layer = bench.layer()
    order(layer, "later", {"text": "late"}, 50)
    order(layer, "later", {"text": "later"}, MINUTE)
    threading.Event().wait(0.1)
    bench.serve(layer)
    started = time.monotonic()
    assert take(layer, "later") == {"text": "late"}
    assert time.monotonic() - started < 0.05 + 0.5
    wait_until(lambda: DelayedMessage.objects.count() == 1)
    row = DelayedMessage.objects.get()
    left = (row.due_date - timezone.now()).total_seconds()
    assert 55 < left <= 60 - 0.1


def test_b78_bytes_and_everything_else_a_message_may_hold_survive(bench: Bench) -> None:
    layer = bench.layer()
    bench.serve(layer)
    content = {
        "bytes": b"\x00\xff",
        "nested": [{"deep": b""}, [1, 2.5, None, True, "\x00 \u20ac"]],
        "like bytes": {"__bytes__": "AA=="},
        "like a dict": {"__dict__": {"__bytes__": 1}},
        "large": 2**63 - 1,
        "float": 1.0,
    }
    order(layer, "later", content, 1)
    assert take(layer, "later") == content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "it lacks 'channel' and 'content' and 'delay'"),
        ({"channel": "later", "content": {}}, "it lacks 'delay'"),
        ({"channel": "later", "content": {}, "delay": "soon"}, "its delay is 'soon'"),
        ({"channel": "later", "content": {}, "delay": True}, "its delay is True"),
        ({"channel": "later", "content": {}, "delay": 1e15}, "longer than 100 years"),
        ({"channel": "not a name", "content": {}, "delay": 1}, "'not a name'"),
        ({"channel": None, "content": {}, "delay": 1}, "None"),
        ({"channel": "later", "content": "text", "delay": 1}, "A message is a dict, not str"),
    ],
)
def test_b78_a_malformed_message_is_logged_and_skipped(
    bench: Bench, caplog: pytest.LogCaptureFixture, content: dict[str, Any], reason: str
) -> None:
    layer = bench.layer()
    layer.send("asgi.delay", content)
    order(layer, "later", {"text": "hi"}, 1)
    bench.serve(layer)
    assert take(layer, "later") == {"text": "hi"}
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.name == "channels.delay"
    assert record.getMessage().startswith("A message on 'asgi.delay' was skipped: ")
    assert reason in record.getMessage()


def test_b78_several_servers_send_each_message_once(bench: Bench) -> None:
    layer = bench.layer(capacity=10_000)
    for _ in range(3):
        bench.serve(layer, sleep=0.05)
    numbers = range(300)
    for number in numbers:
        order(layer, "later", {"number": number}, 200 + number % 50)
    seen = [take(layer, "later", 30)["number"] for _ in numbers]
    assert sorted(seen) == [*numbers]
    wait_until(lambda: DelayedMessage.objects.count() == 0)
    assert layer.receive(["later"]) == (None, None)


def test_a_full_channel_puts_its_messages_off_and_holds_up_no_others(bench: Bench) -> None:
    layer = bench.layer(channel_capacity={"narrow": 2}, capacity=100)
    bench.serve(layer)
    for number in range(5):
        order(layer, "narrow", {"number": number}, 1)
    order(layer, "other", {"text": "hi"}, 2)
    assert take(layer, "other") == {"text": "hi"}
    assert [take(layer, "narrow")["number"] for _ in range(5)] == [0, 1, 2, 3, 4]
    wait_until(lambda: DelayedMessage.objects.count() == 0)


def test_what_can_never_be_sent_is_logged_and_dropped(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    layer = bench.layer(max_message_size=500)
    now = timezone.now()
    make = DelayedMessage.objects.create
    make(due_date=now, channel_name="later", content="{")
    make(due_date=now, channel_name="later", content="[]")
    make(due_date=now, channel_name="no name", content="{}")
    make(due_date=now, channel_name="later", content='{"text": "%s"}' % ("x" * 1000))
    make(due_date=now, channel_name="later", content='{"text": "hi"}')
    bench.serve(layer)
    assert take(layer, "later") == {"text": "hi"}
    wait_until(lambda: DelayedMessage.objects.count() == 0)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 4
    assert all("cannot be sent and is dropped" in text for text in texts)


class Flickering(MemoryBackend):
    """Goes away when told to, as an engine does."""

    is_away = False

    def send_batch(self, sends: Any) -> list[Outcome]:
        if self.is_away:
            raise LayerUnavailable("nobody answers")
        return super().send_batch(sends)

    def receive_batch(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_away:
            raise LayerUnavailable("nobody answers")
        return super().receive_batch(*args, **kwargs)


def test_a_layer_that_is_away_delays_and_loses_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    layer = bench.layer(Flickering)
    backend = layer.backend
    assert isinstance(backend, Flickering)
    bench.serve(layer, sleep=0.05)
    for number in range(10):
        order(layer, "later", {"number": number}, 200)
    wait_until(lambda: DelayedMessage.objects.count() == 10)
    backend.is_away = True
    wait_until(lambda: "is away" in caplog.text)
    threading.Event().wait(0.4)
    assert DelayedMessage.objects.count() == 10
    backend.is_away = False
    assert [take(layer, "later")["number"] for _ in range(10)] == [*range(10)]
    wait_until(lambda: "is back" in caplog.text)
    assert len([record for record in caplog.records if "is away" in record.getMessage()]) == 1


def test_a_database_that_is_away_delays_and_loses_nothing(
    bench: Bench, file_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layer = bench.layer()
    bench.serve(layer, sleep=0.05)
    order(layer, "later", {"number": 0}, 1)
    take(layer, "later")
    wait_until(lambda: DelayedMessage.objects.count() == 0)
    # The table away, as while somebody repairs it.
    name = DelayedMessage._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER TABLE "{name}" RENAME TO "elsewhere"')
    for number in range(3):
        order(layer, "later", {"number": number}, 1)
    wait_until(lambda: "The database of delayed messages is away" in caplog.text)
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER TABLE "elsewhere" RENAME TO "{name}"')
    assert [take(layer, "later")["number"] for _ in range(3)] == [0, 1, 2]
    wait_until(lambda: "The database of delayed messages is back" in caplog.text)


def test_stopped_while_the_database_is_away_it_gives_its_orders_back(bench: Bench) -> None:
    layer = bench.layer()
    server = bench.serve(layer, sleep=0.05)
    name = DelayedMessage._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER TABLE "{name}" RENAME TO "elsewhere"')
    order(layer, "later", {"number": 1}, MINUTE)
    threading.Event().wait(0.2)
    assert server.stop(10)
    assert take(layer, "asgi.delay")["content"] == {"number": 1}


def test_rows_made_by_hand_are_seen_within_sleep(bench: Bench) -> None:
    layer = bench.layer()
    bench.serve(layer, sleep=0.1)
    message = DelayedMessage(channel_name="later", content='{"text": "by hand"}')
    message.delay = 10
    assert message.delay == 10
    message.save()
    assert take(layer, "later", 2) == {"text": "by hand"}


def test_a_server_sends_what_is_for_its_layer_alone(bench: Bench) -> None:
    layer = bench.layer()
    other = ChannelLayer(MemoryBackend(), alias="other")
    bench.layers.append(other)
    bench.serve(layer, sleep=0.05)
    order(other, "later", {"text": "other"}, 1)
    order(layer, "later", {"text": "default"}, 1)
    assert take(layer, "later") == {"text": "default"}
    assert layer.receive(["later"]) == (None, None)
    bench.serve(other, sleep=0.05)
    assert take(other, "later") == {"text": "other"}


def test_a_server_in_the_list_of_processes(bench: Bench) -> None:
    layer = bench.layer()
    server = bench.serve(layer, sleep=0.05)
    wait_until(layer.backend.processes)
    [process] = layer.backend.processes()
    assert process.kind == "other"
    assert process.label.startswith("rundelay ")
    assert server.stop(10)
    assert layer.backend.processes() == []


def test_an_idle_server_hardly_asks_the_database(bench: Bench) -> None:
    layer = bench.layer()
    DelayedMessage.objects.create(
        due_date=timezone.now() + timedelta(minutes=5), channel_name="later", content="{}"
    )
    asked: list[str] = []

    def note(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        asked.append(sql)
        return execute(sql, *rest)

    class Watched(DelayServer):
        def run(self) -> None:
            with connections["default"].execute_wrapper(note):
                super().run()

    server = Watched(layer, sleep=0.5)
    bench.servers.append(server)
    server.start()
    wait_until(lambda: asked)
    threading.Event().wait(1.2)
    assert len([sql for sql in asked if sql.startswith("SELECT")]) <= 4


# Orders that are handed over again.


def redelivered(layer: ChannelLayer, content: dict[str, Any]) -> None:
    """An order whose server died after it had kept it, and before it could say so."""
    layer.send("asgi.delay", content)
    process = layer.backend.open_process("other")
    [delivery] = layer.backend.receive_batch(["asgi.delay"], process=process)
    server = DelayServer(layer)
    server._unkept = [delivery]
    server._process_until = server._leases_until = float("inf")

    def dies(settlements: Any) -> None:
        raise LayerUnavailable("it dies here")

    settle = layer.backend.settle
    layer.backend.settle = dies  # type: ignore[method-assign]  # one that dies before it could say so
    with pytest.raises(LayerUnavailable):
        server._keep_orders()
    layer.backend.settle = settle  # type: ignore[method-assign]  # as above
    layer.backend.close_process(process)


def test_an_order_handed_over_again_is_kept_once(bench: Bench) -> None:
    layer = bench.layer(delivery={"asgi.delay": AT_LEAST_ONCE})
    content = {"channel": "later", "content": {"text": "once"}, "delay": 300}
    redelivered(layer, content)
    assert DelayedMessage.objects.count() == 1
    bench.serve(layer)
    order(layer, "later", {"text": "end"}, 600)
    assert take(layer, "later") == {"text": "once"}
    assert take(layer, "later") == {"text": "end"}
    wait_until(lambda: layer.channel_statistics("asgi.delay")["messages_leased"] == 0)


def test_equal_orders_are_all_kept(bench: Bench) -> None:
    layer = bench.layer(delivery={"asgi.delay": AT_LEAST_ONCE})
    bench.serve(layer)
    for _ in range(5):
        order(layer, "later", {"text": "tick"}, 50)
    assert [take(layer, "later") for _ in range(5)] == [{"text": "tick"}] * 5
    wait_until(lambda: not Receipt.objects.exists())  # they are settled


def test_receipts_are_forgotten_after_an_hour(bench: Bench) -> None:
    now = timezone.now()
    Receipt.objects.create(fingerprint="old", accepted=now - timedelta(hours=2))
    Receipt.objects.create(fingerprint="young", accepted=now - timedelta(minutes=2))
    bench.serve(bench.layer())
    wait_until(lambda: Receipt.objects.count() == 1)
    assert Receipt.objects.get().fingerprint == "young"


# A server that dies with messages in hand.


def test_what_a_dead_server_had_in_hand_becomes_due_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from channels_delay import table

    monkeypatch.setattr(table, "CLAIM_TIME", timedelta(seconds=0.5))
    layer = bench.layer()
    DelayedMessage.objects.create(due_date=timezone.now(), channel_name="later", content="{}")
    [claimed] = table.claim_due("default", 10)
    assert table.claim_due("default", 10) == []
    assert list(DelayedMessage.objects.is_due()) == []
    started = time.monotonic()
    bench.serve(layer, sleep=0.1)
    assert take(layer, "later") == {}
    assert time.monotonic() - started > 0.2
    assert claimed.due_date <= timezone.now()


# The model by itself, as 1.x code uses it.


def test_a_message_sends_itself_and_is_gone(bench: Bench) -> None:
    layer = bench.layer()
    message = DelayedMessage.objects.create(
        due_date=timezone.now(), channel_name="later", content='{"text": "hi"}'
    )
    assert list(DelayedMessage.objects.is_due()) == [message]
    message.send(layer)
    assert take(layer, "later") == {"text": "hi"}
    assert DelayedMessage.objects.count() == 0


def test_a_message_whose_channel_is_full_puts_itself_off(bench: Bench) -> None:
    layer = bench.layer(capacity=1)
    layer.send("later", {})
    message = DelayedMessage.objects.create(due_date=timezone.now(), channel_name="later", content="{}")
    message.send(layer, requeue_delay=2000)
    message.refresh_from_db()
    assert 1 < (message.due_date - timezone.now()).total_seconds() <= 2
    assert list(DelayedMessage.objects.is_due()) == []
