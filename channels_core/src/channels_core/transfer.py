"""Bodies and responses of HTTP in chunks, on the consumer's side, no faster than the other end takes them.

Both directions use the credit of :mod:`channels_core.credit`. A body chunk carries ``c-credit`` and its reader gives
the credit back once it has the chunk, so that at most a few wait. A response asks for a credit on the last chunk of
each window, and its sender waits for that before it goes on; a response that fits into one window waits for nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from contextlib import suppress
from random import uniform
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from channels_core.credit import credit_of, credit_send, number_of
from channels_core.exceptions import (
    ChannelsError,
    LayerUnavailable,
    MessageTooLarge,
    RequestAborted,
    RequestTimeout,
    SendUncertain,
)
from channels_core.headers import CREDIT, PROCESS, WINDOW
from channels_core.held import current_held
from channels_core.layers import Delivery, Outcome, Send, Settlement, Verdict
from channels_core.names import process_of, redact

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer
    from channels_core.message import Message

__all__ = ["CHUNK_SIZE", "ResponseSender", "aread_body_chunks", "read_body_chunks"]

logger = logging.getLogger("channels.worker")

CHUNK_SIZE: Final = 256 * 2**10
"""What a window is counted in: a window of 4 is a mebibyte."""
_SMALL_PARTS: Final = 16
"""As many messages count as a chunk, however small they are."""
_BROKEN_OFF: Final = {"closed": True}
_FAILED: Final = {
    "status": 500,
    "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"25")],
    "content": b"500 Internal Server Error",
    "more_content": False,
}
_LOOK_AGAIN: Final = 2.0
_LONGEST_WAIT: Final = 3600.0
"""No client that the interface server bears needs so long for a window: its acknowledgement was lost."""
_LONGEST_PAUSE: Final = 0.05


class _Call(NamedTuple):
    """One call of the backend; of its ``a`` twin in an event loop."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]


def _call(name: str, *args: Any, **options: Any) -> _Call:
    return _Call(name, args, options)


# What to do is written once, as generators that yield calls; these two make the calls.


def _drive(layer: ChannelLayer, steps: Generator[_Call, Any, Any]) -> Any:
    result: Any = None
    error: Exception | None = None
    try:
        while True:
            call = steps.send(result) if error is None else steps.throw(error)
            result = error = None
            try:
                if call.name == "sleep":
                    time.sleep(*call.args)
                else:
                    result = getattr(layer.backend, call.name)(*call.args, **call.options)
            except LayerUnavailable as unavailable:
                error = unavailable
    except StopIteration as end:
        return end.value


async def _adrive(layer: ChannelLayer, steps: Generator[_Call, Any, Any]) -> Any:
    result: Any = None
    error: Exception | None = None
    try:
        while True:
            call = steps.send(result) if error is None else steps.throw(error)
            result = error = None
            try:
                if call.name == "sleep":
                    await asyncio.sleep(*call.args)
                else:
                    result = await getattr(layer.backend, f"a{call.name}")(*call.args, **call.options)
            except LayerUnavailable as unavailable:
                error = unavailable
    except StopIteration as end:
        return end.value


def _settle(delivery: Delivery) -> Generator[_Call, Any, None]:
    if delivery.is_leased:
        yield _call("settle", [Settlement(delivery, Verdict.DONE)])


# Reading a body.


def read_body_chunks(layer: ChannelLayer, channel: str, *, timeout: float = 60.0) -> Iterator[bytes]:
    """The chunks that arrive on ``body_channel`` ``channel``, in order, each as soon as it is there. Waits.

    Raises :class:`~channels_core.exceptions.RequestTimeout` when the last has not come ``timeout`` seconds after the
    first call, and :class:`~channels_core.exceptions.RequestAborted` when the client went away.
    """
    deadline = time.monotonic() + timeout
    while True:
        data, has_more = _drive(layer, _next_chunk(channel, deadline, timeout))
        yield data
        if not has_more:
            return


async def aread_body_chunks(
    layer: ChannelLayer, channel: str, *, timeout: float = 60.0
) -> AsyncIterator[bytes]:
    """:func:`read_body_chunks`."""
    deadline = time.monotonic() + timeout
    while True:
        data, has_more = await _adrive(layer, _next_chunk(channel, deadline, timeout))
        yield data
        if not has_more:
            return


def _next_chunk(channel: str, deadline: float, timeout: float) -> Generator[_Call, Any, tuple[bytes, bool]]:
    while (remaining := deadline - time.monotonic()) > 0:
        try:
            deliveries = yield _call("receive_batch", [channel], limit=1, timeout=remaining)
        except LayerUnavailable:
            yield _call("sleep", min(uniform(0.2, 0.6), remaining))
            continue
        for delivery in deliveries:
            yield from _settle(delivery)
            yield from _give_credit(delivery, deadline)
            content = delivery.content
            if content.get("closed"):
                raise RequestAborted("The client went away before its request body was complete.")
            return content.get("content") or b"", bool(content.get("more_content"))
    raise RequestTimeout(f"The request body was not complete after {timeout:g} s.")


def _give_credit(delivery: Delivery, deadline: float) -> Generator[_Call, Any, None]:
    wants_credit = credit_of(delivery.headers)
    while wants_credit is not None:
        try:
            outcome = yield _call("send_one", credit_send(wants_credit, number_of(delivery.headers)))
        except SendUncertain:
            return
        except LayerUnavailable:
            outcome = Outcome.FULL
        if outcome is not Outcome.FULL or time.monotonic() > deadline:
            return
        yield _call("sleep", uniform(0.01, _LONGEST_PAUSE))


# Sending a response.


class ResponseSender:
    """Sends the messages of the response to ``request``, an ``http.request`` message: at once, and in order.

    Waits for room where the channel is full, and for the client where it is slow, as long as the interface server
    that holds it lives, and an hour at most without news from it. While the layer is away it tries again for
    ``patience`` seconds. Made in a consumer, it says which worker process sends, so that the interface server breaks
    off what a dead one cannot complete. For use by one thread or task.

    Raises ``ValueError`` for a message without reply channel or layer.
    """

    def __init__(self, request: Message, *, patience: float = 120.0) -> None:
        if request.reply_channel is None:
            raise ValueError(
                f"The message on {request.channel_name!r} has no reply_channel, so there is nobody to answer."
            )
        self._name = request.reply_channel.name
        self._layer = request.reply_channel.channel_layer
        self._patience = patience
        window = request.headers.get(WINDOW)
        self._window = window if isinstance(window, int) and window > 0 else 0
        self._run = current_held.get()
        self._acknowledgements = ""
        self._bytes = 0
        self._parts = 0
        self._must_wait = False

    def send(self, content: dict[str, Any]) -> bool:
        """Send one message; ``False`` when nobody takes it any more: the client or its server is gone.

        Raises ``InvalidMessageError`` for what a message cannot hold, and ``LayerUnavailable`` after ``patience``.
        """
        return bool(_drive(self._layer, self._send(content)))

    async def asend(self, content: dict[str, Any]) -> bool:
        """:meth:`send`."""
        return bool(await _adrive(self._layer, self._send(content)))

    def send_all(self, messages: Iterable[dict[str, Any]]) -> bool:
        """Send ``messages`` and close the iterator; ``False`` when nobody takes them to the end.

        Where making them fails, the client is told: by a 500 instead of the first, later by breaking the response off,
        so that it does not take the part for the whole. Then the failure goes on to the caller.
        """
        has_begun = False
        try:
            for content in messages:
                if not self.send(content):
                    return False
                has_begun = True
        except BaseException:
            with suppress(ChannelsError):  # the layer may be what failed
                self.send(dict(_BROKEN_OFF if has_begun else _FAILED))
            raise
        finally:
            close = getattr(messages, "close", None)
            if close is not None:
                close()
        return True

    async def asend_all(self, messages: AsyncIterable[dict[str, Any]]) -> bool:
        """:meth:`send_all`."""
        has_begun = False
        try:
            async for content in messages:
                if not await self.asend(content):
                    return False
                has_begun = True
        except BaseException:
            with suppress(ChannelsError):  # as above
                await self.asend(dict(_BROKEN_OFF if has_begun else _FAILED))
            raise
        finally:
            close = getattr(messages, "aclose", None)
            if close is not None:
                await close()
        return True

    def _send(self, content: dict[str, Any]) -> Generator[_Call, Any, bool]:
        if self._must_wait and not (yield from self._wait_for_acknowledgement()):
            return False
        data = content.get("content")
        size = len(data) if isinstance(data, bytes) else 0
        has_more = bool(content.get("more_content"))
        asks = has_more and self._ends_window(size)
        headers: dict[str, str | int] = {}
        if has_more:
            if asks:
                headers[CREDIT] = self._acknowledgements
            process = None if self._run is None else self._run.process
            if process is not None:
                headers[PROCESS] = process
        try:
            send = self._layer.prepare(self._name, content, headers)
        except MessageTooLarge:
            if not isinstance(data, bytes) or size < 2:
                raise
            half = size // 2
            self._bytes, self._parts = max(0, self._bytes - size), max(0, self._parts - 1)
            is_taken = yield from self._send({**content, "content": data[:half], "more_content": True})
            if not is_taken:
                return False
            return (yield from self._send({"content": data[half:], "more_content": has_more}))
        if asks:
            self._bytes = self._parts = 0
        self._must_wait = asks
        return (yield from self._deliver(send))

    def _ends_window(self, size: int) -> bool:
        """Count one message; whether it is the last that may go out unacknowledged."""
        if not self._window:
            return False
        self._bytes += size
        self._parts += 1
        if self._bytes < self._window * CHUNK_SIZE and self._parts < self._window * _SMALL_PARTS:
            return False
        if not self._acknowledgements:
            self._acknowledgements = self._layer.new_channel("http.response.credit?")
        return True

    def _deliver(self, send: Send) -> Generator[_Call, Any, bool]:
        pause = 0.001
        deadline = time.monotonic() + self._patience
        while True:
            try:
                outcome = yield _call("send_one", send)
            except SendUncertain:
                outcome = Outcome.UNCERTAIN
            except LayerUnavailable:
                if time.monotonic() > deadline:
                    raise
                outcome = Outcome.FULL
            if outcome is Outcome.UNCERTAIN:
                logger.warning(
                    "A part of the response to %r may not have arrived: the layer did not answer in time.",
                    redact(self._name),
                )
            if outcome is not Outcome.FULL:
                return outcome is not Outcome.GONE
            yield _call("sleep", uniform(0.5, 1.0) * pause)  # jitter: many may wait for room on one server
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _wait_for_acknowledgement(self) -> Generator[_Call, Any, bool]:
        away_since: float | None = None
        deadline = time.monotonic() + _LONGEST_WAIT
        while True:
            try:
                deliveries = yield _call(
                    "receive_batch", [self._acknowledgements], limit=1, timeout=_LOOK_AGAIN
                )
                for delivery in deliveries:
                    yield from _settle(delivery)
                    self._must_wait = False
                    return not delivery.content.get("closed")
                owner = process_of(self._name)
                if owner is not None:
                    processes = yield _call("processes")
                    if all(process.id != owner for process in processes):
                        return False
                if time.monotonic() > deadline:
                    logger.warning(
                        "The response to %r is given up: it is not known whether its client took the last part.",
                        redact(self._name),
                    )
                    return False
            except LayerUnavailable:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > self._patience:
                    raise
                yield _call("sleep", uniform(0.2, 0.6))
            else:
                away_since = None
