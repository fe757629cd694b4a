"""What nobody will read any more: messages that expired unread, streams out of use, memberships of dead processes.

All of it is harmless but for its memory. A channel that workers serve keeps its streams; those of a name that was used
for a while, or of dead letters that were dropped, stay until somebody cleans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from channels_core.names import process_of
from channels_layer_redis.channels import Plan, Queue
from channels_layer_redis.engine import Engine, Pause, Steps, sure
from channels_layer_redis.processes import Processes
from channels_layer_redis.scripts import CLEAN, FORGET
from channels_layer_redis.transport import Routed

__all__ = ["Cleaning"]

_UNUSED: Final = 60.0
"""Seconds, or ``expiry`` where that is longer. Who reads a channel comes by every few seconds."""
_AT_ONCE: Final = 100
_PAUSE: Final = 0.005
_WITH_MESSAGES: Final = frozenset("cft")


class Cleaning:
    """Walks over all keys of the layer, a few at a time."""

    def __init__(self, engine: Engine, processes: Processes) -> None:
        self._engine = engine
        self._processes = processes
        self._unused_ms = int(max(engine.options.expiry, _UNUSED) * 1000)

    def clean(self, limit: int | None) -> Steps[int]:
        """See :meth:`channels_core.layers.LayerBackend.clean`."""
        yield from self._processes.end_lapsed()
        gone = 0
        pattern = self._engine.keys.pattern("[cftqr]")
        for place in self._engine.transport.servers_keys():
            cursor: Any = b"0"
            while limit is None or gone < limit:
                [reply] = yield [Routed(("SCAN", cursor, "MATCH", pattern, "COUNT", _AT_ONCE), place)]
                cursor, keys = sure(reply)
                gone += yield from self._clean_some(keys)
                if cursor == b"0":
                    break
                if keys:
                    yield Pause(_PAUSE)
        return gone

    def _clean_some(self, keys: Sequence[bytes]) -> Steps[int]:
        letters: dict[Queue, set[str]] = {}
        groups: set[str] = set()
        skip = len(self._engine.keys.prefix) + 1
        for key in keys:
            letter, name = chr(key[skip]), self._engine.keys.name_in(key)
            address = self._engine.channels.of(name)
            if letter == "r":
                groups.add(name)
            elif type(address) is Queue:  # else nobody of ours wrote it
                letters.setdefault(address, set()).add(letter)
        gone = yield from self._expire([queue for queue in letters if letters[queue] & _WITH_MESSAGES])
        gone += yield from self._drop_streams(list(letters))
        for group in groups:
            gone += yield from self._forget_the_dead(group)
        return gone

    def _expire(self, queues: Sequence[Queue]) -> Steps[int]:
        """Who is asked for figures drops what expired first."""
        if not queues:
            return 0
        engine = self._engine
        expired = engine.counters.expired
        plans = []
        for queue in queues:
            plan = Plan(engine.head)
            plan.step("N", plan.key(queue.key), queue.leased_flag)
            plans.append(plan)
        replies = yield [plan.command() for plan in plans]
        for plan, reply in zip(plans, replies, strict=True):
            engine.hear(plan, reply)
        return engine.counters.expired - expired

    def _drop_streams(self, queues: Sequence[Queue]) -> Steps[int]:
        if not queues:
            return 0
        keys = self._engine.keys
        commands = [
            CLEAN.call([keys.of_channel(letter, queue.name) for letter in "ctqf"], [self._unused_ms])
            for queue in queues
        ]
        replies = yield commands
        return sum(sure(reply) for reply in replies)

    def _forget_the_dead(self, group: str) -> Steps[int]:
        """Memberships of processes that ended while nobody was there to end them."""
        keys = self._engine.keys
        place = keys.of_group("r", group)
        [reply] = yield [("ZRANGE", place, 0, -1)]
        prefixes = [raw.decode() for raw in sure(reply)]
        owners = [keys.of_process("p", process_of(prefix) or "") for prefix in prefixes]
        replies = (yield [("EXISTS", owner) for owner in owners]) if owners else []
        dead = [
            (prefix, owner)
            for prefix, owner, reply in zip(prefixes, owners, replies, strict=True)
            if not sure(reply)
        ]
        gone = 0
        for prefix, owner in dead:
            places = [place, keys.of_group("v", group), keys.of_group("m", group, prefix)]
            if not self._engine.is_sharded:
                places.append(owner)
            [reply] = yield [FORGET.call(places, [prefix])]
            gone += sure(reply)
        return gone
