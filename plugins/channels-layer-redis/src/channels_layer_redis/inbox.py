"""A process's inbox, as its owner reads it: one stream for all its prefixes, and its copy of its memberships.

Entries are read from the last one seen and removed once they were handed out, so a connection that breaks loses none.
A broadcast is one entry for each prefix; whom it goes to is looked up here, in a copy that entries of the same stream
feed: what was true when the broadcast was sent is true when it is read.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from channels_core.layers import Delivery
from channels_layer_redis.channels import Plan, sent_field
from channels_layer_redis.encryption import Unreadable
from channels_layer_redis.engine import Engine, Steps, sure
from channels_layer_redis.envelope import of_group
from channels_layer_redis.scripts import PULL

if TYPE_CHECKING:
    from channels_layer_redis.transport import Reply

__all__ = ["Entry", "Inbox"]

_BATCH = 512
_TRIM_CONTROL_AT = 64
_LATEST_CHANGE = 60.0


class Entry:
    """A message of the inbox; also the token of its delivery."""

    __slots__ = ("body", "field", "group", "id", "inbox", "is_spent", "locals", "prefix", "since", "size")

    def __init__(
        self,
        inbox: Inbox,
        entry_id: bytes,
        prefix: str,
        locals_: tuple[str, ...],
        group: str,
        size: int,
        field: str,
        body: bytes,
    ) -> None:
        self.inbox = inbox
        self.id = entry_id
        self.prefix = prefix
        self.locals = locals_
        self.group = group
        self.size = size
        self.field = field
        self.body = body
        self.since = int(entry_id.partition(b"-")[0]) / 1000
        self.is_spent = False


class _Members:
    """Locals of one prefix in one group."""

    __slots__ = ("locals", "snapshot", "version")

    def __init__(self) -> None:
        self.locals: dict[str, None] = {}
        self.snapshot: tuple[str, ...] | None = None
        self.version: int | None = None


class Inbox:
    """Used by one reader at a time, under :attr:`lock`."""

    def __init__(self, engine: Engine, process: str) -> None:
        self._engine = engine
        self.process = process
        self.key = engine.keys.of_process("i", process)
        self.process_key = engine.keys.of_process("p", process)
        self.lock = threading.Lock()
        self.epoch = engine.transport.epoch_of(self.key)
        """Of the connections to the server; another one after an outage."""
        self.is_whole = False
        """Whether the copy of the memberships was read since this object exists."""
        self._last = b"0-0"
        self._waiting: deque[Entry] = deque()
        """Read, and not yet asked for."""
        self._members: dict[tuple[str, str], _Members] = {}
        self._emptied: deque[tuple[float, tuple[str, str]]] = deque()
        self._unacknowledged: list[Entry] = []
        self._acknowledged: list[Entry] = []
        """The last ones whose removal was asked for."""
        self._seen: frozenset[bytes] = frozenset()
        """What must not be taken in again, where reading began anew."""
        self._read = 0
        """Entries of the stream up to the last one seen."""

    @property
    def has_debts(self) -> bool:
        return bool(self._unacknowledged)

    def returned(self) -> list[Entry]:
        """What was put back, which the stream does not hold."""
        return [entry for entry in tuple(self._waiting) if not entry.id]

    def empty(self) -> None:
        """Forget what was read: the stream is about to be emptied."""
        self._waiting.clear()
        self._unacknowledged.clear()
        self._acknowledged.clear()
        self._members.clear()
        self._read = 0

    # Reading.

    def read_command(self, block_ms: int | None) -> tuple[str | bytes | int, ...]:
        """Reads on from the last entry seen."""
        block = () if block_ms is None else ("BLOCK", block_ms)
        return ("XREAD", "COUNT", _BATCH, *block, "STREAMS", self.key, self._last)

    def acknowledge(self, plan: Plan) -> None:
        """Add the removal of what was handed out."""
        done = self._unacknowledged
        if not done and self._read < _TRIM_CONTROL_AT:
            return
        self._unacknowledged, self._acknowledged = [], done
        fields = Counter(entry.field for entry in done)
        size = sum(entry.size for entry in done if entry.field == "n")
        counts = [item for pair in fields.items() for item in pair]
        keys = plan.key(self.process_key), plan.key(self.key)
        if any(entry.id for entry in self._waiting):
            ids = [entry.id for entry in done]
            self._read -= len(ids)
            if ids:
                plan.step("C", *keys, "", len(ids), size, len(fields), *counts, *ids)
        else:
            plan.step("C", *keys, _after(self._last), self._read, size, len(fields), *counts)
            self._read = 0

    def take_in(self, reply: Reply) -> Steps[None]:
        """Understand what :meth:`read_command` brought."""
        found = sure(reply)
        if not found:
            return
        seen = self._seen
        for entry_id, fields in found[0][1]:
            try:
                mark, header = fields[0], fields[1].decode()
                if seen and entry_id in seen:
                    pass
                elif mark == b"=":
                    name, size, own = header.split(":")
                    cut = name.index("!") + 1
                    prefix = name[:cut]
                    field = sent_field(prefix, own)
                    self._waiting.append(
                        Entry(self, entry_id, prefix, (name[cut:],), "", int(size), field, fields[3])
                    )
                elif mark == b"*":
                    prefix, size, own, group = header.split(":")
                    members = self._members.get((group, prefix))
                    locals_: tuple[str, ...] = ()
                    if members is not None:
                        if members.snapshot is None:
                            members.snapshot = tuple(members.locals)
                        locals_ = members.snapshot
                    entry = Entry(
                        self, entry_id, prefix, locals_, group, int(size), sent_field(prefix, own), fields[3]
                    )
                    if locals_:
                        self._waiting.append(entry)
                    else:
                        self._unacknowledged.append(entry)
                elif mark in (b"+", b"-"):
                    yield from self._change(mark == b"+", header)
                elif mark == b"?":
                    self._members.clear()
                    self._waiting.clear()
                    self._unacknowledged.clear()
            except (ValueError, IndexError) as error:
                self._engine.unreadable(self.key, Unreadable(f"its entry is none of this layer's ({error})"))
            self._last = entry_id  # only now: where it broke off, it is read again
            self._read += 1

    def _change(self, is_new: bool, header: str) -> Steps[None]:
        prefix, local, group, before, version = header.split(":")
        number, known = int(version), int(before)
        members = self._members.setdefault((group, prefix), _Members())
        if members.version is not None and number <= members.version:
            return
        if known == 0:
            members.locals.clear()
        elif known != members.version:  # of two changes at once the later may come first, or one not at all
            yield from self._pull(group, prefix, members)
            return
        members.version = number
        members.snapshot = None
        if is_new:
            members.locals[local] = None
        else:
            members.locals.pop(local, None)
            if not members.locals:
                self._forget_empty(group, prefix)

    def _forget_empty(self, group: str, prefix: str) -> None:
        """At once where changes come in their order; in a cluster one may come late, so it is known for a while."""
        if not self._engine.is_sharded:
            self._members.pop((group, prefix), None)
            return
        now = monotonic()
        self._emptied.append((now, (group, prefix)))
        while self._emptied[0][0] < now - _LATEST_CHANGE:
            _, key = self._emptied.popleft()
            members = self._members.get(key)
            if members is not None and not members.locals:
                del self._members[key]
            if not self._emptied:
                break

    def _pull(self, group: str, prefix: str, members: _Members) -> Steps[None]:
        """A change went missing: read anew what is true."""
        keys = self._engine.keys
        places = [keys.of_group("v", group), keys.of_group("m", group, prefix)]
        [reply] = yield [PULL.call(places, [prefix])]
        version, *locals_ = sure(reply)
        members.version = int(version)
        members.locals = {local.decode(): None for local in locals_}
        members.snapshot = None
        if not locals_:
            self._forget_empty(group, prefix)

    def pull_all(self) -> Steps[None]:
        """Read all memberships anew: for an inbox that others fed before, and for one that has lost entries."""
        [reply] = yield [("ZRANGE", self._engine.keys.of_process("x", self.process), 0, -1)]
        self._members.clear()
        for line in sure(reply):
            channel, _, group = line.decode().partition(" ")
            cut = channel.index("!") + 1
            members = self._members.setdefault((group, channel[:cut]), _Members())
            members.locals[channel[cut:]] = None
        self.is_whole = True

    def rewind(self, newest: bytes) -> bool:
        """The stream's newest entry is ``newest``. After a failover it may be older than what was read: whether it is,
        and reading begins anew."""
        if _place(newest) >= _place(self._last):
            return False
        known = (*self._waiting, *self._unacknowledged, *self._acknowledged)
        self._seen = frozenset(entry.id for entry in known if entry.id)
        self._last = b"0-0"
        self._read = 0
        return True

    def memberships(self) -> list[tuple[str, str]]:
        """(group, channel) of every membership known here."""
        return [
            (group, prefix + local)
            for (group, prefix), members in list(self._members.items())
            for local in list(members.locals)
        ]

    # Handing out.

    def hand_out(self, prefixes: Sequence[str], limit: int) -> list[Delivery]:
        """At most ``limit`` messages to ``prefixes``, in order."""
        waiting = self._waiting
        if not waiting:
            return []
        now = self._engine.now()
        horizon = 0.0 if now is None else now - self._engine.options.expiry
        wanted = frozenset(prefixes)
        kept: list[Entry] = []
        deliveries: list[Delivery] = []
        expired: list[Any] = []
        while waiting and len(deliveries) < limit:
            entry = waiting.popleft()
            is_late = entry.since < horizon
            if entry.prefix not in wanted and not is_late:
                kept.append(entry)
                continue
            if entry.id:
                self._unacknowledged.append(entry)
            if is_late:
                expired.append(entry)
                continue
            try:
                content, headers = self._open(entry)
            except Unreadable as error:
                self._engine.unreadable(entry.prefix, error)
                continue
            deliveries.append(Delivery(entry.prefix, content, headers, entry.locals, 1, entry))
        waiting.extendleft(reversed(kept))
        if expired:
            self._expire(expired)
        return deliveries

    def _open(self, entry: Entry) -> tuple[dict[str, Any], dict[str, str | int]]:
        name = of_group(entry.group) if entry.group else entry.prefix + entry.locals[0]
        return self._engine.envelope.unpack(entry.body, name)

    def _expire(self, entries: Iterable[Entry]) -> None:
        owed: list[Any] = []
        count = 0
        for entry in entries:
            count += 1
            if entry.body[:1] and entry.body[0] & 4:
                header = f"{entry.prefix}{entry.locals[0]}:{entry.size}:" + (
                    f":{entry.group}" if entry.group else ""
                )
                owed += [self.key.encode(), header.encode(), entry.body]
        self._engine.report_expired(count, owed)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """To the front, the first one first. They are kept here: nobody else could read them."""
        for entry in reversed(entries):
            again = Entry(
                self,
                entry.id or b"0-0",
                entry.prefix,
                entry.locals,
                entry.group,
                entry.size,
                entry.field,
                entry.body,
            )
            again.since = entry.since
            again.id = b""
            self._waiting.appendleft(again)


def _after(entry_id: bytes) -> str:
    ms, sequence = _place(entry_id)
    return f"{ms}-{sequence + 1}"


def _place(entry_id: bytes) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence or 0)
