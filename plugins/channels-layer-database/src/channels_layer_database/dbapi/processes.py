"""Processes: their leases, and what ends with them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from channels_core.layers import ProcessInfo
from channels_core.names import new_id
from channels_layer_database.dbapi.session import Transaction, marks
from channels_layer_database.dbapi.settling import release_held

if TYPE_CHECKING:
    from channels_core.layers import ProcessKind

__all__ = ["end", "end_lapsed", "list_processes", "open_process", "renew", "scrub"]

_AT_ONCE: Final = 200


def open_process(tx: Transaction, kind: ProcessKind, label: str) -> str:
    """The new process's id."""
    process = new_id()
    _spare(tx)
    tx.session.run(
        f"INSERT INTO {tx.layer.prefix}proc (id, kind, label, opened, lease, `load`, counters)"
        f" VALUES ({marks(7)})",
        (
            process,
            kind,
            (label or f"{socket.gethostname()}:{os.getpid()}")[:255],
            tx.now,
            tx.now + tx.layer.process_lease,
            0.0,
            "{}",
        ),
    )
    return process


def renew(tx: Transaction, process: str, load: float, counters: Mapping[str, int]) -> bool:
    """Whether its lease still ran."""
    _spare(tx)
    changed = tx.session.run(
        f"UPDATE {tx.layer.prefix}proc SET lease = ?, `load` = ?, counters = ? WHERE id = ? AND lease > ?",
        (tx.now + tx.layer.process_lease, load, json.dumps(dict(counters)), process, tx.now),
    )
    if changed == 1:
        tx.layer.renewed = tx.now
    return changed == 1


def _spare(tx: Transaction) -> None:
    """Before the first renewal after such a time: the others' leases run on, for long enough to be renewed."""
    if 0.0 <= tx.now - tx.layer.renewed <= tx.layer.process_lease / 2:  # it was us
        return
    since, until = tx.horizon(), tx.now + tx.layer.process_lease * 2 / 3
    if since < tx.now:
        tx.session.run(
            f"UPDATE {tx.layer.prefix}proc SET lease = ? WHERE lease > ? AND lease < ?", (until, since, until)
        )


def end(tx: Transaction, process: str) -> None:
    """End a process that may have ended already. What is left of it is deleted afterwards (:func:`scrub`)."""
    if tx.session.run(f"DELETE FROM {tx.layer.prefix}proc WHERE id = ?", (process,)):
        release_held(tx, process)
        tx.scrub.append(process)


def end_lapsed(tx: Transaction) -> bool:
    """End those whose lease ran out; whether there were any."""
    since = tx.horizon()
    lapsed = tx.session.rows(f"SELECT id FROM {tx.layer.prefix}proc WHERE lease <= ?", (since,))
    for (process,) in lapsed:
        if tx.session.run(f"DELETE FROM {tx.layer.prefix}proc WHERE id = ? AND lease <= ?", (process, since)):
            release_held(tx, process)
            tx.scrub.append(process)
    return bool(lapsed)


def scrub(tx: Transaction, process: str) -> bool:
    """Delete some of what a process that ended has left; whether there may be more."""
    p, session = tx.layer.prefix, tx.session
    dropped = session.pop(f"{p}msg", "id", "`key` = ?", (f"{process}!",), limit=_AT_ONCE)
    tx.count("gone", len(dropped))
    if len(dropped) == _AT_ONCE:
        return True
    left = _AT_ONCE
    for group, target in session.rows(
        f"SELECT grp, target FROM {p}grp WHERE proc = ? ORDER BY grp LIMIT ?", (process, _AT_ONCE // 4)
    ):
        members = session.rows(
            f"SELECT channel, joined FROM {p}member WHERE grp = ? AND target = ? LIMIT ?",
            (group, target, left),
        )
        for channel, joined in members:
            session.run(
                f"DELETE FROM {p}member WHERE grp = ? AND target = ? AND channel = ? AND joined = ?",
                (group, target, channel, joined),
            )
        left -= len(members) + 1
        if left <= 0:
            return True
        session.run(f"DELETE FROM {p}grp WHERE grp = ? AND target = ?", (group, target))
    closed = session.rows(f"SELECT channel FROM {p}closed WHERE proc = ? LIMIT ?", (process, _AT_ONCE))
    if closed:
        names = [row[0] for row in closed]
        session.run(f"DELETE FROM {p}closed WHERE channel IN ({marks(len(names))})", names)
    return left < _AT_ONCE or len(closed) == _AT_ONCE


def list_processes(tx: Transaction) -> list[ProcessInfo]:
    """Those whose lease runs, the oldest first."""
    return [
        ProcessInfo(
            id=process,
            kind=kind,
            age=max(0.0, tx.now - opened),
            load=load,
            label=label,
            counters=json.loads(counters),
        )
        for process, kind, label, opened, load, counters in tx.session.rows(
            f"SELECT id, kind, label, opened, `load`, counters FROM {tx.layer.prefix}proc WHERE lease > ?"
            " ORDER BY opened",
            (tx.horizon(),),
        )
    ]
