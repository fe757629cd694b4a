"""Putting messages on their channels: outcomes, capacity, groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from channels_core.layers import Outcome, Send
from channels_layer_database.dbapi.places import SHARED
from channels_layer_database.dbapi.session import COLUMNS, Row, Transaction, marks
from channels_layer_database.rows import BROADCAST, pack

if TYPE_CHECKING:
    from channels_layer_database.dbapi.places import Place

__all__ = ["INSERTED", "insert", "put_all", "put_one"]

_SENT: Final = Outcome.SENT
INSERTED: Final = "`key`, prefix, dest, ver, room, size, attempt, since, expires, body"
_PURGED_AT_ONCE: Final = 200
_DEEP: Final = 1000
_TRUSTED: Final = 0.02
"""Seconds for which the depth of a large room is taken to be about what it was."""


def insert(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert rows of ``INSERTED``, in order, and wake the readers of their keys."""
    if not rows:
        return
    tx.session.many(f"INSERT INTO {tx.layer.prefix}msg ({INSERTED}) VALUES ({marks(10)})", rows)


def insert_with_ids(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert rows of ``COLUMNS``: for what goes to the front."""
    tx.session.many(f"INSERT INTO {tx.layer.prefix}msg ({COLUMNS}) VALUES ({marks(11)})", rows)


class _Batch:
    """The sends of one transaction, on their way."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.rows: list[Row] = []
        self.alive: dict[str, bool] = {}

    def is_gone(self, place: Place) -> bool:
        owner = place.owner
        if owner is None:
            return False
        alive = self.alive.get(owner)
        if alive is None:
            found = self.tx.session.rows(
                f"SELECT lease FROM {self.tx.layer.prefix}proc WHERE id = ?", (owner,)
            )
            alive = self.alive[owner] = bool(found) and (
                found[0][0] > self.tx.now or found[0][0] > self.tx.horizon()
            )
        return not alive

    def depth(self, place: Place) -> list[int]:
        """Number and bytes of what waits in the place's room, as far as it matters; this batch's included."""
        room = place.key, None if place.room == SHARED else place.prefix
        depth = self.tx.depths.get(room)
        if depth is None:
            depth = self.tx.depths[room] = count_room(self.tx, place)
        return depth

    def is_full(self, place: Place, depth: list[int]) -> bool:
        return depth[0] >= place.capacity or (place.max_bytes is not None and depth[1] >= place.max_bytes)

    def put(self, place: Place, send: Send, body: bytes, dest: str | None, ver: int | None = None) -> bool:
        """Whether there was room."""
        tx = self.tx
        depth = self.depth(place)
        if self.is_full(place, depth):
            if not purge_room(tx, place):
                return False
            fresh = count_room(tx, place)
            depth[0] = fresh[0] + sum(1 for row in self.rows if self._is_in(row, place))
            depth[1] = fresh[1] + sum(row[5] for row in self.rows if self._is_in(row, place))
            if self.is_full(place, depth):
                return False
        depth[0] += 1
        depth[1] += send.size
        now = tx.now
        self.rows.append(
            (place.key, place.prefix, dest, ver, place.room, send.size, 1, now, now + tx.layer.expiry, body)
        )
        tx.ring(place.ring)
        return True

    @staticmethod
    def _is_in(row: Row, place: Place) -> bool:
        return bool(
            row[0] == place.key and row[4] == place.room and (place.room == SHARED or row[1] == place.prefix)
        )


def put_all(tx: Transaction, sends: Sequence[Send]) -> list[Outcome]:
    """Put each send on its channel, and say what became of it."""
    batch = _Batch(tx)
    refused: set[str] = set()
    outcomes = []
    for send in sends:
        if send.is_group:
            _put_group(batch, send)
            tx.count("sent")
            outcomes.append(_SENT)
            continue
        name = send.channel
        mark = name.find("!") + 1
        prefix = name[:mark] or name
        if prefix in refused:
            outcome = Outcome.FULL
        else:
            place = tx.layer.places.of(prefix)
            if batch.is_gone(place):
                outcome = Outcome.GONE
            elif batch.put(place, send, pack(send.content, send.headers), name[mark:] if mark else None):
                outcome = _SENT
            else:
                outcome = Outcome.FULL
                refused.add(prefix)
        tx.count("sent" if outcome is _SENT else "full" if outcome is Outcome.FULL else "gone")
        outcomes.append(outcome)
    insert(tx, batch.rows)
    return outcomes


def _put_group(batch: _Batch, send: Send) -> None:
    """One row for each prefix of a process that holds members; one for each other member, or prefix of such."""
    tx = batch.tx
    layer, session, group = tx.layer, tx.session, send.channel
    body = None
    owned = session.rows(
        f"SELECT g.target, g.members, g.ver, p.lease FROM {layer.prefix}grp g"
        f" JOIN {layer.prefix}proc p ON p.id = g.proc WHERE g.grp = ? AND g.members > 0 ORDER BY g.target",
        (group,),
    )
    if any(lease <= tx.now for *_, lease in owned):
        since = tx.horizon()
        owned = [row for row in owned if row[3] > since]
    for target, members, ver, _ in owned:
        body = body or pack(send.content, send.headers)
        if not batch.put(layer.places.of(target), send, body, BROADCAST + group, ver):
            tx.count("group_dropped", members)
    guests: dict[str, list[str]] = {}
    for target, local in session.rows(
        f"SELECT target, local FROM {layer.prefix}guest WHERE grp = ? AND added > ? ORDER BY target, local",
        (group, tx.now - layer.group_expiry),
    ):
        guests.setdefault(target, []).append(local)
    for target, locals_ in guests.items():
        body = body or pack(send.content, send.headers)
        dest = " ".join(locals_) if target.endswith("!") else None
        if not batch.put(layer.places.of(target), send, body, dest):
            tx.count("group_dropped", len(locals_))


def count_room(tx: Transaction, place: Place) -> list[int]:
    """Number and bytes of what waits in the place's room, expired messages included."""
    table = f"{tx.layer.prefix}msg"
    if place.prefix is None:
        [(count,)] = tx.session.rows(
            f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE `key` = ? LIMIT ?) waiting",
            (place.key, place.capacity),
        )
        return [int(count), 0]
    where, values = "`key` = ? AND room = ?", (place.key, place.room)
    if place.room != SHARED:
        where, values = f"{where} AND prefix = ?", (*values, place.prefix)  # type: ignore[assignment]  # one more
    [(count, size)] = tx.session.rows(
        f"SELECT count(*), coalesce(sum(size), 0) FROM {table} WHERE {where}", values
    )
    tx.layer.rooms.remember(place, int(count), int(size), tx.now)
    return [int(count), int(size)]


def purge_room(tx: Transaction, place: Place) -> bool:
    """Delete what expired in a full room; whether there was anything. Looks at most 50 times a second."""
    if not tx.layer.rooms.may_purge(place, tx.now):
        return False
    where, values = "`key` = ? AND expires <= ?", (place.key, tx.now)
    found = tx.session.pop(f"{tx.layer.prefix}msg", "id, body", where, values, limit=_PURGED_AT_ONCE)
    tx.expire([body for _, body in found])
    return bool(found)


def put_one(tx: Transaction, send: Send) -> Outcome | None:
    """A send to a channel as one statement, where that can tell; ``None``, and nothing done, where it cannot."""
    layer = tx.layer
    name = send.channel
    mark = name.find("!") + 1
    place = layer.places.of(name[:mark] or name)
    body = pack(send.content, send.headers)
    now = tx.now
    dest = name[mark:] if mark else None
    values: tuple[Any, ...] = (
        place.key, place.prefix, dest, None, place.room, send.size, 1, now, now + layer.expiry, body
    )  # fmt: skip
    if place.prefix is None:
        condition = (
            f"(SELECT count(*) FROM (SELECT 1 FROM {layer.prefix}msg WHERE `key` = ? LIMIT ?) waiting) < ?"
        )
        values += (place.key, place.capacity, place.capacity)
    elif not layer.rooms.has_room(place, send.size, now):
        return None
    elif place.owner is not None:
        condition = f"EXISTS (SELECT 1 FROM {layer.prefix}proc WHERE id = ? AND lease > ?)"
        values += (place.owner, now)
    else:
        condition = "1 = 1"
    changed = tx.session.run(
        f"INSERT INTO {layer.prefix}msg ({INSERTED}) SELECT {marks(10)} FROM {layer.one_row} WHERE {condition}",
        values,
    )
    if not changed:
        return None
    layer.rooms.add(place, send.size)
    tx.count("sent")
    tx.ring(place.ring)
    return _SENT


class Rooms:
    """Remembers for a moment about how full large rooms are, so that a deep inbox is not counted at every send.

    A room is trusted to have place while it was less than half full when it was last counted, which is at most 20 ms
    ago, and this process has put less than a tenth of its capacity there since.
    """

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, str | None], list[float]] = {}
        self._purged: dict[str, float] = {}

    @staticmethod
    def _of(place: Place) -> tuple[str, str | None]:
        return place.key, None if place.room == SHARED else place.prefix

    def remember(self, place: Place, count: int, size: int, now: float) -> None:
        """A room was counted."""
        if place.capacity < _DEEP:
            return
        if len(self._rooms) > _DEEP:
            self._rooms.clear()
        self._rooms[self._of(place)] = [count, size, now, 0, 0]

    def add(self, place: Place, size: int) -> None:
        """A message was put there."""
        room = self._rooms.get(self._of(place))
        if room is not None:
            room[3] += 1
            room[4] += size

    def has_room(self, place: Place, size: int, now: float) -> bool:
        """Whether there is certainly room for one message more."""
        room = self._rooms.get(self._of(place))
        if room is None:
            return False
        count, counted_size, at, added, added_size = room
        limit = place.max_bytes or 2**62
        return (
            abs(now - at) < _TRUSTED
            and count * 2 < place.capacity
            and added * 10 < place.capacity
            and counted_size * 2 < limit
            and (added_size + size) * 10 < limit
        )

    def may_purge(self, place: Place, now: float) -> bool:
        """Whether it is time to look for expired messages in a full room again."""
        last = self._purged.get(place.key)
        if last is not None and abs(now - last) < _TRUSTED:
            return False
        if len(self._purged) > _DEEP:
            self._purged.clear()
        self._purged[place.key] = now
        return True
