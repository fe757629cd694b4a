"""One consumer run, from a delivery to the sends and the settlement it ends in.

Nothing a consumer, a route or a message does gets out of here as an exception: it ends in a log line and a verdict,
and the worker goes on.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, NoReturn

from channels_core.credit import add_credit, credit_of, number_of
from channels_core.exceptions import ChannelSocketException, ConsumeLater, MessageTooLarge
from channels_core.headers import RETRIES_KEY
from channels_core.held import HeldSends, current_held
from channels_core.layers import Delivery, Settlement, Verdict
from channels_core.message import Message, normalise
from channels_core.middleware import ConsumerMiddleware, wrap_consumer
from channels_core.names import redact
from channels_core.routing import is_async_consumer

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer
    from channels_core.worker.events import WorkerEvents

__all__ = ["Run", "Runner"]

logger = logging.getLogger("channels.worker")

_LONGEST_REASON = 1000


class _Call:
    """A consumer inside its middleware, and the runner it is of."""

    __slots__ = ("call", "consumer", "is_async", "runner")

    def __init__(
        self, runner: Runner, consumer: Callable[..., Any], call: Callable[..., Any], is_async: bool
    ) -> None:
        self.runner = runner
        self.consumer = consumer
        self.call = call
        self.is_async = is_async


class Run(HeldSends):
    """One consumer run; also the queue of what it sends.

    :meth:`Runner.begin` routes the message. :meth:`Runner.run` calls the consumer and leaves to be done, in this order:
    ``requeue``, ``sends`` and ``foreign``, ``settlement``.
    """

    __slots__ = ("call", "delivery", "kwargs", "message", "must_stop", "reason", "requeue", "settlement")

    requeue: Settlement | None
    """Goes back to its channel before the sends leave."""
    settlement: Settlement | None
    """Settles the input when the sends have left."""
    must_stop: bool
    """Whether the consumer asked for the worker's end."""
    reason: str
    """Why there is no consumer; set only where there is none."""

    def __init__(
        self,
        layer: ChannelLayer,
        delivery: Delivery,
        message: Message,
        call: _Call | None,
        kwargs: dict[str, Any],
    ) -> None:
        # HeldSends.__init__, without the call: this is done once for each message.
        self._home = layer
        self.sends = []
        self.foreign = []
        self.is_closed = False
        self._owner = get_ident()
        self._has_strangers = False
        self.delivery = delivery
        self.message = message
        self.call = call
        self.kwargs = kwargs

    @property
    def process(self) -> str | None:
        return None if self.call is None else self.call.runner.process


class Runner:
    """Runs consumers of one layer. Used by many threads and tasks at once."""

    def __init__(
        self,
        layer: ChannelLayer,
        *,
        message_retries: int,
        middleware: Sequence[ConsumerMiddleware],
        events: WorkerEvents | None,
        callback: Callable[[str, Message], None] | None,
    ) -> None:
        self._layer = layer
        self._match = layer.router.match
        self._message_retries = message_retries
        self._middleware = tuple(middleware)
        self._events = events
        self._callback = callback
        self._calls: dict[int, _Call] = {}
        self.process: str | None = None
        """The id of the worker's process on the layer, as long as it has one."""

    def begin(self, delivery: Delivery) -> Run:
        """Make the message and find its consumer; a message nobody takes has a run without a call."""
        channel = delivery.channel + delivery.locals[0] if delivery.locals else delivery.channel
        message = Message(
            delivery.content, channel, self._layer, headers=delivery.headers, attempt=delivery.attempt
        )
        try:
            match = self._match(message)
            if match is None:
                _say(
                    logging.ERROR,
                    "Could not find match for message on %r! No route fits it, so it is dropped. Add a route, or a"
                    " filterless one behind the others.",
                    redact(channel),
                )
                return self._without_consumer(delivery, message, "No route matches it.")
            consumer, kwargs = match
            call = self._calls.get(id(consumer))
            if call is None or call.consumer is not consumer:
                call = self._wrap(consumer)
        except Exception as error:  # noqa: BLE001 - logged
            _say(
                logging.ERROR,
                "The router failed on a message on %r; it is dropped. Mend the router.",
                redact(channel),
                exc_info=error,
            )
            return self._without_consumer(delivery, message, f"The router failed: {_text_of(error)}")
        except BaseException as error:  # noqa: BLE001 - what asks for the worker's end is heard in run()
            call, kwargs = _Call(self, self._match, partial(_raise, error), False), {}
        if delivery.content.get(RETRIES_KEY) is not None and self._retries(message) >= self._message_retries:
            message.__doomed__ = True  # type: ignore[attr-defined]  # the 1.x mark of a last run
        return Run(self._layer, delivery, message, call, kwargs)

    def _without_consumer(self, delivery: Delivery, message: Message, reason: str) -> Run:
        self._layer.counters.unrouted += 1
        run = Run(self._layer, delivery, message, None, {})
        run.reason = reason
        return run

    def _wrap(self, consumer: Callable[..., Any]) -> _Call:
        is_async = is_async_consumer(consumer)
        try:
            call = _Call(
                self, consumer, wrap_consumer(consumer, self._middleware, is_async=is_async), is_async
            )
        except BaseException as error:  # noqa: BLE001 - raised where the consumer would be called, and reported as its own
            return _Call(self, consumer, partial(_raise, error), False)
        if len(self._calls) > 10_000:  # a router that makes its consumers anew for each message
            self._calls.clear()
        self._calls[id(consumer)] = call
        return call

    def run(self, run: Run) -> Run:
        """Run a synchronous consumer in this thread."""
        if run.call is None:
            return self._conclude(run, None)
        events = self._events
        error: BaseException | None = None
        token = current_held.set(run)
        try:
            try:
                if self._callback is not None:
                    self._callback(str(run.message.channel), run.message)
                if events is not None:
                    events.consumer_started()
                try:
                    returned = run.call.call(run.message, **run.kwargs)
                    if returned is not None:
                        self._look_at_returned(run, returned)
                except ChannelSocketException as control:
                    control.run(run.message)
            finally:
                if events is not None:
                    events.consumer_finished()
        except BaseException as raised:  # noqa: BLE001 - concluded below; SystemExit stops the worker gracefully
            error = raised
        finally:
            current_held.reset(token)
        try:
            return self._conclude(run, error)
        finally:
            error = (
                None  # its traceback holds this frame: a failed message need not wait for the cycle collector
            )

    def finish_thread(self) -> None:
        """Tell the events that this thread runs no more consumers."""
        if self._events is not None:
            try:
                self._events.thread_finished()
            except Exception as error:  # noqa: BLE001 - logged
                _say(
                    logging.ERROR,
                    "The event thread_finished failed; the thread ends all the same.",
                    exc_info=error,
                )

    async def arun(self, run: Run) -> Run:
        """Run an ``async def`` consumer in this task."""
        if run.call is None:
            return self._conclude(run, None)
        events = self._events
        error: BaseException | None = None
        token = current_held.set(run)
        try:
            try:
                if self._callback is not None:
                    self._callback(str(run.message.channel), run.message)
                if events is not None:
                    await events.aconsumer_started()
                try:
                    await run.call.call(run.message, **run.kwargs)
                except ChannelSocketException as control:
                    control.run(run.message)
            finally:
                if events is not None:
                    await events.aconsumer_finished()
        except BaseException as raised:  # noqa: BLE001 - as in run()
            error = raised
        finally:
            current_held.reset(token)
        try:
            return self._conclude(run, error)
        finally:
            error = (
                None  # its traceback holds this frame: a failed message need not wait for the cycle collector
            )

    def _conclude(self, run: Run, error: BaseException | None) -> Run:
        run.close()
        self._layer.counters.consumed += 1
        run.requeue = run.settlement = None
        run.must_stop = False
        is_leased = run.delivery.is_leased
        try:
            if error is not None or run.call is None:
                run.must_stop = isinstance(error, SystemExit | KeyboardInterrupt)
                settlement = self._settle(run, error)
                if is_leased:
                    run.settlement = settlement
                elif settlement.verdict is Verdict.REQUEUE:
                    # Nothing can run it twice, so it may go back before the run's sends, as it did in 1.x.
                    run.requeue = settlement
                if settlement.verdict in (Verdict.REQUEUE, Verdict.RELEASE):
                    return run
            elif is_leased:
                run.settlement = Settlement(run.delivery, Verdict.DONE)
            # The message's headers, not the delivery's: a consumer that passes the message on passes its credit on.
            headers = run.message.headers
            credit = credit_of(headers)
        except Exception as failure:  # noqa: BLE001 - logged; what stands where the message's attributes were cannot be read
            headers = run.delivery.headers
            credit = self._conclude_anyhow(run, failure)
        if credit is not None:
            add_credit(run.sends, credit, number_of(headers))
        return run

    def _conclude_anyhow(self, run: Run, failure: Exception) -> str | None:
        """End a run by its delivery alone; returns the credit that it owes."""
        _say(
            logging.ERROR,
            "What a consumer left of its message on %r cannot be read; the message counts as failed.",
            redact(run.delivery.channel),
            exc_info=failure,
        )
        if run.settlement is None and run.delivery.is_leased:
            run.settlement = Settlement(run.delivery, Verdict.RELEASE, is_begun=True)
            return None
        return credit_of(run.delivery.headers)

    def _settle(self, run: Run, error: BaseException | None) -> Settlement:
        delivery = run.delivery
        if error is None:
            return Settlement(delivery, Verdict.DEAD, reason=_reason(run.reason))
        if isinstance(error, ConsumeLater):
            return self._consume_later(run)
        self._layer.counters.failed += 1
        self._log_failure(run, error)
        if delivery.attempt >= self._layer.backend.max_attempts and delivery.is_leased:
            return Settlement(delivery, Verdict.DEAD, reason=_reason(_text_of(error)))
        return Settlement(delivery, Verdict.RELEASE if delivery.is_leased else Verdict.DEAD, is_begun=True)

    def _consume_later(self, run: Run) -> Settlement:
        delivery, backend = run.delivery, self._layer.backend
        try:
            content, size = normalise(run.message.content)
            if size > backend.max_message_size:
                raise MessageTooLarge(
                    f"It has grown to about {size} bytes; layer {self._layer.alias!r} carries at most"
                    f" {backend.max_message_size}."
                )
        except Exception as error:  # noqa: BLE001 - also what a value of the user's raises when it is looked at
            text = _text_of(error).partition(": ")[2]
            self._count_dropped(delivery)
            _say(
                logging.ERROR,
                "%s raised ConsumeLater, but what it left in message.content cannot go back to %r, so the message is"
                " dropped. %s",
                _name(run),
                redact(delivery.channel),
                text,
            )
            return Settlement(delivery, Verdict.DEAD, reason=_reason(text))
        retries = self._retries(run.message)
        if retries >= self._message_retries:
            self._count_dropped(delivery)
            _say(
                logging.WARNING,
                "A message on %r was put back %d times by %s and is dropped: ConsumeLater is honoured message_retries"
                " times.",
                redact(delivery.channel),
                retries,
                _name(run),
            )
            return Settlement(delivery, Verdict.DEAD, reason=f"ConsumeLater was raised {retries + 1} times.")
        content[RETRIES_KEY] = retries + 1
        return Settlement(delivery, Verdict.REQUEUE, content)

    def _count_dropped(self, delivery: Delivery) -> None:
        """A backend counts the dead letters that it keeps; what is not leased is dropped here."""
        if not delivery.is_leased:
            self._layer.counters.dead += 1

    @staticmethod
    def _retries(message: Message) -> int:
        retries = message.content.get(RETRIES_KEY, 0)
        return retries if isinstance(retries, int) and retries >= 0 else 0

    @staticmethod
    def _log_failure(run: Run, error: BaseException) -> None:
        reply_channel = run.delivery.content.get("reply_channel")
        _say(
            logging.ERROR,
            "Error processing message with consumer %s on %r (reply channel %s): %s",
            _name(run),
            redact(run.delivery.channel),
            redact(reply_channel) if isinstance(reply_channel, str) else None,
            _text_of(error),
            exc_info=error,
            extra={"channel": run.delivery.channel, "consumer": _name(run)},
        )

    @staticmethod
    def _look_at_returned(run: Run, returned: Any) -> None:
        """What consumers return is ignored; but work that waits in it would never be done, and nobody would know."""
        if inspect.isawaitable(returned):
            if inspect.iscoroutine(returned):
                returned.close()
            _say(
                logging.ERROR,
                "The consumer %s on %r is a plain function that returned an awaitable; nobody awaits it, so its work is"
                " not done. Make the consumer 'async def', or call asgiref.sync.async_to_sync in it.",
                _name(run),
                redact(run.delivery.channel),
            )
        elif inspect.isgenerator(returned) or inspect.isasyncgen(returned):
            _say(
                logging.ERROR,
                "The consumer %s on %r returned a generator; nobody iterates it, so its work is not done. Take the"
                " 'yield' out of the consumer.",
                _name(run),
                redact(run.delivery.channel),
            )


def _say(level: int, text: str, *values: object, **options: Any) -> None:
    """Log. A handler or formatter that fails does not cost the message that the line is about."""
    with suppress(Exception):
        logger.log(level, text, *values, stacklevel=2, **options)


def _raise(error: BaseException, /, *args: object, **kwargs: object) -> NoReturn:
    raise error


def _text_of(error: BaseException) -> str:
    """The exception's type and text, also where it has a ``__str__`` that fails."""
    try:
        text = str(error)
    except BaseException as worse:  # noqa: BLE001 - it is only about a text
        text = f"(its text cannot be made: {type(worse).__name__})"
    return f"{type(error).__name__}: {text}"


def _reason(text: str) -> str:
    """``text`` as any engine can keep it: of bounded length, and encodable."""
    return text[:_LONGEST_REASON].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _name(run: Run) -> str:
    if run.call is None:
        return "no consumer"
    consumer = run.call.consumer
    try:
        return (
            f"{getattr(consumer, '__module__', '?')}"
            f".{getattr(consumer, '__qualname__', type(consumer).__qualname__)}"
        )
    except Exception:  # noqa: BLE001 - an object that raises for any attribute may be called all the same
        return type(consumer).__qualname__
