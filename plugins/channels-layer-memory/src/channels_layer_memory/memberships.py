"""Which channels are in which groups, in the shape that a broadcast needs: by prefix."""

from __future__ import annotations

from collections.abc import Iterator

from channels_core.names import process_of

__all__ = ["Group", "Locals", "Memberships"]

ENDED_CHANNELS = 65_536


class Locals:
    """The members of one group under one prefix, or all its members that are plain channels (prefix "")."""

    __slots__ = ("_snapshot", "added", "is_lasting")

    def __init__(self, *, is_lasting: bool) -> None:
        self.added: dict[str, float] = {}
        """Member to the time it was added, oldest first."""
        self.is_lasting = is_lasting
        """Memberships do not lapse: they end with the process that owns the prefix."""
        self._snapshot: tuple[str, ...] | None = None

    def add(self, member: str, now: float) -> None:
        if member in self.added:
            del self.added[member]
        else:
            self._snapshot = None
        self.added[member] = now

    def discard(self, member: str) -> None:
        if self.added.pop(member, None) is not None:
            self._snapshot = None

    def lapsed(self, horizon: float) -> list[str]:
        """Those added before ``horizon``."""
        if self.is_lasting:
            return []
        found = []
        for member, added in self.added.items():
            if added >= horizon:
                break
            found.append(member)
        return found

    def snapshot(self) -> tuple[str, ...]:
        """All members; the same object until one comes or goes, so a broadcast costs no time per member."""
        if self._snapshot is None:
            self._snapshot = tuple(self.added)
        return self._snapshot


Group = dict[str, Locals]
"""Prefix, up to and including ``!``, to the members under it; ``""`` to the members without a prefix."""


class Memberships:
    """All groups of a layer. Guarded by the layer's lock."""

    def __init__(self, expiry: float) -> None:
        self._expiry = expiry
        self._groups: dict[str, Group] = {}
        self._groups_of: dict[str, set[str]] = {}
        """Full channel name to the groups it is in."""
        self._ended: dict[str, None] = {}

    def add(self, group: str, channel: str, now: float, *, is_lasting: bool) -> None:
        if channel in self._ended:
            return
        prefix, member = _split(channel)
        members = self._groups.setdefault(group, {}).get(prefix)
        if members is None:
            members = self._groups[group][prefix] = Locals(is_lasting=is_lasting)
        members.add(member, now)
        self._groups_of.setdefault(channel, set()).add(group)

    def discard(self, group: str, channel: str) -> None:
        groups = self._groups_of.get(channel)
        if groups is None or group not in groups:
            return
        groups.remove(group)
        if not groups:
            del self._groups_of[channel]
        prefix, member = _split(channel)
        members = self._groups[group][prefix]
        members.discard(member)
        if not members.added:
            del self._groups[group][prefix]
            if not self._groups[group]:
                del self._groups[group]

    def end(self, channel: str) -> None:
        """The channel is closed: later adds for it do nothing, as long as it is among the last that ended."""
        for group in tuple(self._groups_of.get(channel, ())):
            self.discard(group, channel)
        if len(self._ended) >= ENDED_CHANNELS and channel not in self._ended:
            del self._ended[next(iter(self._ended))]
        self._ended[channel] = None

    def end_process(self, process: str) -> None:
        """End the memberships of all channels that ``process`` owned."""
        for name, group in tuple(self._groups.items()):
            for prefix in tuple(group):
                if process_of(prefix) == process:
                    for member in tuple(group[prefix].added):
                        self.discard(name, prefix + member)

    def members(self, group: str, now: float) -> Group:
        """The members of ``group`` whose time has not run out; not to be changed."""
        found = self._groups.get(group)
        if found is None:
            return {}
        for prefix, members in tuple(found.items()):
            for member in members.lapsed(now - self._expiry):
                self.discard(group, prefix + member)
        return found

    def clear(self) -> None:
        """End all memberships; channels that ended stay so."""
        self._groups.clear()
        self._groups_of.clear()

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._groups))


def _split(channel: str) -> tuple[str, str]:
    mark = channel.find("!") + 1
    return channel[:mark], channel[mark:]
