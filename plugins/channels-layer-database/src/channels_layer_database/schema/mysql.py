"""The tables on MariaDB and MySQL. Times are seconds since 1970 by the server's clock; what is leased lies in a table
of its own. The primary key (key, id) keeps each channel's rows together, so a channel is not slowed by another's."""

from __future__ import annotations

__all__ = ["create", "drop"]

_TABLES = ("msg", "lease", "dead", "proc", "grp", "member", "guest", "closed")
_NAME = "VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin"
_END = "ENGINE=InnoDB ROW_FORMAT=DYNAMIC CHARACTER SET utf8mb4"


def create(prefix: str) -> list[str]:
    """The statements that make the tables, where they are not there."""
    return [
        statement.replace("$", prefix).replace("NAME", _NAME)
        for statement in (
            "CREATE TABLE IF NOT EXISTS $msg (id BIGINT NOT NULL AUTO_INCREMENT, `key` NAME NOT NULL, prefix NAME,"
            " dest MEDIUMTEXT CHARACTER SET ascii, ver BIGINT, room SMALLINT NOT NULL, size INT NOT NULL,"
            " attempt SMALLINT NOT NULL DEFAULT 1, since DOUBLE NOT NULL, expires DOUBLE NOT NULL,"
            f" body LONGBLOB NOT NULL, PRIMARY KEY (`key`, id), KEY (id)) {_END}",
            "CREATE TABLE IF NOT EXISTS $lease (id BIGINT NOT NULL PRIMARY KEY, `key` NAME NOT NULL, holder NAME,"
            " lease DOUBLE NOT NULL, attempt SMALLINT NOT NULL, size INT NOT NULL, since DOUBLE NOT NULL,"
            f" body LONGBLOB NOT NULL) {_END}",
            "CREATE TABLE IF NOT EXISTS $dead (serial BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,"
            " id NAME NOT NULL UNIQUE, `key` NAME NOT NULL, size INT NOT NULL, attempt SMALLINT NOT NULL,"
            " reason TEXT NOT NULL, at DOUBLE NOT NULL, body LONGBLOB NOT NULL, dest MEDIUMTEXT CHARACTER SET ascii)"
            f" {_END}",
            "CREATE TABLE IF NOT EXISTS $proc (id NAME NOT NULL PRIMARY KEY, kind NAME NOT NULL,"
            " label VARCHAR(255) NOT NULL, opened DOUBLE NOT NULL, lease DOUBLE NOT NULL, `load` DOUBLE NOT NULL"
            f" DEFAULT 0, counters TEXT NOT NULL) {_END}",
            "CREATE TABLE IF NOT EXISTS $grp (grp NAME NOT NULL, target NAME NOT NULL, proc NAME NOT NULL,"
            " members INT NOT NULL, ver BIGINT NOT NULL, at DOUBLE NOT NULL, PRIMARY KEY (grp, target), KEY (proc))"
            f" {_END}",
            "CREATE TABLE IF NOT EXISTS $member (grp NAME NOT NULL, target NAME NOT NULL, channel NAME NOT NULL,"
            " joined BIGINT NOT NULL, gone BIGINT NOT NULL, at DOUBLE NOT NULL,"
            f" PRIMARY KEY (grp, target, channel, joined), KEY (target, channel)) {_END}",
            "CREATE TABLE IF NOT EXISTS $guest (grp NAME NOT NULL, target NAME NOT NULL, local NAME NOT NULL,"
            f" added DOUBLE NOT NULL, PRIMARY KEY (grp, target, local), KEY (target, local)) {_END}",
            "CREATE TABLE IF NOT EXISTS $closed (channel NAME NOT NULL PRIMARY KEY, proc NAME, at DOUBLE NOT NULL,"
            f" KEY (proc)) {_END}",
        )
    ]


def drop(prefix: str) -> list[str]:
    """The statements that remove the tables and what they hold."""
    return [f"DROP TABLE IF EXISTS {prefix}{name}" for name in _TABLES]
