"""The tables on SQLite. Times are seconds since 1970; what is leased lies in a table of its own."""

from __future__ import annotations

__all__ = ["create", "drop"]

_TABLES = ("msg", "lease", "dead", "proc", "grp", "member", "guest", "closed")


def create(prefix: str) -> list[str]:
    """The statements that make the tables, where they are not there. The order of ``msg`` is its row id: the index on
    ``key`` holds it too."""
    return [
        statement.replace("$", prefix)
        for statement in (
            "CREATE TABLE IF NOT EXISTS $msg (id INTEGER PRIMARY KEY, key TEXT NOT NULL, prefix TEXT, dest TEXT,"
            " ver INTEGER, room INTEGER NOT NULL, size INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 1,"
            " since REAL NOT NULL, expires REAL NOT NULL, body BLOB NOT NULL)",
            "CREATE INDEX IF NOT EXISTS $msg_key ON $msg (key)",
            "CREATE TABLE IF NOT EXISTS $lease (id INTEGER PRIMARY KEY, key TEXT NOT NULL, holder TEXT,"
            " lease REAL NOT NULL, attempt INTEGER NOT NULL, size INTEGER NOT NULL, since REAL NOT NULL,"
            " body BLOB NOT NULL)",
            "CREATE TABLE IF NOT EXISTS $dead (serial INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
            " key TEXT NOT NULL, size INTEGER NOT NULL, attempt INTEGER NOT NULL, reason TEXT NOT NULL,"
            " at REAL NOT NULL, body BLOB NOT NULL, dest TEXT)",
            "CREATE TABLE IF NOT EXISTS $proc (id TEXT PRIMARY KEY, kind TEXT NOT NULL, label TEXT NOT NULL,"
            " opened REAL NOT NULL, lease REAL NOT NULL, load REAL NOT NULL DEFAULT 0,"
            " counters TEXT NOT NULL DEFAULT '{}') WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS $grp (grp TEXT NOT NULL, target TEXT NOT NULL, proc TEXT NOT NULL,"
            " members INTEGER NOT NULL, ver INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (grp, target))"
            " WITHOUT ROWID",
            "CREATE INDEX IF NOT EXISTS $grp_proc ON $grp (proc)",
            "CREATE TABLE IF NOT EXISTS $member (grp TEXT NOT NULL, target TEXT NOT NULL, channel TEXT NOT NULL,"
            " joined INTEGER NOT NULL, gone INTEGER NOT NULL, at REAL NOT NULL,"
            " PRIMARY KEY (grp, target, channel, joined)) WITHOUT ROWID",
            "CREATE INDEX IF NOT EXISTS $member_channel ON $member (target, channel)",
            "CREATE TABLE IF NOT EXISTS $guest (grp TEXT NOT NULL, target TEXT NOT NULL, local TEXT NOT NULL,"
            " added REAL NOT NULL, PRIMARY KEY (grp, target, local)) WITHOUT ROWID",
            "CREATE INDEX IF NOT EXISTS $guest_target ON $guest (target, local)",
            "CREATE TABLE IF NOT EXISTS $closed (channel TEXT PRIMARY KEY, proc TEXT, at REAL NOT NULL) WITHOUT ROWID",
            "CREATE INDEX IF NOT EXISTS $closed_proc ON $closed (proc)",
        )
    ]


def drop(prefix: str) -> list[str]:
    """The statements that remove the tables and what they hold."""
    return [f"DROP TABLE IF EXISTS {prefix}{name}" for name in _TABLES]
