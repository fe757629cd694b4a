"""Taking messages off their channels: turns between channels, leases, broadcasts spread over their members."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from random import getrandbits
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from channels_core.layers import Delivery
from channels_layer_database.dbapi.session import COLUMNS, LEASE_COLUMNS, Row, Taken, Transaction, marks
from channels_layer_database.dbapi.settling import bury
from channels_layer_database.rows import BROADCAST, UNREADABLE, UnreadableRow, unpack

if TYPE_CHECKING:
    from channels_layer_database.dbapi.places import Plan

logger = logging.getLogger("channels.layer.database")

__all__ = ["Leases", "Members", "Turns", "look", "peek", "take", "waiting_at"]

_AT_ONCE: Final = 200
_REMEMBERED: Final = 4096


class Turns:
    """When each key was last taken from: the least recently served comes first."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._turn = 0

    def order(self, keys: Iterable[str]) -> list[str]:
        """The keys, in the order in which they are served."""
        served = self._served
        return sorted(keys, key=lambda key: served.get(key, 0))

    def serve(self, key: str) -> None:
        """Something was taken from ``key``."""
        if len(self._served) > _REMEMBERED:
            self._served.clear()
        self._turn += 1
        self._served[key] = self._turn


class Leases:
    """Numbers and ends of leases, growing in the order in which they are given: so what comes back together comes in
    order. Numbers of two processes are hardly ever the same; then the transaction is tried again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last_number = 0
        self._last_end = 0.0

    def number(self) -> int:
        """Of a new lease."""
        self._last_number = max(self._last_number + 1, (time_ns() // 1_000_000 << 21) | getrandbits(21))
        return self._last_number

    def end(self, now: float) -> float:
        """Of leases given or renewed together."""
        end = now + self._seconds
        if 0.0 <= self._last_end - end < 1.0:  # more: the clock was set back
            end = self._last_end + 1e-6
        self._last_end = end
        return end


class Members:
    """The members that a broadcast is for, by the version of the list; the last of each list is remembered."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = {}

    def of(self, tx: Transaction, group: str, target: str, ver: int) -> tuple[str, ...]:
        """The local parts."""
        known = self._known.get((group, target))
        if known is not None and known[0] == ver:
            return known[1]
        rows = tx.session.rows(
            f"SELECT channel FROM {tx.layer.prefix}member WHERE grp = ? AND target = ? AND joined <= ? AND gone > ?",
            (group, target, ver, ver),
        )
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        members = tuple([row[0] for row in rows])
        self._known[group, target] = ver, members
        return members


def waiting_at(tx: Transaction, keys: Sequence[str]) -> tuple[Sequence[str], bool]:
    """Those of ``keys`` where something waits, and whether it is known to be one message in all. Locks nothing."""
    if len(keys) > 1:
        return peek(tx, keys), False
    found = tx.session.rows(f"SELECT 1 FROM {tx.layer.prefix}msg WHERE `key` = ? LIMIT 2", keys)
    return keys if found else (), len(found) == 1


def peek(tx: Transaction, keys: Sequence[str]) -> list[str]:
    """Those of ``keys`` where something waits. Locks nothing."""
    found: list[str] = []
    for start in range(0, len(keys), _AT_ONCE):
        sql, values = _asking(tx, keys[start : start + _AT_ONCE])
        found += [row[0] for row in tx.session.rows(" UNION ALL ".join(sql), values)]
    return found


def look(tx: Transaction, keys: Sequence[str]) -> tuple[bool, bool]:
    """Whether a lease has run out, and whether something waits at one of ``keys``: all in one statement, since idle
    processes ask this."""
    p = tx.layer.prefix
    lapsed = (
        f"SELECT '' FROM {tx.layer.one_row} WHERE EXISTS (SELECT 1 FROM {p}proc WHERE lease <= ?)"
        f" OR EXISTS (SELECT 1 FROM {p}lease WHERE lease <= ?)"
    )
    sql, values = _asking(tx, keys[:_AT_ONCE])
    found = tx.session.rows(" UNION ALL ".join([lapsed, *sql]), (tx.now, tx.now, *values))
    has_lapsed = ("",) in found
    return has_lapsed, len(found) > has_lapsed or bool(peek(tx, keys[_AT_ONCE:]))


def _asking(tx: Transaction, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Selects that give a key if something waits there, and their values."""
    one = (
        f"SELECT ? FROM {tx.layer.one_row} WHERE EXISTS (SELECT 1 FROM {tx.layer.prefix}msg WHERE `key` = ?)"
    )
    return [one] * len(keys), [key for key in keys for _ in "kk"]


def take(
    tx: Transaction,
    plan: Plan,
    keys: Sequence[str],
    limit: int,
    process: str | None,
    *,
    may_be_more: bool = True,
) -> list[Delivery]:
    """At most ``limit`` messages from ``keys``, which are the plan's, by turns. Leased where their channel asks so.

    Where there ``may_be_more``, taking so many wakes somebody else for the rest.
    """
    deliveries: list[Delivery] = []
    turns = tx.layer.turns
    waiting = turns.order(keys) if len(keys) > 1 else list(keys)
    leases: list[Row] = []
    lease_end = tx.layer.leases.end(tx.now) if plan.has_leases else 0.0
    while waiting and len(deliveries) < limit:
        share = max(1, (limit - len(deliveries)) // len(waiting))
        for key in tuple(waiting):
            wanted = min(share, limit - len(deliveries))
            if wanted <= 0:
                break
            got, is_empty = _take_key(tx, key, plan.prefixes[key], wanted, (process, lease_end), leases)
            if got:
                turns.serve(key)
                deliveries += got
            if is_empty:
                waiting.remove(key)
    if leases:
        tx.session.many(f"INSERT INTO {tx.layer.prefix}lease ({LEASE_COLUMNS}) VALUES ({marks(8)})", leases)
    if len(deliveries) >= limit and may_be_more:
        for key in waiting:  # there may be more: somebody else who rests could have it
            tx.ring(tx.layer.places.of(plan.prefixes[key][0] if plan.prefixes[key] else key).ring)
    tx.count("received", len(deliveries))
    return deliveries


def _take_key(
    tx: Transaction,
    key: str,
    prefixes: tuple[str, ...],
    wanted: int,
    lease: tuple[str | None, float],
    leases: list[Row],
) -> tuple[list[Delivery], bool]:
    """Messages of one key, and whether there are no more."""
    where, values = "`key` = ?", (key,)
    if prefixes:
        where, values = f"{where} AND prefix IN ({marks(len(prefixes))})", (key, *prefixes)  # type: ignore[assignment]  # more of them
    deliveries: list[Delivery] = []
    asked = wanted
    while True:
        rows = tx.session.pop(f"{tx.layer.prefix}msg", COLUMNS, where, values, limit=asked)
        expired = []
        for row in rows:
            if row[9] <= tx.now:
                expired.append(row[10])
            else:
                delivery = _deliver(tx, row, lease, leases)
                if delivery is not None:
                    deliveries.append(delivery)
        if expired:
            tx.expire(expired)
        if len(rows) < asked:
            return deliveries, True
        if deliveries:
            return deliveries, False
        asked = wanted if wanted > 1 or not expired else min(wanted, _AT_ONCE)


def _deliver(
    tx: Transaction, row: Row, lease: tuple[str | None, float], leases: list[Row]
) -> Delivery | None:
    _, key, prefix, dest, ver, _, size, attempt, since, _, body = row
    try:
        content, headers = unpack(body)
    except UnreadableRow as error:
        logger.error("A row of the layer, of %s, cannot be read and is set aside: %s.", key, error)
        if prefix is None:
            bury(tx, key, size, attempt, UNREADABLE, body)
        return None
    if prefix is None:
        if tx.layer.places.of(key).is_leased:
            token: Any = tx.layer.leases.number()
            process, end = lease
            leases.append((token, key, process, end, attempt, size, since, body))
            return Delivery(key, content, headers, (), attempt, token, True)
        return Delivery(key, content, headers, (), attempt, Taken(row))
    if dest.startswith(BROADCAST):
        locals_ = tx.layer.members.of(tx, dest[1:], prefix, ver)
        if not locals_:
            return None
    else:
        locals_ = tuple(dest.split(" ")) if " " in dest else (dest,)
    return Delivery(prefix, content, headers, locals_, attempt, Taken(row))
