"""The statements for PostgreSQL. Each is prepared once for a connection, with its plan pinned; all times are the
server's own.

What readers take is named by ``ctid = ANY(ARRAY(SELECT ... FOR UPDATE SKIP LOCKED))``, which can only become a scan of
these very rows; an ``IN`` could become a scan of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, get_args

__all__ = ["ALIVE", "PINS", "Statement", "Statements", "statements_for"]

PINS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
"""What keeps the planner to the index, whatever the statistics of a table say that was full or empty a moment ago.

What is switched off counts as very dear, and dear statements are what servers with JIT compile at each execution: for
seconds, where the statement takes microseconds. So that is off too.
"""

SESSION = {
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
}
"""What a role, a database or OPTIONS may have set for the project's sessions, and the layer's do otherwise: they wait
for messages for hours, write, and see what others have committed while they waited for a lock. Those that a server
does not know are left out."""

_NOW = "statement_timestamp()"
_RENEWED = "(SELECT max(q.lease) - {lease} * interval '1 second' FROM {p}proc q HAVING {away})".replace(
    "{away}", f"max(q.lease) < {_NOW} + {{lease}} / 2 * interval '1 second'"
)
"""When somebody last renewed a lease, where that is so long ago that the server must have been away since."""
ALIVE = f"(p.lease > {_NOW} OR p.lease > {_RENEWED})"
"""Whether the process ``p`` has not ended. What comes second is looked at only where its lease ran out."""
_WAITING = f"(m.lease IS NULL OR m.lease <= {_NOW})"

_DEPTH = f"""
    SELECT count(*) AS depth, coalesce(sum(w.size), 0)::bigint AS used, coalesce(bool_or(w.stale), false) AS stale,
           min(w.id) AS low
    FROM (
        SELECT m.id, m.size, m.taken = 0 AND m.expires <= {_NOW} AS stale
        FROM {{p}}msg m
        WHERE m.key = u.key AND m.id >= u.low AND m.room = u.room
          AND (u.room = 1 OR m.prefix IS NOT DISTINCT FROM u.prefix) AND {_WAITING}
        LIMIT u.cap
    ) w"""

_WAKE = "pg_notify('{p}' || md5(k.key), k.low::text)"
Shape = Literal["single", "batch", "mixed"]
"""What goes: one message, several to one place, several to several places."""
_TELL = "n.wake IS NULL OR pg_notify(n.wake, n.id::text) IS NOT NULL"


def _straight(*, shape: Shape, has_owner: bool, has_acks: bool, is_durable: bool) -> str:
    """An insert that counts nothing: it is done only while the sequence of ids has not passed a number, up to which the
    sender knows that every room has place, and while the owners' leases run. All of it or nothing; the first message of
    each queue wakes its readers."""
    if shape == "mixed":
        arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(_COLUMNS.values(), 1))
        source = f"i.* FROM unnest({arrays}) AS i({', '.join(_COLUMNS)})"
    elif shape == "batch":
        source = """$1::text AS key, i.prefix, i.dest, $4::smallint AS room, i.size, i.body,
    CASE WHEN i.n = 1 THEN $7::text END AS wake
    FROM unnest($2::text[], $3::text[], $5::int[], $6::bytea[]) WITH ORDINALITY AS i(prefix, dest, size, body, n)"""
    else:
        source = ", ".join(f"${at}::{kind} AS {name}" for at, (name, kind) in enumerate(_COLUMNS.items(), 1))
    conditions = ["(SELECT s.last_value FROM {p}msg_back s) <= $9::bigint"]
    used = 9
    if has_owner:
        used += 1
        lives = f"EXISTS (SELECT FROM {{p}}proc p WHERE p.id = {{owner}} AND p.lease > {_NOW})"
        if shape == "mixed":
            none = f"NOT {lives.format(p='{p}', owner='u.id')}"
            conditions.append(f"NOT EXISTS (SELECT FROM unnest(${used}::text[]) AS u(id) WHERE {none})")
        else:
            conditions.append(lives.format(p="{p}", owner=f"${used}::text"))
    if is_durable:
        conditions.append("(SELECT set_config('synchronous_commit', 'on', true)) IS NOT NULL")
    condition = " AND ".join(conditions)
    before = ""
    if has_acks:
        keys, ids = f"${used + 1}::text[]", f"${used + 2}::bigint[]"
        before = f"""WITH may AS MATERIALIZED (SELECT {condition} AS be), acked AS (
    DELETE FROM {{p}}msg m USING unnest({keys}, {ids}, ${used + 3}::int[]) AS a(key, id, taken)
    WHERE m.key = a.key AND m.id = a.id AND m.taken = a.taken AND m.lease > {_NOW}
      AND m.key = ANY({keys}) AND m.id = ANY({ids}) AND (SELECT be FROM may)
)
"""
        condition = "(SELECT be FROM may)"
    return f"""{before}INSERT INTO {{p}}msg (id, key, prefix, dest, room, size, expires, body)
SELECT n.id, n.key, n.prefix, n.dest, n.room, n.size, {_NOW} + $8::float8 * interval '1 second', n.body
FROM (SELECT nextval('{{p}}msg_back') AS id, {source} WHERE {condition} OFFSET 0) n
WHERE {_TELL}"""


_COLUMNS = {
    "key": "text",
    "prefix": "text",
    "dest": "text",
    "room": "smallint",
    "size": "int",
    "body": "bytea",
    "wake": "text",
}

_SEND = (
    f"""WITH units AS MATERIALIZED (
    SELECT u.n, u.key, u.prefix, u.room, u.cap, u.bytes, d.depth, d.used, d.stale, d.low,
           (SELECT s.last_value - (NOT s.is_called)::int FROM {{p}}msg_back s) AS last,
           u.proc IS NULL OR EXISTS (SELECT FROM {{p}}proc p WHERE p.id = u.proc AND {ALIVE}) AS alive
    FROM unnest($1::text[], $2::text[], $3::smallint[], $4::int[], $5::bigint[], $6::text[], $17::bigint[])
             WITH ORDINALITY AS u(key, prefix, room, cap, bytes, proc, low, n),
         LATERAL ({_DEPTH}) d
), items AS MATERIALIZED (
    SELECT i.n, i.dest, i.size, i.body, i.prefix, u.key, u.room, u.alive, i.turn,
           u.depth + i.rank < u.cap AND u.used + i.before < u.bytes AS fits
    FROM unnest($7::int[], $8::text[], $9::int[], $10::bytea[], $11::int[], $12::bigint[], $13::int[],
                $16::text[])
         WITH ORDINALITY AS i(u, dest, size, body, rank, before, turn, prefix, n)
    JOIN units u ON u.n = i.u
), sent AS (
    INSERT INTO {{p}}msg (key, prefix, dest, room, size, expires, body)
    SELECT i.key, i.prefix, i.dest, i.room, i.size, {_NOW} + $14::float8 * interval '1 second', i.body
    FROM items i WHERE i.alive AND i.fits ORDER BY i.n
    RETURNING key, id
)""",
    f""", acked AS (
    DELETE FROM {{p}}msg m USING unnest($18::text[], $19::bigint[], $20::int[], $21::int[]) AS a(key, id, taken, turn)
    WHERE m.key = a.key AND m.id = a.id AND m.taken = a.taken AND m.lease > {_NOW}
      AND m.key = ANY($18::text[]) AND m.id = ANY($19::bigint[])
      AND NOT EXISTS (SELECT FROM items i WHERE i.turn = a.turn AND i.alive AND NOT i.fits)
)""",
    f"""
SELECT u.depth::int, u.used, u.stale, u.alive, woken.n,
       CASE WHEN $15::boolean AND EXISTS (SELECT FROM items i WHERE i.alive AND NOT i.fits)
            THEN 1 / (u.room * 0) END,
       coalesce(u.low, (SELECT min(s.id) FROM sent s WHERE s.key = u.key)), u.last
FROM units u, (
    SELECT count({_WAKE}) AS n FROM (SELECT key, min(id) AS low FROM sent GROUP BY key) k
) woken
ORDER BY u.n""",
)

_SEND_GROUP = f"""WITH targets AS MATERIALIZED (
    SELECT g.target, g.proc, g.cap, g.room,
           CASE WHEN g.proc IS NULL THEN g.target ELSE g.proc || '!' END AS key,
           CASE WHEN g.proc IS NOT NULL THEN g.target END AS prefix,
           right(g.target, 1) = '!' AS many,
           CASE WHEN g.proc IS NOT NULL AND g.room = 1 THEN count(*) FILTER (WHERE g.room = 1) OVER (
               PARTITION BY g.proc || '' ORDER BY g.target ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
           ) ELSE 0 END AS ahead
    FROM {{p}}grp g
    WHERE g.grp = $1::text AND CASE
        WHEN g.proc IS NULL THEN g.newest > {_NOW} - $5::float8 * interval '1 second'
        ELSE EXISTS (SELECT FROM {{p}}proc p WHERE p.id = g.proc AND {ALIVE}) END
), units AS MATERIALIZED (
    SELECT u.*, d.depth + u.ahead < u.cap
               AND (u.room <> 1 OR NOT u.many OR d.used + u.ahead * $2::int < $6::bigint) AS fits,
           CASE WHEN u.proc IS NOT NULL THEN '@' || $1::text WHEN u.many THEN (
               SELECT string_agg(substr(m.channel, length(u.target) + 1), ' ') FROM {{p}}member m
               WHERE m.grp = $1::text AND m.target = u.target
                 AND m.added > {_NOW} - $5::float8 * interval '1 second'
           ) END AS dest
    FROM targets u, LATERAL (
        SELECT count(*) AS depth, coalesce(sum(w.size), 0)::bigint AS used FROM (
            SELECT m.size FROM {{p}}msg m
            WHERE m.key = u.key AND m.room = u.room AND (u.room = 1 OR m.prefix IS NOT DISTINCT FROM u.prefix)
              AND {_WAITING} AND (m.taken > 0 OR m.expires > {_NOW})
            LIMIT u.cap
        ) w
    ) d
), sent AS (
    INSERT INTO {{p}}msg (key, prefix, dest, room, size, expires, body)
    SELECT u.key, u.prefix, u.dest, u.room, $2::int, {_NOW} + $4::float8 * interval '1 second', $3::bytea
    FROM units u WHERE u.fits AND (u.dest IS NOT NULL OR NOT u.many)
    RETURNING key, id
), woken AS MATERIALIZED (
    SELECT count({_WAKE}) AS n FROM (SELECT key, min(id) AS low FROM sent GROUP BY key) k
)
SELECT w.n, (
    SELECT coalesce(sum(CASE WHEN u.many THEN (
        SELECT count(*) FROM {{p}}member m WHERE m.grp = $1::text AND m.target = u.target
    ) ELSE 1 END), 0)::bigint FROM units u WHERE NOT u.fits
), CASE WHEN $7::boolean AND EXISTS (SELECT FROM units u WHERE u.fits AND u.proc IS NULL AND NOT u.many)
    THEN set_config('synchronous_commit', 'on', true) END
FROM woken w"""

_ROW = "id, key, prefix, dest, room, size, attempt, taken, since, expires"

_PICK = """SELECT m.ctid FROM unnest($1::text[], $2::bigint[], $3::int[], $4::text[]) AS u(key, low, n, prefixes),
    LATERAL (
        SELECT m.ctid FROM {p}msg m
        WHERE m.key = u.key AND m.id >= u.low
          AND (u.prefixes IS NULL OR m.prefix IS NULL OR m.prefix = ANY(string_to_array(u.prefixes, ' '))){free}
        ORDER BY m.id LIMIT u.n FOR UPDATE OF m SKIP LOCKED
    ) m
    LIMIT $5::int"""

_FREE = f""" AND (m.lease IS NULL OR m.lease <= {_NOW} OR (m.holder IS NOT NULL AND NOT EXISTS (
            SELECT FROM {{p}}proc p WHERE p.id = m.holder AND {ALIVE})))"""

_TAKE = f"""DELETE FROM {{p}}msg m WHERE m.ctid = ANY(ARRAY({_PICK.replace("{free}", "")}))
RETURNING {_ROW}, taken > 0 OR expires > {_NOW}, 0, body"""

_PICK_ONE = """SELECT m.ctid FROM {p}msg m WHERE m.key = $1::text AND m.id >= $2::bigint{free}
    ORDER BY m.id LIMIT $3::int FOR UPDATE OF m SKIP LOCKED"""
_OF_PREFIXES = " AND (m.prefix IS NULL OR m.prefix = ANY($4::text[]))"
# The inbox of a process has one reader, so its rows need not be locked before they are deleted.
_TAKE_ONE = _TAKE.replace(_PICK.replace("{free}", ""), _PICK_ONE.replace("{free}", ""))
_TAKE_OF = _TAKE.replace(
    _PICK.replace("{free}", ""),
    _PICK_ONE.replace("{free}", _OF_PREFIXES).replace(" FOR UPDATE OF m SKIP LOCKED", ""),
)

_LEASE = f"""WITH picked AS MATERIALIZED (
    SELECT m.ctid, m.lapsed FROM unnest($1::text[], $2::bigint[], $3::int[], $4::text[]) AS u(key, low, n, prefixes),
    LATERAL (
        SELECT m.ctid, m.lease IS NOT NULL AS lapsed FROM {{p}}msg m
        WHERE m.key = u.key AND m.id >= u.low{_FREE}
        ORDER BY m.id LIMIT u.n FOR UPDATE OF m SKIP LOCKED
    ) m
    LIMIT $5::int
), leased AS (
    UPDATE {{p}}msg m SET attempt = m.attempt + (m.lease IS NOT NULL)::int, taken = m.taken + 1, holder = $7::text,
        lease = {_NOW} + $6::float8 * interval '1 second'
    WHERE m.ctid = ANY(ARRAY(SELECT p.ctid FROM picked p))
    RETURNING m.*
)
SELECT {_ROW}, taken > 1 OR expires > {_NOW}, (SELECT count(*)::int FROM picked p WHERE p.lapsed), body FROM leased"""

_LEASE_ONE = f"""WITH picked AS MATERIALIZED (
    {_PICK_ONE.replace("{free}", _FREE).replace("m.ctid", "m.ctid, m.lease IS NOT NULL AS lapsed", 1)}
)""" + _LEASE[_LEASE.index(", leased AS (") :].replace("$6::", "$4::").replace("$7::", "$5::")

_TOKENS = "unnest($1::text[], $2::bigint[], $3::int[]{more}) WITH ORDINALITY AS a(key, id, taken{names}, n)"
# The arrays are named once more, so that the rows are sought by the index whichever side the planner begins with.
_IS_MINE = (
    f"m.key = a.key AND m.id = a.id AND m.taken = a.taken AND m.lease > {_NOW}"
    " AND m.key = ANY($1::text[]) AND m.id = ANY($2::bigint[])"
)


def _tokens(more: str = "", names: str = "") -> str:
    return _TOKENS.format(more=more, names=names)


_ACK = f"DELETE FROM {{p}}msg m USING {_tokens()} WHERE {_IS_MINE}"
_RENEW = f"""UPDATE {{p}}msg m SET lease = {_NOW} + $4::float8 * interval '1 second'
FROM {_tokens()} WHERE {_IS_MINE}"""

_FRONT = "SELECT nextval('{p}msg_front') * -10000 AS front"

_WOKEN = f"SELECT count({_WAKE}) FROM (SELECT key, min(id) AS low FROM done GROUP BY key) k"

_RELEASE = f"""WITH place AS MATERIALIZED ({_FRONT}), done AS (
    UPDATE {{p}}msg m SET id = (SELECT front FROM place) + a.n, lease = NULL, holder = NULL,
        attempt = m.attempt + a.begun
    FROM {_tokens(", $4::int[]", ", begun")} WHERE {_IS_MINE}
    RETURNING m.key, m.id
) {_WOKEN}"""

_GIVE_BACK = f"""WITH done AS (
    UPDATE {{p}}msg m SET lease = NULL, holder = NULL
    WHERE m.key = ANY($1::text[]) AND m.holder = $2::text
      AND m.lease > {_NOW} AND m.lease <= {_NOW} + $3::float8 * interval '1 second'
      AND NOT EXISTS (SELECT FROM unnest($4::bigint[], $5::int[]) AS a(id, taken)
                      WHERE a.id = m.id AND a.taken = m.taken)
    RETURNING m.key, m.id
) {_WOKEN}"""

_REQUEUE = f"""WITH done AS (
    UPDATE {{p}}msg m SET id = nextval('{{p}}msg_back'), lease = NULL, holder = NULL, attempt = 1,
        taken = m.taken + 1, since = {_NOW}, body = a.body
    FROM {_tokens(", $4::bytea[]", ", body")} WHERE {_IS_MINE}
    RETURNING m.key, m.id
) {_WOKEN}"""

_BURY = f"""WITH done AS (
    DELETE FROM {{p}}msg m USING {_tokens(", $4::text[], $5::int[]", ", reason, attempt")} WHERE {_IS_MINE}
    RETURNING m.key, m.dest, m.size, coalesce(a.attempt, m.attempt) AS attempt, a.reason, m.body, a.n
), buried AS (
    INSERT INTO {{p}}dead (key, dest, size, attempt, reason, body)
    SELECT key, dest, size, attempt, reason, body FROM done ORDER BY n RETURNING 1
) SELECT count(*)::int FROM buried"""

_SET_ASIDE = """INSERT INTO {p}dead (key, size, attempt, reason, body)
SELECT a.key, a.size, a.attempt, a.reason, a.body
FROM unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::bytea[]) AS a(key, size, attempt, reason, body)"""

_PUT_BACK = f"""WITH place AS MATERIALIZED ({_FRONT}), done AS (
    INSERT INTO {{p}}msg (id, key, prefix, dest, room, size, attempt, taken, since, expires, body)
    SELECT CASE WHEN a.front THEN p.front + a.n ELSE nextval('{{p}}msg_back') END,
           a.key, a.prefix, a.dest, a.room, a.size, a.attempt, a.taken,
           coalesce(a.since, {_NOW}), coalesce(a.expires, {_NOW} + $12::float8 * interval '1 second'), a.body
    FROM place p, unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::int[], $6::smallint[], $7::int[],
        $8::timestamptz[], $9::timestamptz[], $10::bytea[], $11::boolean[])
        WITH ORDINALITY AS a(key, prefix, dest, room, size, attempt, taken, since, expires, body, front, n)
    ORDER BY a.n
    RETURNING key, id
) {_WOKEN}"""

_PURGE = f"""DELETE FROM {{p}}msg m WHERE m.ctid = ANY(ARRAY(
    SELECT m.ctid FROM unnest($1::text[]) AS u(key), LATERAL (
        SELECT m.ctid FROM {{p}}msg m
        WHERE m.key = u.key AND m.taken = 0 AND m.expires <= {_NOW} AND m.room > 0
        ORDER BY m.id LIMIT $2::int FOR UPDATE OF m SKIP LOCKED
    ) m LIMIT $2::int
)) RETURNING body"""

# Messages of a queue mostly expire in their order: up to the first that has not, however many wait behind it.
_SWEEP = _PURGE.replace(
    "u(key), LATERAL (",
    f"""u(key), LATERAL (
        SELECT coalesce((
            SELECT f.id FROM {{p}}msg f WHERE f.key = u.key AND f.taken = 0 AND f.room > 0 AND f.expires > {_NOW}
            ORDER BY f.id LIMIT 1
        ), 9223372036854775807) AS live OFFSET 0
    ) b, LATERAL (""",
).replace("m.key = u.key AND", "m.key = u.key AND m.id < b.live AND")

_KEYS = """WITH RECURSIVE k AS (
    (SELECT m.key FROM {p}msg m WHERE m.key > $1::text ORDER BY m.key LIMIT 1)
    UNION ALL
    SELECT (SELECT m.key FROM {p}msg m WHERE m.key > k.key ORDER BY m.key LIMIT 1) FROM k WHERE k.key IS NOT NULL
) SELECT k.key, right(k.key, 1) = '!' AND length(k.key) = 27 AND NOT EXISTS (
    SELECT FROM {p}proc p WHERE p.id = left(k.key, 26)
) FROM k WHERE k.key IS NOT NULL LIMIT $2::int"""

_ALONE = "SELECT pg_try_advisory_xact_lock(hashtext('{p}clean'))"

_CHANNEL_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('{p}' || $1::text, 0)) IS NULL"

_MAY_ADD = f"""($4::text IS NULL OR EXISTS (SELECT FROM {{p}}proc p WHERE p.id = $4::text AND {ALIVE}))
    AND NOT EXISTS (SELECT FROM {{p}}closed c WHERE c.channel = $3::text)"""

_ADD_TARGET = f"""INSERT INTO {{p}}grp (grp, target, proc, cap, room)
SELECT $1::text, $2::text, $4::text, $5::int, $6::smallint WHERE {_MAY_ADD}
ON CONFLICT (grp, target) DO UPDATE SET newest = {_NOW}, cap = excluded.cap, room = excluded.room"""


def _control(mark: str, when: str) -> str:
    """A row for the process that owns the channel: who of its own has come or gone."""
    return f"""INSERT INTO {{p}}msg (key, prefix, dest, room, expires, body)
    SELECT $4::text || '!', $2::text, {mark}substr($3::text, length($2::text) + 1), 0, 'infinity', ''
    FROM done WHERE {when} AND $4::text IS NOT NULL
    RETURNING key, id"""


_TOLD = f"SELECT count({_WAKE}) FROM (SELECT key, min(id) AS low FROM told GROUP BY key) k"

_ADD_MEMBER = f"""WITH done AS (
    INSERT INTO {{p}}member (grp, target, channel, proc)
    SELECT $1::text, $2::text, $3::text, $4::text WHERE {_MAY_ADD}
    ON CONFLICT (grp, target, channel) DO UPDATE SET added = {_NOW}
    RETURNING xmax = 0 AS fresh
), told AS (
    {_control("'+' || $1::text || ' ' || ", "fresh")}
) {_TOLD}"""

_HOLD_TARGET = "SELECT 1 FROM {p}grp g WHERE g.grp = $1::text AND g.target = $2::text FOR UPDATE"

_DISCARD_MEMBER = f"""WITH done AS (
    DELETE FROM {{p}}member m WHERE m.grp = $1::text AND m.target = $2::text AND m.channel = $3::text RETURNING 1
), told AS (
    {_control("'-' || $1::text || ' ' || ", "true")}
) {_TOLD}"""

_DROP_TARGET = """DELETE FROM {p}grp g WHERE g.grp = $1::text AND g.target = $2::text AND NOT EXISTS (
    SELECT FROM {p}member m WHERE m.grp = g.grp AND m.target = g.target)"""

_CLOSE = f"""WITH noted AS (
    INSERT INTO {{p}}closed (channel) SELECT $3::text WHERE $1::text IS NULL
    ON CONFLICT (channel) DO UPDATE SET at = {_NOW}
), left_ AS (
    DELETE FROM {{p}}member m WHERE m.channel = $3::text RETURNING m.grp
), done AS (
    SELECT count(*) AS n FROM left_
), told AS (
    {_control("'!' || ", "done.n > 0")}
), woken AS MATERIALIZED ({_TOLD})
SELECT l.grp FROM left_ l, woken w"""

_CLOSE_PLAIN = "DELETE FROM {p}grp g WHERE g.target = $1::text AND g.proc IS NULL"

_HOLD_TARGETS = """SELECT 1 FROM {p}grp g WHERE g.target = $1::text AND g.grp = ANY($2::text[])
ORDER BY g.grp FOR UPDATE"""

_DROP_TARGETS = """DELETE FROM {p}grp g WHERE g.target = $1::text AND g.grp = ANY($2::text[]) AND NOT EXISTS (
    SELECT FROM {p}member m WHERE m.grp = g.grp AND m.target = g.target)"""

_IS_LIVE = f"""CASE WHEN {{x}}.proc IS NULL THEN {{x}}.{{when}} > {_NOW} - $1::float8 * interval '1 second'
    ELSE EXISTS (SELECT FROM {{p}}proc p WHERE p.id = {{x}}.proc AND {ALIVE}) END"""
_LIVE_G = _IS_LIVE.replace("{x}", "g").replace("{when}", "newest")
_LIVE_M = _IS_LIVE.replace("{x}", "m").replace("{when}", "added")

_CHANNELS = f"""SELECT g.target FROM {{p}}grp g WHERE g.grp = $2::text AND right(g.target, 1) <> '!' AND {_LIVE_G}
UNION ALL
SELECT m.channel FROM {{p}}member m WHERE m.grp = $2::text AND {_LIVE_M}"""

_GROUPS = f"""SELECT c.grp, count(*)::int FROM (
    SELECT g.grp FROM {{p}}grp g WHERE right(g.target, 1) <> '!' AND {_LIVE_G}
    UNION ALL
    SELECT m.grp FROM {{p}}member m WHERE {_LIVE_M}
) c GROUP BY c.grp"""

_MEMBERS_OF = (
    "SELECT m.grp, m.target, substr(m.channel, length(m.target) + 1) FROM {p}member m WHERE m.proc = $1::text"
)

_OPEN = f"""INSERT INTO {{p}}proc (id, kind, label, lease)
VALUES ($1::text, $2::text, $3::text, {_NOW} + $4::float8 * interval '1 second')"""
_RENEW_PROCESS = f"""UPDATE {{p}}proc p SET lease = {_NOW} + $2::float8 * interval '1 second', load = $3::float8,
    counters = $4::text WHERE p.id = $1::text AND {ALIVE} RETURNING 1"""
_CLOSE_PROCESS = """WITH gone AS (DELETE FROM {p}proc p WHERE p.id = $1::text),
members AS (DELETE FROM {p}member m WHERE m.proc = $1::text),
targets AS (DELETE FROM {p}grp g WHERE g.proc = $1::text),
dropped AS (DELETE FROM {p}msg m WHERE m.key = $1::text || '!' RETURNING m.room)
SELECT count(*)::int FROM dropped WHERE room > 0"""
_SPARE = f"""UPDATE {{p}}proc p SET lease = {_NOW} + {{lease}} * 2 / 3 * interval '1 second'
WHERE p.ctid = ANY(ARRAY(
    SELECT q.ctid FROM {{p}}proc q
    WHERE q.lease > {_RENEWED} AND q.lease < {_NOW} + {{lease}} * 2 / 3 * interval '1 second'
    ORDER BY q.id FOR UPDATE SKIP LOCKED
))"""
_LAPSED = f"""SELECT p.id FROM {{p}}proc p
WHERE p.lease <= {_NOW} - $1::float8 * interval '1 second' AND NOT coalesce({ALIVE}, false) LIMIT 100"""
_PROCESSES = f"""SELECT p.id, p.kind, p.label, extract(epoch FROM {_NOW} - p.opened)::float8, p.load, p.counters
FROM {{p}}proc p WHERE {ALIVE} ORDER BY p.opened"""

_FLUSH = (
    "DELETE FROM {p}msg",
    "DELETE FROM {p}member",
    "DELETE FROM {p}grp",
    "DELETE FROM {p}dead",
    f"""INSERT INTO {{p}}msg (key, prefix, dest, room, expires, body)
    SELECT p.id || '!', NULL, '*', 0, 'infinity', '' FROM {{p}}proc p WHERE {ALIVE}""",
)

_FIGURES = f"""SELECT coalesce(m.prefix, m.key),
    count(*) FILTER (WHERE {_WAITING} AND (m.taken > 0 OR m.expires > {_NOW}))::int,
    count(*) FILTER (WHERE NOT {_WAITING})::int,
    coalesce(extract(epoch FROM {_NOW} - min(m.since)
        FILTER (WHERE {_WAITING} AND (m.taken > 0 OR m.expires > {_NOW}))), 0)::float8
FROM {{p}}msg m WHERE m.room > 0 AND ($1::text[] IS NULL OR m.key = ANY($1::text[])) GROUP BY 1"""

_DEAD = f"""SELECT d.id, d.key, d.body, d.attempt, d.reason, extract(epoch FROM {_NOW} - d.at)::float8
FROM {{p}}dead d WHERE $1::text IS NULL OR d.key = $1::text ORDER BY d.id LIMIT $2::int"""
_REPLAY = f"""WITH taken AS (DELETE FROM {{p}}dead d WHERE d.id = ANY($1::bigint[]) RETURNING d.*), done AS (
    INSERT INTO {{p}}msg (key, dest, size, expires, body)
    SELECT t.key, t.dest, t.size, {_NOW} + $2::float8 * interval '1 second', t.body FROM taken t ORDER BY t.id
    RETURNING key, id
), woken AS MATERIALIZED ({_WOKEN}) SELECT (SELECT count(*) FROM done)::int FROM woken"""
_DROP_DEAD = """WITH gone AS (DELETE FROM {p}dead d WHERE d.id = ANY($1::bigint[]) RETURNING 1)
SELECT count(*)::int FROM gone"""
_FORGET = f"""WITH gone AS (
    DELETE FROM {{p}}closed c WHERE c.channel = ANY(ARRAY(
        SELECT c.channel FROM {{p}}closed c WHERE c.at < {_NOW} - $1::float8 * interval '1 second'
        ORDER BY c.at LIMIT 1000
    )) RETURNING 1
) SELECT count(*)::int FROM gone"""


_FORGET_MEMBERS = f"""WITH gone AS (
    DELETE FROM {{p}}member m WHERE m.ctid = ANY(ARRAY(
        SELECT m.ctid FROM {{p}}member m
        WHERE m.proc IS NULL AND m.added <= {_NOW} - $1::float8 * interval '1 second' LIMIT 1000
    )) RETURNING 1
) SELECT count(*)::int FROM gone"""
_FORGET_TARGETS = _FORGET_MEMBERS.replace("}member", "}grp").replace("added", "newest")


_ANNOUNCE = f"SELECT {_WAKE} FROM unnest($1::text[], $2::bigint[]) AS k(key, low)"


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """One statement: its name for the server, and its text."""

    name: bytes
    text: bytes
    is_kept: bool = True
    """Whether the connection keeps it prepared."""
    quiet: Statement | None = None
    """The same without a notification, for when the server takes no more of them."""


def _named(name: str, text: str, prefix: str, lease: float) -> Statement:
    silent = text.replace(_WAKE, "(k.low)").replace(_TELL, "true")
    quiet = _named(f"{name}_quiet", silent, prefix, lease) if silent != text else None
    whole = text.replace("{p}", prefix).replace("{lease}", repr(float(lease)))
    return Statement(f"{prefix}{name}".encode(), whole.encode(), quiet=quiet)


class Statements:
    """All statements, for tables with one prefix."""

    def __init__(self, prefix: str, lease: float) -> None:
        def make(name: str, text: str) -> Statement:
            return _named(name, text, prefix, lease)

        kinds = product(get_args(Shape), (False, True), (False, True), (False, True))
        self.straight: dict[tuple[Shape, bool, bool, bool], Statement] = {
            (shape, has_owner, has_acks, is_durable): make(
                f"straight{number}",
                _straight(shape=shape, has_owner=has_owner, has_acks=has_acks, is_durable=is_durable),
            )
            for number, (shape, has_owner, has_acks, is_durable) in enumerate(kinds)
        }
        """By: what goes, whether to processes, with acknowledgements, on disk when it returns."""
        self.send = make("send", _SEND[0] + _SEND[2])
        self.send_and_ack = make("send_ack", "".join(_SEND))
        self.send_group = make("send_group", _SEND_GROUP)
        self.take = make("take", _TAKE)
        self.lease = make("lease", _LEASE)
        self.take_one = make("take_one", _TAKE_ONE)
        self.take_of = make("take_of", _TAKE_OF)
        self.lease_one = make("lease_one", _LEASE_ONE)
        self.ack = make("ack", _ACK)
        self.renew = make("renew", _RENEW)
        self.release = make("release", _RELEASE)
        self.give_back = make("give_back", _GIVE_BACK)
        self.requeue = make("requeue", _REQUEUE)
        self.bury = make("bury", _BURY)
        self.put_back = make("put_back", _PUT_BACK)
        self.set_aside = make("set_aside", _SET_ASIDE)
        self.purge = make("purge", _PURGE)
        self.sweep = make("sweep", _SWEEP)
        self.keys = make("keys", _KEYS)
        self.alone = make("alone", _ALONE)
        self.channel_lock = make("channel_lock", _CHANNEL_LOCK)
        self.add_target = make("add_target", _ADD_TARGET)
        self.add_member = make("add_member", _ADD_MEMBER)
        self.hold_target = make("hold_target", _HOLD_TARGET)
        self.discard_member = make("discard_member", _DISCARD_MEMBER)
        self.drop_target = make("drop_target", _DROP_TARGET)
        self.hold_targets = make("hold_targets", _HOLD_TARGETS)
        self.drop_targets = make("drop_targets", _DROP_TARGETS)
        self.close_channel = make("close_channel", _CLOSE)
        self.close_plain = make("close_plain", _CLOSE_PLAIN)
        self.group_channels = make("group_channels", _CHANNELS)
        self.groups = make("groups", _GROUPS)
        self.members_of = make("members_of", _MEMBERS_OF)
        self.open_process = make("open_process", _OPEN)
        self.spare = make("spare", _SPARE)
        self.renew_process = make("renew_process", _RENEW_PROCESS)
        self.close_process = make("close_process", _CLOSE_PROCESS)
        self.lapsed = make("lapsed", _LAPSED)
        self.processes = make("processes", _PROCESSES)
        self.flush = [make(f"flush{number}", text) for number, text in enumerate(_FLUSH)]
        self.figures = make("figures", _FIGURES)
        self.dead = make("dead", _DEAD)
        self.replay = make("replay", _REPLAY)
        self.drop_dead = make("drop_dead", _DROP_DEAD)
        self.announce = make("announce", _ANNOUNCE)
        self.forget = make("forget", _FORGET)
        self.forget_members = make("forget_members", _FORGET_MEMBERS)
        self.forget_targets = make("forget_targets", _FORGET_TARGETS)


@cache
def statements_for(prefix: str, lease: float = 9.0) -> Statements:
    """The statements for tables whose names begin with ``prefix`` and leases of so many seconds; made once."""
    return Statements(prefix, lease)
