"""Channel sessions: data that lives as long as a connection, under a key that any process can find."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from django.contrib.sessions.backends.base import CreateError, SessionBase

from channels_core.channel_layer import channel_layers
from channels_core.exceptions import ConsumeLater, ConsumerControl, SessionExists
from channels_core.layers import AT_LEAST_ONCE
from channels_core.message import Message
from channels_core.sessions import SessionStore
from channels_session_django.wrapping import Call, wrap_in_scope

__all__ = [
    "ChannelSession",
    "async_channel_session_scope",
    "channel_session",
    "channel_session_scope",
    "ends_connection",
    "session_for_reply_channel",
]

_LAST_CHANNELS: Final = {"websocket.disconnect", "http.disconnect"}


class ChannelSession(SessionBase):
    """What ``message.channel_session`` is: a session, as ``request.session``, kept by the configured session store.

    It has the dict methods of Django's sessions, ``modified`` and ``set_expiry()``. Its key follows from the reply
    channel and never changes, so ``cycle_key()`` does nothing and ``flush()`` only empties it. It lives
    ``SESSION_COOKIE_AGE``, or what ``set_expiry()`` says, counted from the last change.
    """

    def __init__(self, key: str, store: SessionStore) -> None:
        super().__init__(key)
        self._key = key
        self._store = store
        self._session_cache: dict[str, Any]
        self.is_open = False
        """Whether a decorator is in charge of it: one further in joins, and leaves saving to that one."""
        self.is_kept = False
        """Whether it outlives this message although the message says that the connection has ended."""
        self.has_row = False

    def adopt(self, data: dict[str, Any], *, has_row: bool) -> None:
        """Go on with ``data``, just loaded."""
        self._session_cache = data
        self.modified = False
        self.has_row = has_row

    def persist(self) -> None:
        """Store what has changed, unless the row is gone: the connection has ended, and nothing may bring it back."""
        if self.modified:
            self._store.save(self._key, self._data(), self._ttl())
            self.modified = False

    async def apersist(self) -> None:
        """:meth:`persist`."""
        if self.modified:
            await self._store.asave(self._key, self._data(), self._ttl())
            self.modified = False

    def _data(self) -> dict[str, Any]:
        return dict(self.items())

    def _ttl(self) -> float:
        return max(0.0, float(self.get_expiry_age()))

    # What Django's session class asks its subclasses for.

    def exists(self, session_key: str) -> bool:
        return self._store.load(session_key) is not None

    async def aexists(self, session_key: str) -> bool:
        return await self._store.aload(session_key) is not None

    def load(self) -> dict[str, Any]:
        return self._store.load(self._key) or {}

    async def aload(self) -> dict[str, Any]:
        return await self._store.aload(self._key) or {}

    def create(self) -> None:
        """Make the row. Raises Django's ``CreateError`` where there is one."""
        self.save(must_create=True)

    async def acreate(self) -> None:
        await self.asave(must_create=True)

    def save(self, must_create: bool = False) -> None:
        """Store it now, whether or not there is a row. With ``must_create``, raises ``CreateError`` where there is."""
        if must_create and not hasattr(self, "_session_cache"):
            self._session_cache = {}
        data, ttl = self._data(), self._ttl()
        if must_create or not self._store.save(self._key, data, ttl):
            try:
                self._store.create(self._key, data, ttl)
            except SessionExists as error:
                if must_create:
                    raise CreateError from error
                self._store.save(self._key, data, ttl)
        self.modified = False

    async def asave(self, must_create: bool = False) -> None:
        if not hasattr(self, "_session_cache"):
            self._session_cache = {} if must_create else await self.aload()
        data, ttl = self._data(), self._ttl()
        if must_create or not await self._store.asave(self._key, data, ttl):
            try:
                await self._store.acreate(self._key, data, ttl)
            except SessionExists as error:
                if must_create:
                    raise CreateError from error
                await self._store.asave(self._key, data, ttl)
        self.modified = False

    def delete(self, session_key: str | None = None) -> None:
        self._store.delete(session_key or self._key)

    async def adelete(self, session_key: str | None = None) -> None:
        await self._store.adelete(session_key or self._key)

    def flush(self) -> None:
        """Empty it; the key stays."""
        self.clear()

    async def aflush(self) -> None:
        self.clear()

    def cycle_key(self) -> None:
        """Nothing: the key is that of the connection."""

    async def acycle_key(self) -> None:
        self.cycle_key()

    @classmethod
    def clear_expired(cls) -> None:
        """Nothing: clearing up is the store's."""


def session_for_reply_channel(reply_channel: str) -> ChannelSession:
    """The channel session of the connection behind ``reply_channel``, loaded when first looked at.

    Any process may ask for it, at any time. Its ``save()`` makes the row where there is none.
    """
    return ChannelSession(_key_of(reply_channel), channel_layers.session_store)


def _key_of(reply_channel: str) -> str:
    # sha1 spreads names over keys and protects nothing: who knows the reply channel may well know the session.
    digest = hashlib.sha1(reply_channel.encode(), usedforsecurity=False).hexdigest()
    return "chn" + digest[:29]


def ends_connection(message: Message) -> bool:
    """Whether no message of this connection comes after ``message``."""
    return message.channel_name in _LAST_CHANNELS


def _opened(message: Message) -> ChannelSession | None:
    session = message.__dict__.get("channel_session")
    return session if isinstance(session, ChannelSession) and session.is_open else None


def _begin(message: Message) -> tuple[ChannelSession, bool]:
    """The message's session, and whether it is still to be loaded."""
    session = message.__dict__.get("channel_session")
    if isinstance(session, ChannelSession):
        # The message goes through a second consumer. Where the connection has ended there is nothing left to load.
        return session, not ends_connection(message)
    reply_channel = message.reply_channel
    if reply_channel is None:
        raise ValueError(
            f"A message on {message.channel_name!r} has no reply_channel, so it has no channel session. Use"
            " @channel_session and what builds on it for messages of a connection: http.request and websocket.*."
        )
    session = session_for_reply_channel(reply_channel.name)
    message.channel_session = session  # type: ignore[attr-defined]  # decorators hang attributes on messages
    return session, True


def _runs_again(message: Message, error: BaseException | None) -> bool:
    """Whether the worker will run ``message`` once more after its consumer raised ``error``."""
    if isinstance(error, ConsumeLater):
        return not getattr(message, "__doomed__", False)
    if error is None or isinstance(error, ConsumerControl) or message.channel_layer is None:
        return False
    backend = message.channel_layer.backend
    name = message.channel_name or ""
    return backend.delivery_class_of(name) == AT_LEAST_ONCE and message.attempt < backend.max_attempts


@contextmanager
def channel_session_scope(message: Message) -> Iterator[ChannelSession]:
    """Give ``message`` its channel session, and store it at the end, also after an exception.

    Raises ``ConsumeLater`` where another message of the connection is just making the session.
    """
    joined = _opened(message)
    if joined is not None:
        yield joined
        return
    session, must_load = _begin(message)
    store = session._store
    if must_load:
        data = store.load(session._key)
        session.adopt(data or {}, has_row=data is not None)
        if data is None and not ends_connection(message):
            try:
                store.create(session._key, {}, session._ttl())
            except SessionExists:
                raise ConsumeLater from None
            session.has_row = True
    session.is_open, session.is_kept = True, False
    error: BaseException | None = None
    try:
        yield session
    except BaseException as raised:
        error = raised
        raise
    finally:
        session.is_open = False
        if _is_over(message, session, error):
            if session.has_row:
                store.delete(session._key)
        else:
            session.persist()


@asynccontextmanager
async def async_channel_session_scope(message: Message) -> AsyncIterator[ChannelSession]:
    """:func:`channel_session_scope`."""
    joined = _opened(message)
    if joined is not None:
        yield joined
        return
    session, must_load = _begin(message)
    store = session._store
    if must_load:
        data = await store.aload(session._key)
        session.adopt(data or {}, has_row=data is not None)
        if data is None and not ends_connection(message):
            try:
                await store.acreate(session._key, {}, session._ttl())
            except SessionExists:
                raise ConsumeLater from None
            session.has_row = True
    session.is_open, session.is_kept = True, False
    error: BaseException | None = None
    try:
        yield session
    except BaseException as raised:
        error = raised
        raise
    finally:
        session.is_open = False
        if _is_over(message, session, error):
            if session.has_row:
                await store.adelete(session._key)
        else:
            await session.apersist()


def _is_over(message: Message, session: ChannelSession, error: BaseException | None) -> bool:
    return ends_connection(message) and not session.is_kept and not _runs_again(message, error)


def channel_session(func: Call) -> Call:
    """Give the consumer ``message.channel_session``, kept across all messages with the same reply channel.

    What the consumer changes is stored when it ends, also by an exception. A message on ``websocket.disconnect`` or
    ``http.disconnect`` ends the session: its row is deleted after the consumer. As with Django's sessions, a change
    inside a value goes unseen unless the consumer sets ``message.channel_session.modified = True``.

    Of messages of one connection that run side by side, the one that ends last wins; where two begin a session at
    once, one is put back by ``ConsumeLater``. Raises ``ValueError`` for a message without a reply channel.
    """
    return wrap_in_scope(func, "channel_session", channel_session_scope, async_channel_session_scope)
