"""The memory layer: every operation is a few steps on dicts and deques, under one lock that nobody sleeps on.

Nothing polls and no thread or timer runs: what is due (an expired message, a lease that ran out) is done by the
next call that could notice, and a reader that waits sleeps exactly until then. Messages are handed over as they
came; the core has checked and copied them.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from math import inf
from operator import attrgetter
from typing import Any, TypeVar

from channels_core.headers import CREDIT
from channels_core.layers import (
    AT_LEAST_ONCE,
    AT_MOST_ONCE,
    ChannelFigures,
    DeadLetter,
    Delivery,
    Exchange,
    LayerBackend,
    Outcome,
    ProcessInfo,
    ProcessKind,
    Send,
    Settlement,
    Turn,
    Verdict,
)
from channels_core.names import new_id, prefix_of, process_of
from channels_layer_memory.memberships import Memberships
from channels_layer_memory.processes import Process
from channels_layer_memory.queues import Entry, Queue, Room
from channels_layer_memory.waiting import LoopWaiter, ThreadWaiter, Waiter

__all__ = ["MemoryBackend"]

_W = TypeVar("_W", bound=Waiter)

# Looking a member up in its enum costs as much as appending a message.
_SENT = Outcome.SENT
_RELEASE, _REQUEUE, _DEAD = Verdict.RELEASE, Verdict.REQUEUE, Verdict.DEAD
_SWEEP_AT = 1024


class MemoryBackend(LayerBackend):
    """Channels in the memory of this process: for development, tests, and sites of one process.

    Takes the options that every layer has, ``dead_letter_limit`` (10,000; beyond, the oldest are dropped) and
    ``clock`` (seconds, never going backwards) for tests. Messages are lost when the process ends. A forked child
    starts with an empty layer.
    """

    local_only = True
    delivery_classes = frozenset({AT_MOST_ONCE, AT_LEAST_ONCE})
    is_waiting = False
    is_exchange_atomic = True

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, dead_letter_limit: int = 10_000, **options: Any
    ) -> None:
        super().__init__(**options)
        self._clock = clock
        self._dead_letter_limit = dead_letter_limit
        self._start_empty()
        _backends.add(self)

    def _start_empty(self) -> None:
        # A signal handler may call wake() while its thread holds the lock: hence reentrant.
        self._lock = threading.RLock()
        self._queues: dict[str, Queue] = {}
        """By channel name, or by prefix."""
        self._sweep_at = _SWEEP_AT
        self._processes: dict[str, Process] = {}
        self._memberships = Memberships(self.group_expiry)
        self._leases: OrderedDict[Entry, Queue] = OrderedDict()
        """In the order in which they run out: all last equally long, and a renewed one goes to the end."""
        self._dead: OrderedDict[str, tuple[Entry, str, str, float]] = OrderedDict()
        """By id: the message, its channel, the reason, and when."""
        self._next_lapse = inf
        """The first moment at which a lease, of a message or a process, can have run out."""
        self._renewed_at = inf
        """When a process last took or renewed its lease; infinite where leases have been spared since."""
        self._sequence = 0
        self._turn = 0
        self._waiting: set[Waiter] = set()
        self._wakes = 0
        self._expired: list[Mapping[str, str | int]] = []
        """Headers of messages that expired and are still to be reported, once the lock is free."""

    # Sending.

    def send_one(self, send: Send) -> Outcome:
        name = send.channel
        queue = self._queues.get(name)
        if queue is None:
            mark = name.find("!") + 1
            return (
                self._send_to_inbox(send, name[:mark], name[mark:]) if mark else self.send_batch((send,))[0]
            )
        if not queue.is_simple or send.is_group or len(queue.entries) >= queue.capacity:
            return self.send_batch((send,))[0]
        # Appending takes no lock: the deque is safe by itself, and whoever does more to it under the lock looks at it
        # again after making known what it is about to do (waiters, is_dropped).
        queue.entries.append(Entry(send, self._clock()))
        self.counters.sent += 1
        if queue.waiters or queue.is_dropped:
            self._attend(queue)
        return _SENT

    def _send_to_inbox(self, send: Send, prefix: str, local: str) -> Outcome:
        """The usual case of :meth:`send_batch` for one reply, at half the cost."""
        self._lock.acquire()  # spelled out: a with statement costs twice as much
        try:
            now = self._clock()
            queue = self._queues.get(prefix)
            room = None if queue is None else queue.room
            if (
                queue is not None
                and room is not None
                and room.count < room.capacity
                and room.size < room.max_size
                and now < self._next_lapse
            ):
                self._sequence += 1
                queue.append(Entry(send, now, (local,), self._sequence))
                self.counters.sent += 1
                if not queue.waiters:
                    return _SENT
                waiter = queue.next_waiter()
                is_sent = True
            else:
                waiter, is_sent = None, False
        finally:
            self._lock.release()
        if not is_sent:
            return self.send_batch((send,))[0]
        if waiter is not None:
            self._after([waiter])
        return _SENT

    async def asend_one(self, send: Send) -> Outcome:
        return self.send_one(send)

    def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        fired: list[Waiter] = []
        with self._lock:
            outcomes = self._put_all(sends, self._now(fired), set(), fired)
        self._after(fired)
        return outcomes

    async def asend_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        return self.send_batch(sends)

    def _put_all(
        self, sends: Sequence[Send], now: float, refused: set[str], fired: list[Waiter]
    ) -> list[Outcome]:
        outcomes = []
        for send in sends:
            if send.is_group:
                self._put_group(send, now, fired)
                outcome = _SENT
            elif refused and prefix_of(send.channel) in refused:
                outcome = Outcome.FULL
            else:
                outcome = self._put(send, now, fired)
                if outcome is Outcome.FULL:
                    refused.add(prefix_of(send.channel))
            if outcome is Outcome.FULL:
                self.counters.full += 1
            outcomes.append(outcome)
        return outcomes

    def _put(self, send: Send, now: float, fired: list[Waiter]) -> Outcome:
        name = send.channel
        mark = name.find("!") + 1
        if mark:
            queue = self._queue(name[:mark])
            if queue is None:
                self.counters.gone += 1
                return Outcome.GONE
            self._sequence += 1
            entry = Entry(send, now, (name[mark:],), self._sequence)
        else:
            queue = self._queues.get(name) or self._add_queue(name)
            entry = Entry(send, now)
        if queue.is_full and not self._has_room(queue, now):
            return Outcome.FULL
        queue.append(entry)
        self.counters.sent += 1
        if queue.waiters:
            self._fire_next(queue, fired)
        return _SENT

    def _put_group(self, send: Send, now: float, fired: list[Waiter]) -> None:
        is_first = True
        for prefix, members in self._memberships.members(send.channel, now).items():
            for name in (prefix,) if prefix else members.snapshot():
                queue = self._queue(name)
                if queue is None:
                    continue
                if queue.is_full and not self._has_room(queue, now):
                    self.counters.group_dropped += len(members.added) if prefix else 1
                    continue
                # Each receiver may change what it gets: all but the first get a copy.
                copy = (
                    send
                    if is_first
                    else Send(send.channel, _copy(send.content), dict(send.headers), send.size)
                )
                is_first = False
                self._sequence += 1
                queue.append(Entry(copy, now, members.snapshot() if prefix else (), self._sequence))
                if queue.waiters:
                    self._fire_next(queue, fired)
        self.counters.sent += 1

    def _has_room(self, queue: Queue, now: float) -> bool:
        """Whether there is room on a full queue once expired messages are taken out."""
        horizon = now - self.expiry
        crowd = [queue] if queue.process is None or queue.room is None else queue.process.queues
        for other in crowd:
            if other.room is queue.room:
                self._expire(other, horizon)
        return not queue.is_full

    def _expire(self, queue: Queue, horizon: float) -> None:
        expired = queue.pop_expired(horizon)
        if expired:
            self.counters.expired += len(expired)
            self._expired += [entry.send.headers for entry in expired if CREDIT in entry.send.headers]

    def _attend(self, queue: Queue) -> None:
        """Something was appended without the lock: wake a reader, and bring the queue back if it was dropped."""
        fired: list[Waiter] = []
        with self._lock:
            if queue.is_dropped:
                successor = self._queues.setdefault(queue.name, queue)
                if successor is queue:
                    queue.is_dropped = False
                else:
                    while queue.entries:
                        try:
                            successor.entries.append(queue.entries.popleft())
                        except IndexError:  # a reader that still has the dropped queue was faster
                            break
                        self._fire_next(successor, fired)
            self._fire_next(queue, fired)
        self._after(fired)

    def _queue(self, name: str) -> Queue | None:
        """The queue of a channel or prefix; ``None`` where the process that owns it is dead."""
        queue = self._queues.get(name)
        if queue is not None:
            return queue
        owner = process_of(name) if name.endswith("!") else None
        if owner is not None and owner not in self._processes:
            return None
        return self._add_queue(name)

    def _add_queue(self, name: str) -> Queue:
        if len(self._queues) >= self._sweep_at:
            self._sweep()
        is_leased = self.delivery_class_of(name) == AT_LEAST_ONCE
        process, room = None, None
        if name.endswith("!"):
            process = self._processes.get(process_of(name) or "")
            if self.explicit_capacity_of(name) is None:
                room = Room(self.inbox_capacity, self.inbox_bytes) if process is None else process.room
        queue = Queue(name, self.capacity_of(name), is_leased=is_leased, process=process, room=room)
        if process is not None:
            process.queues.append(queue)
        self._queues[name] = queue
        return queue

    def _sweep(self) -> None:
        """Forget expired messages and idle queues: one-off names must not pile up. Costs nothing per send, since it
        is done again only when there are twice as many queues as it left."""
        horizon = self._clock() - self.expiry
        for queue in tuple(self._queues.values()):
            self._expire(queue, horizon)
            if not queue.entries and not queue.waiters and not queue.leased and queue.process is None:
                del self._queues[queue.name]
                queue.is_dropped = True
                if queue.entries:  # appended meanwhile, by a sender that need not have seen is_dropped
                    self._queues[queue.name] = queue
                    queue.is_dropped = False
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._queues))

    # Waking, with the lock (_fire_next, _pass_on) and after it (_after).

    def _fire_next(self, queue: Queue, fired: list[Waiter]) -> None:
        waiter = queue.next_waiter()
        if waiter is not None:
            fired.append(waiter)

    def _pass_on(self, waiter: Waiter, fired: list[Waiter]) -> None:
        """The reader leaves messages where it was woken: wake another for them."""
        for queue in waiter.queues:
            if queue.entries and queue.waiters:
                self._fire_next(queue, fired)

    def _after(self, fired: list[Waiter], *, from_anywhere: bool = False) -> None:
        """What is done without the lock: wake readers, report expired messages that want their credit back."""
        while fired:
            waiter = fired.pop(0)
            try:
                waiter.fire(from_anywhere=from_anywhere)
            except RuntimeError:  # its event loop was closed while it waited
                with self._lock:
                    self._unregister(waiter)
                    self._pass_on(waiter, fired)
        if self._expired:
            with self._lock:
                expired, self._expired = self._expired, []
            if expired and self.on_expired is not None:
                self.on_expired(expired)

    def wake(self) -> None:
        with self._lock:
            self._wakes += 1
            fired = [waiter for waiter in tuple(self._waiting) if not waiter.is_fired]
            for waiter in fired:
                waiter.is_fired = True
        self._after(fired, from_anywhere=True)

    # Receiving.

    def receive_batch(
        self,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        deliveries = self._take_simply(channels, limit)
        if deliveries or not channels or limit < 1:
            return deliveries
        fired: list[Waiter] = []
        waiter = None
        with self._lock:
            deliveries = self._take(channels, limit, process, self._now(fired))
            if not deliveries and (timeout is None or timeout > 0):
                waiter = self._register(ThreadWaiter(), channels)
        if fired or self._expired:
            self._after(fired)
        if waiter is None:
            return deliveries
        return self._wait(waiter, channels, limit, timeout, process)

    def _take_simply(self, channels: Sequence[str], limit: int) -> list[Delivery]:
        """What :meth:`_take` would, without the lock, where all there is waits on one queue of the simple kind."""
        queues = self._queues
        only = None
        for name in channels:
            queue = queues.get(name)
            if queue is not None and queue.entries:
                if only is not None or not queue.is_simple:
                    return []
                only = queue
        deliveries: list[Delivery] = []
        if only is not None:
            entries, name = only.entries, only.name
            horizon = self._clock() - self.expiry
            while entries and limit > 0:
                try:
                    entry = entries.popleft()
                except IndexError:  # another reader was faster
                    break
                if entry.since < horizon:
                    entries.appendleft(entry)
                    break
                send = entry.send
                deliveries.append(
                    Delivery(name, send.content, send.headers, entry.locals, entry.attempt, entry)
                )
                limit -= 1
            self.counters.received += len(deliveries)
        return deliveries

    def _wait(
        self,
        waiter: ThreadWaiter,
        channels: Sequence[str],
        limit: int,
        timeout: float | None,
        process: str | None,
    ) -> list[Delivery]:
        end = None if timeout is None else time.monotonic() + timeout
        wakes = waiter.wakes
        try:
            while True:
                if self._wakes == wakes:
                    waiter.wait(self._pause(waiter, end))
                fired: list[Waiter] = []
                with self._lock:
                    self._unregister(waiter)
                    deliveries = self._take(channels, limit, process, self._now(fired))
                    is_over = self._wakes != wakes or (end is not None and time.monotonic() >= end)
                    if deliveries:
                        self._pass_on(waiter, fired)
                    elif not is_over:
                        waiter = self._register(ThreadWaiter(), channels)
                if fired or self._expired:
                    self._after(fired)
                if deliveries or is_over:
                    return deliveries
        except BaseException:
            self._leave(waiter)
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
        fired: list[Waiter] = []
        waiter = None
        with self._lock:
            deliveries = self._take(channels, limit, process, self._now(fired))
            if not deliveries and (timeout is None or timeout > 0):
                waiter = self._register(LoopWaiter(), channels)
        if fired or self._expired:
            self._after(fired)
        if waiter is None:
            return deliveries
        return await self._await(waiter, channels, limit, timeout, process)

    async def _await(
        self,
        waiter: LoopWaiter,
        channels: Sequence[str],
        limit: int,
        timeout: float | None,
        process: str | None,
    ) -> list[Delivery]:
        end = None if timeout is None else time.monotonic() + timeout
        wakes = waiter.wakes
        try:
            while True:
                if self._wakes == wakes:
                    pause = self._pause(waiter, end)
                    if pause is not None:
                        waiter.finish_in(pause)
                    await waiter
                fired: list[Waiter] = []
                with self._lock:
                    self._unregister(waiter)
                    deliveries = self._take(channels, limit, process, self._now(fired))
                    is_over = self._wakes != wakes or (end is not None and time.monotonic() >= end)
                    if deliveries:
                        self._pass_on(waiter, fired)
                    elif not is_over:
                        waiter = self._register(LoopWaiter(), channels)
                if fired or self._expired:
                    self._after(fired)
                if deliveries or is_over:
                    return deliveries
        except BaseException:
            self._leave(waiter)
            raise

    def _register(self, waiter: _W, channels: Sequence[str]) -> _W:
        waiter.wakes = self._wakes
        for name in channels:
            queue = self._queue(name)
            if queue is not None:
                queue.waiters[waiter] = None
                waiter.queues.append(queue)
        self._waiting.add(waiter)
        if any(
            queue.entries for queue in waiter.queues
        ):  # appended since the look, before the waiter was there
            waiter.is_fired = True
            waiter.fire()
        return waiter

    def _unregister(self, waiter: Waiter) -> None:
        self._waiting.discard(waiter)
        for queue in waiter.queues:
            queue.waiters.pop(waiter, None)

    def _leave(self, waiter: Waiter) -> None:
        """The reader gives up in the middle of its wait: what it was woken for is another's."""
        fired: list[Waiter] = []
        with self._lock:
            self._unregister(waiter)
            self._pass_on(waiter, fired)
        self._after(fired)

    def _pause(self, waiter: Waiter, end: float | None) -> float | None:
        """How long the reader may sleep: to the end of its time, or until a lease can run out."""
        pause = None if end is None else end - time.monotonic()
        if any(queue.is_leased for queue in waiter.queues):
            lapse = min(self.lease, self.process_lease, self._next_lapse - self._clock())
            pause = lapse if pause is None else min(pause, lapse)
        return pause

    def _take(self, channels: Sequence[str], limit: int, holder: str | None, now: float) -> list[Delivery]:
        queues = self._queues
        ready = [queue for name in channels if (queue := queues.get(name)) is not None and queue.entries]
        deliveries: list[Delivery] = []
        if len(ready) == 1:
            self._take_from(ready[0], limit, holder, now, deliveries)
        elif ready:
            self._take_by_turns(ready, limit, holder, now, deliveries)
        self.counters.received += len(deliveries)
        return deliveries

    def _take_from(
        self, queue: Queue, limit: int, holder: str | None, now: float, deliveries: list[Delivery]
    ) -> None:
        horizon = now - self.expiry
        entries, room, is_leased = queue.entries, queue.room, queue.is_leased
        while entries and limit > 0:
            try:
                entry = entries.popleft()
            except IndexError:  # a reader without the lock was faster
                break
            send = entry.send
            if room is not None:
                room.count -= 1
                room.size -= send.size
            if entry.since < horizon and not entry.is_kept:
                self.counters.expired += 1
                if CREDIT in send.headers:
                    self._expired.append(send.headers)
                continue
            if is_leased:
                entry.lease_end = now + self.lease
                entry.holder = holder
                queue.leased += 1
                self._leases[entry] = queue
                self._next_lapse = min(self._next_lapse, entry.lease_end)
                # The reader may change what it gets, and the message may have to be delivered again as it was.
                content, headers = _copy(send.content), dict(send.headers)
            else:
                content, headers = send.content, send.headers
            deliveries.append(
                Delivery(queue.name, content, headers, entry.locals, entry.attempt, entry, is_leased)
            )
            limit -= 1

    def _take_by_turns(
        self, ready: list[Queue], limit: int, holder: str | None, now: float, deliveries: list[Delivery]
    ) -> None:
        """From each channel the same share, the least recently served first; from the prefixes of one process in the
        order in which the messages came."""
        ready.sort(key=attrgetter("served"))
        inboxes: dict[object, list[Queue]] = {}
        for queue in ready:
            inboxes.setdefault(queue.process or queue, []).append(queue)
        turns = list(inboxes.values())
        while turns and len(deliveries) < limit:
            share = max(1, (limit - len(deliveries)) // len(turns))
            for queues in turns:
                end = min(limit, len(deliveries) + share)
                if len(deliveries) == end:
                    break
                self._turn += 1
                while len(deliveries) < end and any(queue.entries for queue in queues):
                    first = min(queues, key=_head)
                    first.served = self._turn
                    alone = len(queues) == 1
                    self._take_from(first, end - len(deliveries) if alone else 1, holder, now, deliveries)
            turns = [queues for queues in turns if any(queue.entries for queue in queues)]

    # Settling.

    def settle(self, settlements: Sequence[Settlement]) -> None:
        fired: list[Waiter] = []
        with self._lock:
            self._settle_all(settlements, self._now(fired), fired)
        self._after(fired)

    async def asettle(self, settlements: Sequence[Settlement]) -> None:
        self.settle(settlements)

    def _settle_all(self, settlements: Sequence[Settlement], now: float, fired: list[Waiter]) -> None:
        releases = []
        for settlement in settlements:
            if settlement.verdict is _RELEASE:
                releases.append(settlement)
            else:
                self._settle(settlement, now, fired)
        for settlement in reversed(releases):  # each goes to the front: so they keep their order
            self._settle(settlement, now, fired)

    def _settle(self, settlement: Settlement, now: float, fired: list[Waiter]) -> None:
        delivery = settlement.delivery
        entry: Entry = delivery.token
        if entry.is_spent:
            return
        entry.is_spent = True
        queue: Queue | None
        if delivery.is_leased:
            queue = self._leases.pop(entry)
            queue.leased -= 1
        elif settlement.verdict in (_RELEASE, _REQUEUE):
            queue = self._queue(delivery.channel)
        else:
            return
        if queue is None:
            self.counters.gone += 1
        elif settlement.verdict is _RELEASE:
            self.counters.released += 1
            self._put_back(queue, entry, now, fired, has_begun=settlement.is_begun)
        elif settlement.verdict is _REQUEUE:
            self.counters.requeued += 1
            content = entry.send.content if settlement.content is None else settlement.content
            self._sequence += 1
            send = Send(entry.send.channel, content, entry.send.headers, entry.send.size)
            again = Entry(send, now, entry.locals, self._sequence)
            again.is_kept = delivery.is_leased
            queue.append(again)
            self._fire_next(queue, fired)
        elif settlement.verdict is _DEAD:
            self._bury(entry, queue.name, settlement.reason, now)

    def _put_back(
        self, queue: Queue, entry: Entry, now: float, fired: list[Waiter], *, has_begun: bool
    ) -> None:
        """To the front of the queue; or, when it has had all its attempts, to the dead letters."""
        if has_begun and queue.is_leased and entry.attempt >= self.max_attempts:
            self._bury(
                entry, queue.name, f"Given up after {entry.attempt} attempts, none of which was settled.", now
            )
            return
        attempt = entry.attempt + 1 if has_begun else entry.attempt
        again = Entry(entry.send, entry.since, entry.locals, entry.sequence, attempt, queue.is_leased)
        queue.append_left(again)
        self._fire_next(queue, fired)

    def _bury(self, entry: Entry, channel: str, reason: str, now: float) -> None:
        self.counters.dead += 1
        self._dead[new_id()] = (entry, channel, reason, now)
        if len(self._dead) > self._dead_letter_limit:
            self._dead.popitem(last=False)

    def renew_leases(self, deliveries: Sequence[Delivery]) -> None:
        fired: list[Waiter] = []
        with self._lock:
            now = self._now(fired)
            for delivery in deliveries:
                if delivery.token in self._leases:
                    delivery.token.lease_end = now + self.lease
                    self._leases.move_to_end(delivery.token)
        self._after(fired)

    def _now(self, fired: list[Waiter]) -> float:
        """The time, after doing what has become due by then."""
        now = self._clock()
        if now >= self._next_lapse:
            self._lapse(now, fired)
        return now

    def _lapse(self, now: float, fired: list[Waiter]) -> None:
        self._lose([entry for entry in self._leases if entry.lease_end <= now], now, fired)
        self._spare(now)
        for process in tuple(self._processes.values()):
            if process.lease_end <= now:
                self._end_process(process, now, fired)
        ends = [process.lease_end for process in self._processes.values()]
        ends += [entry.lease_end for entry in islice(self._leases, 1)]
        self._next_lapse = min(ends, default=inf)

    def _spare(self, now: float) -> None:
        """Where nobody renewed for long, everything stood still, and no process is to blame."""
        if now - self._renewed_at > self.process_lease / 2:
            for process in self._processes.values():
                if process.lease_end > self._renewed_at:
                    process.lease_end = max(process.lease_end, now + self.process_lease * 2 / 3)
            self._renewed_at = inf

    def _lose(self, entries: list[Entry], now: float, fired: list[Waiter]) -> None:
        """Leases ended without a settlement: their messages are to be delivered again, in the same order."""
        for entry in reversed(entries):
            queue = self._leases.pop(entry)
            queue.leased -= 1
            entry.is_spent = True
            self.counters.redelivered += 1
            self._put_back(queue, entry, now, fired, has_begun=True)

    # All three at once.

    def exchange(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = 0,
        process: str | None = None,
    ) -> Exchange:
        fired: list[Waiter] = []
        deliveries: list[Delivery] = []
        waiter = None
        with self._lock:
            now = self._now(fired)
            outcomes = self._end_turns(turns, now, fired)
            if channels and limit > 0:
                deliveries = self._take(channels, limit, process, now)
                if not deliveries and (timeout is None or timeout > 0) and _all_sent(outcomes):
                    waiter = self._register(ThreadWaiter(), channels)
        if fired or self._expired:
            self._after(fired)
        if waiter is not None:
            deliveries = self._wait(waiter, channels, limit, timeout, process)
        return Exchange(outcomes, deliveries)

    async def aexchange(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = 0,
        process: str | None = None,
    ) -> Exchange:
        fired: list[Waiter] = []
        deliveries: list[Delivery] = []
        waiter = None
        with self._lock:
            now = self._now(fired)
            outcomes = self._end_turns(turns, now, fired)
            if channels and limit > 0:
                deliveries = self._take(channels, limit, process, now)
                if not deliveries and (timeout is None or timeout > 0) and _all_sent(outcomes):
                    waiter = self._register(LoopWaiter(), channels)
        if fired or self._expired:
            self._after(fired)
        if waiter is not None:
            deliveries = await self._await(waiter, channels, limit, timeout, process)
        return Exchange(outcomes, deliveries)

    def _end_turns(self, turns: Sequence[Turn], now: float, fired: list[Waiter]) -> list[list[Outcome]]:
        refused: set[str] = set()
        outcomes = []
        for turn in turns:
            of_turn = self._put_all(turn.sends, now, refused, fired)
            outcomes.append(of_turn)
            if turn.settlement is not None and all(outcome.is_final for outcome in of_turn):
                self._settle(turn.settlement, now, fired)
        return outcomes

    # Groups.

    def group_add(self, group: str, channel: str) -> None:
        fired: list[Waiter] = []
        with self._lock:
            now = self._now(fired)
            owner = process_of(channel)
            if owner is None or owner in self._processes:
                self._memberships.add(group, channel, now, is_lasting=owner is not None)
        self._after(fired)

    def group_discard(self, group: str, channel: str) -> None:
        with self._lock:
            self._memberships.discard(group, channel)

    def group_channels(self, group: str) -> list[str]:
        fired: list[Waiter] = []
        with self._lock:
            found = self._memberships.members(group, self._now(fired))
            names = [prefix + member for prefix, members in found.items() for member in members.snapshot()]
        self._after(fired)
        return names

    def group_count(self, group: str) -> int:
        fired: list[Waiter] = []
        with self._lock:
            found = self._memberships.members(group, self._now(fired))
            count = sum(len(members.added) for members in found.values())
        self._after(fired)
        return count

    def groups(self) -> dict[str, int]:
        with self._lock:
            counts = {name: self.group_count(name) for name in self._memberships}
        return {name: count for name, count in sorted(counts.items()) if count}

    def close_channel(self, channel: str) -> None:
        with self._lock:
            self._memberships.end(channel)

    # Processes.

    def open_process(self, kind: ProcessKind, *, label: str = "") -> str:
        process_id = new_id()
        with self._lock:
            now = self._clock()
            self._spare(now)
            self._renewed_at = now
            self._processes[process_id] = Process(
                process_id,
                kind,
                label or f"{socket.gethostname()}:{os.getpid()}",
                opened=now,
                lease_end=now + self.process_lease,
                room=Room(self.inbox_capacity, self.inbox_bytes),
            )
            self._next_lapse = min(self._next_lapse, now + self.process_lease)
        return process_id

    def renew_process(
        self, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        fired: list[Waiter] = []
        with self._lock:
            now = self._now(fired)
            found = self._processes.get(process)
            if found is not None:
                self._spare(now)
                self._renewed_at = now
                found.lease_end = now + self.process_lease
                found.load = load
                found.counters = dict(counters or {})
                # The one regular call there is: so credit comes back for what expires where nobody looks.
                for queue in self._queues.values():
                    self._expire(queue, now - self.expiry)
        self._after(fired)
        return found is not None

    def close_process(self, process: str) -> None:
        fired: list[Waiter] = []
        with self._lock:
            found = self._processes.get(process)
            if found is not None:
                self._end_process(found, self._clock(), fired)
        self._after(fired)

    def _end_process(self, process: Process, now: float, fired: list[Waiter]) -> None:
        del self._processes[process.id]
        self._memberships.end_process(process.id)
        for queue in process.queues:
            self.counters.gone += len(queue.entries)
            queue.clear()
            self._queues.pop(queue.name, None)
        self._lose([entry for entry in self._leases if entry.holder == process.id], now, fired)

    def processes(self) -> list[ProcessInfo]:
        fired: list[Waiter] = []
        with self._lock:
            now = self._now(fired)
            found = [process.describe(now) for process in self._processes.values()]
        self._after(fired)
        return found

    # For people.

    def flush(self) -> None:
        with self._lock:
            for queue in self._queues.values():
                queue.clear()
            for entry in self._leases:
                entry.is_spent = True
            self._leases.clear()
            self._dead.clear()
            self._memberships.clear()

    def statistics(self, channels: Iterable[str] | None = None) -> list[ChannelFigures]:
        fired: list[Waiter] = []
        figures = []
        with self._lock:
            now = self._now(fired)
            names = self._queues if channels is None else {prefix_of(channel) for channel in channels}
            for name in sorted(names):
                queue = self._queues.get(name)
                if queue is not None:
                    self._expire(queue, now - self.expiry)
                pending = 0 if queue is None else len(queue.entries)
                leased = 0 if queue is None else queue.leased
                first = None if queue is None else queue.first
                age = 0.0 if first is None else now - first.since
                if pending or leased or channels is not None:
                    figures.append(
                        ChannelFigures(channel=name, pending=pending, leased=leased, oldest_age=age)
                    )
        self._after(fired)
        return figures

    def dead_letters(self, channel: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        fired: list[Waiter] = []
        with self._lock:
            now = self._now(fired)
            letters = [
                DeadLetter(
                    id=letter_id,
                    channel=name,
                    content=_copy(entry.send.content),
                    headers=dict(entry.send.headers),
                    attempt=entry.attempt,
                    reason=reason,
                    age=now - buried,
                )
                for letter_id, (entry, name, reason, buried) in self._dead.items()
                if channel is None or channel == name
            ]
        self._after(fired)
        return letters[:limit]

    def replay_dead(self, ids: Sequence[str]) -> int:
        fired: list[Waiter] = []
        count = 0
        with self._lock:
            now = self._now(fired)
            for letter_id in ids:
                letter = self._dead.pop(letter_id, None)
                if letter is not None:
                    entry, channel, _, _ = letter
                    queue = self._queues.get(channel) or self._add_queue(channel)
                    queue.append(Entry(entry.send, now))
                    self._fire_next(queue, fired)
                    count += 1
        self._after(fired)
        return count

    def drop_dead(self, ids: Sequence[str]) -> int:
        with self._lock:
            return sum(self._dead.pop(letter_id, None) is not None for letter_id in ids)

    def close(self) -> None:
        self.wake()
        super().close()


def _all_sent(outcomes: list[list[Outcome]]) -> bool:
    """Whether an exchange may wait for messages: what was refused is to be looked after first."""
    return all(outcome is _SENT for of_turn in outcomes for outcome in of_turn)


def _head(queue: Queue) -> float:
    first = queue.first
    return inf if first is None else first.sequence


def _copy(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    if type(value) is list:
        return [_copy(item) for item in value]
    return value


_backends: weakref.WeakSet[MemoryBackend] = weakref.WeakSet()


def _empty_in_child() -> None:
    for backend in tuple(_backends):
        backend._start_empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_in_child)
