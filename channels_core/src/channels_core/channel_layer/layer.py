"""A channel layer as users hold it: one concrete class over every backend.

It checks names and values, turns outcomes into exceptions, and offers each operation synchronously and, with the prefix
``a``, asynchronously.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import time_ns
from typing import Any, Final

from channels_core import exceptions
from channels_core.credit import credits_of
from channels_core.exceptions import (
    BlockingCallError,
    InvalidChannelLayerError,
    InvalidNameError,
    LayerUnavailable,
    SendUncertain,
)
from channels_core.headers import SENT_AT
from channels_core.layer_views import in_running_loop
from channels_core.layers import ChannelFigures, Delivery, LayerBackend, Outcome, Send, Settlement, Verdict
from channels_core.message import check_headers, normalise
from channels_core.names import check_channel, check_group, check_receivable, known_channels, redact
from channels_core.routing import Router
from channels_core.transactions import refuse_in_async, send_with_transaction

__all__ = ["DEFAULT_CHANNEL_LAYER", "ChannelLayer"]

DEFAULT_CHANNEL_LAYER: Final = "default"

_SENT: Final = Outcome.SENT  # looking a member up in its enum costs as much as making a Send

Received = tuple[str, dict[str, Any]] | tuple[None, None]


class ChannelLayer:
    """A channel layer under an alias; get it from ``channel_layers[alias]``.

    Attributes: ``alias``, ``backend`` (the plugin's :class:`~channels_core.layers.LayerBackend`), ``router``.
    Synchronous methods may be called from any thread. One that would wait raises
    :class:`~channels_core.exceptions.BlockingCallError` in a thread whose event loop runs, and names its twin.
    """

    ChannelFull = exceptions.ChannelFull
    MessageTooLarge = exceptions.MessageTooLarge
    extensions: tuple[str, ...] = ("groups", "flush", "statistics", "async")

    def __init__(
        self,
        backend: LayerBackend,
        *,
        alias: str = DEFAULT_CHANNEL_LAYER,
        routing: Any = None,
        make_router: Callable[[Any], Router] | None = None,
    ) -> None:
        self.backend = backend
        self.alias = alias
        self.routing = routing
        self._make_router = make_router
        self._router: Router | None = None
        self._lock = threading.Lock()
        self._fanned_out: dict[str, deque[tuple[str, dict[str, Any]]]] = {}
        self._returning: set[asyncio.Task[None]] = set()
        self.counters = backend.counters
        backend.on_expired = self._return_credit

    @property
    def router(self) -> Router:
        """The router, made from ``ROUTING`` at first access: only workers ask for it.

        Raises :class:`~channels_core.exceptions.ConfigurationError` where there is no routing, or a bad one.
        """
        if self._router is None:
            with self._lock:
                if self._router is None:
                    self._router = self._resolve_router()
        return self._router

    @router.setter
    def router(self, router: Router) -> None:
        self._router = router

    def _resolve_router(self) -> Router:
        if self._make_router is None or self.routing is None:
            raise InvalidChannelLayerError(
                f"The channel layer {self.alias!r} has no routing, so no worker can serve it. Give it ROUTING: a list"
                " of routes, or the dotted path to one, such as 'mysite.routing.routes'."
            )
        return self._make_router(self.routing)

    @property
    def expiry(self) -> float:
        return self.backend.expiry

    @property
    def group_expiry(self) -> float:
        return self.backend.group_expiry

    @property
    def capacity(self) -> int:
        return self.backend.capacity

    @property
    def channel_capacity(self) -> Mapping[Any, int]:
        return self.backend.channel_capacity

    # Sending. prepare() and deliver() are the two halves, for callers that hold or batch what they send.

    def prepare(
        self, channel: str, content: dict[str, Any], headers: Mapping[str, str | int] | None = None
    ) -> Send:
        """Check one send to a channel and return it, values copied; nothing is sent.

        Raises ``InvalidNameError``, ``InvalidMessageError``, ``MessageTooLarge``.
        """
        if type(channel) is not str or channel not in known_channels:
            channel = check_channel(channel)
        plain, size = normalise(content)
        stamp: dict[str, str | int] = {SENT_AT: time_ns() // 1_000_000}
        if headers:
            size += _add_headers(stamp, headers)
        if size > self.backend.max_message_size:
            raise self._too_large(channel, size)
        return Send(channel, plain, stamp, size)

    def prepare_group(
        self, group: str, content: dict[str, Any], headers: Mapping[str, str | int] | None = None
    ) -> Send:
        """:meth:`prepare` for a send to a group."""
        group = check_group(group)
        plain, size = normalise(content)
        stamp: dict[str, str | int] = {SENT_AT: time_ns() // 1_000_000}
        if headers:
            size += _add_headers(stamp, headers)
        if size > self.backend.max_message_size:
            raise self._too_large(group, size)
        return Send(group, plain, stamp, size, True)

    def deliver(self, send: Send) -> None:
        """Send what :meth:`prepare` returned, at once.

        Raises ``ChannelFull``, ``MessageTooLarge``, ``LayerUnavailable`` or ``SendUncertain``. A send whose owner is
        dead is dropped and counted.
        """
        if self.backend.is_waiting:
            self._refuse_in_loop("send")
        outcome = self.backend.send_one(send)
        if outcome is not _SENT:
            self.raise_for(outcome, send)

    async def adeliver(self, send: Send) -> None:
        """:meth:`deliver`."""
        outcome = await self.backend.asend_one(send)
        if outcome is not _SENT:
            self.raise_for(outcome, send)

    def send(
        self,
        channel: str,
        message: dict[str, Any],
        *,
        on_commit: bool | str = False,
        transactional: bool | None = None,
    ) -> None:
        """Send ``message`` to ``channel``, at once, also inside a consumer. Never waits for room.

        ``on_commit`` and ``transactional`` are those of :meth:`channels_core.Channel.send`.

        Raises what :meth:`prepare` and :meth:`deliver` raise, and ``TransactionError``.
        """
        send = self.prepare(channel, message)
        backend = self.backend
        if on_commit or (backend.transactional_by_default if transactional is None else transactional):
            send_with_transaction(self, send, on_commit, transactional, self.deliver)
            return
        if backend.is_waiting:
            self._refuse_in_loop("send")
        outcome = backend.send_one(send)
        if outcome is not _SENT:
            self.raise_for(outcome, send)

    async def asend(
        self,
        channel: str,
        message: dict[str, Any],
        *,
        on_commit: bool | str = False,
        transactional: bool | None = None,
    ) -> None:
        """:meth:`send`; no transaction can be open in asynchronous code, so it takes those options only to say so."""
        send = self.prepare(channel, message)
        if on_commit or transactional:
            refuse_in_async(self, send, on_commit, transactional)
        await self.adeliver(send)

    def send_group(
        self,
        group: str,
        message: dict[str, Any],
        *,
        on_commit: bool | str = False,
        transactional: bool | None = None,
    ) -> None:
        """Send ``message`` to every member of ``group``, at once. Skips members that are full; never ChannelFull.

        ``on_commit`` and ``transactional`` are those of :meth:`channels_core.Group.send`.
        """
        send = self.prepare_group(group, message)
        if on_commit or (self.backend.transactional_by_default if transactional is None else transactional):
            send_with_transaction(self, send, on_commit, transactional, self.deliver)
            return
        self.deliver(send)

    async def asend_group(
        self,
        group: str,
        message: dict[str, Any],
        *,
        on_commit: bool | str = False,
        transactional: bool | None = None,
    ) -> None:
        """:meth:`send_group`, with the options of :meth:`asend`."""
        send = self.prepare_group(group, message)
        if on_commit or transactional:
            refuse_in_async(self, send, on_commit, transactional)
        await self.adeliver(send)

    def raise_for(self, outcome: Outcome, send: Send) -> None:
        """Raise what says that ``send`` did not arrive; nothing where it did, or where nobody is left to get it."""
        if outcome is Outcome.FULL:
            raise exceptions.ChannelFull(
                f"The channel {redact(send.channel)!r} on layer {self.alias!r} holds its capacity of"
                f" {self.backend.capacity_of(send.channel)} messages; nothing was sent. Start more workers for it, send"
                " less, or raise capacity or channel_capacity in the layer's CONFIG."
            )
        if outcome is Outcome.TOO_LARGE:
            raise self._too_large(send.channel, send.size)
        if outcome is Outcome.UNCERTAIN:
            raise SendUncertain(
                f"The engine of layer {self.alias!r} did not answer: the message to {redact(send.channel)!r} may or may"
                " not have arrived. Send it again only if its consumer bears a repeat."
            )

    def _too_large(self, name: str, size: int) -> exceptions.MessageTooLarge:
        return exceptions.MessageTooLarge(
            f"The message to {redact(name)!r} has about {size} bytes; layer {self.alias!r} carries at most"
            f" {self.backend.max_message_size}. Send a reference to the data, or raise max_message_size in the layer's"
            " CONFIG."
        )

    def _refuse_in_loop(self, name: str) -> None:
        if in_running_loop():
            raise BlockingCallError(
                f"{name}() on layer {self.alias!r} would wait in a thread whose event loop is running, and stall"
                f" everything on it. Await a{name}() instead."
            )

    def _return_credit(self, expired: Sequence[Mapping[str, str | int]]) -> None:
        returns = credits_of(expired)
        if not returns:
            return
        if self.backend.is_waiting and in_running_loop():
            task = asyncio.get_running_loop().create_task(self._areturn(returns))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
        else:
            with suppress(LayerUnavailable):  # the interface's credit_timeout makes up for it
                self.backend.send_batch(returns)

    async def _areturn(self, returns: Sequence[Send]) -> None:
        with suppress(LayerUnavailable):  # as above
            await self.backend.asend_batch(returns)

    # Receiving, the 1.x way: for scripts and tests. Workers use the backend's receive_batch.

    def receive(
        self, channels: Sequence[str], block: bool = False, *, timeout: float | None = None
    ) -> Received:
        """Take one message off ``channels``: ``(full channel name, content)``, or ``(None, None)``.

        With ``block`` it waits, at most ``timeout`` seconds where given; it may return empty-handed earlier. The
        message is settled at once, on at-least-once channels too.
        """
        _check_receivables(channels)
        if self._fanned_out:
            waiting = self._next_fanned_out(channels)
            if waiting is not None:
                return waiting
        if block or self.backend.is_waiting:
            self._refuse_in_loop("receive")
        deliveries = self.backend.receive_batch(channels, limit=1, timeout=timeout if block else 0)
        if not deliveries:
            return None, None
        if deliveries[0].is_leased:
            self.backend.settle([Settlement(deliveries[0], Verdict.DONE)])
        return self._unpack(deliveries[0])

    receive_many = receive

    async def areceive(
        self, channels: Sequence[str], block: bool = True, *, timeout: float | None = None
    ) -> Received:
        """:meth:`receive`, which waits by default."""
        _check_receivables(channels)
        if self._fanned_out:
            waiting = self._next_fanned_out(channels)
            if waiting is not None:
                return waiting
        deliveries = await self.backend.areceive_batch(channels, limit=1, timeout=timeout if block else 0)
        if not deliveries:
            return None, None
        if deliveries[0].is_leased:
            await self.backend.asettle([Settlement(deliveries[0], Verdict.DONE)])
        return self._unpack(deliveries[0])

    async def receive_async(self, channels: Sequence[str]) -> Received:
        """:meth:`areceive` under its 1.x name."""
        return await self.areceive(channels)

    def _unpack(self, delivery: Delivery) -> Received:
        """A broadcast comes once for all its locals; this interface hands it out one by one, each with its copy."""
        if not delivery.locals:
            return delivery.channel, delivery.content
        first, *others = delivery.locals
        if others:
            with self._lock:
                queue = self._fanned_out.setdefault(delivery.channel, deque())
                queue.extend((delivery.channel + local, normalise(delivery.content)[0]) for local in others)
        return delivery.channel + first, delivery.content

    def _next_fanned_out(self, channels: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
        with self._lock:
            for channel in channels:
                queue = self._fanned_out.get(channel)
                if queue:
                    message = queue.popleft()
                    if not queue:
                        del self._fanned_out[channel]
                    return message
        return None

    def new_channel(self, pattern: str) -> str:
        """A new name that nobody else has: ``pattern``, ending in ``?`` or ``!``, and 128 random bits."""
        if not isinstance(pattern, str) or pattern[-1:] not in ("?", "!"):
            raise InvalidNameError(
                f"{pattern!r} is not a pattern for a new channel: end it in '?' (one reader) or '!' (process-specific)."
            )
        return check_channel(self.backend.new_channel(pattern))

    # Groups.

    def group_add(self, group: str, channel: str) -> None:
        """Make ``channel`` a member of ``group``; adding again only starts its time anew."""
        channel = check_channel(channel)
        self.backend.group_add(self._before_group_call("group_add", group), channel)

    async def agroup_add(self, group: str, channel: str) -> None:
        """:meth:`group_add`."""
        await self.backend.agroup_add(check_group(group), check_channel(channel))

    def group_discard(self, group: str, channel: str) -> None:
        """End the membership of ``channel`` in ``group``; a stranger is nothing."""
        channel = check_channel(channel)
        self.backend.group_discard(self._before_group_call("group_discard", group), channel)

    async def agroup_discard(self, group: str, channel: str) -> None:
        """:meth:`group_discard`."""
        await self.backend.agroup_discard(check_group(group), check_channel(channel))

    def group_channels(self, group: str) -> list[str]:
        """The members of ``group``, in no order."""
        return self.backend.group_channels(self._before_group_call("group_channels", group))

    async def agroup_channels(self, group: str) -> list[str]:
        """:meth:`group_channels`."""
        return await self.backend.agroup_channels(check_group(group))

    def group_count(self, group: str) -> int:
        """How many members ``group`` has."""
        return self.backend.group_count(self._before_group_call("group_count", group))

    async def agroup_count(self, group: str) -> int:
        """:meth:`group_count`."""
        return await self.backend.agroup_count(check_group(group))

    def _before_group_call(self, name: str, group: str) -> str:
        if self.backend.is_waiting:
            self._refuse_in_loop(name)
        return check_group(group)

    # The rest.

    def flush(self) -> None:
        """Delete every message, group and dead letter of this layer."""
        self._fanned_out.clear()
        if self.backend.is_waiting:
            self._refuse_in_loop("flush")
        self.backend.flush()

    async def aflush(self) -> None:
        """:meth:`flush`."""
        self._fanned_out.clear()
        await self.backend.aflush()

    def global_statistics(self) -> dict[str, Any]:
        """``messages_count``, ``messages_pending``, ``messages_max_age`` (seconds) and ``channel_full_count``, with the
        counters of this process that are not 0. What waits is the engine's figure; sent and full are this process's.

        The counters that other processes reported are in ``backend.processes()``.
        """
        if self.backend.is_waiting:
            self._refuse_in_loop("global_statistics")
        return self._totals(self.backend.statistics())

    async def aglobal_statistics(self) -> dict[str, Any]:
        """:meth:`global_statistics`."""
        return self._totals(await self.backend.astatistics())

    def channel_statistics(self, channel: str) -> dict[str, Any]:
        """``messages_pending``, ``messages_leased`` and ``messages_max_age`` (seconds) of one channel."""
        if self.backend.is_waiting:
            self._refuse_in_loop("channel_statistics")
        return _sums(self.backend.statistics([check_receivable(channel)]))

    async def achannel_statistics(self, channel: str) -> dict[str, Any]:
        """:meth:`channel_statistics`."""
        return _sums(await self.backend.astatistics([check_receivable(channel)]))

    def _totals(self, figures: Sequence[ChannelFigures]) -> dict[str, Any]:
        counters = self.counters.as_dict()
        sums = _sums(figures)
        del sums["messages_leased"]
        return {
            "messages_count": counters.get("sent", 0),
            **sums,
            "channel_full_count": counters.get("full", 0),
            **counters,
        }

    def close(self) -> None:
        """Give up the backend's connections and threads; the layer is not used afterwards. Idempotent."""
        self.backend.close()

    async def aclose(self) -> None:
        """:meth:`close`."""
        await self.backend.aclose()

    def __repr__(self) -> str:
        return f"<ChannelLayer {self.alias!r} on {type(self.backend).__name__}>"


def _check_receivables(channels: Sequence[str]) -> None:
    if isinstance(channels, str):
        raise InvalidNameError(
            f"Channels to receive from come in a list: write [{channels!r:.80}] where you wrote {channels!r:.80}."
        )
    for channel in channels:
        check_receivable(channel)


def _sums(figures: Sequence[ChannelFigures]) -> dict[str, Any]:
    return {
        "messages_pending": sum(one.pending for one in figures),
        "messages_leased": sum(one.leased for one in figures),
        "messages_max_age": max((one.oldest_age for one in figures), default=0.0),
    }


def _add_headers(stamp: dict[str, str | int], headers: Mapping[str, str | int]) -> int:
    """Add a sender's own headers to a message's; their size."""
    checked = check_headers(headers)
    stamp.update(checked)
    return sum(len(name) + (len(value) if isinstance(value, str) else 8) for name, value in checked.items())
