"""Sends in the caller's transaction, on each engine: savepoints, broken transactions, old snapshots, other aliases."""

import time
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from channels_core.layers import Outcome, Send
from channels_layer_database import DatabaseLayer
from database_sites import on_postgres
from serial_sites import on_engine


def sending(channel: str, number: int = 0, **more: Any) -> Send:
    return Send(channel, {"n": number}, {}, 9, **more)


def numbers(deliveries: Any) -> list[int]:
    return [delivery.content["n"] for delivery in deliveries]


@pytest.fixture(params=["postgresql", "mariadb", "shared"])
def alias(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgresql":
        with on_postgres(f"adverse_{uuid.uuid4().hex[:8]}"):
            yield "channels_pg"
    else:
        with on_engine(request.param, tmp_path) as site:
            with closing(site.layer()) as layer:
                layer.flush()  # makes the tables
            yield site.alias


@pytest.fixture
def layer(alias: str) -> Iterator[Any]:
    from django.db import connections

    layer = DatabaseLayer(using=alias, transactional=True, process_lease=3.0)
    try:
        yield layer
    finally:
        connections[alias].close()
        layer.wake()
        layer.close()


def waiting(layer: Any, channel: str = "a") -> list[int]:
    return numbers(layer.receive_batch([channel], limit=20, timeout=0.2))


def test_a_savepoint_takes_its_messages_with_it(layer: Any, alias: str) -> None:
    from django.db import connections, transaction

    with transaction.atomic(using=alias):
        layer.send_in_transaction([sending("a", 1)])
        with suppress(LookupError), transaction.atomic(using=alias):
            layer.send_in_transaction([sending("a", 2)])
            raise LookupError
        with transaction.atomic(using=alias):
            layer.send_in_transaction([sending("a", 3)])
        point = connections[alias].savepoint()
        assert point is not None
        layer.send_in_transaction([sending("a", 4)])
        transaction.savepoint_rollback(point, using=alias)
        layer.send_in_transaction([sending("a", 5)])
    assert waiting(layer) == [1, 3, 5]


def test_a_broken_transaction_takes_no_message(layer: Any, alias: str) -> None:
    from django.db import DatabaseError, connections, transaction

    with transaction.atomic(using=alias):
        layer.send_in_transaction([sending("a", 1)])
        with pytest.raises(DatabaseError), transaction.atomic(using=alias, savepoint=False):
            connections[alias].cursor().execute("SELECT * FROM no_such_table")
        with pytest.raises(transaction.TransactionManagementError):
            layer.send_in_transaction([sending("a", 2)])
    assert waiting(layer) == []
    with transaction.atomic(using=alias):
        assert layer.send_in_transaction([sending("a", 3)]) == [Outcome.SENT]
    assert waiting(layer) == [3]


def test_a_transaction_of_another_alias_is_another_one(layer: Any, alias: str) -> None:
    from django.db import transaction

    with transaction.atomic(using="default"):
        assert layer.send_in_transaction([sending("a", 1)]) is None
        assert layer.send_one(sending("a", 1)) is Outcome.SENT
        assert waiting(layer) == [1]


def test_a_transaction_may_be_older_than_leases(layer: Any, alias: str) -> None:
    from django.db import connections, transaction

    owner = DatabaseLayer(using=alias, transactional=True, process_lease=3.0)
    process = owner.open_process("interface")
    prefix = f"websocket.send.{process}!"
    owner.group_add("g", f"{prefix}one")
    with transaction.atomic(using=alias):
        with connections[alias].cursor() as cursor:
            if layer.vendor == "postgresql":
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM channels_proc")
            cursor.fetchall()
        if layer.vendor != "sqlite":  # there nobody else could renew: this thread is about to hold the lock
            for _ in range(5):
                time.sleep(0.8)
                assert owner.renew_process(process)
        assert (
            layer.send_in_transaction([sending(f"{prefix}one", 1), sending("g", 2, is_group=True)])
            == [Outcome.SENT] * 2
        )
    found: list[int] = []
    deadline = time.monotonic() + 5
    while len(found) < 2 and time.monotonic() < deadline:
        found += numbers(owner.receive_batch([prefix], limit=5, timeout=0.5, process=process))
    assert found == [1, 2]
    owner.close()
