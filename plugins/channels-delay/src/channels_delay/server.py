"""The delay server: takes orders off ``asgi.delay`` into the table, and sends what is due."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from types import FrameType
from typing import Final

from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    close_old_connections,
    connections,
    transaction,
)
from django.utils import timezone

from channels_core.channel_layer import ChannelLayer
from channels_core.exceptions import InvalidMessageError, InvalidNameError, LayerUnavailable, MessageTooLarge
from channels_core.headers import DELAYED
from channels_core.layers import Delivery, Outcome, Send, Settlement, Verdict
from channels_core.names import redact
from channels_core.outage import Outage, pauses
from channels_delay import table
from channels_delay.models import DelayedMessage
from channels_delay.orders import DELAY_CHANNEL, BadOrder, Order, read_order
from channels_delay.stored import from_text

__all__ = ["DelayServer", "run_until_signalled"]

logger = logging.getLogger("channels.delay")

_AT_ONCE: Final = 100
_RETRY_AFTER: Final = timedelta(seconds=1)
_CLEAN_EVERY: Final = 300.0
_SAME_REQUEST: Final = 1.0

_SAFE: Final = 0.8
"""The part of a lease that is counted on; the rest is for clocks, and for the way to the engine."""

_AWAY: Final = (OperationalError, InterfaceError)


class DelayServer:
    """Sends the delayed messages of one layer, each when it is due, until it is stopped.

    It sleeps on the layer, in one blocking read of ``asgi.delay`` that ends when an order arrives or the next message
    is due. At least every ``sleep`` seconds it looks for rows that others wrote.

    Any number of servers may run for one layer: a message is claimed by one of them. Nothing is lost while the database
    or the layer is away, a channel is full, or a server is killed: an order that is not in the table yet goes back to
    its channel (killed: where ``asgi.delay`` is at-least-once), and a message in hand becomes due again. A message is
    sent twice only where a server is killed between a send and the statement that follows it: then both carry the
    same ``c-delayed`` header. Where the layer keeps its messages in the same database, send and statement are one
    transaction, and every message is sent once.

    Use either :meth:`run`, which blocks, or :meth:`start` and :meth:`stop`. A stopped server is not started again.
    """

    def __init__(self, layer: ChannelLayer, *, sleep: float = 1.0) -> None:
        self.layer = layer
        self.sleep = sleep
        self._backend = layer.backend
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._process: str | None = None
        self._renew_at = 0.0
        self._process_until = 0.0
        self._leases_until = 0.0
        self._clean_at = 0.0
        self._unkept: list[Delivery] = []
        """Orders in hand, while the database is away."""
        self._is_in_doubt = False
        """Whether they, or some of them, may be in the table: the database went away while it was told."""
        self._sent: list[int] = []
        """Rows whose messages are gone, until the table knows."""
        self._put_off: dict[int, datetime] = {}
        """Rows to be tried again, until the table knows."""
        self._layer_outage = Outage(layer.alias, logger, "Delayed messages wait until it is back.")
        self._database_away_since: float | None = None

    # Starting and stopping.

    def run(self) -> None:
        """Serve until :meth:`request_stop`; what is in hand is finished or given back."""
        waits: Iterator[float] | None = None
        try:
            while not self._stopping.is_set():
                try:
                    self._turn()
                    waits = None
                    continue
                except LayerUnavailable as error:
                    self._layer_outage.begin(error)
                except _AWAY as error:
                    self._database_goes(error)
                except Exception:
                    logger.exception("The delay server of layer %r failed; it goes on.", self.layer.alias)
                waits = waits or pauses(0.05, 1.0)
                self._stopping.wait(next(waits))
        finally:
            self._end()

    def start(self) -> None:
        """:meth:`run` in a thread of its own."""
        self._thread = threading.Thread(target=self._run_and_close, name="channels-delay", daemon=True)
        self._thread.start()

    def _run_and_close(self) -> None:
        try:
            self.run()
        finally:
            connections.close_all()

    def request_stop(self) -> None:
        """Have :meth:`run` return soon. From any thread, or a signal handler."""
        self._stopping.set()
        self._backend.wake()

    def stop(self, timeout: float = 30.0) -> bool:
        """Stop what :meth:`start` started; whether it has ended within ``timeout`` seconds."""
        deadline = monotonic() + timeout
        self.request_stop()
        if self._thread is not None:
            # A read that begins after the call is not woken by it.
            while self._thread.is_alive() and monotonic() < deadline:
                self._backend.wake()
                self._thread.join(0.05)
            return not self._thread.is_alive()
        return True

    def _end(self) -> None:
        try:
            if self._unkept:
                self._give_back()
            if self._process is not None:
                self._backend.close_process(self._process)
        except LayerUnavailable as error:
            self._layer_outage.begin(error)
        try:
            self._tell_table()
        except DatabaseError as error:
            logger.warning(
                "The delay server of layer %r ends while the database is away (%s): %d messages that were sent may be"
                " sent again.",
                self.layer.alias,
                error,
                len(self._sent),
            )

    # One turn of the loop.

    def _turn(self) -> None:
        self._keep_process()
        close_old_connections()
        if self._unkept:
            self._keep_orders()
        self._tell_table()
        self._clean()
        due = table.next_due(self.layer.alias)
        self._database_is_back()
        wait = self.sleep if due is None else min(self.sleep, (due - timezone.now()).total_seconds())
        if wait <= 0:
            self._send_due()
            wait = 0.0
        self._leases_until = monotonic() + self._backend.lease * _SAFE
        self._unkept = self._backend.receive_batch(
            (DELAY_CHANNEL,),
            limit=_AT_ONCE,
            timeout=min(wait, self._backend.process_lease / 3),
            process=self._process,
        )
        self._layer_outage.end()
        if self._unkept:
            self._keep_orders()

    def _keep_process(self) -> None:
        """Renew the lease that the orders in hand belong to, and those of orders that wait for the database."""
        now = monotonic()
        if now < self._renew_at:
            return
        if self._unkept and not self._is_ours(self._unkept):
            self._give_back()
        process = self._process
        if process is None or not self._backend.renew_process(
            process, counters=self.layer.counters.as_dict()
        ):
            label = f"rundelay {socket.gethostname()}:{os.getpid()}"
            self._process = self._backend.open_process("other", label=label)
        leased = [delivery for delivery in self._unkept if delivery.is_leased]
        if leased:
            self._backend.renew_leases(leased)
            self._leases_until = now + self._backend.lease * _SAFE
        self._process_until = now + self._backend.process_lease * _SAFE
        self._renew_at = now + min(self._backend.process_lease, self._backend.lease) / 3

    def _is_ours(self, orders: Sequence[Delivery]) -> bool:
        """Whether none of ``orders`` can have been handed to another server, for want of a sign of life."""
        until = min(self._process_until, self._leases_until)
        return monotonic() < until or not any(order.is_leased for order in orders)

    def _give_back(self) -> None:
        """Release the orders in hand; of those that are another server's by now nothing happens."""
        begun = self._is_in_doubt  # then whoever gets them has to look for receipts
        orders, self._unkept, self._is_in_doubt = self._unkept, [], False
        self._backend.settle([Settlement(one, Verdict.RELEASE, is_begun=begun) for one in orders])

    def _clean(self) -> None:
        if monotonic() >= self._clean_at:
            table.forget_receipts()
            self._clean_at = monotonic() + _CLEAN_EVERY

    # Orders.

    def _keep_orders(self) -> None:
        """Put the orders in hand into the table, then settle them: in this order, so that none is lost."""
        settlements: list[Settlement] = []
        fresh: list[tuple[Delivery, Order]] = []
        for delivery in self._unkept:
            try:
                fresh.append((delivery, read_order(delivery)))
            except BadOrder as error:
                logger.error("A message on %r was skipped: %s.", DELAY_CHANNEL, error)
                settlements.append(Settlement(delivery, Verdict.DONE))
        receipts: list[int] = []
        try:
            settlements += self._accept_all(fresh, receipts)
        except table.NotOurs:
            self._give_back()
            return
        except _AWAY:
            self._is_in_doubt = True
            raise
        orders, self._unkept, self._is_in_doubt = self._unkept, [], False
        leased = [settlement for settlement in settlements if settlement.delivery.is_leased]
        if leased:
            self._backend.settle(leased)
        # Settled too late, they come to another server, which has to find the receipts.
        if receipts and self._is_ours(orders):
            table.forget(receipts)

    def _accept_all(self, orders: Sequence[tuple[Delivery, Order]], receipts: list[int]) -> list[Settlement]:
        try:
            receipts += self._accept(orders)
        except _AWAY:
            raise
        except DatabaseError:
            return self._accept_one_by_one(orders, receipts)
        return [Settlement(delivery, Verdict.DONE) for delivery, _ in orders]

    def _accept(self, orders: Sequence[tuple[Delivery, Order]]) -> list[int]:
        if not orders:
            return []
        fresh: list[Order] = []
        repeated: list[Order] = []
        for delivery, order in orders:
            (repeated if delivery.attempt > 1 or self._is_in_doubt else fresh).append(order)
        deliveries = [delivery for delivery, _ in orders]
        return table.accept(fresh, repeated, self.layer.alias, is_ours=partial(self._is_ours, deliveries))

    def _accept_one_by_one(
        self, orders: Sequence[tuple[Delivery, Order]], receipts: list[int]
    ) -> list[Settlement]:
        """One of them is more than the table takes: find it, so that the others are kept."""
        settlements = []
        for delivery, order in orders:
            try:
                receipts += self._accept([(delivery, order)])
                settlements.append(Settlement(delivery, Verdict.DONE))
            except _AWAY:
                raise
            except table.NotOurs:
                self._is_in_doubt = True  # some are kept, which whoever gets them has to know
                raise
            except DatabaseError as error:
                logger.error(
                    "The table of delayed messages does not take a message to %r: %s", order.channel, error
                )
                settlements.append(Settlement(delivery, Verdict.DEAD, reason=f"Not stored: {error}"))
        return settlements

    # Messages.

    def _send_due(self) -> None:
        """Send what is due, a batch at a time, and tell the table."""
        while not self._stopping.is_set():
            rows = table.claim_due(self.layer.alias, _AT_ONCE)
            if not rows:
                return
            self._send(rows)
            self._tell_table()
            if len(rows) < _AT_ONCE:
                return

    def _send(self, rows: Sequence[DelayedMessage]) -> None:
        sends: list[Send] = []
        tried: list[DelayedMessage] = []
        for row in rows:
            try:
                content, headers = from_text(row.content), {DELAYED: row.pk}
                sends.append(self.layer.prepare(row.channel_name, content, headers))
                tried.append(row)
            except (
                InvalidNameError,
                InvalidMessageError,
                MessageTooLarge,
                ValueError,
                RecursionError,
            ) as error:
                self._give_up(row, str(error))
        try:
            if sends and not self._send_and_tell(tried, sends):
                self._note(tried, sends, self._backend.send_batch(sends))
        except LayerUnavailable:
            # Nothing was sent: they are due as they were.
            self._put_off.update({row.pk: row.due_date for row in tried})
            raise

    def _send_and_tell(self, rows: Sequence[DelayedMessage], sends: Sequence[Send]) -> bool:
        """Send and tell the table in one transaction, where the layer keeps its messages in the same database."""
        if not self._backend.is_transactional:
            return False
        dropped = [*self._sent]
        try:
            with transaction.atomic(using=table.database()):
                ours = table.still_claimed(rows)
                pairs = [(row, send) for row, send in zip(rows, sends, strict=True) if row.pk in ours]
                kept, leaving = [row for row, _ in pairs], [send for _, send in pairs]
                outcomes = self._backend.send_in_transaction(leaving) if pairs else []
                if outcomes is None:
                    return False
                self._note(kept, leaving, outcomes)
                self._tell_table()
        except BaseException:
            # The sends were taken back, so they are due as they were; where the commit was only not heard of, the rows
            # are gone.
            self._sent = dropped
            self._put_off = {row.pk: row.due_date for row in rows}
            raise
        return True

    def _note(
        self, rows: Sequence[DelayedMessage], sends: Sequence[Send], outcomes: Sequence[Outcome]
    ) -> None:
        retry_at = timezone.now() + _RETRY_AFTER
        for row, send, outcome in zip(rows, sends, outcomes, strict=True):
            if outcome is Outcome.TOO_LARGE:
                self._give_up(row, f"it has about {send.size} bytes, too many for the layer")
            elif outcome.is_final:
                self._sent.append(row.pk)
            else:
                # A microsecond apart, they keep their order.
                self._put_off[row.pk] = retry_at + timedelta(microseconds=len(self._put_off))

    def _give_up(self, row: DelayedMessage, reason: str) -> None:
        logger.error(
            "Delayed message %s to %r cannot be sent and is dropped: %s.",
            row.pk,
            redact(row.channel_name),
            reason.rstrip("."),
        )
        self._sent.append(row.pk)

    def _tell_table(self) -> None:
        if self._sent:
            table.finish(self._sent)
            self._sent = []
        if self._put_off:
            table.put_off(self._put_off)
            self._put_off = {}

    # The database's outages.

    def _database_goes(self, error: BaseException) -> None:
        if self._database_away_since is None:
            self._database_away_since = monotonic()
            logger.error(
                "The database of delayed messages is away (%s: %s). They wait until it is back.",
                type(error).__name__,
                str(error).strip(),
            )

    def _database_is_back(self) -> None:
        if self._database_away_since is not None:
            logger.warning(
                "The database of delayed messages is back after %.1f s.",
                monotonic() - self._database_away_since,
            )
            self._database_away_since = None


def run_until_signalled(server: DelayServer, on_ready: Callable[[], None] | None = None) -> None:
    """:meth:`DelayServer.run` in the main thread; SIGTERM or SIGINT stops it gracefully, a later one at once."""
    first: float | None = None

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = monotonic()
            server.request_stop()
        elif monotonic() - first > _SAME_REQUEST:
            os._exit(128 + signum)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if on_ready is not None:
            on_ready()
        server.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
