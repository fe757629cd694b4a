"""A layer in one SQLite file, for the processes of one machine: small rather than fast.

Everything is written synchronously; the asynchronous view is the derived one. Readers look every 20 ms for what other
processes sent, and at once for what their own did.
"""

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from channels_core.exceptions import LayerUnavailable
from channels_core.headers import CREDIT
from channels_core.layers import (
    AT_LEAST_ONCE,
    AT_MOST_ONCE,
    ChannelFigures,
    DeadLetter,
    Delivery,
    LayerBackend,
    Outcome,
    ProcessInfo,
    ProcessKind,
    Send,
    Settlement,
    Verdict,
)
from channels_core.names import new_id, prefix_of, process_of

SCHEMA = Path(__file__).with_name("schema.sql").read_text()
LOOK_EVERY = 0.02
NEVER = 1e15
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


class Taken:
    """Token of an at-most-once delivery: its row, which is deleted already, and whether it was put back."""

    def __init__(self, row: sqlite3.Row) -> None:
        self.row = row
        self.is_spent = False


class SqliteBackend(LayerBackend):
    delivery_classes = frozenset({AT_MOST_ONCE, AT_LEAST_ONCE})

    def __init__(self, *, path: str | Path, clock: Callable[[], float] = time.time, **options: Any) -> None:
        super().__init__(**options)
        self._path = str(path)
        self._clock = clock
        self._start()
        self._served: dict[str, int] = {}
        self._turn = 0
        _backends.add(self)

    def _start(self) -> None:
        self._lock = threading.RLock()
        self._arrivals = threading.Condition()
        self._arrived = 0
        self._wakes = 0
        self._connection: sqlite3.Connection | None = None
        self._connected = 0
        self._is_closed = False
        self._expired: list[Mapping[str, str | int]] = []

    # Every operation is one transaction, which begins by doing what has become due.

    @contextmanager
    def _transaction(self) -> Iterator[tuple[sqlite3.Connection, float]]:
        with self._lock:
            connection = self._connection or self._connect()
            connection.execute("BEGIN IMMEDIATE")
            try:
                now = self._clock()
                self._lapse(connection, now)
                yield connection, now
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            expired, self._expired = self._expired, []
        if expired and self.on_expired is not None:
            self.on_expired(expired)

    def _connect(self) -> sqlite3.Connection:
        if self._is_closed:
            raise LayerUnavailable(f"The layer in {self._path} is closed. Make another one.")
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        connection.executescript(SCHEMA)
        self._connection = connection
        self._connected += 1
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _spare(self, connection: sqlite3.Connection, now: float) -> None:
        """Where nobody renewed for half a lease, everything stood still: leases that ran then run on, once."""
        [newest] = connection.execute("SELECT max(lease_end) FROM process").fetchone()
        [spared] = connection.execute("PRAGMA user_version").fetchone()
        renewed_at = (newest or now) - self.process_lease
        if not spared and now - renewed_at > self.process_lease / 2:
            connection.execute(
                "UPDATE process SET lease_end = max(lease_end, ?) WHERE lease_end > ?",
                (now + self.process_lease * 2 / 3, renewed_at),
            )
            connection.execute("PRAGMA user_version = 1")

    def _lapse(self, connection: sqlite3.Connection, now: float) -> None:
        self._spare(connection, now)
        for row in connection.execute("SELECT id FROM process WHERE lease_end <= ?", (now,)).fetchall():
            self._end_process(connection, row["id"], now)
        lapsed = "lease IS NOT NULL AND lease_end <= ?"
        self._lose(
            connection, connection.execute(f"SELECT * FROM message WHERE {lapsed}", (now,)).fetchall(), now
        )

    def _lose(self, connection: sqlite3.Connection, rows: list[sqlite3.Row], now: float) -> None:
        for row in rows:
            self.counters.redelivered += 1
            self._put_back(connection, row, now, has_begun=True)

    def _expire(self, connection: sqlite3.Connection, now: float, where: str = "1", *values: str) -> None:
        rows = connection.execute(
            f"DELETE FROM message WHERE lease IS NULL AND expires < ? AND {where} RETURNING headers",
            (now, *values),
        ).fetchall()
        self.counters.expired += len(rows)
        self._expired += [headers for row in rows if CREDIT in (headers := unpack(row["headers"]))]

    # Sending.

    def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        outcomes = []
        refused: set[str] = set()
        with self._transaction() as (connection, now):
            for send in sends:
                name = prefix_of(send.channel)
                if send.is_group:
                    self._send_group(connection, send, now)
                    outcome = Outcome.SENT
                elif name in refused:
                    outcome = Outcome.FULL
                else:
                    local = send.channel[len(name) :]
                    outcome = self._put(connection, send, name, local, now)
                self.counters.sent += outcome is Outcome.SENT
                self.counters.gone += outcome is Outcome.GONE
                if outcome is Outcome.FULL:
                    refused.add(name)
                    self.counters.full += 1
                outcomes.append(outcome)
        self._announce()
        return outcomes

    def _put(
        self, connection: sqlite3.Connection, send: Send, queue: str, locals_: str, now: float
    ) -> Outcome:
        owner = process_of(queue)
        if owner is not None and not self._is_alive(connection, owner):
            return Outcome.GONE
        room = self._room(queue)
        if self._is_full(connection, room, queue):
            self._expire(connection, now, "room = ?", room)
            if self._is_full(connection, room, queue):
                return Outcome.FULL
        self._insert(connection, send, queue, locals_, now)
        return Outcome.SENT

    def _insert(
        self,
        connection: sqlite3.Connection,
        send: Send,
        queue: str,
        locals_: str,
        now: float,
        expires: float = 0,
    ) -> None:
        [place] = connection.execute("UPDATE place SET next = next + 1 RETURNING next").fetchone()
        values = (place, queue, self._room(queue), locals_, pack(send.content), pack(send.headers), send.size)
        connection.execute(
            "INSERT INTO message (place, queue, room, locals, content, headers, size, since, expires)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, now, expires or now + self.expiry),
        )

    def _room(self, queue: str) -> str:
        if not queue.endswith("!") or self.explicit_capacity_of(queue) is not None:
            return queue
        return f"process {process_of(queue) or queue}"

    def _is_full(self, connection: sqlite3.Connection, room: str, queue: str) -> bool:
        count, size = connection.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM message WHERE lease IS NULL AND room = ?", (room,)
        ).fetchone()
        return bool(count >= self.capacity_of(queue) or (room != queue and size >= self.inbox_bytes))

    def _send_group(self, connection: sqlite3.Connection, send: Send, now: float) -> None:
        members: dict[str, list[str]] = {}
        for channel, prefix in self._members(connection, send.channel, now):
            members.setdefault(prefix or channel, []).append(channel[len(prefix) :] if prefix else "")
        for queue, locals_ in members.items():
            if self._put(connection, send, queue, " ".join(locals_), now) is Outcome.FULL:
                self.counters.group_dropped += len(locals_)

    # Receiving.

    def receive_batch(
        self,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        if not channels or limit < 1:
            return []
        end = None if timeout is None else time.monotonic() + timeout
        wakes, version = self._wakes, (0, 0)
        while True:
            arrived = self._arrived
            if (seen := self._version()) != version or self._wakes != wakes or self._has_due():
                version = seen
                deliveries = self._take(channels, limit, process)
                if deliveries:
                    return deliveries
            if self._wakes != wakes or (end is not None and time.monotonic() >= end):
                return []
            pause = LOOK_EVERY if end is None else min(LOOK_EVERY, max(0.0, end - time.monotonic()))
            with self._arrivals:
                if self._arrived == arrived and self._wakes == wakes:
                    self._arrivals.wait(pause)
                if self._arrived != arrived:
                    version = (0, 0)

    def _version(self) -> tuple[int, int]:
        """Changes when another process has written; each connection counts for itself."""
        with self._lock:
            connection = self._connection or self._connect()
            [version] = connection.execute("PRAGMA data_version").fetchone()
            return self._connected, version

    def _has_due(self) -> bool:
        with self._lock:
            connection = self._connection or self._connect()
            [due] = connection.execute(
                "SELECT min(e) FROM (SELECT min(lease_end) e FROM process"
                " UNION ALL SELECT min(lease_end) FROM message WHERE lease IS NOT NULL)"
            ).fetchone()
        return due is not None and due <= self._clock()

    def _take(self, channels: Sequence[str], limit: int, process: str | None) -> list[Delivery]:
        deliveries: list[Delivery] = []
        with self._transaction() as (connection, now):
            units: dict[str, list[str]] = {}
            for name in channels:
                units.setdefault(process_of(name) or name, []).append(name)
                self._expire(connection, now, "queue = ?", name)
            turns = sorted(units, key=lambda unit: self._served.get(unit, 0))
            while turns and len(deliveries) < limit:
                share = max(1, (limit - len(deliveries)) // len(turns))
                for unit in tuple(turns):
                    wanted = min(share, limit - len(deliveries))
                    rows = self._take_rows(connection, units[unit], wanted, process, now)
                    if rows:
                        self._turn += 1
                        self._served[unit] = self._turn
                    deliveries += rows
                    if len(rows) < wanted:
                        turns.remove(unit)
        self.counters.received += len(deliveries)
        return deliveries

    def _take_rows(
        self, connection: sqlite3.Connection, queues: list[str], limit: int, process: str | None, now: float
    ) -> list[Delivery]:
        marks = ", ".join("?" * len(queues))
        rows = connection.execute(
            f"SELECT * FROM message WHERE lease IS NULL AND queue IN ({marks}) ORDER BY place LIMIT ?",
            (*queues, limit),
        ).fetchall()
        deliveries = []
        for row in rows:
            is_leased = self.delivery_class_of(row["queue"]) == AT_LEAST_ONCE
            token: str | Taken = new_id() if is_leased else Taken(row)
            if is_leased:
                connection.execute(
                    "UPDATE message SET lease = ?, lease_end = ?, holder = ?, expires = ? WHERE id = ?",
                    (token, now + self.lease, process, NEVER, row["id"]),
                )
            else:
                connection.execute("DELETE FROM message WHERE id = ?", (row["id"],))
            content, headers = unpack(row["content"]), unpack(row["headers"])
            locals_ = tuple(row["locals"].split())
            deliveries.append(
                Delivery(row["queue"], content, headers, locals_, row["attempt"], token, is_leased)
            )
        return deliveries

    # Settling.

    def settle(self, settlements: Sequence[Settlement]) -> None:
        with self._transaction() as (connection, now):
            for settlement in settlements:
                row = self._claim(connection, settlement.delivery)
                if row is not None:
                    self._settle(connection, settlement, row, now)
        self._announce()

    def _claim(self, connection: sqlite3.Connection, delivery: Delivery) -> sqlite3.Row | None:
        """The row, if this is the first settlement of the delivery and its lease runs."""
        if delivery.is_leased:
            found = connection.execute("SELECT * FROM message WHERE lease = ?", (delivery.token,))
            row: sqlite3.Row | None = found.fetchone()
            return row
        if delivery.token.is_spent:
            return None
        delivery.token.is_spent = True
        return delivery.token.row  # type: ignore[no-any-return]  # Delivery.token is Any

    def _settle(
        self, connection: sqlite3.Connection, settlement: Settlement, row: sqlite3.Row, now: float
    ) -> None:
        if settlement.verdict is Verdict.RELEASE:
            self.counters.released += 1
            self._put_back(connection, row, now, has_begun=settlement.is_begun)
            return
        connection.execute("DELETE FROM message WHERE id = ?", (row["id"],))
        if settlement.verdict is Verdict.REQUEUE:
            self.counters.requeued += 1
            content = unpack(row["content"]) if settlement.content is None else settlement.content
            again = Send(row["queue"], content, unpack(row["headers"]), row["size"])
            expires = NEVER if settlement.delivery.is_leased else 0
            self._insert(connection, again, row["queue"], row["locals"], now, expires)
        elif settlement.verdict is Verdict.DEAD and settlement.delivery.is_leased:
            self._bury(connection, row, settlement.reason, now)

    def _put_back(
        self, connection: sqlite3.Connection, row: sqlite3.Row, now: float, *, has_begun: bool
    ) -> None:
        is_leased = row["lease"] is not None or self.delivery_class_of(row["queue"]) == AT_LEAST_ONCE
        if has_begun and is_leased and row["attempt"] >= self.max_attempts:
            connection.execute("DELETE FROM message WHERE id = ?", (row["id"],))
            self._bury(connection, row, f"It was tried {row['attempt']} times and never settled.", now)
            return
        again = {
            **dict(row),
            "attempt": row["attempt"] + has_begun,
            "lease": None,
            "lease_end": None,
            "holder": None,
        }
        marks = ", ".join(f":{name}" for name in again)
        connection.execute(f"REPLACE INTO message ({', '.join(again)}) VALUES ({marks})", again)

    def _bury(self, connection: sqlite3.Connection, row: sqlite3.Row, reason: str, now: float) -> None:
        self.counters.dead += 1
        connection.execute(
            "INSERT INTO dead (id, queue, content, headers, size, attempt, reason, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                new_id(),
                row["queue"],
                row["content"],
                row["headers"],
                row["size"],
                row["attempt"],
                reason,
                now,
            ),
        )

    def renew_leases(self, deliveries: Sequence[Delivery]) -> None:
        with self._transaction() as (connection, now):
            for delivery in deliveries:
                if delivery.is_leased:
                    connection.execute(
                        "UPDATE message SET lease_end = ? WHERE lease = ?", (now + self.lease, delivery.token)
                    )

    # Groups.

    def group_add(self, group: str, channel: str) -> None:
        owner = process_of(channel)
        prefix = prefix_of(channel) if "!" in channel else ""
        with self._transaction() as (connection, now):
            has_ended = connection.execute("SELECT 1 FROM ended WHERE channel = ?", (channel,)).fetchone()
            if not has_ended and (owner is None or self._is_alive(connection, owner)):
                connection.execute(
                    "REPLACE INTO member VALUES (?, ?, ?, ?, ?)", (group, channel, prefix, owner, now)
                )

    def group_discard(self, group: str, channel: str) -> None:
        with self._transaction() as (connection, _):
            connection.execute("DELETE FROM member WHERE grp = ? AND channel = ?", (group, channel))

    def _members(self, connection: sqlite3.Connection, group: str, now: float) -> list[tuple[str, str]]:
        rows = connection.execute(
            "SELECT channel, prefix FROM member WHERE grp = ? AND (owner IS NOT NULL OR added >= ?)",
            (group, now - self.group_expiry),
        )
        return [(row["channel"], row["prefix"]) for row in rows]

    def group_channels(self, group: str) -> list[str]:
        with self._transaction() as (connection, now):
            return [channel for channel, _ in self._members(connection, group, now)]

    def group_count(self, group: str) -> int:
        return len(self.group_channels(group))

    def groups(self) -> dict[str, int]:
        with self._transaction() as (connection, now):
            rows = connection.execute(
                "SELECT grp, count(*) FROM member WHERE owner IS NOT NULL OR added >= ? GROUP BY grp",
                (now - self.group_expiry,),
            )
            return {row[0]: row[1] for row in rows}

    def close_channel(self, channel: str) -> None:
        with self._transaction() as (connection, now):
            connection.execute("DELETE FROM member WHERE channel = ?", (channel,))
            connection.execute("REPLACE INTO ended VALUES (?, ?)", (channel, now))

    # Processes.

    def open_process(self, kind: ProcessKind, *, label: str = "") -> str:
        process = new_id()
        with self._transaction() as (connection, now):
            connection.execute("PRAGMA user_version = 0")
            connection.execute(
                "INSERT INTO process (id, kind, label, opened, lease_end) VALUES (?, ?, ?, ?, ?)",
                (process, kind, label or str(os.getpid()), now, now + self.process_lease),
            )
        return process

    def renew_process(
        self, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        with self._transaction() as (connection, now):
            self._expire(connection, now)
            connection.execute("DELETE FROM ended WHERE at < ?", (now - 600,))
            connection.execute("PRAGMA user_version = 0")
            renewed = connection.execute(
                "UPDATE process SET lease_end = ?, load = ?, counters = ? WHERE id = ?",
                (now + self.process_lease, load, json.dumps(dict(counters or {})), process),
            )
            return renewed.rowcount == 1

    def close_process(self, process: str) -> None:
        with self._transaction() as (connection, now):
            self._end_process(connection, process, now)
        self._announce()

    def _end_process(self, connection: sqlite3.Connection, process: str, now: float) -> None:
        connection.execute("DELETE FROM process WHERE id = ?", (process,))
        connection.execute("DELETE FROM member WHERE owner = ?", (process,))
        dropped = connection.execute("DELETE FROM message WHERE queue GLOB ?", (f"*{process}!",))
        self.counters.gone += dropped.rowcount
        held = "SELECT * FROM message WHERE lease IS NOT NULL AND holder = ?"
        self._lose(connection, connection.execute(held, (process,)).fetchall(), now)

    def _is_alive(self, connection: sqlite3.Connection, process: str) -> bool:
        return connection.execute("SELECT 1 FROM process WHERE id = ?", (process,)).fetchone() is not None

    def processes(self) -> list[ProcessInfo]:
        with self._transaction() as (connection, now):
            return [
                ProcessInfo(
                    id=row["id"],
                    kind=row["kind"],
                    age=now - row["opened"],
                    load=row["load"],
                    label=row["label"],
                    counters=json.loads(row["counters"]),
                )
                for row in connection.execute("SELECT * FROM process ORDER BY opened")
            ]

    # For people.

    def flush(self) -> None:
        with self._transaction() as (connection, _):
            for table in ("message", "member", "dead"):
                connection.execute(f"DELETE FROM {table}")

    def statistics(self, channels: Iterable[str] | None = None) -> list[ChannelFigures]:
        with self._transaction() as (connection, now):
            self._expire(connection, now)
            rows = {
                row["queue"]: row
                for row in connection.execute(
                    "SELECT queue, count(*) - count(lease) pending, count(lease) leased,"
                    " min(CASE WHEN lease IS NULL THEN since END) oldest FROM message GROUP BY queue"
                )
            }
        names = rows if channels is None else {prefix_of(name) for name in channels}
        figures = []
        for name in sorted(names):
            row = rows.get(name)
            pending, leased, oldest = (0, 0, None) if row is None else tuple(row)[1:]
            age = 0.0 if oldest is None else now - oldest
            figures.append(ChannelFigures(channel=name, pending=pending, leased=leased, oldest_age=age))
        return figures

    def dead_letters(self, channel: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        with self._transaction() as (connection, now):
            rows = connection.execute(
                "SELECT * FROM dead WHERE ? IS NULL OR queue = ? ORDER BY serial LIMIT ?",
                (channel, channel, limit),
            ).fetchall()
        return [
            DeadLetter(
                id=row["id"],
                channel=row["queue"],
                content=unpack(row["content"]),
                headers=unpack(row["headers"]),
                attempt=row["attempt"],
                reason=row["reason"],
                age=now - row["at"],
            )
            for row in rows
        ]

    def replay_dead(self, ids: Sequence[str]) -> int:
        count = 0
        with self._transaction() as (connection, now):
            for dead_id in ids:
                row = connection.execute("DELETE FROM dead WHERE id = ? RETURNING *", (dead_id,)).fetchone()
                if row is not None:
                    content, headers = unpack(row["content"]), unpack(row["headers"])
                    send = Send(row["queue"], content, headers, row["size"])
                    self._insert(connection, send, row["queue"], "", now)
                    count += 1
        self._announce()
        return count

    def drop_dead(self, ids: Sequence[str]) -> int:
        with self._transaction() as (connection, _):
            return sum(connection.execute("DELETE FROM dead WHERE id = ?", (one,)).rowcount for one in ids)

    # Waking.

    def _announce(self) -> None:
        with self._arrivals:
            self._arrived += 1
            self._arrivals.notify_all()

    def wake(self) -> None:
        with self._arrivals:
            self._wakes += 1
            self._arrivals.notify_all()

    def close(self) -> None:
        self.wake()
        with self._lock:
            self._is_closed = True
            self._disconnect()
        super().close()


# SQLite's connections must not be carried over a fork: before one, they are closed and nobody can open them.
_backends: weakref.WeakSet[SqliteBackend] = weakref.WeakSet()
_forking: list[SqliteBackend] = []


def _before_fork() -> None:
    for backend in sorted(_backends, key=id):
        backend._lock.acquire()
        backend._disconnect()
        _forking.append(backend)


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop()._lock.release()


def _after_fork_in_child() -> None:
    while _forking:
        _forking.pop()._start()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
