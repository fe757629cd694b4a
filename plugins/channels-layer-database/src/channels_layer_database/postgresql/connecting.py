"""Making a connection of libpq from Django's settings, in a thread, and finding out what answers.

Behind a pooler that hands a connection out by transaction, whatever a session says (SET, LISTEN, PREPARE) is said to
somebody else's. The probe leaves no trace: it compares the process id that the connection was made with to the one
that answers a query.
"""

from __future__ import annotations

import select
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from channels_core.exceptions import InvalidChannelLayerError, LayerUnavailable
from channels_layer_database.databases import new_wrapper
from channels_layer_database.postgresql.statements import PINS, SESSION

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["Link", "connect", "require_psycopg"]


_OWN_WAYS = (
    "SELECT set_config(v.name, v.value, false) FROM (VALUES "
    + ", ".join(f"('{name}', '{value}')" for name, value in SESSION.items())
    + ") AS v(name, value) WHERE current_setting(v.name, true) IS NOT NULL"
).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A connection, and whether it is one session from beginning to end."""

    pgconn: PGconn
    is_session: bool
    version: int


def require_psycopg() -> Any:
    """``psycopg.pq``. Raises :class:`~channels_core.exceptions.InvalidChannelLayerError` where it is not installed."""
    try:
        from psycopg import pq
    except ImportError as error:
        raise InvalidChannelLayerError(
            f"The layer 'database' speaks to PostgreSQL through psycopg 3, which cannot be imported ({error})."
            " Run: pip install 'channels-layer-database[postgresql]'."
        ) from error
    return pq


def conninfo_of(using: str) -> tuple[str, str | None]:
    """What libpq needs to connect to the alias as Django would, and the role that Django would assume there."""
    from psycopg.conninfo import make_conninfo

    pq = require_psycopg()
    wrapper: Any = new_wrapper(using)
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    found = {name: value for name, value in wrapper.get_connection_params().items() if name in known}
    found["client_encoding"] = "UTF8"
    found.setdefault("fallback_application_name", "channels")
    return make_conninfo("", **found), wrapper.settings_dict.get("OPTIONS", {}).get("assume_role")


def connect(using: str, *, is_session: bool | None, timeout: float) -> Link:
    """Connect, waiting at most ``timeout`` seconds. Call it in a thread that may wait.

    ``is_session`` says whether the connection is one session throughout; ``None`` finds out.

    Raises :class:`~channels_core.exceptions.LayerUnavailable`.
    """
    pq = require_psycopg()
    conninfo, role = conninfo_of(using)
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    try:
        _finish_connecting(pq, pgconn, monotonic() + timeout)
        if is_session is None:
            answer = _ask(pq, pgconn, b"SELECT pg_backend_pid()")
            is_session = int(answer or 0) == pgconn.backend_pid
        if is_session:
            pins = [f"SET {name} = {value}" for name, value in PINS.items()]
            role_first = ['SET ROLE "{}"'.format(role.replace('"', '""'))] if role else []
            _ask(pq, pgconn, "; ".join([*role_first, *pins, "SET synchronous_commit = off"]).encode())
            _ask(pq, pgconn, _OWN_WAYS)
        pgconn.nonblocking = 1
        pgconn.enter_pipeline_mode()
    except BaseException:
        pgconn.finish()
        raise
    return Link(pgconn=pgconn, is_session=is_session, version=pgconn.server_version)


def _finish_connecting(pq: Any, pgconn: PGconn, deadline: float) -> None:
    polling = pq.PollingStatus
    status = pgconn.status
    if status == pq.ConnStatus.BAD:
        raise LayerUnavailable(_complaint(pgconn))
    wants = polling.WRITING
    while True:
        left = deadline - monotonic()
        if left <= 0:
            raise LayerUnavailable("PostgreSQL did not let us connect in time.")
        sockets = [pgconn.socket]
        reading, writing = (sockets, []) if wants == polling.READING else ([], sockets)
        select.select(reading, writing, [], left)
        wants = pgconn.connect_poll()
        if wants == polling.OK:
            return
        if wants == polling.FAILED:
            raise LayerUnavailable(_complaint(pgconn))


def _complaint(pgconn: PGconn) -> str:
    return pgconn.get_error_message().strip() or "PostgreSQL refused the connection."


def _ask(pq: Any, pgconn: PGconn, query: bytes) -> bytes | None:
    result = pgconn.exec_(query)
    if result.status not in {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}:
        raise LayerUnavailable(result.get_error_message().strip())
    found: bytes | None = result.get_value(0, 0) if result.ntuples else None
    return found
