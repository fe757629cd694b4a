"""Credit: the flow control between an interface server and the consumers of one connection.

The interface puts a connection's reply channel into the header ``c-credit`` of what it sends for it, and sends no
more than its window until credits come back. Whoever ends such a message for good returns its credit: as a header on
the run's last message to that connection, or as an empty message of its own. The number in ``c-frame`` goes back with
it: a message that was run twice, or given up before its worker ended, returns a credit that nobody waits for any more,
which must not be taken for the next one's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from channels_core.headers import CREDIT, CREDITED, FRAME
from channels_core.layers import AT_LEAST_ONCE, LayerBackend, Send
from channels_core.names import is_channel, known_channels

__all__ = [
    "add_credit",
    "credit_of",
    "credit_patience",
    "credit_send",
    "credits_of",
    "number_of",
    "take_credit",
]


def credit_patience(timeout: float, backend: LayerBackend) -> float:
    """Seconds after which the credit of a frame on ``backend`` will not come, with a credit timeout of ``timeout``: on
    an at-least-once channel only when every attempt had its time."""
    if backend.delivery_class_of("websocket.receive") == AT_LEAST_ONCE:
        return max(timeout, backend.lease * backend.max_attempts)
    return timeout


def credit_of(headers: Mapping[str, str | int]) -> str | None:
    """The reply channel that wants a credit back for a message with ``headers``, if any and if it can be one."""
    channel = headers.get(CREDIT)
    if isinstance(channel, str) and (channel in known_channels or is_channel(channel)):
        return channel
    return None


def number_of(headers: Mapping[str, str | int]) -> int | None:
    """Which of its connection's messages this is, or gives a credit back for; ``None`` where it does not say."""
    number = headers.get(FRAME)
    return number if type(number) is int else None


def credit_send(channel: str, number: int | None = None, *, is_closed: bool = False) -> Send:
    """A message that carries nothing but one credit for ``channel``; with ``is_closed``, also that nobody is left there
    to read what it paces."""
    content = {"closed": True} if is_closed else {}
    headers: dict[str, str | int] = {CREDITED: channel[channel.find("!") + 1 :]}
    if number is not None:
        headers[FRAME] = number
    return Send(channel, content, headers, 0)


def credits_of(messages: Iterable[Mapping[str, str | int]]) -> list[Send]:
    """The credits that are owed for messages with these headers."""
    return [
        credit_send(channel, number_of(headers))
        for headers in messages
        if (channel := credit_of(headers)) is not None
    ]


def add_credit(sends: list[Send], channel: str, number: int | None) -> None:
    """Add one credit for ``channel`` to a run's ``sends``: to the last one to it, else as a send of its own."""
    for send in reversed(sends):
        if send.channel == channel and not send.is_group:
            # The headers were made for this send and nobody has seen it yet: no copy.
            send.headers[CREDITED] = channel[channel.find("!") + 1 :]
            if number is not None:
                send.headers[FRAME] = number
            return
    sends.append(credit_send(channel, number))


def take_credit(awaited: list[int], number: int | None) -> bool:
    """Take the credit of ``number`` off those that are ``awaited``, in the order they were sent; whether it was one.

    ``None``, from a worker that does not know the header, is the oldest.
    """
    if number is None:
        if awaited:
            del awaited[0]
        return True
    if number in awaited:
        awaited.remove(number)
        return True
    return False
