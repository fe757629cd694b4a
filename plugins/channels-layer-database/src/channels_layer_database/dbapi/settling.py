"""How deliveries end: done, put back, or given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from channels_core.layers import Settlement, Verdict
from channels_core.names import new_id
from channels_layer_database.dbapi.places import SHARED
from channels_layer_database.dbapi.sending import insert, insert_with_ids
from channels_layer_database.dbapi.session import LEASE_COLUMNS, NEVER, Row, Taken, Transaction, marks
from channels_layer_database.rows import pack, unpack

__all__ = ["bury", "is_void", "lapse", "release_held", "renew", "settle"]

_MANY: Final = 10_000
_AT_ONCE: Final = 200


def is_void(settlement: Settlement) -> bool:
    """Whether it changes nothing: what is not leased is gone when it is delivered."""
    return settlement.verdict is Verdict.DONE and not settlement.delivery.is_leased


def settle(tx: Transaction, settlements: Sequence[Settlement]) -> None:
    """Apply each settlement whose delivery has not ended yet."""
    leased = [one for one in settlements if one.delivery.is_leased]
    done = [one.delivery.token for one in leased if one.verdict is Verdict.DONE]
    for start in range(0, len(done), _AT_ONCE):
        some = done[start : start + _AT_ONCE]
        tx.session.run(
            f"DELETE FROM {tx.layer.prefix}lease WHERE id IN ({marks(len(some))}) AND lease > ?",
            (*some, tx.now),
        )
    others = [one.delivery.token for one in leased if one.verdict is not Verdict.DONE]
    held = {row[0]: row for row in _pop(tx, others)} if others else {}
    front: list[Row] = []
    back: list[Row] = []
    for one in settlements:
        if one.verdict is Verdict.DONE:
            continue
        if one.delivery.is_leased:
            row = held.pop(one.delivery.token, None)
            if row is not None:
                _settle_leased(tx, one, row, front, back)
        elif one.verdict is not Verdict.DEAD:
            _settle_taken(tx, one, front, back)
    put_front(tx, front)
    insert(tx, back)


def _pop(tx: Transaction, ids: Sequence[int]) -> list[Row]:
    rows: list[Row] = []
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        where = f"id IN ({marks(len(some))}) AND lease > ?"
        rows += tx.session.pop(
            f"{tx.layer.prefix}lease", LEASE_COLUMNS, where, (*some, tx.now), limit=_AT_ONCE
        )
    return rows


def _settle_leased(tx: Transaction, one: Settlement, row: Row, front: list[Row], back: list[Row]) -> None:
    _, key, _, _, attempt, size, _, body = row
    if one.verdict is Verdict.RELEASE:
        tx.count("released")
        put_back(tx, row, front, has_begun=one.is_begun)
    elif one.verdict is Verdict.REQUEUE:
        tx.count("requeued")
        if one.content is not None:
            body = pack(one.content, unpack(body)[1])
        back.append((key, None, None, None, SHARED, size, 1, tx.now, NEVER, body))
        tx.ring(tx.layer.places.of(key).ring)
    else:
        bury(tx, key, size, attempt, one.reason, body)


def _settle_taken(tx: Transaction, one: Settlement, front: list[Row], back: list[Row]) -> None:
    token: Taken = one.delivery.token
    if token.is_spent or any(token is spent for spent in tx.spent):
        return
    tx.spent.append(token)
    row = token.row
    tx.ring(tx.layer.places.of(row[2] or row[1]).ring)
    dest, ver = (" ".join(one.delivery.locals), None) if row[2] is not None else (None, None)
    if one.verdict is Verdict.RELEASE:
        tx.count("released")
        front.append((row[1], row[2], dest, ver, *row[5:]))
        return
    tx.count("requeued")
    body = row[10] if one.content is None else pack(one.content, unpack(row[10])[1])
    back.append((row[1], row[2], dest, ver, row[5], row[6], 1, tx.now, tx.now + tx.layer.expiry, body))


def put_back(tx: Transaction, row: Row, front: list[Row], *, has_begun: bool) -> None:
    """A leased message becomes free again, or is given up after its last attempt."""
    _, key, _, _, attempt, size, since, body = row
    if has_begun and attempt >= tx.layer.max_attempts:
        bury(tx, key, size, attempt, f"It was tried {attempt} times and never settled.", body)
        return
    front.append((key, None, None, None, SHARED, size, attempt + has_begun, since, NEVER, body))
    tx.ring(tx.layer.places.of(key).ring)


def put_front(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert rows of ``INSERTED`` before all that waits, the first named first."""
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row[0], []).append(row)
    for key, of_key in sorted(by_key.items()):
        first = tx.session.first_ids(f"{tx.layer.prefix}msg", key, len(of_key))
        insert_with_ids(tx, [(first + index, *row) for index, row in enumerate(of_key)])


def bury(tx: Transaction, key: str, size: int, attempt: int, reason: str, body: bytes) -> None:
    """Keep a message that was given up."""
    tx.count("dead")
    tx.session.run(
        f"INSERT INTO {tx.layer.prefix}dead (id, `key`, size, attempt, reason, at, body) VALUES ({marks(7)})",
        (new_id(), key, size, attempt, reason, tx.now, body),
    )


def renew(tx: Transaction, ids: Sequence[int]) -> None:
    """Start these leases anew, where they run."""
    end = tx.layer.leases.end(tx.now)
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        tx.session.run(
            f"UPDATE {tx.layer.prefix}lease SET lease = ? WHERE id IN ({marks(len(some))}) AND lease > ?",
            (end, *some, tx.now),
        )


def lapse(tx: Transaction) -> bool:
    """Take back the leases that ran out; whether there were any."""
    rows = tx.session.pop(f"{tx.layer.prefix}lease", LEASE_COLUMNS, "lease <= ?", (tx.now,), limit=_MANY)
    _lose(tx, rows)
    return bool(rows)


def release_held(tx: Transaction, process: str) -> None:
    """Take back what a process held that has ended."""
    _lose(tx, tx.session.pop(f"{tx.layer.prefix}lease", LEASE_COLUMNS, "holder = ?", (process,), limit=_MANY))


def _lose(tx: Transaction, rows: Sequence[Row]) -> None:
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: row[3]):
        tx.count("redelivered")
        put_back(tx, row, front, has_begun=True)
    put_front(tx, front)
