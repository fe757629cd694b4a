"""The members of a process's own sockets, kept in that process, so that a broadcast is one row for each process.

The tables hold the truth; rows ``+group local`` and ``-group local`` in the process's inbox, written in the
transaction that changes a membership, keep this copy up to date in the order of the inbox.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["LocalMembers"]


class LocalMembers:
    """Who of one process is in which group, by prefix. Used by one reader of the inbox at a time."""

    __slots__ = ("_members", "_tuples")

    def __init__(self) -> None:
        self._members: dict[tuple[str, str], dict[str, None]] = {}
        self._tuples: dict[tuple[str, str], tuple[str, ...]] = {}

    def load(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Start anew from ``(group, prefix, local)`` of each member in the tables."""
        self._members.clear()
        self._tuples.clear()
        for group, prefix, local in rows:
            self._members.setdefault((group, prefix), {})[local] = None

    def add(self, group: str, prefix: str, local: str) -> None:
        """A membership began."""
        members = self._members.setdefault((group, prefix), {})
        if local not in members:
            members[local] = None
            self._tuples.pop((group, prefix), None)

    def discard(self, group: str, prefix: str, local: str) -> None:
        """A membership ended, if there was one."""
        members = self._members.get((group, prefix))
        if members is not None and local in members:
            del members[local]
            self._tuples.pop((group, prefix), None)
            if not members:
                del self._members[group, prefix]

    def close(self, prefix: str, local: str) -> None:
        """A channel ended: it is in no group any more."""
        for group, of in [
            key for key, members in self._members.items() if key[1] == prefix and local in members
        ]:
            self.discard(group, of, local)

    def of(self, group: str, prefix: str) -> tuple[str, ...]:
        """The local parts of the group's members; kept until one comes or goes."""
        key = group, prefix
        found = self._tuples.get(key)
        if found is None:
            found = self._tuples[key] = tuple(self._members.get(key, ()))
        return found
