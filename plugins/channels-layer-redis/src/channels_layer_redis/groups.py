"""Memberships: what is true is kept with the group, and each process has a copy of what concerns its own channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from channels_core.names import prefix_of, process_of
from channels_layer_redis.channels import Queue
from channels_layer_redis.engine import Engine, Steps, sure
from channels_layer_redis.scripts import CLOSE_CHANNEL, GUEST, MEMBER, MEMBERS, REGISTRY
from channels_layer_redis.transport import Command
from channels_layer_redis.transport.scripts import Argument

__all__ = ["Groups"]

_GUEST_GRACE = 60_000


class Groups:
    """The operations on groups."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lapse = int(engine.options.group_expiry * 1000)

    def add(self, group: str, channel: str) -> Steps[None]:
        """See :meth:`channels_core.layers.LayerBackend.group_add`."""
        yield from self._change("+", group, channel)

    def discard(self, group: str, channel: str) -> Steps[None]:
        """See :meth:`channels_core.layers.LayerBackend.group_discard`."""
        yield from self._change("-", group, channel)

    def _change(self, verb: str, group: str, channel: str) -> Steps[None]:
        process = process_of(channel) if "!" in channel else None
        if process is None:
            yield from self._change_guest(verb, group, channel)
            return
        if not self._engine.is_sharded:
            [reply] = yield [self._change_command(verb, group, channel)]
            sure(reply)
            return
        of_process, of_group, words = self._sides(verb, group, channel)
        words[1] = "G"
        [reply] = yield [MEMBER.call(of_group, words)]
        changed = sure(reply)
        if changed == 0:
            return
        words[1] = "P"
        words[6:] = changed
        [reply] = yield [MEMBER.call(of_process, words)]
        if sure(reply) == 0 and verb == "+":
            words[0], words[1] = "-", "G"
            [reply] = yield [MEMBER.call(of_group, words)]
            sure(reply)

    def add_all(self, memberships: Sequence[tuple[str, str]]) -> Steps[None]:
        """Many ``(group, channel)`` of one process at once, in one go where there is one server."""
        if self._engine.is_sharded:
            for group, channel in memberships:
                yield from self.add(group, channel)
            return
        for reply in (yield [self._change_command("+", *membership) for membership in memberships]):
            sure(reply)

    def _change_command(self, verb: str, group: str, channel: str) -> Command:
        """A change of what a process owns, both of its sides on one server."""
        of_process, of_group, words = self._sides(verb, group, channel)
        return MEMBER.call([*of_process, *of_group], words)

    def _sides(self, verb: str, group: str, channel: str) -> tuple[list[str], list[str], list[Argument]]:
        """The process's keys, the group's keys, and what is to be said to both."""
        keys = self._engine.keys
        prefix = prefix_of(channel)
        process = process_of(channel) or ""
        explicit = self._engine.options.explicit_capacity_of(prefix)
        own = "" if explicit is None else explicit
        of_process = [keys.of_process(letter, process) for letter in "pexi"]
        of_group = [
            keys.of_group("r", group),
            keys.of_group("m", group, prefix),
            keys.of_group("v", group),
        ]
        return of_process, of_group, [verb, "GP", prefix, channel[len(prefix) :], group, own, 0, 0]

    def _change_guest(self, verb: str, group: str, channel: str) -> Steps[None]:
        keys = self._engine.keys
        queue = self._engine.channels.of(channel)
        assert type(queue) is Queue
        how = f"{queue.capacity} {queue.leased_flag} {queue.max_bytes} {queue.ttl} {queue.key}"
        arguments: list[Argument] = [verb, channel, how, self._lapse + _GUEST_GRACE]
        [reply] = yield [GUEST.call([keys.of_group("o", group), keys.of_group("k", group)], arguments)]
        sure(reply)

    def close_channel(self, channel: str) -> Steps[None]:
        """See :meth:`channels_core.layers.LayerBackend.close_channel`."""
        process = process_of(channel)
        if process is None:
            return
        keys = self._engine.keys
        [reply] = yield [
            CLOSE_CHANNEL.call([keys.of_process(letter, process) for letter in "pex"], [channel])
        ]
        for group in sure(reply):
            yield from self._change("-", group.decode(), channel)

    # Asking.

    def _members(self, names: list[str], what: str) -> Steps[list[Any]]:
        keys = self._engine.keys
        replies = yield [
            MEMBERS.call(
                [keys.of_group("r", name), keys.of_group("o", name)], [keys.prefix, self._lapse, what]
            )
            for name in names
        ]
        return [sure(reply) for reply in replies]

    def channels(self, group: str) -> Steps[list[str]]:
        """See :meth:`channels_core.layers.LayerBackend.group_channels`."""
        [(owned, others)] = yield from self._members([group], "names")
        alive = yield from self._alive({raw.decode() for raw, _ in owned})
        names = [raw.decode() for raw in others]
        for raw, locals_ in owned:
            prefix = raw.decode()
            if prefix in alive:
                names += [prefix + local.decode() for local in locals_]
        return names

    def count(self, group: str) -> Steps[int]:
        """See :meth:`channels_core.layers.LayerBackend.group_count`."""
        found = yield from self._count([group])
        return found[group]

    def _count(self, groups: list[str]) -> Steps[dict[str, int]]:
        members = yield from self._members(groups, "places")
        alive = yield from self._alive({raw.decode() for owned, _ in members for raw, _ in owned})
        return {
            group: len(others) + sum(number for raw, number in owned if raw.decode() in alive)
            for group, (owned, others) in zip(groups, members, strict=True)
        }

    def _alive(self, prefixes: set[str]) -> Steps[set[str]]:
        if not prefixes:
            return set()
        lease = int(self._engine.options.process_lease * 1000)
        [reply] = yield [REGISTRY.call([self._engine.keys.registry], ["living", "", lease])]
        living = {raw.decode() for raw in sure(reply)}
        return {name for name in prefixes if process_of(name) in living}

    def groups(self, found: list[str]) -> Steps[dict[str, int]]:
        """How many members each of the groups ``found`` has; those without are left out."""
        counts: dict[str, int] = {}
        for start in range(0, len(found), 100):
            counts |= yield from self._count(found[start : start + 100])
        return {name: number for name, number in sorted(counts.items()) if number}
