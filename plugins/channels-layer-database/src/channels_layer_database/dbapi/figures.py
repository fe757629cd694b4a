"""What people ask, and what is cleaned away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from channels_core.layers import ChannelFigures, DeadLetter
from channels_core.names import prefix_of
from channels_layer_database.dbapi.groups import STAYING
from channels_layer_database.dbapi.places import SHARED
from channels_layer_database.dbapi.sending import insert
from channels_layer_database.dbapi.session import Row, Transaction, marks
from channels_layer_database.rows import unpack_dead

__all__ = [
    "AT_ONCE",
    "MANY",
    "clean_memberships",
    "clean_some",
    "dead_letters",
    "drop_dead",
    "flush",
    "replay_dead",
    "statistics",
]

AT_ONCE: Final = 200
"""Rows that one transaction deletes at most."""
MANY: Final = AT_ONCE // 5
"""Of so few rows; where so many can go, more are likely to."""
_LOOKED_AT: Final = 1000
_DEAD: Final = "id, `key`, size, attempt, reason, at, body"
_REMEMBERED_CLOSED: Final = 600.0
"""Seconds for which an add for a channel that ended may still be under way."""


def statistics(tx: Transaction, channels: Iterable[str] | None) -> list[ChannelFigures]:
    """The figures of each of ``channels``, or of all that hold messages."""
    p, session = tx.layer.prefix, tx.session
    waiting: dict[str, tuple[int, float]] = {}
    leased: dict[str, int] = {}
    names = None if channels is None else sorted({prefix_of(name) for name in channels})
    if names is None:
        for name, count, since in session.rows(
            f"SELECT coalesce(prefix, `key`) name, count(*), min(since) FROM {p}msg WHERE expires > ? GROUP BY name",
            (tx.now,),
        ):
            waiting[name] = int(count), since
        leased = {
            key: int(count)
            for key, count in session.rows(f"SELECT `key`, count(*) FROM {p}lease GROUP BY `key`")
        }
        names = sorted({*waiting, *leased})
    else:
        for name in names:
            place = tx.layer.places.of(name)
            [(count, since)] = session.rows(
                f"SELECT count(*), min(since) FROM {p}msg WHERE `key` = ? AND expires > ?"
                " AND (prefix IS NULL OR prefix = ?)",
                (place.key, tx.now, name),
            )
            waiting[name] = int(count), since
            if place.is_leased:
                [(count,)] = session.rows(f"SELECT count(*) FROM {p}lease WHERE `key` = ?", (name,))
                leased[name] = int(count)
    figures = []
    for name in names:
        pending, since = waiting.get(name, (0, 0.0))
        age = max(0.0, tx.now - since) if pending else 0.0
        figures.append(
            ChannelFigures(channel=name, pending=pending, leased=leased.get(name, 0), oldest_age=age)
        )
    return figures


def dead_letters(tx: Transaction, channel: str | None, limit: int) -> list[DeadLetter]:
    """The oldest ones."""
    where, values = ("WHERE `key` = ?", (channel, limit)) if channel is not None else ("", (limit,))
    letters = []
    for dead_id, key, _, attempt, reason, at, body in tx.session.rows(
        f"SELECT {_DEAD} FROM {tx.layer.prefix}dead {where} ORDER BY serial LIMIT ?", values
    ):
        content, headers = unpack_dead(body)
        letters.append(
            DeadLetter(
                id=dead_id,
                channel=key,
                content=content,
                headers=headers,
                attempt=attempt,
                reason=reason,
                age=max(0.0, tx.now - at),
            )
        )
    return letters


def replay_dead(tx: Transaction, ids: Sequence[str]) -> int:
    """Put dead letters back on their channels, in the order named."""
    rows: list[Row] = []
    for dead_id in ids:
        found = tx.session.rows(f"SELECT {_DEAD} FROM {tx.layer.prefix}dead WHERE id = ?", (dead_id,))
        for _, key, size, _, _, _, body in found:
            if drop_dead(tx, (dead_id,)):
                expires = tx.now + tx.layer.expiry
                rows.append((key, None, None, None, SHARED, size, 1, tx.now, expires, body))
                tx.ring(tx.layer.places.of(key).ring)
    insert(tx, rows)
    return len(rows)


def drop_dead(tx: Transaction, ids: Sequence[str]) -> int:
    """Delete dead letters."""
    return sum(
        tx.session.run(f"DELETE FROM {tx.layer.prefix}dead WHERE id = ?", (dead_id,)) for dead_id in ids
    )


def flush(tx: Transaction) -> None:
    """Delete all but processes and what is known of ended channels."""
    for table in ("msg", "lease", "dead", "grp", "member", "guest"):
        tx.session.run(f"DELETE FROM {tx.layer.prefix}{table}")


def clean_some(tx: Transaction, after: int) -> tuple[int, int | None]:
    """Delete a few expired messages among those with ids above ``after``: how many, and where to go on (``None``: at
    the end)."""
    p, session = tx.layer.prefix, tx.session
    look = f"SELECT id, `key`, expires FROM {p}msg WHERE id > ? ORDER BY id LIMIT ?"
    asked = AT_ONCE
    looked = session.rows(look, (after, asked))
    if len(looked) == asked and min(row[2] for row in looked) > tx.now:  # over what lives, steps are longer
        asked = _LOOKED_AT
        looked = session.rows(look, (looked[-1][0], asked))
    expired = [row for row in looked if row[2] <= tx.now][:AT_ONCE]
    deleted = 0
    if expired:
        places = [(key, message) for message, key, _ in expired]
        # Asked again: a row may have been taken since, and its number given to a new one.
        bodies = session.pop_these(f"{p}msg", "body", places, "expires <= ?", (tx.now,))
        tx.expire([body for (body,) in bodies])
        deleted = len(bodies)
    if len(expired) == AT_ONCE:
        return deleted, int(expired[-1][0])
    return deleted, int(looked[-1][0]) if len(looked) == asked else None


def clean_memberships(tx: Transaction) -> int:
    """Delete some of what is left of memberships that ended, of ended channels, of processes that died half-way."""
    p, session = tx.layer.prefix, tx.session
    deleted = 0
    before = tx.now - 2 * tx.layer.expiry - 1.0
    for group, target, channel, joined in session.rows(
        f"SELECT grp, target, channel, joined FROM {p}member WHERE gone < ? AND at < ? LIMIT ?",
        (STAYING, before, AT_ONCE),
    ):
        deleted += session.run(
            f"DELETE FROM {p}member WHERE grp = ? AND target = ? AND channel = ? AND joined = ?",
            (group, target, channel, joined),
        )
    for sql, values in (
        (f"SELECT channel FROM {p}closed WHERE at < ? LIMIT ?", (tx.now - _REMEMBERED_CLOSED, AT_ONCE)),
    ):
        names = [row[0] for row in session.rows(sql, values)]
        if names:
            deleted += session.run(f"DELETE FROM {p}closed WHERE channel IN ({marks(len(names))})", names)
    for group, target, local in session.rows(
        f"SELECT grp, target, local FROM {p}guest WHERE added <= ? LIMIT ?",
        (tx.now - tx.layer.group_expiry, AT_ONCE),
    ):
        deleted += session.run(
            f"DELETE FROM {p}guest WHERE grp = ? AND target = ? AND local = ? AND added <= ?",
            (group, target, local, tx.now - tx.layer.group_expiry),
        )
    for group, target in session.rows(
        f"SELECT grp, target FROM {p}grp WHERE members = 0 AND at < ? LIMIT ?", (before, AT_ONCE)
    ):
        if not session.rows(f"SELECT 1 FROM {p}member WHERE grp = ? AND target = ? LIMIT 1", (group, target)):
            deleted += session.run(
                f"DELETE FROM {p}grp WHERE grp = ? AND target = ? AND members = 0", (group, target)
            )
    for (process,) in session.rows(
        f"SELECT DISTINCT g.proc FROM {p}grp g LEFT JOIN {p}proc p ON p.id = g.proc WHERE p.id IS NULL LIMIT 20"
    ):
        tx.scrub.append(process)
    return deleted
