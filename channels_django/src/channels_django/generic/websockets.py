"""Consumers for WebSockets: connect, receive and disconnect in one class, with groups that follow the connection."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from channels_core.channel import Channel, Group
from channels_core.message import Message
from channels_django.generic.consumers import BaseConsumer, Handler
from channels_django.generic.multiplexer import SendNotAvailableOnDemultiplexer, WebsocketMultiplexer
from channels_session_django import channel_sessions, ordering, users

__all__ = ["JsonWebsocketConsumer", "WebsocketConsumer"]


class WebsocketConsumer(BaseConsumer):
    """A consumer of all messages of a WebSocket. Override :meth:`connect`, :meth:`receive` and :meth:`disconnect`.

    ``http_user`` gives ``message.user`` from the visitor's login on every message, and with it ``channel_session``;
    ``http_user_and_session`` also gives ``message.http_session``. ``strict_ordering`` is ``enforce_ordering``. The
    groups in ``groups``, or what :meth:`connection_groups` returns, have the connection as a member from before
    :meth:`connect` runs until before :meth:`disconnect` does; a connection that :meth:`connect` refuses leaves them
    when it ends.

    An instance handles one message: ``self.message``, ``self.kwargs`` (what the route captured) and ``self.path``.
    """

    method_mapping: ClassVar[Mapping[str, str]] = {
        "websocket.connect": "raw_connect",
        "websocket.receive": "raw_receive",
        "websocket.disconnect": "raw_disconnect",
    }
    http_user: ClassVar[bool] = False
    http_user_and_session: ClassVar[bool] = False
    strict_ordering: ClassVar[bool] = False
    slight_ordering: ClassVar[bool] = False
    """Refused, when a message comes: it only kept ``websocket.connect`` first. Use ``strict_ordering``."""
    groups: ClassVar[Iterable[str] | None] = None

    _handlers: ClassVar[tuple[str, ...]] = ("dispatch", "connect", "receive", "disconnect")

    @cached_property
    def path(self) -> str:
        """The path of the socket's URL."""
        path: str = self.message.content["path"]
        return path

    @property
    def _reply_channel(self) -> Channel:
        channel = self.message.reply_channel
        if channel is None:
            raise ValueError(
                f"A message on {self.message.channel_name!r} has no reply_channel, so {type(self).__qualname__} has no"
                " socket to answer. Route websocket.* messages to it, or handle the message without sending."
            )
        return channel

    def _wanted(self) -> tuple[bool, ...]:
        is_http = "path" in self.message.content
        flags = (self.http_user, self.http_user_and_session, self.strict_ordering, self.slight_ordering)
        return (*super()._wanted(), is_http, *map(bool, flags))

    def _decorate(self, method: Handler) -> Handler:
        if self.slight_ordering:
            raise ValueError(
                f"{type(self).__qualname__} has slight_ordering, which is not available: it only kept websocket.connect"
                " first. Set strict_ordering instead, which keeps all messages in order."
            )
        is_http_user = self.http_user or self.http_user_and_session
        if self.channel_session_user or is_http_user:
            method = users.channel_session_user(method)
        elif self.channel_session:
            method = channel_sessions.channel_session(method)
        if (
            is_http_user and "path" in self.message.content
        ):  # else of a channel of the class's own, without a visitor
            method = (
                users.channel_and_http_session_user_from_http(method)
                if self.http_user_and_session
                else users.channel_session_user_from_http(method)
            )
        if self.strict_ordering:
            method = ordering.enforce_ordering(method)
        return method

    # What a route captures comes by name. *args lets typed subclasses name it in their own signatures.

    def connection_groups(self, *args: Any, **kwargs: Any) -> Any:
        """The names of the groups that the connection is in; ``kwargs`` is what the route captured.

        May be ``async def`` in an asynchronous class.
        """
        return self.groups or ()

    def _checked(self, groups: Any) -> Iterable[Group]:
        if isinstance(groups, str | bytes) or not isinstance(groups, Iterable):
            raise TypeError(
                f"The groups of {type(self).__qualname__} are {groups!r:.80} ({type(groups).__name__}): give a list of"
                " names, such as ['news']."
            )
        layer = self.message.channel_layer
        return [Group(name, channel_layer=layer) for name in groups]

    def raw_connect(self, message: Message, **kwargs: Any) -> Any:
        """Join the groups, then :meth:`connect`."""
        if self.is_async:
            return self._araw_connect(message, **kwargs)
        for group in self._checked(self.connection_groups(**kwargs)):
            group.add(self._reply_channel)
        return self.connect(message, **kwargs)

    async def _araw_connect(self, message: Message, **kwargs: Any) -> Any:
        for group in self._checked(await _result(self.connection_groups(**kwargs))):
            await group.aadd(self._reply_channel)
        return await self.connect(message, **kwargs)

    def connect(self, message: Message, *args: Any, **kwargs: Any) -> Any:
        """A socket is connecting: accept it, which is what happens here, or refuse it.

        One that overrides this has to send ``{"accept": True}`` to ``message.reply_channel``, or ``{"close": True}``.
        """
        self._reply_channel.send({"accept": True})
        return self._nothing()

    def raw_receive(self, message: Message, **kwargs: Any) -> Any:
        """:meth:`receive`, with ``text`` or ``bytes``, whichever the frame has."""
        text = message.get("text")
        if text is not None:
            return self.receive(text=text, **kwargs)
        return self.receive(bytes=message.get("bytes"), **kwargs)

    def receive(self, *args: Any, **kwargs: Any) -> Any:
        """A frame came: ``text`` or ``bytes``, by that name. Nothing is done here."""
        return self._nothing()

    def raw_disconnect(self, message: Message, **kwargs: Any) -> Any:
        """Leave the groups, then :meth:`disconnect`."""
        if self.is_async:
            return self._araw_disconnect(message, **kwargs)
        for group in self._checked(self.connection_groups(**kwargs)):
            group.discard(self._reply_channel)
        return self.disconnect(message, **kwargs)

    async def _araw_disconnect(self, message: Message, **kwargs: Any) -> Any:
        for group in self._checked(await _result(self.connection_groups(**kwargs))):
            await group.adiscard(self._reply_channel)
        return await self.disconnect(message, **kwargs)

    def disconnect(self, message: Message, *args: Any, **kwargs: Any) -> Any:
        """The socket is gone; ``message["code"]`` says why. Nothing is done here."""
        return self._nothing()

    def _nothing(self) -> Any:
        """What a method of ours returns that has nothing to say: to be awaited in an asynchronous class."""
        return _done() if self.is_async else None

    # Sending

    def send(self, text: str | None = None, bytes: bytes | None = None, close: bool | int = False) -> None:  # noqa: A002 - the frame's key, and the name of 1.x
        """Send a frame to the client: ``text``, which wins, or ``bytes``; then close the socket where ``close`` is
        true, with that code where it is one. Held, as every send inside a consumer.

        Raises ``ValueError`` without either, and :class:`SendNotAvailableOnDemultiplexer` behind a demultiplexer.
        """
        self._refuse_behind_demultiplexer()
        self._reply_channel.send(_frame(text, bytes, close))

    async def asend(
        self,
        text: str | None = None,
        bytes: bytes | None = None,  # noqa: A002 - as above
        close: bool | int = False,
    ) -> None:
        """:meth:`send`."""
        self._refuse_behind_demultiplexer()
        await self._reply_channel.asend(_frame(text, bytes, close))

    def _refuse_behind_demultiplexer(self) -> None:
        multiplexer = self.kwargs.get("multiplexer")
        if isinstance(multiplexer, WebsocketMultiplexer):
            raise SendNotAvailableOnDemultiplexer(
                f"{type(self).__qualname__} is the consumer of stream {multiplexer.stream!r} here: self.send() would"
                " leave out the stream's name. Use multiplexer.send(payload), of the keyword argument multiplexer."
            )

    @classmethod
    def group_send(
        cls,
        name: str,
        text: str | None = None,
        bytes: bytes | None = None,  # noqa: A002 - as above
        close: bool | int = False,
    ) -> None:
        """Send a frame to all connections in the group ``name``, as :meth:`send` does to one."""
        Group(name).send(_frame(text, bytes, close))

    @classmethod
    async def agroup_send(
        cls,
        name: str,
        text: str | None = None,
        bytes: bytes | None = None,  # noqa: A002 - as above
        close: bool | int = False,
    ) -> None:
        """:meth:`group_send`."""
        await Group(name).asend(_frame(text, bytes, close))

    def close(self, status: bool | int = True) -> None:
        """Close the socket: with 1000, or with the code ``status``, of 3000 to 4999."""
        self._reply_channel.send({"close": status})

    async def aclose(self, status: bool | int = True) -> None:
        """:meth:`close`."""
        await self._reply_channel.asend({"close": status})


class JsonWebsocketConsumer(WebsocketConsumer):
    """A :class:`WebsocketConsumer` whose frames are JSON: :meth:`receive` and :meth:`send` take Python values."""

    def raw_receive(self, message: Message, **kwargs: Any) -> Any:
        """:meth:`receive`, with the frame's text decoded. Raises ``ValueError`` for a frame of bytes."""
        text = message.get("text")
        if text is None:
            raise ValueError(
                f"{type(self).__qualname__} takes frames of text, and this one has none: send JSON as a text frame, or"
                " route the socket to a WebsocketConsumer."
            )
        return self.receive(self.decode_json(text), **kwargs)

    def receive(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """A frame came, decoded. Nothing is done here."""
        return self._nothing()

    def send(self, content: Any, close: bool | int = False) -> None:  # type: ignore[override]  # one value in place of text or bytes, as in 1.x
        """Send ``content`` as JSON; otherwise as :meth:`WebsocketConsumer.send`."""
        super().send(text=self.encode_json(content), close=close)

    async def asend(self, content: Any, close: bool | int = False) -> None:  # type: ignore[override]  # as above
        """:meth:`send`."""
        await super().asend(text=self.encode_json(content), close=close)

    @classmethod
    def group_send(cls, name: str, content: Any, close: bool | int = False) -> None:  # type: ignore[override]  # as above
        """Send ``content`` as JSON to all connections in the group ``name``."""
        super().group_send(name, text=cls.encode_json(content), close=close)

    @classmethod
    async def agroup_send(cls, name: str, content: Any, close: bool | int = False) -> None:  # type: ignore[override]  # as above
        """:meth:`group_send`."""
        await super().agroup_send(name, text=cls.encode_json(content), close=close)

    @classmethod
    def decode_json(cls, text: str) -> Any:
        """The value of a frame; override it for another decoder."""
        return json.loads(text)

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """``content`` as the text of a frame; override it for another encoder."""
        return json.dumps(content)


def _frame(text: str | None, data: bytes | None, close: bool | int) -> dict[str, Any]:
    message: dict[str, Any] = {}
    if text is not None:
        message["text"] = text
    elif data is not None:
        message["bytes"] = data
    else:
        raise ValueError(
            "There is nothing to send: pass text or bytes. To close the socket only, use close()."
        )
    if close:
        message["close"] = close
    return message


async def _done() -> None:
    pass


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
