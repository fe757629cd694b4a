"""Statements on their way: one connection of libpq in pipeline mode, driven by one event loop.

What is submitted together is one transaction; submissions follow each other without waiting for answers, which come in
order. One reader callback for the connection's life, no task and no future for a statement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from channels_core.exceptions import LayerUnavailable
from channels_layer_database.postgresql.connecting import Link, require_psycopg
from channels_layer_database.postgresql.statements import PINS, Statement

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = ["Answers", "Call", "ConnectionLost", "Pipeline", "StatementError"]

Row = tuple[bytes | None, ...]
Answers = list[list[Row]]
"""The rows of each statement; of one that returns none, as many empty ones as it inserted, changed or deleted."""
Call = tuple[Statement, Sequence[bytes | None]]
Done = Callable[[Answers | Exception], None]


class ConnectionLost(LayerUnavailable):
    """The connection broke before the answer came: what was asked may have happened."""


class StatementError(LayerUnavailable):
    """PostgreSQL refused a statement; nothing of its transaction happened."""

    def __init__(self, text: str, sqlstate: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


_FATAL = ("57P", "08", "XX")
"""Classes of errors after which a connection is of no use: shutting down, broken, internal. What was asked may have
happened."""
_USELESS = ("53", "25006")
"""Out of resources, a read-only standby: the connection is given up too, but what was asked did not happen."""
_ROLLED_BACK = "40000"
_PINNED = "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in PINS.items())
_LOCAL_DURABLE = _PINNED.encode()
_LOCAL = f"{_PINNED}, set_config('synchronous_commit', 'off', true)".encode()
_BINARY = [[1] * count for count in range(32)]


class _Group:
    """One transaction: what was submitted together. ``plan`` has, for each result to come, whether it is wanted:
    ``None``; or else the name that it prepares, or nothing. ``parts`` are those who wait, and for how many answers."""

    __slots__ = ("answers", "error", "parts", "plan")

    def __init__(self) -> None:
        self.plan: deque[bytes | None] = deque()
        self.parts: list[tuple[Done, int]] = []
        self.answers: Answers = []
        self.error: Exception | None = None

    def done(self, found: Answers | Exception) -> None:
        """Each gets its own answers, or everybody the error."""
        if len(self.parts) == 1:
            self.parts[0][0](found)
            return
        if isinstance(found, StatementError):
            # One refused part undid the others: as where two transactions met, each is tried again by itself.
            found = StatementError(str(found), _ROLLED_BACK)
        start = 0
        for done, count in self.parts:
            done(found if isinstance(found, Exception) else found[start : start + count])
            start += count


class Pipeline:
    """One connection. Used by the thread of its loop only.

    ``on_notify(channel, payload)`` is told of notifications, ``on_lost(error)`` once of the connection's end.
    """

    def __init__(
        self,
        link: Link,
        loop: asyncio.AbstractEventLoop,
        on_notify: Callable[[str, str], None],
        on_lost: Callable[[Exception], None],
        *,
        answer_timeout: float = 30.0,
    ) -> None:
        pq = require_psycopg()
        self.is_session = link.is_session
        self._pgconn = link.pgconn
        self._loop = loop
        self._on_notify = on_notify
        self._on_lost = on_lost
        self._groups: deque[_Group] = deque()
        self._prepared: set[bytes] = set()
        self._socket = link.pgconn.socket
        self._is_writing = False
        self._is_joining = False
        self._joint: _Group | None = None
        self.is_lost = False
        self._answer_timeout = answer_timeout
        self._watch: asyncio.TimerHandle | None = None
        self._watched: _Group | None = None
        self._watched_since = 0.0
        status = pq.ExecStatus
        self._sync, self._aborted = status.PIPELINE_SYNC, status.PIPELINE_ABORTED
        self._rows, self._command = status.TUPLES_OK, status.COMMAND_OK
        self._sqlstate = pq.DiagnosticField.SQLSTATE
        loop.add_reader(self._socket, self._read)

    @property
    def is_idle(self) -> bool:
        """Whether no answer is outstanding."""
        return not self._groups

    def submit(self, calls: Sequence[Call], done: Done, *, durable: bool = False) -> None:
        """Run ``calls`` in one transaction and hand their rows, or the error, to ``done``.

        ``durable``: the commit waits until it is on disk.
        """
        group = self._joint
        if group is None:
            group = _Group()
            self._groups.append(group)
        group.parts.append((done, len(calls)))
        try:
            if self.is_session:
                self._send_prepared(group, calls, durable)
            else:
                self._send_plain(group, calls, durable)
            if self._is_joining:
                self._joint = group
            else:
                self._pgconn.pipeline_sync()
        except Exception as error:  # noqa: BLE001 - libpq's complaint, whatever its class: the connection is of no use
            self._lose(error)
            return
        if self._watch is None:
            self._watched = None
            self._watch = self._loop.call_later(self._answer_timeout / 4, self._look_after)
        if not self._is_joining:
            self._flush()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is submitted inside is one transaction, and leaves in one write."""
        self._is_joining = True
        try:
            yield
        finally:
            self._is_joining = False
            self.divide()
            if not self.is_lost:
                self._flush()

    def divide(self) -> None:
        """Inside :meth:`together`: what was submitted is committed before what follows sees the tables."""
        joint, self._joint = self._joint, None
        if joint is None or self.is_lost:
            return
        try:
            self._pgconn.pipeline_sync()
        except Exception as error:  # noqa: BLE001 - as in submit()
            self._lose(error)

    def _look_after(self) -> None:
        """Give the connection up where the answer that is due has not come for too long: a server that stands still,
        or a network that swallows everything, does not say so."""
        self._watch = None
        if self.is_lost or not self._groups:
            return
        now = self._loop.time()
        if self._groups[0] is not self._watched:
            self._watched, self._watched_since = self._groups[0], now
        elif now - self._watched_since >= self._answer_timeout:
            self._lose(ConnectionLost(f"PostgreSQL has not answered for {self._answer_timeout:g} s."))
            return
        self._watch = self._loop.call_later(self._answer_timeout / 4, self._look_after)

    def _send_prepared(self, group: _Group, calls: Sequence[Call], durable: bool) -> None:
        pgconn, prepared, plan = self._pgconn, self._prepared, group.plan
        if durable:
            pgconn.send_query_params(b"SELECT set_config('synchronous_commit', 'on', true)", None)
            plan.append(b"")
        for statement, parameters in calls:
            name = statement.name
            if not statement.is_kept:
                pgconn.send_query_params(statement.text, parameters, None, _BINARY[len(parameters)], 1)
                plan.append(None)
                continue
            if name not in prepared:
                pgconn.send_prepare(name, statement.text)
                prepared.add(name)
                plan.append(name)
            pgconn.send_query_prepared(name, parameters, _BINARY[len(parameters)], 1)
            plan.append(None)

    def _send_plain(self, group: _Group, calls: Sequence[Call], durable: bool) -> None:
        """Nothing here outlives the transaction: the connection may be somebody else's afterwards."""
        pgconn = self._pgconn
        pgconn.send_query_params(_LOCAL_DURABLE if durable else _LOCAL, None)
        group.plan.append(b"")
        for statement, parameters in calls:
            pgconn.send_query_params(statement.text, parameters, None, _BINARY[len(parameters)], 1)
            group.plan.append(None)

    def _flush(self) -> None:
        try:
            is_left = self._pgconn.flush()
        except Exception as error:  # noqa: BLE001 - as above
            self._lose(error)
            return
        if is_left and not self._is_writing:
            self._is_writing = True
            self._loop.add_writer(self._socket, self._write)

    def _write(self) -> None:
        self._loop.remove_writer(self._socket)
        self._is_writing = False
        self._flush()
        if not self.is_lost:
            self._read()  # while it could not write, libpq may have read what the socket will not announce again

    def _read(self) -> None:
        pgconn, groups = self._pgconn, self._groups
        try:
            pgconn.consume_input()
            while groups and not pgconn.is_busy():
                result = pgconn.get_result()
                if result is not None and self._take(groups[0], result):
                    group = groups.popleft()
                    group.done(group.error or group.answers)
                    if self.is_lost:
                        return
            while (notify := pgconn.notifies()) is not None:
                self._on_notify(notify.relname.decode(), notify.extra.decode(errors="replace"))
        except Exception as error:  # noqa: BLE001 - as above
            self._lose(error)

    def _take(self, group: _Group, result: PGresult) -> bool:
        """Keep one result; whether it was the group's last."""
        status = result.status
        if status == self._sync:
            return True
        prepares = group.plan.popleft() if group.plan else None
        if status == self._rows:
            if prepares is None:
                columns = range(result.nfields)
                get = result.get_value
                rows = range(result.ntuples)
                group.answers.append([tuple([get(row, column) for column in columns]) for row in rows])
        elif status == self._command:
            if prepares is None:
                group.answers.append([()] * (result.command_tuples or 0))
        else:
            if prepares:
                self._prepared.discard(prepares)
            if status != self._aborted:
                group.error = self._error_of(result)
        return False

    def _error_of(self, result: PGresult) -> StatementError:
        state = (result.error_field(self._sqlstate) or b"").decode()
        text = result.get_error_message().strip()
        if state.startswith(_FATAL):
            raise ConnectionLost(text)
        if state.startswith(_USELESS):
            raise StatementError(text, state)
        if state == "26000":
            self._prepared.clear()
        if state == "42P01":
            text = (
                f"{text}. The layer's tables are missing: put 'channels_layer_database' into INSTALLED_APPS and run"
                " 'manage.py migrate' on its database."
            )
        return StatementError(text, state)

    def _lose(self, error: Exception) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        self.close()
        lost = (
            error
            if isinstance(error, ConnectionLost)
            else ConnectionLost(str(error).strip() or "connection lost")
        )
        groups, self._groups = list(self._groups), deque()
        self._on_lost(lost)
        for number, group in enumerate(groups):
            group.done(error if number == 0 and isinstance(error, StatementError) else lost)

    def give_up(self, error: Exception) -> None:
        """Give the connection up. Who waits for an answer hears that it will not come."""
        self._lose(error)

    def close(self) -> None:
        """Give the connection up. Nobody is told."""
        self.is_lost = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            if self._is_writing:
                self._loop.remove_writer(self._socket)
        self._pgconn.finish()
