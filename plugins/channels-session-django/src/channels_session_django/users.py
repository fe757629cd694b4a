"""Users: who is behind a connection, from the HTTP session at its beginning and from the channel session after that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user
from django.contrib.sessions.backends.base import SessionBase
from django.utils.functional import SimpleLazyObject

from channels_core.message import Message
from channels_session_django.channel_sessions import (
    ChannelSession,
    async_channel_session_scope,
    channel_session_scope,
)
from channels_session_django.http_sessions import (
    async_channel_and_http_session_scope,
    async_http_session_scope,
    channel_and_http_session_scope,
    http_session_scope,
)
from channels_session_django.wrapping import Call, wrap_in_scope

__all__ = [
    "channel_and_http_session_user_from_http",
    "channel_session_user",
    "channel_session_user_from_http",
    "http_session_user",
    "transfer_user",
]

_KEYS = (BACKEND_SESSION_KEY, SESSION_KEY, HASH_SESSION_KEY)


def transfer_user(from_session: SessionBase, to_session: SessionBase) -> None:
    """Copy who is signed in from one session to the other; nothing happens unless all of it is there."""
    if all(key in from_session for key in _KEYS):
        for key in _KEYS:
            to_session[key] = from_session[key]


class _SignIn:
    """A session as Django's ``get_user`` sees it.

    That function may end a session, or give it a new key, where the password or the secret key has changed. A channel
    session is only signed out, since a connection's other data must stay. An HTTP session is left to the next request.
    """

    def __init__(self, session: SessionBase) -> None:
        self._session = session
        self._is_ours = isinstance(session, ChannelSession)

    def __contains__(self, key: str) -> bool:
        return key in self._session

    def __getitem__(self, key: str) -> Any:
        return self._session[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if self._is_ours:
            self._session[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        return self._session.get(key, default)

    def cycle_key(self) -> None:
        """A connection keeps its session's key."""

    def flush(self) -> None:
        if self._is_ours:
            for key in _KEYS:
                self._session.pop(key, None)


class _Request:
    """As much of a request as ``get_user`` looks at."""

    def __init__(self, session: SessionBase) -> None:
        self.session = _SignIn(session)


def _user_of(session: SessionBase | None) -> Any:
    """The user signed in to ``session``, or an AnonymousUser; never ``None``."""
    from django.contrib.auth.models import AnonymousUser  # needs the app registry

    if session is None or SESSION_KEY not in session:
        return AnonymousUser()
    return get_user(_Request(session))  # type: ignore[arg-type]  # it only looks at .session


def _set_user(message: Message, session: Callable[[], SessionBase | None]) -> None:
    """As Django's middleware: no query before somebody looks at ``message.user``."""
    message.user = SimpleLazyObject(lambda: _user_of(session()))  # type: ignore[attr-defined]  # decorators hang attributes on messages


def _http_session_now(message: Message) -> Callable[[], SessionBase | None]:
    """The HTTP session that is known at this moment, still to be loaded or not; one found later is another matter."""
    if "http_session" in message.__dict__:
        known = message.http_session
        return lambda: known
    return lambda: message.http_session


async def _aset_user(message: Message, session: SessionBase | None) -> None:
    """The user is fetched at once, since reading an attribute cannot be awaited; of nobody, without a thread."""
    user = await sync_to_async(_user_of)(session) if session and SESSION_KEY in session else _user_of(None)
    message.user = user  # type: ignore[attr-defined]  # as above


@contextmanager
def _channel_user_scope(message: Message) -> Iterator[None]:
    with channel_session_scope(message) as session:
        _set_user(message, lambda: session)
        yield


@asynccontextmanager
async def _async_channel_user_scope(message: Message) -> AsyncIterator[None]:
    async with async_channel_session_scope(message) as session:
        await _aset_user(message, session)
        yield


@contextmanager
def _http_user_scope(message: Message) -> Iterator[None]:
    with http_session_scope(message):
        _set_user(message, _http_session_now(message))
        yield


@asynccontextmanager
async def _async_http_user_scope(message: Message) -> AsyncIterator[None]:
    async with async_http_session_scope(message):
        await _aset_user(message, message.http_session)
        yield


@contextmanager
def _user_from_http_scope(message: Message) -> Iterator[None]:
    with _http_user_scope(message), channel_session_scope(message) as session:
        if message.http_session is not None:
            transfer_user(message.http_session, session)
        yield


@asynccontextmanager
async def _async_user_from_http_scope(message: Message) -> AsyncIterator[None]:
    async with _async_http_user_scope(message), async_channel_session_scope(message) as session:
        if message.http_session is not None:
            transfer_user(message.http_session, session)
        yield


@contextmanager
def _both_and_user_scope(message: Message) -> Iterator[None]:
    with http_session_scope(message):
        own_session = message.http_session
        _set_user(message, lambda: own_session)
        with channel_and_http_session_scope(message) as session:
            if own_session is not None:
                transfer_user(own_session, session)
            yield


@asynccontextmanager
async def _async_both_and_user_scope(message: Message) -> AsyncIterator[None]:
    async with async_http_session_scope(message):
        own_session = message.http_session
        await _aset_user(message, own_session)
        async with async_channel_and_http_session_scope(message) as session:
            if own_session is not None:
                transfer_user(own_session, session)
            yield


def channel_session_user(func: Call) -> Call:
    """:func:`channel_session`, and ``message.user`` from it: who :func:`channel_session_user_from_http` found earlier.

    Nobody signed in, a user that is gone and a password changed since then are an AnonymousUser, never ``None``. A
    plain consumer that does not look at ``message.user`` costs no query for it; for an ``async def`` one it is fetched
    beforehand.
    """
    return wrap_in_scope(func, "channel_session_user", _channel_user_scope, _async_channel_user_scope)


def http_session_user(func: Call) -> Call:
    """:func:`http_session`, and ``message.user`` from it: an AnonymousUser where there is no session, or nobody's."""
    return wrap_in_scope(func, "http_session_user", _http_user_scope, _async_http_user_scope)


def channel_session_user_from_http(func: Call) -> Call:
    """:func:`http_session_user`, which also copies the user into the channel session; for ``websocket.connect``.

    Later messages have no cookie: give them :func:`channel_session_user`.
    """
    return wrap_in_scope(
        func, "channel_session_user_from_http", _user_from_http_scope, _async_user_from_http_scope
    )


def channel_and_http_session_user_from_http(func: Call) -> Call:
    """:func:`channel_session_user_from_http` with :func:`channel_and_http_session`.

    On later messages ``message.http_session`` is there again, but ``message.user`` comes from what the message itself
    brought, so it is an AnonymousUser: put :func:`channel_session_user` inside to have the user on every message.
    """
    return wrap_in_scope(
        func, "channel_and_http_session_user_from_http", _both_and_user_scope, _async_both_and_user_scope
    )
