"""The PostgreSQL engine under settings, rows and moments that nobody planned for."""

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import AT_LEAST_ONCE, Outcome, Send, Settlement, Verdict
from channels_layer_database.postgresql.statements import PINS, statements_for
from database_sites import aliased, layer_on, on_postgres
from postgres_server import PostgresServer, need_postgres


def sending(channel: str, number: int = 0, **more: Any) -> Send:
    return Send(channel, {"n": number}, {}, 9, **more)


def numbers(deliveries: Any) -> list[int]:
    return [delivery.content["n"] for delivery in deliveries]


@pytest.fixture
def database() -> Iterator[tuple[PostgresServer, str]]:
    name = f"adversity_{uuid.uuid4().hex[:8]}"
    with on_postgres(name) as server:
        yield server, name


@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "statement_timeout = '25ms'",
        "idle_session_timeout = '300ms'",
    ],
)
def test_settings_of_a_database_do_not_reach_the_layer_s_sessions(
    database: tuple[PostgresServer, str], setting: str
) -> None:
    server, name = database
    server.execute(f"ALTER DATABASE {name} SET {setting}")
    with layer_on(capacity=10_000) as sender, layer_on() as taker:
        found: list[int] = []
        failed: list[Exception] = []

        def read() -> None:
            try:
                while len(found) < 200:
                    found.extend(numbers(taker.receive_batch(["a"], limit=5, timeout=10)))
            except LayerUnavailable as error:
                failed.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.8)  # the sessions are idle for longer than they may be
        with psycopg.connect(
            **server.parameters(name), options="-c default_transaction_read_only=off"
        ) as other:
            other.execute(
                "LOCK TABLE channels_msg IN ACCESS EXCLUSIVE MODE"
            )  # and wait for longer than they may
            threading.Timer(0.3, other.commit).start()
            assert sender.send_one(sending("a", 0)) is Outcome.SENT
        for number in range(1, 200):
            assert sender.send_one(sending("a", number)) is Outcome.SENT
        reader.join(20)
        assert failed == []
        assert sorted(found) == list(range(200))
        [(connections,)] = server.execute(
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'channels'"
        )
        assert connections == 2


def test_memberships_are_forgotten_with_a_flush(database: tuple[PostgresServer, str]) -> None:
    server, name = database
    with layer_on() as layer:
        process = layer.open_process("interface")
        prefix = f"websocket.send.{process}!"
        layer.group_add("g", f"{prefix}one")
        layer.send_one(sending("g", 1, is_group=True))
        assert [one.locals for one in layer.receive_batch([prefix], timeout=5, process=process)] == [("one",)]
        layer.flush()
        layer.group_add("g", f"{prefix}two")
        layer.send_one(sending("g", 2, is_group=True))
        assert [one.locals for one in layer.receive_batch([prefix], timeout=5, process=process)] == [("two",)]
        assert server.execute("SELECT * FROM channels_msg", name) == []


def test_a_row_that_cannot_be_read_is_set_aside(
    database: tuple[PostgresServer, str], caplog: pytest.LogCaptureFixture
) -> None:
    server, name = database
    with layer_on(delivery={"jobs": AT_LEAST_ONCE}, lease=0.5) as layer:
        for channel in ("a", "jobs"):
            layer.send_one(sending(channel, 1))
            server.execute(
                "INSERT INTO channels_msg (key, expires, body) VALUES"
                f" ('{channel}', now() + interval '1 minute', '\\xc1c1')",
                name,
            )
            layer.send_one(sending(channel, 2))
            found: list[Any] = []
            deadline = time.monotonic() + 10
            while len(found) < 2 and time.monotonic() < deadline:
                found += layer.receive_batch([channel], limit=10, timeout=0.5)
            assert numbers(found) == [1, 2]
            layer.settle([Settlement(one, Verdict.DONE) for one in found])
            assert server.execute("SELECT * FROM channels_msg", name) == []
        [letter, other] = layer.dead_letters()
        assert (letter.channel, other.channel) == ("a", "jobs")
        assert letter.reason == "It cannot be read: its row holds no message."
        assert letter.content == {"unreadable": b"\xc1\xc1"}


def test_notifications_of_others_do_no_harm(database: tuple[PostgresServer, str]) -> None:
    server, name = database
    with layer_on() as layer:
        found: list[int] = []
        reader = threading.Thread(
            target=lambda: found.extend(numbers(layer.receive_batch(["a"], timeout=20)))
        )
        reader.start()
        deadline = time.monotonic() + 10
        while not any(
            station.is_listening for hub in list(layer._hubs.values()) for station in hub._stations.values()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for payload in ("", "nonsense", "-" + "9" * 40, "9" * 40):
            server.execute(f"SELECT pg_notify('channels_' || md5('a'), '{payload}')", name)
        time.sleep(0.2)
        assert reader.is_alive()
        layer.send_one(sending("a", 1))
        reader.join(5)
        assert found == [1]


def test_what_waits_for_an_answer_hears_of_the_layer_s_end(database: tuple[PostgresServer, str]) -> None:
    server, name = database
    with layer_on() as layer:
        layer.send_one(sending("a"))
        heard: list[Any] = []

        def send() -> None:
            try:
                heard.append(layer.send_one(sending("a")))
            except LayerUnavailable as error:
                heard.append(error)

        with psycopg.connect(**server.parameters(name)) as other:
            other.execute("LOCK TABLE channels_msg IN ACCESS EXCLUSIVE MODE")
            sender = threading.Thread(target=send, daemon=True)
            sender.start()
            while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
                time.sleep(0.01)
            layer.close()
            sender.join(10)
            assert heard == [Outcome.UNCERTAIN]


def test_a_server_that_does_not_answer_is_given_up(database: tuple[PostgresServer, str]) -> None:
    server, name = database
    with layer_on(answer_timeout=1.0) as layer:
        layer.send_one(sending("a"))
        with psycopg.connect(**server.parameters(name)) as other:
            other.execute("LOCK TABLE channels_msg IN ACCESS EXCLUSIVE MODE")
            begun = time.monotonic()
            assert layer.send_one(sending("a")) is Outcome.UNCERTAIN
            assert 0.9 < time.monotonic() - begun < 5
        assert layer.send_one(sending("a")) is Outcome.SENT


def test_what_could_not_be_put_back_can_be_put_back_later() -> None:
    need_postgres()
    server = PostgresServer()
    try:
        server.start()
        with on_postgres("later", server=server), layer_on() as layer:
            layer.send_one(sending("a", 1))
            layer.send_one(sending("a", 2))
            found = layer.receive_batch(["a"], limit=2, timeout=5)
            assert numbers(found) == [1, 2]
            server.stop()
            settlements = [Settlement(found[0], Verdict.REQUEUE), Settlement(found[1], Verdict.RELEASE)]
            for _ in range(3):
                with pytest.raises(LayerUnavailable):
                    layer.settle(settlements)
            server.start()
            deadline = time.monotonic() + 20
            while True:
                try:
                    layer.settle(settlements)
                    break
                except LayerUnavailable:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            assert sorted(numbers(layer.receive_batch(["a"], limit=2, timeout=5))) == [1, 2]
    finally:
        server.remove()


def test_a_member_that_comes_while_the_last_one_goes_stays(database: tuple[PostgresServer, str]) -> None:
    server, name = database
    with layer_on() as layer:
        process = layer.open_process("interface")
        prefix = f"websocket.send.{process}!"
        layer.group_add("g", f"{prefix}old")
        with psycopg.connect(**server.parameters(name)) as other:
            # A second member is being added by another process, whose transaction lasts.
            other.execute("UPDATE channels_grp SET newest = statement_timestamp() WHERE grp = 'g'")
            closing = threading.Thread(target=layer.close_channel, args=(f"{prefix}old",))
            closing.start()
            while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
                time.sleep(0.01)
            other.execute(
                "INSERT INTO channels_member (grp, target, channel, proc) VALUES ('g', %s, %s, %s)",
                (prefix, f"{prefix}new", process),
            )
            other.commit()
            closing.join(10)
        assert server.execute("SELECT count(*) FROM channels_grp", name) == [(1,)]


def _fill_notifications(server: PostgresServer, name: str) -> None:
    flood = "SELECT count(pg_notify('flood', n || repeat('x', 4000))) FROM generate_series(1, 200) n"
    with psycopg.connect(**server.parameters(name), autocommit=True) as other:
        for _ in range(100):
            try:
                other.execute(flood)
            except psycopg.Error as error:
                if "too many notifications" in str(error):
                    return
                raise
    pytest.fail("The queue took everything.")


def test_a_full_queue_of_notifications_does_not_stop_senders() -> None:
    need_postgres()
    server = PostgresServer(max_notify_queue_pages="64")
    try:
        server.start()
        if server.execute("SELECT current_setting('server_version_num')::int") < [(170000,)]:
            pytest.skip("The queue's size cannot be set before PostgreSQL 17.")
        with on_postgres("mute", server=server), layer_on(capacity=10**6) as layer:
            with psycopg.connect(**server.parameters("mute")) as stuck:
                stuck.execute("LISTEN nothing")
                stuck.commit()
                stuck.execute("SELECT 1")  # and stays in its transaction: the queue cannot move on
                _fill_notifications(server, "mute")
                found: list[int] = []
                reader = threading.Thread(
                    target=lambda: found.extend(numbers(layer.receive_batch(["a"], timeout=20)))
                )
                reader.start()
                assert layer.send_one(sending("a", 1)) is Outcome.SENT
                layer.group_add("g", "b")
                layer.send_one(sending("g", 2, is_group=True))
                reader.join(10)
                assert found == [1]
                assert numbers(layer.receive_batch(["b"], timeout=0)) == [2]
    finally:
        server.remove()


def test_names_of_channels_are_forgotten_with_their_readers(database: tuple[PostgresServer, str]) -> None:
    with layer_on() as layer:
        for number in range(20):
            name = f"body?{number}"
            layer.send_one(sending(name, number))
            assert numbers(layer.receive_batch([name], timeout=5)) == [number]
        [hub] = layer._hubs.values()
        assert len(hub._names) <= len(hub._stations)
        hub.loop.call_soon_threadsafe(hub._prune)
        hub.loop.call_soon_threadsafe(hub._prune)
        deadline = time.monotonic() + 5
        while hub._stations or hub._names:
            assert time.monotonic() < deadline, hub._names
            time.sleep(0.01)


def test_a_send_in_a_transaction_without_atomic_belongs_to_it(database: tuple[PostgresServer, str]) -> None:
    from django.db import connections, transaction

    server, name = database
    with layer_on(transactional=True) as layer:
        connection = connections["channels_pg"]
        try:
            transaction.set_autocommit(False, using="channels_pg")
            assert layer.send_in_transaction([sending("a", 1)]) == [Outcome.SENT]
            assert server.execute("SELECT count(*) FROM channels_msg", name) == [(0,)]
            transaction.rollback(using="channels_pg")
            assert layer.send_in_transaction([sending("a", 2)]) == [Outcome.SENT]
            transaction.commit(using="channels_pg")
            assert numbers(layer.receive_batch(["a"], limit=5, timeout=5)) == [2]
        finally:
            connection.close()


def test_a_broadcast_to_an_at_least_once_channel_outlives_a_crash() -> None:
    need_postgres()
    server = PostgresServer(durable=True, wal_writer_delay="'10s'")
    try:
        server.start()
        options = {"delivery": {"jobs": AT_LEAST_ONCE}}
        with on_postgres("crash", server=server), layer_on(**options) as layer:
            layer.group_add("g", "jobs")
            server.execute("CREATE TABLE a_commit_that_waits_for_the_disk ()", "crash")
            layer.send_one(sending("g", 1, is_group=True))
            server.stop(signal.SIGQUIT)
            server.start()
        with aliased("channels_pg", server.settings("crash")), layer_on(**options) as layer:
            assert numbers(layer.receive_batch(["jobs"], timeout=5)) == [1]
    finally:
        server.remove()


def test_cleaning_beside_traffic_steps_over_no_backlog(database: tuple[PostgresServer, str]) -> None:
    server, name = database
    server.execute(
        "INSERT INTO channels_msg (key, expires, body) SELECT 'jobs', now() - interval '1 minute', ''"
        " FROM generate_series(1, 300)",
        name,
    )
    server.execute(
        "INSERT INTO channels_msg (key, expires, body) SELECT 'jobs', now() + interval '1 hour', ''"
        " FROM generate_series(1, 100000)",
        name,
    )
    sweep = statements_for("channels_").sweep.text.decode()
    with psycopg.connect(**server.parameters(name), autocommit=True) as other:
        for option, value in PINS.items():
            other.execute(f"SET {option} = {value}")
        other.execute(f"PREPARE sweep AS {sweep}")
        assert other.execute("EXECUTE sweep(ARRAY['jobs', 'none'], 500)").rowcount == 300
        [[plan]] = other.execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE sweep(ARRAY['jobs', 'none'], 500)"
        ).fetchall()
    pages = plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]
    assert pages < 400, "of the thousands that the backlog has"
