"""Credit: the flow control between an interface server and the consumers of one connection.

The interface puts a connection's reply channel into the header ``c-credit`` of what it sends for it, and sends no
more than its window until credits come back. Whoever ends such a message for good returns its credit: as a header on
the run's last message to that connection, or as an empty message of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from channels_core.headers import CREDIT, CREDITED
from channels_core.layers import Send
from channels_core.names import is_channel, known_channels

__all__ = ["add_credit", "credit_of", "credit_send"]


def credit_of(headers: Mapping[str, str | int]) -> str | None:
    """The reply channel that wants a credit back for a message with ``headers``, if any and if it can be one."""
    channel = headers.get(CREDIT)
    if isinstance(channel, str) and (channel in known_channels or is_channel(channel)):
        return channel
    return None


def credit_send(channel: str, *, is_closed: bool = False) -> Send:
    """A message that carries nothing but one credit for ``channel``; with ``is_closed``, also that nobody is left there
    to read what it paces."""
    content = {"closed": True} if is_closed else {}
    return Send(channel, content, {CREDITED: channel[channel.find("!") + 1 :]}, 0)


def add_credit(sends: list[Send], channel: str) -> None:
    """Add one credit for ``channel`` to a run's ``sends``: to the last one to it, else as a send of its own."""
    for send in reversed(sends):
        if send.channel == channel and not send.is_group:
            # The headers were made for this send and nobody has seen it yet: no copy.
            send.headers[CREDITED] = channel[channel.find("!") + 1 :]
            return
    sends.append(credit_send(channel))
