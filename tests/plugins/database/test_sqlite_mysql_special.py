"""What is particular to the layer on SQLite and MariaDB: files, transactions, restarts, cleaning, idleness, errors."""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from channels_core.exceptions import InvalidChannelLayerError, LayerUnavailable, TransactionError
from channels_core.layers import AT_LEAST_ONCE, Outcome, Send, Settlement, Verdict
from channels_layer_database.dbapi import figures
from channels_layer_database.dbapi.doorbell import Doorbell, short_directory
from channels_layer_database.dbapi.mysql import MySQLLayer, MySQLSession
from channels_layer_database.dbapi.sqlite import SQLiteLayer
from database_sites import aliased
from serial_sites import SerialSite, on_engine

SENT, FULL = Outcome.SENT, Outcome.FULL


def sending(channel: str, number: int = 0) -> Send:
    return Send(channel, {"n": number}, {}, 20)


def numbers(deliveries: Any) -> list[int]:
    return [delivery.content["n"] for delivery in deliveries]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[SerialSite]:
    with on_engine("sqlite", tmp_path) as site:
        yield site


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SerialSite]:
    with on_engine("shared", tmp_path) as site:
        yield site


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[SerialSite]:
    with on_engine("mariadb", tmp_path) as site:
        yield site


# Files.


def test_the_layer_has_a_file_of_its_own_beside_the_project_s(own: SerialSite, tmp_path: Path) -> None:
    layer = own.layer()
    layer.send_one(sending("a"))
    assert (tmp_path / "project.sqlite3.channels").exists()
    assert not (tmp_path / "project.sqlite3").exists()
    layer.receive_batch(["b"], timeout=0.01)
    assert layer.doorbell.directory == tmp_path / "project.sqlite3.channels.d"
    assert layer.doorbell.directory.stat().st_mode & 0o777 == 0o700
    bells = list((layer.doorbell.directory / "b").iterdir())
    assert {bell.stat().st_mode & 0o777 for bell in bells} == {0o600}
    layer.close()
    assert list((tmp_path / "project.sqlite3.channels.d" / "b").iterdir()) == []


def test_another_file_can_be_named(tmp_path: Path) -> None:
    layer = SQLiteLayer(file=tmp_path / "other")
    layer.send_one(sending("a", 1))
    with closing(sqlite3.connect(tmp_path / "other")) as connection:
        assert connection.execute("SELECT `key` FROM channels_msg").fetchall() == [("a",)]
        assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    layer.close()


def test_the_log_is_copied_into_the_file_beside_traffic(tmp_path: Path) -> None:
    layer = SQLiteLayer(file=tmp_path / "layer", capacity=10_000)
    log = tmp_path / "layer-wal"

    def pass_through(count: int) -> None:
        body = {"bytes": b"x" * 100_000}
        for _ in range(count):
            assert layer.send_one(Send("a", body, {}, 100_000)) is SENT
        assert len(layer.receive_batch(["a"], limit=1000, timeout=0)) == count

    pass_through(300)
    # However slow the disk is: a copy with no writer beside it is whole, and the next writer begins the log anew.
    for _ in range(3):
        deadline = time.monotonic() + 60
        while layer._is_copying and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not layer._is_copying
        pass_through(20)
    size = log.stat().st_size
    assert size < 30_000_000, "36 MB went through, and the log is of what went through last"
    layer.close()


def test_a_path_too_long_for_sockets_has_its_bells_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    layer = SQLiteLayer(file=folder / "layer")
    assert layer.doorbell.directory == short_directory(str(folder / "layer.d"))
    reader = SQLiteLayer(file=folder / "layer")
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.extend(reader.receive_batch(["a"], timeout=10)))
    waiting.start()
    layer.send_one(sending("a", 1))
    waiting.join(20)
    assert numbers(found) == [1]
    layer.close()
    reader.close()


def test_a_directory_that_others_may_enter_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "bells"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    doorbell = Doorbell(folder)
    with caplog.at_level(logging.WARNING, "channels.layer.database"):
        assert doorbell.directory is None
    assert caplog.messages == [
        f"Readers poll for messages, since the doorbell's directory {folder} is not this user's alone (owner"
        f" {folder.stat().st_uid}, mode 755). Run all processes of the site as one user, and set the mode to 700."
    ]
    doorbell.close()


# Transactions.


@pytest.fixture(params=["shared", "mariadb"])
def transactional(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SerialSite]:
    with on_engine(request.param, tmp_path, transactional=True) as site:
        from django.db import connections

        with connections["serial"].cursor() as cursor:
            cursor.execute("CREATE TABLE orders (number INTEGER)")
        yield site


def test_messages_commit_and_roll_back_with_the_rows_around_them(transactional: SerialSite) -> None:
    from django.db import connections, transaction

    layer = transactional.layer(capacity=1000)
    layer.flush()  # makes the tables
    assert layer.transactional_by_default
    for number in range(20):
        with suppress(ZeroDivisionError), transaction.atomic("serial"):
            with connections["serial"].cursor() as cursor:
                cursor.execute("INSERT INTO orders VALUES (%s)", [number])
            assert layer.send_in_transaction([sending("a", number)]) == [SENT]
            if number % 2:
                raise ZeroDivisionError
    with connections["serial"].cursor() as cursor:
        cursor.execute("SELECT number FROM orders ORDER BY number")
        committed = [row[0] for row in cursor.fetchall()]
    assert committed == list(range(0, 20, 2))
    assert numbers(layer.receive_batch(["a"], limit=100, timeout=5)) == committed
    assert layer.receive_batch(["a"], timeout=0) == []
    assert layer.counters.sent == 10
    layer.close()


def test_in_a_shared_file_every_write_in_an_atomic_block_belongs_to_it(shared: SerialSite) -> None:
    """A connection of the layer's own would wait for the lock that this thread holds."""
    from django.db import connections, transaction

    layer = shared.layer()
    layer.flush()  # makes the tables
    begun = time.monotonic()
    with suppress(ZeroDivisionError), transaction.atomic("serial"):
        with connections["serial"].cursor() as cursor:
            cursor.execute("CREATE TABLE held (number INTEGER)")
        assert layer.send_one(sending("a", 1)) is SENT
        layer.group_add("g", "a")
        raise ZeroDivisionError
    assert time.monotonic() - begun < 5
    assert layer.receive_batch(["a"], timeout=0) == []
    assert layer.group_channels("g") == []
    layer.close()


def test_an_open_transaction_without_atomic_is_an_error_at_once(shared: SerialSite) -> None:
    from django.db import connections

    layer = shared.layer()
    layer.send_one(sending("a"))
    connection = connections["serial"]
    connection.ensure_connection()
    connection.connection.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(TransactionError) as raised:
            layer.send_one(sending("a"))
    finally:
        connection.connection.execute("ROLLBACK")
    assert str(raised.value) == (
        "This thread has a transaction open on the database 'serial' without transaction.atomic(), and holds the"
        " file's lock: the layer would wait for it for ever. Use atomic(), or commit first."
    )
    layer.close()


def test_a_layer_with_a_file_of_its_own_writes_in_no_transaction(own: SerialSite, tmp_path: Path) -> None:
    layer = own.layer()
    assert not layer.is_transactional
    with pytest.raises(TransactionError) as raised:
        layer.send_in_transaction([sending("a")])
    assert str(raised.value) == (
        f"The layer keeps its messages in a file of its own ({tmp_path / 'project.sqlite3.channels'}), so none can be"
        " written in a transaction of the database 'serial'. Set 'transactional' or 'shared' to True in the layer's"
        " CONFIG, or send with on_commit=True."
    )
    layer.close()


# MariaDB.


def test_nobody_waits_for_an_open_transaction(mariadb: SerialSite) -> None:
    """Neither readers for somebody's open insert, nor senders for a reader's gap lock on an empty queue."""
    from django.db import transaction

    layer = mariadb.layer(delivery={"jobs": AT_LEAST_ONCE})
    layer.receive_batch(["a", "jobs"], timeout=0)
    begun = time.monotonic()
    with transaction.atomic("serial"):
        layer.send_in_transaction([sending("a", 1), sending("jobs", 1)])
        layer.send_batch([sending("a", 2), sending("jobs", 2)])
        assert numbers(layer.receive_batch(["a"], limit=9, timeout=0)) == [2]
        [job] = layer.receive_batch(["jobs"], limit=9, timeout=0)
        layer.settle([Settlement(job, Verdict.DONE)])
        for _ in range(5):
            assert layer.receive_batch(["a", "jobs"], timeout=0) == []
            layer.send_one(sending("b"))
    assert time.monotonic() - begun < 4, "a lock wait would have taken 5 seconds"
    assert numbers(layer.receive_batch(["a"], timeout=5)) == [1]
    layer.close()


def test_the_layer_comes_back_with_the_server() -> None:
    from mariadb_server import new_server

    with new_server() as server, aliased("restarted", server.new_database("restarted")):
        layer = MySQLLayer(using="restarted", create_tables=True)
        assert layer.send_batch([sending("a", number) for number in range(3)]) == [SENT] * 3
        server.stop()
        with pytest.raises(LayerUnavailable, match=r"is away|No connection to the server"):
            layer.send_batch([sending("a", 9)])
        server.start()
        assert layer.send_batch([sending("a", 3)]) == [SENT]
        assert numbers(layer.receive_batch(["a"], limit=9, timeout=5)) == [0, 1, 2, 3]
        layer.close()


def test_a_server_without_skip_locked_is_refused(mariadb: SerialSite) -> None:
    layer = mariadb.layer()

    class Old:
        def rows(self, sql: str) -> list[tuple[str]]:
            return [("10.5.23-MariaDB-log",)]

    with pytest.raises(InvalidChannelLayerError) as raised:
        layer._check_version(Old())
    assert str(raised.value) == (
        f"The server of the layer ({layer.describe()}) is 10.5.23-MariaDB-log: SKIP LOCKED, without which readers would"
        " wait for each other, needs MariaDB 10.6 or MySQL 8.0.1. Use a newer server, or another layer."
    )
    layer.close()


def test_missing_tables_are_named(mariadb: SerialSite) -> None:
    layer = mariadb.layer(create_tables=False, prefix="nowhere_")
    with pytest.raises(LayerUnavailable, match=r"tables of the layer are not in its database .* run migrate"):
        layer.send_batch([sending("a")])
    layer.close()


# Cleaning and idleness.


@pytest.mark.parametrize("engine", ["sqlite", "mariadb"])
def test_clean_deletes_what_nobody_will_read(engine: str, tmp_path: Path) -> None:
    with on_engine(engine, tmp_path) as site:
        now = 1_000_000.0
        layer = site.layer(capacity=10_000, expiry=10.0, clock=lambda: now)
        process = layer.open_process("interface")
        for number in range(5):
            layer.send_batch([sending(f"old.{number}", index) for index in range(100)])
        layer.group_add("g", f"in.{process}!x")
        layer.group_discard("g", f"in.{process}!x")
        layer.group_add("h", "a")
        now += 30.0
        layer.send_batch([sending("new")])
        assert layer.clean() >= 501
        assert [figures.channel for figures in layer.statistics()] == ["new"]
        assert layer.counters.expired == 500
        assert layer.groups() == {"h": 1}
        now += 100_000.0
        layer.clean()
        assert (layer.groups(), layer.statistics(), layer.clean()) == ({}, [], 0)
        layer.close()


@pytest.mark.parametrize("engine", ["sqlite", "mariadb"])
def test_cleaning_deletes_a_few_at_a_time(engine: str, tmp_path: Path) -> None:
    """So nobody waits for it for longer than that takes, however much there is; and a few of many channels are one
    transaction too."""
    with on_engine(engine, tmp_path) as site:
        now = 1_000_000.0
        layer = site.layer(capacity=10_000, expiry=10.0, clock=lambda: now)
        for number in range(10):
            layer.send_batch([sending(f"old.{index}", number) for index in range(100)])
        now += 30.0
        layer.send_batch([sending("new")])
        deleted: list[int] = []
        after = layer._after

        def record(tx: Any) -> None:
            after(tx)
            if "expired" in tx.counts:
                deleted.append(tx.counts["expired"])

        layer._after = record
        assert layer.clean() == sum(deleted) == 1000
        assert len(deleted) == 1000 / figures.AT_ONCE
        assert set(deleted) == {figures.AT_ONCE}
        assert numbers(layer.receive_batch(["new"], limit=2, timeout=0)) == [0]
        layer.close()


def test_a_number_that_is_given_anew_while_cleaning_is_not_deleted(own: SerialSite) -> None:
    """SQLite gives the highest number again once its row is gone."""
    now = 1_000_000.0
    layer = own.layer(expiry=10.0, clock=lambda: now)
    other = own.layer(expiry=10.0, clock=lambda: now)
    layer.send_one(sending("a", 1))
    now += 30.0

    def clean(tx: Any) -> tuple[int, int | None]:
        look = tx.session.rows

        def look_for_long(*query: Any) -> Any:
            tx.session.rows = look
            found = look(*query)
            assert other.receive_batch(["a"], timeout=0) == []
            other.send_one(sending("a", 2))
            return found

        tx.session.rows = look_for_long
        return figures.clean_some(tx, -1)

    assert layer._run(clean, is_whole=False)[0] == 0
    assert numbers(layer.receive_batch(["a"], limit=2, timeout=0)) == [2]
    layer.close()
    other.close()


def test_an_idle_reader_of_sqlite_asks_less_than_twice_a_second(own: SerialSite) -> None:
    layer = own.layer(delivery={"jobs": AT_LEAST_ONCE})
    process = layer.open_process("worker")
    layer.receive_batch(["a", "jobs"], timeout=0)
    statements: list[str] = []
    layer._session.connection.set_trace_callback(statements.append)
    begun, cpu = time.monotonic(), time.thread_time()
    assert layer.receive_batch(["a", "jobs"], timeout=4.0, process=process) == []
    assert len(statements) <= 2 * (time.monotonic() - begun)
    assert time.thread_time() - cpu < 0.04 * 4
    layer.close()


def test_an_idle_process_on_mariadb_asks_less_than_twice_a_second(
    mariadb: SerialSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of its readers wait."""
    layer = mariadb.layer(delivery={"jobs": AT_LEAST_ONCE})
    process = layer.open_process("worker")
    layer.receive_batch(["a", "jobs"], timeout=0)
    layer._last_found -= 60.0  # since when nothing has come

    def receive(channel: str) -> None:
        assert layer.receive_batch([channel, "jobs"], timeout=5.0, process=process) == []

    statements: list[str] = []
    execute = MySQLSession._execute

    def record(session: Any, sql: str, *more: Any, **options: Any) -> Any:
        statements.append(sql)
        return execute(session, sql, *more, **options)

    readers = [threading.Thread(target=receive, args=(channel,)) for channel in "abc"]
    for reader in readers:
        reader.start()
    time.sleep(0.5)  # they have looked, and rest
    monkeypatch.setattr(MySQLSession, "_execute", record)
    begun = time.monotonic()
    time.sleep(3.5)
    asked, took = list(statements), time.monotonic() - begun
    assert 1 <= len(asked) < 2 * took
    for reader in readers:
        reader.join(20)
    layer.close()


@pytest.mark.parametrize("engine", ["sqlite", "mariadb"])
def test_tasks_that_send_at_once_share_a_transaction(engine: str, tmp_path: Path) -> None:
    with on_engine(engine, tmp_path, capacity=50) as site:
        layer = site.layer()

        async def send_all() -> list[Outcome]:
            return await asyncio.gather(*(layer.asend_one(sending("a", number)) for number in range(60)))

        assert asyncio.run(send_all()) == [SENT] * 50 + [FULL] * 10
        assert numbers(layer.receive_batch(["a"], limit=100, timeout=0)) == list(range(50))
        layer.close()


# Errors.


@pytest.mark.parametrize("name", [":memory:", "file:memorydb_default?mode=memory&cache=shared"])
def test_a_database_in_memory_is_refused(name: str) -> None:
    with aliased("memory", {"ENGINE": "django.db.backends.sqlite3", "NAME": name}):
        with pytest.raises(InvalidChannelLayerError) as raised:
            SQLiteLayer(using="memory")
    assert str(raised.value) == (
        f"The database 'memory' is a SQLite database in memory ({name!r}), which no other process can read. Give its"
        " TEST a NAME, or the layer's CONFIG a 'file', or use the layer 'memory' in tests."
    )


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidChannelLayerError) as raised:
        SQLiteLayer(file=tmp_path / "x", synchronous="FAST")
    assert str(raised.value) == "Option synchronous is 'FAST': it must be 'OFF', 'NORMAL' or 'FULL'."
    with pytest.raises(InvalidChannelLayerError) as raised:
        SQLiteLayer(file=tmp_path / "x", shared=True)
    assert str(raised.value) == (
        "Option file names a file of the layer's own, and shared or transactional keep messages in the file of the"
        " alias 'default': give one or the other."
    )
    with pytest.raises(InvalidChannelLayerError) as raised:
        MySQLLayer(idle_interval=0)
    assert str(raised.value) == (
        "Option idle_interval is 0: it must be a number of seconds above 0, at most 60."
    )


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    layer = SQLiteLayer(file=tmp_path / "nowhere" / "layer", doorbell=False)
    with pytest.raises(LayerUnavailable) as raised:
        layer.send_one(sending("a"))
    assert str(raised.value) == (
        f"SQLite cannot open the layer's file ({tmp_path / 'nowhere' / 'layer'}): unable to open database file. Its"
        " directory has to exist and to be writable."
    )


def test_a_lock_that_is_never_given_back_is_an_error_after_a_while(tmp_path: Path) -> None:
    class Impatient(SQLiteLayer):
        patience = 0.3

    layer = Impatient(file=tmp_path / "layer")
    layer.send_one(sending("a"))
    with closing(sqlite3.connect(tmp_path / "layer", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LayerUnavailable) as raised:
            layer.send_one(sending("a"))
        with pytest.raises(LayerUnavailable):
            asyncio.run(layer.asend_one(sending("a")))
    assert str(raised.value) == (
        f"The database of the layer ({tmp_path / 'layer'}) was busy for 0 s; nothing was done. Look for a transaction"
        " that stays open."
    )
    layer.close()
    with pytest.raises(LayerUnavailable, match=r"^The layer \(.*\) is closed\. Make another one\.$"):
        layer.send_one(sending("a"))
