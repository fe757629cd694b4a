"""The layer contract: what a backend plugin writes, and the laws it keeps.

Users hold a :class:`~channels_core.channel_layer.ChannelLayer`; a plugin writes a :class:`LayerBackend`. Each law
below is a test of :mod:`channels_core.testing.conformance.layers`; docs/decisions/0001-layer-contract.md argues them.

A backend writes each operation either synchronously or asynchronously (the ``a`` twin), or both; the base class
derives what is missing. Everything a backend receives has been checked: names are in the grammar, contents and
headers hold normalised values that nobody will change. It must never change them either.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Any, ClassVar, Final, Literal, get_args

import msgspec

from channels_core.exceptions import InvalidChannelLayerError, LayerUnavailable, TransactionError
from channels_core.layer_views import DerivedViews
from channels_core.names import new_id, prefix_of
from channels_core.statistics import Counters

__all__ = [
    "AT_LEAST_ONCE",
    "AT_MOST_ONCE",
    "ChannelFigures",
    "DeadLetter",
    "Delivery",
    "DeliveryClass",
    "Exchange",
    "LayerBackend",
    "Outcome",
    "ProcessInfo",
    "ProcessKind",
    "Send",
    "Settlement",
    "Turn",
    "Verdict",
]

DeliveryClass = Literal["at-most-once", "at-least-once"]
AT_MOST_ONCE: Final = "at-most-once"
AT_LEAST_ONCE: Final = "at-least-once"
ProcessKind = Literal["interface", "worker", "other"]


class Outcome(enum.Enum):
    """What became of one send. Only FULL and UNCERTAIN are worth trying again."""

    SENT = "sent"
    FULL = "full"
    """The channel is at capacity, or refused an earlier send of the same batch: nothing was sent."""
    GONE = "gone"
    """The process that owns the channel is dead: dropped and counted."""
    TOO_LARGE = "too large"
    UNCERTAIN = "uncertain"
    """The engine did not answer: the message may have arrived."""

    @property
    def is_final(self) -> bool:
        """Whether trying again would change nothing."""
        return self is not Outcome.FULL and self is not Outcome.UNCERTAIN


class Verdict(enum.Enum):
    """How the handling of one delivery ended."""

    DONE = "done"
    REQUEUE = "requeue"
    """To the back of its channel with the settlement's content, exempt from capacity, attempts counted anew."""
    RELEASE = "release"
    """Not begun, or to be run again: back to the front of its channel. Of several in one call, the first named comes
    first."""
    DEAD = "dead"
    """Given up: dead-lettered with its reason on an at-least-once channel, dropped on another."""


# The four records on a message's way are made by position in hot code: naming the fields would cost as much as
# making them. They are C-level structs, frozen, and invisible to the garbage collector's cycle search.
class Send(msgspec.Struct, frozen=True, gc=False):
    """One message on its way to a channel, or to the members of a group."""

    channel: str
    """A channel's full name, or the group's name where ``is_group``."""
    content: dict[str, Any]
    headers: dict[str, str | int]
    size: int
    """Bytes of the content, as :func:`channels_core.message.normalise` estimates them."""
    is_group: bool = False


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One message taken off a channel."""

    channel: str
    """A normal or ``?`` channel's name, or a process-specific channel's prefix up to and including ``!``."""
    content: dict[str, Any]
    headers: dict[str, str | int]
    locals: tuple[str, ...] = ()
    """For a prefix: the local parts, after the ``!``, that this message goes to; one, or many for a broadcast."""
    attempt: int = 1
    """1 for a first delivery; one more each time a lease ran out or the message was released after it began."""
    token: Any = None
    """The backend's own reference to the message, for :meth:`LayerBackend.settle`."""
    is_leased: bool = False
    """Whether the delivery must end in a settlement (at-least-once). Where false, DONE and DEAD do nothing."""


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """How one delivery ended."""

    delivery: Delivery
    verdict: Verdict
    content: dict[str, Any] | None = None
    """REQUEUE: what goes to the back of the channel, normalised."""
    reason: str = ""
    """DEAD: why, in a sentence for a person."""
    is_begun: bool = False
    """RELEASE: the consumer had begun, so the next delivery counts one attempt more."""


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One consumer run's outcome: its sends, in order, and what settles its input.

    ``settlement`` is applied only when no send of the turn was refused (:attr:`Outcome.is_final`); with ``None``
    there is nothing to settle.
    """

    sends: Sequence[Send]
    settlement: Settlement | None = None


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """What :meth:`LayerBackend.exchange` brings back."""

    outcomes: list[list[Outcome]]
    """For each turn, the outcome of each send. A turn was settled iff all of them are final."""
    deliveries: list[Delivery]
    unsettled: Sequence[Settlement] = ()
    """Those of turns whose sends left before the engine went away: to be settled when it is back."""


class ProcessInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds a lease on the layer."""

    id: str
    kind: ProcessKind
    age: float
    """Seconds since :meth:`LayerBackend.open_process`."""
    load: float
    """Share of its capacity in use, 0.0 to 1.0, as last reported."""
    label: str
    """``host:pid`` or what the opener said, for people."""
    counters: dict[str, int]


class ChannelFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's figures for one channel, or for one process prefix."""

    channel: str
    pending: int
    """Messages waiting; leased ones are not among them."""
    leased: int
    oldest_age: float
    """Seconds the oldest waiting message has waited; 0.0 when none waits."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was given up."""

    id: str
    channel: str
    content: dict[str, Any]
    headers: dict[str, str | int]
    attempt: int
    reason: str
    age: float
    """Seconds since it was given up."""


class LayerBackend(DerivedViews):
    """Base class of layer backends; its options are those every layer has.

    Write, for each operation, the synchronous method or its ``a`` twin::

        send_batch receive_batch settle renew_leases
        group_add group_discard group_channels group_count groups close_channel
        open_process renew_process close_process processes
        flush statistics dead_letters replay_dead drop_dead

    ``send_one``, ``exchange``, ``clean`` and ``close`` have defaults worth overriding; ``wake`` has none, and
    ``send_in_transaction`` is for backends that keep messages in a database. Synchronous methods may be
    called from any thread, asynchronous ones from any running event loop, all at once; they agree with each other.

    Options (seconds and bytes): ``expiry``, ``group_expiry``, ``capacity``, ``channel_capacity`` (glob or compiled
    pattern to number, first match wins, matched against the name up to ``!``), ``inbox_capacity`` and
    ``inbox_bytes`` (one process's waiting messages), ``max_message_size``, ``delivery`` (glob to delivery class),
    ``lease``, ``max_attempts``, ``process_lease``. Subclasses take their own options as keyword arguments and pass
    the rest on. Raises :class:`InvalidChannelLayerError` for a value out of range, naming the option.
    """

    local_only: ClassVar[bool] = False
    """Whether messages stay in this operating-system process. Such a layer cannot serve separate workers."""
    delivery_classes: ClassVar[frozenset[DeliveryClass]] = frozenset({AT_MOST_ONCE})
    """The classes that the backend can keep."""
    is_waiting: ClassVar[bool] = True
    """Whether synchronous methods other than ``receive_batch`` may wait for input or output. Where false they are
    allowed, and preferred, in a thread whose event loop runs."""
    is_exchange_atomic: ClassVar[bool] = False
    """Whether a turn's sends and its settlement happen together or not at all."""
    is_transactional: ClassVar[bool] = False
    """Whether the backend writes :meth:`send_in_transaction`."""

    def __init__(
        self,
        *,
        expiry: float = 60.0,
        group_expiry: float = 86_400.0,
        capacity: int = 100,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
        inbox_capacity: int = 10_000,
        inbox_bytes: int = 64 * 2**20,
        max_message_size: int = 2**20,
        delivery: Mapping[str, DeliveryClass] | None = None,
        lease: float = 30.0,
        max_attempts: int = 5,
        process_lease: float = 9.0,
    ) -> None:
        self.expiry = _positive("expiry", expiry)
        self.group_expiry = _positive("group_expiry", group_expiry)
        self.capacity = _positive_int("capacity", capacity)
        self.inbox_capacity = _positive_int("inbox_capacity", inbox_capacity)
        self.inbox_bytes = _positive_int("inbox_bytes", inbox_bytes)
        self.max_message_size = _positive_int("max_message_size", max_message_size)
        self.lease = _positive("lease", lease)
        self.max_attempts = _positive_int("max_attempts", max_attempts)
        self.process_lease = _positive("process_lease", process_lease)
        self.channel_capacity = dict(channel_capacity or {})
        self._capacity_patterns = [
            (_pattern("channel_capacity", name), _positive_int(f"channel_capacity[{name!r}]", number))
            for name, number in self.channel_capacity.items()
        ]
        self.delivery = dict(delivery or {})
        self._delivery_patterns = [
            (_pattern("delivery", name), self._supported(name, kind)) for name, kind in self.delivery.items()
        ]
        self.transactional_by_default = False
        """Whether a send that does not say otherwise goes through :meth:`send_in_transaction`. A backend that can sets
        it from its options."""
        self.counters = Counters()
        self.on_expired: Callable[[Sequence[Mapping[str, str | int]]], None] | None = None
        """Set by the core: to be called, from any thread and without locks held, with the headers of messages that
        expired unread, so that their senders' credit comes back."""

    def _supported(self, pattern: str, kind: str) -> DeliveryClass:
        for known in get_args(DeliveryClass):
            if kind == known:
                if known in self.delivery_classes:
                    return known  # type: ignore[no-any-return]  # get_args() forgets the type
                raise InvalidChannelLayerError(
                    f"Option delivery[{pattern!r}] asks for {kind!r}, which {type(self).__name__} cannot keep;"
                    f" it keeps: {', '.join(sorted(self.delivery_classes))}. Choose another layer for these channels."
                )
        raise InvalidChannelLayerError(
            f"Option delivery[{pattern!r}] is {kind!r}; the delivery classes are: {', '.join(get_args(DeliveryClass))}."
        )

    # What the options say about a channel. Backends call these once per channel and keep the answer.

    def capacity_of(self, channel: str) -> int:
        """How many messages may wait on ``channel``; for a process-specific one, on its prefix."""
        name = prefix_of(channel)
        explicit = self.explicit_capacity_of(name)
        if explicit is not None:
            return explicit
        return self.inbox_capacity if name.endswith("!") else self.capacity

    def explicit_capacity_of(self, channel: str) -> int | None:
        """The number of the first ``channel_capacity`` pattern that matches, else ``None``.

        A prefix with an explicit capacity is counted by itself; the others share their process's inbox.
        """
        name = prefix_of(channel)
        for pattern, number in self._capacity_patterns:
            if pattern.match(name):
                return number
        return None

    def delivery_class_of(self, channel: str) -> DeliveryClass:
        """The class of the first ``delivery`` pattern that matches; at-most-once otherwise.

        Process-specific channels are always at-most-once: their one reader is the process itself.
        """
        if "!" not in channel:
            for pattern, kind in self._delivery_patterns:
                if pattern.match(channel):
                    return kind
        return AT_MOST_ONCE

    def new_channel(self, pattern: str) -> str:
        """An unused name: ``pattern``, which ends in ``?`` or ``!``, plus 128 random bits. Never waits."""
        return pattern + new_id()

    # The contract. Each docstring is a law.

    def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        """Put each send on its channel, in order, and say what became of each.

        Never waits for room. After a channel refused one send it refuses the rest of the batch's for it, so nothing
        overtakes. A group send is always SENT: what it drops at full members is counted in
        ``counters.group_dropped``. A send to a channel whose process is dead is GONE. If one send returned before
        another began, a reader of both gets the first one first, on single-reader and process-specific channels, on
        normal channels with one reader, and between direct and group sends to one member.

        Raises :class:`~channels_core.exceptions.LayerUnavailable` only when nothing of the batch was sent.
        """
        return self._run_async(self.asend_batch(sends))

    def send_one(self, send: Send) -> Outcome:
        """:meth:`send_batch` for one send."""
        return self.send_batch((send,))[0]

    def send_in_transaction(self, sends: Sequence[Send]) -> list[Outcome] | None:
        """:meth:`send_batch`, in the database transaction that the calling thread has open.

        Nobody sees the messages before that commits, and nobody ever does where it, or a savepoint around the call, is
        rolled back; readers who wait are woken by the commit. Outcomes are those of the call: a full channel is FULL
        now, and at the commit nothing is refused. The happens-before of the order law is the commit's.

        ``None``, and nothing done, where the thread has no transaction open on the backend's database: the caller then
        sends in another way. Synchronous only, never called in a thread whose event loop runs; written only where
        :attr:`is_transactional`.

        Raises :class:`~channels_core.exceptions.LayerUnavailable`, or the database's own error where the transaction
        itself is broken.
        """
        raise TransactionError(f"{type(self).__name__} cannot write messages in a database transaction.")

    def receive_batch(
        self,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        """Take at most ``limit`` messages in all off ``channels``, waiting at most ``timeout`` seconds for the first.

        ``timeout`` 0 does not wait, ``None`` waits until :meth:`wake`. Names ending in ``!`` are prefixes. Rotates over
        the channels, so a busy one cannot starve a quiet one. Messages older than ``expiry`` are not delivered; on
        at-least-once channels that clock stops at the first delivery. Leases taken belong to ``process``, if given,
        and come back when it ends. Returns an empty list when time is up, woken, or ``channels`` is empty, and may
        do so early: callers ask again. Cancelled (the ``a`` twin), nothing is lost.
        """
        return self._receive_async(channels, limit=limit, timeout=timeout, process=process)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Say how deliveries ended. Settling again, or after the lease ran out, does nothing.

        RELEASE and REQUEUE also put back a delivery that was not leased. After more than ``max_attempts`` attempts
        a leased message is dead-lettered instead of delivered again.
        """
        self._run_async(self.asettle(settlements))

    def exchange(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = 0,
        process: str | None = None,
    ) -> Exchange:
        """Send, settle and receive, in one round trip where the engine can.

        Each turn's sends leave before its settlement, which is applied only when all of them are final. A worker
        calls it with the turns it finished and the channels it serves. It takes what messages there are, but waits
        for them only where every send arrived: the caller has to look after the others.

        Raises :class:`~channels_core.exceptions.LayerUnavailable` only when nothing of the turns happened. Where the
        engine goes away after the sends, what it could not settle any more is in ``unsettled``.
        """
        sends = [send for turn in turns for send in turn.sends]
        outcomes, settlements = settled_by(turns, self.send_batch(sends) if sends else ())
        deliveries: list[Delivery] = []
        try:
            if settlements:
                self.settle(settlements)
                settlements = []
            if channels and limit:
                timeout = timeout if all_sent(outcomes) else 0
                deliveries = self.receive_batch(channels, limit=limit, timeout=timeout, process=process)
        except LayerUnavailable:
            if not sends:
                raise
            return Exchange(outcomes, deliveries, settlements)
        return Exchange(outcomes, deliveries)

    def renew_leases(self, deliveries: Sequence[Delivery]) -> None:
        """Start the lease of each delivery anew; those that ran out or were settled are ignored."""
        self._run_async(self.arenew_leases(deliveries))

    def group_add(self, group: str, channel: str) -> None:
        """Make ``channel`` a member; for one that is already, only its time starts anew.

        A group send begun after this returned reaches the channel. Adding a channel that :meth:`close_channel`
        ended, or whose process is dead, does nothing.
        """
        self._run_async(self.agroup_add(group, channel))

    def group_discard(self, group: str, channel: str) -> None:
        """End a membership; nothing happens where there is none."""
        self._run_async(self.agroup_discard(group, channel))

    def group_channels(self, group: str) -> list[str]:
        """The members' full names, in no order. Members that ended or lapsed are not among them."""
        return self._run_async(self.agroup_channels(group))

    def group_count(self, group: str) -> int:
        """How many members :meth:`group_channels` would list."""
        return self._run_async(self.agroup_count(group))

    def groups(self) -> dict[str, int]:
        """Every group that has members, and how many. For people: may be slow on a large engine."""
        return self._run_async(self.agroups())

    def close_channel(self, channel: str) -> None:
        """Say that a process-specific channel has ended: its memberships end, later adds for it do nothing.

        Called by the owning process when a socket closes. Idempotent.
        """
        self._run_async(self.aclose_channel(channel))

    def open_process(self, kind: ProcessKind, *, label: str = "") -> str:
        """Take a lease for this process and return its new id, the PROCESS of ``prefix.PROCESS!local``.

        All prefixes of one process share one inbox: messages to them are received in the order they were sent, by a
        ``receive_batch`` that names all of them, and count together against ``inbox_capacity`` and ``inbox_bytes``.
        Where its holder dies the lease runs out after ``process_lease`` and :meth:`close_process` happens by itself.

        Leases run only while the engine is there: where nobody renewed one for more than half of ``process_lease``, it
        was away or stalled, and those that ran at the last renewal go on running, for two thirds of ``process_lease``
        from when that is seen. Until then sends to their holders arrive, and their memberships stand.
        """
        return self._run_async(self.aopen_process(kind, label=label))

    def renew_process(
        self, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        """Start the process's lease anew and report its figures. ``False`` when it had run out: open another.

        Call it every third of ``process_lease``.
        """
        return self._run_async(self.arenew_process(process, load=load, counters=counters))

    def close_process(self, process: str) -> None:
        """End a process: its leased messages are released, its memberships end, sends to it are GONE. Idempotent."""
        self._run_async(self.aclose_process(process))

    def processes(self) -> list[ProcessInfo]:
        """The processes whose lease runs."""
        return self._run_async(self.aprocesses())

    def flush(self) -> None:
        """Delete everything this layer keeps: messages, groups, dead letters. Open processes stay open."""
        self._run_async(self.aflush())

    def statistics(self, channels: Iterable[str] | None = None) -> list[ChannelFigures]:
        """The figures of each of ``channels`` (all that hold messages, when ``None``), in name order. For people."""
        return self._run_async(self.astatistics(channels))

    def dead_letters(self, channel: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        """The oldest dead letters, of one channel or of all. Empty where the backend has no at-least-once channels."""
        return self._run_async(self.adead_letters(channel, limit=limit))

    def replay_dead(self, ids: Sequence[str]) -> int:
        """Put dead letters back on their channels as new messages; returns how many there were."""
        return self._run_async(self.areplay_dead(ids))

    def drop_dead(self, ids: Sequence[str]) -> int:
        """Delete dead letters; returns how many there were."""
        return self._run_async(self.adrop_dead(ids))

    def clean(self, *, limit: int | None = None) -> int:
        """Delete what nobody will read any more: expired messages, what dead processes and lapsed memberships left.

        Beside traffic, in small steps, about ``limit`` rows or messages in all where given; returns how many went. May
        take long. Backends clean up as they work; this is for what piled up, so the default has nothing to do.
        """
        if type(self).aclean is not LayerBackend.aclean:
            return self._run_async(self.aclean(limit=limit))
        return 0

    def wake(self) -> None:
        """Make every ``receive_batch`` that waits in this process return at once. Idempotent, from any thread.

        Every backend writes it: it is how workers and servers stop without waiting for a timeout. It does not hold
        for a ``receive_batch`` that begins later: who stops readers wakes them until they have ended. May be called
        by a signal handler, so also while the same thread is inside the backend.
        """
        raise AssertionError("every backend writes wake(); the class is not created without it")

    async def aleave_loop(self) -> None:
        """Give up the connections that belong to the running event loop, which is about to end. Does nothing where
        loops have none; used in that loop again, the backend makes new ones."""

    def close(self) -> None:
        """Give up connections and threads; the backend is not used afterwards. Idempotent."""
        self._close_views()


def settled_by(
    turns: Sequence[Turn], outcomes: Iterable[Outcome]
) -> tuple[list[list[Outcome]], list[Settlement]]:
    """The outcomes of all turns' sends for each turn, and the settlements of those whose outcomes are final."""
    flat = iter(outcomes)
    by_turn = [[next(flat) for _ in turn.sends] for turn in turns]
    settlements = [
        turn.settlement
        for turn, of_turn in zip(turns, by_turn, strict=True)
        if turn.settlement is not None and all(outcome.is_final for outcome in of_turn)
    ]
    return by_turn, settlements


def uncertain(turns: Sequence[Turn]) -> Exchange:
    """What is known of ``turns`` that nobody answered for: their sends may have arrived. Where there was nothing to
    send, the settlement is to be tried again."""
    return Exchange(
        [[Outcome.UNCERTAIN] * len(turn.sends) for turn in turns],
        [],
        [turn.settlement for turn in turns if turn.settlement is not None and not turn.sends],
    )


def all_sent(outcomes: Sequence[Sequence[Outcome]]) -> bool:
    """Whether every send of an exchange arrived, so that it may wait for messages."""
    return all(outcome is Outcome.SENT for of_turn in outcomes for outcome in of_turn)


def _positive(option: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InvalidChannelLayerError(
            f"Option {option} is {value!r}: it must be a number of seconds above 0."
        )
    return float(value)


def _positive_int(option: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidChannelLayerError(f"Option {option} is {value!r}: it must be an integer of at least 1.")
    return value


def _pattern(option: str, pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    if isinstance(pattern, re.Pattern):
        return pattern
    if not isinstance(pattern, str):
        raise InvalidChannelLayerError(
            f"Option {option} has the key {pattern!r}: keys are globs ('http.*') or compiled patterns."
        )
    return re.compile(translate(pattern))
