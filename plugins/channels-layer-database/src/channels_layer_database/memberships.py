"""The members of a process's own sockets, kept in that process, so that a broadcast is one row for each process.

The tables hold the truth; rows ``+group local`` and ``-group local`` in the process's inbox, written in the
transaction that changes a membership, keep this copy up to date in the order of the inbox.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["LocalMembers"]


class LocalMembers:
    """Who of one process is in which group, by prefix. Used by one reader of the inbox at a time."""

    __slots__ = ("_groups", "_members", "_tuples", "is_current")

    def __init__(self, *, is_current: bool = False) -> None:
        self._members: dict[tuple[str, str], dict[str, None]] = {}
        self._groups: dict[tuple[str, str], set[str]] = {}
        self._tuples: dict[tuple[str, str], tuple[str, ...]] = {}
        self.is_current = is_current
        """Whether every change so far has been seen, or will be; otherwise :meth:`load` from the tables."""

    def load(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Start anew from ``(group, prefix, local)`` of each member in the tables."""
        self._members.clear()
        self._groups.clear()
        self._tuples.clear()
        for group, prefix, local in rows:
            self.add(group, prefix, local)
        self.is_current = True

    def add(self, group: str, prefix: str, local: str) -> None:
        """A membership began."""
        members = self._members.setdefault((group, prefix), {})
        if local not in members:
            members[local] = None
            self._groups.setdefault((prefix, local), set()).add(group)
            self._tuples.pop((group, prefix), None)

    def discard(self, group: str, prefix: str, local: str) -> None:
        """A membership ended, if there was one."""
        members = self._members.get((group, prefix))
        if members is None or local not in members:
            return
        del members[local]
        self._tuples.pop((group, prefix), None)
        if not members:
            del self._members[group, prefix]
        groups = self._groups[prefix, local]
        groups.discard(group)
        if not groups:
            del self._groups[prefix, local]

    def close(self, prefix: str, local: str) -> None:
        """A channel ended: it is in no group any more."""
        for group in tuple(self._groups.get((prefix, local), ())):
            self.discard(group, prefix, local)

    def of(self, group: str, prefix: str) -> tuple[str, ...]:
        """The local parts of the group's members; kept until one comes or goes."""
        key = group, prefix
        found = self._tuples.get(key)
        if found is None:
            found = self._tuples[key] = tuple(self._members.get(key, ()))
        return found
