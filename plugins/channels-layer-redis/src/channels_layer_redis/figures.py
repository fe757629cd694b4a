"""What people ask for: figures, dead letters, and the emptying of a layer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from channels_core.layers import ChannelFigures, DeadLetter
from channels_core.names import prefix_of
from channels_layer_redis.channels import Inlet, Plan, Queue
from channels_layer_redis.encryption import Unreadable
from channels_layer_redis.engine import Engine, Steps, sure
from channels_layer_redis.envelope import of_group
from channels_layer_redis.processes import Processes
from channels_layer_redis.scripts import PROCESS
from channels_layer_redis.transport import Routed

__all__ = ["Figures"]

_SCANNED: Final = 500
_EMPTIED: Final = "cftnbqdxemrokv"
"""Kinds of keys that flush deletes. Leases and inboxes of live processes are emptied, and stay."""


class Figures:
    """Looks at everything there is; slow on a large server, and beside traffic."""

    def __init__(self, engine: Engine, processes: Processes) -> None:
        self._engine = engine
        self._processes = processes

    def scan(self, letter: str) -> Steps[list[bytes]]:
        """Every key of one kind, of all servers."""
        found: dict[bytes, None] = {}
        pattern = self._engine.keys.pattern(letter)
        for place in self._engine.transport.servers_keys():
            cursor: Any = b"0"
            while True:
                command = Routed(("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED), place)
                [reply] = yield [command]
                cursor, keys = sure(reply)
                found.update(dict.fromkeys(keys))
                if cursor == b"0":
                    break
        return list(found)

    def names(self, *letters: str) -> Steps[list[str]]:
        """The channels, processes or groups that have keys of these kinds."""
        found: set[str] = set()
        for letter in letters:
            keys = yield from self.scan(letter)
            found.update(self._engine.keys.name_in(key) for key in keys)
        return sorted(found)

    # Statistics.

    def statistics(self, channels: Iterable[str] | None) -> Steps[list[ChannelFigures]]:
        """See :meth:`channels_core.layers.LayerBackend.statistics`."""
        engine = self._engine
        yield from engine.pay_debts()
        found: dict[str, ChannelFigures] = {}
        if channels is None:
            names = yield from self.names("c", "f", "t")
            for process in (yield from self._inbox_owners()):
                found.update((yield from self._of_inbox(process)))
        else:
            names = []
            for name in {prefix_of(channel) for channel in channels}:
                address = engine.channels.of(name)
                if type(address) is Inlet:
                    of_process = yield from self._of_inbox(address.process)
                    found[name] = of_process.get(name) or _nothing(name)
                else:
                    names.append(name)
        for name in names:
            found[name] = yield from self._of_queue(engine.channels.queue(name))
        return [
            figures
            for _, figures in sorted(found.items())
            if channels is not None or figures.pending or figures.leased
        ]

    def _of_queue(self, queue: Queue) -> Steps[ChannelFigures]:
        plan = Plan(self._engine.head)
        plan.step("N", plan.key(queue.key), queue.leased_flag)
        [reply] = yield [plan.command()]
        pending, leased, oldest = self._engine.hear(plan, reply)
        return ChannelFigures(channel=queue.name, pending=pending, leased=leased, oldest_age=oldest / 1000)

    def _inbox_owners(self) -> Steps[list[str]]:
        keys = yield from self.scan("i")
        return [key.decode().partition("{")[2].rstrip("}") for key in keys]

    def _of_inbox(self, process: str) -> Steps[dict[str, ChannelFigures]]:
        engine = self._engine
        key = engine.keys.of_process("i", process)
        replies = yield [("XRANGE", key, "-", "+"), Routed(("TIME",), key)]
        seconds, microseconds = sure(replies[1])
        now = int(seconds) + int(microseconds) / 1e6
        waiting: dict[str, list[float]] = {}
        for entry_id, fields in sure(replies[0]):
            if fields[0] in (b"=", b"*"):
                since = int(entry_id.partition(b"-")[0]) / 1000
                if now - since < engine.options.expiry:
                    prefix = prefix_of(fields[1].decode().partition(":")[0])
                    waiting.setdefault(prefix, []).append(since)
        inbox = self._processes.known_inbox(process)
        for entry in () if inbox is None else inbox.returned():
            waiting.setdefault(entry.prefix, []).append(entry.since)
        return {
            prefix: ChannelFigures(
                channel=prefix, pending=len(times), leased=0, oldest_age=max(0.0, now - min(times))
            )
            for prefix, times in waiting.items()
        }

    # Emptying.

    def flush(self) -> Steps[None]:
        """See :meth:`channels_core.layers.LayerBackend.flush`."""
        self._engine.leftovers.clear()
        keys = self._engine.keys
        owners = set((yield from self._inbox_owners()))
        owners |= {key.decode().partition("{")[2].rstrip("}") for key in (yield from self.scan("p"))}
        for process in sorted(owners):
            inbox = self._processes.known_inbox(process)
            if inbox is not None:
                inbox.empty()
            places = [keys.of_process(letter, process) for letter in "pixeh"]
            [reply] = yield [PROCESS.call(places, ["reset", 0])]
            sure(reply)
        for letter in _EMPTIED:
            found = yield from self.scan(letter)
            for start in range(0, len(found), _SCANNED):
                for reply in (yield [("UNLINK", key) for key in found[start : start + _SCANNED]]):
                    sure(reply)

    # Dead letters.

    def dead_letters(self, channel: str | None, limit: int) -> Steps[list[DeadLetter]]:
        """See :meth:`channels_core.layers.LayerBackend.dead_letters`."""
        keys = self._engine.keys
        if channel is None:
            names = yield from self.names("q")
        else:
            names = [channel]
        found: list[tuple[int, DeadLetter]] = []
        for name in names:
            replies = yield [("XRANGE", keys.of_channel("q", name), "-", "+", "COUNT", limit)]
            for entry_id, fields in sure(replies[0]):
                found.append(self._letter(name, entry_id, _fields(fields)))
        found.sort(key=lambda one: one[0])
        return [letter for _, letter in found[:limit]]

    def _letter(self, channel: str, entry_id: bytes, fields: dict[bytes, bytes]) -> tuple[int, DeadLetter]:
        try:
            at = int(fields.get(b"a", b"0"))
            attempt, _, _, _, group, locals_ = fields.get(b"x", b"").decode().split(":")
        except ValueError:  # nobody of ours wrote it
            at, attempt, group, locals_ = 0, "1", "", ""
        content: dict[str, Any] = {}
        headers: dict[str, str | int] = {}
        reason = fields.get(b"r", b"").decode(errors="replace")
        try:
            content, headers = self._engine.envelope.unpack(
                fields.get(b"m", b""), of_group(group) if group else channel + locals_
            )
        except Unreadable as error:
            if "cannot be read" not in reason:
                reason = f"{reason} (It cannot be read here: {error}.)"
        now = self._engine.now() or time.time()
        letter = DeadLetter(
            id=f"{channel}/{entry_id.decode()}",
            channel=channel,
            content=content,
            headers=headers,
            attempt=int(attempt) if attempt.isdecimal() else 1,
            reason=reason,
            age=max(0.0, now - at / 1e6),
        )
        return at, letter

    def replay_dead(self, ids: Sequence[str]) -> Steps[int]:
        """See :meth:`channels_core.layers.LayerBackend.replay_dead`."""
        count = 0
        for letter_id in ids:
            place = self._place(letter_id)
            if place is None:
                continue
            queue, entry_id = place
            plan = Plan(self._engine.head)
            plan.step("Y", plan.key(queue.key), entry_id, queue.ttl)
            [reply] = yield [plan.command()]
            self._engine.hear(plan, reply)
            count += plan.codes == b"1"
        return count

    def drop_dead(self, ids: Sequence[str]) -> Steps[int]:
        """See :meth:`channels_core.layers.LayerBackend.drop_dead`."""
        count = 0
        for letter_id in ids:
            place = self._place(letter_id)
            if place is not None:
                queue, entry_id = place
                [reply] = yield [("XDEL", self._engine.keys.of_channel("q", queue.name), entry_id)]
                count += sure(reply)
        return count

    def _place(self, letter_id: str) -> tuple[Queue, str] | None:
        channel, _, entry_id = letter_id.rpartition("/")
        ms, _, sequence = entry_id.partition("-")
        if not channel or not ms.isdecimal() or not sequence.isdecimal() or "!" in channel[:-1]:
            return None
        address = self._engine.channels.of(channel)
        return (address, entry_id) if type(address) is Queue else None


def _fields(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _nothing(channel: str) -> ChannelFigures:
    return ChannelFigures(channel=channel, pending=0, leased=0, oldest_age=0.0)
