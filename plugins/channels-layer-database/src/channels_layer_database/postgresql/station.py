"""Where readers of the same channels wait together: one fetch for all of them, one low-water mark for a channel.

A fetch asks for ``id >= low`` and so steps over nothing that it has seen before, however many dead rows a long
transaction keeps alive below. What commits late, or is put back, announces its id, which lowers the mark; from time
to time all marks go back to the beginning, in case an announcement was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from channels_core.headers import CREDIT
from channels_core.layers import AT_LEAST_ONCE, Delivery
from channels_core.names import process_of
from channels_layer_database.postgresql.encoding import (
    bigint,
    bigints,
    float8,
    integer,
    ints,
    number,
    text,
    texts,
)
from channels_layer_database.postgresql.outgoing import LOWEST
from channels_layer_database.postgresql.pipeline import Answers, Call, Row
from channels_layer_database.rows import ADD, BROADCAST, DISCARD, UnreadableRow, unpack

if TYPE_CHECKING:
    from channels_layer_database.memberships import LocalMembers
    from channels_layer_database.postgresql.hub import Hub

__all__ = ["Leased", "Reader", "Station", "Taken", "credits_of"]

_MOST: Final = 1000
_CALMED_DOWN: Final = 1.0
"""Seconds after which an answer that is not lost has come."""


class Taken:
    """Token of an at-most-once delivery: its row, which is deleted already, and whether it was put back."""

    __slots__ = ("is_spent", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.is_spent = False


class Leased:
    """Token of a leased delivery: id, and how often it was taken. Exists for as long as somebody has the delivery."""

    __slots__ = ("__weakref__", "id", "taken")

    def __init__(self, row_id: int, taken: int) -> None:
        self.id = row_id
        self.taken = taken


class Reader:
    """One receive that waits. ``done`` gets the deliveries, or an error, once."""

    __slots__ = ("done", "is_over", "is_patient", "limit", "timer")

    def __init__(self, limit: int, done: Callable[[list[Delivery] | Exception], None]) -> None:
        self.limit = limit
        self.done = done
        self.is_patient = True
        """Whether it waits for messages, rather than take what there is."""
        self.is_over = False
        """Whether it has been answered, or wants no answer any more."""
        self.timer: asyncio.TimerHandle | None = None

    def finish(self, found: list[Delivery] | Exception) -> None:
        """Answer, unless that was done."""
        if not self.is_over:
            self.is_over = True
            if self.timer is not None:
                self.timer.cancel()
            self.done(found)


class _Unit:
    """One queue that the station reads: its key, the prefixes asked for, and the low-water mark."""

    __slots__ = ("is_dirty", "key", "low", "name", "prefixes", "process", "stamp", "wanted")

    def __init__(self, key: str, prefixes: list[str] | None, process: str | None) -> None:
        self.key = key
        self.prefixes = prefixes
        self.process = process
        self.low = LOWEST
        self.stamp = 0
        """Grows when the mark is lowered, so that a fetch under way does not raise it over that."""
        self.is_dirty = True
        """Whether there may be something that was not fetched."""
        self.name = key.encode()
        self.wanted: bytes | None = None
        """The prefixes, encoded."""


class Station:
    """All of a hub's readers of ``channels`` on behalf of ``process``."""

    def __init__(self, hub: Hub, channels: Sequence[str], process: str | None) -> None:
        layer = hub.layer
        self._hub = hub
        self._holder = process
        self._holder_name = None if process is None else process.encode()
        self.readers: list[Reader] = []
        self.is_fetching = False
        self._is_active = True
        self._swept = self._looked = monotonic()
        self._cost = 0.0
        self._lost_at: float | None = None
        """When a fetch was not answered, which may have leased messages that nobody got."""
        self._interval = 0.5
        self.timer: asyncio.TimerHandle | None = None
        self.plain: list[_Unit] = []
        self.leased: list[_Unit] = []
        owned: dict[str, _Unit] = {}
        for name in dict.fromkeys(channels):
            owner = process_of(name)
            if owner is None:
                is_leased = layer.delivery_class_of(name) == AT_LEAST_ONCE
                (self.leased if is_leased else self.plain).append(_Unit(name, None, None))
            elif owner in owned:
                owned[owner].prefixes.append(name)  # type: ignore[union-attr]  # those of processes have a list
            else:
                unit = owned[owner] = _Unit(f"{owner}!", [name], owner)
                self.plain.append(unit)
        self.units = {unit.key: unit for unit in (*self.plain, *self.leased)}
        self._leased_keys = {unit.key for unit in self.leased}
        for unit in owned.values():
            unit.wanted = texts(unit.prefixes or ())
        self.is_listening = False
        self.was_idle = False
        self._turn = 0
        self._is_greedy = False
        """Whether the next fetch may be filled by one queue: each has had its share."""
        self.is_fleeting = all("?" in name for name in channels)

    # Readers.

    def add(self, reader: Reader, *, is_urgent: bool) -> None:
        """Let ``reader`` have what there is, or wait. ``is_urgent``: look even if nothing was announced."""
        self.readers.append(reader)
        if is_urgent or not self.is_listening:
            # Nobody announces to this station what was put back, or commits late: look from the beginning.
            self._rewind()
        elif not self._hub.is_listening:
            self._soil()
        self.look()

    def remove(self, reader: Reader) -> None:
        """It waits no more."""
        if reader in self.readers:
            self.readers.remove(reader)

    def expire(self, reader: Reader) -> None:
        """Its time is over; a fetch under way may still bring something."""
        reader.is_patient = False
        if not self.is_fetching:
            self.remove(reader)
            reader.finish([])

    def wake(self) -> None:
        """Everybody returns with what a fetch under way brings."""
        for reader in list(self.readers):
            self.expire(reader)

    def fail(self, error: Exception) -> None:
        """Everybody hears that the engine is away."""
        readers, self.readers = self.readers, []
        self._soil()
        for unit in self.units.values():
            unit.low = LOWEST
        for reader in readers:
            reader.finish(error)

    def arrived(self, key: str, low: int) -> None:
        """A row with this id, or a higher one, is there."""
        unit = self.units.get(key)
        if unit is not None:
            if low < unit.low:
                unit.low = low
                unit.stamp += 1
            unit.is_dirty = True
            self._is_active = True
            self.look()

    @property
    def is_dirty(self) -> bool:
        """Whether there may be something that was not fetched."""
        return any(unit.is_dirty for unit in self.units.values())

    def _soil(self) -> None:
        for unit in self.units.values():
            unit.is_dirty = True

    # Time.

    @property
    def sweep_interval(self) -> float:
        """Seconds between looks from the beginning: often in traffic, seldom when idle, never for much of the time."""
        layer = self._hub.layer
        longest = 5.0
        if self.leased:
            longest = min(longest, max(0.05, layer.lease / 4), max(0.05, layer.process_lease / 4), 2.0)
        return max(min(0.5, longest) if self._is_active else longest, 20 * self._cost)

    def _rewind(self) -> None:
        self._swept = monotonic()
        self._is_active = False
        for unit in self.units.values():
            unit.low = LOWEST
            unit.stamp += 1
            unit.is_dirty = True

    def _tick(self) -> None:
        self.timer = None
        if not self.readers:
            return
        if monotonic() - self._swept >= self.sweep_interval:
            self._rewind()
        elif not self._hub.is_listening:
            self._soil()
        self.look()

    def _schedule(self) -> None:
        """Look again later, announced or not."""
        if self.timer is None and self.readers:
            pause = max(0.01, self._swept + self.sweep_interval - monotonic())
            if not self._hub.is_listening:
                self._interval = (
                    0.001 if self._is_active else min(self._interval * 1.5, self._hub.layer.idle_poll)
                )
                pause = min(pause, max(self._interval, 2 * self._cost))
            self.timer = self._hub.loop.call_later(pause, self._tick)

    # Fetching.

    def look(self) -> None:
        """Fetch, if there may be something and somebody wants it."""
        if self.is_fetching or not self.readers:
            return
        if not self.is_dirty:
            self._schedule()
            return
        missing = [
            unit.process for unit in self.plain if unit.process and self._hub.needs_members(unit.process)
        ]
        self.is_fetching = True
        if missing:
            self._hub.load_members(missing, self._loaded)
            return
        self._fetch()

    def _loaded(self, error: Exception | None) -> None:
        if error is not None:
            self.is_fetching = False
            self.fail(error)
            return
        self._fetch()

    def _fetch(self) -> None:
        if not self.readers:
            self.is_fetching = False
            return
        if not self._hub.is_connected:  # to listen, and only then to look
            self._hub.connected(self._loaded)
            return
        limit = min(_MOST, sum(reader.limit for reader in self.readers))
        hub = self._hub
        listen = not self.is_listening and any(reader.is_patient for reader in self.readers)
        if listen:
            self.is_listening = True
            hub.listen(self)
        if self._lost_at is not None:
            self._give_back_lost(self._lost_at)
        dirty = ([unit for unit in units if unit.is_dirty] for units in (self.plain, self.leased))
        kinds = [units for units in dirty if units]
        self._turn += 1
        if len(kinds) == 2:
            kinds = kinds if self._turn % 2 else kinds[::-1]
            shares = [limit - limit // 2, limit // 2]
        else:
            shares = [limit]
        calls: list[Call] = []
        asked: list[tuple[list[_Unit], int, list[tuple[int, int]]]] = []
        for units, share in zip(kinds, shares, strict=True):
            if share:  # else the other class has the only place, and this one comes next
                calls.append(self._call(units, share))
                asked.append((units, share, [(unit.low, unit.stamp) for unit in units]))
                for unit in units:
                    unit.is_dirty = False
        started = monotonic()

        def done(answers: Answers | Exception) -> None:
            self._cost = monotonic() - started
            self._fetched(answers, asked, is_whole=len(asked) == len(kinds))

        hub.submit_read(calls, done)

    def _give_back_lost(self, since: float) -> None:
        """Free what is leased to this process since before then and is in nobody's hands."""
        age = monotonic() - since
        if age < _CALMED_DOWN or self._holder is None:
            return
        self._lost_at = None
        layer = self._hub.layer
        known = [token for one in layer.in_hand.copy() if (token := one()) is not None]
        parameters = (
            texts([unit.key for unit in self.leased]),
            self._holder.encode(),
            float8(layer.lease - age),
            bigints([token.id for token in known]),
            ints([token.taken for token in known]),
        )

        def done(answers: Answers | Exception) -> None:
            if isinstance(answers, Exception) and self._lost_at is None:
                self._lost_at = since

        self._hub.submit([(self._hub.statements.give_back, parameters)], done)

    def _call(self, units: list[_Unit], limit: int) -> Call:
        layer, statements = self._hub.layer, self._hub.statements
        if len(units) == 1:
            return self._call_one(units[0], limit, is_leased=units[0].key in self._leased_keys)
        start = self._turn % len(units)
        turned = units[start:] + units[:start]
        each = limit if self._is_greedy else max(1, -(-limit // len(units)))
        parameters = [
            texts([unit.key for unit in turned]),
            bigints([unit.low for unit in turned]),
            ints([each] * len(turned)),
            texts([None if unit.prefixes is None else " ".join(unit.prefixes) for unit in turned]),
            integer(limit),
        ]
        if units[0].key not in self._leased_keys:
            return statements.take, parameters
        return statements.lease, [*parameters, float8(layer.lease), self._holder_name]

    def _call_one(self, unit: _Unit, limit: int, *, is_leased: bool) -> Call:
        statements = self._hub.statements
        parameters = unit.name, bigint(unit.low), integer(limit)
        if is_leased:
            return statements.lease_one, (*parameters, float8(self._hub.layer.lease), self._holder_name)
        if unit.wanted is not None:
            return statements.take_of, (*parameters, unit.wanted)
        return statements.take_one, parameters

    def _fetched(
        self,
        answers: Answers | Exception,
        asked: list[tuple[list[_Unit], int, list[tuple[int, int]]]],
        *,
        is_whole: bool,
    ) -> None:
        if isinstance(answers, Exception):
            self.is_fetching = False
            if self.leased and self._holder is not None:
                self._lost_at = monotonic()
            self.fail(answers)
            return
        found: list[Delivery] = []
        expired: list[Row] = []
        doomed: list[Row] = []
        unreadable: list[tuple[Row, bool]] = []
        is_more = not is_whole
        for (units, share, marks), rows in zip(asked, answers, strict=True):
            if len(rows) > 1:
                rows.sort(key=_id_of)
            is_more |= self._raise_marks(units, share, marks, rows)
            is_leased = units[0].key in self._leased_keys
            for row in rows:
                if row[10] != b"\x01":
                    expired.append(row)
                else:
                    try:
                        self._deliver(row, found, doomed, is_leased=is_leased)
                    except UnreadableRow:
                        unreadable.append((row, is_leased))
            if is_leased and rows:
                self._hub.layer.counters.redelivered += number(rows[0][11])
        if found:
            self._is_active = True
        if expired:
            self._hub.expired(expired, are_leased=[row for row in expired if number(row[7])])
        if unreadable:
            self._hub.set_aside(
                unreadable, lambda: self._after_unreadable(found, doomed, is_more or not found)
            )
        elif doomed:
            self._hub.bury_exhausted(doomed, lambda: self._distribute(found, is_more))
        elif expired and is_more and not found:
            # A backlog of dead rows: away with them by the thousand, before anybody waits for the next live one.
            self._hub.purge([unit.key for unit in self.units.values()], lambda: self._distribute([], True))
        else:
            self._distribute(found, is_more)

    def _after_unreadable(self, found: list[Delivery], doomed: list[Row], is_more: bool) -> None:
        if doomed:
            self._hub.bury_exhausted(doomed, lambda: self._distribute(found, is_more))
        else:
            self._distribute(found, is_more)

    def _raise_marks(
        self, units: list[_Unit], share: int, marks: list[tuple[int, int]], rows: list[Row]
    ) -> bool:
        """Step over what was taken, and note where there may be more; whether there may be any."""
        each = share if self._is_greedy else max(1, -(-share // len(units)))
        if rows and units[0].key not in self._leased_keys:
            self._hub.layer.note_taken([_id_of(row) for row in rows])
        highest: dict[str, tuple[int, int]] = {}
        for row in rows:
            key = text(row[1])
            count = highest[key][1] if key in highest else 0
            highest[key] = number(row[0]), count + 1
        is_full = is_more = len(rows) >= share
        for unit, (_, stamp) in zip(units, marks, strict=True):
            last, count = highest.get(unit.key, (0, 0))
            if count and unit.stamp == stamp:
                unit.low = last + 1
            if is_full or count >= each:
                unit.is_dirty = is_more = True
        return is_more

    def _deliver(self, row: Row, found: list[Delivery], doomed: list[Row], *, is_leased: bool) -> None:
        dest = row[3]
        body = row[12] or b""
        key = text(row[1])
        if dest is None:
            attempt = number(row[6])
            if is_leased and attempt > self._hub.layer.max_attempts:
                doomed.append(row)
                return
            content, headers = unpack(body)
            token: Any
            if is_leased:
                token = Leased(number(row[0]), number(row[7]))
                in_hand = self._hub.layer.in_hand
                in_hand.add(ref(token, in_hand.discard))
            else:
                token = Taken(row)
            found.append(Delivery(key, content, headers, (), attempt, token, is_leased))
            return
        mark = dest[:1].decode()
        prefix = key if row[2] is None else row[2].decode()
        if mark == BROADCAST:
            locals_ = self._members(key).of(dest[1:].decode(), prefix)
        elif mark in "+-!*":
            self._control(key, prefix, mark, dest[1:].decode())
            return
        else:
            locals_ = tuple(dest.decode().split(" "))
        if locals_:
            content, headers = unpack(body)
            found.append(Delivery(prefix, content, headers, locals_, number(row[6]), Taken(row)))

    def _members(self, key: str) -> LocalMembers:
        return self._hub.layer.members_of(key[:-1])

    def _control(self, key: str, prefix: str, mark: str, rest: str) -> None:
        members = self._members(key)
        if mark == "*":
            members.load(())
        elif mark == "!":
            members.close(prefix, rest)
        else:
            group, _, local = rest.partition(" ")
            if mark == ADD:
                members.add(group, prefix, local)
            elif mark == DISCARD:
                members.discard(group, prefix, local)

    def _distribute(self, found: list[Delivery], is_more: bool) -> None:
        self.is_fetching = self._is_greedy = False
        self._hub.layer.counters.received += len(found)
        while found and self.readers:
            # Shared out evenly: a message that waits behind another in one reader's hand could run in another's.
            share = -(-len(found) // len(self.readers))
            reader = self.readers.pop(0)
            if reader.is_over:
                continue
            count = min(share, reader.limit)
            part, found = found[:count], found[count:]
            if is_more and not self.readers and not found and count < reader.limit:
                reader_wants = reader.limit - count
                self._collect(reader, part, reader_wants)
                return
            reader.finish(part)
        if found:
            self._hub.give_back(found)
        if is_more:
            if not self.is_dirty:
                self._soil()
        else:
            for reader in list(self.readers):
                if not reader.is_patient and not self.is_dirty:
                    self.readers.remove(reader)
                    reader.finish([])
        self.look()

    def _collect(self, reader: Reader, part: list[Delivery], wanted: int) -> None:
        """There is more for a reader that wants more: ask again before it is answered."""
        timer, reader.timer = reader.timer, None
        if timer is not None:
            timer.cancel()
        reader.is_over = True
        answer = reader.done

        def joined(more: list[Delivery] | Exception) -> None:
            answer(part if isinstance(more, Exception) else part + more)

        rest = Reader(wanted, joined)
        rest.is_patient = False
        self.readers.append(rest)
        self._is_greedy = True
        self.look()


def _id_of(row: Row) -> int:
    return int.from_bytes(row[0] or b"", "big", signed=True)


def credits_of(rows: Sequence[Row | tuple[bytes | None]]) -> list[dict[str, str | int]]:
    """The headers, where the sender paces itself, of the messages in the last column."""
    found = []
    for row in rows:
        body = row[-1] or b""
        if CREDIT.encode() in body:
            try:
                headers = unpack(body)[1]
            except UnreadableRow:
                continue
            if CREDIT in headers:
                found.append(headers)
    return found
