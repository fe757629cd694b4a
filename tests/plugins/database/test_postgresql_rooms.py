"""Rooms of the PostgreSQL engine are counted seldom, and hold what they may hold nevertheless."""

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from channels_core.layers import AT_LEAST_ONCE, Outcome, Send, Settlement, Turn, Verdict
from channels_layer_database import DatabaseLayer
from database_sites import layer_on, on_postgres
from postgres_server import PostgresServer

SENT, FULL, GONE = Outcome.SENT, Outcome.FULL, Outcome.GONE


@pytest.fixture
def site() -> Iterator[tuple[PostgresServer, str]]:
    name = f"rooms_{uuid.uuid4().hex[:8]}"
    with on_postgres(name) as server:
        yield server, name


def message(channel: str, number: int = 0) -> Send:
    return Send(channel, {"n": number}, {}, 20)


def take(layer: DatabaseLayer, channel: str, limit: int = 100, **options: Any) -> list[int]:
    return [one.content["n"] for one in layer.receive_batch([channel], limit=limit, timeout=0, **options)]


@pytest.mark.usefixtures("site")
def test_processes_that_count_apart_fill_a_room_to_the_brim_and_no_further() -> None:
    with ExitStack() as stack:
        layers = [stack.enter_context(layer_on(capacity=50)) for _ in range(3)]
        outcomes = [layers[n % 3].send_one(message("a", n)) for n in range(80)]
        assert outcomes == [SENT] * 50 + [FULL] * 30
        assert take(layers[0], "a", limit=20) == list(range(20))
        outcomes = [layers[n % 3].send_one(message("a", n)) for n in range(30)]
        assert outcomes == [SENT] * 20 + [FULL] * 10


@pytest.mark.usefixtures("site")
def test_what_goes_elsewhere_takes_no_room() -> None:
    with layer_on(capacity=10, channel_capacity={"busy": 10_000}) as layer, layer_on() as other:
        for round_ in range(5):
            assert layer.send_one(message("quiet", round_)) is SENT
            assert layer.send_batch([message("busy")] * 300) == [SENT] * 300
        assert layer.send_batch([message("quiet", n) for n in range(5, 12)]) == [SENT] * 5 + [FULL] * 2
        assert take(other, "quiet") == list(range(10))


@pytest.mark.usefixtures("site")
def test_what_was_taken_makes_room_without_a_count() -> None:
    with layer_on(capacity=10) as layer, layer_on(capacity=10) as other:
        process = layer.open_process("other")
        for number in range(60):
            assert layer.send_one(message("a", number)) is SENT
            assert other.send_one(message(f"in.{process}!x", number)) is SENT
            assert take(layer, f"in.{process}!", process=process) == [number]
            if number % 2:
                assert take(layer, "a", limit=1) + take(other, "a", limit=1) == [number - 1, number]
        outcomes = [(other, layer)[n % 2].send_one(message("a", n)) for n in range(14)]
        assert outcomes == [SENT] * 10 + [FULL] * 4


@pytest.mark.usefixtures("site")
def test_a_batch_for_several_rooms_is_refused_only_what_finds_no_room() -> None:
    with layer_on(capacity=3, inbox_capacity=2) as layer:
        process = layer.open_process("other")
        inbox = f"in.{process}!"
        assert layer.send_batch([message("a"), message(f"{inbox}x"), message("b")]) == [SENT] * 3
        sends = [
            message("a", 1),
            message(f"{inbox}x", 1),
            message("a", 2),
            message(f"{inbox}y", 2),
            message("a", 3),
        ]
        assert layer.send_batch(sends) == [SENT, SENT, SENT, FULL, FULL]
        assert take(layer, inbox, process=process) == [0, 1]
        assert take(layer, "a") == [0, 1, 2]
        layer.close_process(process)
        assert layer.send_batch([message("b"), message(f"{inbox}x"), message("b")]) == [SENT, GONE, SENT]


@pytest.mark.usefixtures("site")
def test_a_turn_whose_sends_find_no_room_is_not_settled_by_halves() -> None:
    with layer_on(capacity=2, delivery={"jobs": AT_LEAST_ONCE}) as layer:
        assert layer.send_batch([message("jobs", 1), message("out", 0)]) == [SENT] * 2
        [job] = layer.receive_batch(["jobs"], timeout=0)
        done = Settlement(job, Verdict.DONE)
        refused = layer.exchange([Turn([message("out", 1), message("out", 2)], done)], ())
        assert refused.outcomes == [[SENT, FULL]]
        assert [(one.pending, one.leased) for one in layer.statistics(["jobs"])] == [(0, 1)]
        assert take(layer, "out") == [0, 1]
        sent = layer.exchange([Turn([message("out", 2), message("out", 3)], done)], ())
        assert sent.outcomes == [[SENT, SENT]]
        assert [(one.pending, one.leased) for one in layer.statistics(["jobs"])] == [(0, 0)]


@pytest.mark.usefixtures("site")
def test_what_is_put_back_takes_room_at_once() -> None:
    with layer_on(capacity=3) as layer:
        assert layer.send_batch([message("a", n) for n in range(2)]) == [SENT] * 2
        taken = layer.receive_batch(["a"], limit=2, timeout=0)
        assert layer.send_one(message("a", 2)) is SENT
        layer.settle([Settlement(one, Verdict.RELEASE) for one in taken])
        assert layer.send_one(message("a", 3)) is FULL
        assert take(layer, "a") == [0, 1, 2]


def test_dead_rows_below_what_waits_are_counted_once_and_not_at_every_send(
    site: tuple[PostgresServer, str],
) -> None:
    server, name = site
    with (
        layer_on(capacity=20) as layer,
        psycopg.connect(**server.parameters(name)) as reader,  # its snapshot keeps all dead rows
        psycopg.connect(**server.parameters(name), autocommit=True) as other,
    ):
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM channels_msg")
        other.execute(
            "INSERT INTO channels_msg (key, expires, body)"
            " SELECT 'a', now() + interval '1 hour', '' FROM generate_series(1, 60000)"
        )
        other.execute("DELETE FROM channels_msg")
        begun = time.monotonic()
        for number in range(300):
            assert layer.send_one(message("a", number)) is SENT
            if number % 10 == 9:
                assert len(take(layer, "a", limit=10)) == 10
        took = time.monotonic() - begun
        assert took < 20, "each count stepped over all dead rows"
