"""One event loop's share of the interface: its lease on the layer, its one receiving task, and its connections.

Everything here runs on that loop. Nothing that arrives from the layer, and no outage of it, ends the receiving task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from time import thread_time
from typing import TYPE_CHECKING, Any, Final, Protocol

from channels_core.credit import credit_of, credit_patience, credit_send, number_of
from channels_core.exceptions import LayerUnavailable, SendUncertain
from channels_core.headers import CREDITED
from channels_core.interface.asgi import Event
from channels_core.interface.lines import Lines
from channels_core.interface.replies import frame_of
from channels_core.interface.workers import WorkerWatch
from channels_core.layers import AT_LEAST_ONCE, Delivery, Outcome, Send
from channels_core.names import new_id, redact
from channels_core.outage import Outage, pauses

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer
    from channels_core.config import InterfaceConfig

__all__ = ["Connection", "Inbox"]

logger = logging.getLogger("channels.interface")

_BATCH: Final = 256
_SWEEP: Final = 0.5
_LAST_WORDS: Final = 2.0
_RENEW_AGAIN: Final = 0.3
"""Seconds after which a renewal is tried again that the layer did not answer: outages add up while a lease runs."""
_LONGEST_PAUSE: Final = 0.5
"""Between tries to receive while the layer is away: what waits there for this process waits as much longer."""
_MEANWHILE: Final = "Sockets stay open, their frames wait, and requests are answered 503 until it is back."


class Connection(Protocol):
    """What the inbox knows of an HTTP request or a WebSocket. No method waits."""

    def deliver(self, content: Mapping[str, Any], headers: Mapping[str, str | int]) -> None:
        """A message to the connection arrived."""

    def deliver_frame(self, event: Event, content: Mapping[str, Any]) -> None:
        """A broadcast arrived whose content is nothing but a frame: ``event``, shared by all its receivers."""

    def credited(self, number: int | None) -> None:
        """The credit of message ``number`` came back; of the oldest one, where a worker did not say."""

    def sweep(self, now: float) -> None:
        """Time has passed: end what took too long."""

    def shut_down(self) -> None:
        """The server stops: finish, in your own time."""

    def abort(self) -> None:
        """The server stops now."""

    def lose_lease(self) -> None:
        """The process was taken for dead: no reply to this connection arrives any more."""


class Inbox:
    """Opened with the first connection of its loop, closed by :meth:`aclose`."""

    def __init__(self, layer: ChannelLayer, config: InterfaceConfig) -> None:
        self.layer = layer
        self.config = config
        self.backend = layer.backend
        self.counters = layer.counters
        self.is_waiting = layer.backend.is_waiting
        self.loop = asyncio.get_running_loop()
        self.process: str | None = None
        self.is_closing = False
        self.is_aborted = False
        """The time to finish is over: nothing is tried again."""
        self.outage = Outage(layer.alias, logger, _MEANWHILE)
        self.workers = WorkerWatch(layer.backend, self.outage, grace=config.worker_grace)
        self.now = self.loop.time()
        """The loop's time at the last sweep: what deadlines are counted from, to spare the hot path a clock."""
        self.stood_still = 0.0
        """Seconds between the last two sweeps in which nobody could have answered anything."""
        self.sweep_interval = min(
            _SWEEP,
            *(
                seconds / 4
                for seconds in (
                    config.http_timeout,
                    config.websocket_handshake_timeout,
                    config.credit_timeout,
                    config.outbound_timeout,
                    config.websocket_max_age or _SWEEP * 4,
                )
            ),
        )
        self.outbound_bytes = max(config.outbound_bytes, 4 * self.backend.max_message_size)
        """What may wait for one slow client."""
        self.credit_patience = self.sweep_interval + credit_patience(config.credit_timeout, self.backend)
        """Seconds after which a credit will not come."""
        self.lines = Lines(self)
        """Sends that wait for room, by channel."""
        self._connections: dict[str, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened = asyncio.Event()
        self._emptied: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._pump_task: asyncio.Task[None] | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    # Connections.

    async def ready(self, timeout: float) -> bool:
        """Whether messages can come back to this loop; opens the lease if need be, waiting at most ``timeout``."""
        if self.process is not None:
            return not self.is_closing
        if self.is_closing:
            return False
        if self._keeper is None:
            self._keeper = self.loop.create_task(self._keep())
        try:
            async with asyncio.timeout(timeout):
                await self._opened.wait()
        except TimeoutError:
            return False
        return self.process is not None and not self.is_closing

    def add(self, prefix: str, connection: Connection) -> tuple[str, str]:
        """Register ``connection``; returns the local part and the full name of its reply channel."""
        local = new_id()
        self._connections[local] = connection
        if self._sweeping is None:
            self.now = self.loop.time()
            self._sweeping = self.loop.call_later(self.sweep_interval, self._sweep)
        return local, f"{prefix}.{self.process}!{local}"

    def forget(self, local: str) -> None:
        """What arrives for ``local`` from now on is counted and dropped. Idempotent."""
        self._connections.pop(local, None)
        self._tell_when_empty()

    @property
    def is_empty(self) -> bool:
        return not self._connections and not self._tasks

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` as a task that outlives the connection's own."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A task of the interface failed; this is a bug in it.", exc_info=error)
        self._tell_when_empty()

    def _tell_when_empty(self) -> None:
        if self._emptied is not None and self.is_empty and not self._emptied.done():
            self._emptied.set_result(None)

    def _sweep(self) -> None:
        self._sweeping = None
        before, self.now = self.now, self.loop.time()
        now = self.now
        self.stood_still = now - before if self.stands_still else 0.0
        for connection in list(self._connections.values()):
            try:
                connection.sweep(now)
            except Exception:
                logger.exception("A connection could not be looked after; this is a bug in the interface.")
        if self._connections:
            self._sweeping = self.loop.call_later(self.sweep_interval, self._sweep)

    # Sending.

    async def send(self, send: Send) -> Outcome:
        """Send once. FULL also when the layer is away, or others wait for the channel; UNCERTAIN when it went away
        meanwhile; never raises."""
        if self.lines and send.channel in self.lines:
            self.counters.full += 1
            return Outcome.FULL
        try:
            outcome = await self.backend.asend_one(send) if self.is_waiting else self.backend.send_one(send)
        except Exception as error:  # noqa: BLE001 - a backend's failure, whatever it is, is an outage to us
            return self.failed(error)
        self.outage.end()
        return outcome

    def failed(self, error: Exception) -> Outcome:
        """What a send that raised ``error`` is taken for."""
        self.outage.begin(error)
        if isinstance(error, SendUncertain):
            return Outcome.UNCERTAIN
        if not isinstance(error, LayerUnavailable):
            logger.error("The backend failed to send; this is a bug in it.", exc_info=error)
        return Outcome.FULL

    def bears_repeat(self, channel: str) -> bool:
        """Whether a message on ``channel`` may arrive twice: its class is at-least-once."""
        return self.backend.delivery_class_of(channel) == AT_LEAST_ONCE

    async def insist(self, send: Send, *, until: float) -> Outcome:
        """Send, waiting in line until the loop's time is ``until`` while the layer refuses; returns the last outcome.

        An uncertain send is repeated only on a channel whose consumers bear a repeat.
        """
        bears_repeat = self.bears_repeat(send.channel)
        outcome = await self.send(send)
        if outcome.is_final or (outcome is Outcome.UNCERTAIN and not bears_repeat) or self.is_aborted:
            return outcome
        return await self.lines.wait(send, until=until, bears_repeat=bears_repeat)

    async def try_sends(self, sends: Sequence[Send]) -> Sequence[Outcome]:
        """Send each once, whoever else waits; as :meth:`send`."""
        try:
            outcomes = (
                await self.backend.asend_batch(sends) if self.is_waiting else self.backend.send_batch(sends)
            )
        except Exception as error:  # noqa: BLE001 - a backend's failure, whatever it is, is an outage to us
            return [self.failed(error)] * len(sends)
        self.outage.end()
        return outcomes

    @property
    def stands_still(self) -> bool:
        """Whether nobody could answer anything: the layer is away, or there is no worker."""
        return self.outage.is_on or self.workers.is_absent

    async def close_channel(self, channel: str, *, until: float) -> None:
        """End the memberships of ``channel``, trying again until the loop's time is ``until``."""
        for pause in pauses(0.05, 1.0):
            try:
                await self.backend.aclose_channel(channel)
            except Exception as error:  # noqa: BLE001 - a backend's failure, whatever it is, is an outage to us
                self.outage.begin(error)
            else:
                return
            if self.is_aborted or self.loop.time() + pause > until:
                return
            await asyncio.sleep(pause)

    # Receiving.

    async def _pump(self, prefixes: Sequence[str], process: str) -> None:
        receive = self.backend.areceive_batch
        tries = pauses(0.05, _LONGEST_PAUSE)
        while True:
            try:
                deliveries = await receive(prefixes, limit=_BATCH, timeout=None, process=process)
            except LayerUnavailable as error:
                self.outage.begin(error)
                await asyncio.sleep(next(tries))
                continue
            except Exception as error:
                logger.exception("The backend failed to receive; the interface tries again.")
                self.outage.begin(error)
                await asyncio.sleep(next(tries))
                continue
            if self.outage.is_on:
                self.outage.end()
                tries = pauses(0.05, _LONGEST_PAUSE)
            if deliveries:
                self.dispatch(deliveries)
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(0.01)  # woken; a closed backend would otherwise spin here

    def dispatch(self, deliveries: Iterable[Delivery]) -> None:
        """Hand each delivery to its connections. Never raises."""
        connections = self._connections
        for delivery in deliveries:
            content, headers, locals_ = delivery.content, delivery.headers, delivery.locals
            try:
                if content:
                    if len(locals_) == 1:
                        connection = connections.get(locals_[0])
                        if connection is None:
                            self._drop(delivery)
                        else:
                            connection.deliver(content, headers)
                    else:
                        self._fan_out(content, headers, locals_)
                credited = headers.get(CREDITED)
                if credited is not None:
                    connection = connections.get(credited)  # type: ignore[arg-type]  # an int finds nothing
                    if connection is None:
                        self.counters.unknown_reply += 1
                    else:
                        connection.credited(number_of(headers))
            except Exception:
                logger.exception(
                    "A message to %r could not be handed on; this is a bug in the interface.",
                    redact(delivery.channel),
                )

    def _fan_out(
        self, content: Mapping[str, Any], headers: Mapping[str, str | int], locals_: Sequence[str]
    ) -> None:
        """The event of a broadcast is made once; a socket that fails to take it keeps none from the others."""
        connections = self._connections
        event = frame_of(content)
        for local in locals_:
            connection = connections.get(local)
            if connection is None:
                self.counters.unknown_reply += 1
                continue
            try:
                if event is None:
                    connection.deliver(content, headers)
                else:
                    connection.deliver_frame(event, content)
            except Exception:
                logger.exception(
                    "A broadcast could not be handed to a connection; this is a bug in the interface."
                )

    def _drop(self, delivery: Delivery) -> None:
        """Nobody is there. A sender who paces itself is told, so that it stops instead of waiting."""
        self.counters.unknown_reply += 1
        paced_by = credit_of(delivery.headers)
        if paced_by is not None:
            self.spawn(self.acknowledge(paced_by, is_closed=True))

    async def acknowledge(self, channel: str, *, is_closed: bool = False) -> None:
        """Return the credit that a paced response asked for; with ``is_closed``, say that its reader is gone."""
        credit = credit_send(channel, is_closed=is_closed)
        await self.insist(credit, until=self.loop.time() + self.backend.expiry)

    # The lease.

    async def _keep(self) -> None:
        """Hold a lease for as long as the loop serves; take another, and tell the connections, when it ran out."""
        interval = self.backend.process_lease / 3
        while True:
            await self._open()
            busy, wall = thread_time(), self.loop.time()
            pause = interval
            while True:
                await asyncio.sleep(pause)
                load = (thread_time() - busy) / max(self.loop.time() - wall, 1e-3)
                busy, wall = thread_time(), self.loop.time()
                is_alive = await self._renew(min(1.0, load))
                if is_alive is False:
                    break
                pause = interval if is_alive else min(interval, _RENEW_AGAIN)
                await self.workers.look()
            self._lose()

    async def _open(self) -> None:
        label = f"{socket.gethostname()}:{os.getpid()}"
        for pause in pauses(0.05, 2.0):
            try:
                process = await self.backend.aopen_process("interface", label=label)
            except Exception as error:  # noqa: BLE001 - a backend's failure, whatever it is, is an outage to us
                self.outage.begin(error)
                await asyncio.sleep(pause)
                continue
            self.outage.end()
            break
        else:
            raise AssertionError("pauses() never ends")
        self.process = process
        prefixes = [f"http.response.{process}!", f"websocket.send.{process}!"]
        self._pump_task = self.loop.create_task(self._pump(prefixes, process))
        self._opened.set()

    async def _renew(self, load: float) -> bool | None:
        """Whether the lease runs; ``None`` where the layer does not say."""
        assert self.process is not None
        try:
            is_alive = await self.backend.arenew_process(
                self.process, load=load, counters=self.counters.as_dict()
            )
        except Exception as error:  # noqa: BLE001 - a backend's failure, whatever it is, is an outage to us
            self.outage.begin(error)
            return None
        self.outage.end()
        return is_alive

    def _lose(self) -> None:
        logger.error(
            "The lease of this interface server ran out: the layer took it for dead, and replies to its connections are"
            " lost. %d connections are closed (1012); it goes on with a new lease.",
            len(self._connections),
        )
        self.process = None
        self._opened.clear()
        if self._pump_task is not None:
            self._pump_task.cancel()
        for connection in list(self._connections.values()):
            connection.lose_lease()

    # The end.

    async def aclose(self) -> None:
        """Close sockets with 1012, let requests finish until ``shutdown_timeout``, and give the lease back."""
        if self.is_closing:
            return
        self.is_closing = True
        for connection in list(self._connections.values()):
            connection.shut_down()
        if not await self._wait_until_empty(self.config.shutdown_timeout):
            self.is_aborted = True
            for connection in list(self._connections.values()):
                connection.abort()
            await self._wait_until_empty(_LAST_WORDS)
        ending = [
            task
            for task in (self._keeper, self._pump_task, *self._tasks)
            if task is not None and not task.done()
        ]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._sweeping is not None:
            self._sweeping.cancel()
        process, self.process = self.process, None
        if process is not None:
            try:
                async with asyncio.timeout(_LAST_WORDS):
                    await self.backend.aclose_process(process)
            except Exception as error:  # noqa: BLE001 - the lease then simply runs out
                logger.warning("The lease could not be given back (%s); it runs out by itself.", error)

    async def _wait_until_empty(self, seconds: float) -> bool:
        if self.is_empty:
            return True
        self._emptied = self.loop.create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._emptied
        except TimeoutError:
            return False
        finally:
            self._emptied = None
        return True
