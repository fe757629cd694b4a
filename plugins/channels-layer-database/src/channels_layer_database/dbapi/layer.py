"""What the engines with waiting drivers share: every operation as one transaction, and readers that rest on bells."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from channels_core.exceptions import LayerUnavailable, SendUncertain
from channels_core.layers import (
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
    all_sent,
    settled_by,
    uncertain,
)
from channels_core.outage import pauses
from channels_layer_database.dbapi import figures, groups, processes, settling
from channels_layer_database.dbapi.places import Places
from channels_layer_database.dbapi.sending import Rooms, put_all, put_one
from channels_layer_database.dbapi.session import Busy, Transaction
from channels_layer_database.dbapi.taking import Leases, Members, Turns, look, take, waiting_at
from channels_layer_database.layer import DatabaseLayer

if TYPE_CHECKING:
    from channels_layer_database.dbapi.doorbell import Bell, Doorbell
    from channels_layer_database.dbapi.places import Plan
    from channels_layer_database.dbapi.session import Session

__all__ = ["SerialLayer"]

logger = logging.getLogger("channels.layer.database")

T = TypeVar("T")

_SENT: Final = Outcome.SENT
_LAPSES: Final = 0.05
"""Seconds between looks for leases that ran out, while readers come again and again."""
_SHORTEST, _LONGEST = 0.0001, 0.002
"""Seconds between tries while others are in the way."""
_CLEAN: Final = 10.0
"""Seconds between looks for what can be deleted; spread by half."""


class SerialLayer(DatabaseLayer):
    """Base of :class:`SQLiteLayer` and :class:`MySQLLayer`."""

    __abstract__ = True
    is_waiting = True
    is_exchange_atomic = True

    one_row: ClassVar[str]
    """What a select without a table selects from."""
    patience: ClassVar[float] = 10.0
    """Seconds for which a transaction is tried again that others are in the way of."""

    doorbell: Doorbell

    def __init__(self, *, clock: Callable[[], float] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._clock = clock
        self.places = Places(self)
        self.rooms = Rooms()
        self.turns = Turns()
        self.members = Members()
        self.leases = Leases(self.lease)
        self._is_closed = False
        self._reset()

    def _reset(self) -> None:
        """What a forked child begins with anew."""
        self._local = threading.local()
        self._wakes = 0
        self._news = 0
        self._next_look = 0.0
        self._lapsed_at: float | None = None
        self._next_clean = time.monotonic() + _CLEAN * random.uniform(0.5, 1.5)
        self._cleaned_to = -(2**62)
        self._cleaning: threading.Thread | None = None
        self._must_scrub: list[str] = []
        self._looking = threading.Lock()
        self._leaving: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, list[tuple[Send, asyncio.Future[Outcome]]]
        ] = weakref.WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathered = 0
        self.renewed = -9e15

    # What an engine says.

    def _now(self, session: Session) -> float:
        raise NotImplementedError(f"{type(self).__name__} does not write _now().")

    def _acquire(self) -> Session:
        """A session for this thread. Raises :class:`Busy` where that would wait and the thread must not."""
        raise NotImplementedError(f"{type(self).__name__} does not write _acquire().")

    def _release(self, session: Session) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not write _release().")

    def _look(self) -> bool:
        """Whether there may be something that no bell told of; called from time to time by whoever waits."""
        raise NotImplementedError(f"{type(self).__name__} does not write _look().")

    def _interval(self) -> float:
        """Seconds until the next such look."""
        raise NotImplementedError(f"{type(self).__name__} does not write _interval().")

    # Transactions.

    def _run(self, work: Callable[[Transaction], T], *, is_whole: bool = True) -> T:
        """Do ``work`` in a transaction, or (not ``is_whole``) statement by statement; again while others are in the
        way, for a bounded time."""
        end = 0.0
        waits: Iterator[float] | None = None
        while True:
            try:
                return self._try(work, is_whole=is_whole)
            except Busy as busy:
                if getattr(self._local, "must_not_sleep", False):
                    raise
                now = time.monotonic()
                if waits is None:
                    end = now + self.patience
                    waits = pauses(_SHORTEST, _LONGEST)
                elif now >= end:
                    raise self._too_busy() from busy
            time.sleep(next(waits))

    def _too_busy(self) -> LayerUnavailable:
        return LayerUnavailable(
            f"The database of the layer ({self.describe()}) was busy for {self.patience:.0f} s; nothing was done. Look"
            " for a transaction that stays open."
        )

    def describe(self) -> str:
        """The database, for people."""
        return f"alias {self.using!r}"

    def _try(self, work: Callable[[Transaction], T], *, is_whole: bool) -> T:
        session = self._acquire()
        try:
            tx = Transaction(self, session, self._now(session))
            if is_whole:
                session.begin()
                try:
                    result = work(tx)
                    session.commit()
                except BaseException:
                    session.rollback()
                    raise
            else:
                result = work(tx)
        finally:
            self._release(session)
        self._after(tx)
        return result

    def _after(self, tx: Transaction) -> None:
        """What follows a commit."""
        counters = self.counters
        for name, number in tx.counts.items():
            setattr(counters, name, getattr(counters, name) + number)
        for token in tx.spent:
            token.is_spent = True
        if tx.rings:
            self.doorbell.ring(tx.rings)
        if tx.expired and self.on_expired is not None:
            self.on_expired(tx.expired)
        if tx.scrub:
            self._must_scrub += tx.scrub

    def _scrub(self) -> None:
        """Delete what ended processes left, a little at a time. What is in the way waits for the next time."""
        while self._must_scrub:
            process = self._must_scrub[-1]
            try:
                is_more = self._run(partial(processes.scrub, process=process))
            except (Busy, LayerUnavailable):
                return
            if not is_more and process in self._must_scrub:
                self._must_scrub.remove(process)

    # Sending.

    def send_one(self, send: Send) -> Outcome:
        if not send.is_group:
            try:
                outcome = self._run(partial(put_one, send=send), is_whole=False)
            except SendUncertain:
                self.counters.uncertain += 1
                return Outcome.UNCERTAIN
            if outcome is not None:
                return outcome
        return self.send_batch((send,))[0]

    async def asend_one(self, send: Send) -> Outcome:
        # What the tasks of a loop send at about the same time leaves in one transaction.
        loop = asyncio.get_running_loop()
        waiting = self._leaving.get(loop)
        if waiting is None:
            waiting = self._leaving[loop] = []
            task = loop.create_task(self._leave_together(loop, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        outcome: asyncio.Future[Outcome] = loop.create_future()
        waiting.append((send, outcome))
        return await outcome

    async def _leave_together(
        self, loop: asyncio.AbstractEventLoop, waiting: list[tuple[Send, asyncio.Future[Outcome]]]
    ) -> None:
        """Send what has gathered, and what gathers meanwhile; never raises."""
        while waiting:
            batch = waiting.copy()
            waiting.clear()
            self._gathered = len(batch)
            try:
                outcomes = await self._run_sync(partial(self._send_all, [send for send, _ in batch]))
            except BaseException as error:  # also a cancelled one: each sender has to hear of it
                for _, future in (*batch, *waiting):
                    if not future.done():
                        if isinstance(error, asyncio.CancelledError):
                            future.cancel()
                        else:
                            future.set_exception(error)
                self._leaving.pop(loop, None)
                if not isinstance(error, Exception):
                    raise
                return
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)
        self._leaving.pop(loop, None)

    def _send_all(self, sends: Sequence[Send]) -> list[Outcome]:
        return [self.send_one(sends[0])] if len(sends) == 1 else self.send_batch(sends)

    def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        if not sends:
            return []
        try:
            return self._run(partial(put_all, sends=sends))
        except SendUncertain:
            self.counters.uncertain += len(sends)
            return [Outcome.UNCERTAIN] * len(sends)

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
        wakes = self._wakes
        plan = self.places.plan(tuple(channels))
        deliveries = [] if self._is_quiet(plan, timeout) else self._take(plan, limit, process)
        if deliveries or (timeout is not None and timeout <= 0):
            return deliveries
        return self._wait(plan, limit, timeout, process, wakes)

    def _wait(
        self, plan: Plan, limit: int, timeout: float | None, process: str | None, wakes: int
    ) -> list[Delivery]:
        end = None if timeout is None else time.monotonic() + timeout
        bell = self.doorbell.borrow(plan.rings)
        is_rung, is_armed, must_look, seen = False, False, True, self._news
        try:
            while True:
                if is_rung:  # what it was rung for is taken before anybody is asked to ring again
                    deliveries = self._take(plan, limit, process)
                    is_rung = False
                    if deliveries:
                        plan.is_quiet = False
                        return deliveries
                bell.arm()
                is_armed = True
                if must_look:
                    deliveries = self._take(plan, limit, process)
                    if deliveries:
                        plan.is_quiet = False
                        return deliveries
                pause = self._pause(end)
                if self._wakes != wakes or pause <= 0:
                    plan.is_quiet = True
                    return []
                is_rung = bell.rest(pause) or not bell.flag[0]
                is_armed = not is_rung
                if not is_rung:
                    self._look_if_due()
                must_look = is_rung or self._news != seen
                seen = self._news
        finally:
            self._leave(bell, plan, is_rung=is_rung or (is_armed and not bell.flag[0]))

    @staticmethod
    def _is_quiet(plan: Plan | None, timeout: float | None) -> bool:
        """Whether who is about to wait need not look before: a look of one who rests comes anyway."""
        return plan is not None and plan.is_quiet and (timeout is None or timeout > 0)

    def _pause(self, end: float | None) -> float:
        """Seconds to rest: until time is up (then 0), or until the next look."""
        now = time.monotonic()
        if end is not None and now >= end:
            return 0.0
        until = self._next_look if self._next_look > now else now + self._interval()
        return (until if end is None else min(until, end)) - now

    def _leave(self, bell: Bell, plan: Plan, *, is_rung: bool) -> None:
        self.doorbell.give_back(bell)
        if is_rung:  # somebody else must have the message it was rung for
            self.doorbell.ring(dict.fromkeys(plan.rings, 1))

    def _look_if_due(self) -> None:
        if time.monotonic() < self._next_look or not self._looking.acquire(blocking=False):
            return
        try:
            if time.monotonic() >= self._next_look:
                try:
                    if self._look():
                        self._news += 1
                finally:
                    self._next_look = time.monotonic() + self._interval()
        finally:
            self._looking.release()

    def _take(self, plan: Plan, limit: int, process: str | None) -> list[Delivery]:
        """A look that locks nothing; one statement where one queue has something; else a transaction."""
        found = self._run(partial(self._take_simply, plan=plan, limit=limit), is_whole=False)
        if found is None:
            return self._run(partial(self._take_whole, plan=plan, limit=limit, process=process))
        return found

    def _take_simply(self, tx: Transaction, plan: Plan, limit: int) -> list[Delivery] | None:
        if plan.has_leases and self._is_lapse_due(tx.now):
            if self._has_lapsed(tx):
                return None
            self._lapsed_at = tx.now
        keys, is_last = waiting_at(tx, plan.keys)
        if not keys:
            return []
        if len(keys) > 1 or self.places.of(keys[0]).is_leased:
            return None
        return take(tx, plan, keys, 1 if is_last else limit, None, may_be_more=not is_last)

    def _take_whole(self, tx: Transaction, plan: Plan, limit: int, process: str | None) -> list[Delivery]:
        if plan.has_leases and self._is_lapse_due(tx.now):
            if self._has_lapsed(tx):
                self._lapse(tx)
            self._lapsed_at = tx.now
        keys, is_last = waiting_at(tx, plan.keys)
        return take(tx, plan, keys, 1 if is_last else limit, process, may_be_more=not is_last) if keys else []

    def _is_lapse_due(self, now: float) -> bool:
        return self._lapsed_at is None or abs(now - self._lapsed_at) >= _LAPSES

    def _has_lapsed(self, tx: Transaction) -> bool:
        return look(tx, ())[0]

    def _lapse(self, tx: Transaction) -> bool:
        """Take back what ran out."""
        self._lapsed_at = tx.now
        has_ended = processes.end_lapsed(tx)
        return settling.lapse(tx) or has_ended

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
        wakes = self._wakes
        plan = self.places.plan(tuple(channels))
        deliveries = [] if self._is_quiet(plan, timeout) else await self._atake(plan, limit, process)
        if deliveries or (timeout is not None and timeout <= 0):
            return deliveries
        return await self._await(plan, limit, timeout, process, wakes)

    async def _await(
        self, plan: Plan, limit: int, timeout: float | None, process: str | None, wakes: int
    ) -> list[Delivery]:
        end = None if timeout is None else time.monotonic() + timeout
        bell = self.doorbell.borrow(plan.rings, asyncio.get_running_loop())
        is_rung, is_armed, must_look, seen = False, False, True, self._news
        try:
            while True:
                if is_rung:  # what it was rung for is taken before anybody is asked to ring again
                    deliveries = await self._atake(plan, limit, process)
                    is_rung = False
                    if deliveries:
                        plan.is_quiet = False
                        return deliveries
                bell.arm()
                is_armed = True
                if must_look:
                    deliveries = await self._atake(plan, limit, process)
                    if deliveries:
                        plan.is_quiet = False
                        return deliveries
                pause = self._pause(end)
                if self._wakes != wakes or pause <= 0:
                    plan.is_quiet = True
                    return []
                is_rung = await bell.arest(pause) or not bell.flag[0]
                is_armed = not is_rung
                if not is_rung:
                    await self._run_sync(self._look_if_due)
                must_look = is_rung or self._news != seen
                seen = self._news
        finally:
            self._leave(bell, plan, is_rung=is_rung or (is_armed and not bell.flag[0]))

    async def _atake(self, plan: Plan, limit: int, process: str | None) -> list[Delivery]:
        """:meth:`_take`; cancelled, it loses nothing."""
        return await self._run_sync(partial(self._take, plan, limit, process))

    def wake(self) -> None:
        self._wakes += 1
        self.doorbell.wake()

    # Settling.

    def settle(self, settlements: Sequence[Settlement]) -> None:
        if all(map(settling.is_void, settlements)):
            return
        self._run(partial(settling.settle, settlements=settlements))

    def renew_leases(self, deliveries: Sequence[Delivery]) -> None:
        ids = [delivery.token for delivery in deliveries if delivery.is_leased]
        if ids:
            self._run(partial(settling.renew, ids=ids))

    def exchange(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = 0,
        process: str | None = None,
    ) -> Exchange:
        wakes = self._wakes
        plan = self.places.plan(tuple(channels)) if channels and limit > 0 else None
        exchange = self._exchange(turns, plan, limit, process, is_quiet=self._is_quiet(plan, timeout))
        if not self._must_wait(exchange, plan, timeout):
            return exchange
        assert plan is not None
        try:
            return Exchange(exchange.outcomes, self._wait(plan, limit, timeout, process, wakes))
        except LayerUnavailable:
            if not turns:
                raise
            return exchange

    async def aexchange(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = 0,
        process: str | None = None,
    ) -> Exchange:
        wakes = self._wakes
        plan = self.places.plan(tuple(channels)) if channels and limit > 0 else None
        is_quiet = self._is_quiet(plan, timeout)
        exchange = await self._aexchange_once(
            partial(self._exchange, turns, plan, limit, process, is_quiet=is_quiet)
        )
        if not self._must_wait(exchange, plan, timeout):
            return exchange
        assert plan is not None
        try:
            return Exchange(exchange.outcomes, await self._await(plan, limit, timeout, process, wakes))
        except LayerUnavailable:
            if not turns:
                raise
            return exchange

    async def _aexchange_once(self, call: Callable[[], Exchange]) -> Exchange:
        """The exchange without its wait; cancelled, it loses nothing that was taken."""
        return await self._run_sync(call)

    @staticmethod
    def _must_wait(exchange: Exchange, plan: Plan | None, timeout: float | None) -> bool:
        return (
            plan is not None
            and not exchange.deliveries
            and (timeout is None or timeout > 0)
            and not exchange.unsettled
            and all_sent(exchange.outcomes)
        )

    def _exchange(
        self, turns: Sequence[Turn], plan: Plan | None, limit: int, process: str | None, *, is_quiet: bool
    ) -> Exchange:
        if not any(
            turn.sends or not (turn.settlement is None or settling.is_void(turn.settlement)) for turn in turns
        ):
            deliveries = [] if plan is None or is_quiet else self._take(plan, limit, process)
            return Exchange([[] for _ in turns], deliveries)
        try:
            return self._run(partial(self._exchange_in, turns=turns, plan=plan, limit=limit, process=process))
        except SendUncertain:
            exchange = uncertain(turns)
            self.counters.uncertain += sum(map(len, exchange.outcomes))
            return exchange

    def _exchange_in(
        self, tx: Transaction, turns: Sequence[Turn], plan: Plan | None, limit: int, process: str | None
    ) -> Exchange:
        sends = [send for turn in turns for send in turn.sends]
        outcomes, settlements = settled_by(turns, put_all(tx, sends) if sends else ())
        settling.settle(tx, settlements)
        deliveries = self._take_whole(tx, plan, limit, process) if plan is not None else []
        return Exchange(outcomes, deliveries)

    # Groups.

    def group_add(self, group: str, channel: str) -> None:
        self._run(partial(groups.add, group=group, channel=channel))

    def group_discard(self, group: str, channel: str) -> None:
        self._run(partial(groups.discard, group=group, channel=channel))

    def group_channels(self, group: str) -> list[str]:
        return self._run(partial(groups.members_of, group=group), is_whole=False)

    def group_count(self, group: str) -> int:
        return len(self.group_channels(group))

    def groups(self) -> dict[str, int]:
        return self._run(groups.list_groups, is_whole=False)

    def close_channel(self, channel: str) -> None:
        self._run(partial(groups.close, channel=channel))

    # Processes.

    def open_process(self, kind: ProcessKind, *, label: str = "") -> str:
        return self._run(partial(processes.open_process, kind=kind, label=label))

    def renew_process(
        self, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        is_alive = self._run(
            partial(processes.renew, process=process, load=load, counters=counters or {}), is_whole=False
        )
        self._keep_clean()
        return is_alive

    def close_process(self, process: str) -> None:
        self._run(partial(processes.end, process=process))
        self._scrub()

    def processes(self) -> list[ProcessInfo]:
        return self._run(processes.list_processes, is_whole=False)

    # For people.

    def flush(self) -> None:
        self._run(figures.flush)

    def statistics(self, channels: Iterable[str] | None = None) -> list[ChannelFigures]:
        names = None if channels is None else list(channels)
        self._run(self._lapse)
        return self._run(partial(figures.statistics, channels=names), is_whole=False)

    def dead_letters(self, channel: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        self._run(self._lapse)
        return self._run(partial(figures.dead_letters, channel=channel, limit=limit), is_whole=False)

    def replay_dead(self, ids: Sequence[str]) -> int:
        return self._run(partial(figures.replay_dead, ids=ids))

    def drop_dead(self, ids: Sequence[str]) -> int:
        return self._run(partial(figures.drop_dead, ids=ids))

    # Cleaning.

    def clean(self, *, limit: int | None = None) -> int:
        deleted, after = 0, -(2**62)
        while limit is None or deleted < limit:
            begun = time.monotonic()
            some, go_on = self._run(partial(figures.clean_some, after=after), is_whole=False)
            deleted += some
            if go_on is None:
                break
            after = go_on
            if some:
                time.sleep(10 * (time.monotonic() - begun) * random.uniform(0.5, 1.5))
        while (limit is None or deleted < limit) and (
            some := self._run(figures.clean_memberships, is_whole=False)
        ):
            deleted += some
        self._run(self._lapse)
        self._scrub()
        return deleted

    def _keep_clean(self) -> None:
        """From time to time, look at some rows; where there is much to delete, do it in a thread."""
        if self._must_scrub:
            self._scrub()
        if time.monotonic() < self._next_clean or self._cleaning is not None or self._is_closed:
            return
        self._next_clean = time.monotonic() + _CLEAN * random.uniform(0.5, 1.5)
        try:
            deleted, go_on = self._run(partial(figures.clean_some, after=self._cleaned_to), is_whole=False)
            self._cleaned_to = -(2**62) if go_on is None else go_on
            if not deleted:
                self._run(figures.clean_memberships, is_whole=False)
                return
        except (Busy, LayerUnavailable):
            return
        if deleted >= figures.MANY:
            self._cleaning = threading.Thread(target=self._clean_beside, name="layer-clean", daemon=True)
            self._cleaning.start()

    def _clean_beside(self) -> None:
        try:
            self.clean()
        except LayerUnavailable:
            pass  # another time
        except Exception:
            logger.exception("Cleaning the tables of the layer (%s) failed.", self.describe())
        finally:
            self._cleaning = None

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.wake()
        self.doorbell.close()
        super().close()
