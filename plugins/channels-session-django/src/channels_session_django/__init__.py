"""Channel sessions, HTTP sessions and users for consumers, kept by Django's session engines.

Listing the plugins imports this module, so it imports nothing itself: each name is fetched when first asked for. That
needs neither settings nor an app registry, for which the decorators ask when a message comes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channels_session_django.channel_sessions import (
        ChannelSession,
        channel_session,
        session_for_reply_channel,
    )
    from channels_session_django.http_sessions import channel_and_http_session, http_session
    from channels_session_django.ordering import enforce_ordering, requeue_messages, wait_channel_name
    from channels_session_django.users import (
        channel_and_http_session_user_from_http,
        channel_session_user,
        channel_session_user_from_http,
        http_session_user,
        transfer_user,
    )

__all__ = [
    "ChannelSession",
    "channel_and_http_session",
    "channel_and_http_session_user_from_http",
    "channel_session",
    "channel_session_user",
    "channel_session_user_from_http",
    "enforce_ordering",
    "http_session",
    "http_session_user",
    "requeue_messages",
    "session_for_reply_channel",
    "transfer_user",
    "wait_channel_name",
]

_MODULES = {
    "ChannelSession": "channel_sessions",
    "channel_session": "channel_sessions",
    "session_for_reply_channel": "channel_sessions",
    "http_session": "http_sessions",
    "channel_and_http_session": "http_sessions",
    "enforce_ordering": "ordering",
    "requeue_messages": "ordering",
    "wait_channel_name": "ordering",
    "channel_and_http_session_user_from_http": "users",
    "channel_session_user": "users",
    "channel_session_user_from_http": "users",
    "http_session_user": "users",
    "transfer_user": "users",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value
