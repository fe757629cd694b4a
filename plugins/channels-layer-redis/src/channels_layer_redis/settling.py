"""Settlements as steps: done, released to the front, requeued to the back, given up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from channels_core.layers import Delivery, Settlement, Verdict
from channels_layer_redis.channels import Inlet, Lease, Plan, Queue, Taken
from channels_layer_redis.engine import Engine, Steps
from channels_layer_redis.inbox import Entry
from channels_layer_redis.transport import Reply, TransportError, Unanswered, Unsent

__all__ = ["Settling"]

_DONE, _RELEASE, _REQUEUE, _DEAD = Verdict.DONE, Verdict.RELEASE, Verdict.REQUEUE, Verdict.DEAD
_DID: Final = 49
_NO_ROOM_NEEDED: Final = 2**53


class _Part:
    """What is settled in one call."""

    __slots__ = ("plan", "settled", "spent")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.settled: list[tuple[Settlement, int]] = []
        self.spent: list[Taken | Entry] = []


class Settling:
    """Adds settlements to plans and counts what they did."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pack = engine.envelope.pack

    def tag_of(self, settlement: Settlement) -> str | None:
        """The hash tag that a settlement's step belongs to; ``None`` where there is nothing to do on a server."""
        token = settlement.delivery.token
        if type(token) is Lease:
            return token.queue.tag
        if settlement.verdict is _DONE or settlement.verdict is _DEAD:
            return None
        if type(token) is Entry:
            return token.inbox.process if settlement.verdict is _REQUEUE else None
        return token.source.tag  # type: ignore[no-any-return]  # tokens are Any

    def add(self, plan: Plan, settlement: Settlement, first: int = 0, sends: int = 0) -> int | None:
        """The step of one settlement, and its place. A lease that is done ends only if none of the ``sends`` steps of
        the plan from ``first`` on was refused."""
        delivery = settlement.delivery
        token = delivery.token
        verdict = settlement.verdict
        if type(token) is Lease:
            return self._add_leased(plan, settlement, token, first, sends)
        if token.is_spent:
            return None
        if type(token) is Entry:
            return self._add_of_inbox(plan, settlement, token)
        if verdict is _RELEASE:
            token.is_spent = True
            queue: Queue = token.source
            key = plan.key(queue.key)
            since, size, group, locals_ = token.fields()
            meta = f"1:{since}::{size}:{group}:{locals_}"
            return plan.step("R", key, "", 0, 0, meta, token.body, queue.ttl)
        if verdict is _REQUEUE:
            token.is_spent = True
            queue = token.source
            _, size, group, locals_ = token.fields()
            if settlement.content is not None:
                body = self._pack(settlement.content, delivery.headers, queue.name + locals_)
                group = ""
            else:
                body = token.body
            meta = f"1:::{size}:{group}:{locals_}"
            return plan.step("Q", plan.key(queue.key), "", 0, meta, body, queue.ttl)
        return None

    def _add_leased(self, plan: Plan, settlement: Settlement, token: Lease, first: int, sends: int) -> int:
        queue = token.queue
        key = plan.key(queue.key)
        verdict = settlement.verdict
        if verdict is _DONE:
            return plan.repeat(("D", key), token.ref, first, sends)
        if verdict is _DEAD:
            return plan.step("X", key, token.ref, settlement.reason)
        if verdict is _RELEASE:
            return plan.step("R", key, token.ref, int(settlement.is_begun), 1, "", b"", queue.ttl)
        body = b""
        if settlement.content is not None:
            body = self._pack(settlement.content, settlement.delivery.headers, queue.name)
        return plan.step("Q", key, token.ref, 1, "1::k:0::", body, queue.ttl)

    def _add_of_inbox(self, plan: Plan, settlement: Settlement, entry: Entry) -> int | None:
        if settlement.verdict is _RELEASE:
            entry.is_spent = True
            self._engine.counters.released += 1
            entry.inbox.put_back([entry])
        elif settlement.verdict is _REQUEUE:
            entry.is_spent = True
            self._engine.counters.requeued += 1
            inlet = self._engine.channels.of(entry.prefix)
            assert type(inlet) is Inlet
            content = settlement.content if settlement.content is not None else settlement.delivery.content
            limits = inlet.field, _NO_ROOM_NEEDED, _NO_ROOM_NEEDED if inlet.max_bytes else 0
            for local in entry.locals:
                name = entry.prefix + local
                body = self._pack(content, settlement.delivery.headers, name)
                keys = plan.key(inlet.process_key), plan.key(inlet.inbox)
                header = f"{name}:{entry.size}:{inlet.own}"
                plan.repeat(("I", *keys, "=", *limits), entry.size, header, body)
        return None

    def count(self, plan: Plan, settled: Iterable[tuple[Settlement, int]]) -> None:
        """Add to the counters what settlements did."""
        counters = self._engine.counters
        for settlement, place in settled:
            if plan.codes[place] == _DID:
                if settlement.verdict is _RELEASE:
                    counters.released += 1
                elif settlement.verdict is _REQUEUE:
                    counters.requeued += 1

    @staticmethod
    def unspent(settlements: Iterable[Settlement]) -> list[Taken | Entry]:
        """The tokens among them that can be put back once: those to be given their chance back if nothing was done."""
        tokens = (one.delivery.token for one in settlements if one.verdict in (_RELEASE, _REQUEUE))
        return [token for token in tokens if type(token) is not Lease and not token.is_spent]

    def settle(self, settlements: Sequence[Settlement], *, is_counted: bool = True) -> Steps[None]:
        """See :meth:`channels_core.layers.LayerBackend.settle`."""
        engine = self._engine
        if engine.is_sharded:
            yield from engine.pay_debts()
        parts: dict[str, _Part] = {}
        ordered = [one for one in settlements if one.verdict is not _RELEASE]
        ordered += self.in_order_of_release(settlements)
        for settlement in ordered:
            tag = self.tag_of(settlement)
            if tag is None:
                if type(settlement.delivery.token) is Entry:
                    self.add(Plan(engine.head), settlement)
                continue
            tag = tag if engine.is_sharded else ""
            part = parts.get(tag)
            if part is None:
                part = parts[tag] = _Part(engine.plan())
            if settlement.verdict is not _RELEASE and part.plan.count and not part.settled:
                part.plan.step("B")
            tokens = self.unspent((settlement,))
            place = self.add(part.plan, settlement)
            part.spent += tokens
            if place is not None:
                part.settled.append((settlement, place))
        yield from self._carry_out([part for part in parts.values() if part.plan], is_counted=is_counted)

    def _carry_out(self, parts: Sequence[_Part], *, is_counted: bool) -> Steps[None]:
        if not parts:
            return
        replies: Sequence[Reply]
        try:
            replies = yield [part.plan.command() for part in parts]
        except Unsent as error:
            replies = [error] * len(parts)
        failure: TransportError | None = None
        for part, reply in zip(parts, replies, strict=True):
            if isinstance(reply, TransportError):
                failure = failure or reply
                if not isinstance(reply, Unanswered):
                    self.unspend(part.spent)
            else:
                self._engine.hear(part.plan, reply)
                if is_counted:
                    self.count(part.plan, part.settled)
        if failure is not None:
            raise failure

    @staticmethod
    def unspend(tokens: Iterable[Taken | Entry]) -> None:
        """Nothing was done with them: they may be settled another time."""
        for token in tokens:
            token.is_spent = False

    @staticmethod
    def in_order_of_release(settlements: Sequence[Settlement]) -> list[Settlement]:
        """The releases. On a queue the script keeps their order; what returns to an inbox goes in front one by one."""
        releases = [one for one in settlements if one.verdict is _RELEASE]
        inbox = [one for one in releases if type(one.delivery.token) is Entry]
        return [one for one in releases if type(one.delivery.token) is not Entry] + inbox[::-1]

    def renew_leases(self, deliveries: Sequence[Delivery]) -> Steps[None]:
        """See :meth:`channels_core.layers.LayerBackend.renew_leases`."""
        plans: dict[str, Plan] = {}
        for delivery in deliveries:
            token = delivery.token
            if type(token) is not Lease:
                continue
            tag = token.queue.tag if self._engine.is_sharded else ""
            plan = plans.get(tag) or plans.setdefault(tag, Plan(self._engine.head))
            plan.step("K", plan.key(token.queue.key), token.ref, token.consumer)
        if plans:
            replies = yield [plan.command() for plan in plans.values()]
            for plan, reply in zip(plans.values(), replies, strict=True):
                self._engine.hear(plan, reply)
