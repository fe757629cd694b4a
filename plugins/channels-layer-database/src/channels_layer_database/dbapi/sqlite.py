"""The layer in a SQLite file, for all processes of one machine.

One connection for each process, under one lock that is held for microseconds. Where another process has the write lock,
the statement is tried again after a moment, by sleeping outside of every lock: a thread sleeps, an event loop does
other things meanwhile. So the asynchronous view needs no threads. SQLite's own busy handler is not used: under load it
lets single callers wait for half a second.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channels_core.exceptions import InvalidChannelLayerError, LayerUnavailable, TransactionError
from channels_core.layer_views import in_running_loop
from channels_core.layers import Outcome, Send
from channels_layer_database.databases import is_manual, new_wrapper
from channels_layer_database.dbapi.doorbell import Doorbell
from channels_layer_database.dbapi.layer import SerialLayer
from channels_layer_database.dbapi.session import Busy, Row, Session, Transaction, marks
from channels_layer_database.schema.sqlite import create

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["SQLiteLayer"]

T = TypeVar("T")

_OLDEST: Final = (3, 35)
_BUSY: Final = {5, 6, 19}
"""SQLITE_BUSY, SQLITE_LOCKED, and SQLITE_CONSTRAINT: two leases with one number."""
_IDLE: Final = 1.0
"""Seconds between looks at the file where bells ring."""
_FASTEST, _SLOWEST = 0.001, 0.05
"""Between looks where they do not: while messages come, and after half a second without one."""
_LOG_SIZE: Final = 4 * 2**20
"""Bytes of the write-ahead log after which it is copied into the file, in a thread of its own; and again after as many
more, if it has not begun anew since."""
_LOG_TOO_LARGE: Final = 4 * _LOG_SIZE
"""Bytes of the log after which writers have to wait for the last of that, so that the log begins anew."""
_LOOK_AT_LOG: Final = 32
_SHORT_WAITS: Final = 3


class SQLiteSession(Session):
    """The process's connection."""

    insert_ignore = "INSERT OR IGNORE"
    for_update = ""

    def __init__(self, connection: sqlite3.Connection, describe: Callable[[], str]) -> None:
        self.connection = connection
        self._describe = describe

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        try:
            return self.connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        try:
            return self.connection.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def many(self, sql: str, values: Sequence[Row]) -> None:
        try:
            if len(values) == 1:
                self.connection.execute(sql, values[0])
            else:
                self.connection.executemany(sql, values)
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def begin(self) -> None:
        self.run("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.run("COMMIT")

    def rollback(self) -> None:
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.connection.close()  # whatever it was, nothing of it stays

    def pop(self, table: str, columns: str, where: str, values: Sequence[Any], *, limit: int) -> list[Row]:
        if limit == 1:  # SQLite deletes what "=" finds in one pass, at less than half the cost
            return self.rows(
                f"DELETE FROM {table} WHERE id = (SELECT id FROM {table} WHERE {where} ORDER BY id LIMIT 1)"
                f" RETURNING {columns}",
                values,
            )
        found = self.rows(
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {where} ORDER BY id LIMIT ?)"
            f" RETURNING {columns}",
            (*values, limit),
        )
        if len(found) > 1:
            found.sort()
        return found

    def pop_these(
        self, table: str, columns: str, places: Sequence[tuple[str, int]], where: str, values: Sequence[Any]
    ) -> list[Row]:
        ids = [number for _, number in places]
        return self.rows(
            f"DELETE FROM {table} WHERE id IN ({marks(len(ids))}) AND {where} RETURNING {columns}",
            (*ids, *values),
        )

    def first_ids(self, table: str, key: str, count: int) -> int:
        [(lowest,)] = self.rows(f"SELECT min(id) FROM {table}")
        return min(lowest or 0, 0) - count

    def _translate(self, error: sqlite3.Error) -> Exception:
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BUSY:
            return Busy(str(error))
        if "no such table" in str(error):
            return LayerUnavailable(
                f"The tables of the layer are not in its file ({self._describe()}): {error}. Put"
                " 'channels_layer_database' into INSTALLED_APPS and run migrate on this alias of DATABASES."
            )
        return LayerUnavailable(
            f"SQLite does not serve the layer's file ({self._describe()}): {error}. Look at the file, its directory's"
            " permissions and the disk's free space."
        )


class _CallersSession(SQLiteSession):
    """The connection on which the calling thread has a transaction open. What is done is visible when that commits."""

    def begin(self) -> None:
        self.run("SAVEPOINT channels_layer")

    def commit(self) -> None:
        self.run("RELEASE channels_layer")

    def rollback(self) -> None:
        try:
            self.connection.execute("ROLLBACK TO channels_layer")
            self.connection.execute("RELEASE channels_layer")
        except sqlite3.Error:
            pass  # SQLite has undone the whole transaction, which its owner will find out

    def _translate(self, error: sqlite3.Error) -> Exception:
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BUSY:
            return LayerUnavailable(
                f"The transaction that this thread has open cannot write ({error}): another one was faster. Begin it"
                " with a write, or set OPTIONS['transaction_mode'] = 'IMMEDIATE' for this alias of DATABASES."
            )
        return super()._translate(error)


class SQLiteLayer(SerialLayer):
    """A channel layer in a SQLite file.

    By default a file of its own, ``<NAME>.channels`` beside the one of the alias ``using``, so that the application's
    transactions and the layer's never wait for each other. ``transactional=True`` or ``shared=True`` keep the messages
    in the alias' own file; what is then written by a thread that has an atomic block open on the alias is part of that
    block. ``file`` names another file. ``synchronous`` is SQLite's pragma: ``"NORMAL"`` (a power cut may take the last
    messages, a crash of the process none), ``"FULL"`` (nothing), ``"OFF"`` (a power cut may take the file).

    Waits for the file's write lock at most 10 seconds, then raises ``LayerUnavailable``. Readers are woken by a
    doorbell in ``<file>.d``; where there can be none, they look at the file every 1 to 50 ms.

    Raises :class:`~channels_core.exceptions.InvalidChannelLayerError` for a database in memory and for a SQLite before
    3.35.
    """

    __abstract__ = False
    vendor = "sqlite"
    one_row = "(SELECT 1)"

    def __init__(
        self,
        *,
        using: str = "default",
        file: str | Path | None = None,
        shared: bool = False,
        synchronous: str = "NORMAL",
        doorbell: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(using=using, **options)
        if sqlite3.sqlite_version_info < _OLDEST:
            raise InvalidChannelLayerError(
                f"SQLite is {sqlite3.sqlite_version}, and the layer 'database' needs 3.35 or later. Use a newer Python,"
                " another database, or another layer."
            )
        if synchronous not in {"OFF", "NORMAL", "FULL"}:
            raise InvalidChannelLayerError(
                f"Option synchronous is {synchronous!r}: it must be 'OFF', 'NORMAL' or 'FULL'."
            )
        self.is_shared = shared or self.transactional_by_default
        self.is_transactional = self.is_shared  # type: ignore[misc]  # here it depends on the options
        if self.is_shared and file is not None:
            raise InvalidChannelLayerError(
                "Option file names a file of the layer's own, and shared or transactional keep messages in the file of"
                f" the alias {using!r}: give one or the other."
            )
        self._wanted_file = None if file is None else Path(file).absolute()
        self._synchronous = synchronous
        self._file = self._locate()
        self._lock = threading.Lock()
        self._session: SQLiteSession | None = None
        self._version = (-1, 0)
        self._announced = 0
        self._due = 0.0
        self._writes = 0
        self._is_copying = False
        self._copied_at = 0
        self._turn: asyncio.AbstractEventLoop | None = None
        self._last_found = time.monotonic()
        self.doorbell = Doorbell(Path(f"{self._file}.d") if doorbell else None)
        if self.is_shared and doorbell:
            self.doorbell = Doorbell(Path(f"{self._file}.channels.d"))
        _layers.add(self)

    def _locate(self) -> Path:
        if self._wanted_file is not None:
            return self._wanted_file
        name = str(new_wrapper(self.using).settings_dict["NAME"])
        if name == ":memory:" or "mode=memory" in name or name.startswith("file::memory:") or not name:
            raise InvalidChannelLayerError(
                f"The database {self.using!r} is a SQLite database in memory ({name!r}), which no other process can"
                " read. Give its TEST a NAME, or the layer's CONFIG a 'file', or use the layer 'memory' in tests."
            )
        path = Path(name).absolute()
        return path if self.is_shared else path.with_name(f"{path.name}.channels")

    def describe(self) -> str:
        return str(self._file)

    # The connection.

    def _now(self, session: Session) -> float:
        return time.time() if self._clock is None else self._clock()

    def _acquire(self) -> Session:
        if self.is_shared:
            callers = self._callers()
            if callers is not None:
                return callers
        if getattr(self._local, "must_not_sleep", False):
            if not self._lock.acquire(blocking=False):
                raise Busy("another thread is using the connection")
        elif not self._lock.acquire(timeout=self.patience):
            raise self._too_busy()
        try:
            return self._session or self._connect()
        except BaseException:
            self._lock.release()
            raise

    def _release(self, session: Session) -> None:
        if not isinstance(session, _CallersSession):
            self._lock.release()

    def _connect(self) -> SQLiteSession:
        if self._is_closed:
            raise LayerUnavailable(f"The layer ({self.describe()}) is closed. Make another one.")
        self._file = self._locate()
        try:
            connection = sqlite3.connect(
                self._file, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=512
            )
        except sqlite3.Error as error:
            raise LayerUnavailable(
                f"SQLite cannot open the layer's file ({self._file}): {error}. Its directory has to exist and to be"
                " writable."
            ) from error
        session = SQLiteSession(connection, self.describe)
        try:
            session.run("PRAGMA journal_mode = WAL")
            session.run(f"PRAGMA synchronous = {self._synchronous}")
            session.run("PRAGMA wal_autocheckpoint = 0")
            session.run(
                "PRAGMA temp_store = MEMORY"
            )  # or each delete of several rows makes a file to undo it with
            session.run(f"PRAGMA journal_size_limit = {_LOG_SIZE}")
            found = session.rows(
                "SELECT count(*) FROM sqlite_master WHERE name IN (?, ?)",
                (f"{self.prefix}msg", f"{self.prefix}closed_proc"),
            )
            if found != [(2,)]:
                session.begin()
                for statement in create(self.prefix):
                    session.run(statement)
                session.commit()
        except BaseException:
            connection.close()
            raise
        self._version = (-1, 0)
        self._session = session
        return session

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.connection.close()

    def _after(self, tx: Transaction) -> None:
        if isinstance(tx.session, _CallersSession):
            from django.db import transaction

            transaction.on_commit(lambda: super(SQLiteLayer, self)._after(tx), using=self.using)
            return
        self._announced += bool(tx.rings)
        super()._after(tx)
        self._due = min(self._due, tx.now + min(self.lease, self.process_lease))
        self._writes += 1
        if self._writes % _LOOK_AT_LOG == 0:
            self._look_at_log()

    # The log.

    def _look_at_log(self) -> None:
        try:
            size = os.stat(f"{self._file}-wal").st_size  # noqa: PTH116 - on the way of messages
        except OSError:
            return
        if size < self._copied_at:  # it began anew
            self._copied_at = 0
        is_too_large = size > _LOG_TOO_LARGE
        if (is_too_large or size > self._copied_at + _LOG_SIZE) and not self._is_copying:
            self._is_copying = True
            self._copied_at = size
            modes = ("PASSIVE", "RESTART") if is_too_large else ("PASSIVE",)
            threading.Thread(target=self._copy_log, args=(modes,), name="layer-log", daemon=True).start()

    def _copy_log(self, modes: Sequence[str]) -> None:
        """Copy the log into the file. Writers go on meanwhile, and begin the log anew once all of it is copied."""
        try:
            connection = sqlite3.connect(self._file, timeout=1.0, isolation_level=None)
            try:
                for mode in modes:
                    connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            finally:
                connection.close()
        except sqlite3.Error:
            pass  # the log grows, and it is tried again
        finally:
            self._is_copying = False

    # The caller's transaction.

    def _callers(self) -> _CallersSession | None:
        """The connection of Django's on which this thread has a transaction open, if it has."""
        if in_running_loop():
            return None
        from django.db import connections

        wrapper: BaseDatabaseWrapper = connections[self.using]
        connection = wrapper.connection
        if connection is None:
            return None
        if wrapper.in_atomic_block:
            wrapper.validate_no_broken_transaction()
            return _CallersSession(connection, self.describe)
        if connection.in_transaction:
            raise TransactionError(
                f"This thread has a transaction open on the database {self.using!r} without transaction.atomic(), and"
                " holds the file's lock: the layer would wait for it for ever. Use atomic(), or commit first."
            )
        return None

    def send_in_transaction(self, sends: Sequence[Send]) -> list[Outcome] | None:
        if not self.is_shared:
            raise TransactionError(
                f"The layer keeps its messages in a file of its own ({self._file}), so none can be written in a"
                f" transaction of the database {self.using!r}. Set 'transactional' or 'shared' to True in the layer's"
                " CONFIG, or send with on_commit=True."
            )
        from django.db import connections

        connection = connections[self.using]
        if not connection.in_atomic_block:
            if is_manual(connection):
                raise TransactionError(
                    f"The connection to the database {self.using!r} is without autocommit, and on SQLite a message can"
                    " be part of a transaction of transaction.atomic() alone. Use atomic()."
                )
            return None
        return self.send_batch(sends)

    # The asynchronous view: in the loop, without threads.

    async def asend_one(self, send: Send) -> Outcome:
        # Where nobody sends beside it, at once; where others do, all of a loop's turn leave together.
        loop = asyncio.get_running_loop()
        if self._gathered > 1 or send.is_group or self._turn is loop or loop in self._leaving:
            return await super().asend_one(send)
        self._turn = loop
        loop.call_soon(self._end_turn)
        outcome = self._send_at_once(send)
        if outcome is None:
            return await super().asend_one(send)
        await asyncio.sleep(0)  # a task that sends without end gives way to others
        return outcome

    def _send_at_once(self, send: Send) -> Outcome | None:
        """``None``, and nothing done, where that would be waiting for others."""
        self._local.must_not_sleep = True
        try:
            return self.send_one(send)
        except Busy:
            return None
        finally:
            self._local.must_not_sleep = False

    def _end_turn(self) -> None:
        self._turn = None

    async def _run_sync(self, call: Callable[[], T]) -> T:
        tries = 0
        end = time.monotonic() + self.patience
        local = self._local
        while True:
            local.must_not_sleep = True
            try:
                return call()
            except Busy as busy:
                if time.monotonic() >= end:
                    raise self._too_busy() from busy
            finally:
                local.must_not_sleep = False
            tries += 1
            if tries <= _SHORT_WAITS:  # the lock is mostly held for less than a loop's timer can tell
                time.sleep(0.00003)  # noqa: ASYNC251 - shorter than what giving way would cost
            else:
                await asyncio.sleep(random.uniform(0.0, 0.002))

    async def aclean(self, *, limit: int | None = None) -> int:
        return await asyncio.to_thread(self.clean, limit=limit)

    # Looking without having been rung.

    def _look(self) -> bool:
        def ask(tx: Transaction) -> tuple[bool, bool]:
            [(version,)] = tx.session.rows("PRAGMA data_version")
            seen = version, self._announced  # this connection's own writes do not change the file's version
            is_new = seen != self._version
            self._version = seen
            if is_new or tx.now >= self._due:
                [(due,)] = tx.session.rows(
                    f"SELECT min(lease) FROM (SELECT min(lease) lease FROM {self.prefix}proc"
                    f" UNION ALL SELECT min(lease) FROM {self.prefix}lease)"
                )
                self._due = 9e15 if due is None else due
            return is_new, tx.now >= self._due

        is_new, is_due = self._run(ask, is_whole=False)
        if is_new:
            self._last_found = time.monotonic()
            self._news += 1  # at once: what follows may have to be tried again, when nothing is new any more
        if is_due:
            self._run(self._lapse)
        return is_new or is_due

    def _interval(self) -> float:
        if self.doorbell.reaches_others:
            return _IDLE
        return min(_SLOWEST, max(_FASTEST, 0.1 * (time.monotonic() - self._last_found)))

    def close(self) -> None:
        if self._is_closed:
            return
        super().close()
        with self._lock:
            self._disconnect()


# SQLite's connections must not be carried over a fork: before one, they are closed and nobody can open them.
_layers: weakref.WeakSet[SQLiteLayer] = weakref.WeakSet()
_forking: list[SQLiteLayer] = []


def _before_fork() -> None:
    for layer in sorted(_layers, key=id):
        layer._lock.acquire()
        layer._disconnect()
        _forking.append(layer)


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop()._lock.release()


def _after_fork_in_child() -> None:
    while _forking:
        layer = _forking.pop()
        layer._lock = threading.Lock()
        layer._is_copying = False
        layer._reset()
        layer.doorbell.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
