"""One connection as the operations see it, and what is gathered while one transaction runs on it.

The operations are written once, in SQL that SQLite, MariaDB and MySQL share; where they differ, a session's methods do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from channels_core.headers import CREDIT
from channels_layer_database.rows import UnreadableRow, unpack

if TYPE_CHECKING:
    from channels_layer_database.dbapi.layer import SerialLayer

__all__ = ["COLUMNS", "LEASE_COLUMNS", "NEVER", "Busy", "Session", "Taken", "Transaction", "marks"]

Row = tuple[Any, ...]

NEVER: Final = 9e15
"""When a message expires that was delivered before, on an at-least-once channel."""
COLUMNS: Final = "id, `key`, prefix, dest, ver, room, size, attempt, since, expires, body"
"""Of ``msg``, in the order of :class:`Taken`."""
LEASE_COLUMNS: Final = "id, `key`, holder, lease, attempt, size, since, body"


class Busy(Exception):
    """Somebody else has what the statement needs; nothing happened, and it may be tried again soon."""


class Taken:
    """Token of an at-most-once delivery: its row, which is deleted already, and whether it was put back."""

    __slots__ = ("is_spent", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.is_spent = False


def marks(count: int) -> str:
    """``?, ?, ?``"""
    return ", ".join("?" * count)


class Session:
    """One connection. Used by one thread at a time.

    Each method raises :class:`Busy` where the whole transaction should be tried again, and
    :class:`~channels_core.exceptions.LayerUnavailable` where the database is away.
    """

    insert_ignore: str
    """How an insert begins that leaves a row alone which is there."""
    for_update: str
    """How a select ends whose rows nobody else may change meanwhile."""

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """The rows that a statement gives."""
        raise NotImplementedError(f"{type(self).__name__} does not write rows().")

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """How many rows a statement changed."""
        raise NotImplementedError(f"{type(self).__name__} does not write run().")

    def many(self, sql: str, values: Sequence[Row]) -> None:
        """An ``INSERT ... VALUES`` for each of ``values``, in their order."""
        raise NotImplementedError(f"{type(self).__name__} does not write many().")

    def begin(self) -> None:
        """Begin a transaction that may write."""
        raise NotImplementedError(f"{type(self).__name__} does not write begin().")

    def commit(self) -> None:
        """End it. Raises ``SendUncertain`` where nobody can say whether it did."""
        raise NotImplementedError(f"{type(self).__name__} does not write commit().")

    def rollback(self) -> None:
        """Undo it. Never raises."""
        raise NotImplementedError(f"{type(self).__name__} does not write rollback().")

    def pop(self, table: str, columns: str, where: str, values: Sequence[Any], *, limit: int) -> list[Row]:
        """Delete at most ``limit`` rows, the first by id, that nobody else holds, and return them in that order.

        ``columns`` begin with the id. Never waits for another transaction.
        """
        raise NotImplementedError(f"{type(self).__name__} does not write pop().")

    def pop_these(
        self, table: str, columns: str, places: Sequence[tuple[str, int]], where: str, values: Sequence[Any]
    ) -> list[Row]:
        """Delete the rows with these keys and ids that are still there, that nobody else holds and that ``where`` is
        true of, all of them together, and return them. Never waits for another transaction."""
        raise NotImplementedError(f"{type(self).__name__} does not write pop_these().")

    def first_ids(self, table: str, key: str, count: int) -> int:
        """The lowest of ``count`` unused ids in a row that come before all of the key's."""
        raise NotImplementedError(f"{type(self).__name__} does not write first_ids().")


class Transaction:
    """What one transaction has done so far, beside the tables: kept until it has committed, or forgotten with it."""

    __slots__ = ("counts", "depths", "expired", "layer", "now", "rings", "scrub", "session", "spent")

    def __init__(self, layer: SerialLayer, session: Session, now: float) -> None:
        self.layer = layer
        self.session = session
        self.now = now
        self.counts: dict[str, int] = {}
        self.rings: dict[str, int] = {}
        self.expired: list[Mapping[str, str | int]] = []
        self.spent: list[Taken] = []
        self.scrub: list[str] = []
        """Processes that ended here, whose rows are to be deleted bit by bit."""
        self.depths: dict[tuple[str, str | None], list[int]] = {}

    def horizon(self) -> float:
        """Whose lease ends later, has not ended. That is now; but where nobody has renewed a lease for so long that
        everything must have stood still, it is when somebody last did."""
        lease = self.layer.process_lease
        [(newest,)] = self.session.rows(f"SELECT max(lease) FROM {self.layer.prefix}proc")
        renewed: float = self.now if newest is None else newest - lease
        return renewed if self.now - renewed > lease / 2 else self.now

    def count(self, counter: str, number: int = 1) -> None:
        """Add to one of the layer's counters."""
        self.counts[counter] = self.counts.get(counter, 0) + number

    def ring(self, key: str, number: int = 1) -> None:
        """Wake readers of ``key`` once this has committed."""
        self.rings[key] = self.rings.get(key, 0) + number

    def expire(self, bodies: Sequence[bytes]) -> None:
        """These messages expired unread."""
        self.count("expired", len(bodies))
        if self.layer.on_expired is not None:
            for body in bodies:
                try:
                    headers = unpack(body)[1]
                except UnreadableRow:
                    continue
                if CREDIT in headers:
                    self.expired.append(headers)
