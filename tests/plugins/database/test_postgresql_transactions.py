"""Sends in the caller's transaction on PostgreSQL: what Django's connection does, and what it must not."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from channels_core import ChannelLayer
from channels_core.exceptions import ChannelFull
from channels_core.layers import Outcome, Send
from channels_layer_database import DatabaseLayer
from database_sites import on_postgres
from postgres_server import PostgresServer


class Rollback(Exception):
    pass


@pytest.fixture
def database() -> Iterator[tuple[PostgresServer, str]]:
    from django.db import connections

    name = f"transactions_{uuid.uuid4().hex[:8]}"
    with on_postgres(name) as server:
        server.execute("CREATE TABLE orders (id int PRIMARY KEY)", name)
        try:
            yield server, name
        finally:
            connections["channels_pg"].close()


@pytest.fixture(params=["inside", "after"])
def layer(request: pytest.FixtureRequest, database: object) -> Iterator[ChannelLayer]:
    layer = ChannelLayer(
        DatabaseLayer(using="channels_pg", transactional=True, wake=request.param, capacity=50)
    )
    yield layer
    layer.backend.wake()
    layer.close()


def save(number: int) -> None:
    from django.db import connections

    with connections["channels_pg"].cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES (%s)", (number,))


def test_messages_and_rows_share_their_fate(
    database: tuple[PostgresServer, str], layer: ChannelLayer
) -> None:
    from django.db import transaction

    for number in range(40):
        try:
            with transaction.atomic(using="channels_pg"):
                save(number)
                layer.send("orders", {"n": number})
                if number % 2:
                    raise Rollback
        except Rollback:
            continue
    server, name = database
    rows = {row[0] for row in server.execute("SELECT id FROM orders", name)}
    found = [one.content["n"] for one in layer.backend.receive_batch(["orders"], limit=100, timeout=20)]
    assert found == sorted(rows) == list(range(0, 40, 2))


def test_a_commit_wakes_who_waits_and_a_rollback_nobody(layer: ChannelLayer) -> None:
    from django.db import transaction

    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.extend(layer.backend.receive_batch(["a"], timeout=20)))
    reader.start()
    with suppress(Rollback), transaction.atomic(using="channels_pg"):
        layer.send("a", {"n": 1})
        raise Rollback
    with transaction.atomic(using="channels_pg"):
        layer.send("a", {"n": 2})
    reader.join(20)
    assert [one.content["n"] for one in found] == [2]


def test_a_send_that_says_otherwise_leaves_at_once(layer: ChannelLayer) -> None:
    from django.db import transaction

    with suppress(Rollback), transaction.atomic(using="channels_pg"):
        layer.send("a", {"n": 1}, transactional=False)
        assert [one.content["n"] for one in layer.backend.receive_batch(["a"], timeout=20)] == [1]
        raise Rollback


def test_a_full_channel_is_full_in_the_call_and_breaks_no_transaction(layer: ChannelLayer) -> None:
    from django.db import transaction

    layer.backend.send_batch([Send("a", {"n": 0}, {}, 9)] * 50)
    with transaction.atomic(using="channels_pg"):
        with pytest.raises(ChannelFull):
            layer.send("a", {"n": 1})
        save(1)
        layer.send("b", {"n": 2})
    assert [one.content["n"] for one in layer.backend.receive_batch(["b"], timeout=20)] == [2]


def test_the_layer_is_kept_on_its_alias_whatever_routers_say(layer: ChannelLayer) -> None:
    from django.db import transaction
    from django.test import override_settings

    with override_settings(DATABASE_ROUTERS=["database_sites.ElsewhereRouter"]):
        with transaction.atomic(using="channels_pg"):
            assert layer.backend.send_in_transaction([Send("a", {"n": 1}, {}, 9)]) == [Outcome.SENT]
    assert [one.content["n"] for one in layer.backend.receive_batch(["a"], timeout=20)] == [1]


def test_another_threads_transaction_is_not_this_ones(layer: ChannelLayer) -> None:
    from django.db import transaction

    outcomes: list[object] = []
    with transaction.atomic(using="channels_pg"):
        thread = threading.Thread(
            target=lambda: outcomes.append(layer.backend.send_in_transaction([Send("a", {}, {}, 0)]))
        )
        thread.start()
        thread.join(20)
    assert outcomes == [None]
