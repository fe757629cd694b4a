"""Sending what consumers leave behind, and trying again what was refused, off their threads."""

from __future__ import annotations

import heapq
import logging
import random
import threading
from collections.abc import Sequence
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING

from channels_core.credit import credit_send, number_of
from channels_core.exceptions import LayerUnavailable
from channels_core.headers import CREDITED
from channels_core.layers import Delivery, Exchange, Outcome, Send, Settlement, Turn, Verdict, uncertain
from channels_core.names import redact

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer
    from channels_core.config import WorkerConfig
    from channels_core.worker.runs import Run

__all__ = ["Outbox"]

logger = logging.getLogger("channels.worker")

_LONGEST_PAUSE = 0.5
_SENT = Outcome.SENT  # looking a member up in its enum costs as much as making a Send
_FULL = Outcome.FULL
_UNCERTAIN = Outcome.UNCERTAIN


class _Refused:
    """Sends of one run that found no room, in order, and what waits for them."""

    __slots__ = ("deadline", "layer", "pause", "sends", "settlement")

    def __init__(
        self,
        layer: ChannelLayer,
        sends: list[Send],
        settlement: Settlement | None,
        deadline: float,
        pause: float,
    ) -> None:
        self.layer = layer
        self.sends = sends
        self.settlement = settlement
        self.deadline = deadline
        self.pause = pause


class Outbox:
    """Sends and settles finished runs; thread-safe.

    A refused send is tried again in a thread of this object's own until ``send_retry_time`` is over, and later sends
    of the run to the same channel wait behind it. Then an at-most-once input's sends are dropped, counted and logged,
    and an at-least-once input is released, to be run again.
    """

    def __init__(self, layer: ChannelLayer, config: WorkerConfig) -> None:
        self._layer = layer
        self._backend = layer.backend
        self._config = config
        self._condition = threading.Condition()
        self._queue: list[tuple[float, int, _Refused]] = []
        self._serial = count()
        self._thread: threading.Thread | None = None
        self._trying: _Refused | None = None
        self._is_stopping = False

    # The usual way.

    def finish(self, run: Run) -> None:
        """Send and settle one run on a backend that does not wait."""
        if run.requeue is not None:
            self._settle(run.requeue)
            run.requeue = None
        sends = run.sends
        if sends:
            try:
                if len(sends) == 1:
                    outcome = self._backend.send_one(sends[0])
                    outcomes = None if outcome is _SENT else [outcome]
                else:
                    outcomes = self._backend.send_batch(sends)
            except LayerUnavailable:
                self.unavailable((run,))
                return
            if outcomes is not None:
                self._take_outcomes(run, outcomes)
                return
        if run.settlement is not None:
            self._settle(run.settlement)

    def _settle(self, settlement: Settlement) -> None:
        try:
            self._backend.settle((settlement,))
        except LayerUnavailable:
            self.settle_later((settlement,))

    def take_exchange(self, runs: Sequence[Run], exchange: Exchange) -> None:
        """Look after what an exchange of ``runs`` left undone."""
        for run, outcomes in zip(runs, exchange.outcomes, strict=True):
            self._take_outcomes(run, outcomes, is_settled=True)
        if exchange.unsettled:
            self.settle_later(exchange.unsettled)

    def uncertain(self, runs: Sequence[Run]) -> None:
        """Nobody knows what became of the runs: what bears a repeat is tried again."""
        self.take_exchange(runs, uncertain(self.turns_of(runs)))

    def _take_outcomes(self, run: Run, outcomes: Sequence[Outcome], *, is_settled: bool = False) -> None:
        """Look after the sends of ``run`` that did not arrive; settle it when all did and nobody has."""
        refused = []
        for send, outcome in zip(run.sends, outcomes, strict=True):
            if outcome is _SENT:
                continue
            if outcome is _FULL or (outcome is _UNCERTAIN and run.delivery.is_leased):
                refused.append(send)
            else:
                self._log_lost(self._layer, send, outcome)
        if refused:
            self._try_later(self._layer, refused, run.settlement)
        elif run.settlement is not None and not is_settled:
            self._settle(run.settlement)

    def turns_of(self, runs: Sequence[Run]) -> list[Turn]:
        """The runs as the layer's exchange takes them."""
        return [Turn(run.sends, run.settlement) for run in runs]

    def requeue_first(self, runs: Sequence[Run]) -> None:
        """Put back what goes back before the sends of its run."""
        requeued = [run.requeue for run in runs if run.requeue is not None]
        if requeued:
            self._backend.settle(requeued)
            for run in runs:
                run.requeue = None

    def unavailable(self, runs: Sequence[Run]) -> None:
        """The engine was away: keep the runs' sends, in order, and try again."""
        for run in runs:
            if run.requeue is not None:
                self.settle_later((run.requeue,))
            if run.sends or run.settlement is not None:
                self._try_later(self._layer, list(run.sends), run.settlement)

    def send_foreign(self, run: Run) -> None:
        """Send what a consumer sent to other layers than the one it was called from: first of all, so that its input
        is not settled before. May wait, and raises nothing."""
        by_layer: dict[int, tuple[ChannelLayer, list[Send]]] = {}
        for layer, send in run.foreign:
            by_layer.setdefault(id(layer), (layer, []))[1].append(send)
        for layer, sends in by_layer.values():
            try:
                outcomes = layer.backend.send_batch(sends)
            except LayerUnavailable:
                self._try_later(layer, sends, None)
                continue
            except Exception:
                layer.counters.dropped += len(sends)
                logger.exception(
                    "%d messages of a consumer are dropped: the layer %r failed.", len(sends), layer.alias
                )
                continue
            refused = []
            for send, outcome in zip(sends, outcomes, strict=True):
                if outcome is _FULL:
                    refused.append(send)
                elif outcome is not _SENT:
                    self._log_lost(layer, send, outcome)
            if refused:
                self._try_later(layer, refused, None)

    # The second tries.

    def settle_later(self, settlements: Sequence[Settlement]) -> None:
        """Settle as soon as the engine is back."""
        for settlement in settlements:
            self._try_later(self._layer, [], settlement)

    def leased(self) -> list[Delivery]:
        """The deliveries whose settlements wait here, and whose leases must be renewed."""
        with self._condition:
            waiting = [refused for _, _, refused in self._queue]
        if self._trying is not None:
            waiting.append(self._trying)
        return [
            refused.settlement.delivery
            for refused in waiting
            if refused.settlement is not None and refused.settlement.delivery.is_leased
        ]

    def _try_later(self, layer: ChannelLayer, sends: list[Send], settlement: Settlement | None) -> None:
        now = monotonic()
        # A message that cannot even be put back would be lost, and nobody waits for it: that is worth more patience.
        patience = self._config.send_retry_time if sends else layer.backend.expiry
        refused = _Refused(layer, sends, settlement, now + patience, self._config.send_retry_interval)
        with self._condition:
            if self._thread is None:
                self._thread = threading.Thread(target=self._try_again, name="channels-outbox", daemon=True)
                self._thread.start()
            heapq.heappush(self._queue, (now + refused.pause, next(self._serial), refused))
            self._condition.notify_all()

    def _try_again(self) -> None:
        while True:
            with self._condition:
                while not self._queue:
                    if self._is_stopping:
                        return
                    self._condition.wait()
                due, _, refused = self._queue[0]
                now = monotonic()
                if due > now:
                    self._condition.wait(due - now)
                    continue
                heapq.heappop(self._queue)
                self._trying = refused
            try:
                self._try(refused)
            except Exception:
                logger.exception("Second tries of a consumer's sends failed; they are dropped.")
            finally:
                with self._condition:
                    self._trying = None
                    self._condition.notify_all()

    def _try(self, refused: _Refused) -> None:
        try:
            if refused.sends:
                self._send_again(refused)
            if not refused.sends:
                if refused.settlement is not None:
                    refused.layer.backend.settle((refused.settlement,))
                return
        except LayerUnavailable:
            pass  # what is left of it is tried again
        if monotonic() >= refused.deadline:
            self._give_up(refused)
            return
        refused.pause = min(refused.pause * 2, _LONGEST_PAUSE)
        due = min(monotonic() + refused.pause * random.uniform(0.75, 1.25), refused.deadline)  # jitter
        with self._condition:
            heapq.heappush(self._queue, (due, next(self._serial), refused))

    def _send_again(self, refused: _Refused) -> None:
        """Leave those sends that found no room again."""
        layer = refused.layer
        is_leased = refused.settlement is not None and refused.settlement.delivery.is_leased
        outcomes = layer.backend.send_batch(refused.sends)
        sends, refused.sends = refused.sends, []
        for send, outcome in zip(sends, outcomes, strict=True):
            if outcome is _FULL or (outcome is _UNCERTAIN and is_leased):
                refused.sends.append(send)
            elif outcome is _SENT:
                layer.counters.retried += 1
            else:
                self._log_lost(layer, send, outcome)

    def _give_up(self, refused: _Refused) -> None:
        layer, left, settlement = refused.layer, refused.sends, refused.settlement
        if settlement is not None:
            self._give_up_settling(layer, left, settlement)
            return
        layer.counters.dropped += len(left)
        logger.error(
            "%d messages of a consumer are dropped: no room within %.1f s; the first was for %r. Add readers, or raise"
            " channel_capacity.",
            len(left),
            self._config.send_retry_time,
            redact(left[0].channel),
        )
        owed = [
            credit_send(send.channel, number_of(send.headers))
            for send in left
            if CREDITED in send.headers and send.content
        ]
        if owed:
            self._try_later(layer, owed, None)  # then the interface's credit_timeout covers it

    def _give_up_settling(self, layer: ChannelLayer, left: list[Send], settlement: Settlement) -> None:
        delivery = settlement.delivery
        if not left:
            if not delivery.is_leased:
                layer.counters.dropped += 1
            logger.error(
                "The layer %r was away for %.0f s, so how a message on %r ended could not be said: %s.",
                layer.alias,
                layer.backend.expiry,
                redact(delivery.channel),
                "it will be run again" if delivery.is_leased else "it is lost",
            )
            return
        logger.error(
            "%d messages of a consumer found no room within %.1f s, so its input on %r is released and will be run"
            " again; the first was for %r.",
            len(left),
            self._config.send_retry_time,
            redact(delivery.channel),
            redact(left[0].channel),
        )
        self.settle_later((Settlement(delivery, Verdict.RELEASE, is_begun=True),))

    def _log_lost(self, layer: ChannelLayer, send: Send, outcome: Outcome) -> None:
        if outcome is Outcome.GONE:
            return  # the backend counted it; a socket that closed meanwhile is no news
        layer.counters.dropped += 1
        logger.error("A consumer's message for %r is dropped: %s.", redact(send.channel), outcome.value)
        if CREDITED in send.headers and send.content:
            self._try_later(layer, [credit_send(send.channel, number_of(send.headers))], None)

    def stop(self, timeout: float) -> bool:
        """Wait until second tries have ended, at most ``timeout`` seconds; whether they have."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify_all()
            has_ended = self._condition.wait_for(lambda: not self._queue and self._trying is None, timeout)
            left = len(self._queue)
        if not has_ended:
            logger.error(
                "The worker of layer %r ends before %d second tries of its consumers' sends did; what is at-least-once"
                " will be run again, the rest is lost.",
                self._layer.alias,
                max(left, 1),
            )
        return has_ended
