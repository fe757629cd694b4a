"""What reads messages and runs their consumers: threads, and an event loop for async-only channels."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import Delivery, Settlement, Verdict
from channels_core.worker.loops import loop_factory

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer
    from channels_core.config import WorkerConfig
    from channels_core.outage import Outage
    from channels_core.worker.outbox import Outbox
    from channels_core.worker.runs import Run, Runner

__all__ = ["LoopReader", "ThreadReader"]

logger = logging.getLogger("channels.worker")

_WAIT = 5.0
"""Longest wait for a message, seconds. Readers are woken to stop; this only bounds the cost of a lost wake-up."""
_LARGEST_BATCH = 256
_QUICK = 0.0005
"""Handlers quicker than this may share a round trip to the engine with the next one."""
_IS_EAGER = sys.version_info >= (3, 12)
"""Whether tasks begin at once."""
_EXCHANGES = 2
"""Round trips that an event loop's reader has under way at once; what ends meanwhile shares the next one."""
_LONGEST_PAUSE = 2.0
_LAST_CALL = 2.0
"""How long a stopping worker waits for an engine that does not answer its wake-up, seconds."""


class _Reader:
    """What both readers are made of: what they read and run, and a thread."""

    def __init__(
        self,
        name: str,
        channels: Sequence[str],
        layer: ChannelLayer,
        runner: Runner,
        outbox: Outbox,
        config: WorkerConfig,
        outage: Outage,
    ) -> None:
        self._channels = tuple(channels)
        self._backend = layer.backend
        self._runner = runner
        self._outbox = outbox
        self._config = config
        self._outage = outage
        self.process: str | None = None
        self.must_stop = False
        """Whether a consumer asked for the worker's end."""
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        raise AssertionError("each reader says what its thread does")

    def start(self) -> None:
        """Begin reading."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the end; whether it came, or there was no beginning."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()


class ThreadReader(_Reader):
    """Reads the channels that have synchronous consumers, in a thread of its own.

    It takes no more messages than it can begin within ``prefetch_time``. :meth:`relieve`, called by the worker's
    watchdog, gives back what waits behind a slow handler.
    """

    def __init__(
        self,
        name: str,
        channels: Sequence[str],
        layer: ChannelLayer,
        runner: Runner,
        outbox: Outbox,
        config: WorkerConfig,
        outage: Outage,
    ) -> None:
        super().__init__(name, channels, layer, runner, outbox, config, outage)
        self._in_hand: deque[Delivery] = deque()
        self._current: Delivery | None = None
        self._since = 0.0
        self._finished: list[Run] = []
        self._flushing = threading.Lock()
        self._handler_time = config.prefetch_time or 0.002
        self._asyncio: asyncio.Runner | None = None

    def ask_to_stop(self) -> None:
        """Finish the message in hand, give back the others, end."""
        self._is_stopping = True

    @property
    def is_busy(self) -> bool:
        """Whether a consumer is running."""
        return self._current is not None

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:  # the worker must end rather than go on without its thread
            self.must_stop = self._is_stopping = True
            logger.critical("A worker's thread has failed, so the worker stops.", exc_info=error)
            self._recover()
        finally:
            self._runner.finish_thread()
            if self._asyncio is not None:
                with self._asyncio as runner:
                    runner.run(self._backend.aleave_loop())

    def _read(self) -> None:
        pause = 0.05
        in_hand = self._in_hand
        while not self._is_stopping:
            try:
                in_hand.extend(
                    self._backend.receive_batch(
                        self._channels, limit=self._batch_size(), timeout=_WAIT, process=self.process
                    )
                )
                while in_hand and not self._is_stopping:
                    self._work()
                self._release()
                self._outage.end()
                pause = 0.05
            except LayerUnavailable as error:
                self._outage.begin(error)
                _sleep_unless_stopping(self, pause * random.uniform(0.5, 1.0))  # jitter
                pause = min(pause * 2, _LONGEST_PAUSE)
            except Exception:
                logger.exception("Reading messages failed; trying again in %.1f s.", pause)
                self._recover()
                _sleep_unless_stopping(self, pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _recover(self) -> None:
        """After a failure that nobody foresaw: keep no message here that others could run."""
        current, self._current = self._current, None
        if current is not None and current.is_leased:
            self._outbox.settle_later([Settlement(current, Verdict.RELEASE, is_begun=True)])
        self._release()

    def _batch_size(self) -> int:
        return max(1, min(_LARGEST_BATCH, int(self._config.prefetch_time / self._handler_time)))

    def _work(self) -> None:
        """Run the consumers of what is in hand; where the backend waits, the round trip that ends them brings more."""
        in_hand = self._in_hand
        begin, run_consumer = self._runner.begin, self._runner.run
        waits, finish = self._backend.is_waiting, self._outbox.finish
        started = perf_counter()
        while in_hand and not self._is_stopping:
            try:
                delivery = in_hand.popleft()
            except IndexError:  # the watchdog gave it back
                break
            self._since = started
            self._current = delivery
            run = begin(delivery)
            finished = (
                self._run_async(run) if run.call is not None and run.call.is_async else run_consumer(run)
            )
            self._current = None
            now = perf_counter()
            took = now - started
            started = now
            self._handler_time += (took - self._handler_time) * 0.1
            if finished.must_stop:
                self.must_stop = self._is_stopping = True
            if finished.foreign:
                self._outbox.send_foreign(finished)
            if waits:
                with self._flushing:
                    self._finished.append(finished)
                if not in_hand and not self._is_stopping:
                    self._exchange()
                    return
                if took > _QUICK:
                    self._flush()
            else:
                finish(finished)
        if self._is_stopping:
            self._release()
        if waits:
            self._flush()

    def _exchange(self) -> None:
        """The batch's sends and settlements and the next messages, in one round trip where the engine can."""
        with self._flushing:
            finished, self._finished = self._finished, []
            try:
                self._outbox.requeue_first(finished)
                exchange = self._backend.exchange(
                    self._outbox.turns_of(finished),
                    self._channels,
                    limit=self._batch_size(),
                    timeout=_WAIT,
                    process=self.process,
                )
            except LayerUnavailable:
                self._outbox.unavailable(finished)
                raise
        self._in_hand.extend(exchange.deliveries)
        self._outbox.take_exchange(finished, exchange)

    def _flush(self, *, waits: bool = True) -> None:
        if not self._flushing.acquire(blocking=waits):
            return  # the reader is about it, and waits for its next message with the lock
        try:
            finished, self._finished = self._finished, []
            if not finished:
                return
            try:
                self._outbox.requeue_first(finished)
                exchange = self._backend.exchange(self._outbox.turns_of(finished), (), limit=0, timeout=0)
            except LayerUnavailable as error:
                self._outage.begin(error)
                self._outbox.unavailable(finished)
                return
        finally:
            self._flushing.release()
        self._outbox.take_exchange(finished, exchange)

    def _run_async(self, run: Run) -> Run:
        """An ``async def`` consumer on a channel that has synchronous ones too: on this thread's own loop."""
        if self._asyncio is None:
            self._asyncio = asyncio.Runner(loop_factory=loop_factory(self._config.event_loop))
        loop = self._asyncio.get_loop()
        task = loop.create_task(self._runner.arun(run))
        try:
            return loop.run_until_complete(task)
        except BaseException:
            if task.done():
                raise
            # A task that the consumer made asked for the worker's end, which asyncio tells the loop, not the consumer.
            task.cancel()
            finished = loop.run_until_complete(task)
            finished.must_stop = True
            return finished

    def relieve(self) -> None:
        """Give back what waits behind a handler slower than ``release_after``; send what the ones before it left."""
        if self._current is None or perf_counter() - self._since < self._config.release_after:
            return
        if self._in_hand:
            self._release()
        if self._finished:
            self._flush(waits=False)

    def _release(self) -> None:
        taken: list[Delivery] = []
        while self._in_hand:
            try:
                taken.append(self._in_hand.pop())
            except IndexError:
                break
        if taken:
            taken.reverse()  # what is released together keeps the order in which it is named
            settlements = [Settlement(delivery, Verdict.RELEASE) for delivery in taken]
            try:
                self._backend.settle(settlements)
            except LayerUnavailable as error:
                self._outage.begin(error)
                self._outbox.settle_later(settlements)

    def leased(self) -> list[Delivery]:
        """The deliveries in hand whose leases must be renewed."""
        current = self._current
        held = [
            delivery for delivery in (*self._in_hand, current) if delivery is not None and delivery.is_leased
        ]
        with_outputs = [run.delivery for run in self._finished if run.delivery.is_leased]
        return held + with_outputs


def _sleep_unless_stopping(reader: ThreadReader, seconds: float) -> None:
    end = monotonic() + seconds
    pause = threading.Event()
    while not reader._is_stopping and (left := end - monotonic()) > 0:
        pause.wait(min(left, 0.2))


class LoopReader(_Reader):
    """Reads the async-only channels on an event loop in a thread of its own; ``async_slots`` consumers at once."""

    def __init__(
        self,
        name: str,
        channels: Sequence[str],
        layer: ChannelLayer,
        runner: Runner,
        outbox: Outbox,
        config: WorkerConfig,
        outage: Outage,
    ) -> None:
        super().__init__(name, channels, layer, runner, outbox, config, outage)
        self._running: dict[asyncio.Task[None], Delivery] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting: Delivery | None = None
        """Runs already, before its task exists."""
        self._room: asyncio.Event | None = None
        """Set when a consumer ends; made when the reader waits for that."""
        self._finished: list[Run] = []
        """Consumers that have ended, whose sends and settlements leave with the next round trip."""
        self._leaving: dict[asyncio.Task[None], list[Run]] = {}
        """Round trips under way."""
        self._taken_along: list[Run] = []
        """What leaves with the read under way."""
        self._is_receiving = self._is_giving_back = False
        self._is_collecting = False
        """Whether the reader is about to take along what has ended."""

    def ask_to_stop(self) -> None:
        """Finish the consumers in hand, read no more, end."""
        self._is_stopping = True
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has just closed: it stopped already
                loop.call_soon_threadsafe(self._cancel_reading)

    def _cancel_reading(self) -> None:
        """Stop waiting. A read that waits in the engine is left to the wake-ups of the worker's stop(). Woken, it has
        what the engine handed out just then, and the loop does not end before that is given back."""
        if self._reading is None or self._is_giving_back:
            return
        if self._is_receiving and self._loop is not None:
            self._loop.call_later(_LAST_CALL, self._break_off)
        else:
            self._reading.cancel()

    def _break_off(self) -> None:
        if self._reading is not None and self._is_receiving:
            self._reading.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether a consumer is running."""
        return bool(self._running)

    def relieve(self) -> None:
        """Nothing to give back: what was taken has begun."""

    def leased(self) -> list[Delivery]:
        """The deliveries in hand whose leases must be renewed."""
        leaving = (self._finished, self._taken_along, *list(self._leaving.values()))
        ended = [run.delivery for runs in leaving for run in runs]
        in_hand = (self._starting, *list(self._running.values()), *ended)
        return [delivery for delivery in in_hand if delivery is not None and delivery.is_leased]

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory(self._config.event_loop)) as runner:
                runner.run(self._main())
        except BaseException as error:  # also SystemExit, which a task of a consumer's own may raise
            logger.critical("A worker's event loop has failed, so the worker stops.", exc_info=error)
        finally:
            if not self._is_stopping:
                self.must_stop = self._is_stopping = True

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reading = asyncio.create_task(self._read())
        if self._is_stopping:
            self._reading.cancel()
        await asyncio.wait([self._reading])
        if self._finished:  # no read takes it along any more, and it must not wait for those that still run
            self._leave()
        if self._running:
            await asyncio.wait(list(self._running), timeout=self._config.stop_timeout)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running), timeout=1.0)
        while self._leaving:
            await asyncio.wait(list(self._leaving))
        await self._backend.aleave_loop()
        if not self._is_stopping:
            await self._reading  # raises what ended it

    async def _read(self) -> None:
        pause = 0.05
        while not self._is_stopping:
            try:
                while (slots := self._free_slots()) < 1:
                    if self._finished and not self._leaving:
                        self._leave()
                    self._room = asyncio.Event()
                    await self._room.wait()
                self._is_receiving = True
                try:
                    deliveries = await self._receive(min(slots, _LARGEST_BATCH))
                finally:
                    self._is_receiving = False
                if self._is_stopping:
                    await self._give_back(deliveries)
                    return
                self._outage.end()
                await self._begin_all(deliveries)
                pause = 0.05
            except LayerUnavailable as error:
                self._outage.begin(error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # jitter
                pause = min(pause * 2, _LONGEST_PAUSE)
            except Exception:
                logger.exception("Reading messages failed; trying again in %.1f s.", pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _free_slots(self) -> int:
        """How many consumers may begin: one that has ended keeps its slot until its sends have left, or leave with the
        next read."""
        leaving = sum(map(len, self._leaving.values())) if self._leaving else 0
        return self._config.async_slots - len(self._running) - leaving

    async def _receive(self, limit: int) -> Sequence[Delivery]:
        """The next messages. What has ended leaves in the same round trip."""
        finished, self._finished = self._finished, []
        if not finished:
            return await self._backend.areceive_batch(
                self._channels, limit=limit, timeout=_WAIT, process=self.process
            )
        self._taken_along = finished
        has_begun = False
        try:
            await self._requeue_first(finished)
            has_begun = True
            exchange = await self._backend.aexchange(
                self._outbox.turns_of(finished),
                self._channels,
                limit=limit,
                timeout=_WAIT,
                process=self.process,
            )
        except LayerUnavailable:
            self._outbox.unavailable(finished)
            raise
        except asyncio.CancelledError:  # the worker stops, and the engine has said nothing for a while
            if has_begun:
                self._outbox.uncertain(finished)
            else:
                self._outbox.unavailable(finished)
            raise
        finally:
            self._taken_along = []
        self._outbox.take_exchange(finished, exchange)
        return exchange.deliveries

    async def _begin_all(self, deliveries: Sequence[Delivery]) -> None:
        """Begin them before anything else happens; those that never wait end here, and leave with the next read."""
        self._is_collecting = self._backend.is_waiting
        try:
            for delivery in deliveries:
                self._begin(delivery)
            if self._is_collecting and not _IS_EAGER:
                await asyncio.sleep(0)
        finally:
            self._is_collecting = False

    async def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        """What came while the worker was told to stop has not begun."""
        if deliveries:
            settlements = [Settlement(delivery, Verdict.RELEASE) for delivery in deliveries]
            self._is_giving_back = True
            try:
                await self._backend.asettle(settlements)
            except LayerUnavailable as error:
                self._outage.begin(error)
                self._outbox.settle_later(settlements)

    def _begin(self, delivery: Delivery) -> None:
        if sys.version_info >= (3, 12):  # as _IS_EAGER, for type checkers
            self._starting = delivery
            task = asyncio.Task(self._consume(delivery), loop=self._loop, eager_start=True)
            self._starting = None
            if task.done():  # most consumers never wait
                self._report(task)
                return
        else:
            task = asyncio.create_task(self._consume(delivery))
        self._running[task] = delivery
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if self._room is not None:
            self._room.set()
        self._report(task)

    @staticmethod
    def _report(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Finishing a consumer's run failed: %s", error, exc_info=error)

    async def _consume(self, delivery: Delivery) -> None:
        run = self._runner.begin(delivery)
        if run.call is None or run.call.is_async:
            finished = await self._runner.arun(run)
        else:  # of a route that was added since the worker started
            finished = await asyncio.to_thread(self._runner.run, run)
        if finished.must_stop:
            self.must_stop = self._is_stopping = True
            self._cancel_reading()
        if finished.foreign:
            await asyncio.to_thread(self._outbox.send_foreign, finished)
        if not self._backend.is_waiting:
            self._outbox.finish(finished)
            return
        self._finished.append(finished)
        if not self._is_collecting and len(self._leaving) < _EXCHANGES and len(self._finished) == 1:
            self._leave()

    def _leave(self) -> None:
        """A round trip for what has ended, and for what else ends before the loop's next turn."""
        assert self._loop is not None
        task = self._loop.create_task(self._exchange())
        self._leaving[task] = []
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        del self._leaving[task]
        if self._finished and not any(not runs for runs in self._leaving.values()):
            self._leave()
        if self._room is not None:
            self._room.set()
        self._report(task)

    async def _requeue_first(self, runs: Sequence[Run]) -> None:
        """As :meth:`Outbox.requeue_first`."""
        requeued = [run.requeue for run in runs if run.requeue is not None]
        if requeued:
            await self._backend.asettle(requeued)
            for run in runs:
                run.requeue = None

    async def _exchange(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        finished, self._finished = self._finished, []
        self._leaving[task] = finished
        try:
            await self._requeue_first(finished)
            turns = self._outbox.turns_of(finished)
            exchange = await self._backend.aexchange(turns, (), limit=0, timeout=0)
        except LayerUnavailable as error:
            self._outage.begin(error)
            self._outbox.unavailable(finished)
            return
        self._outbox.take_exchange(finished, exchange)
