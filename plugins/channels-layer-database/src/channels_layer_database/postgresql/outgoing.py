"""What one flush of a hub sends: the messages of several callers as few statements, and each caller's outcomes."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import md5
from time import monotonic
from typing import Any, Final, Protocol

from channels_core.layers import Outcome, Send, Settlement, Turn, Verdict
from channels_core.names import process_of
from channels_layer_database.postgresql.encoding import (
    BYTEA,
    INT,
    SMALLINT,
    TEXT,
    bigint,
    bigints,
    boolean,
    float8,
    integer,
    ints,
    number,
    raw_array,
    smallints,
    texts,
)
from channels_layer_database.postgresql.pipeline import Call, Row
from channels_layer_database.postgresql.statements import Shape, Statements
from channels_layer_database.rows import pack

__all__ = [
    "ENDLESS",
    "LOWEST",
    "Batch",
    "Outgoing",
    "Rooms",
    "Unit",
    "is_ack",
    "notification_channel",
    "plain_acks",
    "unit_for",
]

SENT, FULL, GONE, TOO_LARGE = Outcome.SENT, Outcome.FULL, Outcome.GONE, Outcome.TOO_LARGE
ENDLESS: Final = 2**62
LOWEST: Final = -(2**63)
_LARGE: Final = 1000
_TRUSTED: Final = 0.25
"""Seconds for which a count of what waits is built on."""


class Unit:
    """Where messages are counted together: a channel, a process' inbox, or a prefix with a capacity of its own.

    Ids come from one sequence. So when ``depth`` messages waited as the sequence stood at ``last``, there is place
    until it has given out ``cap - depth`` ids more, to whomever and for whatever: until then nothing needs to be
    counted. Bytes cannot be told by ids: in large rooms that are far from full they are trusted for a moment, and
    small ones with a limit of bytes are always counted.
    """

    __slots__ = (
        "_bytes_left",
        "_low",
        "_low_until",
        "_until",
        "bytes",
        "cap",
        "fixed",
        "key",
        "last",
        "limit",
        "owner",
        "prefix",
        "process",
        "room",
        "wake",
    )

    def __init__(
        self, key: str, prefix: str | None, room: int, cap: int, bytes_: int, process: str | None, wake: str
    ) -> None:
        self.key = key
        self.prefix = prefix
        self.room = room
        self.cap = cap
        self.bytes = bytes_
        self.process = process
        self.wake = wake
        """The notification channel of its readers."""
        self.last = 0
        """Where the sequence stood when what waits was counted."""
        self.limit = 0
        """The last id up to which it surely has place."""
        self._bytes_left = 0
        self._until = 0.0
        self._low = LOWEST
        self._low_until = 0.0
        self.fixed = key.encode(), room.to_bytes(2, "big"), wake.encode()
        """What goes with every message to it, encoded: key, room, notification channel."""
        self.owner = None if process is None else process.encode()

    def may_spend(self, size: int, now: float) -> bool:
        """Whether a message of so many bytes may be sent without counting what waits, if its id allows that."""
        if now > self._until or self._bytes_left < size:
            return False
        if self.bytes < ENDLESS:
            self._bytes_left -= size
        return True

    def counted(self, depth: int, used: int, last: int, low: int | None, took: float) -> None:
        """So much waited when the sequence stood at ``last``, first of all ``low``, and counting took so long."""
        now = monotonic()
        self.last = last
        self.limit = last + self.cap - depth
        if self.bytes == ENDLESS:
            self._bytes_left = ENDLESS
        else:
            self._bytes_left = (self.bytes - used) // 16 if self.cap > _LARGE else 0
        self._until = now + _TRUSTED
        if low is not None:
            if now > self._low_until:
                # Where counting was slow, dead rows lay in its way: step over them for longer.
                self._low_until = now + max(_TRUSTED, min(20 * took, 5.0))
            self._low = low

    def taken(self, ids: Sequence[int]) -> None:
        """These, in ascending order, are gone: wherever they were, as many later ones may wait here."""
        self.limit += len(ids) - bisect_right(ids, self.last)

    def low(self, now: float) -> int:
        """The id to begin counting at."""
        return self._low if now <= self._low_until else LOWEST

    def distrust(self) -> None:
        """Something came back to the front, or a lease ended otherwise: count everything anew."""
        self._until = self._low_until = 0.0


class Rooms(Protocol):
    """What a batch asks the layer."""

    max_message_size: int
    expiry: float
    group_expiry: float
    inbox_bytes: int
    has_durable: bool
    last_id: int
    tight: deque[Unit]

    def unit_of(self, channel: str) -> Unit: ...


class Outgoing:
    """One caller's sends, and what they settle; ``done`` gets the outcomes in order, or an error.

    ``turns`` has, for each settlement of ``acks``, the turn that must have arrived; ``turn_of`` the turn of each send.
    """

    __slots__ = (
        "acks",
        "done",
        "is_durable",
        "is_strict",
        "on_written",
        "outcomes",
        "sends",
        "then",
        "turn_of",
    )

    def __init__(
        self,
        sends: Sequence[Send],
        done: Callable[[list[Outcome] | Exception], None],
        *,
        turn_of: Sequence[int] = (),
        acks: Sequence[tuple[int, str, int, int]] = (),
        is_durable: bool = False,
        then: Sequence[Call] = (),
        on_written: Callable[[], None] | None = None,
    ) -> None:
        self.sends = sends
        self.done = done
        self.turn_of = turn_of
        self.acks = acks
        self.is_durable = is_durable
        self.then = then
        self.is_strict = bool(then) or (bool(acks) and len({send.is_group for send in sends}) > 1)
        """Whether a refusal undoes all of it: where one statement cannot see what another refuses."""
        self.on_written = on_written
        self.outcomes: list[Outcome] = []


class _Placed:
    """A statement of the batch, and where its outcomes belong."""

    __slots__ = ("items", "units")

    def __init__(self) -> None:
        self.units: dict[Unit, int] = {}
        self.items: list[tuple[Outgoing, int, Send, int, int]] = []


class Batch:
    """The statements for several callers' sends, in their order, and the reading of the answers."""

    def __init__(self, layer: Rooms, statements: Statements, outgoing: Sequence[Outgoing]) -> None:
        self._layer = layer
        self._begun = monotonic()
        self._statements = statements
        self.outgoing = outgoing
        self.is_durable = any(one.is_durable for one in outgoing)
        self._placed: list[_Placed | tuple[Outgoing, int]] = []
        self.stale: list[str] = []
        """Keys that are full and hold expired messages."""
        self.dropped = 0
        """Members that group sends passed over."""

    def straight(self) -> tuple[Call, int] | None:
        """The one statement that sends everything without counting what waits, and how many messages that are; ``None``
        where something has to be counted. Where it sends fewer, it has sent none."""
        layer, now = self._layer, self._begun
        sends: list[Send] = []
        for one in self.outgoing:
            if one.is_strict:
                return None
            sends += one.sends
        if not sends:
            return None
        limit = ENDLESS
        units: list[Unit] = []
        for send in sends:
            if send.is_group or send.size > layer.max_message_size:
                return None
            unit = layer.unit_of(send.channel)
            if not unit.may_spend(send.size, now):
                return None
            limit = min(limit, unit.limit)
            units.append(unit)
        limit -= len(sends)
        if limit < layer.last_id:
            return None
        for one in self.outgoing:
            one.outcomes = [SENT] * len(one.sends)
        unit = units[0]
        shape: Shape
        owner = unit.owner
        if len(sends) == 1:
            shape, parameters = "single", _row_of(sends[0], unit)
        elif units.count(unit) == len(units):
            shape, parameters = "batch", _rows_of(sends, unit)
        else:
            shape, parameters = "mixed", _columns_of(sends, units)
            owners = {unit.owner for unit in units if unit.owner is not None}
            owner = raw_array(TEXT, list(owners)) if owners else None
        parameters += (float8(layer.expiry), bigint(limit))
        if owner is not None:
            parameters.append(owner)
        acks = [ack for one in self.outgoing for ack in one.acks]
        if acks:
            _, keys, ids, takens = zip(*acks, strict=True)
            parameters += (texts(keys), bigints(ids), ints(takens))
        statement = self._statements.straight[shape, owner is not None, bool(acks), self.is_durable]
        return (statement, parameters), len(sends)

    def calls(self) -> list[Call]:
        """The statements, where something has to be counted."""
        layer = self._layer
        acks: dict[int, list[tuple[str, int, int, int]]] = {}
        is_strict = any(one.is_strict for one in self.outgoing)
        for base, one in enumerate(self.outgoing):
            one.outcomes = [SENT] * len(one.sends)
            last = -1
            for index, send in enumerate(one.sends):
                if send.size > layer.max_message_size:
                    one.outcomes[index] = TOO_LARGE
                    continue
                if send.is_group:
                    self._placed.append((one, index))
                    continue
                if not self._placed or type(self._placed[-1]) is tuple:
                    self._placed.append(_Placed())
                turn = base * 10_000 + one.turn_of[index] if one.turn_of else 0
                self._place(self._placed[-1], one, index, send, turn)  # type: ignore[arg-type]  # the type was looked at
                last = len(self._placed) - 1
            if one.acks:
                acks.setdefault(last, []).extend(
                    (key, id_, taken, base * 10_000 + turn) for turn, key, id_, taken in one.acks
                )
        calls: list[Call] = []
        for number_, placed in enumerate(self._placed):
            if type(placed) is tuple:
                calls.append(self._group_call(placed[0].sends[placed[1]]))
            else:
                calls.append(self._send_call(placed, acks.get(number_, ()), is_strict))  # type: ignore[arg-type]  # as above
        alone = acks.get(-1)
        if alone:
            keys, ids, takens, _ = zip(*alone, strict=True)
            calls.append((self._statements.ack, (texts(keys), bigints(ids), ints(takens))))
        for one in self.outgoing:
            calls += one.then
        return calls

    def _place(self, placed: _Placed, one: Outgoing, index: int, send: Send, turn: int) -> None:
        units = placed.units
        number_ = units.setdefault(self._layer.unit_of(send.channel), len(units))
        placed.items.append((one, index, send, number_, turn))

    def _send_call(self, placed: _Placed, acks: Sequence[tuple[str, int, int, int]], is_strict: bool) -> Call:
        units, items = list(placed.units), placed.items
        ranks = [0] * len(units)
        before = [0] * len(units)
        numbers, prefixes, dests, sizes, bodies, rank, sums, turns = [], [], [], [], [], [], [], []
        for _, _, send, number_, turn in items:
            unit = units[number_]
            numbers.append(number_ + 1)
            channel = send.channel
            mark = channel.find("!")
            prefixes.append(channel[: mark + 1] if unit.process is not None else None)
            dests.append(None if mark < 0 else channel[mark + 1 :])
            sizes.append(send.size)
            bodies.append(pack(send.content, send.headers))
            rank.append(ranks[number_])
            sums.append(before[number_] if unit.bytes < ENDLESS else 0)
            turns.append(turn)
            ranks[number_] += 1
            before[number_] += send.size
        parameters = [
            texts([unit.key for unit in units]),
            texts([unit.prefix for unit in units]),
            smallints([unit.room for unit in units]),
            ints([unit.cap for unit in units]),
            bigints([unit.bytes for unit in units]),
            texts([unit.process for unit in units]),
            ints(numbers),
            texts(dests),
            ints(sizes),
            raw_array(BYTEA, bodies),
            ints(rank),
            bigints(sums),
            ints(turns),
            float8(self._layer.expiry),
            boolean(is_strict),
            texts(prefixes),
            bigints([unit.low(self._begun) for unit in units]),
        ]
        if not acks:
            return self._statements.send, parameters
        keys, ids, takens, of_turns = zip(*acks, strict=True)
        parameters += [texts(keys), bigints(ids), ints(takens), ints(of_turns)]
        return self._statements.send_and_ack, parameters

    def _group_call(self, send: Send) -> Call:
        layer = self._layer
        return self._statements.send_group, (
            send.channel.encode(),
            integer(send.size),
            pack(send.content, send.headers),
            float8(layer.expiry),
            float8(layer.group_expiry),
            bigint(layer.inbox_bytes),
            boolean(layer.has_durable),  # a member may be a channel whose messages outlive a crash
        )

    def take(self, answers: Sequence[Sequence[Row]]) -> None:
        """Read the answers to :meth:`calls` into the outcomes."""
        for placed, rows in zip(self._placed, answers, strict=False):
            if type(placed) is tuple:
                self.dropped += number(rows[0][1])
            else:
                self._take_sends(placed, rows)  # type: ignore[arg-type]  # it is no tuple

    def _take_sends(self, placed: _Placed, rows: Sequence[Row]) -> None:
        depths = [(number(row[0]), number(row[1]), row[3] == b"\x01") for row in rows]
        took = monotonic() - self._begun
        layer = self._layer
        for unit, row in zip(placed.units, rows, strict=True):
            low = None if row[6] is None else number(row[6])
            unit.counted(number(row[0]), number(row[1]), number(row[7]), low, took)
            layer.last_id = unit.last
            if unit.cap <= _LARGE and unit not in layer.tight:
                layer.tight.append(unit)
        is_full = [False] * len(depths)
        ranks = [0] * len(depths)
        before = [0] * len(depths)
        units = list(placed.units)
        for one, index, send, number_, _ in placed.items:
            unit = units[number_]
            depth, used, is_alive = depths[number_]
            if not is_alive:
                one.outcomes[index] = GONE
            elif depth + ranks[number_] >= unit.cap or (
                unit.bytes < ENDLESS and used + before[number_] >= unit.bytes
            ):
                one.outcomes[index] = FULL
                if not is_full[number_]:
                    is_full[number_] = True
                    if rows[number_][2] == b"\x01":
                        self.stale.append(unit.key)
            ranks[number_] += 1
            before[number_] += send.size


def _row_of(send: Send, unit: Unit) -> list[bytes | None]:
    """One message, column by column."""
    channel = send.channel
    mark = channel.find("!")
    key, room, wake = unit.fixed
    return [
        key,
        None if unit.owner is None else channel[: mark + 1].encode(),
        None if mark < 0 else channel[mark + 1 :].encode(),
        room,
        integer(send.size),
        pack(send.content, send.headers),
        wake,
    ]


def _rows_of(sends: Sequence[Send], unit: Unit) -> list[bytes | None]:
    """Several messages to one place: an array where they differ."""
    key, room, wake = unit.fixed
    marks = [send.channel.find("!") for send in sends]
    has_prefixes, has_dests = unit.owner is not None, marks[0] >= 0
    return [
        key,
        raw_array(TEXT, [one.channel[: at + 1].encode() for one, at in zip(sends, marks, strict=True)])
        if has_prefixes
        else None,
        raw_array(TEXT, [one.channel[at + 1 :].encode() for one, at in zip(sends, marks, strict=True)])
        if has_dests
        else None,
        room,
        ints([send.size for send in sends]),
        raw_array(BYTEA, [pack(send.content, send.headers) for send in sends]),
        wake,
    ]


def _columns_of(sends: Sequence[Send], units: Sequence[Unit]) -> list[bytes | None]:
    """Many messages, an array for each column. The first for each queue names whom to wake."""
    keys, prefixes, dests, rooms, sizes, bodies, wakes = [], [], [], [], [], [], []
    woken = set()
    for send, unit in zip(sends, units, strict=True):
        key, prefix, dest, room, size, body, wake = _row_of(send, unit)
        keys.append(key)
        prefixes.append(prefix)
        dests.append(dest)
        rooms.append(room)
        sizes.append(size)
        bodies.append(body)
        wakes.append(None if key in woken else wake)
        woken.add(key)
    return [
        raw_array(TEXT, keys),
        raw_array(TEXT, prefixes),
        raw_array(TEXT, dests),
        raw_array(SMALLINT, rooms),
        raw_array(INT, sizes),
        raw_array(BYTEA, bodies),
        raw_array(TEXT, wakes),
    ]


def notification_channel(prefix: str, key: str) -> str:
    """The notification channel of a queue, as the statements name it."""
    return prefix + md5(key.encode(), usedforsecurity=False).hexdigest()


def unit_for(layer: Any, channel: str) -> Unit:
    """Where a message to ``channel`` is counted. One object for one place: the caller keeps it."""
    mark = channel.find("!")
    if mark < 0:
        wake = notification_channel(layer.prefix, channel)
        return Unit(channel, None, 1, layer.capacity_of(channel), ENDLESS, None, wake)
    prefix = channel[: mark + 1]
    process = process_of(prefix)
    explicit = layer.explicit_capacity_of(prefix)
    key = prefix if process is None else f"{process}!"
    wake = notification_channel(layer.prefix, key)
    if explicit is not None:
        return Unit(key, prefix if process else None, 2, explicit, ENDLESS, process, wake)
    return Unit(key, None, 1, layer.inbox_capacity, layer.inbox_bytes, process, wake)


def plain_acks(turns: Sequence[Turn]) -> list[tuple[int, str, int, int]]:
    """The settlements of ``turns`` that are a deletion of a lease: turn, key, id, taken."""
    return [
        (number_, settlement.delivery.channel, settlement.delivery.token.id, settlement.delivery.token.taken)
        for number_, turn in enumerate(turns)
        if (settlement := turn.settlement) is not None and is_ack(settlement)
    ]


def is_ack(settlement: Settlement) -> bool:
    """Whether it ends a lease for good and keeps nothing."""
    return settlement.verdict is Verdict.DONE and settlement.delivery.is_leased
