"""Sends: on one server a batch is one call; on several it is one for each, after groups were asked for members."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from channels_core.layers import Outcome, Send
from channels_layer_redis.channels import Inlet, Plan, Queue, sent_field
from channels_layer_redis.engine import Engine, Steps, sure
from channels_layer_redis.envelope import of_group
from channels_layer_redis.scripts import FORGET, MEMBERS
from channels_layer_redis.transport import Command, Routed, TransportError, Unanswered, Unsent

__all__ = ["OUTCOMES", "Sending"]

OUTCOMES: Final = {48: Outcome.FULL, 49: Outcome.SENT, 50: Outcome.GONE}
_SENT, _FULL, _GONE, _UNCERTAIN = Outcome.SENT, Outcome.FULL, Outcome.GONE, Outcome.UNCERTAIN
_WAIT_MS: Final = 1000


class _Broadcast(NamedTuple):
    """One process's share of a send to a group, and where to look what became of it."""

    plan: Plan
    place: int
    members: int
    group: str
    prefix: str


class Sending:
    """Turns sends into steps, and codes into outcomes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._channels = engine.channels
        self._pack = engine.envelope.pack
        options = engine.options
        self._group_tail = (int(options.group_expiry * 1000), options.inbox_capacity, options.inbox_bytes)

    def one_command(self, send: Send) -> tuple[Any, ...] | None:
        """One send as the shortest command there is for it; ``None`` where it takes a plan."""
        if send.is_group:
            return None
        name = send.channel
        address = self._channels.of(name)
        if type(address) is Inlet:
            body = self._pack(send.content, send.headers, name)
            return (*address.send_head, send.size, f"{name}:{send.size}:{address.own}", body)
        if address.has_locals:  # type: ignore[union-attr]  # else a Queue
            return None
        return (*address.send_head, self._pack(send.content, send.headers, name))

    def send_one(self, send: Send) -> Steps[Outcome]:
        """See :meth:`channels_core.layers.LayerBackend.send_one`."""
        engine = self._engine
        command = None if engine.must_plan() else self.one_command(send)
        if command is not None:
            try:
                [reply] = yield [command]
            except Unanswered:
                self.count((_UNCERTAIN,))
                return _UNCERTAIN
            outcome = self.outcome_of(reply)
            if outcome is not None:
                return outcome
        [outcome] = yield from self.send_batch((send,))
        return outcome

    def add(self, plan: Plan, send: Send) -> int:
        """The step of one send; of one to a group only where there is one server. Returns its place."""
        name, size = send.channel, send.size
        if send.is_group:
            body = self._pack(send.content, send.headers, of_group(name))
            keys = self._engine.keys
            three = (plan.key(keys.of_group(letter, name)) for letter in "rok")
            return plan.step("G", *three, name, *self._group_tail, f"1:::{size}:{name}:", size, body)
        body = self._pack(send.content, send.headers, name)
        address = self._channels.of(name)
        if type(address) is Inlet:
            places = plan.key(address.process_key), plan.key(address.inbox)
            header = f"{name}:{size}:{address.own}"
            limits = address.field, address.capacity, address.max_bytes
            return plan.repeat(("I", *places, "=", *limits), size, header, body)
        assert type(address) is Queue
        meta = f"1:::{size}::{name[len(address.name) :]}" if address.has_locals else ""
        return self._add_to_queue(plan, address, meta, body)

    @staticmethod
    def _add_to_queue(plan: Plan, queue: Queue, meta: str, body: bytes) -> int:
        limits = queue.capacity, queue.leased_flag, queue.max_bytes, queue.ttl
        return plan.repeat(("S", plan.key(queue.key), *limits), meta, body)

    def outcome_of(self, reply: Any) -> Outcome | None:
        """What the reply to :meth:`one_command` says, counted; ``None`` where a closer look is needed."""
        code = sure(reply)
        if code == 0:
            return None
        outcome = _SENT if code == 1 else _GONE
        self.count((outcome,))
        return outcome

    def count(self, outcomes: Sequence[Outcome]) -> None:
        """Add to the counters what became of sends."""
        counters = self._engine.counters
        for outcome in outcomes:
            if outcome is _SENT:
                counters.sent += 1
            elif outcome is _FULL:
                counters.full += 1
            elif outcome is _GONE:
                counters.gone += 1
            elif outcome is _UNCERTAIN:
                counters.uncertain += 1

    def send_batch(self, sends: Sequence[Send]) -> Steps[list[Outcome]]:
        """See :meth:`channels_core.layers.LayerBackend.send_batch`."""
        if not sends:
            return []
        try:
            if self._engine.is_sharded:
                outcomes = yield from self._send_to_many(sends)
            else:
                outcomes = yield from self._send_to_one(sends)
        except Unanswered:
            outcomes = [_UNCERTAIN] * len(sends)
        self.count(outcomes)
        return outcomes

    def send_together(self, sends: Sequence[Send]) -> Steps[list[Outcome | Exception]]:
        """Sends, on one server, of callers that know nothing of each other: what cannot be packed fails by itself."""
        plan = self._engine.plan()
        found: list[Outcome | Exception] = []
        places: list[tuple[int, int]] = []
        for n, send in enumerate(sends):
            found.append(_UNCERTAIN)
            try:
                places.append((n, self.add(plan, send)))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is its caller's
                found[n] = error
        try:
            outcomes = yield from self._carry_out(plan, [place for _, place in places])
        except Unanswered:
            outcomes = [_UNCERTAIN] * len(places)
        self.count(outcomes)
        for (n, _), outcome in zip(places, outcomes, strict=True):
            found[n] = outcome
        return found

    def _send_to_one(self, sends: Sequence[Send]) -> Steps[list[Outcome]]:
        plan = self._engine.plan()
        places = [self.add(plan, send) for send in sends]
        return (yield from self._carry_out(plan, places))

    def _carry_out(self, plan: Plan, places: Sequence[int]) -> Steps[list[Outcome]]:
        """What became of the sends that are at ``places`` in ``plan``."""
        engine = self._engine
        if not plan:
            return []
        waits = [self.wait(plan)] if engine.durable_sends else []
        reply, *waited = yield from engine.ask([plan], waits)
        engine.hear(plan, reply)
        outcomes = [OUTCOMES[plan.codes[place]] for place in places]
        return self.durable(outcomes, waited)

    def wait(self, plan: Plan) -> Routed:
        """How many replicas have what ``plan`` wrote, when it has been enough or time is up."""
        return Routed(("WAIT", self._engine.durable_sends, _WAIT_MS), plan.keys[0])

    def durable(self, outcomes: list[Outcome], waited: Sequence[Any]) -> list[Outcome]:
        """``outcomes``, uncertain where too few replicas said that they have them."""
        wanted = self._engine.durable_sends
        if waited and any(not isinstance(count, int) or count < wanted for count in waited):
            return [_UNCERTAIN if outcome is _SENT else outcome for outcome in outcomes]
        return outcomes

    # Several servers.

    def _send_to_many(self, sends: Sequence[Send]) -> Steps[list[Outcome]]:
        engine = self._engine
        yield from engine.pay_debts()
        plans: dict[str, Plan] = {}
        groups = yield from self._members([send.channel for send in sends if send.is_group])
        places: list[tuple[Plan, int] | None] = []
        broadcasts: list[_Broadcast] = []
        for send in sends:
            if send.is_group:
                self._spread(plans, send, groups[send.channel], broadcasts)
                places.append(None)
                continue
            address = self._channels.of(send.channel)
            tag = address.process if type(address) is Inlet else address.tag  # type: ignore[union-attr]  # else a Queue
            plan = plans.get(tag) or plans.setdefault(tag, Plan(engine.head))
            places.append((plan, self.add(plan, send)))
        failed: dict[Plan, Outcome] = {}
        waited: list[Any] = []
        if plans:
            waits = [self.wait(plan) for plan in plans.values()] if engine.durable_sends else []
            replies = yield from engine.ask(list(plans.values()), waits)
            waited = replies[len(plans) :]
            failed = self._hear_all(list(plans.values()), replies)
        yield from self._after_broadcasts(broadcasts, failed)
        outcomes = []
        for found in places:
            if found is None:
                outcomes.append(_SENT)
            else:
                plan, place = found
                outcomes.append(failed.get(plan) or OUTCOMES[plan.codes[place]])
        return self.durable(outcomes, waited)

    def _hear_all(self, plans: Sequence[Plan], replies: Sequence[Any]) -> dict[Plan, Outcome]:
        """Those that were not carried out, and what their sends come to. Raises where that is none of them."""
        failed: dict[Plan, Outcome] = {}
        failure: TransportError | None = None
        for plan, reply in zip(plans, replies, strict=False):
            if isinstance(reply, Unanswered):
                failed[plan] = _UNCERTAIN
            elif isinstance(
                reply, TransportError
            ):  # nothing was sent there; what was elsewhere must not be repeated
                failed[plan] = _FULL
                failure = reply
            else:
                self._engine.hear(plan, reply)
        if failure is not None and all(failed.get(plan) is _FULL for plan in plans):
            raise failure
        return failed

    def _after_broadcasts(self, broadcasts: Sequence[_Broadcast], failed: dict[Plan, Outcome]) -> Steps[None]:
        """Count what was dropped; a process that is gone is no member any more."""
        keys = self._engine.keys
        commands: list[Command] = []
        for sent in broadcasts:
            outcome = failed.get(sent.plan) or OUTCOMES[sent.plan.codes[sent.place]]
            if outcome is _FULL:
                self._engine.counters.group_dropped += sent.members
            elif outcome is _GONE:
                places = [keys.of_group(letter, sent.group) for letter in "rv"]
                places.append(keys.of_group("m", sent.group, sent.prefix))
                commands.append(FORGET.call(places, [sent.prefix]))
        if commands:
            with suppress(TransportError):  # then who sends the next one does it
                yield commands

    def _members(self, groups: Sequence[str]) -> Steps[dict[str, Any]]:
        names = list(dict.fromkeys(groups))
        if not names:
            return {}
        keys = self._engine.keys
        lapse = self._group_tail[0]
        try:
            replies = yield [
                MEMBERS.call(
                    [keys.of_group("r", name), keys.of_group("o", name)], [keys.prefix, lapse, "places"]
                )
                for name in names
            ]
        except Unanswered as error:  # it was but a question: nothing was sent yet
            raise Unsent(str(error)) from error
        return {name: sure(reply) for name, reply in zip(names, replies, strict=True)}

    def _spread(self, plans: dict[str, Plan], send: Send, members: Any, broadcasts: list[_Broadcast]) -> None:
        """The steps of one send to a group, each on its member's server."""
        head = self._engine.head
        group, size = send.channel, send.size
        body = self._pack(send.content, send.headers, of_group(group))
        owned, others = members
        for raw, number in owned:
            inlet = self._channels.of(raw.decode())
            assert type(inlet) is Inlet
            plan = plans.get(inlet.process) or plans.setdefault(inlet.process, Plan(head))
            keys = plan.key(inlet.process_key), plan.key(inlet.inbox)
            limits = sent_field(inlet.prefix, inlet.own), inlet.capacity, inlet.max_bytes
            header = f"{inlet.prefix}:{size}:{inlet.own}:{group}"
            place = plan.repeat(("I", *keys, "*", *limits), size, header, body)
            broadcasts.append(_Broadcast(plan, place, number, group, inlet.prefix))
        locals_of: dict[Queue, list[str]] = {}
        for raw in others:
            name = raw.decode()
            queue = self._channels.queue(name)
            locals_of.setdefault(queue, []).append(name[len(queue.name) :])
        for queue, locals_ in locals_of.items():
            plan = plans.get(queue.tag) or plans.setdefault(queue.tag, Plan(head))
            meta = f"1:::{size}:{group}:{' '.join(locals_) if queue.has_locals else ''}"
            place = self._add_to_queue(plan, queue, meta, body)
            broadcasts.append(_Broadcast(plan, place, len(locals_), group, ""))
