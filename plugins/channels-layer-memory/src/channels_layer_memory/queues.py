"""What a message is stored as, and the queues it is stored in."""

from __future__ import annotations

from collections import deque
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

    ``entries`` are in the order of arrival. The layer's lock guards everything, but that others may append to and pop
    from the ``entries`` of a queue that :attr:`is_simple` at any moment.
    """

    __slots__ = (
        "capacity",
        "entries",
        "is_dropped",
        "is_leased",
        "is_simple",
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
        self.is_simple = not is_leased and room is None and process is None and not name.endswith("!")
        """At-most-once, counted by itself and without order to keep beside other queues: appended to, and taken from,
        without the lock."""
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

    def pop_expired(self, horizon: float) -> list[Entry]:
        """Take out what began to wait before ``horizon`` and expires."""
        expired = []
        while (first := self.first) is not None and first.since < horizon and not first.is_kept:
            try:
                self.entries.remove(first)  # not popleft(): the first may be another by now
            except ValueError:
                continue
            if self.room is not None:
                self.room.count -= 1
                self.room.size -= first.send.size
            expired.append(first)
        if self.is_leased and self.entries and self.entries[0].is_kept:
            expired += self._pop_expired_behind(horizon)
        return expired

    @property
    def first(self) -> Entry | None:
        """The next to be taken."""
        try:
            return self.entries[0]
        except IndexError:
            return None

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
        if self.room is not None:
            self.room.count -= len(self.entries)
            self.room.size -= sum(entry.send.size for entry in self.entries)
        self.entries.clear()
        self.leased = 0

    def next_waiter(self) -> Waiter | None:
        """Take the reader that has waited the shortest time, whose thread is the warmest, and mark it fired."""
        while self.waiters:
            waiter, _ = self.waiters.popitem()
            if not waiter.is_fired:
                waiter.is_fired = True
                return waiter
        return None
