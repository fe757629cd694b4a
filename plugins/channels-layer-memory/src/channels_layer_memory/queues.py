"""What a message is stored as, and the queues it is stored in."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from channels_core.layers import Send
    from channels_layer_memory.processes import Process
    from channels_layer_memory.waiting import Waiter

__all__ = ["Entry", "Queue", "Room"]


class Entry(msgspec.Struct, eq=False, gc=False):
    """A message that waits or is leased. Delivered at most once: a message that comes back gets a new entry, so
    settling the old one again finds it spent."""

    send: Send
    since: float
    """When it began to wait; it expires ``expiry`` later."""
    locals: tuple[str, ...] = ()
    sequence: int = 0
    """Its place among all messages of its process."""
    attempt: int = 1
    is_kept: bool = False
    """Does not expire: it was delivered before, on an at-least-once channel."""
    is_spent: bool = False
    """Settled, or given up by the lease that held it."""
    lease_end: float = 0.0
    holder: str | None = None
    """The process that the lease belongs to."""


class Room:
    """What the waiting messages of one process share: a number and a sum of bytes."""

    __slots__ = ("capacity", "count", "max_size", "size")

    def __init__(self, capacity: int, max_size: int) -> None:
        self.capacity = capacity
        self.max_size = max_size
        self.count = 0
        self.size = 0

    @property
    def is_full(self) -> bool:
        return self.count >= self.capacity or self.size >= self.max_size


class Queue:
    """The messages that wait on one channel, or on one prefix.

    ``entries`` are in the order of arrival. Sends append to a queue without room of its own without taking the
    layer's lock; everything else is done under it.
    """

    __slots__ = (
        "capacity",
        "entries",
        "is_dropped",
        "is_leased",
        "leased",
        "name",
        "process",
        "room",
        "served",
        "waiters",
    )

    def __init__(
        self,
        name: str,
        capacity: int,
        *,
        is_leased: bool,
        process: Process | None = None,
        room: Room | None = None,
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.is_leased = is_leased
        self.process = process
        self.room = room
        self.entries: deque[Entry] = deque()
        self.waiters: dict[Waiter, None] = {}
        self.leased = 0
        self.served = 0
        """When a receive that had a choice last took from here: the least recently served comes first."""
        self.is_dropped = False
        """The layer forgot this queue because it was idle; who appended meanwhile brings it back."""

    @property
    def is_full(self) -> bool:
        return len(self.entries) >= self.capacity if self.room is None else self.room.is_full

    def append(self, entry: Entry) -> None:
        self.entries.append(entry)
        if self.room is not None:
            self.room.count += 1
            self.room.size += entry.send.size

    def append_left(self, entry: Entry) -> None:
        self.entries.appendleft(entry)
        if self.room is not None:
            self.room.count += 1
            self.room.size += entry.send.size

    def pop_left(self) -> Entry:
        entry = self.entries.popleft()
        if self.room is not None:
            self.room.count -= 1
            self.room.size -= entry.send.size
        return entry

    def pop_expired(self, horizon: float) -> list[Entry]:
        """Take out what began to wait before ``horizon`` and expires."""
        expired = []
        while self.entries and self.entries[0].since < horizon and not self.entries[0].is_kept:
            expired.append(self.pop_left())
        if self.is_leased and self.entries and self.entries[0].is_kept:
            expired += self._pop_expired_behind(horizon)
        return expired

    def _pop_expired_behind(self, horizon: float) -> list[Entry]:
        """The same, where messages that never expire hide those that do."""
        entries = [self.entries.popleft() for _ in range(len(self.entries))]
        expired = [entry for entry in entries if entry.since < horizon and not entry.is_kept]
        if expired:
            entries = [entry for entry in entries if entry.since >= horizon or entry.is_kept]
        self.entries.extendleft(reversed(entries))
        return expired

    def clear(self) -> None:
        """Forget what waits and what is leased."""
        while self.entries:
            self.pop_left().is_spent = True
        self.leased = 0

    def next_waiter(self) -> Waiter | None:
        """Take the reader that has waited the shortest time, whose thread is the warmest, and mark it fired."""
        while self.waiters:
            waiter, _ = self.waiters.popitem()
            if not waiter.is_fired:
                waiter.is_fired = True
                return waiter
        return None

    @property
    def oldest_since(self) -> float:
        return min((entry.since for entry in self.entries), default=inf)
