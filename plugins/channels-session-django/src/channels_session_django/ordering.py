"""enforce_ordering: the messages of one connection, one after the other and in order, over any number of workers.

The channel session holds the number of the message whose turn it is. One that comes too early goes to a wait channel of
its connection; who ends a turn writes the next number down and then puts back what waits. Who has put a message there
looks at the number once more: it may have come up in between, after the other side had looked into the channel. One of
the two always sees the other's write, so no message is left waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from channels_core.channel_layer import ChannelLayer
from channels_core.exceptions import ChannelFull, ConsumeLater
from channels_core.headers import ALONE, CREDIT
from channels_core.held import current_held
from channels_core.layers import Delivery, Exchange, Settlement, Turn, Verdict
from channels_core.message import Message
from channels_core.names import redact
from channels_core.routing import is_async_consumer
from channels_core.wrapping import finish_wrapper
from channels_session_django.channel_sessions import (
    ChannelSession,
    async_channel_session_scope,
    channel_session_scope,
    ends_connection,
)
from channels_session_django.wrapping import Call, message_of

__all__ = ["arequeue_messages", "enforce_ordering", "requeue_messages", "wait_channel_name"]

logger = logging.getLogger("channels.sessions")

_NEXT: Final = "__channels_next_order"
_ORIGINAL: Final = "original_channel"
_AT_ONCE: Final = 256


def wait_channel_name(reply_channel: str) -> str:
    """The channel on which early messages of a connection wait."""
    return f"__wait__.{reply_channel.replace('!', '?')}"


def _order_of(message: Message) -> int:
    try:
        return int(message.content["order"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"A message on {message.channel_name!r} has the order {message.content.get('order')!r}, so its turn cannot"
            " be told. Use @enforce_ordering for websocket.* messages only, whose order counts from 0."
        ) from None


def _next_order(data: Any) -> int:
    number = data.get(_NEXT, 0)
    return number if isinstance(number, int) else 0


# Putting a message aside, and putting back what waits.


def _prepare_to_wait(message: Message, order: int) -> tuple[ChannelLayer, str, dict[str, Any]]:
    layer, channel, reply_channel = message.channel_layer, message.channel_name, message.reply_channel
    if layer is None or channel is None or reply_channel is None:
        raise ValueError(
            f"Message {order} came too early and cannot wait for its turn, for it has"
            f" {'no channel layer' if layer is None else 'no channel'} to come back through. Give Message(content,"
            " channel_name, channel_layer) both."
        )
    return layer, wait_channel_name(reply_channel.name), {**message.content, _ORIGINAL: channel}


def _hand_over(message: Message, session: ChannelSession) -> None:
    """From here on the message on the wait channel counts: it has the credit, and it may be the connection's last."""
    message.headers = {name: value for name, value in message.headers.items() if name != CREDIT}
    session.is_kept = True


def _put_aside(message: Message, order: int, session: ChannelSession) -> None:
    layer, wait_channel, content = _prepare_to_wait(message, order)
    try:
        layer.deliver(layer.prepare(wait_channel, content, message.headers))
    except ChannelFull:
        raise ConsumeLater from None
    _hand_over(message, session)
    if _next_order(session.load()) >= order:
        _put_back(layer, wait_channel)


async def _aput_aside(message: Message, order: int, session: ChannelSession) -> None:
    layer, wait_channel, content = _prepare_to_wait(message, order)
    try:
        await layer.adeliver(layer.prepare(wait_channel, content, message.headers))
    except ChannelFull:
        raise ConsumeLater from None
    _hand_over(message, session)
    if _next_order(await session.aload()) >= order:
        await _aput_back(layer, wait_channel)


class _Returns:
    """Messages that waited, on their way back, in order.

    What holds no lease joins the sends of the running consumer: it leaves behind what the consumer sent, and is tried
    again, as they are, where its channel is full. Anything else leaves in one step with its settlement.
    """

    def __init__(self, layer: ChannelLayer, waiting: Sequence[Delivery]) -> None:
        self._layer = layer
        self.turns: list[Turn] = []
        self._deliveries: list[Delivery] = []
        held = current_held.get()
        for delivery in sorted(waiting, key=lambda one: one.content.get("order", 0)):
            content = dict(delivery.content)
            send = layer.prepare(content.pop(_ORIGINAL), content, delivery.headers)
            if delivery.is_leased or held is None or not held.append(layer, send):
                settlement = Settlement(delivery, Verdict.DONE) if delivery.is_leased else None
                self.turns.append(Turn([send], settlement))
                self._deliveries.append(delivery)

    def refused(self, exchange: Exchange) -> list[Settlement]:
        """What keeps the messages waiting that found no room, said in the log."""
        releases = []
        for turn, outcomes, delivery in zip(self.turns, exchange.outcomes, self._deliveries, strict=True):
            if not outcomes[0].is_final:
                logger.error(
                    "%r on layer %r has no room for message %s, whose turn it is: it waits on, and with it its"
                    " connection. Start more workers, or raise the channel's capacity.",
                    redact(turn.sends[0].channel),
                    self._layer.alias,
                    delivery.content.get("order"),
                )
                releases.append(Settlement(delivery, Verdict.RELEASE))
        return releases


def _put_back(layer: ChannelLayer, wait_channel: str) -> None:
    waiting: list[Delivery] = []
    while batch := layer.backend.receive_batch((wait_channel,), limit=_AT_ONCE, timeout=0):
        waiting += batch
    returns = _Returns(layer, waiting)
    if returns.turns:
        refused = returns.refused(layer.backend.exchange(returns.turns, (), limit=0))
        if refused:
            layer.backend.settle(refused)


async def _aput_back(layer: ChannelLayer, wait_channel: str) -> None:
    waiting: list[Delivery] = []
    while batch := await layer.backend.areceive_batch((wait_channel,), limit=_AT_ONCE, timeout=0):
        waiting += batch
    returns = _Returns(layer, waiting)
    if returns.turns:
        refused = returns.refused(await layer.backend.aexchange(returns.turns, (), limit=0))
        if refused:
            await layer.backend.asettle(refused)


def requeue_messages(message: Message) -> None:
    """Put every message of this connection that waits for its turn back on its channel, in order.

    Inside a consumer they leave behind what it sent. Does nothing for a message made by hand, without a layer.
    """
    if message.channel_layer is not None and message.reply_channel is not None:
        _put_back(message.channel_layer, wait_channel_name(message.reply_channel.name))


async def arequeue_messages(message: Message) -> None:
    """:func:`requeue_messages`."""
    if message.channel_layer is not None and message.reply_channel is not None:
        await _aput_back(message.channel_layer, wait_channel_name(message.reply_channel.name))


# The turn.


def _end_turn(message: Message, order: int, session: ChannelSession) -> None:
    if ends_connection(message):
        return  # its number is the last
    session[_NEXT] = order + 1
    session.persist()
    requeue_messages(message)


async def _aend_turn(message: Message, order: int, session: ChannelSession) -> None:
    if ends_connection(message):
        return
    session[_NEXT] = order + 1
    await session.apersist()
    await arequeue_messages(message)


def _keep_number(session: ChannelSession, data: dict[str, Any]) -> None:
    """A repeat runs beside the message whose turn it is: what it saves must not turn the number back."""
    if _next_order(data) > _next_order(session):
        session[_NEXT] = _next_order(data)


def enforce_ordering(func: Any = None, slight: bool = False) -> Any:
    """Run the consumer for one message of a connection at a time, in the order that the messages' ``order`` says.

    Put it on the consumers of all of a connection's channels, ``websocket.connect`` first; it may stand above or below
    the session decorators, and gives the consumer ``message.channel_session`` like :func:`channel_session`. A message
    that comes too early waits, with its flow-control credit, on the wait channel of its connection, where it
    expires like any message. The next turn begins when the consumer has ended, also by an exception; a consumer that
    raises ``ConsumeLater`` keeps its turn until its message is back, or given up. A number that is past is a
    repeat and runs at once.

    Where the interface server lets one message of a connection under way at a time, as it does by default, messages are
    in order already: then this costs no more than :func:`channel_session`.

    Raises ``ValueError`` for ``slight=True``, an order of Channels 1.x that is not kept, at once; for a message without
    reply channel or ``order``, when it comes.
    """
    if slight:
        raise ValueError(
            "enforce_ordering(slight=True) is not available: it only kept websocket.connect first. Use"
            " @enforce_ordering, which keeps all messages in order."
        )
    return _wrap if func is None else _wrap(func)


def _wrap(consumer: Call) -> Call:
    if is_async_consumer(consumer):

        async def in_turn_async(*args: Any, **kwargs: Any) -> Any:
            message = message_of(args, consumer, "enforce_ordering")
            async with async_channel_session_scope(message) as session:
                return await _atake_turn(message, session, lambda: consumer(*args, **kwargs))

        return finish_wrapper(in_turn_async, consumer)

    def in_turn(*args: Any, **kwargs: Any) -> Any:
        message = message_of(args, consumer, "enforce_ordering")
        with channel_session_scope(message) as session:
            return _take_turn(message, session, lambda: consumer(*args, **kwargs))

    return finish_wrapper(in_turn, consumer)


def _take_turn(message: Message, session: ChannelSession, run: Callable[[], Any]) -> Any:
    if message.headers.get(ALONE):
        return run()
    order = _order_of(message)
    turn = _next_order(session)
    if order > turn:
        return _put_aside(message, order, session)
    if order < turn:
        try:
            return run()
        finally:
            if session.modified:
                _keep_number(session, session.load())
    try:
        result = run()
    except ConsumeLater:
        if getattr(message, "__doomed__", False):  # the last run: it will not come back
            _end_turn(message, order, session)
        raise
    except BaseException:
        _end_turn(message, order, session)
        raise
    _end_turn(message, order, session)
    return result


async def _atake_turn(message: Message, session: ChannelSession, run: Callable[[], Any]) -> Any:
    if message.headers.get(ALONE):
        return await run()
    order = _order_of(message)
    turn = _next_order(session)
    if order > turn:
        return await _aput_aside(message, order, session)
    if order < turn:
        try:
            return await run()
        finally:
            if session.modified:
                _keep_number(session, await session.aload())
    try:
        result = await run()
    except ConsumeLater:
        if getattr(message, "__doomed__", False):  # the last run: it will not come back
            await _aend_turn(message, order, session)
        raise
    except BaseException:
        await _aend_turn(message, order, session)
        raise
    await _aend_turn(message, order, session)
    return result
