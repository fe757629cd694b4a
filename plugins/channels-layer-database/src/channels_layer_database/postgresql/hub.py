"""What one event loop has of the layer: a connection, the sends that gather for its next statement, and the stations
of its readers.

One statement with sends is under way at a time; what is sent meanwhile leaves together in the next. Everything here
runs in the loop's thread, without tasks: operations end in callbacks.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import Delivery, Outcome, Settlement, Verdict
from channels_layer_database.postgresql.connecting import Link, connect
from channels_layer_database.postgresql.encoding import (
    BYTEA,
    bigints,
    integer,
    ints,
    number,
    raw_array,
    texts,
)
from channels_layer_database.postgresql.outgoing import LOWEST, Batch, Outgoing, notification_channel
from channels_layer_database.postgresql.pipeline import (
    Answers,
    Call,
    ConnectionLost,
    Pipeline,
    Row,
    StatementError,
)
from channels_layer_database.postgresql.statements import Statement
from channels_layer_database.postgresql.station import Reader, Station, credits_of
from channels_layer_database.rows import UNREADABLE

if TYPE_CHECKING:
    from channels_layer_database.postgresql.layer import PostgreSQLLayer

__all__ = ["Hub"]

logger = logging.getLogger("channels.layer.database")

_LARGEST_FLUSH: Final = 1000
_MOST_BYTES: Final = 32 * 2**20
"""Messages, and about how many bytes, that leave in one transaction; one caller's stay together."""
_TRIES: Final = 5
_REPEATABLE: Final = ("40", "26000", "55P03")
"""Deadlock and serialization failure; a prepared statement that is not there; a lock that was not to be had."""
_QUEUE_FULL: Final = "54000"
"""The server's queue of notifications has no room: a commit with one fails."""
_QUIET_FOR: Final = 10.0
_IS_ID: Final = re.compile(r"-?[0-9]{1,18}\Z").match
_CONNECT_TIMEOUT: Final = 10.0
_IDLE_STATION: Final = 30.0


class Hub:
    """One loop's connection. Made and used in the loop's thread."""

    def __init__(self, layer: PostgreSQLLayer, loop: asyncio.AbstractEventLoop) -> None:
        self.layer = layer
        self.loop = loop
        self.statements = layer.statements
        self.is_closed = False
        self._pipeline: Pipeline | None = None
        self._connecting: asyncio.Future[Link] | None = None
        self._waiting: list[Callable[[Exception | None], None]] = []
        self._pause = 0.05
        self._away_until = 0.0
        self._away: Exception | None = None
        self._gathering: deque[Outgoing] = deque()
        self._is_sending = False
        self._flush_is_due = False
        self._stations: dict[tuple[tuple[str, ...], str | None], Station] = {}
        self._channels: dict[str, set[Station]] = {}
        self._names: dict[str, str] = {}
        self._loading: dict[str, list[Callable[[Exception | None], None]]] = {}
        self._pruning: asyncio.TimerHandle | None = None
        self._quiet_until = 0.0

    # The connection.

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._pipeline is not None

    @property
    def is_listening(self) -> bool:
        """Whether the connection can be told of messages."""
        return self._pipeline is not None and self._pipeline.is_session

    def connected(self, then: Callable[[Exception | None], None]) -> None:
        """Call ``then`` when there is a connection, or with the error why there is none."""
        if self._pipeline is not None:
            then(None)
            return
        if self.is_closed:
            then(LayerUnavailable("This layer is closed. Make another one."))
            return
        if self._connecting is None and self._away is not None and monotonic() < self._away_until:
            then(self._away)
            return
        self._waiting.append(then)
        if self._connecting is None:
            self._connecting = self.loop.run_in_executor(
                None,
                lambda: connect(self.layer.using, is_session=self.layer.is_session, timeout=_CONNECT_TIMEOUT),
            )
            self._connecting.add_done_callback(self._made)

    def _made(self, connecting: asyncio.Future[Link]) -> None:
        self._connecting = None
        waiting, self._waiting = self._waiting, []
        error: Exception | None = None
        try:
            link = connecting.result()
        except asyncio.CancelledError:
            error = LayerUnavailable("The event loop ended while it was connecting.")
        except LayerUnavailable as away:
            error = away
        except Exception as failure:  # noqa: BLE001 - of Django or libpq: the engine cannot be reached, and the text says why
            error = LayerUnavailable(str(failure).strip() or type(failure).__name__)
        else:
            if self.is_closed:
                link.pgconn.finish()
                error = LayerUnavailable("This layer is closed. Make another one.")
            else:
                self._pause, self._away = 0.05, None
                try:
                    self._pipeline = Pipeline(
                        link,
                        self.loop,
                        self._notified,
                        self._lost,
                        answer_timeout=self.layer.answer_timeout,
                    )
                except Exception as failure:  # noqa: BLE001 - of the loop, such as one that cannot watch a socket
                    link.pgconn.finish()
                    error = LayerUnavailable(
                        f"The event loop {type(self.loop).__name__} cannot drive a connection to PostgreSQL:"
                        f" {str(failure).strip() or type(failure).__name__}"
                    )
                for station in self._stations.values():
                    station.is_listening = False
        if error is not None:
            self._away = error
            self._away_until = monotonic() + self._pause * random.uniform(0.5, 1.0)  # jitter
            self._pause = min(self._pause * 2, 5.0)
        for then in waiting:
            then(error)

    def _lost(self, error: Exception) -> None:
        self._pipeline = None
        self._channels.clear()
        self._names.clear()
        for process in list(self.layer.members):
            self.layer.members[process].is_current = False
        for station in list(self._stations.values()):
            station.is_listening = False
            station.fail(error)

    def close(self) -> None:
        """Give the connection up; everybody who waits returns."""
        self.is_closed = True
        self.wake()
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.give_up(ConnectionLost("This layer was closed before the answer came."))
        error = LayerUnavailable("This layer is closed. Make another one.")
        for station in list(self._stations.values()):
            if station.timer is not None:
                station.timer.cancel()
            station.fail(error)
        if self._pruning is not None:
            self._pruning.cancel()
        while self._gathering:
            self._gathering.popleft().done(error)

    def submit(
        self,
        calls: Sequence[Call],
        done: Callable[[Answers | Exception], None],
        *,
        durable: bool = False,
        tries: int = _TRIES,
    ) -> None:
        """Run ``calls`` in one transaction; again, a bounded number of times, where it met another's."""

        if self._quiet_until:
            calls = self._quietly(calls)

        def answered(answers: Answers | Exception) -> None:
            if isinstance(answers, StatementError) and answers.sqlstate == _QUEUE_FULL and _is_loud(calls):
                self._be_quiet(answers)
                self.submit(calls, done, durable=durable, tries=tries)
            elif (
                isinstance(answers, StatementError) and answers.sqlstate.startswith(_REPEATABLE) and tries > 1
            ):
                self.loop.call_later(
                    random.uniform(0.001, 0.02) * (_TRIES - tries + 1),  # jitter
                    lambda: self.submit(calls, done, durable=durable, tries=tries - 1),
                )
            else:
                done(answers)

        def go(error: Exception | None) -> None:
            if error is not None:
                done(error)
            elif self._pipeline is None:
                done(LayerUnavailable("The connection to PostgreSQL was lost."))
            else:
                self._pipeline.submit(calls, answered, durable=durable)

        if self._pipeline is not None:
            self._pipeline.submit(calls, answered, durable=durable)
        else:
            self.connected(go)

    submit_read = submit

    def _be_quiet(self, error: StatementError) -> None:
        """Go on without notifications for a while: readers look by themselves, later."""
        if not self._quiet_until:
            logger.warning(
                "PostgreSQL takes no notifications (%s): for the next %.0f s readers find messages some seconds late."
                " Look for a session that has said LISTEN and stays in a transaction.",
                error,
                _QUIET_FOR,
            )
        self._quiet_until = monotonic() + _QUIET_FOR

    def _quietly(self, calls: Sequence[Call]) -> Sequence[Call]:
        if monotonic() > self._quiet_until:
            self._quiet_until = 0.0
            return calls
        return [(statement.quiet or statement, parameters) for statement, parameters in calls]

    async def run(self, calls: Sequence[Call], *, durable: bool = False) -> Answers:
        """:meth:`submit`, for a caller that awaits. Raises :class:`~channels_core.exceptions.LayerUnavailable`."""
        future: asyncio.Future[Answers] = self.loop.create_future()

        def done(answers: Answers | Exception) -> None:
            if not future.done():
                if isinstance(answers, Exception):
                    future.set_exception(answers)
                else:
                    future.set_result(answers)

        self.submit(calls, done, durable=durable)
        return await future

    # Sending.

    def send(self, outgoing: Outgoing) -> None:
        """Let it leave with the next statement."""
        self._gathering.append(outgoing)
        if not self._is_sending and not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._is_sending or not self._gathering:
            return
        taken: list[Outgoing] = []
        count = size = 0
        while self._gathering and count < _LARGEST_FLUSH and size < _MOST_BYTES:
            if taken and (self._gathering[0].is_strict or taken[-1].is_strict):
                break  # its error must be its own
            one = self._gathering.popleft()
            taken.append(one)
            for send in one.sends:
                size += send.size
            count += len(one.sends)
        self._is_sending = True
        self.connected(lambda error: self._flush_now(taken, error))

    def _flush_now(self, taken: list[Outgoing], error: Exception | None) -> None:
        if error is not None:
            self._is_sending = False
            for one in (*taken, *self._gathering):
                one.done(error)
            self._gathering.clear()
            return
        written = [one.on_written for one in taken if one.on_written is not None]
        if not written:
            self._submit_batch(taken)
            return
        with nullcontext() if self._pipeline is None else self._pipeline.together():
            self._submit_batch(taken)
            for on_written in written:
                on_written()

    def _submit_batch(self, taken: list[Outgoing]) -> None:
        batch = Batch(self.layer, self.statements, taken)
        straight = batch.straight()
        if straight is None:
            self._count_and_send(batch)
        else:
            call, count = straight

            def answered(answers: Answers | Exception) -> None:
                if isinstance(answers, Exception) or len(answers[0]) == count:
                    self._sent(batch, answers)
                else:
                    self._count_and_send(batch)

            self.submit((call,), answered)

    def _count_and_send(self, batch: Batch) -> None:
        """Where a room may be full, or a process dead: look how it is."""
        calls = batch.calls()
        if calls:
            self.submit(calls, lambda answers: self._sent(batch, answers), durable=batch.is_durable)
        else:
            self._sent(batch, [])

    def _sent(self, batch: Batch, answers: Answers | Exception) -> None:
        self._is_sending = False
        if isinstance(answers, Exception):
            for one in batch.outgoing:
                self._failed(one, answers)
        else:
            batch.take(answers)
            self.layer.counters.group_dropped += batch.dropped
            if batch.stale:
                self._again_without_expired(batch)
                return
            for one in batch.outgoing:
                one.done(one.outcomes)
        self._flush()

    def _failed(self, one: Outgoing, error: Exception) -> None:
        if isinstance(error, ConnectionLost) and one.sends:
            self.layer.counters.uncertain += len(one.sends)
            one.done([Outcome.UNCERTAIN] * len(one.sends))
        else:
            one.done(error)

    def _again_without_expired(self, batch: Batch) -> None:
        """A full channel holds expired messages: away with them, then once more for what found no room."""
        again: list[tuple[Outgoing, list[int]]] = []
        for one in batch.outgoing:
            refused = [index for index, outcome in enumerate(one.outcomes) if outcome is Outcome.FULL]
            if refused and not one.acks and not one.is_strict:
                again.append((one, refused))

        def finish() -> None:
            for one in batch.outgoing:
                one.done(one.outcomes)
            self._is_sending = False
            self._flush()

        def joined(second: list[Outgoing], batch_again: Batch, answers: Answers | Exception) -> None:
            if isinstance(answers, Exception):
                outcome = Outcome.UNCERTAIN if isinstance(answers, ConnectionLost) else Outcome.FULL
                for one in second:
                    one.outcomes = [outcome] * len(one.sends)
            else:
                batch_again.take(answers)
            for (one, refused), retried in zip(again, second, strict=True):
                for index, outcome in zip(refused, retried.outcomes, strict=True):
                    one.outcomes[index] = outcome
            finish()

        def purged() -> None:
            if not again:
                finish()
                return
            second = [
                Outgoing([one.sends[index] for index in refused], lambda _: None, is_durable=one.is_durable)
                for one, refused in again
            ]
            batch_again = Batch(self.layer, self.statements, second)
            calls = batch_again.calls()
            self.submit(
                calls, lambda answers: joined(second, batch_again, answers), durable=batch_again.is_durable
            )

        self._is_sending = True
        self.purge(batch.stale, purged)

    # Receiving.

    def receive(
        self, channels: Sequence[str], reader: Reader, *, timeout: float | None, process: str | None
    ) -> Station:
        """Let ``reader`` wait at the station of ``channels``."""
        key = tuple(channels), process
        station = self._stations.get(key)
        if station is None:
            station = self._stations[key] = Station(self, channels, process)
            if self._pruning is None:
                self._pruning = self.loop.call_later(_IDLE_STATION, self._prune)
        if timeout is None or timeout > 0:
            if timeout is not None:
                reader.timer = self.loop.call_later(timeout, station.expire, reader)
            station.add(reader, is_urgent=False)
        else:
            reader.is_patient = False
            station.add(reader, is_urgent=True)
        return station

    def wake(self) -> None:
        """Every reader returns."""
        for station in list(self._stations.values()):
            station.wake()

    def _prune(self) -> None:
        """Forget stations that nobody came to since the last time."""
        self._pruning = None
        calls: list[Call] = []
        for key, station in list(self._stations.items()):
            if station.readers or station.is_fetching:
                station.was_idle = False
            elif not station.was_idle:
                station.was_idle = True
            else:
                del self._stations[key]
                if station.timer is not None:
                    station.timer.cancel()
                for name in [name for name, stations in self._channels.items() if station in stations]:
                    self._channels[name].discard(station)
                    if not self._channels[name]:
                        del self._channels[name]
                        self._names.pop(name, None)
                        calls.append((self._plain("UNLISTEN", name), ()))
        if calls and self.is_listening:
            self.submit(calls, lambda _: None)
        if self._stations and not self.is_closed:
            self._pruning = self.loop.call_later(_IDLE_STATION, self._prune)

    def _plain(self, verb: str, name: str) -> Statement:
        return Statement(b"", f'{verb} "{name}"'.encode(), is_kept=False)

    def listen(self, station: Station) -> None:
        """Have the station told of what arrives, from before its next look on."""
        if not self.is_listening:
            return
        calls: list[Call] = []
        for key in station.units:
            name = notification_channel(self.layer.prefix, key)
            self._names[name] = key
            stations = self._channels.get(name)
            if stations is None:
                stations = self._channels[name] = set()
                calls.append((self._plain("LISTEN", name), ()))
            stations.add(station)
        if calls:
            self.submit(calls, lambda _: None)
            if self._pipeline is not None:
                self._pipeline.divide()

    def _notified(self, channel: str, payload: str) -> None:
        key = self._names.get(channel)
        if key is not None:
            # Anybody on the database may send one; what is no id says only that there is something.
            low = int(payload) if _IS_ID(payload) else LOWEST
            for station in tuple(self._channels.get(channel, ())):
                station.arrived(key, low)

    # What comes along.

    def needs_members(self, process: str) -> bool:
        """Whether who of ``process`` is in which group has to be asked first."""
        return not self.layer.members_of(process).is_current

    def load_members(self, processes: Sequence[str], then: Callable[[Exception | None], None]) -> None:
        """Ask the tables who of each process is in which group."""

        def done(answers: Answers | Exception) -> None:
            if isinstance(answers, Exception):
                then(answers)
                return
            for process, rows in zip(processes, answers, strict=True):
                members = self.layer.members_of(process)
                members.load(
                    ((a or b"").decode(), (b or b"").decode(), (c or b"").decode()) for a, b, c in rows
                )
            then(None)

        self.submit([(self.statements.members_of, (process.encode(),)) for process in processes], done)

    def expired(self, rows: Sequence[Row], are_leased: Sequence[Row]) -> None:
        """Count what had expired before anybody took it; leases of such rows are ended."""
        self.layer.count_expired(len(rows), credits_of(rows))
        if are_leased:
            self.submit([(self.statements.ack, _tokens_of(are_leased))], lambda _: None)

    def bury_exhausted(self, rows: Sequence[Row], then: Callable[[], None]) -> None:
        """Dead-letter what was tried as often as it may be."""
        last = self.layer.max_attempts
        reasons = texts([f"It was tried {last} times and never settled." for _ in rows])
        self.layer.counters.dead += len(rows)
        call = (self.statements.bury, (*_tokens_of(rows), reasons, ints([last] * len(rows))))
        self.submit([call], lambda _: then())

    def set_aside(self, rows: Sequence[tuple[Row, bool]], then: Callable[[], None]) -> None:
        """What is no message, and whether it is leased: a dead letter, where it was one of a channel's."""
        logger.error(
            "Rows of the layer cannot be read and are set aside: %s.",
            ", ".join(f"{(row[1] or b'').decode()} #{number(row[0])}" for row, _ in rows[:10]),
        )
        leased = [row for row, is_leased in rows if is_leased]
        plain = [row for row, is_leased in rows if row[3] is None and not is_leased]
        self.layer.counters.dead += len(leased) + len(plain)
        calls: list[Call] = []
        if leased:
            reasons = texts([UNREADABLE] * len(leased))
            calls.append((self.statements.bury, (*_tokens_of(leased), reasons, ints([None] * len(leased)))))
        if plain:
            calls.append(
                (
                    self.statements.set_aside,
                    (
                        texts([(row[1] or b"").decode() for row in plain]),
                        ints([number(row[5]) for row in plain]),
                        ints([number(row[6]) for row in plain]),
                        texts([UNREADABLE] * len(plain)),
                        raw_array(BYTEA, [row[12] for row in plain]),
                    ),
                )
            )
        if calls:
            self.submit(calls, lambda _: then())
        else:
            then()

    def purge(self, keys: Sequence[str], then: Callable[[], None]) -> None:
        """Delete expired messages of these queues, a thousand of each."""

        def done(answers: Answers | Exception) -> None:
            if not isinstance(answers, Exception):
                rows = answers[0]
                self.layer.count_expired(len(rows), credits_of(rows))
            then()

        self.submit([(self.statements.purge, (texts(sorted(set(keys))), integer(1000)))], done)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Nobody wants these any more: back to the front of their channels."""
        if not deliveries:
            return
        self.layer.counters.received -= len(deliveries)
        settlements = [Settlement(delivery, Verdict.RELEASE) for delivery in deliveries]
        calls: Any = self.layer.settle_calls(settlements, is_counted=False)
        if calls:
            self.submit(calls, lambda _: None)


def _is_loud(calls: Sequence[Call]) -> bool:
    return any(statement.quiet is not None for statement, _ in calls)


def _tokens_of(rows: Sequence[Row]) -> tuple[bytes, bytes, bytes]:
    return (
        texts([(row[1] or b"").decode() for row in rows]),
        bigints([int.from_bytes(row[0] or b"", "big", signed=True) for row in rows]),
        ints([int.from_bytes(row[7] or b"", "big", signed=True) for row in rows]),
    )
