"""Receives: the script takes what is there, with exact limit and rotation; else a read waits in the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple

from channels_core.layers import Delivery, Exchange, Outcome, Settlement, Turn, Verdict, settled_by, uncertain
from channels_core.layers import all_sent as have_all_arrived
from channels_layer_redis.channels import Inlet, Lease, Plan, Queue, Taken
from channels_layer_redis.encryption import Unreadable
from channels_layer_redis.engine import Block, Engine, Leftover, Pause, Steps, sure
from channels_layer_redis.envelope import of_group
from channels_layer_redis.inbox import Entry, Inbox
from channels_layer_redis.lost_reads import LostReads
from channels_layer_redis.scripts import EXCHANGE
from channels_layer_redis.sending import OUTCOMES, Sending
from channels_layer_redis.settling import Settling
from channels_layer_redis.transport import Command, CommandError, TransportError, Unanswered

__all__ = ["Reading", "Receiving"]

_LONGEST_WAIT: Final = 5.0
_LONGEST_WAIT_WITH_LEASES: Final = 1.0
"""Leases that ran out are looked for by those who wait."""
_GLANCE: Final = 0.05
"""How long one server or stream is waited for where there are several that cannot be waited for together."""
_NOBODY: Final = "-"
_MOST: Final = 1000
"""Messages that one read may bring from a channel: the script that removes them unpacks their ids."""
_COLONS: Final = 5
_REFUSED: Final = 45
_IDLE_FROM: Final = 2
"""From how many takes in a row that brought nothing the next one is expected to bring nothing either."""


class _Ending(NamedTuple):
    """The plan that ends turns; where in it are each one's sends and settlements; tokens that it spends."""

    plan: Plan
    tokens: list[Taken | Entry]
    places: list[list[int]]
    settled: list[tuple[Settlement, int]]


def _suffices(replies: Sequence[Any]) -> bool:
    """Whether the script took something, or refused something: then nobody may wait for more."""
    reply = replies[-1]  # before it the script itself may have been loaded
    if type(reply) is bytes:
        return bool(reply.strip(b"1 "))
    return not isinstance(reply, list) or bool(reply[7] or reply[0].strip(b"1 "))


class Reading:
    """What one set of names means, and whose turn it is among them."""

    __slots__ = ("by_tag", "empty_takes", "has_leases", "inlets", "queues", "turn")

    def __init__(self, names: Sequence[str], engine: Engine) -> None:
        addresses = list(dict.fromkeys(engine.channels.of(name) for name in names))
        self.queues = [address for address in addresses if type(address) is Queue]
        self.inlets: dict[str, list[str]] = {}
        for address in addresses:
            if type(address) is Inlet:
                self.inlets.setdefault(address.process, []).append(address.prefix)
        self.by_tag: dict[str, list[Queue]] = {}
        for queue in self.queues:
            self.by_tag.setdefault(queue.tag if engine.is_sharded else "", []).append(queue)
        self.has_leases = any(queue.is_leased for queue in self.queues)
        self.turn = 0
        self.empty_takes = 0
        """How many times in a row there was nothing to take."""

    @property
    def count(self) -> int:
        """How many things cannot be waited for together."""
        return len(self.by_tag) + len(self.inlets)


class Receiving:
    """Receives and exchanges. ``inboxes`` gives a process's inbox, ``hold`` notes who may hold leases, ``look_after``
    is done now and then by who waits, ``recover`` after an outage; ``put_back_later`` settles without making wait."""

    def __init__(
        self,
        engine: Engine,
        sending: Sending,
        settling: Settling,
        inboxes: Callable[[str], Inbox],
        hold: Callable[[str, Iterable[Queue]], Steps[None]],
        look_after: Callable[[], Steps[None] | None],
        recover: Callable[[str, Inbox], Steps[None]],
        put_back_later: Callable[[Sequence[Settlement]], None],
    ) -> None:
        self._engine = engine
        self._sending = sending
        self._settling = settling
        self._inboxes = inboxes
        self._hold = hold
        self._look_after = look_after
        self._recover = recover
        self.put_back_later = put_back_later
        self._readings: dict[tuple[str, ...], Reading] = {}
        self._lost_reads = LostReads(engine, settling.settle)

    def reading(self, channels: Sequence[str]) -> Reading:
        names = tuple(channels)
        found = self._readings.get(names)
        if found is None:
            if len(self._readings) >= 1024:
                self._readings.clear()
            found = self._readings[names] = Reading(names, self._engine)
        return found

    # Receiving.

    def receive(
        self, channels: Sequence[str], limit: int, timeout: float | None, process: str | None
    ) -> Steps[list[Delivery]]:
        """See :meth:`channels_core.layers.LayerBackend.receive_batch`."""
        if not channels or limit < 1:
            return []
        reading = self.reading(channels)
        if timeout != 0 and self._may_wait_at_once(reading, limit):
            due = self._look_after()
            if due is not None:
                yield from due
            yield from self._make_ready(reading, process)
            exchange = yield from self._exchange_waiting((), reading, channels, limit, timeout, process)
            return list(exchange.deliveries)
        bag: list[Delivery] = []
        steps = self._receive(bag, channels, limit, timeout, process)
        yield from self._fill(bag, steps, reading, process, may_raise=True)
        return bag

    def _fill(
        self,
        bag: list[Delivery],
        steps: Steps[None],
        reading: Reading,
        process: str | None,
        *,
        may_raise: bool,
    ) -> Steps[None]:
        """Carry out ``steps``, which fill ``bag``, so that nothing in it is lost where they break off."""
        try:
            yield from steps
        except TransportError as error:
            if isinstance(error, Unanswered):
                self._lost_reads.note(process, reading.queues)
            if may_raise and not bag:  # else what there is; who asks again hears of it
                raise
        except GeneratorExit:
            self._give_back(bag)
            raise

    def _receive(
        self,
        bag: list[Delivery],
        channels: Sequence[str],
        limit: int,
        timeout: float | None,
        process: str | None,
    ) -> Steps[None]:
        """Into ``bag``, so that nothing is lost where it breaks off."""
        reading = self.reading(channels)
        wakes = self._engine.wakes
        end = None if timeout is None else monotonic() + timeout
        if reading.has_leases and process is not None:
            yield from self._hold(process, reading.queues)
        while True:
            due = self._look_after()
            if due is not None:
                yield from due
            if self._lost_reads:
                yield from self._lost_reads.give_back(process)
            if reading.queues:
                yield from self._take(bag, reading, limit, process)
                if reading.inlets and len(bag) < limit:
                    yield from self._read_inboxes(bag, reading, limit)
            elif timeout == 0 or len(reading.inlets) > 1:
                yield from self._read_inboxes(bag, reading, limit)
            else:
                self._hand_out(bag, reading, limit)
            if bag or timeout == 0:
                return
            left = self._longest(reading)
            if end is not None:
                left = min(left, end - monotonic())
            if left <= 0 or self._engine.wakes != wakes:
                return
            yield from self._wait(bag, reading, limit, left, process)
            if bag or self._engine.wakes != wakes:
                return

    @staticmethod
    def _longest(reading: Reading) -> float:
        return _LONGEST_WAIT_WITH_LEASES if reading.has_leases else _LONGEST_WAIT

    def _may_wait_at_once(self, reading: Reading, limit: int) -> bool:
        """Whether to write the read that waits behind the call that takes: one trip less where there is nothing to
        take, and one more where there is."""
        return (
            reading.empty_takes >= _IDLE_FROM
            and reading.count == 1
            and limit // 2 >= len(reading.queues) > 0
            and self._engine.asks_once
        )

    def _wait(
        self, bag: list[Delivery], reading: Reading, limit: int, seconds: float, process: str | None
    ) -> Steps[None]:
        if reading.count > 1:
            seconds = min(seconds, _GLANCE)
        if reading.queues:
            tags = list(reading.by_tag.values())
            reading.turn += 1
            queues = tags[reading.turn % len(tags)]
            yield from self._wait_for_queues(bag, queues, limit, seconds, process)
        else:
            [(owner, prefixes)] = list(reading.inlets.items())[:1]
            yield from self._read_inbox(bag, owner, prefixes, limit, seconds)

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Nobody waits any more for what was taken already."""
        for delivery in reversed(deliveries):
            if type(delivery.token) is Entry:
                delivery.token.inbox.put_back([delivery.token])
        others = [Settlement(one, Verdict.RELEASE) for one in deliveries if type(one.token) is not Entry]
        if others:
            self.put_back_later(others)

    # Queues.

    def add_take(
        self, plan: Plan, reading: Reading, queues: Sequence[Queue], limit: int, process: str | None
    ) -> None:
        """The step that takes at most ``limit`` messages, beginning with the queue whose turn it is."""
        turn = reading.turn % len(queues)
        steps: list[int] = []
        for queue in (*queues[turn:], *queues[:turn]):
            steps += (plan.of_queue(queue), queue.leased_flag, int(queue.max_bytes > 0), queue.ttl)
        plan.step("T", limit, process or _NOBODY, len(queues), *steps)

    def _take(self, bag: list[Delivery], reading: Reading, limit: int, process: str | None) -> Steps[None]:
        engine = self._engine
        if engine.is_sharded:
            yield from engine.pay_debts()
        tags = list(reading.by_tag.values())
        first = reading.turn % len(tags)
        for queues in (*tags[first:], *tags[:first]):
            plan = engine.plan() if not engine.is_sharded else Plan(engine.head)
            self.add_take(plan, reading, queues, limit - len(bag), process)
            try:
                [reply] = yield [plan.command()]
                taken = engine.hear(plan, reply)
            except TransportError:
                reading.turn += 1  # the next time the others are asked before this one
                raise
            reading.empty_takes = 0 if taken else reading.empty_takes + 1
            if taken:
                yield from self.deliveries(bag, plan, taken, reading, process)
            if len(bag) >= limit:
                break

    def deliveries(
        self,
        bag: list[Delivery],
        plan: Plan,
        taken: Sequence[Any],
        reading: Reading | None,
        process: str | None,
    ) -> Steps[None]:
        """What the script took, as deliveries; what nobody can read is given up."""
        found: list[Delivery] = []
        lost: list[Settlement] = []
        queues = plan.queues
        for at in range(0, len(taken), 4):
            queue = queues[taken[at]]
            self._add(found, lost, queue, taken[at + 1], taken[at + 2], taken[at + 3], process)
        if reading is not None and found:
            reading.turn = reading.turn % max(1, len(reading.queues)) + 1
        bag += found
        self._engine.counters.received += len(found)
        if lost:
            yield from self._settling.settle(lost)

    def _add(
        self,
        found: list[Delivery],
        lost: list[Settlement],
        queue: Queue,
        ref: bytes,
        meta: bytes,
        body: bytes,
        process: str | None,
    ) -> None:
        attempt, sealed_for, locals_ = 1, queue.name, ()
        if meta:
            try:
                number, _, _, _, group, rest = meta.decode().split(":")
                attempt = int(number or 1)
            except ValueError:  # nobody of ours wrote it; nor then its body, most likely
                attempt, group, rest, meta = 1, "", "", b""
            sealed_for = of_group(group) if group else queue.name + rest
            if rest:
                locals_ = tuple(rest.split(" "))  # type: ignore[assignment]  # none is the empty tuple
        token: Lease | Taken
        if queue.is_leased:
            token = Lease(queue, ref, process or _NOBODY)
            self._lost_reads.take(token)
        else:
            token = Taken(queue, ref[1:], meta, body)
        try:
            content, headers = self._engine.envelope.unpack(body, sealed_for)
        except Unreadable as error:
            self._engine.unreadable(queue.name, error)
            if queue.is_leased:
                self._engine.counters.dead -= 1  # the script counts it
                delivery = Delivery(queue.name, {}, {}, (), attempt, token, True)
                lost.append(Settlement(delivery, Verdict.DEAD, None, f"It cannot be read: {error}."))
            return
        found.append(Delivery(queue.name, content, headers, locals_, attempt, token, queue.is_leased))

    def _wait_for_queues(
        self, bag: list[Delivery], queues: Sequence[Queue], limit: int, seconds: float, process: str | None
    ) -> Steps[None]:
        command = self.wait_command(queues, limit, seconds, process)
        [reply] = yield Block([command], seconds)
        yield from self.waited(bag, queues, limit, reply, process)

    def wait_command(
        self, queues: Sequence[Queue], limit: int, seconds: float, process: str | None
    ) -> Command:
        """Waits for a message on any of ``queues``."""
        has_leases = any(queue.is_leased for queue in queues)
        # where nothing is leased nobody has to be known, and a consumer would stay in the server after its process
        words: list[str | int] = ["XREADGROUP", "GROUP", "w", (process or _NOBODY) if has_leases else _NOBODY]
        words += ["COUNT", min(_MOST, max(1, limit // len(queues)))]
        if not has_leases:
            words.append("NOACK")
        words += ["BLOCK", max(1, int(seconds * 1000)), "STREAMS"]
        words += [queue.key for queue in queues]
        words += [">"] * len(queues)
        return tuple(words)

    def waited(
        self, bag: list[Delivery], queues: Sequence[Queue], limit: int, reply: Any, process: str | None
    ) -> Steps[None]:
        """What :meth:`wait_command` brought; what is over the limit is given back."""
        if isinstance(reply, CommandError) and reply.code in ("NOGROUP", "UNBLOCKED"):
            return  # the stream went away; the next take makes it anew
        found = sure(reply)
        if not found:
            return
        engine = self._engine
        has_leases = any(queue.is_leased for queue in queues)
        by_key = {queue.key.encode(): queue for queue in queues}
        deliveries: list[Delivery] = []
        lost: list[Settlement] = []
        now = engine.now()
        horizon = 0.0 if now is None else (now - engine.options.expiry) * 1000
        for key, entries in found:
            queue = by_key[key]
            ids: list[bytes] = []
            size = 0
            for entry_id, fields in entries:
                meta = fields[3] if len(fields) > 3 else b""
                if not queue.is_leased:
                    ids.append(entry_id)
                    if queue.max_bytes and meta.count(b":") == _COLONS:
                        size += int(meta.split(b":")[3] or 0)
                if horizon and not meta and int(entry_id.partition(b"-")[0]) < horizon:
                    self._expire(queue, entry_id, meta, fields[1], lost, process)
                    continue
                self._add(deliveries, lost, queue, b"c" + entry_id, meta, fields[1], process)
            if ids:
                engine.leftovers.append(Leftover(queue, ids, size, is_pending=has_leases))
        bag += deliveries[:limit]
        engine.counters.received += min(limit, len(deliveries))
        surplus = [Settlement(delivery, Verdict.RELEASE) for delivery in deliveries[limit:]]
        tokens = self._settling.unspent(surplus)
        try:
            if lost:
                yield from self._settling.settle(lost)
            if surplus:
                yield from self._settling.settle(surplus, is_counted=False)
        except (TransportError, GeneratorExit):
            if surplus and len(tokens) == len(self._settling.unspent(surplus)):
                self.put_back_later(surplus)
            raise

    def _expire(
        self,
        queue: Queue,
        entry_id: bytes,
        meta: bytes,
        body: bytes,
        lost: list[Settlement],
        process: str | None,
    ) -> None:
        """It was delivered to a process that stood still too long."""
        if queue.is_leased:
            delivery = Delivery(
                queue.name, {}, {}, (), 1, Lease(queue, b"c" + entry_id, process or _NOBODY), True
            )
            lost.append(Settlement(delivery, Verdict.DONE))
        owed = [queue.key.encode(), meta, body] if body[:1] and body[0] & 4 else []
        self._engine.report_expired(1, owed)

    def take_salvaged(self, commands: Sequence[Command], replies: Sequence[Any]) -> list[Settlement]:
        """Messages that came to a receive nobody waits for any more: what puts them back."""
        engine = self._engine
        found: list[tuple[Queue, bytes, bytes, bytes]] = []
        consumer = _NOBODY
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Unanswered) and command[0] == "XREADGROUP":
                names = command[command.index("STREAMS") + 1 :]
                queues = (
                    engine.channels.queue(engine.keys.name_in(str(key).encode()))
                    for key in names[: len(names) // 2]
                )
                self._lost_reads.note(None if command[3] == _NOBODY else str(command[3]), queues)
            if not isinstance(reply, list) or not reply:
                continue
            if command[0] == "XREADGROUP":
                consumer = str(command[3])
                for key, entries in reply:
                    queue = engine.channels.queue(engine.keys.name_in(key))
                    found += [
                        (queue, b"c" + entry_id, fields[3] if len(fields) > 3 else b"", fields[1])
                        for entry_id, fields in entries
                    ]
                    if not queue.is_leased:
                        ids = [entry_id for entry_id, _ in entries]
                        engine.leftovers.append(Leftover(queue, ids, 0, is_pending="NOACK" not in command))
            elif command[:2] == ("EVALSHA", EXCHANGE.sha):
                taken = engine.hear(Plan(engine.head), reply)
                if not taken or "T" not in command:
                    continue
                keys = command[3 : 3 + int(command[2])]
                at = len(command) - 1 - command[::-1].index("T")
                consumer = str(command[at + 2])
                for index, ref, meta, body in zip(
                    taken[::4], taken[1::4], taken[2::4], taken[3::4], strict=True
                ):
                    name = engine.keys.name_in(str(keys[index - 1]).encode())
                    found.append((engine.channels.queue(name), ref, meta, body))
        put_back = []
        for queue, ref, meta, body in found:
            token = Lease(queue, ref, consumer) if queue.is_leased else Taken(queue, ref[1:], meta, body)
            delivery = Delivery(queue.name, {}, {}, (), 1, token, queue.is_leased)
            put_back.append(Settlement(delivery, Verdict.RELEASE))
        return put_back

    # Inboxes.

    def _hand_out(self, bag: list[Delivery], reading: Reading, limit: int) -> None:
        [(owner, prefixes)] = reading.inlets.items()
        inbox = self._inboxes(owner)
        if not inbox.lock.acquire(blocking=False):
            return
        try:
            bag += inbox.hand_out(prefixes, limit)
        finally:
            inbox.lock.release()
        self._engine.counters.received += len(bag)

    def _read_inboxes(self, bag: list[Delivery], reading: Reading, limit: int) -> Steps[None]:
        for owner, prefixes in reading.inlets.items():
            if len(bag) < limit:
                yield from self._read_inbox(bag, owner, prefixes, limit, 0.0)

    def _read_inbox(
        self, bag: list[Delivery], owner: str, prefixes: Sequence[str], limit: int, seconds: float
    ) -> Steps[None]:
        """What waits in one process's inbox, waiting ``seconds`` for it; nothing where another reader is at it."""
        engine = self._engine
        inbox = self._inboxes(owner)
        if not inbox.lock.acquire(blocking=False):
            if seconds:
                yield Pause(min(seconds, _GLANCE / 4))
            return
        before = len(bag)
        try:
            if inbox.epoch != engine.transport.epoch_of(inbox.key):
                yield from self._recover(owner, inbox)
            if not inbox.is_whole:
                yield from inbox.pull_all()
            bag += inbox.hand_out(prefixes, limit - len(bag))
            if len(bag) < limit:
                plan = Plan(engine.head)
                inbox.acknowledge(plan)
                commands: list[Command] = [plan.command()] if plan else []
                if seconds and not bag:
                    commands.append(inbox.read_command(max(1, int(seconds * 1000))))
                    *heard, reply = yield Block(commands, seconds)
                else:
                    commands.append(inbox.read_command(None))
                    *heard, reply = yield commands
                if heard:
                    engine.hear(plan, heard[0])
                if isinstance(reply, CommandError) and reply.code == "UNBLOCKED":
                    return
                yield from inbox.take_in(reply)
                bag += inbox.hand_out(prefixes, limit - len(bag))
        finally:
            inbox.lock.release()
            engine.counters.received += len(bag) - before

    # Exchanging.

    def exchange(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        limit: int,
        timeout: float | None,
        process: str | None,
    ) -> Steps[Exchange]:
        """See :meth:`channels_core.layers.LayerBackend.exchange`: on one server in one call, with the taking."""
        engine = self._engine
        reading = self.reading(channels) if channels and limit > 0 else None
        if reading is not None:
            yield from self._make_ready(reading, process)
            if timeout != 0 and self._may_wait_at_once(reading, limit):
                return (yield from self._exchange_waiting(turns, reading, channels, limit, timeout, process))
        deliveries: list[Delivery] = []
        try:
            if engine.is_sharded:
                outcomes, unsettled = yield from self._end_turns_apart(turns)
            else:
                outcomes = yield from self._end_turns(deliveries, turns, reading, limit, process)
                unsettled = []
        except Unanswered:
            if reading is not None:
                self._lost_reads.note(process, reading.queues)
            if not turns:
                raise
            return self._uncertain(turns)
        if reading is None or deliveries:
            return Exchange(outcomes, deliveries, unsettled)
        has_taken = not engine.is_sharded and bool(reading.queues) and not reading.inlets
        if has_taken and (timeout == 0 or not have_all_arrived(outcomes)):
            return Exchange(outcomes, deliveries, unsettled)
        waiting = timeout if have_all_arrived(outcomes) else 0
        steps = self._receive_after(
            deliveries, reading, channels, limit, waiting, process, has_taken=has_taken
        )
        yield from self._fill(deliveries, steps, reading, process, may_raise=not turns)
        return Exchange(outcomes, deliveries, unsettled)

    def _make_ready(self, reading: Reading, process: str | None) -> Steps[None]:
        """What has to be done before anything is taken."""
        if reading.has_leases and process is not None:
            yield from self._hold(process, reading.queues)
        if self._lost_reads:
            yield from self._lost_reads.give_back(process)

    def _exchange_waiting(
        self,
        turns: Sequence[Turn],
        reading: Reading,
        channels: Sequence[str],
        limit: int,
        timeout: float | None,
        process: str | None,
    ) -> Steps[Exchange]:
        """The same with the read that waits written behind the call, for when there will be nothing to take. Each of
        the two brings at most half of the limit."""
        engine = self._engine
        longest = self._longest(reading)
        seconds = longest if timeout is None else min(timeout, longest)
        end = None if timeout is None else monotonic() + timeout
        wakes = engine.wakes
        ending = self._plan_turns(turns)
        self.add_take(ending.plan, reading, reading.queues, limit - limit // 2, process)
        wait = self.wait_command(reading.queues, limit // 2, seconds, process)
        try:
            reply, waited = yield Block([ending.plan.command(), wait], seconds, _suffices)
            taken = engine.hear(ending.plan, reply)
        except TransportError as error:
            if not isinstance(error, Unanswered):  # nothing was done
                self._settling.unspend(ending.tokens)
                raise
            self._lost_reads.note(process, reading.queues)
            if not turns:
                raise
            return self._uncertain(turns)
        outcomes = self._hear_turns(ending, turns, ())
        deliveries: list[Delivery] = []

        def bring() -> Steps[None]:
            if taken:
                reading.empty_takes = 0
                try:
                    yield from self.deliveries(deliveries, ending.plan, taken, reading, process)
                except (TransportError, GeneratorExit):
                    self.put_back_later(self.take_salvaged([wait], [waited]))
                    raise
            yield from self.waited(deliveries, reading.queues, limit - len(deliveries), waited, process)
            # it may be early: what was to end the read before may have ended this one
            left = None if end is None else end - monotonic()
            is_over = bool(deliveries) or engine.wakes != wakes or (left is not None and left <= 0)
            if not is_over and have_all_arrived(outcomes):
                yield from self._receive(deliveries, channels, limit, left, process)

        yield from self._fill(deliveries, bring(), reading, process, may_raise=not turns)
        return Exchange(outcomes, deliveries, [])

    def _receive_after(
        self,
        bag: list[Delivery],
        reading: Reading,
        channels: Sequence[str],
        limit: int,
        timeout: float | None,
        process: str | None,
        *,
        has_taken: bool,
    ) -> Steps[None]:
        if has_taken and reading.count == 1:
            wakes = self._engine.wakes
            longest = self._longest(reading)
            seconds = longest if timeout is None else min(timeout, longest)
            end = None if timeout is None else monotonic() + timeout
            yield from self._wait_for_queues(bag, reading.queues, limit, seconds, process)
            if bag or self._engine.wakes != wakes:
                return
            timeout = None if end is None else end - monotonic()
            if timeout is not None and timeout <= 0:
                return
        yield from self._receive(bag, channels, limit, timeout, process)

    def _plan_turns(self, turns: Sequence[Turn]) -> _Ending:
        """The steps that end ``turns``: each one's sends, then what it settles."""
        sending, settling = self._sending, self._settling
        ending = _Ending(self._engine.plan(), [], [], [])
        plan = ending.plan
        done: list[tuple[Settlement, list[int]]] = []
        for turn in turns:
            settlement = turn.settlement
            settles = settlement is not None and settling.tag_of(settlement) is not None
            is_done = settlement is not None and settlement.verdict is Verdict.DONE
            if settles and not is_done:
                plan.step("B")
            places = [sending.add(plan, send) for send in turn.sends]
            ending.places.append(places)
            if settlement is None or not settles:
                continue
            if is_done:  # behind the sends of all turns, so that those to one place stay one step
                done.append((settlement, places))
                continue
            ending.tokens.extend(settling.unspent((settlement,)))
            place = settling.add(plan, settlement)
            if place is not None:
                ending.settled.append((settlement, place))
        for settlement, places in done:
            place = settling.add(plan, settlement, places[0] if places else 0, len(places))
            if place is not None:
                ending.settled.append((settlement, place))
        return ending

    def _hear_turns(
        self, ending: _Ending, turns: Sequence[Turn], acknowledged: Sequence[Any]
    ) -> list[list[Outcome]]:
        """What became of the sends of ``turns``; ``acknowledged`` is what replicas said of them."""
        codes, sending = ending.plan.codes, self._sending
        outcomes = [[OUTCOMES[codes[place]] for place in of_turn] for of_turn in ending.places]
        if acknowledged:
            outcomes = [
                of_turn if _ends_a_lease(turn) else sending.durable(of_turn, acknowledged)
                for turn, of_turn in zip(turns, outcomes, strict=True)
            ]
        for of_turn in outcomes:
            sending.count(of_turn)
        self._settling.count(ending.plan, ending.settled)
        self._after_turns(ending.plan, turns, outcomes, ending.settled)
        return outcomes

    def _end_turns(
        self,
        bag: list[Delivery],
        turns: Sequence[Turn],
        reading: Reading | None,
        limit: int,
        process: str | None,
    ) -> Steps[list[list[Outcome]]]:
        engine = self._engine
        ending = self._plan_turns(turns)
        plan = ending.plan
        on_repeat: Callable[[], None] | None = None
        if reading is not None and reading.queues:
            self.add_take(plan, reading, reading.queues, limit, process)
            on_repeat = partial(self._lost_reads.note, process, reading.queues)
        if not plan:
            return [[] for _ in turns]
        waits: list[Command] = []
        if engine.durable_sends and any(turn.sends and not _ends_a_lease(turn) for turn in turns):
            waits.append(self._sending.wait(plan))
        try:
            reply, *acknowledged = yield from engine.ask([plan], waits, on_repeat=on_repeat)
            taken = engine.hear(plan, reply)
        except Unanswered:
            raise
        except TransportError:  # nothing was done
            self._settling.unspend(ending.tokens)
            raise
        outcomes = self._hear_turns(ending, turns, acknowledged)
        if reading is not None and reading.queues:
            reading.empty_takes = 0 if taken else reading.empty_takes + 1
        if taken:
            yield from self.deliveries(bag, plan, taken, reading, process)
        return outcomes

    def _after_turns(
        self,
        plan: Plan,
        turns: Sequence[Turn],
        outcomes: Sequence[Sequence[Outcome]],
        settled: Sequence[tuple[Settlement, int]],
    ) -> None:
        for settlement, place in settled:
            if plan.codes[place] == _REFUSED and type(settlement.delivery.token) is Taken:
                settlement.delivery.token.is_spent = False
        for turn, of_turn in zip(turns, outcomes, strict=True):
            self._settle_here(turn, of_turn)

    def _settle_here(self, turn: Turn, outcomes: Sequence[Outcome]) -> None:
        """A settlement that needs no server: what goes back to a process's own inbox."""
        settlement = turn.settlement
        if (
            settlement is not None
            and settlement.verdict is Verdict.RELEASE
            and self._settling.tag_of(settlement) is None
            and all(outcome.is_final for outcome in outcomes)
        ):
            self._settling.add(Plan(self._engine.head), settlement)

    def _end_turns_apart(self, turns: Sequence[Turn]) -> Steps[tuple[list[list[Outcome]], list[Settlement]]]:
        """On several servers: the sends, their outcomes, then what they settle."""
        sends = [send for turn in turns for send in turn.sends]
        outcomes, settlements = settled_by(turns, (yield from self._sending.send_batch(sends)))
        try:
            yield from self._settling.settle(settlements)
        except TransportError:
            return outcomes, settlements
        return outcomes, []

    def _uncertain(self, turns: Sequence[Turn]) -> Exchange:
        """The server did not answer: what was sent may have arrived, and what was settled is settled again."""
        exchange = uncertain(turns)
        for of_turn in exchange.outcomes:
            self._sending.count(of_turn)
        return exchange


def _ends_a_lease(turn: Turn) -> bool:
    """Whether a replica that lacks what the turn sent has its message still: it gets the end of that no earlier."""
    return turn.settlement is not None and type(turn.settlement.delivery.token) is Lease
