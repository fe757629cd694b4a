"""The layer against a simple model of it, under any sequence of calls that hypothesis can think of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from channels_core.layers import AT_LEAST_ONCE, Delivery, Outcome, Settlement, Verdict
from channels_core.testing.conformance.layer_laws.subject import Layer, LayerLaws, OpenLayer, send, to_group

__all__ = ["ModelLaws"]

CAPACITY, INBOX_CAPACITY, MAX_ATTEMPTS = 3, 4, 2
# Time moves in whole seconds: nothing is ever due at the very moment something is asked.
EXPIRY, LEASE, GROUP_EXPIRY = 6.5, 4.5, 9.5


@dataclass(kw_only=True)
class Waiting:
    """One message of the model."""

    number: int
    since: float
    locals: frozenset[str] = frozenset()
    attempt: int = 1
    is_kept: bool = False


@dataclass(kw_only=True)
class Model:
    """What a layer is, without anything that makes one difficult."""

    now: float = 0.0
    queues: dict[str, list[Waiting]] = field(default_factory=dict)
    leases: list[tuple[Delivery, str, Waiting, float]] = field(default_factory=list)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    dead: list[int] = field(default_factory=list)

    def live(self, channel: str) -> list[Waiting]:
        """What waits on ``channel`` and has not expired; the list itself, to be changed."""
        queue = self.queues.setdefault(channel, [])
        queue[:] = [one for one in queue if one.is_kept or self.now - one.since < EXPIRY]
        return queue

    def is_full(self, channel: str) -> bool:
        if channel.startswith("in."):
            return (
                sum(len(self.live(name)) for name in self.queues if name.startswith("in.")) >= INBOX_CAPACITY
            )
        return len(self.live(channel)) >= CAPACITY

    def put(self, channel: str, number: int, members: frozenset[str] = frozenset()) -> bool:
        if self.is_full(channel):
            return False
        self.live(channel).append(Waiting(number=number, since=self.now, locals=members))
        return True

    def members(self, group: str) -> set[str]:
        added = self.groups.setdefault(group, {})
        return {
            name for name, when in added.items() if name.startswith("in.") or self.now - when < GROUP_EXPIRY
        }

    def put_back(self, channel: str, one: Waiting, *, has_begun: bool) -> None:
        if has_begun and one.attempt >= MAX_ATTEMPTS:
            self.dead.append(one.number)
            return
        one.attempt += has_begun
        one.is_kept = True
        self.queues[channel].insert(0, one)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        lapsed = [lease for lease in self.leases if lease[3] <= self.now]
        self.leases = [lease for lease in self.leases if lease[3] > self.now]
        for _, channel, one, _ in reversed(lapsed):
            self.put_back(channel, one, has_begun=True)


CHANNELS = st.sampled_from(["jobs", "a", "jobs", "b?x", "in.one", "jobs", "in.two"])
MEMBERS = st.sampled_from(["a", "b?x", "in.one.x", "in.one.y", "in.two.x"])
GROUPS = st.sampled_from(["g", "h"])
VERDICTS = st.sampled_from([Verdict.DONE, Verdict.RELEASE, Verdict.REQUEUE, Verdict.DEAD])


class Machine(RuleBasedStateMachine):
    """Does each step to a layer and to the model, and compares. Subclassed with ``laws`` and ``layer``."""

    laws: ClassVar[LayerLaws]
    layer: ClassVar[Layer]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.number = 0
        self.layer.flush()
        self.has_leases = AT_LEAST_ONCE in self.layer.backend.delivery_classes
        self.process = self.layer.open_process()
        self.names = {prefix: f"{prefix}.{self.process}!" for prefix in ("in.one", "in.two")}

    def teardown(self) -> None:
        self.layer.close_process(self.process)

    def name(self, short: str) -> str:
        """Channel, prefix or member of the model as the layer calls it."""
        if short.endswith((".x", ".y")):
            return self.names[short[:-2]] + short[-1]
        return self.names.get(short, short)

    def new_number(self) -> int:
        self.number += 1
        return self.number

    @rule(channel=CHANNELS, locals_=st.lists(st.sampled_from("xy"), min_size=1, max_size=3))
    def send(self, channel: str, locals_: list[str]) -> None:
        sends, expected = [], []
        for local in locals_:
            number = self.new_number()
            is_inbox = channel.startswith("in.")
            sends.append(send(self.name(f"{channel}.{local}") if is_inbox else channel, number))
            is_sent = self.model.put(channel, number, frozenset(local if is_inbox else ()))
            expected.append(Outcome.SENT if is_sent else Outcome.FULL)
        assert self.layer.send(*sends) == expected

    @rule(group=GROUPS, member=MEMBERS)
    def add(self, group: str, member: str) -> None:
        self.layer.group_add(group, self.name(member))
        self.model.groups.setdefault(group, {})[member] = self.model.now

    @rule(group=GROUPS, member=MEMBERS)
    def discard(self, group: str, member: str) -> None:
        self.layer.group_discard(group, self.name(member))
        self.model.groups.setdefault(group, {}).pop(member, None)

    @rule(group=GROUPS)
    def send_group(self, group: str) -> None:
        number = self.new_number()
        assert self.layer.send_one(to_group(group, number)) is Outcome.SENT
        found = self.model.members(group)
        prefixes = {member[:-2] for member in found if member.startswith("in.")}
        rooms = INBOX_CAPACITY - sum(len(self.model.live(name)) for name in ("in.one", "in.two"))
        if len(prefixes) > rooms > 0:  # which of the two gets the last place is not said: ask the layer
            pending = {one.channel: one.pending for one in self.layer.statistics(*self.names.values())}
            prefixes = {
                prefix for prefix in prefixes if pending[self.names[prefix]] > len(self.model.live(prefix))
            }
            assert len(prefixes) == rooms
        for prefix in prefixes:
            locals_ = frozenset(member[-1] for member in found if member.startswith(prefix))
            self.model.put(prefix, number, locals_)
        for member in found:
            if not member.startswith("in."):
                self.model.put(member, number)

    @rule(channel=CHANNELS, limit=st.integers(1, 4))
    def receive(self, channel: str, limit: int) -> None:
        received = self.layer.receive(self.name(channel), limit=limit)
        queue = self.model.live(channel)
        expected, queue[:] = queue[:limit], queue[limit:]
        assert [(one.channel, one.content["n"], frozenset(one.locals), one.attempt) for one in received] == [
            (self.name(channel), one.number, one.locals, one.attempt) for one in expected
        ]
        for delivery, one in zip(received, expected, strict=True):
            assert delivery.is_leased is (channel == "jobs" and self.has_leases)
            if delivery.is_leased:
                self.model.leases.append((delivery, channel, one, self.model.now + LEASE))

    @precondition(lambda self: self.model.leases)
    @rule(verdict=VERDICTS, is_begun=st.booleans(), data=st.data())
    def settle(self, verdict: Verdict, is_begun: bool, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(range(len(self.model.leases))))
        delivery, channel, one, _ = self.model.leases.pop(lease)
        settlement = Settlement(delivery, verdict, {"n": one.number}, "no", is_begun)
        self.layer.settle(settlement, settlement)
        if verdict is Verdict.RELEASE:
            self.model.put_back(channel, one, has_begun=is_begun)
        elif verdict is Verdict.REQUEUE:
            one.attempt, one.is_kept = 1, True
            self.model.queues[channel].append(one)
        elif verdict is Verdict.DEAD:
            self.model.dead.append(one.number)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(range(len(self.model.leases))))
        delivery, channel, one, _ = self.model.leases.pop(index)
        self.layer.renew_leases(delivery)
        self.model.leases.append((delivery, channel, one, self.model.now + LEASE))

    @precondition(lambda self: self.laws.takes_clock)
    @rule(seconds=st.integers(1, 4))
    def pass_time(self, seconds: int) -> None:
        self.laws.pass_time(seconds)
        self.model.pass_time(seconds)
        assert self.layer.renew_process(self.process)

    @invariant()
    def figures_agree(self) -> None:
        channels = ["a", "b?x", "jobs", "in.one", "in.two"]
        found = {one.channel: one for one in self.layer.statistics(*map(self.name, channels))}
        for channel in channels:
            assert found[self.name(channel)].pending == len(self.model.live(channel)), channel
        assert found["jobs"].leased == len(self.model.leases)
        for group in ("g", "h"):
            expected = {self.name(member) for member in self.model.members(group)}
            assert set(self.layer.group_channels(group)) == expected
            assert self.layer.group_count(group) == len(expected)

    @invariant()
    def dead_letters_agree(self) -> None:
        letters = [letter.content["n"] for letter in self.layer.dead_letters()]
        assert sorted(letters) == sorted(self.model.dead)


class ModelLaws(LayerLaws):
    """Whatever is called in whatever order, the layer does what the model says."""

    model_settings: ClassVar[settings] = settings(
        deadline=None,
        database=None,
        max_examples=40,
        stateful_step_count=25,
        suppress_health_check=list(HealthCheck),
    )
    """For hypothesis: how many sequences of calls, of what length."""

    def test_any_sequence_of_calls_does_what_the_model_says(self, open_layer: OpenLayer) -> None:
        options: dict[str, Any] = {
            "capacity": CAPACITY,
            "inbox_capacity": INBOX_CAPACITY,
            "max_attempts": MAX_ATTEMPTS,
        }
        if self.takes_clock:
            options |= {"expiry": EXPIRY, "lease": LEASE, "group_expiry": GROUP_EXPIRY, "process_lease": 9.5}
        if AT_LEAST_ONCE in open_layer().backend.delivery_classes:
            options["delivery"] = {"jobs": AT_LEAST_ONCE}
        run_state_machine_as_test(
            type("LayerMachine", (Machine,), {"laws": self, "layer": open_layer(**options)}),
            settings=self.model_settings,
        )
