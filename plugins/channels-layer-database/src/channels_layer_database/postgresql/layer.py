"""The layer on PostgreSQL: what the contract asks, in terms of hubs and statements."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar
from weakref import ref

from channels_core.exceptions import InvalidChannelLayerError, LayerUnavailable
from channels_core.layer_views import in_running_loop
from channels_core.layers import (
    AT_LEAST_ONCE,
    ChannelFigures,
    DeadLetter,
    Delivery,
    Exchange,
    Outcome,
    ProcessInfo,
    ProcessKind,
    Send,
    Settlement,
    Turn,
    Verdict,
    all_sent,
    settled_by,
)
from channels_core.names import new_id, prefix_of, process_of
from channels_layer_database.layer import DatabaseLayer
from channels_layer_database.memberships import LocalMembers
from channels_layer_database.postgresql.connecting import require_psycopg
from channels_layer_database.postgresql.encoding import (
    BYTEA,
    TIMESTAMP,
    bigints,
    booleans,
    float8,
    integer,
    ints,
    number,
    raw_array,
    real,
    smallints,
    text,
    texts,
)
from channels_layer_database.postgresql.hub import Hub
from channels_layer_database.postgresql.outgoing import Outgoing, Unit, is_ack, plain_acks, unit_for
from channels_layer_database.postgresql.pipeline import Answers, Call, ConnectionLost, StatementError
from channels_layer_database.postgresql.statements import Statement, statements_for
from channels_layer_database.postgresql.station import Leased, Reader, Station, Taken, credits_of
from channels_layer_database.rows import pack, unpack, unpack_dead

__all__ = ["PostgreSQLLayer"]

T = TypeVar("T")

SENT, FULL, GONE, UNCERTAIN, TOO_LARGE = (
    Outcome.SENT,
    Outcome.FULL,
    Outcome.GONE,
    Outcome.UNCERTAIN,
    Outcome.TOO_LARGE,
)
_REFUSED: Final = "22012"
"""Division by zero: how a strict statement says that it refused something, and so undoes its transaction."""
_UNITS: Final = 4096
_TIGHT: Final = 8
_CLOSED_FOR: Final = 600.0
"""Seconds for which it is remembered that a channel ended."""
_CLEAN_EVERY: Final = 5.0
_KEYS_AT_ONCE: Final = 200
_ROWS_AT_ONCE: Final = 500


class PostgreSQLLayer(DatabaseLayer):
    """The engine of the layer "database" on PostgreSQL 12 or later.

    One connection for each process and event loop; threads share one that a thread of the layer's own drives. Options
    of its own: ``session``, whether the connection is one session from beginning to end (``None``: find out; behind a
    pooler it is not, and the layer then polls instead of listening); ``idle_poll``, the longest pause between two
    looks then; and ``answer_timeout`` (30 s), after which a connection whose answer is due is given up.
    """

    __abstract__ = False
    vendor = "postgresql"
    is_exchange_atomic = True

    def __init__(
        self,
        *,
        session: bool | None = None,
        idle_poll: float = 0.5,
        answer_timeout: float = 30.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        require_psycopg()
        if session not in {None, True, False}:
            raise InvalidChannelLayerError(f"Option session is {session!r}: it must be True, False or None.")
        if isinstance(idle_poll, bool) or not isinstance(idle_poll, int | float) or not 0 < idle_poll <= 60:
            raise InvalidChannelLayerError(
                f"Option idle_poll is {idle_poll!r}: it must be a number of seconds above 0, and 60 at most."
            )
        if (
            isinstance(answer_timeout, bool)
            or not isinstance(answer_timeout, int | float)
            or not 1 <= answer_timeout <= 3600
        ):
            raise InvalidChannelLayerError(
                f"Option answer_timeout is {answer_timeout!r}: it must be a number of seconds, 1 to 3600."
            )
        self.has_durable = bool(self._delivery_patterns)
        self.is_session = session
        self.answer_timeout = float(answer_timeout)
        self.idle_poll = float(idle_poll)
        self.in_hand: set[ref[Leased]] = set()
        """Tokens of leased deliveries that somebody has."""
        self.statements = statements_for(self.prefix, self.process_lease)
        self._units: dict[str, Unit] = {}
        self.last_id = 0
        """The highest id that is known to have been given; a guess that spares an insert that would be refused."""
        self.tight: deque[Unit] = deque(maxlen=_TIGHT)
        """Small rooms that were counted lately."""
        self._start()

    def _start(self) -> None:
        self._hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = weakref.WeakKeyDictionary()
        self._own: Hub | None = None
        self._handed: deque[Callable[[Hub], None]] = deque()
        self._is_called = False
        self.members: dict[str, LocalMembers] = {}
        self._is_cleaning = False
        self._clean_due = 0.0
        self._cleaned_to = ""
        self._cleaning: asyncio.Task[None] | None = None
        self._is_closed = False

    def _forget_views(self) -> None:
        """After a fork the child has none of the parent's connections; dropped, not closed, they stay the parent's."""
        super()._forget_views()
        if not self._is_closed:
            self._start()

    # Hubs.

    def _hub(self) -> Hub:
        """The running loop's."""
        loop = asyncio.get_running_loop()
        hub = self._hubs.get(loop)
        if hub is None:
            self._prepare()
            for other in [other for other in list(self._hubs) if other.is_closed()]:
                self._hubs.pop(other).close()
            hub = self._hubs[loop] = Hub(self, loop)
            hub.is_closed = self._is_closed
        return hub

    def _hand(self, work: Callable[[Hub], None]) -> None:
        """Have ``work`` done by the hub of the layer's own thread. One call of the loop serves all that wait."""
        if self._is_closed:
            raise LayerUnavailable("This layer is closed. Make another one.")
        self._handed.append(work)
        if not self._is_called:
            self._is_called = True
            try:
                self._own_loop().call_soon_threadsafe(self._do_handed)
            except RuntimeError as error:  # its loop was stopped by close() in this moment
                self._is_called = False
                raise LayerUnavailable("This layer is closed. Make another one.") from error

    def _do_handed(self) -> None:
        self._is_called = False
        hub = self._own = self._hub()
        handed = self._handed
        while handed:
            handed.popleft()(hub)

    def unit_of(self, channel: str) -> Unit:
        """Where a message to ``channel`` is counted; kept, so that it is one object."""
        name = prefix_of(channel)
        unit = self._units.get(name)
        if unit is None:
            if len(self._units) >= _UNITS:
                self._units.clear()
            unit = unit_for(self, name)
            if unit.process is not None and unit.room == 1:
                unit = self._units.setdefault(unit.key, unit)  # the prefixes of a process share its inbox
            self._units[name] = unit
        return unit

    def note_taken(self, ids: Sequence[int]) -> None:
        """These ids, in ascending order, wait in no room any more."""
        self.last_id = max(self.last_id, ids[-1])
        for unit in tuple(self.tight):
            unit.taken(ids)

    def members_of(self, process: str) -> LocalMembers:
        """Who of ``process`` is in which group."""
        members = self.members.get(process)
        if members is None:
            members = self.members[process] = LocalMembers()
        return members

    # Sending.

    def _outgoing(
        self,
        sends: Sequence[Send],
        done: Callable[[list[Outcome] | Exception], None],
        **more: Any,
    ) -> Outgoing:
        durable = bool(self._delivery_patterns) and any(
            not send.is_group and self.delivery_class_of(send.channel) == AT_LEAST_ONCE for send in sends
        )
        return Outgoing(sends, done, is_durable=durable, **more)

    def _count(self, outcomes: Iterable[Outcome]) -> None:
        counters = self.counters
        for outcome in outcomes:
            if outcome is SENT:
                counters.sent += 1
            elif outcome is FULL:
                counters.full += 1
            elif outcome is GONE:
                counters.gone += 1
            elif outcome is TOO_LARGE:
                counters.too_large += 1

    def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        if not sends:
            return []
        if in_running_loop():
            return self._run_async(self.asend_batch(sends))
        box = _Box[list[Outcome]]()
        outgoing = self._outgoing(sends, box.put)
        self._hand(lambda hub: hub.send(outgoing))
        outcomes = box.get()
        self._count(outcomes)
        return outcomes

    async def asend_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        if not sends:
            return []
        hub = self._hub()
        future: asyncio.Future[list[Outcome]] = hub.loop.create_future()
        hub.send(self._outgoing(sends, _into(future)))
        outcomes = await future
        self._count(outcomes)
        return outcomes

    async def asend_one(self, send: Send) -> Outcome:
        hub = self._hub()
        future: asyncio.Future[list[Outcome]] = hub.loop.create_future()
        hub.send(self._outgoing((send,), _into(future)))
        outcomes = await future
        if outcomes[0] is SENT:
            self.counters.sent += 1
        else:
            self._count(outcomes)
        return outcomes[0]

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
        if in_running_loop():
            return self._receive_async(channels, limit=limit, timeout=timeout, process=process)
        box = _Box[list[Delivery]]()

        def done(found: list[Delivery] | Exception) -> None:
            if not box.is_abandoned:
                box.put(found)
            elif isinstance(found, list) and self._own is not None:
                self._own.give_back(found)

        reader = Reader(limit, done)
        self._hand(lambda hub: _ignore(hub.receive(channels, reader, timeout=timeout, process=process)))
        try:
            return box.get()
        except BaseException:
            self._hand(lambda hub: self._abandon(hub, reader, box.abandon()))
            raise

    async def areceive_batch(
        self,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        if not channels or limit < 1:
            return []
        hub = self._hub()
        future: asyncio.Future[list[Delivery]] = hub.loop.create_future()

        def done(found: list[Delivery] | Exception) -> None:
            if not future.done():
                _into(future)(found)
            elif isinstance(found, list):
                hub.give_back(found)  # it was cancelled meanwhile

        reader = Reader(limit, done)
        station = hub.receive(channels, reader, timeout=timeout, process=process)
        try:
            return await future
        except asyncio.CancelledError:
            station.remove(reader)
            found = (
                future.result()
                if future.done() and not future.cancelled() and not future.exception()
                else None
            )
            self._abandon(hub, reader, found)
            raise

    @staticmethod
    def _abandon(hub: Hub, reader: Reader, found: list[Delivery] | None) -> None:
        """Nobody waits for it any more; what it had got already goes back."""
        reader.is_over = True
        if reader.timer is not None:
            reader.timer.cancel()
        if found:
            hub.give_back(found)

    # Settling.

    def settle_calls(self, settlements: Sequence[Settlement], *, is_counted: bool = True) -> list[Call]:
        """The statements that do it. Marks the tokens of unleased deliveries as spent."""
        acks: list[Delivery] = []
        released: list[tuple[Delivery, bool]] = []
        requeued: list[tuple[Delivery, bytes]] = []
        dead: list[tuple[Delivery, str]] = []
        back: list[tuple[Delivery, bytes | None]] = []
        counters = self.counters
        for settlement in settlements:
            delivery, verdict = settlement.delivery, settlement.verdict
            if not delivery.is_leased:
                if self._is_put_back(settlement, is_counted=is_counted):
                    back.append((delivery, self._requeued_body(settlement)))
            elif verdict is Verdict.DONE:
                acks.append(delivery)
            elif verdict is Verdict.RELEASE:
                counters.released += is_counted
                if settlement.is_begun and delivery.attempt >= self.max_attempts:
                    dead.append((delivery, f"It was tried {delivery.attempt} times and never settled."))
                else:
                    released.append((delivery, settlement.is_begun))
            elif verdict is Verdict.REQUEUE:
                counters.requeued += 1
                content = delivery.content if settlement.content is None else settlement.content
                requeued.append((delivery, pack(content, delivery.headers)))
            else:
                dead.append((delivery, settlement.reason))
        for delivery, *_ in (*released, *requeued, *back):
            self.unit_of(delivery.channel).distrust()  # what comes to the front is to be counted
        counters.dead += len(dead)
        return self._settling(acks, dead, requeued, released, back)

    def _settling(
        self,
        acks: Sequence[Delivery],
        dead: Sequence[tuple[Delivery, str]],
        requeued: Sequence[tuple[Delivery, bytes]],
        released: Sequence[tuple[Delivery, bool]],
        back: Sequence[tuple[Delivery, bytes | None]],
    ) -> list[Call]:
        statements = self.statements
        calls: list[Call] = []
        if acks:
            calls.append((statements.ack, _tokens(acks)))
        if dead:
            reasons = texts([reason.replace("\x00", "\ufffd") for _, reason in dead])
            calls.append(
                (statements.bury, (*_tokens([one for one, _ in dead]), reasons, ints([None] * len(dead))))
            )
        if requeued:
            bodies = raw_array(BYTEA, [body for _, body in requeued])
            calls.append((statements.requeue, (*_tokens([one for one, _ in requeued]), bodies)))
        if released:
            begun = ints([int(is_begun) for _, is_begun in released])
            calls.append((statements.release, (*_tokens([one for one, _ in released]), begun)))
        if back:
            calls.append(self._put_back(back))
        return calls

    def _is_put_back(self, settlement: Settlement, *, is_counted: bool) -> bool:
        """Whether an unleased delivery goes back to its channel, for the first time."""
        token, verdict = settlement.delivery.token, settlement.verdict
        if verdict in {Verdict.DONE, Verdict.DEAD} or not isinstance(token, Taken) or token.is_spent:
            return False
        token.is_spent = True
        if verdict is Verdict.RELEASE:
            self.counters.released += is_counted
        else:
            self.counters.requeued += 1
        return True

    @staticmethod
    def _requeued_body(settlement: Settlement) -> bytes | None:
        """What goes to the back of the channel; ``None`` for what goes to the front as it was."""
        if settlement.verdict is Verdict.RELEASE:
            return None
        old: bytes = settlement.delivery.token.row[12] or b""
        return old if settlement.content is None else pack(settlement.content, unpack(old)[1])

    def _put_back(self, back: Sequence[tuple[Delivery, bytes | None]]) -> Call:
        rows = [delivery.token.row for delivery, _ in back]
        is_front = [body is None for _, body in back]
        dests = [
            " ".join(delivery.locals).encode() if delivery.locals else row[3]
            for (delivery, _), row in zip(back, rows, strict=True)
        ]
        return self.statements.put_back, (
            texts([text(row[1]) for row in rows]),
            texts([None if row[2] is None else text(row[2]) for row in rows]),
            texts([None if dest is None else text(dest) for dest in dests]),
            smallints([number(row[4]) for row in rows]),
            ints([number(row[5]) for row in rows]),
            smallints([number(row[6]) for row in rows]),
            ints([number(row[7]) for row in rows]),
            raw_array(
                TIMESTAMP, [row[8] if front else None for row, front in zip(rows, is_front, strict=True)]
            ),
            raw_array(
                TIMESTAMP, [row[9] if front else None for row, front in zip(rows, is_front, strict=True)]
            ),
            raw_array(
                BYTEA, [row[12] if body is None else body for (_, body), row in zip(back, rows, strict=True)]
            ),
            booleans(is_front),
            float8(self.expiry),
        )

    async def asettle(self, settlements: Sequence[Settlement]) -> None:
        unspent = _unspent(settlements)
        calls = self.settle_calls(settlements)
        if calls:
            try:
                await self._hub().run(calls)
            except LayerUnavailable as error:
                _unspend(unspent, error)
                raise

    def settle(self, settlements: Sequence[Settlement]) -> None:
        if in_running_loop():
            self._run_async(self.asettle(settlements))
            return
        unspent = _unspent(settlements)
        calls = self.settle_calls(settlements)
        if calls:
            box = _Box[Answers]()
            try:
                self._hand(lambda hub: hub.submit(calls, box.put))
                box.get()
            except LayerUnavailable as error:
                _unspend(unspent, error)
                raise

    async def arenew_leases(self, deliveries: Sequence[Delivery]) -> None:
        leased = [delivery for delivery in deliveries if delivery.is_leased]
        if leased:
            await self._hub().run([(self.statements.renew, (*_tokens(leased), float8(self.lease)))])

    # Exchange.

    def exchange(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = 0,
        process: str | None = None,
    ) -> Exchange:
        if in_running_loop() or _needs_care(turns):
            return self._run_async(
                self.aexchange(turns, channels, limit=limit, timeout=timeout, process=process)
            )
        box = _Box[Exchange]()
        exchanging = _Exchanging(self, turns, channels, limit, timeout, process, box.put)
        self._hand(exchanging.begin)
        try:
            return box.get()
        except BaseException:
            self._hand(exchanging.abandon)
            raise

    async def aexchange(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = 0,
        process: str | None = None,
    ) -> Exchange:
        if _needs_care(turns):
            return await self._exchange_carefully(turns, channels, limit, timeout, process)
        hub = self._hub()
        future: asyncio.Future[Exchange] = hub.loop.create_future()
        exchanging = _Exchanging(self, turns, channels, limit, timeout, process, _into(future))
        exchanging.begin(hub)
        try:
            return await future
        except asyncio.CancelledError:
            exchanging.abandon(hub)
            raise

    async def _exchange_carefully(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        limit: int,
        timeout: float | None,
        process: str | None,
    ) -> Exchange:
        """Where a turn ends in another way than by the deletion of a lease: each turn in a transaction of its own."""
        outcomes: list[list[Outcome]] = []
        unsettled: list[Settlement] = []
        for number_, turn in enumerate(turns):
            try:
                outcomes.append(await self._finish_turn(turn))
            except LayerUnavailable:
                if not any(outcomes):
                    raise
                outcomes += [[FULL] * len(left.sends) for left in turns[number_:]]
                unsettled += [
                    left.settlement for left in turns[number_:] if left.settlement and not left.sends
                ]
                return Exchange(outcomes, [], unsettled)
        deliveries: list[Delivery] = []
        if channels and limit:
            try:
                wait = timeout if all_sent(outcomes) else 0
                deliveries = await self.areceive_batch(channels, limit=limit, timeout=wait, process=process)
            except LayerUnavailable:
                if not turns:
                    raise
        return Exchange(outcomes, deliveries, unsettled)

    async def _finish_turn(self, turn: Turn) -> list[Outcome]:
        hub = self._hub()
        settlement = turn.settlement
        if not turn.sends:
            if settlement is not None:
                await self.asettle((settlement,))
            return []
        unspent = _unspent((settlement,)) if settlement is not None else []
        calls = self.settle_calls((settlement,)) if settlement is not None else []
        if not calls:
            return await self.asend_batch(turn.sends)
        future: asyncio.Future[list[Outcome]] = hub.loop.create_future()
        hub.send(self._outgoing(turn.sends, _into(future), then=calls))
        try:
            outcomes = await future
        except LayerUnavailable as error:
            _unspend(unspent, error)
            if not isinstance(error, StatementError) or error.sqlstate != _REFUSED:
                raise
            outcomes = await self.asend_batch(turn.sends)
            if settlement is not None and all(outcome.is_final for outcome in outcomes):
                await self.asettle((settlement,))
            return outcomes
        self._count(outcomes)
        return outcomes

    # Groups.

    def _of_member(self, group: str, channel: str) -> tuple[str, str | None, tuple[bytes | None, ...]]:
        target = prefix_of(channel)
        process = process_of(target)
        return (
            target,
            process,
            (
                group.encode(),
                target.encode(),
                channel.encode(),
                None if process is None else process.encode(),
            ),
        )

    async def agroup_add(self, group: str, channel: str) -> None:
        statements = self.statements
        target, _, member = self._of_member(group, channel)
        unit = self.unit_of(target)
        calls: list[Call] = [
            (statements.channel_lock, (channel.encode(),)),
            (statements.add_target, (*member, integer(unit.cap), unit.room.to_bytes(2, "big"))),
        ]
        if target.endswith("!"):
            calls.append((statements.add_member, member))
        await self._hub().run(calls)

    async def agroup_discard(self, group: str, channel: str) -> None:
        statements = self.statements
        target, _, member = self._of_member(group, channel)
        calls: list[Call] = [(statements.channel_lock, (channel.encode(),))]
        if target.endswith("!"):
            calls += [(statements.hold_target, member[:2]), (statements.discard_member, member)]
        calls.append((statements.drop_target, member[:2]))
        await self._hub().run(calls)

    async def agroup_channels(self, group: str) -> list[str]:
        [rows] = await self._hub().run(
            [(self.statements.group_channels, (float8(self.group_expiry), group.encode()))]
        )
        return [text(row[0]) for row in rows]

    async def agroup_count(self, group: str) -> int:
        return len(await self.agroup_channels(group))

    async def agroups(self) -> dict[str, int]:
        [rows] = await self._hub().run([(self.statements.groups, (float8(self.group_expiry),))])
        return {text(row[0]): number(row[1]) for row in rows}

    async def aclose_channel(self, channel: str) -> None:
        statements = self.statements
        hub = self._hub()
        target, _, member = self._of_member("", channel)
        calls: list[Call] = [
            (statements.channel_lock, (channel.encode(),)),
            (statements.close_channel, (None, *member[1:])),
        ]
        if not target.endswith("!"):
            calls.append((statements.close_plain, (channel.encode(),)))
        answers = await hub.run(calls)
        groups = sorted({text(row[0]) for row in answers[1]})
        if groups:
            gone = (target.encode(), texts(groups))
            # Held first: otherwise a member that comes at this moment would lose its group.
            await hub.run([(statements.hold_targets, gone), (statements.drop_targets, gone)])

    # Processes.

    async def aopen_process(self, kind: ProcessKind, *, label: str = "") -> str:
        process = new_id()
        label = label or f"{socket.gethostname()}:{os.getpid()}"
        await self._hub().run(
            [
                (self.statements.spare, ()),
                (
                    self.statements.open_process,
                    (process.encode(), kind.encode(), label.encode(), float8(self.process_lease)),
                ),
            ]
        )
        self.members[process] = LocalMembers(is_current=True)
        return process

    async def arenew_process(
        self, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        hub = self._hub()
        _, rows = await hub.run(
            [
                (self.statements.spare, ()),
                (
                    self.statements.renew_process,
                    (
                        process.encode(),
                        float8(self.process_lease),
                        float8(load),
                        json.dumps(dict(counters or {})).encode(),
                    ),
                ),
            ]
        )
        self._clean_when_due(hub)
        return bool(rows)

    async def aclose_process(self, process: str) -> None:
        [rows] = await self._hub().run([(self.statements.close_process, (process.encode(),))])
        self.counters.gone += number(rows[0][0])
        self.members.pop(process, None)

    async def aprocesses(self) -> list[ProcessInfo]:
        [rows] = await self._hub().run([(self.statements.processes, ())])
        return [
            ProcessInfo(
                id=text(row[0]),
                kind=text(row[1]),  # type: ignore[arg-type]  # what open_process was given
                label=text(row[2]),
                age=real(row[3]),
                load=real(row[4]),
                counters=json.loads(text(row[5])),
            )
            for row in rows
        ]

    # For people.

    async def aflush(self) -> None:
        await self._hub().run([(statement, ()) for statement in self.statements.flush])

    async def astatistics(self, channels: Iterable[str] | None = None) -> list[ChannelFigures]:
        names = None if channels is None else {prefix_of(name) for name in channels}
        keys = None if names is None else texts(sorted({self.unit_of(name).key for name in names}))
        [rows] = await self._hub().run([(self.statements.figures, (keys,))])
        found = {text(row[0]): row for row in rows if names is not None or number(row[1]) or number(row[2])}
        figures = []
        for name in sorted(found if names is None else names):
            row = found.get(name)
            pending, leased, age = (
                (0, 0, 0.0) if row is None else (number(row[1]), number(row[2]), real(row[3]))
            )
            figures.append(ChannelFigures(channel=name, pending=pending, leased=leased, oldest_age=age))
        return figures

    async def adead_letters(self, channel: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        parameters = (None if channel is None else channel.encode(), integer(limit))
        [rows] = await self._hub().run([(self.statements.dead, parameters)])
        letters = []
        for row in rows:
            content, headers = unpack_dead(row[2] or b"")
            letters.append(
                DeadLetter(
                    id=str(number(row[0])),
                    channel=text(row[1]),
                    content=content,
                    headers=headers,
                    attempt=number(row[3]),
                    reason=text(row[4]),
                    age=real(row[5]),
                )
            )
        return letters

    async def areplay_dead(self, ids: Sequence[str]) -> int:
        found = _dead_ids(ids)
        [rows] = await self._hub().run([(self.statements.replay, (found, float8(self.expiry)))], durable=True)
        return number(rows[0][0])

    async def adrop_dead(self, ids: Sequence[str]) -> int:
        [rows] = await self._hub().run([(self.statements.drop_dead, (_dead_ids(ids),))])
        return number(rows[0][0])

    # Expiry and cleaning.

    def count_expired(self, count: int, credited: Sequence[Mapping[str, str | int]]) -> None:
        """Messages expired unread: count them, and have their senders' credit sent back."""
        self.counters.expired += count
        if credited and self.on_expired is not None:
            self.on_expired(list(credited))

    def _clean_when_due(self, hub: Hub) -> None:
        now = hub.loop.time()
        if not self._is_cleaning and now >= self._clean_due:
            self._is_cleaning = True
            self._cleaning = hub.loop.create_task(self._clean_quietly(hub))
            self._clean_due = now + _CLEAN_EVERY * random.uniform(0.5, 1.5)  # jitter

    async def _clean_quietly(self, hub: Hub) -> None:
        try:
            with suppress(LayerUnavailable):
                await self._clean(hub, limit=4000, purge=self.statements.sweep)
        finally:
            self._is_cleaning = False

    async def _clean(self, hub: Hub, *, limit: int | None, purge: Statement) -> int:
        """One process at a time does it, in steps, and pauses ten times as long as each took."""
        statements = self.statements
        removed = 0
        while limit is None or removed < limit:
            begun = hub.loop.time()
            [alone], rows = await hub.run(
                [
                    (statements.alone, ()),
                    (statements.keys, (self._cleaned_to.encode(), integer(_KEYS_AT_ONCE))),
                ]
            )
            if alone[0] != b"\x01":
                return removed
            keys = [text(row[0]) for row in rows]
            orphans = [text(row[0])[:-1] for row in rows if row[1] == b"\x01"]
            found = 0
            if keys:
                [deleted] = await hub.run([(purge, (texts(keys), integer(_ROWS_AT_ONCE)))])
                self.count_expired(len(deleted), credits_of(deleted))
                found = len(deleted)
            for orphan in orphans:
                [dropped] = await hub.run([(statements.close_process, (orphan.encode(),))])
                found += number(dropped[0][0])
            removed += found
            if found < _ROWS_AT_ONCE:  # nothing piled up under these keys: on to the next ones
                self._cleaned_to = keys[-1] if len(keys) == _KEYS_AT_ONCE else ""
            await asyncio.sleep((hub.loop.time() - begun) * 10)
            if not self._cleaned_to and found < _ROWS_AT_ONCE:
                break
        answers = await hub.run(
            [
                (statements.forget, (float8(_CLOSED_FOR),)),
                (statements.forget_members, (float8(self.group_expiry),)),
                (statements.forget_targets, (float8(self.group_expiry),)),
                (statements.lapsed, (float8(self.process_lease),)),
            ]
        )
        *counts, lapsed = answers
        for row in lapsed:
            await hub.run([(statements.close_process, (row[0],))])
        return removed + sum(number(rows[0][0]) for rows in counts) + len(lapsed)

    async def aclean(self, *, limit: int | None = None) -> int:
        self._cleaned_to = ""
        return await self._clean(self._hub(), limit=limit, purge=self.statements.purge)

    # Sends in the caller's transaction.

    def send_in_transaction(self, sends: Sequence[Send]) -> list[Outcome] | None:
        from channels_layer_database.postgresql.transactions import send_in_transaction

        outcomes = send_in_transaction(self, sends)
        if outcomes is not None:
            self._count(outcomes)
        return outcomes

    def announce(self, woken: Mapping[str, int]) -> None:
        """Tell readers of these queues that a row with this id, or a higher one, is there."""
        call: Call = (self.statements.announce, (texts(list(woken)), bigints(list(woken.values()))))
        box = _Box[Answers]()
        self._hand(lambda hub: hub.submit([call], box.put))
        box.get()

    # The end.

    def wake(self) -> None:
        for loop, hub in list(self._hubs.items()):
            with suppress(RuntimeError):  # the loop is closed: nobody waits there
                loop.call_soon_threadsafe(hub.wake)

    def close(self) -> None:
        self._is_closed = True
        for loop, hub in list(self._hubs.items()):
            if loop.is_running():
                with suppress(RuntimeError):  # it has just been closed
                    loop.call_soon_threadsafe(hub.close)
            else:
                hub.close()
        self._hubs.clear()
        super().close()


class _Box(Generic[T]):
    """The answer to a thread that waits for a hub."""

    __slots__ = ("_found", "_lock", "is_abandoned")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._found: T | Exception | None = None
        self.is_abandoned = False

    def put(self, found: T | Exception) -> None:
        """Called once, by the hub."""
        self._found = found
        self._lock.release()

    def get(self) -> T:
        """Wait for it. Raises it, where it is an error."""
        self._lock.acquire()
        if isinstance(self._found, Exception):
            raise self._found
        return self._found  # type: ignore[return-value]  # put() has been called

    def abandon(self) -> Any:
        """The waiter has gone: what came in spite of that. Called in the hub's thread."""
        self.is_abandoned = True
        return None if isinstance(self._found, Exception) else self._found


class _Exchanging:
    """One exchange: its sends and acknowledgements, then its receive, which is written without waiting for them."""

    def __init__(
        self,
        layer: PostgreSQLLayer,
        turns: Sequence[Turn],
        channels: Sequence[str],
        limit: int,
        timeout: float | None,
        process: str | None,
        done: Callable[[Exchange | Exception], None],
    ) -> None:
        self._layer = layer
        self._turns = turns
        self._channels = channels if limit > 0 else ()
        self._limit = limit
        self._timeout = timeout
        self._process = process
        self._done = done
        self._is_over = False
        self._hub: Hub | None = None
        self._outcomes: list[list[Outcome]] | None = None
        self._found: list[Delivery] | None = None
        self._reader: Reader | None = None
        self._station: Station | None = None
        self._careful: asyncio.Task[Exchange] | None = None

    def begin(self, hub: Hub) -> None:
        self._hub = hub
        sends: list[Send] = []
        turn_of: list[int] = []
        for number_, turn in enumerate(self._turns):
            sends += turn.sends
            turn_of += [number_] * len(turn.sends)
        acks = plain_acks(self._turns)
        if not sends and not acks:
            self._outcomes = [[] for _ in self._turns]
            self._receive()
            return
        outgoing = self._layer._outgoing(sends, self._sent, turn_of=turn_of, acks=acks)
        if (
            not outgoing.is_strict
        ):  # else the sends may have to be made in another way, and the receive waits for them
            outgoing.on_written = self._receive
        hub.send(outgoing)

    def _receive(self) -> None:
        if self._reader is not None or self._found is not None:
            return
        if not self._channels or self._is_over:
            self._received([])
            return
        assert self._hub is not None
        self._reader = Reader(self._limit, self._received)
        self._station = self._hub.receive(
            self._channels, self._reader, timeout=self._timeout, process=self._process
        )

    def _received(self, found: list[Delivery] | Exception) -> None:
        if isinstance(found, Exception):
            if not self._turns:
                self._finish(found)
                return
            found = []
        self._found = found
        self._join()

    def _sent(self, outcomes: list[Outcome] | Exception) -> None:
        assert self._hub is not None
        if isinstance(outcomes, StatementError) and outcomes.sqlstate == _REFUSED:
            self._careful = self._hub.loop.create_task(
                self._layer._exchange_carefully(
                    self._turns, self._channels, self._limit, self._timeout, self._process
                )
            )
            self._careful.add_done_callback(self._careful_done)
            return
        if isinstance(outcomes, Exception):
            self._finish(outcomes)
            return
        self._layer._count(outcomes)
        self._outcomes, _ = settled_by(self._turns, outcomes)
        if self._reader is None and self._found is None:
            self._receive()
        if self._reader is not None and not all_sent(self._outcomes) and self._station is not None:
            self._station.expire(self._reader)
        self._join()

    def _careful_done(self, task: asyncio.Task[Exchange]) -> None:
        if task.cancelled():
            self._finish(LayerUnavailable("The exchange was cut short."))
        else:
            error = task.exception()
            self._finish(task.result() if error is None else error)  # type: ignore[arg-type]  # an Exception

    def _join(self) -> None:
        if self._outcomes is not None and self._found is not None:
            self._finish(Exchange(self._outcomes, self._found))

    def _finish(self, found: Exchange | Exception) -> None:
        if self._is_over:
            if isinstance(found, Exchange) and found.deliveries and self._hub is not None:
                self._hub.give_back(found.deliveries)
            return
        self._is_over = True
        if isinstance(found, Exception):
            self._give_up_reading()
        self._done(found)

    def _give_up_reading(self) -> None:
        if self._reader is not None and self._station is not None and self._hub is not None:
            self._station.remove(self._reader)
            self._layer._abandon(self._hub, self._reader, self._found)
            self._found = None

    def abandon(self, hub: Hub) -> None:
        """The caller was interrupted: what it got, or would get, goes back."""
        if not self._is_over:
            self._is_over = True
            self._give_up_reading()
        elif self._found:
            hub.give_back(self._found)


def _into(future: asyncio.Future[T]) -> Callable[[T | Exception], None]:
    def put(found: T | Exception) -> None:
        if not future.done():
            if isinstance(found, Exception):
                future.set_exception(found)
            else:
                future.set_result(found)

    return put


def _needs_care(turns: Sequence[Turn]) -> bool:
    """Whether a settlement is more than the deletion of a lease."""
    for turn in turns:
        settlement = turn.settlement
        if settlement is None or is_ack(settlement):
            continue
        if settlement.delivery.is_leased or settlement.verdict not in {Verdict.DONE, Verdict.DEAD}:
            return True
    return False


def _tokens(deliveries: Sequence[Delivery]) -> tuple[bytes, bytes, bytes]:
    return (
        texts([delivery.channel for delivery in deliveries]),
        bigints([delivery.token.id for delivery in deliveries]),
        ints([delivery.token.taken for delivery in deliveries]),
    )


def _unspent(settlements: Sequence[Settlement]) -> list[Taken]:
    """The tokens that settling will spend."""
    return [
        token for one in settlements if isinstance(token := one.delivery.token, Taken) and not token.is_spent
    ]


def _unspend(tokens: Sequence[Taken], error: LayerUnavailable) -> None:
    """Settling failed: where it certainly did nothing, it can be repeated."""
    if not isinstance(error, ConnectionLost):
        for token in tokens:
            token.is_spent = False


def _dead_ids(ids: Sequence[str]) -> bytes:
    return bigints([int(one) for one in ids if one.isascii() and one.isdecimal() and len(one) < 19])


def _ignore(_: object) -> None: ...
