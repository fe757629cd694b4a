"""What one flush of a hub sends: the messages of several callers as few statements, and each caller's outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, Protocol

from channels_core.layers import Outcome, Send, Settlement, Turn, Verdict
from channels_core.names import process_of
from channels_layer_database.postgresql.encoding import (
    BYTEA,
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
from channels_layer_database.postgresql.statements import Statements
from channels_layer_database.rows import pack

__all__ = ["ENDLESS", "LOWEST", "Batch", "Outgoing", "Rooms", "Unit", "is_ack", "plain_acks", "unit_for"]

SENT, FULL, GONE, TOO_LARGE = Outcome.SENT, Outcome.FULL, Outcome.GONE, Outcome.TOO_LARGE
ENDLESS: Final = 2**62
_LARGE: Final = 1000
_UNCOUNTED: Final = 500
LOWEST: Final = -(2**63)


class Unit:
    """Where messages are counted together: a channel, a process' inbox, or a prefix with a capacity of its own."""

    __slots__ = ("_bytes_left", "_left", "_until", "bytes", "cap", "key", "prefix", "process", "room")

    def __init__(
        self, key: str, prefix: str | None, room: int, cap: int, bytes_: int, process: str | None
    ) -> None:
        self.key = key
        self.prefix = prefix
        self.room = room
        self.cap = cap
        self.bytes = bytes_
        self.process = process
        self._left = 0
        self._bytes_left = 0
        self._until = 0.0

    def spend(self, count: int, size: int) -> bool:
        """Whether so much may be sent without counting what waits: a large room that was found far from full a moment
        ago. Small rooms are always counted."""
        if self._left < count or self._bytes_left < size or monotonic() > self._until:
            self._left = 0
            return False
        self._left -= count
        self._bytes_left -= size
        return True

    def counted(self, depth: int, used: int) -> None:
        """So much waited when it was counted."""
        if self.cap > _LARGE:
            self._left = min((self.cap - depth) // 16, _UNCOUNTED)
            self._bytes_left = (self.bytes - used) // 16
            self._until = monotonic() + 0.25


class Rooms(Protocol):
    """What a batch asks the layer."""

    max_message_size: int
    expiry: float
    group_expiry: float
    inbox_bytes: int
    has_durable: bool

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

    def __init__(
        self,
        layer: Rooms,
        statements: Statements,
        outgoing: Sequence[Outgoing],
        lows: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._lows = lows
        self.found_lows: dict[str, int] = {}
        """For each key that was counted, the lowest id of what waits there."""
        self._layer = layer
        self._statements = statements
        self.outgoing = outgoing
        self.is_durable = any(one.is_durable for one in outgoing)
        self._placed: list[_Placed | tuple[Outgoing, int]] = []
        self.stale: list[str] = []
        """Keys that are full and hold expired messages."""
        self.dropped = 0
        """Members that group sends passed over."""

    def calls(self) -> list[Call]:
        """The statements."""
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
            bigints([self._lows.get(unit.key, LOWEST) for unit in units]),
            ints(
                [
                    0 if unit.spend(ranks[place], before[place]) else unit.cap
                    for place, unit in enumerate(units)
                ]
            ),
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
        for unit, row in zip(placed.units, rows, strict=True):
            if row[7] != b"\x01":
                continue
            unit.counted(number(row[0]), number(row[1]))
            if row[6] is not None and unit.room == 1:
                self.found_lows[unit.key] = number(row[6])
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


def unit_for(layer: Any, channel: str) -> Unit:
    """Where a message to ``channel`` is counted. One object for one place: the caller keeps it."""
    mark = channel.find("!")
    if mark < 0:
        return Unit(channel, None, 1, layer.capacity_of(channel), ENDLESS, None)
    prefix = channel[: mark + 1]
    process = process_of(prefix)
    explicit = layer.explicit_capacity_of(prefix)
    key = prefix if process is None else f"{process}!"
    if explicit is not None:
        return Unit(key, prefix if process else None, 2, explicit, ENDLESS, process)
    return Unit(key, None, 1, layer.inbox_capacity, layer.inbox_bytes, process)


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
