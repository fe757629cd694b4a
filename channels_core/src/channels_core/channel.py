"""Channel and Group: the names that messages are sent to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER, ChannelLayer, channel_layers
from channels_core.held import current_held
from channels_core.layers import Send
from channels_core.transactions import refuse_in_async, send_with_transaction

__all__ = ["Channel", "Group"]


class _Target:
    """A name on a layer. ``channel_layer`` wins over ``alias`` unless it is falsy; names are checked when used."""

    __slots__ = ("_alias", "_layer", "name")

    def __init__(
        self, name: str | bytes, alias: str = DEFAULT_CHANNEL_LAYER, channel_layer: ChannelLayer | None = None
    ) -> None:
        self.name: str = name.decode("ascii") if isinstance(name, bytes) else name
        self._alias = alias
        self._layer = channel_layer

    @property
    def channel_layer(self) -> ChannelLayer:
        """The layer that messages go through."""
        return self._layer or channel_layers[self._alias]

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class Channel(_Target):
    """A channel by name. Attributes: ``name``, ``channel_layer``."""

    __slots__ = ()

    def send(
        self,
        content: dict[str, Any],
        immediately: bool = False,
        *,
        headers: Mapping[str, str | int] | None = None,
        on_commit: bool | str = False,
        transactional: bool | None = None,
    ) -> None:
        """Send ``content``, which is checked and copied now.

        Inside a consumer the message is held and leaves, in the order of the calls, when the consumer has ended, also
        by an exception; ``immediately`` sends it now, past what is held. Outside a consumer it always leaves now.

        With ``on_commit`` it is sent so only once the transaction has committed that is open on the default database,
        or on the one whose alias is given instead of ``True``: never when that is rolled back, and now when none is
        open. Every layer can do that. What is refused then, ``ChannelFull`` included, is logged and counted as
        ``dropped``: there is nobody left to raise to.

        With ``transactional`` it is written in the transaction that this thread has open on the layer's own database,
        so it becomes visible with the data of that transaction or not at all; it is refused now or not at all, and a
        consumer does not hold it. Where none is open it is sent as any other. ``None`` is the layer's own default.

        Raises ``InvalidNameError``, ``InvalidMessageError``, ``MessageTooLarge``, ``TransactionError`` for a layer that
        is not transactional; when it leaves or is written now, also ``ChannelFull`` and ``LayerUnavailable``.
        """
        layer = self._layer or channel_layers[self._alias]
        send = layer.prepare(self.name, content, headers)
        if on_commit or (layer.backend.transactional_by_default if transactional is None else transactional):
            _send_with_transaction(layer, send, immediately, on_commit, transactional)
            return
        held = current_held.get()
        if immediately or held is None or not held.append(layer, send):
            layer.deliver(send)

    async def asend(
        self,
        content: dict[str, Any],
        immediately: bool = False,
        *,
        headers: Mapping[str, str | int] | None = None,
        on_commit: bool | str = False,
        transactional: bool | None = None,
    ) -> None:
        """:meth:`send`. No transaction can be open in asynchronous code: those options raise ``TransactionError``."""
        layer = self._layer or channel_layers[self._alias]
        send = layer.prepare(self.name, content, headers)
        if on_commit or transactional:
            refuse_in_async(layer, send, on_commit, transactional)
        held = current_held.get()
        if immediately or held is None or not held.append(layer, send):
            await layer.adeliver(send)


class Group(_Target):
    """A group of channels by name. Attributes: ``name``, ``channel_layer``."""

    __slots__ = ()

    def add(self, channel: Channel | str) -> None:
        """Make ``channel`` a member, at once, also inside a consumer; what is held when it returns reaches it.

        Nothing happens where it is a member already, but that its time starts anew.
        """
        self.channel_layer.group_add(self.name, _name_of(channel))

    async def aadd(self, channel: Channel | str) -> None:
        """:meth:`add`."""
        await self.channel_layer.agroup_add(self.name, _name_of(channel))

    def discard(self, channel: Channel | str) -> None:
        """End the membership of ``channel``, at once; nothing happens where it is no member."""
        self.channel_layer.group_discard(self.name, _name_of(channel))

    async def adiscard(self, channel: Channel | str) -> None:
        """:meth:`discard`."""
        await self.channel_layer.agroup_discard(self.name, _name_of(channel))

    def send(
        self,
        content: dict[str, Any],
        immediately: bool = False,
        *,
        headers: Mapping[str, str | int] | None = None,
        on_commit: bool | str = False,
        transactional: bool | None = None,
    ) -> None:
        """Send ``content`` to every member; held inside a consumer, or tied to a transaction, as :meth:`Channel.send`.

        Never raises ``ChannelFull``: members that are full are skipped and counted.
        """
        layer = self._layer or channel_layers[self._alias]
        send = layer.prepare_group(self.name, content, headers)
        if on_commit or (layer.backend.transactional_by_default if transactional is None else transactional):
            _send_with_transaction(layer, send, immediately, on_commit, transactional)
            return
        held = current_held.get()
        if immediately or held is None or not held.append(layer, send):
            layer.deliver(send)

    async def asend(
        self,
        content: dict[str, Any],
        immediately: bool = False,
        *,
        headers: Mapping[str, str | int] | None = None,
        on_commit: bool | str = False,
        transactional: bool | None = None,
    ) -> None:
        """:meth:`send`. No transaction can be open in asynchronous code: those options raise ``TransactionError``."""
        layer = self._layer or channel_layers[self._alias]
        send = layer.prepare_group(self.name, content, headers)
        if on_commit or transactional:
            refuse_in_async(layer, send, on_commit, transactional)
        held = current_held.get()
        if immediately or held is None or not held.append(layer, send):
            await layer.adeliver(send)

    def channels(self) -> list[str]:
        """The members' names, in no order."""
        return self.channel_layer.group_channels(self.name)

    async def achannels(self) -> list[str]:
        """:meth:`channels`."""
        return await self.channel_layer.agroup_channels(self.name)

    def count(self) -> int:
        """How many members there are."""
        return self.channel_layer.group_count(self.name)

    async def acount(self) -> int:
        """:meth:`count`."""
        return await self.channel_layer.agroup_count(self.name)


def _name_of(channel: Channel | str) -> str:
    return channel.name if isinstance(channel, Channel) else channel


def _send_with_transaction(
    layer: ChannelLayer, send: Send, immediately: bool, on_commit: bool | str, transactional: bool | None
) -> None:
    leave = layer.deliver if immediately else partial(_leave, layer)
    send_with_transaction(layer, send, on_commit, transactional, leave)


def _leave(layer: ChannelLayer, send: Send) -> None:
    held = current_held.get()
    if held is None or not held.append(layer, send):
        layer.deliver(send)
