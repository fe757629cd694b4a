"""The PostgreSQL engine while the server restarts, connections end, and a pooler stands in between."""

import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import AT_LEAST_ONCE, Outcome, Send, Settlement, Verdict
from channels_layer_database.schema import postgresql
from database_sites import aliased, layer_on, on_postgres
from faulty_proxy import Fault, FaultyProxy
from postgres_server import PostgresServer, need_postgres, pooler


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """One that a test may stop."""
    need_postgres()
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def insist(call: Any, patience: float = 20.0) -> Any:
    """What ``call`` returns once the engine is back, and how often it was away."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return call()
        except LayerUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_restart_of_the_server_loses_nothing_at_least_once(server: PostgresServer) -> None:
    options = {"delivery": {"jobs": AT_LEAST_ONCE}, "capacity": 10_000, "lease": 2.0}
    with on_postgres("restarts", server=server), layer_on(**options) as sender, layer_on(**options) as taker:
        done: Counter[int] = Counter()
        count = 600
        is_over = threading.Event()

        def take() -> None:
            while not is_over.is_set():
                try:
                    found = taker.receive_batch(["jobs"], limit=10, timeout=0.3)
                    taker.settle([Settlement(one, Verdict.DONE) for one in found])
                except LayerUnavailable:
                    time.sleep(0.02)
                    continue
                done.update(one.content["n"] for one in found)

        reader = threading.Thread(target=take)
        reader.start()
        try:
            for number in range(count):
                send = Send("jobs", {"n": number}, {}, 9)
                while insist(lambda: sender.send_one(send)) is Outcome.UNCERTAIN:  # noqa: B023 - called at once
                    pass
                if number in {150, 300, 450}:
                    server.restart()
            deadline = time.monotonic() + 30
            while len(done) < count and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            is_over.set()
            reader.join(20)
        assert sorted(done) == list(range(count))


def test_readers_that_wait_hear_of_an_outage_and_go_on_afterwards(server: PostgresServer) -> None:
    with on_postgres("waits", server=server), layer_on() as layer:
        layer.send_one(Send("a", {"n": 0}, {}, 9))
        assert len(layer.receive_batch(["a"], timeout=20)) == 1
        heard: list[Exception] = []

        def wait() -> None:
            try:
                layer.receive_batch(["a"], timeout=20)
            except LayerUnavailable as error:
                heard.append(error)

        reader = threading.Thread(target=wait)
        reader.start()
        _wait_until_idle(layer)
        server.stop()
        reader.join(20)
        assert len(heard) == 1
        with pytest.raises(LayerUnavailable):
            layer.send_one(Send("a", {"n": 1}, {}, 9))
        server.start()
        assert insist(lambda: layer.send_one(Send("a", {"n": 2}, {}, 9))) is Outcome.SENT
        assert [one.content["n"] for one in layer.receive_batch(["a"], timeout=20)] == [2]


def _wait_until_idle(layer: Any) -> None:
    deadline = time.monotonic() + 20
    while not all(
        station.is_listening for hub in list(layer._hubs.values()) for station in hub._stations.values()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ended_connections_cost_no_acknowledged_message() -> None:
    name = f"ended_{uuid.uuid4().hex[:8]}"
    with on_postgres(name) as server, layer_on(capacity=10**6) as layer:
        sent: list[int] = []
        uncertain = 0
        is_over = threading.Event()
        killed = 0

        def kill() -> None:
            nonlocal killed
            with psycopg.connect(**server.parameters(name), autocommit=True) as other:
                while not is_over.wait(0.05):
                    killed += other.execute(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                        " WHERE datname = %s AND application_name = 'channels'",
                        (name,),
                    ).fetchall()[0][0]

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            for number in range(20_000):
                if number >= 1500 and killed > 5:
                    break
                outcome = insist(lambda: layer.send_one(Send("a", {"n": number}, {}, 9)))  # noqa: B023 - called at once
                if outcome is Outcome.SENT:
                    sent.append(number)
                else:
                    assert outcome is Outcome.UNCERTAIN
                    uncertain += 1
        finally:
            is_over.set()
            killer.join(20)
        found: list[int] = []
        while part := insist(lambda: layer.receive_batch(["a"], limit=1000, timeout=0.5)):
            found += [one.content["n"] for one in part]
        assert killed > 5, "20,000 messages were sent meanwhile"
        assert set(sent) <= set(found)
        assert len(found) <= len(sent) + uncertain
        assert len(set(found)) == len(found)
        assert sorted(found) == found, "one sender's messages keep their order"


def test_a_broadcast_reaches_its_members_after_the_owner_lost_its_connection() -> None:
    name = f"owner_{uuid.uuid4().hex[:8]}"
    with on_postgres(name) as server, layer_on() as owner, layer_on() as other:
        mine = f"websocket.send.{owner.open_process('interface')}!"
        for local in "abc":
            other.group_add("g", f"{mine}{local}")
        other.send_one(Send("g", {"n": 1}, {}, 9, True))
        [first] = owner.receive_batch([mine], timeout=20)
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{name}' AND application_name = 'channels'"
        )
        insist(lambda: other.group_discard("g", f"{mine}b"))
        insist(lambda: other.group_add("g", f"{mine}d"))
        insist(lambda: other.send_one(Send("g", {"n": 2}, {}, 9, True)))
        [second] = insist(lambda: owner.receive_batch([mine], timeout=20))
        assert (sorted(first.locals), sorted(second.locals)) == (["a", "b", "c"], ["a", "c", "d"])


def test_behind_a_pooler_nothing_is_said_that_outlives_a_transaction() -> None:
    name = f"pooled_{uuid.uuid4().hex[:8]}"
    with on_postgres(name) as server, pooler(server) as between:
        server.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
        log = server.folder / "log"
        begun = log.stat().st_size
        with (
            aliased("pooled", between.settings(name)),
            layer_on(using="pooled") as layer,
            layer_on(using="pooled", delivery={"jobs": AT_LEAST_ONCE}) as other,
        ):
            waiting: list[Any] = []
            reader = threading.Thread(target=lambda: waiting.extend(layer.receive_batch(["a"], timeout=20)))
            reader.start()
            mine = f"in.{layer.open_process('worker')}!"
            other.group_add("g", f"{mine}x")
            assert (
                other.send_batch([Send("a", {"n": 1}, {}, 9), Send("g", {"n": 2}, {}, 9, True)])
                == [Outcome.SENT] * 2
            )
            reader.join(20)
            assert [one.content["n"] for one in waiting] == [1]
            [broadcast] = layer.receive_batch([mine], timeout=20)
            assert broadcast.locals == ("x",)
            other.send_one(Send("jobs", {"n": 3}, {}, 9))
            found = other.receive_batch(["jobs"], timeout=20)
            other.settle([Settlement(one, Verdict.DONE) for one in found])
            assert [figures.channel for figures in other.statistics()] == []
        said = log.read_bytes()[begun:].decode()
    mine_only = [line for line in said.splitlines() if "execute" in line or "statement:" in line]
    assert any("channels_msg" in line for line in said.splitlines())
    ours = [line for line in mine_only if "SET application_name" not in line]  # that is the pooler's own
    assert [
        line for line in ours if " SET " in line.replace("ON CONFLICT", "") and "UPDATE" not in line
    ] == []
    assert [line for line in ours if "LISTEN" in line] == []
    assert [line for line in ours if "execute channels_" in line] == [], "no named prepared statement"


def test_it_can_be_told_that_there_is_a_pooler() -> None:
    name = f"told_{uuid.uuid4().hex[:8]}"
    with on_postgres(name), layer_on(session=False, idle_poll=0.05) as layer:
        waiting: list[Any] = []
        reader = threading.Thread(target=lambda: waiting.extend(layer.receive_batch(["a"], timeout=20)))
        reader.start()
        assert layer.send_one(Send("a", {"n": 1}, {}, 9)) is Outcome.SENT
        reader.join(20)
        assert [one.content["n"] for one in waiting] == [1]


def test_without_tables_the_error_says_what_to_do() -> None:
    name = f"bare_{uuid.uuid4().hex[:8]}"
    with on_postgres(name) as server, layer_on() as layer:
        for statement in postgresql.drop("channels_"):
            server.execute(statement, name)
        with pytest.raises(LayerUnavailable) as caught:
            layer.send_one(Send("a", {}, {}, 0))
        assert "put 'channels_layer_database' into INSTALLED_APPS and run 'manage.py migrate'" in str(
            caught.value
        )


ISOLATED = """
import asyncio, sys
from django.conf import settings
settings.configure(DATABASES={{"default": {entry!r}}}, INSTALLED_APPS=["channels_layer_database", "no_such_app"])
from channels_layer_database import DatabaseLayer
from channels_core.layers import Send
from django.apps import apps

async def main():
    layer = DatabaseLayer()
    process = await layer.aopen_process("interface")
    await layer.asend_one(Send(f"in.{{process}}!x", {{"n": 1}}, {{}}, 9))
    [found] = await layer.areceive_batch([f"in.{{process}}!"], timeout=20)
    assert found.content == {{"n": 1}}
    layer.close()

asyncio.run(main())
assert not apps.ready
assert "channels_layer_database.models" not in sys.modules
print("isolated")
"""


def test_it_works_without_setting_django_up() -> None:
    name = f"isolated_{uuid.uuid4().hex[:8]}"
    with on_postgres(name) as server:
        script = ISOLATED.format(entry=server.settings(name))
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert (run.stdout, run.stderr) == ("isolated\n", "")


def test_what_was_leased_by_an_answer_that_never_came_is_given_back_soon(server: PostgresServer) -> None:
    options = {"delivery": {"jobs": AT_LEAST_ONCE}}
    name = "cut_off"
    with (
        on_postgres(name, server=server),
        FaultyProxy(("127.0.0.1", server.port)) as proxy,
        aliased("cut", server.settings(name, HOST="127.0.0.1", PORT=str(proxy.port))),
        layer_on(**options) as other,
        layer_on(using="cut", **options) as layer,
    ):
        process = layer.open_process("worker")
        other.send_batch([Send("jobs", {"n": number}, {}, 9) for number in range(3)])
        [held] = layer.receive_batch(["jobs"], limit=1, timeout=0, process=process)
        proxy.arm(Fault(cut_down=0))
        with pytest.raises(LayerUnavailable):
            layer.receive_batch(["jobs"], limit=5, timeout=0, process=process)
        assert [one.leased for one in other.statistics(["jobs"])] == [3]
        began = time.monotonic()
        again: list[Any] = []
        while len(again) < 2 and time.monotonic() - began < 10:
            again += insist(lambda: layer.receive_batch(["jobs"], limit=5, timeout=0.5, process=process))
        assert [(one.content["n"], one.attempt) for one in again] == [(1, 1), (2, 1)]
        assert layer.receive_batch(["jobs"], limit=5, timeout=0, process=process) == []
        layer.settle([Settlement(one, Verdict.DONE) for one in (held, *again)])
        assert [(one.pending, one.leased) for one in other.statistics(["jobs"])] == [(0, 0)]
        assert layer.counters.redelivered == 0
