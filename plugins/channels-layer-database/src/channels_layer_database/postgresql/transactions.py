"""Sends in the transaction that the caller's thread has open on the project's connection, through Django's cursor."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import Outcome, Send
from channels_layer_database.databases import is_manual
from channels_layer_database.postgresql.statements import ALIVE
from channels_layer_database.rows import pack

if TYPE_CHECKING:
    from channels_layer_database.postgresql.layer import PostgreSQLLayer

__all__ = ["send_in_transaction"]

_NOW = "statement_timestamp()"

_DEPTH = f"""SELECT count(*), coalesce(sum(w.size), 0) FROM (
    SELECT m.size FROM {{p}}msg m
    WHERE m.key = %s AND m.room = %s AND (m.room = 1 OR m.prefix IS NOT DISTINCT FROM %s)
      AND (m.lease IS NULL OR m.lease <= {_NOW}) AND (m.taken > 0 OR m.expires > {_NOW})
    LIMIT %s
) w"""
_IS_ALIVE = f"SELECT EXISTS (SELECT FROM {{p}}proc p WHERE p.id = %s AND {ALIVE})"
_INSERT = f"""INSERT INTO {{p}}msg (key, prefix, dest, room, size, expires, body)
VALUES (%s, %s, %s, %s, %s, {_NOW} + %s * interval '1 second', %s) RETURNING id"""
_NOTIFY = "SELECT pg_notify('{p}' || md5(%s), %s)"
_TARGETS = f"""SELECT g.target, g.proc, g.cap, g.room, CASE WHEN g.proc IS NULL AND right(g.target, 1) = '!' THEN (
    SELECT string_agg(substr(m.channel, length(g.target) + 1), ' ') FROM {{p}}member m
    WHERE m.grp = g.grp AND m.target = g.target AND m.added > {_NOW} - %s * interval '1 second') END,
    (SELECT count(*) FROM {{p}}member m WHERE m.grp = g.grp AND m.target = g.target)
FROM {{p}}grp g WHERE g.grp = %s AND CASE
    WHEN g.proc IS NULL THEN g.newest > {_NOW} - %s * interval '1 second'
    ELSE EXISTS (SELECT FROM {{p}}proc p WHERE p.id = g.proc AND {ALIVE}) END"""


def send_in_transaction(layer: PostgreSQLLayer, sends: Sequence[Send]) -> list[Outcome] | None:
    """Write ``sends`` in the open transaction; ``None`` where there is none. Without autocommit there always is one.

    The connection is the alias' own whatever database routers say: the tables of the layer are there and nowhere else.
    """
    from django.db import connections
    from django.db.utils import InterfaceError, OperationalError

    connection = connections[layer.using]
    if not connection.in_atomic_block and not is_manual(connection):
        return None
    wake = "inside" if not connection.in_atomic_block else layer.wake_when  # on_commit() needs atomic()
    woken: dict[str, int] = {}
    try:
        with connection.cursor() as cursor:
            writer = _Writer(layer, cursor, woken)
            outcomes = [writer.send(send) for send in sends]
            if wake == "inside":
                for key, low in woken.items():
                    cursor.execute(_NOTIFY.replace("{p}", layer.prefix), (key, str(low)))
    except (InterfaceError, OperationalError) as error:
        raise LayerUnavailable(f"The message could not be written in the transaction: {error}") from error
    if wake == "after" and woken:
        connection.on_commit(lambda: _wake(layer, woken))
    return outcomes


def _wake(layer: PostgreSQLLayer, woken: dict[str, int]) -> None:
    """Tell readers over a connection of the layer's own. Where that fails they look by themselves, a little later."""
    from channels_core.layer_views import in_running_loop

    if not in_running_loop():
        with suppress(LayerUnavailable):
            layer.announce(woken)


def _named(layer: PostgreSQLLayer, statement: str) -> str:
    return statement.replace("{p}", layer.prefix).replace("{lease}", f"{layer.process_lease:.3f}")


class _Writer:
    def __init__(self, layer: PostgreSQLLayer, cursor: Any, woken: dict[str, int]) -> None:
        self._layer = layer
        self._cursor = cursor
        self._woken = woken
        self._refused: set[str] = set()

    def _ask(self, statement: str, *parameters: Any) -> Any:
        self._cursor.execute(_named(self._layer, statement), parameters)
        return self._cursor.fetchone()

    def send(self, send: Send) -> Outcome:
        layer = self._layer
        if send.size > layer.max_message_size:
            return Outcome.TOO_LARGE
        body = pack(send.content, send.headers)
        if send.is_group:
            self._send_group(send, body)
            return Outcome.SENT
        unit = layer.unit_of(send.channel)
        mark = send.channel.find("!")
        prefix = send.channel[: mark + 1] if unit.process else None
        dest = send.channel[mark + 1 :] if mark >= 0 else None
        if unit.process and not self._ask(_IS_ALIVE, unit.process)[0]:
            return Outcome.GONE
        name = send.channel[: mark + 1] or send.channel
        if name in self._refused or not self._has_room(
            unit.key, unit.room, unit.prefix, unit.cap, unit.bytes
        ):
            self._refused.add(name)
            return Outcome.FULL
        self._insert(unit.key, prefix, dest, unit.room, send.size, body)
        return Outcome.SENT

    def _has_room(self, key: str, room: int, prefix: str | None, cap: int, limit: int) -> bool:
        count, size = self._ask(_DEPTH, key, room, prefix, cap)
        return bool(count < cap and size < limit)

    def _insert(
        self, key: str, prefix: str | None, dest: str | None, room: int, size: int, body: bytes
    ) -> None:
        [id_] = self._ask(_INSERT, key, prefix, dest, room, size, self._layer.expiry, body)
        self._woken[key] = min(id_, self._woken.get(key, id_))

    def _send_group(self, send: Send, body: bytes) -> None:
        layer = self._layer
        expiry = layer.group_expiry
        self._cursor.execute(_named(layer, _TARGETS), (expiry, send.channel, expiry))
        for target, process, cap, room, locals_, members in self._cursor.fetchall():
            is_many = target.endswith("!")
            key = f"{process}!" if process else target
            limit = layer.inbox_bytes if room == 1 and is_many else 2**62
            prefix = target if process else None
            if not self._has_room(key, room, prefix, cap, limit):
                layer.counters.group_dropped += members if is_many else 1
                continue
            dest = f"@{send.channel}" if process else locals_
            if dest is not None or not is_many:
                self._insert(key, prefix, dest, room, send.size, body)
