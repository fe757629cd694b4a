"""The layer in MariaDB or MySQL.

Rows are taken by ``SELECT ... FOR UPDATE SKIP LOCKED`` and a ``DELETE`` by primary key, in READ COMMITTED: neither
waits for somebody's open transaction, nor leaves gaps locked that would make senders wait. A plain ``DELETE`` would
wait for the uncommitted insert of a transactional send.

Each thread that needs one borrows a connection from a pool. Drivers block, so the asynchronous view works in threads;
but waiting for a message holds none. The server cannot wake a client: a doorbell does on the same host, and every
reader looks from time to time for what other hosts sent.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from channels_core.exceptions import InvalidChannelLayerError, LayerUnavailable, SendUncertain
from channels_core.layers import Delivery, Exchange, Outcome, Send, Settlement, Verdict
from channels_layer_database.databases import is_manual, new_wrapper
from channels_layer_database.dbapi.doorbell import Doorbell, short_directory
from channels_layer_database.dbapi.layer import SerialLayer
from channels_layer_database.dbapi.session import Busy, Row, Session, Transaction, marks
from channels_layer_database.dbapi.taking import look
from channels_layer_database.schema.mysql import create

if TYPE_CHECKING:
    from channels_layer_database.dbapi.places import Plan

__all__ = ["MySQLLayer"]

T = TypeVar("T")

_AGAIN: Final = {1205, 1213, 1062, 1020, 3572}
"""Lock wait timeout, deadlock, duplicate key (two released to the front at once), changed meanwhile, row locked."""
_LOST: Final = {2003, 2002, 2006, 2013, 2055, 1053, 1927, 4031, 0}
"""The connection, or the server, is away."""
_OLDEST_MYSQL: Final = (8, 0, 1)
_OLDEST_MARIADB: Final = (10, 6)
_FASTEST, _IDLE = 0.001, 1.0
"""Seconds between looks for what other hosts sent: soon after something was found so, and in the long run."""
_POOLED: Final = 32
_SYNC: Final = 10.0
"""Seconds after which the server is asked for the time again."""
_SYNC_QUICKLY: Final = 0.02
"""Seconds within which an answer to that has to come for the time to be trusted, unless it is long since."""


class MySQLSession(Session):
    """A connection of the pool, or the caller's."""

    insert_ignore = "INSERT IGNORE"
    for_update = " FOR UPDATE"

    def __init__(self, connection: Any, driver: Any, describe: Callable[[], str]) -> None:
        self.connection = connection
        self.driver = driver
        self.is_lost = False
        self.is_open = False
        self.checked = time.monotonic()
        self._describe = describe

    def _execute(self, sql: str, values: Sequence[Any] = (), *, is_many: bool = False) -> Any:
        cursor = self.connection.cursor()
        try:
            text = sql.replace("?", "%s")
            if is_many:
                cursor.executemany(text, values)
            else:
                cursor.execute(text, values or None)
        except self.driver.Error as error:
            raise self._translate(error) from error
        return cursor

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        cursor = self._execute(sql, values)
        found: list[Row] = list(cursor.fetchall())
        return found

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        return int(self._execute(sql, values).rowcount)

    def many(self, sql: str, values: Sequence[Row]) -> None:
        if len(values) == 1:
            self._execute(sql, values[0])
        else:
            self._execute(sql, values, is_many=True)

    def begin(self) -> None:
        self.run("BEGIN")
        self.is_open = True

    def commit(self) -> None:
        self.is_open = False
        try:
            self.run("COMMIT")
        except LayerUnavailable as error:
            raise SendUncertain(
                f"The server of the layer ({self._describe()}) did not answer to a COMMIT: what was sent may or may not"
                " have arrived."
            ) from error

    def rollback(self) -> None:
        self.is_open = False
        if not self.is_lost:
            try:
                self.run("ROLLBACK")
            except (Busy, LayerUnavailable):
                self.is_lost = True

    def _together(self, work: Callable[[], T]) -> T:
        """Do ``work`` in a transaction, where none is open."""
        if self.is_open:
            return work()
        self.begin()
        try:
            result = work()
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return result

    def pop(self, table: str, columns: str, where: str, values: Sequence[Any], *, limit: int) -> list[Row]:
        return self._together(partial(self._pop, table, columns, where, values, limit))

    def _pop(self, table: str, columns: str, where: str, values: Sequence[Any], limit: int) -> list[Row]:
        is_queue = table.endswith("msg")
        found = self.rows(
            f"SELECT {columns}{', `key` AS of_key' if is_queue else ''} FROM {table} WHERE {where}"
            " ORDER BY id LIMIT ? FOR UPDATE SKIP LOCKED",
            (*values, limit),
        )
        if found and is_queue:
            by_key: dict[str, list[int]] = {}
            for row in found:
                by_key.setdefault(row[-1], []).append(row[0])
            for key, ids in sorted(by_key.items()):
                self.run(f"DELETE FROM {table} WHERE `key` = ? AND id IN ({marks(len(ids))})", (key, *ids))
            return [row[:-1] for row in found]
        if found:
            ids = [row[0] for row in found]
            self.run(f"DELETE FROM {table} WHERE id IN ({marks(len(ids))})", ids)
        return found

    def pop_these(
        self, table: str, columns: str, places: Sequence[tuple[str, int]], where: str, values: Sequence[Any]
    ) -> list[Row]:
        return self._together(partial(self._pop_these, table, columns, places, where, values))

    def _pop_these(
        self, table: str, columns: str, places: Sequence[tuple[str, int]], where: str, values: Sequence[Any]
    ) -> list[Row]:
        # Joined, each is looked up by the primary key: the time that the optimizer takes for (..) OR (..) grows with
        # the square of their number, and for (`key`, id) IN (..) MariaDB reads the whole table.
        these, their = _listed(sorted(places))
        found = self.rows(
            f"SELECT STRAIGHT_JOIN {columns}, `key` AS of_key, id AS of_id FROM {these}"
            f" JOIN {table} ON `key` = this_key AND id = this_id WHERE {where} FOR UPDATE SKIP LOCKED",
            (*their, *values),
        )
        if found:
            these, their = _listed([row[-2:] for row in found])
            self.run(
                f"DELETE {table} FROM {these} STRAIGHT_JOIN {table} ON `key` = this_key AND id = this_id",
                their,
            )
        return [row[:-2] for row in found]

    def first_ids(self, table: str, key: str, count: int) -> int:
        [(lowest,)] = self.rows(f"SELECT min(id) FROM {table} WHERE `key` = ?", (key,))
        # A little chance keeps two who release at once out of each other's way.
        return min(lowest or 0, 0) - count - random.randrange(64) * count

    def _translate(self, error: Exception) -> Exception:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else -1
        if code in _AGAIN:
            return Busy(str(error))
        if code in _LOST or isinstance(error, self.driver.InterfaceError):
            self.is_lost = True
            return LayerUnavailable(f"The server of the layer ({self._describe()}) is away: {error}.")
        if code == 1146:
            return LayerUnavailable(
                f"The tables of the layer are not in its database ({self._describe()}): {error}. Put"
                " 'channels_layer_database' into INSTALLED_APPS and run migrate on this alias of DATABASES."
            )
        return LayerUnavailable(f"The server of the layer ({self._describe()}) refused a statement: {error}.")


def _listed(places: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
    """A table of keys and ids, and the values in it. Its strings are as the tables' are, or no index would fit them."""
    one = "SELECT CONVERT(? USING ascii) COLLATE ascii_bin AS this_key, ? AS this_id"
    more = " UNION ALL SELECT CONVERT(? USING ascii) COLLATE ascii_bin, ?"
    return f"({one}{more * (len(places) - 1)}) these", [part for place in places for part in place]


class _CallersSession(MySQLSession):
    """The connection on which the calling thread has a transaction open."""

    def begin(self) -> None:
        self.is_open = True

    def commit(self) -> None:
        self.is_open = False

    def rollback(self) -> None:
        self.is_open = False

    def _translate(self, error: Exception) -> Exception:
        return error  # the transaction is the caller's, and so is what breaks it


class MySQLLayer(SerialLayer):
    """A channel layer in a database of MariaDB (10.6 or later) or MySQL (8.0.1 or later).

    ``create_tables=True`` makes the tables at the first connection, for a database that ``migrate`` does not reach.
    ``doorbell=False`` polls alone. ``idle_interval`` (1.0 s) is the longest time between a reader's looks for messages
    from other hosts, and so the worst delay of one that comes after a silence; after a message it is a tenth of the
    time since, and at least 1 ms.

    Deadlocks and lock timeouts are tried again for at most 10 seconds. Raises
    :class:`~channels_core.exceptions.InvalidChannelLayerError` for an older server.
    """

    __abstract__ = False
    vendor = "mysql"
    one_row = "DUAL"

    def __init__(
        self,
        *,
        using: str = "default",
        doorbell: bool = True,
        create_tables: bool = False,
        idle_interval: float = _IDLE,
        **options: Any,
    ) -> None:
        super().__init__(using=using, **options)
        if not isinstance(idle_interval, int | float) or not 0 < idle_interval <= 60:
            raise InvalidChannelLayerError(
                f"Option idle_interval is {idle_interval!r}: it must be a number of seconds above 0, at most 60."
            )
        self._idle = float(idle_interval)
        self._must_create = create_tables
        self._lock = threading.Lock()
        self._free: list[MySQLSession] = []
        self._borrowed: set[MySQLSession] = set()
        self._last_found = time.monotonic()
        self._waiting: dict[int, Plan] = {}
        self._offset = 0.0
        self._synced = -1e9
        self.doorbell = Doorbell(short_directory(self.describe()) if doorbell else None)
        _layers.add(self)

    def describe(self) -> str:
        settings = new_wrapper(self.using).settings_dict
        host = settings["HOST"] or "localhost"
        return f"{host}:{settings['PORT'] or 3306}/{settings['NAME']}/{self.prefix}"

    # Connections.

    def _acquire(self) -> Session:
        with self._lock:
            session = self._free.pop() if self._free else None
        if session is None:
            session = self._connect()
        elif time.monotonic() - session.checked > 60.0:
            session = self._checked(session)
        self._borrowed.add(session)
        return session

    def _checked(self, session: MySQLSession) -> MySQLSession:
        """A connection that has long been idle may be gone, which nobody should hear of in the middle of a send."""
        try:
            session.rows("SELECT 1")
        except LayerUnavailable:
            self._drop(session)
            return self._connect()
        session.checked = time.monotonic()
        return session

    def _release(self, session: Session) -> None:
        assert isinstance(session, MySQLSession)
        self._borrowed.discard(session)
        if isinstance(session, _CallersSession):
            return
        with self._lock:
            if not session.is_lost and not self._is_closed and len(self._free) < _POOLED:
                session.checked = time.monotonic()
                self._free.append(session)
                return
            if session.is_lost:  # the others are likely to be gone too
                lost, self._free = self._free, []
            else:
                lost = []
        for one in (session, *lost):
            self._drop(one)

    @staticmethod
    def _drop(session: MySQLSession) -> None:
        with suppress(session.driver.Error):  # it is gone already
            session.connection.close()

    def _connect(self) -> MySQLSession:
        if self._is_closed:
            raise LayerUnavailable(f"The layer ({self.describe()}) is closed. Make another one.")
        wrapper = new_wrapper(self.using)
        driver: Any = wrapper.Database  # type: ignore[attr-defined]  # each of Django's wrappers has one
        parameters = wrapper.get_connection_params()
        parameters.pop("isolation_level", None)
        try:
            connection = driver.connect(**parameters)
        except driver.Error as error:
            raise LayerUnavailable(
                f"No connection to the server of the layer ({self.describe()}): {error}."
            ) from error
        session = MySQLSession(connection, driver, self.describe)
        try:
            connection.autocommit(True)
            is_mariadb = self._check_version(session)
            session.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE")
            longest = "max_statement_time" if is_mariadb else "max_execution_time"
            session.run(f"SET SESSION innodb_lock_wait_timeout = 5, wait_timeout = 28800, {longest} = 0")
            if self._must_create:
                for statement in create(self.prefix):
                    session.run(statement)
                self._must_create = False
        except BaseException:
            self._drop(session)
            raise
        return session

    def _check_version(self, session: MySQLSession) -> bool:
        """Whether it is MariaDB."""
        [(text,)] = session.rows("SELECT VERSION()")
        version = tuple(int(part) for part in str(text).split("-")[0].split(".")[:3] if part.isdigit())
        is_mariadb = "mariadb" in str(text).lower()
        if version < (_OLDEST_MARIADB if is_mariadb else _OLDEST_MYSQL):
            raise InvalidChannelLayerError(
                f"The server of the layer ({self.describe()}) is {text}: SKIP LOCKED, without which readers would wait"
                " for each other, needs MariaDB 10.6 or MySQL 8.0.1. Use a newer server, or another layer."
            )
        return is_mariadb

    def _now(self, session: Session) -> float:
        if self._clock is not None:
            return self._clock()
        assert isinstance(session, MySQLSession)
        before = time.monotonic()
        if before - self._synced > _SYNC:
            # UNIX_TIMESTAMP(NOW(6)) is an hour wrong while the server's clock on the wall runs through an hour twice.
            [(now,)] = session.rows("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6")
            after = time.monotonic()
            if after - before < _SYNC_QUICKLY or before - self._synced > 3 * _SYNC:
                self._offset = float(now) - (before + after) / 2
                self._synced = before
        return time.monotonic() + self._offset

    def _run(self, work: Callable[[Transaction], T], *, is_whole: bool = True) -> T:
        """As the base's; a connection that turns out to be lost before anything was done is replaced once."""
        try:
            return super()._run(work, is_whole=is_whole)
        except SendUncertain:
            raise
        except LayerUnavailable:
            if not is_whole:  # an insert by itself may have happened
                raise
            return super()._run(work, is_whole=is_whole)

    def send_one(self, send: Send) -> Outcome:
        try:
            return super().send_one(send)
        except LayerUnavailable as error:
            cause = error.__cause__
            if cause is not None and cause.args and cause.args[0] in {2013, 2006} and not self._is_closed:
                self.counters.uncertain += 1
                return Outcome.UNCERTAIN
            raise

    # The caller's transaction.

    def send_in_transaction(self, sends: Sequence[Send]) -> list[Outcome] | None:
        from django.db import connections, transaction

        from channels_layer_database.dbapi.sending import put_all

        wrapper = connections[self.using]
        is_without_atomic = is_manual(wrapper)
        if not wrapper.in_atomic_block and not is_without_atomic:
            return None
        wrapper.validate_no_broken_transaction()
        wrapper.ensure_connection()
        driver: Any = wrapper.Database  # type: ignore[attr-defined]  # as above
        session = _CallersSession(wrapper.connection, driver, self.describe)
        session.begin()
        with wrapper.wrap_database_errors:
            tx = Transaction(self, session, self._now(session))
            outcomes = put_all(tx, sends)
        if (
            is_without_atomic
        ):  # nobody will say when it commits: readers who are woken too early look again by themselves
            self._after(tx)
        else:
            transaction.on_commit(lambda: self._after(tx), using=self.using)
        return outcomes

    # The asynchronous view: one thread for each call, none for a wait.

    async def _atake(self, plan: Plan, limit: int, process: str | None) -> list[Delivery]:
        return await self._run_errand(_Errand(partial(self._take, plan, limit, process), self._put_back))

    async def _aexchange_once(self, call: Callable[[], Exchange]) -> Exchange:
        return await self._run_errand(_Errand(call, lambda exchange: self._put_back(exchange.deliveries)))

    async def _run_errand(self, errand: _Errand[T]) -> T:
        try:
            return await self._run_sync(errand)
        except asyncio.CancelledError:
            errand.abandon()
            raise

    def _put_back(self, deliveries: Sequence[Delivery]) -> None:
        """The one who wanted them is gone: as if they had not been taken."""
        if deliveries:
            with suppress(LayerUnavailable):  # then they are as lost as with a process that ends now
                self.settle([Settlement(delivery, Verdict.RELEASE) for delivery in deliveries])

    # Looking without having been rung.

    def _wait(
        self, plan: Plan, limit: int, timeout: float | None, process: str | None, wakes: int
    ) -> list[Delivery]:
        token = object()
        self._waiting[id(token)] = plan
        try:
            return super()._wait(plan, limit, timeout, process, wakes)
        finally:
            del self._waiting[id(token)]

    async def _await(
        self, plan: Plan, limit: int, timeout: float | None, process: str | None, wakes: int
    ) -> list[Delivery]:
        token = object()
        self._waiting[id(token)] = plan
        try:
            return await super()._await(plan, limit, timeout, process, wakes)
        finally:
            del self._waiting[id(token)]

    def _look(self) -> bool:
        keys = tuple({key for plan in tuple(self._waiting.values()) for key in plan.keys})
        is_lapsed, is_new = self._run(partial(look, keys=keys), is_whole=False)
        if is_lapsed:
            self._run(self._lapse)
        if is_lapsed or is_new:
            self._last_found = time.monotonic()
        return is_lapsed or is_new

    def _interval(self) -> float:
        return min(self._idle, max(_FASTEST, 0.1 * (time.monotonic() - self._last_found)))

    def close(self) -> None:
        if self._is_closed:
            return
        super().close()
        with self._lock:
            free, self._free = self._free, []
        for session in free:
            self._drop(session)

    def _forget(self) -> None:
        """In a forked child: the connections are the parent's, who must not see them closed."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for session in (*self._free, *self._borrowed):
            _inherited.append(session)
            try:
                os.dup2(nowhere, session.connection.fileno())
            except (OSError, session.driver.Error):
                continue
        os.close(nowhere)
        self._lock = threading.Lock()
        self._free = []
        self._borrowed = set()
        self._waiting = {}
        self._reset()
        self.doorbell.forget()


class _Errand(Generic[T]):
    """A call in a thread for a task that may be cancelled meanwhile; ``undo`` gets the result that nobody wants.

    Both run in threads, since the task's loop may have ended by then.
    """

    def __init__(self, call: Callable[[], T], undo: Callable[[T], None]) -> None:
        self._call = call
        self._undo = undo
        self._lock = threading.Lock()
        self._found: list[T] = []
        self._is_abandoned = False

    def __call__(self) -> T:
        found = self._call()
        with self._lock:
            self._found.append(found)
            is_abandoned = self._is_abandoned
        if is_abandoned:
            self._undo(found)
        return found

    def abandon(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._is_abandoned = True
            found = self._found.copy()
        for one in found:
            threading.Thread(target=self._undo, args=(one,), name="layer-give-back").start()


_layers: weakref.WeakSet[MySQLLayer] = weakref.WeakSet()
_inherited: list[MySQLSession] = []


def _after_fork_in_child() -> None:
    for layer in tuple(_layers):
        layer._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
