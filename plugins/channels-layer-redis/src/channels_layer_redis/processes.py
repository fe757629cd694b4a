"""Processes: their leases, and what is done when one ends or the server has lost what it knew."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final, cast

import msgspec

from channels_core.layers import ProcessInfo, ProcessKind
from channels_core.names import new_id
from channels_layer_redis.channels import Plan, Queue
from channels_layer_redis.engine import Engine, Steps, sure
from channels_layer_redis.groups import Groups
from channels_layer_redis.inbox import Inbox
from channels_layer_redis.scripts import FORGET, PROCESS, REGISTRY
from channels_layer_redis.transport import CommandError, Routed, TransportError

__all__ = ["Processes"]

logger: Final = logging.getLogger("channels.redis")

_KINDS: Final = frozenset({"interface", "worker", "other"})
_DAY_MS: Final = 86_400_000
_AT_ONCE: Final = 200


@dataclass(slots=True)
class _Mine:
    """A process that was opened here."""

    kind: ProcessKind
    label: str
    opened: int
    epoch: int
    held: set[str]
    forgotten: dict[tuple[str, str], None]
    """Memberships (group, channel) that the server has still to be told of anew."""


class Processes:
    """The processes of the layer, and the inboxes of those opened here."""

    def __init__(self, engine: Engine, groups: Groups) -> None:
        self._engine = engine
        self._groups = groups
        self._lease_ms = int(engine.options.process_lease * 1000)
        self._mine: dict[str, _Mine] = {}
        self._inboxes: dict[str, Inbox] = {}
        self._look_every = min(1.0, engine.options.process_lease / 9)
        self._look_at = 0.0

    def forget(self) -> None:
        """In a forked child: the parent's processes are not ours."""
        self._mine.clear()
        self._inboxes.clear()

    def inbox(self, process: str) -> Inbox:
        """The inbox of ``process``, to be read from here."""
        found = self._inboxes.get(process)
        return self._inboxes.setdefault(process, Inbox(self._engine, process)) if found is None else found

    def known_inbox(self, process: str) -> Inbox | None:
        """The inbox of ``process`` if it was ever read from here."""
        return self._inboxes.get(process)

    def has_debts(self) -> bool:
        return any(inbox.has_debts for inbox in tuple(self._inboxes.values()))

    def pay_debts(self, plan: Plan) -> None:
        """Add the removal of what inboxes handed out, where nobody is reading."""
        for inbox in tuple(self._inboxes.values()):
            if inbox.has_debts and inbox.lock.acquire(blocking=False):
                try:
                    inbox.acknowledge(plan)
                finally:
                    inbox.lock.release()

    def _keys(self, process: str) -> list[str]:
        return [self._engine.keys.of_process(letter, process) for letter in "pixehu"]

    def _epoch(self, process: str) -> int:
        return self._engine.transport.epoch_of(self._engine.keys.of_process("p", process))

    # Leases.

    def open(self, kind: ProcessKind, label: str) -> Steps[str]:
        """See :meth:`channels_core.layers.LayerBackend.open_process`."""
        process = new_id()
        label = label or f"{socket.gethostname()}:{os.getpid()}"
        now = yield from self._open(process, kind, label, "")
        self._mine[process] = _Mine(kind, label, now, self._epoch(process), set(), {})
        inbox = self.inbox(process)
        inbox.is_whole = True
        return process

    def _open(self, process: str, kind: str, label: str, opened: str) -> Steps[int]:
        replies = yield [
            PROCESS.call(self._keys(process), ["open", self._lease_ms, kind, label, opened]),
            REGISTRY.call([self._engine.keys.registry], ["keep", process, self._lease_ms]),
        ]
        now: int = sure(replies[0])
        sure(replies[1])
        self._engine.hear_time(now)
        return now

    def renew(self, process: str, load: float, counters: Mapping[str, int] | None) -> Steps[bool]:
        """See :meth:`channels_core.layers.LayerBackend.renew_process`.

        Where the server lost the lease in an outage, it is not the process's fault: it takes it anew, with all its
        memberships. But where others have taken the process for dead, they have dropped what was sent to it.
        """
        figures = msgspec.json.encode(dict(counters or {}))
        replies = yield [
            PROCESS.call(self._keys(process), ["renew", self._lease_ms, repr(float(load)), figures])
        ]
        now = sure(replies[0])
        mine = self._mine.get(process)
        if now > 0:
            self._engine.hear_time(now)
        else:
            if now < 0 or mine is None or mine.epoch == self._epoch(process):
                self._mine.pop(process, None)
                self._inboxes.pop(process, None)
                return False
            yield from self._resurrect(process, mine)
        if mine is not None:
            yield from self._tell_memberships(mine)
            mine.epoch = self._epoch(process)
        [reply] = yield [REGISTRY.call([self._engine.keys.registry], ["keep", process, self._lease_ms])]
        sure(reply)
        yield from self.end_lapsed()
        return True

    def _resurrect(self, process: str, mine: _Mine) -> Steps[None]:
        mine.forgotten |= dict.fromkeys(self.inbox(process).memberships())
        logger.warning(
            "The server has forgotten the process %s (%s) in an outage; it is registered anew, with %d memberships.",
            process,
            mine.label,
            len(mine.forgotten),
        )
        yield from self._open(process, mine.kind, mine.label, str(mine.opened))
        mine.held.clear()

    def _tell_memberships(self, mine: _Mine) -> Steps[None]:
        """Tell the server what it has forgotten; where that breaks off, the rest is told the next time."""
        while mine.forgotten:
            some = list(mine.forgotten)[:_AT_ONCE]
            yield from self._groups.add_all(some)
            for membership in some:
                mine.forgotten.pop(membership, None)

    def recover(self, process: str, inbox: Inbox) -> Steps[None]:
        """After an outage: see whether the server still knows the process and its inbox."""
        epoch = self._epoch(process)
        dead = self._engine.keys.of_process("u", process)
        alive, ended, stream = yield [
            ("EXISTS", inbox.process_key),
            ("EXISTS", dead),
            ("XINFO", "STREAM", inbox.key),
        ]
        mine = self._mine.get(process)
        is_alive = sure(alive)
        if sure(ended):  # the next renewal says so
            mine = None
        if mine is not None:
            if not is_alive:
                yield from self._resurrect(process, mine)
            yield from self._tell_memberships(mine)
        newest = b"0-0"
        if not isinstance(stream, CommandError):  # there is none, it says
            found = sure(stream)
            newest = found[found.index(b"last-generated-id") + 1]
        if inbox.rewind(newest) and is_alive:
            inbox.is_whole = False  # what changed memberships may be among what was lost
        inbox.epoch = epoch

    def hold(self, process: str, queues: Iterable[Queue]) -> Steps[None]:
        """Note, once, that ``process`` may hold leases on ``queues``: where to look when it ends."""
        mine = self._mine.get(process)
        if mine is None:
            mine = self._mine[process] = _Mine("other", "", 0, self._epoch(process), set(), {})
        new = [queue.name for queue in queues if queue.name not in mine.held]
        if new:
            key = self._engine.keys.of_process("h", process)
            replies = yield [("SADD", key, *new), ("PEXPIRE", key, _DAY_MS)]
            # a server whose memory is full refuses it; what is leased then comes back when the lease runs out
            if not isinstance(replies[0], CommandError):
                sure(replies[0])
                mine.held.update(new)

    # Ends.

    def look_after(self) -> Steps[None] | None:
        """What there is to do for the processes of others, at most once in a while."""
        now = monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + self._look_every
        return self._look()

    def _look(self) -> Steps[None]:
        try:
            yield from self.end_lapsed()
        except TransportError:
            self._look_at = monotonic() + self._lease_ms / 1000
            if not self._engine.is_sharded:  # else it is another server's trouble, not that of who reads
                raise

    def end_lapsed(self) -> Steps[None]:
        """End the processes whose lease ran out."""
        for process in (yield from self._ask_registry("lapsed")):
            yield from self._end(process, is_lapsed=True)

    def _ask_registry(self, verb: str) -> Steps[list[str]]:
        [reply] = yield [REGISTRY.call([self._engine.keys.registry], [verb, "", self._lease_ms])]
        return [raw.decode() for raw in sure(reply)]

    def close(self, process: str) -> Steps[None]:
        """See :meth:`channels_core.layers.LayerBackend.close_process`."""
        self._mine.pop(process, None)
        self._inboxes.pop(process, None)
        yield from self._end(process, is_lapsed=False)

    def _end(self, process: str, *, is_lapsed: bool) -> Steps[None]:
        engine, keys = self._engine, self._engine.keys
        own = self._keys(process)
        [reply] = yield [PROCESS.call(own, ["end", self._lease_ms, "lapsed" if is_lapsed else ""])]
        if sure(reply) == 0:  # renewed on its own server, and not yet in the registry
            return
        memberships, held, waiting = reply
        engine.counters.gone += waiting
        locals_of: dict[tuple[str, str], list[bytes]] = {}
        for line in memberships:
            channel, _, group = line.partition(b" ")
            cut = channel.index(b"!") + 1
            locals_of.setdefault((group.decode(), channel[:cut].decode()), []).append(channel[cut:])
        commands = []
        for (group, prefix), locals_ in locals_of.items():
            places = [
                keys.of_group("r", group),
                keys.of_group("v", group),
                keys.of_group("m", group, prefix),
            ]
            if not engine.is_sharded:
                places.append(own[0])
            for start in range(0, len(locals_), 1000):
                commands.append(FORGET.call(places, [prefix, *locals_[start : start + 1000]]))
        for start in range(0, len(commands), 100):
            for reply in (yield commands[start : start + 100]):
                sure(reply)
        for name in held:
            queue = engine.channels.queue(name.decode())
            plan = Plan(engine.head)
            plan.step("P", plan.key(queue.key), process, queue.leased_flag)
            [reply] = yield [plan.command()]
            engine.hear(plan, reply)
        replies = yield [
            PROCESS.call(own, ["forget", self._lease_ms]),
            REGISTRY.call([keys.registry], ["drop", process, 0]),
        ]
        for reply in replies:
            sure(reply)

    # Asking.

    def processes(self) -> Steps[list[ProcessInfo]]:
        """See :meth:`channels_core.layers.LayerBackend.processes`."""
        registry = self._engine.keys.registry
        replies = yield [
            REGISTRY.call([registry], ["living", "", self._lease_ms]),
            Routed(("TIME",), registry),
        ]
        ids = [raw.decode() for raw in sure(replies[0])]
        seconds, microseconds = sure(replies[1])
        now = int(seconds) + int(microseconds) / 1e6
        if not ids:
            return []
        fields = ("k", "l", "o", "w", "s")
        replies = yield [("HMGET", self._engine.keys.of_process("p", process), *fields) for process in ids]
        found = []
        for process, reply in zip(ids, replies, strict=True):
            kind, label, opened, load, counters = sure(reply)
            if kind is not None:
                name = kind.decode()
                found.append(
                    ProcessInfo(
                        id=process,
                        kind=cast(ProcessKind, name if name in _KINDS else "other"),
                        age=max(0.0, now - int(opened) / 1000),
                        load=float(load or 0),
                        label=label.decode(errors="replace"),
                        counters=_figures(counters),
                    )
                )
        return sorted(found, key=lambda process: -process.age)


def _figures(packed: bytes | None) -> dict[str, int]:
    if not packed:
        return {}
    try:
        return msgspec.json.decode(packed, type=dict[str, int])
    except msgspec.DecodeError:
        return {}
