"""Every statement of the PostgreSQL engine goes by an index and sorts no backlog, whatever the statistics say."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from channels_layer_database.postgresql.statements import PINS, Statement, statements_for
from database_sites import on_postgres

STATEMENTS = statements_for("channels_")
HOT = {
    "send": "SEND", "send_and_ack": "SEND", "send_group": "SEND", "take": "TAKE", "lease": "TAKE", "ack": "ACK",
    "renew": "ACK", "release": "ACK", "requeue": "ACK", "bury": "ACK", "purge": "PURGE", "close_process": "PROCESS",
    "take_one": "TAKE", "take_of": "TAKE", "lease_one": "TAKE",
    "renew_process": "PROCESS", "add_member": "GROUP", "discard_member": "GROUP", "close_channel": "GROUP",
    "group_channels": "GROUP", "members_of": "GROUP", "lapsed": "PROCESS", "forget": "CLEAN",
}  # fmt: skip  # a table
MAY_SCAN_WHOLE = {
    "channels_proc",  # a row for each process: sought by its primary key in a few cases only
    "channels_msg_back",  # a sequence has one row
}


@pytest.fixture(scope="module", params=["empty and analysed", "full and never analysed", "full and analysed"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection[Any]]:
    name = f"plans_{uuid.uuid4().hex[:8]}"
    with (
        on_postgres(name) as server,
        psycopg.connect(**server.parameters(name), autocommit=True) as connection,
    ):
        connection.execute("ALTER TABLE channels_msg SET (autovacuum_enabled = off)")
        if "empty" in request.param:
            connection.execute("ANALYZE")
        else:
            connection.execute(
                "INSERT INTO channels_msg (key, size, expires, body)"
                " SELECT 'key' || n % 50, 10, now() + interval '1 hour', '' FROM generate_series(1, 20000) n"
            )
            connection.execute(
                "INSERT INTO channels_member (grp, target, channel, proc)"
                " SELECT 'g' || n % 100, 'in.p!', 'in.p!' || n, 'p' FROM generate_series(1, 5000) n"
            )
        if request.param == "full and analysed":
            connection.execute("ANALYZE")
        for option, value in PINS.items():
            connection.execute(f"SET {option} = {value}")
        yield connection


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


@pytest.mark.parametrize("name", [*HOT, *(one.name.decode() for one in STATEMENTS.straight.values())])
def test_a_statement_scans_no_table_and_sorts_no_backlog(connection: Connection[Any], name: str) -> None:
    straight = {one.name.decode(): one for one in STATEMENTS.straight.values()}
    statement = straight.get(name) or getattr(STATEMENTS, name)
    text = statement.text.decode()
    count = max(number for number in range(1, 32) if f"${number}::" in text)
    connection.execute(f"PREPARE plan AS {text}")
    try:
        [[found]] = connection.execute(
            f"EXPLAIN (FORMAT JSON) EXECUTE plan({', '.join(['NULL'] * count)})"
        ).fetchall()
    finally:
        connection.execute("DEALLOCATE plan")
    found = found if isinstance(found, list) else json.loads(found)
    assert "JIT" not in found[0], "the statement would be compiled at each execution"
    every = list(nodes(found[0]["Plan"]))
    scans = [
        (node["Node Type"], node["Relation Name"])
        for node in every
        if node["Node Type"] in {"Seq Scan", "Bitmap Heap Scan"}
        and node["Relation Name"] not in MAY_SCAN_WHOLE
    ]
    assert scans == []
    whole = [
        node.get("Index Name")
        for node in every
        if node["Node Type"].startswith("Index")
        and "Index Cond" not in node
        and node["Relation Name"] not in MAY_SCAN_WHOLE
    ]
    assert whole == [], "an index read from end to end"
    sorted_ = [node for node in every if node["Node Type"] == "Sort" and is_of_messages(node["Plans"][0])]
    assert sorted_ == [], "the backlog is sorted"


def is_of_messages(node: dict[str, Any]) -> bool:
    """Whether its rows are those of the messages' table, as they are."""
    return node.get("Relation Name") == "channels_msg" or (
        node["Node Type"] in {"LockRows", "Subquery Scan", "Nested Loop"}
        and is_of_messages(node["Plans"][-1])
    )


def test_every_statement_can_be_prepared(connection: Connection[Any]) -> None:
    single = [one for one in vars(STATEMENTS).values() if isinstance(one, Statement)]
    every = [*single, *STATEMENTS.flush, *STATEMENTS.straight.values()]
    every += [one.quiet for one in every if one.quiet is not None]
    for number, statement in enumerate(every):
        connection.execute(f"PREPARE every{number} AS {statement.text.decode()}")
    [[prepared]] = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchall()
    assert prepared >= len(every)
    connection.execute("DEALLOCATE ALL")


def test_a_pinned_session_compiles_no_statement(connection: Connection[Any]) -> None:
    """With JIT, what the pins make look dear would be compiled for seconds. Only some servers have it."""
    connection.execute("SET jit_above_cost = 0")
    [[setting]] = connection.execute("SHOW jit").fetchall()
    assert setting == "off"
