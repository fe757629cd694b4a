"""What only many processes at once can show of the PostgreSQL engine: one reader for each message, and none skipped."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from channels_core.layers import AT_LEAST_ONCE, Outcome, Send
from database_sites import layer_on, on_postgres
from postgres_server import PostgresServer

SITE = Path(__file__).parents[2] / "site"


class Database:
    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name

    def start(self, role: str, **options: Any) -> subprocess.Popen[str]:
        options = {"entry": self.server.settings(self.name), "config": {}, **options}
        environ = {**os.environ, "PYTHONPATH": str(SITE)}
        return subprocess.Popen(
            [sys.executable, "-m", "database_worker", role, json.dumps(options)],
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
        )

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(**self.server.parameters(self.name))


@pytest.fixture
def database() -> Iterator[Database]:
    name = f"races_{uuid.uuid4().hex[:8]}"
    with on_postgres(name) as server:
        yield Database(server, name)


def stop(readers: int, config: dict[str, Any]) -> None:
    """Tell each reader, behind everything else, that this was all."""
    with layer_on(**config) as layer:
        left = readers
        deadline = time.monotonic() + 60
        while left and time.monotonic() < deadline:
            outcomes = layer.send_batch([Send("work", {"w": -1, "n": 0}, {}, 20)] * left)
            left -= outcomes.count(Outcome.SENT)
        assert left == 0


def lines_of(process: subprocess.Popen[str]) -> list[tuple[int, int]]:
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    return [(w, n) for line in output.splitlines() if line.startswith("[") for w, n in json.loads(line)]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("delivery", ["at-most-once", "at-least-once"])
def test_eight_writers_and_eight_readers_each_message_once(database: Database, delivery: str) -> None:
    config = {"capacity": 200, "delivery": {"work": delivery}}
    readers = [database.start("read", config=config, channel="work") for _ in range(8)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    writers = [
        database.start("write", config=config, channel="work", writer=number, count=250)
        for number in range(8)
    ]
    assert [writer.communicate(timeout=100)[0] for writer in writers] == ["done\n"] * 8
    stop(len(readers), config)
    received = Counter(pair for reader in readers for pair in lines_of(reader))
    assert received == Counter((w, n) for w in range(8) for n in range(250))


@pytest.mark.timeout(150)
def test_late_commits_lose_nothing(database: Database) -> None:
    config = {"capacity": 10_000}
    readers = [database.start("read", config=config, channel="work", limit=1) for _ in range(4)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    writers = [
        database.start("commit_late", config=config, channel="work", writer=number, count=500)
        for number in range(8)
    ]
    assert [writer.communicate(timeout=120)[0] for writer in writers] == ["done\n"] * 8
    stop(len(readers), config)
    received = Counter(pair for reader in readers for pair in lines_of(reader))
    assert received == Counter((w, n) for w in range(8) for n in range(500))


def test_what_commits_after_a_higher_id_was_read_is_received_at_once(database: Database) -> None:
    from django.db import connections, transaction

    with layer_on() as layer:
        found: list[int] = []

        def read() -> None:
            while len(found) < 2:
                found.extend(one.content["n"] for one in layer.receive_batch(["a"], limit=1, timeout=20))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            with transaction.atomic(using="channels_pg"):
                assert layer.send_in_transaction([Send("a", {"n": 1}, {}, 9)]) == [Outcome.SENT]
                assert layer.send_one(Send("a", {"n": 2}, {}, 9)) is Outcome.SENT
                deadline = time.monotonic() + 20
                while not found and time.monotonic() < deadline:
                    time.sleep(0.005)  # the reader is another thread and tells nobody
                begun = time.monotonic()
            reader.join(20)
        finally:
            connections["channels_pg"].close()
        assert found == [2, 1]
        assert time.monotonic() - begun < 0.4, "announced by its id, not found by the sweep"


def test_an_open_snapshot_does_not_slow_readers_down(database: Database) -> None:
    with layer_on(capacity=10**6) as layer, database.connect() as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM channels_msg")

        def pairs() -> float:
            begun = time.perf_counter()
            for number in range(150):
                layer.send_one(Send("a", {"n": number}, {}, 9))
                assert [one.content["n"] for one in layer.receive_batch(["a"], timeout=20)] == [number]
            return 150 / (time.perf_counter() - begun)

        pairs()
        before = pairs()
        for _ in range(20):  # dead rows that nobody may remove: the snapshot could still look at them
            layer.send_batch([Send("a", {"n": 0}, {}, 9)] * 1000)
            assert len(layer.receive_batch(["a"], limit=1000, timeout=20)) == 1000
        best = max(
            pairs() for _ in range(5)
        )  # dead rows slow each round down, a busy machine not all of them
        assert best > before / 4
        other.rollback()


def test_a_lost_notification_costs_a_bounded_delay(database: Database) -> None:
    with layer_on() as layer:
        waiting: list[Any] = []
        reader = threading.Thread(
            target=lambda: waiting.extend(layer.receive_batch(["a"], timeout=20)), daemon=True
        )
        reader.start()
        _wait_for_listener(database)
        begun = time.monotonic()
        with database.connect() as other:
            other.execute(  # written by nobody who would announce it
                "INSERT INTO channels_msg (key, size, expires, body)"
                " VALUES ('a', 9, now() + interval '1 minute', %s)",
                (b"\x91\x81\xa1n\x07",),
            )
        reader.join(20)
        assert [one.content for one in waiting] == [{"n": 7}]
        assert time.monotonic() - begun < 6.0


def _wait_for_listener(database: Database) -> None:
    deadline = time.monotonic() + 20
    asked = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE query LIKE '%%FOR UPDATE OF m SKIP LOCKED%%' AND state = 'idle' AND datname = %s"
    )
    with database.connect() as other:
        other.autocommit = True
        while not other.execute(asked, (database.name,)).fetchall()[0][0]:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_killed_holder_s_messages_come_back(database: Database) -> None:
    options = {"delivery": {"jobs": AT_LEAST_ONCE}, "process_lease": 1.0}
    with layer_on(**options) as layer, layer_on(**options) as other:
        process = other.open_process("worker")
        alive = layer.open_process("worker")  # by its renewals the others' silence is known for what it is
        layer.send_batch([Send("jobs", {"n": number}, {}, 9) for number in range(3)])
        held = other.receive_batch(["jobs"], limit=2, timeout=20, process=process)
        assert [one.content["n"] for one in held] == [0, 1]
        begun = time.monotonic()
        again: list[Any] = []
        while len(again) < 3 and time.monotonic() < begun + 20:
            assert layer.renew_process(alive)
            again += layer.receive_batch(["jobs"], limit=3, timeout=0.3)
        assert sorted((one.content["n"], one.attempt) for one in again) == [(0, 2), (1, 2), (2, 1)]
        assert time.monotonic() - begun < 10


def test_idle_readers_ask_less_than_twice_a_second(database: Database) -> None:
    with layer_on() as layer:
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                layer.receive_batch(["a", "b", "c"], limit=5, timeout=1.0)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            _wait_for_listener(database)
            counted = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
            with database.connect() as other:
                other.autocommit = True
                time.sleep(1.5)  # what has begun ends, and the server's statistics are a second behind
                [[before]] = other.execute(counted, (database.name,)).fetchall()
                time.sleep(3.0)
                [[after]] = other.execute(counted, (database.name,)).fetchall()
        finally:
            stop.set()
            layer.wake()
            for thread in threads:
                thread.join(20)
        assert after - before <= 6 + 2  # the two questions of this test are among them
