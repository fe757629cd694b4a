"""HTTP sessions: the session a visitor already has, found by cookie or ``session_key`` parameter."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import TooManyFieldsSent
from django.http import QueryDict
from django.http.cookie import parse_cookie

from channels_core.message import Message
from channels_session_django.channel_sessions import (
    ChannelSession,
    async_channel_session_scope,
    channel_session_scope,
)
from channels_session_django.engines import load_existing_session
from channels_session_django.wrapping import Call, wrap_in_scope

__all__ = [
    "async_channel_and_http_session_scope",
    "async_http_session_scope",
    "channel_and_http_session",
    "channel_and_http_session_scope",
    "http_session",
    "http_session_scope",
    "is_session_key_in_url_allowed",
]

_PARAMETER: Final = "session_key"
_LONGEST_KEY: Final = 8192
_NOT_MADE: Final = "http_session"


def is_session_key_in_url_allowed() -> bool:
    """``CHANNELS["SESSION_KEY_IN_URL"]``, which is on unless it is turned off."""
    options = getattr(settings, "CHANNELS", None) or {}
    return bool(options.get("SESSION_KEY_IN_URL", True))


# Where the key comes from.


def _session_key(message: Message) -> str | None:
    """The session key that ``message`` itself carries.

    Raises ``ValueError`` where it has nothing that could ever carry one.
    """
    content = message.content
    cookies, get = content.get("cookies"), content.get("get")
    if not isinstance(cookies, Mapping) and not isinstance(get, Mapping):
        if "path" not in content:
            raise ValueError(
                f"A message on {message.channel_name!r} has neither a path nor cookies nor get, so it can have no HTTP"
                f" session. It has: {', '.join(sorted(map(str, content))) or 'nothing'}. Use @http_session for"
                " http.request and websocket.* messages, or put a cookies or get mapping into the content."
            )
        content.setdefault("method", "FAKE")
    key = None
    if is_session_key_in_url_allowed():
        key = _from_mapping(get, _PARAMETER) or _from_query(content.get("query_string"))
    name = settings.SESSION_COOKIE_NAME
    key = key or _from_mapping(cookies, name) or _from_cookies(content.get("headers"), name)
    # Anything else could not have been made by an engine, and some databases refuse to be asked for it.
    is_usable = key is not None and len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()
    return key if is_usable else None


def _from_mapping(mapping: object, name: str) -> str | None:
    if not isinstance(mapping, Mapping):
        return None
    value = mapping.get(name)
    if isinstance(value, list | tuple):
        value = value[-1] if value else None
    return _text(value)


def _from_query(query: object) -> str | None:
    raw = query.encode("latin-1", "replace") if isinstance(query, str) else query
    if not isinstance(raw, bytes) or _PARAMETER.encode() not in raw:
        return None
    try:
        return QueryDict(raw).get(_PARAMETER)
    except TooManyFieldsSent:
        return None


def _from_cookies(headers: object, name: str) -> str | None:
    pairs: Iterable[Any] = ()
    if isinstance(headers, Mapping):
        pairs = headers.items()
    elif isinstance(headers, list | tuple):
        pairs = headers
    found = []
    for pair in pairs:
        if isinstance(pair, list | tuple) and len(pair) == 2 and (_text(pair[0]) or "").lower() == "cookie":
            found.append(_text(pair[1]) or "")
    return parse_cookie("; ".join(found)).get(name) if found else None


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None


# The attribute. No database is asked before a consumer looks at it, and then it may turn out to be None, which no lazy
# object can be: so messages that carry a key become instances of a class where it is made at first access.


class _LoadedWhenAsked:
    def __get__(self, message: Any, owner: type[Message]) -> Any:
        if message is None:
            return self
        make: Callable[[], SessionBase | None] | None = message.__dict__.get("_load_http_session")
        if make is None:
            raise AttributeError(f"{owner.__name__!r} object has no attribute {_NOT_MADE!r}")
        session = message.__dict__[_NOT_MADE] = make()
        return session


@functools.cache
def _with_http_session(kind: type[Message]) -> type[Message]:
    return type(kind.__name__, (kind,), {"http_session": _LoadedWhenAsked(), "__module__": kind.__module__})


def _load_when_asked(message: Message, load: Callable[[], SessionBase | None]) -> None:
    message.__dict__.pop(_NOT_MADE, None)
    message.__dict__["_load_http_session"] = load
    if "http_session" not in type(message).__dict__:
        kind: Any = type(message)  # hashable, although its instances have a __hash__ of their own for typing
        message.__class__ = _with_http_session(kind)


def _load(key: str) -> SessionBase | None:
    return load_existing_session(settings.SESSION_ENGINE, key)


class _Scope:
    """That ``message.http_session`` is taken care of, and by which key."""

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.is_own = key is not None
        """Whether the message itself brought the key."""


def _is_opened(message: Message) -> bool:
    return "_http_session_scope" in message.__dict__ or _NOT_MADE in message.__dict__


def _open(message: Message) -> str | None:
    key = _session_key(message)
    message.__dict__["_http_session_scope"] = _Scope(key)
    return key


def _changed(message: Message) -> SessionBase | None:
    """The HTTP session that is to be saved, if any: one that nobody looked at has not changed."""
    session = message.__dict__.get(_NOT_MADE)
    return session if isinstance(session, SessionBase) and session.modified else None


@contextmanager
def http_session_scope(message: Message) -> Iterator[None]:
    """Give ``message`` its HTTP session, loaded when first looked at, and save it if the consumer ends well.

    Inside another such scope it only saves, and does so after an exception too.
    """
    if _is_opened(message):
        try:
            yield
        finally:
            _save(message)
        return
    key = _open(message)
    if key is None:
        message.http_session = None  # type: ignore[attr-defined]  # decorators hang attributes on messages
    else:
        _load_when_asked(message, functools.partial(_load, key))
    yield
    _save(message)


@asynccontextmanager
async def async_http_session_scope(message: Message) -> AsyncIterator[None]:
    """:func:`http_session_scope`, but the session is loaded at once: reading an attribute cannot be awaited."""
    if _is_opened(message):
        try:
            yield
        finally:
            await _asave(message)
        return
    key = _open(message)
    message.http_session = None if key is None else await sync_to_async(_load)(key)  # type: ignore[attr-defined]  # as above
    yield
    await _asave(message)


def _save(message: Message) -> None:
    session = _changed(message)
    if session is not None:
        session.save()
        session.modified = False


async def _asave(message: Message) -> None:
    session = _changed(message)
    if session is not None:
        await session.asave()
        session.modified = False


def _exchange_keys(message: Message, session: ChannelSession) -> str | None:
    """Note the key that the message brought in ``session``; or else return the one that an earlier message brought.

    It is not checked whether there is such a session: that is found out when somebody looks at it.
    """
    scope = message.__dict__.get("_http_session_scope")
    if not isinstance(scope, _Scope):  # somebody hung a session on the message by hand
        return None
    name = settings.SESSION_COOKIE_NAME
    if scope.key is not None:
        if scope.is_own and name not in session:
            session[name] = scope.key
        return None
    noted = session.get(name)
    if not isinstance(noted, str):
        return None
    scope.key = noted
    return noted


@contextmanager
def channel_and_http_session_scope(message: Message) -> Iterator[ChannelSession]:
    """Both sessions; the HTTP session's key travels in the channel session."""
    with http_session_scope(message), channel_session_scope(message) as session:
        key = _exchange_keys(message, session)
        if key is not None:
            _load_when_asked(message, functools.partial(_load, key))
        yield session


@asynccontextmanager
async def async_channel_and_http_session_scope(message: Message) -> AsyncIterator[ChannelSession]:
    """:func:`channel_and_http_session_scope`."""
    async with async_http_session_scope(message), async_channel_session_scope(message) as session:
        key = _exchange_keys(message, session)
        if key is not None:
            message.http_session = await sync_to_async(_load)(key)  # type: ignore[attr-defined]  # as above
        yield session


def http_session(func: Call) -> Call:
    """Give the consumer ``message.http_session``: the session that the visitor already has, or ``None``.

    Its key comes from the ``session_key`` parameter of the query string (unless ``CHANNELS["SESSION_KEY_IN_URL"]`` is
    off), else from the session cookie; the mappings ``get`` and ``cookies`` in the content, where there are any, win
    over query string and headers. No session is ever made, and a key is never changed: that is for views. A plain
    consumer that does not look at it costs no query; for an ``async def`` one it is loaded beforehand.

    What the consumer changes is saved when it ends, not when it raises, and only while the session still exists.
    Raises ``ValueError`` for a message that has neither a path nor such a mapping.
    """
    return wrap_in_scope(func, "http_session", http_session_scope, async_http_session_scope)


def channel_and_http_session(func: Call) -> Call:
    """:func:`channel_session` and :func:`http_session`, where later messages have the HTTP session too.

    A message that brings a session key (``websocket.connect`` does) leaves it in the channel session; on later ones,
    which have no cookie, ``message.http_session`` is that same session, or ``None`` once it has ended.
    """
    return wrap_in_scope(
        func,
        "channel_and_http_session",
        channel_and_http_session_scope,
        async_channel_and_http_session_scope,
    )
