"""The SQLite and MariaDB engines under settings, rows and moments that nobody planned for."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from channels_core.exceptions import LayerUnavailable, TransactionError
from channels_core.layers import AT_LEAST_ONCE, Outcome, Send, Settlement, Verdict
from channels_layer_database import DatabaseLayer
from database_sites import aliased
from mariadb_server import new_server
from serial_sites import SerialSite, on_engine


def sending(channel: str, number: int = 0, **more: Any) -> Send:
    return Send(channel, {"n": number}, {}, 9, **more)


def numbers(deliveries: Any) -> list[int]:
    return [delivery.content["n"] for delivery in deliveries]


@pytest.fixture(params=["sqlite", "mariadb"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SerialSite]:
    with on_engine(request.param, tmp_path) as site:
        yield site


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[SerialSite]:
    with on_engine("mariadb", tmp_path) as site:
        yield site


def execute(layer: Any, sql: str, values: tuple[Any, ...] = ()) -> None:
    layer._run(lambda tx: tx.session.run(sql, values))


def rows(layer: Any, sql: str) -> Any:
    return layer._run(lambda tx: tx.session.rows(sql))


def test_a_row_that_cannot_be_read_is_set_aside(site: SerialSite) -> None:
    layer = site.layer(delivery={"jobs": AT_LEAST_ONCE})
    layer.on_expired = lambda headers: None
    insert = "INSERT INTO channels_msg (`key`, room, size, since, expires, body) VALUES (?, 1, 2, ?, ?, ?)"
    now = time.time()
    for channel in ("a", "jobs"):
        layer.send_one(sending(channel, 1))
        execute(layer, insert, (channel, now, now + 60, b"\xc1\xc1"))
        layer.send_one(sending(channel, 2))
        execute(layer, insert, (channel, now - 60, now - 1, b"\xc1\xc1"))
        found: list[Any] = []
        deadline = time.monotonic() + 10
        while len(found) < 2 and time.monotonic() < deadline:
            found += layer.receive_batch([channel], limit=10, timeout=0.5)
        assert numbers(found) == [1, 2]
        layer.settle([Settlement(one, Verdict.DONE) for one in found])
    assert layer.receive_batch(["a", "jobs"], limit=10, timeout=0) == []
    assert rows(layer, "SELECT count(*) FROM channels_msg") == [(0,)]
    [letter, other] = layer.dead_letters()
    assert (letter.channel, other.channel) == ("a", "jobs")
    assert letter.reason == "It cannot be read: its row holds no message."
    assert letter.content == {"unreadable": b"\xc1\xc1"}
    layer.close()


@pytest.mark.parametrize(
    "command",
    [
        "SET sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES,TRADITIONAL'",
        "SET autocommit = 0",
        "SET SESSION tx_isolation = 'SERIALIZABLE'",
        "SET SESSION TRANSACTION READ ONLY",
        "SET SESSION wait_timeout = 1",
        "SET SESSION time_zone = '-09:30'",
        "SET NAMES latin1",
        "SET SESSION max_statement_time = 0.05",
    ],
)
def test_settings_of_the_project_s_connections_do_not_reach_the_layer_s(
    mariadb: SerialSite, command: str
) -> None:
    from django.db import connections

    connections.settings["serial"]["OPTIONS"] = {"init_command": command}
    layer, other = mariadb.layer(), mariadb.layer()
    content = {
        "quote's": 'say "x" \\ ',
        "bytes": bytes(range(256)),
        "n": 1,
        "text": "\u20ac\U0001f600\x00%s?",
    }
    process = layer.open_process("worker", label="\u20ac\U0001f600")
    assert layer.send_one(Send("a", content, {}, 300)) is Outcome.SENT
    [delivery] = other.receive_batch(["a"], timeout=5)
    assert delivery.content == content
    time.sleep(1.5)
    assert layer.renew_process(process)
    assert layer.send_one(sending("a", 2)) is Outcome.SENT
    assert layer.send_batch([sending("a", 3), sending("b", 4)]) == [Outcome.SENT] * 2
    assert numbers(other.receive_batch(["a"], limit=5, timeout=5)) == [2, 3]
    assert [one.label for one in other.processes()] == ["\u20ac\U0001f600"]
    layer.close()
    other.close()


def test_a_clock_that_is_put_back_in_autumn_does_not_move_the_layer_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    with new_server() as server, aliased("autumn", server.new_database("autumn")):
        layer: Any = DatabaseLayer(using="autumn")
        session = layer._acquire()
        for moment in (1729989000, 1729992600, 1729996200):  # 02:30 twice, then 03:30, in central Europe
            session.run(f"SET timestamp = {moment}")
            layer._synced = -1e9
            assert abs(layer._now(session) - moment) < 5
        layer._release(session)
        layer.close()


def test_a_statement_that_the_server_refuses_is_an_engine_that_is_away(mariadb: SerialSite) -> None:
    layer = mariadb.layer()
    layer.send_one(sending("a"))
    execute(layer, "ALTER TABLE channels_msg DROP COLUMN room")
    for call in (
        lambda: layer.send_one(sending("a")),
        lambda: layer.send_batch([sending("a"), sending("a")]),
        lambda: layer.receive_batch(["a"], timeout=0),
    ):
        with pytest.raises(LayerUnavailable, match="room"):
            call()
    layer.close()


def test_an_exchange_that_is_cancelled_loses_nothing(site: SerialSite) -> None:
    layer = site.layer(capacity=10_000)

    async def exchange_and_cancel() -> None:
        for number in range(30):
            layer.send_batch([sending("a", number)])
            task = asyncio.ensure_future(layer.aexchange([], ["a"], limit=5, timeout=5))
            await asyncio.sleep(number % 4 * 0.0005)
            task.cancel()
            try:
                found = await task
            except asyncio.CancelledError:
                continue
            got.extend(numbers(found.deliveries))

    got: list[int] = []

    async def main() -> None:
        layer_send = layer.send_batch
        layer.send_batch = lambda sends: _in_thread(layer_send, sends)
        await exchange_and_cancel()

    asyncio.run(main())
    deadline = time.monotonic() + 10
    while len(got) < 30 and time.monotonic() < deadline:
        got.extend(numbers(layer.receive_batch(["a"], limit=30, timeout=0.2)))
    assert sorted(got) == list(range(30))
    layer.close()


def _in_thread(call: Any, *arguments: Any) -> Any:
    import threading

    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(call(*arguments)))
    thread.start()
    thread.join()
    return box[0]


def test_a_send_in_a_transaction_without_atomic_belongs_to_it(mariadb: SerialSite) -> None:
    from django.db import connections, transaction

    layer, other = mariadb.layer(transactional=True), mariadb.layer()
    other.send_one(sending("b"))
    connection = connections["serial"]
    try:
        transaction.set_autocommit(False, using="serial")
        assert layer.send_in_transaction([sending("a", 1)]) == [Outcome.SENT]
        assert other.receive_batch(["a"], timeout=0) == []
        transaction.rollback(using="serial")
        assert layer.send_in_transaction([sending("a", 2)]) == [Outcome.SENT]
        transaction.commit(using="serial")
        assert numbers(other.receive_batch(["a"], limit=5, timeout=5)) == [2]
    finally:
        connection.close()
        layer.close()
        other.close()


def test_a_send_in_sqlite_s_transaction_without_atomic_is_refused(tmp_path: Path) -> None:
    from django.db import connections, transaction

    with on_engine("shared", tmp_path) as site:
        layer = site.layer(transactional=True)
        try:
            transaction.set_autocommit(False, using="serial")
            with pytest.raises(TransactionError) as caught:
                layer.send_in_transaction([sending("a", 1)])
            assert str(caught.value) == (
                "The connection to the database 'serial' is without autocommit, and on SQLite a message can be part of"
                " a transaction of transaction.atomic() alone. Use atomic()."
            )
        finally:
            connections["serial"].close()
            layer.close()
