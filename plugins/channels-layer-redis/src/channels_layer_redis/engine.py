"""What every operation of the layer shares: the transport and the two ways of driving an operation over it.

An operation is written once, as a generator that yields requests and is sent the replies. A request is a list of
commands, a :class:`Block` (its last command waits in the server) or a :class:`Pause`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, TypeVar

from channels_core.exceptions import BlockingCallError, LayerUnavailable, SendUncertain
from channels_core.layer_views import in_running_loop
from channels_core.layers import LayerBackend
from channels_core.names import new_id, redact
from channels_layer_redis.channels import Channels, Plan, Queue
from channels_layer_redis.encryption import Unreadable
from channels_layer_redis.envelope import Envelope, of_group
from channels_layer_redis.keys import Keys
from channels_layer_redis.transport import (
    Command,
    Reply,
    Suffices,
    SyncClient,
    Transport,
    TransportError,
    Unanswered,
    Unsent,
)

__all__ = ["Block", "Engine", "Pause", "Steps", "sure", "unavailable"]

T = TypeVar("T")

logger: Final = logging.getLogger("channels.redis")

_REMEMBERED_MS: Final = 120_000
"""For how long scripts/exchange.lua remembers what it said."""


@dataclass(slots=True)
class Block:
    """Commands of which the last waits in the server, ``timeout`` seconds at most.

    ``suffices`` is asked, once, about the replies to those before it; where it says yes, the last one waits no longer.
    """

    commands: Sequence[Command]
    timeout: float
    suffices: Suffices | None = None


@dataclass(slots=True)
class Pause:
    """Wait for ``seconds``."""

    seconds: float


Request = Sequence[Command] | Block | Pause
Steps = Generator[Request, Any, T]


def sure(reply: Reply) -> Any:
    """``reply``; raises it where it is an error."""
    if isinstance(reply, TransportError):
        raise reply
    return reply


def unavailable(error: TransportError) -> LayerUnavailable:
    """What a caller of the layer is told of ``error``."""
    if isinstance(error, Unanswered):
        return SendUncertain(f"{error} What was asked may have been done.")
    return LayerUnavailable(str(error))


class _Own(threading.local):
    client: SyncClient | None = None


class Engine:
    """Shared by the parts of one backend. Thread-safe."""

    def __init__(
        self,
        options: LayerBackend,
        keys: Keys,
        envelope: Envelope,
        transport: Transport,
        channels: Channels,
        durable_sends: int,
        deduplicate: float,
    ) -> None:
        self.options = options
        self.counters = options.counters
        self.keys = keys
        self.envelope = envelope
        self.transport = transport
        self.is_sharded = transport.is_sharded
        self.channels = channels
        self.head = channels.head
        self.durable_sends = durable_sends
        self._deduplicate = deduplicate
        """Seconds for which a call that was not answered is repeated; 0 is never."""
        self._sender = new_id()
        self._numbers = count(1)
        self.leftovers: deque[Leftover] = deque()
        """Delivered by a read that waited, not yet removed: goes with the next call."""
        self.offset: float | None = None
        """Seconds by which the server's clock is ahead of our monotonic one, which nobody sets."""
        self.wakes = 0
        self.before_call: Callable[[Plan], None] | None = None
        self.has_debts: Callable[[], bool] = bool
        self._own = _Own()

    def forget_connections(self) -> None:
        """In a forked child: what concerns the parent's reads is the parent's."""
        self.leftovers.clear()
        self._sender = new_id()
        self._own = _Own()

    # Driving.

    def run(self, steps: Steps[T], *, is_reader: bool = False) -> T:
        """Carry out ``steps`` in this thread. A reader gets connections of its own."""
        if in_running_loop():
            name = getattr(steps, "__name__", "it")
            steps.close()
            raise BlockingCallError(
                f"{type(self.options).__name__}: {name} would wait in a thread whose event loop is running, and stall"
                " everything on it. Await the asynchronous method instead."
            )
        try:
            client = self._own.client
            if client is None and is_reader:
                client = self._own.client = self.transport.for_thread()
            request = next(steps)
            while True:
                try:
                    replies: Any = None
                    if type(request) is Block:
                        if client is None:
                            client = self._own.client = self.transport.for_thread()
                        replies = client.block(
                            request.commands, timeout=request.timeout, suffices=request.suffices
                        )
                    elif type(request) is Pause:
                        time.sleep(request.seconds)
                    elif client is not None:
                        replies = client.call(request)  # type: ignore[arg-type]  # Block and Pause are excluded
                    else:
                        replies = self.transport.submit(request)  # type: ignore[arg-type]  # as above
                except TransportError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(replies)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # StopIteration forgets the type
        except TransportError as error:
            raise unavailable(error) from error
        finally:
            steps.close()

    async def arun(self, steps: Steps[T]) -> T:
        """Carry out ``steps`` in this task."""
        try:
            client = self.transport.for_loop()
            request = next(steps)
            while True:
                try:
                    replies: Any = None
                    if type(request) is Block:
                        replies = await client.block(
                            request.commands, timeout=request.timeout, suffices=request.suffices
                        )
                    elif type(request) is Pause:
                        await asyncio.sleep(request.seconds)
                    else:
                        replies = await client.call(request)  # type: ignore[arg-type]  # Block and Pause are excluded
                except TransportError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(replies)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # StopIteration forgets the type
        except TransportError as error:
            raise unavailable(error) from error
        finally:
            steps.close()

    # Calling the script.

    def plan(self) -> Plan:
        """A plan; on one server it begins with what is owed from earlier reads."""
        plan = Plan(self.head)
        if not self.is_sharded:
            while self.leftovers and (leftover := self._next_leftover()) is not None:
                leftover.add_to(plan)
            if self.before_call is not None:
                self.before_call(plan)
        return plan

    def _next_leftover(self) -> Leftover | None:
        try:
            return self.leftovers.popleft()
        except IndexError:  # none, or another thread took it
            return None

    @property
    def asks_once(self) -> bool:
        """Whether a call is one command, and its reply all there is to know."""
        return not (self.is_sharded or self.durable_sends or self._deduplicate)

    def must_plan(self) -> bool:
        """Whether there is more to say with the next send than the send."""
        return bool(self.leftovers or self.durable_sends or self._deduplicate or self.has_debts())

    def ask(
        self,
        plans: Sequence[Plan],
        waits: Sequence[Command] = (),
        *,
        on_repeat: Callable[[], None] | None = None,
    ) -> Steps[list[Reply]]:
        """The replies to ``plans``, then those to ``waits``: a WAIT for each plan, or none at all.

        Where calls are deduplicated, those that were not answered are repeated until they are, for a while: the script
        remembers what it said of each step, but not what it took. ``on_repeat`` is called before.
        """
        if not self._deduplicate:
            plainly: list[Reply] = yield [plan.command() for plan in plans] + list(waits)
            return plainly
        for plan in plans:
            plan.number(self.keys, self._sender, next(self._numbers))
        commands = [*(plan.command() for plan in plans), *waits]
        replies: list[Reply] = []
        try:
            replies = yield commands
        except Unanswered as error:
            replies = [error] * len(commands)
        end = time.monotonic() + self._deduplicate
        while missing := [n for n, reply in enumerate(replies) if isinstance(reply, Unanswered)]:
            if time.monotonic() > end:
                break
            if on_repeat is not None:
                on_repeat()
            # WAIT is for what its own connection wrote: a new one has to write something first
            touched = [plans[n - len(plans)].keys[-1] for n in missing if n >= len(plans)]
            touches = [("PEXPIRE", key, _REMEMBERED_MS) for key in touched]
            first_wait = len(missing) - len(touches)
            asked = [commands[n] for n in missing]
            try:
                again = yield [*asked[:first_wait], *touches, *asked[first_wait:]]
            except TransportError:
                yield Pause(0.05)
                continue
            written = [1] * first_wait + again[first_wait : first_wait + len(touches)]
            again = again[:first_wait] + again[first_wait + len(touches) :]
            for n, reply, was_written in zip(missing, again, written, strict=True):
                if not isinstance(reply, Unsent):
                    replies[n] = reply if was_written else 0
        return replies

    def pay_debts(self) -> Steps[None]:
        """Remove what earlier reads delivered, each on its server."""
        plans = []
        while self.leftovers and (leftover := self._next_leftover()) is not None:
            plan = Plan(self.head)
            leftover.add_to(plan)
            plans.append(plan)
        if self.before_call is not None:
            plan = Plan(self.head)
            self.before_call(plan)
            if plan:
                plans.append(plan)
        if plans:
            try:
                yield [plan.command() for plan in plans]
            except Unanswered as error:  # nothing of what the caller wants was asked yet
                raise Unsent(str(error)) from error

    def hear(self, plan: Plan, reply: Reply) -> list[Any]:
        """Count and pass on what the script says; returns the deliveries, flat."""
        said = sure(reply)
        if type(said) is bytes:
            codes, taken = said, []
        else:
            codes, now, redelivered, dead, expired, dropped, owed, taken = said
            if now:
                self.hear_time(now)
            counters = self.counters
            counters.redelivered += redelivered
            counters.dead += dead
            counters.group_dropped += dropped
            if expired:
                self.report_expired(expired, owed)
        plan.codes = codes[1:] if plan.is_numbered else codes
        return taken

    def report_expired(self, number: int, owed: Sequence[bytes]) -> None:
        """Count messages that expired unread, and tell whose credit has to come back."""
        self.counters.expired += number
        if not owed or self.options.on_expired is None:
            return
        found: list[Mapping[str, str | int]] = []
        for key, meta, body in zip(owed[::3], owed[1::3], owed[2::3], strict=True):
            try:
                found.append(self.envelope.unpack(body, self._sealed_for(key, meta.decode()))[1])
            except ValueError as error:  # Unreadable, or others wrote what says whose it is
                name = self.keys.name_in(key) or "an inbox"
                logger.warning("An expired message of %r cannot be read: %s.", redact(name), error)
        if found:
            self.options.on_expired(found)

    def _sealed_for(self, key: bytes, meta: str) -> str:
        """The name that an expired message was sealed for, by the key it was in and its meta or header."""
        if key.startswith(f"{self.keys.prefix}:i:".encode()):
            name, _, _, *group = meta.split(":")
            return of_group(group[0]) if group else name
        channel = self.keys.name_in(key)
        if not meta:
            return channel
        *_, group_name, locals_ = meta.split(":")
        return of_group(group_name) if group_name else channel + locals_

    def now(self) -> float | None:
        """The server's time in seconds, as far as it is known."""
        return None if self.offset is None else time.monotonic() + self.offset

    def hear_time(self, now: int) -> None:
        """The server's clock says ``now`` (ms)."""
        self.offset = now / 1000 - time.monotonic()

    def unreadable(self, channel: str, error: Unreadable) -> None:
        """Count and log a message that nobody can read."""
        self.counters.dead += 1
        logger.error("A message on %r cannot be read and is given up: %s.", redact(channel), error)


class Leftover:
    """Entries of one queue that a waiting read delivered."""

    __slots__ = ("bytes", "ids", "is_pending", "queue")

    def __init__(self, queue: Queue, ids: list[bytes], size: int, *, is_pending: bool) -> None:
        self.queue = queue
        self.ids = ids
        self.bytes = size
        self.is_pending = is_pending

    def add_to(self, plan: Plan) -> None:
        index = plan.key(self.queue.key)
        plan.step("A", index, self.ids[-1], int(self.is_pending), self.bytes, len(self.ids), *self.ids)
