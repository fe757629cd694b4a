"""Memberships.

The members that a process owns are kept as a history: ``grp`` counts the versions of the list of one group under one
prefix, ``member`` says from which version to which each was in it. So a broadcast is one row for each prefix, which
names the version of the moment it was sent, and whoever receives it finds out whom it was for.
"""

from __future__ import annotations

from random import getrandbits
from typing import Final

from channels_core.names import process_of
from channels_layer_database.dbapi.session import Transaction, marks

__all__ = ["STAYING", "add", "close", "discard", "list_groups", "members_of"]

STAYING: Final = 2**62
"""``gone`` of a member that has not left."""


def add(tx: Transaction, group: str, channel: str) -> None:
    """Make ``channel`` a member, unless it has ended or its process is dead."""
    p, session = tx.layer.prefix, tx.session
    mark = channel.find("!") + 1
    target, local = (channel[:mark], channel[mark:]) if mark else (channel, "")
    owner = process_of(channel)
    if owner is None:
        if mark and session.rows(f"SELECT 1 FROM {p}closed WHERE channel = ?", (channel,)):
            return
        session.run(
            f"DELETE FROM {p}guest WHERE grp = ? AND target = ? AND local = ?", (group, target, local)
        )
        session.run(f"INSERT INTO {p}guest VALUES ({marks(4)})", (group, target, local, tx.now))
        return
    found = session.rows(f"SELECT lease FROM {p}proc WHERE id = ?{session.for_update}", (owner,))
    if not found or (found[0][0] <= tx.now and found[0][0] <= tx.horizon()):
        return
    if session.rows(f"SELECT 1 FROM {p}closed WHERE channel = ?", (channel,)):
        return
    if session.rows(
        f"SELECT 1 FROM {p}member WHERE grp = ? AND target = ? AND channel = ? AND gone = ?",
        (group, target, local, STAYING),
    ):
        return
    session.run(
        f"{session.insert_ignore} INTO {p}grp (grp, target, proc, members, ver, at) VALUES ({marks(6)})",
        (group, target, owner, 0, getrandbits(48), tx.now),
    )
    ver = _next(tx, group, target, 1)
    session.run(f"INSERT INTO {p}member VALUES ({marks(6)})", (group, target, local, ver, STAYING, tx.now))


def _next(tx: Transaction, group: str, target: str, members: int) -> int:
    """The version of a list that has ``members`` more, or fewer."""
    p = tx.layer.prefix
    tx.session.run(
        f"UPDATE {p}grp SET ver = ver + 1, members = members + ?, at = ? WHERE grp = ? AND target = ?",
        (members, tx.now, group, target),
    )
    [(ver,)] = tx.session.rows(f"SELECT ver FROM {p}grp WHERE grp = ? AND target = ?", (group, target))
    return int(ver)


def discard(tx: Transaction, group: str, channel: str) -> None:
    """End a membership, where there is one."""
    p, session = tx.layer.prefix, tx.session
    mark = channel.find("!") + 1
    target, local = (channel[:mark], channel[mark:]) if mark else (channel, "")
    owner = process_of(channel)
    if owner is None:
        session.run(
            f"DELETE FROM {p}guest WHERE grp = ? AND target = ? AND local = ?", (group, target, local)
        )
        return
    _lock(tx, owner)
    if session.rows(
        f"SELECT 1 FROM {p}member WHERE grp = ? AND target = ? AND channel = ? AND gone = ?",
        (group, target, local, STAYING),
    ):
        _leave(tx, group, target, local)


def _leave(tx: Transaction, group: str, target: str, local: str) -> None:
    ver = _next(tx, group, target, -1)
    tx.session.run(
        f"UPDATE {tx.layer.prefix}member SET gone = ?, at = ?"
        " WHERE grp = ? AND target = ? AND channel = ? AND gone = ?",
        (ver, tx.now, group, target, local, STAYING),
    )


def _lock(tx: Transaction, owner: str) -> None:
    """Changes of one process's memberships come one after another."""
    if tx.session.for_update:
        tx.session.rows(f"SELECT 1 FROM {tx.layer.prefix}proc WHERE id = ?{tx.session.for_update}", (owner,))


def close(tx: Transaction, channel: str) -> None:
    """The channel has ended: so have its memberships, and later adds do nothing."""
    p, session = tx.layer.prefix, tx.session
    mark = channel.find("!") + 1
    target, local = (channel[:mark], channel[mark:]) if mark else (channel, "")
    owner = process_of(channel)
    if owner is not None:
        _lock(tx, owner)
        for (group,) in session.rows(
            f"SELECT grp FROM {p}member WHERE target = ? AND channel = ? AND gone = ? ORDER BY grp",
            (target, local, STAYING),
        ):
            _leave(tx, group, target, local)
    else:
        session.run(f"DELETE FROM {p}guest WHERE target = ? AND local = ?", (target, local))
    session.run(
        f"{session.insert_ignore} INTO {p}closed (channel, proc, at) VALUES ({marks(3)})",
        (channel, owner, tx.now),
    )


def members_of(tx: Transaction, group: str) -> list[str]:
    """Full names."""
    p, session = tx.layer.prefix, tx.session
    owned = session.rows(
        f"SELECT m.target, m.channel FROM {p}grp g JOIN {p}proc p ON p.id = g.proc"
        f" JOIN {p}member m ON m.grp = g.grp AND m.target = g.target"
        " WHERE g.grp = ? AND p.lease > ? AND m.gone = ?",
        (group, tx.horizon(), STAYING),
    )
    guests = session.rows(
        f"SELECT target, local FROM {p}guest WHERE grp = ? AND added > ?",
        (group, tx.now - tx.layer.group_expiry),
    )
    return [target + local for target, local in (*owned, *guests)]


def list_groups(tx: Transaction) -> dict[str, int]:
    """Every group that has members, and how many."""
    p, session = tx.layer.prefix, tx.session
    found: dict[str, int] = {}
    for group, members in (
        *session.rows(
            f"SELECT g.grp, sum(g.members) FROM {p}grp g JOIN {p}proc p ON p.id = g.proc"
            " WHERE g.members > 0 AND p.lease > ? GROUP BY g.grp",
            (tx.horizon(),),
        ),
        *session.rows(
            f"SELECT grp, count(*) FROM {p}guest WHERE added > ? GROUP BY grp",
            (tx.now - tx.layer.group_expiry,),
        ),
    ):
        found[group] = found.get(group, 0) + int(members)
    return found
